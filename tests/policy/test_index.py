"""The index and the compiled rules agree with the plainest reading of the grammar, and order does not matter."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.compiling import Compiler
from gateway.policy.decide import PolicySet
from gateway.policy.files import MatchEntry, RuleEntry
from gateway.policy.index import Index
from gateway.policy.rules import Facts, Rule
from gateway.settings.binder import Binder
from gateway.settings.complaints import Complaints

AGENTS = ("a", "ab", "abc", "b")
TEAMS = ("", "t", "tu", "u")
MODELS = ("m", "m-1", "m-12", "n", "m*")
HOSTED = ("web_search", "web", "mcp/a.example")
TOOLS = ("s.o", "s.op", "s.p.q", "t.o")
ASSURANCE = ("key", "bearer", "bound", "mtls")


def compiled(policy: str, rule: RuleEntry) -> Rule:
    """A rule that is enforced."""
    return Compiler().rule(policy, rule, "enforce", Binder(Complaints()).complain)


def entries(*names: str) -> st.SearchStrategy[tuple[str, ...]]:
    """Lists of exact names, of their beginnings with a `*`, of `any`; or no list at all."""
    beginnings = {name[:n] + "*" for name in names for n in range(len(name) + 1)}
    exact = {name for name in names if name and "*" not in name}
    return st.just(()) | st.lists(st.sampled_from(sorted(beginnings | exact | {"any"})), min_size=1, max_size=3).map(
        tuple
    )


def choices(*words: str) -> st.SearchStrategy[tuple[str, ...]]:
    """Lists of words, or no list at all."""
    return st.just(()) | st.lists(st.sampled_from((*words, "any")), min_size=1, max_size=2).map(tuple)


MATCHES: st.SearchStrategy[MatchEntry] = st.builds(
    MatchEntry,
    agents=entries(*AGENTS),
    teams=entries(*TEAMS),
    categories=choices("workflow", "bounded"),
    issuers=entries("i", "ij"),
    min_assurance=st.sampled_from(ASSURANCE),
    kinds=choices("llm", "tool", "mcp", "own"),
    models=entries(*MODELS),
    tools=entries(*TOOLS),
    hosted_tools=entries(*HOSTED),
    dialects=choices("openai", "http"),
    providers=st.just(()) | entries("p", "pq"),
)
RULES = st.lists(
    st.builds(RuleEntry, id=st.just("r"), effect=st.sampled_from(["allow", "deny", "require"]), match=MATCHES),
    max_size=12,
)
CALLS = st.one_of(
    st.tuples(st.just("llm"), st.sampled_from(MODELS), st.just("")),
    st.tuples(st.sampled_from(["tool", "mcp"]), st.just(""), st.sampled_from(TOOLS)),
    st.just(("own", "", "")),
)
FACTS = st.builds(
    lambda agent, team, category, issuer, assurance, call, dialect, hosted: Facts(
        agent, team, category, issuer, assurance, call[0], call[1], call[2], dialect, hosted if call[1] else ()
    ),
    st.sampled_from(AGENTS),
    st.sampled_from(TEAMS),
    st.sampled_from(["", "workflow", "bounded"]),
    st.sampled_from(["i", "ij", "k"]),
    st.sampled_from(ASSURANCE),
    CALLS,
    st.sampled_from(["openai", "http"]),
    st.lists(st.sampled_from(HOSTED), unique=True, max_size=2).map(tuple),
)


def fits(value: str, given_entries: tuple[str, ...]) -> bool:
    """One key: no entries do not narrow, else one of them must match."""
    return not given_entries or any(
        entry in ("any", value) or (entry.endswith("*") and value.startswith(entry[:-1])) for entry in given_entries
    )


def oracle(rule: RuleEntry, facts: Facts, provider: str | None) -> bool:
    """Whether a rule matches, word by word."""
    match, llm, tool = rule.match, facts.kind == "llm", facts.kind in ("tool", "mcp")
    provider_fits = provider is not None and fits(provider, match.providers)
    if provider is None and match.providers:
        provider_fits = rule.effect != "allow" or any(entry in ("any", "*") for entry in match.providers)
    return (
        fits(facts.agent, match.agents)
        and fits(facts.team, match.teams)
        and fits(facts.category, match.categories)
        and fits(facts.issuer, match.issuers)
        and ASSURANCE.index(facts.assurance) >= ASSURANCE.index(match.min_assurance)
        and fits(facts.kind, match.kinds)
        and (not match.models or (llm and fits(facts.model, match.models)))
        and (not match.tools or (tool and fits(facts.tool, match.tools)))
        and (not match.hosted_tools or any(fits(hosted, match.hosted_tools) for hosted in facts.hosted_tools))
        and fits(facts.dialect, match.dialects)
        and (not match.providers or (llm and provider_fits))
    )


def made(rules: list[RuleEntry]) -> PolicySet:
    """A set whose rules are named by their place."""
    return PolicySet([compiled(f"p{number:02}", rule) for number, rule in enumerate(rules)], "hash")


@settings(max_examples=200, deadline=None)
@given(RULES, st.lists(FACTS, min_size=1, max_size=6), st.sampled_from([None, "p", "pq", "z"]))
def test_the_index_agrees_with_the_plain_reading(
    rules: list[RuleEntry], calls: list[Facts], provider: str | None
) -> None:
    """Every rule that matches is found and no other, deny rules first, then those that must hold."""
    loaded, rank = made(rules), ("deny", "require", "allow")
    for facts in calls:
        matching = [(rule.effect, f"p{n:02}") for n, rule in enumerate(rules) if oracle(rule, facts, provider)]
        found = [(rule.effect, rule.hit.policy) for rule in loaded.find(facts, provider).rules]
        assert found == sorted(matching, key=lambda hit: (rank.index(hit[0]), hit[1]))


@settings(deadline=None)
@given(RULES, FACTS, st.randoms(use_true_random=False))
def test_order_does_not_matter(rules: list[RuleEntry], facts: Facts, shuffle: random.Random) -> None:
    """The same rules in another order decide the same, with the same hits and words."""
    named = [compiled(f"p{number:02}", rule) for number, rule in enumerate(rules)]
    shuffled = list(named)
    shuffle.shuffle(shuffled)
    assert PolicySet(named, "hash").decide(facts, "p") == PolicySet(shuffled, "hash").decide(facts, "p")


def test_many_rules_cost_no_more_than_those_that_apply() -> None:
    """Of ten thousand rules the index finds the handful filed under the call's own names."""
    rules = [
        RuleEntry(
            id="r", effect="allow", match=MatchEntry(agents=(f"agent-{n % 100}",), tools=(f"server-{n // 100}.do",))
        )
        for n in range(10_000)
    ]
    rules.append(RuleEntry(id="r", effect="deny", match=MatchEntry(teams=("t",), tools=("server-7.*",))))
    rules.append(RuleEntry(id="r", effect="deny", match=MatchEntry(categories=("open",))))
    rules.append(RuleEntry(id="r", effect="allow", match=MatchEntry(agents=("agent-*",), models=("m*",))))
    index = Index([compiled(f"p{number:05}", rule) for number, rule in enumerate(rules)])
    facts = Facts("agent-3", "t", "bounded", "i", "bearer", "tool", "", "server-7.do", "http")
    assert [rule.hit.policy for rule in index.candidates(facts)] == ["p00703", "p10000", "p10001"]
    facts = facts._replace(kind="llm", tool="", model="m")
    assert [rule.hit.policy for rule in index.candidates(facts)] == ["p10001", "p10002"]


def test_a_rule_of_many_names_is_filed_once_for_each() -> None:
    """A rule of a thousand agents and a thousand tools is found, though not filed under each pair."""
    match = MatchEntry(agents=tuple(f"a{n}" for n in range(1000)), tools=tuple(f"s.t{n}" for n in range(1001)))
    rule = compiled("p", RuleEntry(id="r", effect="allow", match=match))
    index = Index([rule])
    assert sum(len(found) for places in index._places.values() for found in places.values()) == 1001
    facts = Facts("a999", "", "", "i", "bearer", "tool", "", "s.t1000", "http")
    assert index.candidates(facts) == [rule]
