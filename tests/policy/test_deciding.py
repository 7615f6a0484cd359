"""What the rules say of a call: matching, default deny, deny beats allow, and the sentence of a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.core.call import Call
from gateway.core.principal import Agent, Principal
from gateway.core.sources import DiskSources
from gateway.policy import Facts, Known, PolicySet, explain_refusal, load
from gateway.policy.compiling import Compiler
from gateway.policy.files import MatchEntry, RuleEntry
from gateway.policy.settings import PoliciesSettings
from gateway.settings.binder import Binder
from gateway.settings.complaints import Complaints

EXAMPLES = Path(__file__).parents[2] / "policies"


def policies(folder: Path, **files: str) -> PolicySet:
    """Write files of rules into a folder and load them; each file is the text below `rules:`."""
    for name, rules in files.items():
        (folder / f"{name}.yaml").write_text(f"version: 1\npolicy: {name}\nrules:\n{rules}\n", encoding="utf-8")
    complaints = Complaints()
    loaded = load(PoliciesSettings(dir=folder), DiskSources(), Known(), complaints)
    assert complaints.found == []
    return loaded


def facts(**given: str) -> Facts:
    """The facts of a tool call by procurement, but for what is given."""
    usual = Facts("procurement", "finance", "bounded", "dev", "bearer", "tool", "", "payments.charge", "http")
    if given.get("kind") == "llm":
        usual = usual._replace(tool="", dialect="openai", model="demo-small")
    if given.get("kind") == "own":
        usual = usual._replace(tool="", dialect="own")
    changed: dict[str, Any] = dict(given)
    return usual._replace(**changed)


def rule(match: str, effect: str = "allow", rule_id: str = "r") -> str:
    """One rule in flow style."""
    return f"  - {{id: {rule_id}, effect: {effect}, match: {match}}}"


def test_facts_come_from_the_verified_caller_and_the_call() -> None:
    """The facts that rules see are those of the registry, the credential and the call."""
    agent = Agent("procurement", team="finance", category="bounded")
    principal = Principal(agent, "dev", "https://issuer.example", "s", "bound", "k", "t", 0.0)
    call = Call("llm", "openai", "chat", "POST", model="demo-small")
    assert Facts.of(principal, call) == facts(kind="llm", assurance="bound")


@pytest.mark.parametrize(
    ("match", "changes", "allowed"),
    [
        ("{tools: [payments.charge]}", {}, True),
        ("{tools: [payments.refund]}", {}, False),
        ('{tools: ["payments.*"]}', {}, True),
        ('{tools: ["pay*"]}', {}, True),
        ('{tools: ["mail.*"]}', {}, False),
        ('{tools: ["*"]}', {}, True),
        ("{tools: [any]}", {}, True),
        ("{tools: [mail.send, payments.charge]}", {}, True),
        ("{tools: [any]}", {"kind": "llm"}, False),
        ("{tools: [any]}", {"kind": "mcp"}, True),
        ("{models: [any]}", {}, False),
        ("{models: [any]}", {"kind": "llm"}, True),
        ("{models: [demo-small]}", {"kind": "llm"}, True),
        ('{models: ["demo-*"]}', {"kind": "llm"}, True),
        ('{models: ["demo-*"]}', {"kind": "llm", "model": "demo"}, False),
        ("{models: [demo]}", {"kind": "llm"}, False),
        ("{tools: [any], agents: [procurement]}", {}, True),
        ("{tools: [any], agents: [support]}", {}, False),
        ('{tools: [any], agents: ["proc*"]}', {}, True),
        ("{tools: [any], teams: [finance]}", {}, True),
        ("{tools: [any], teams: [sales]}", {}, False),
        ("{tools: [any], teams: [any]}", {"team": ""}, True),
        ("{tools: [any], teams: [finance]}", {"team": ""}, False),
        ("{tools: [any], categories: [bounded, workflow]}", {}, True),
        ("{tools: [any], categories: [open]}", {}, False),
        ("{tools: [any], issuers: [dev]}", {}, True),
        ("{tools: [any], issuers: [prod]}", {}, False),
        ("{tools: [any], kinds: [tool]}", {}, True),
        ("{tools: [any], kinds: [mcp]}", {}, False),
        ("{tools: [any], dialects: [http]}", {}, True),
        ("{tools: [any], dialects: [mcp]}", {}, False),
        ("{tools: [any], agents: [procurement], teams: [sales]}", {}, False),
        ("{tools: [any], min_assurance: key}", {"assurance": "key"}, True),
        ("{tools: [any], min_assurance: bearer}", {"assurance": "key"}, False),
        ("{tools: [any], min_assurance: bearer}", {"assurance": "bearer"}, True),
        ("{tools: [any], min_assurance: bound}", {"assurance": "bearer"}, False),
        ("{tools: [any], min_assurance: bound}", {"assurance": "mtls"}, True),
        ("{tools: [any], min_assurance: mtls}", {"assurance": "bound"}, False),
        ("{tools: [any], min_assurance: key}", {"assurance": "unheard-of"}, False),
    ],
)
def test_keys_are_anded_and_entries_ored(
    tmp_path: Path,
    match: str,
    changes: dict[str, str],
    allowed: bool,  # noqa: FBT001 -- a table's column
) -> None:
    """An allow rule grants exactly the calls that all its keys match, each by one of its entries."""
    assert policies(tmp_path, p=rule(match)).decide(facts(**changes)).allowed is allowed


@pytest.mark.parametrize(
    "tool",
    [
        "payments.Charge",
        "Payments.charge",
        "PAYMENTS.CHARGE",
        "payments%2Echarge",
        "payments%2echarge",
        "payments.charge%00",
        "payments.charge\0",
        "payments.charge ",
        " payments.charge",
        "payments.charge.",
        "payments..charge",
        "payments/charge",
        "payments",
        "payments.",
        "payments\N{FULLWIDTH FULL STOP}charge",
        "payments.\N{CYRILLIC SMALL LETTER ES}harge",
        "payments.charg\N{COMBINING ACUTE ACCENT}e",
        "\N{ZERO WIDTH SPACE}payments.charge",
        "payments.charge\n",
    ],
)
def test_a_look_alike_is_another_tool(tmp_path: Path, tool: str) -> None:
    """P12: neither case, nor encoding, nor a look-alike in Unicode makes another name the allowed tool."""
    loaded = policies(tmp_path, p=rule("{tools: [payments.charge]}"))
    assert loaded.decide(facts()).allowed
    assert not loaded.decide(facts(tool=tool)).allowed
    alone = Compiler().rule(
        "p",
        RuleEntry(id="r", effect="allow", match=MatchEntry(tools=("payments.charge",))),
        "enforce",
        Binder(Complaints()).complain,
    )
    assert alone.matches(facts(), None)
    assert not alone.matches(facts(tool=tool), None), "the rule itself knows, also where the index does not narrow"


def test_composed_and_decomposed_names_differ(tmp_path: Path) -> None:
    """P12: two spellings of one letter are two names, in rules as in calls."""
    loaded = policies(tmp_path, p=rule('{tools: ["caf\\u00e9.open"]}'))
    assert loaded.decide(facts(tool="caf\N{LATIN SMALL LETTER E WITH ACUTE}.open")).allowed
    assert not loaded.decide(facts(tool="cafe\N{COMBINING ACUTE ACCENT}.open")).allowed


def test_without_rules_everything_is_denied(tmp_path: Path) -> None:
    """An empty folder allows nothing but own addresses."""
    loaded = policies(tmp_path)
    for kind in ("llm", "tool", "mcp"):
        assert not loaded.decide(facts(kind=kind)).allowed
    assert loaded.decide(facts(kind="own")).allowed


def test_deny_beats_allow_in_whichever_order_and_file(tmp_path: Path) -> None:
    """One deny rule outweighs all allow rules; it is named first, with its message."""
    granting = rule("{tools: [any]}", rule_id="all")
    denying = rule('{tools: ["payments.*"]}', "deny", "never")
    for number, files in enumerate(({"a": granting, "b": denying}, {"a": denying, "b": granting})):
        folder = tmp_path / str(number)
        folder.mkdir()
        decision = policies(folder, **files).decide(facts())
        assert not decision.allowed
        assert [(hit.rule, hit.effect) for hit in decision.hits] == [("never", "deny"), ("all", "allow")]
        assert policies(folder).decide(facts(tool="mail.send")).allowed


def test_a_deny_rule_without_keys_denies_all_and_own_addresses_too(tmp_path: Path) -> None:
    """A missing key does not narrow: a deny rule that names only an agent closes everything to it."""
    loaded = policies(tmp_path, p=rule("{tools: [any]}", rule_id="a") + "\n" + rule("{agents: [support]}", "deny", "d"))
    for kind in ("llm", "tool", "own"):
        assert not loaded.decide(facts(agent="support", kind=kind)).allowed
    assert loaded.decide(facts(kind="own")).allowed


def test_own_addresses_can_be_closed_by_kind(tmp_path: Path) -> None:
    """`kinds: [own]` in a deny rule closes own addresses and nothing else."""
    loaded = policies(
        tmp_path, p=rule("{tools: [any]}", rule_id="a") + "\n" + rule("{kinds: [own], teams: [sales]}", "deny", "d")
    )
    assert not loaded.decide(facts(kind="own", team="sales")).allowed
    assert loaded.decide(facts(kind="own")).allowed
    assert loaded.decide(facts(team="sales")).allowed


def test_rules_on_providers_are_decided_for_each_target(tmp_path: Path) -> None:
    """A rule that names providers holds for calls that they would serve; unknown grants nothing and denies."""
    loaded = policies(
        tmp_path,
        p=rule("{models: [any], providers: [openai]}", rule_id="a")
        + "\n"
        + rule("{models: [secret], providers: [cheap]}", "deny", "d")
        + "\n"
        + rule("{tools: [any]}", rule_id="t"),
    )
    assert loaded.per_target
    assert loaded.decide(facts(kind="llm"), "openai").allowed
    assert not loaded.decide(facts(kind="llm"), "cheap").allowed
    assert not loaded.decide(facts(kind="llm")).allowed
    assert [hit.rule for hit in loaded.decide(facts(kind="llm", model="secret")).hits] == ["d"]
    assert loaded.decide(facts()).allowed, "a tool call has no provider to ask for"
    assert loaded.decide(facts(kind="own")).allowed
    assert "at provider cheap" in loaded.decide(facts(kind="llm"), "cheap").message


def test_a_set_without_providers_says_so(tmp_path: Path) -> None:
    """The pipeline then decides once per call."""
    assert not policies(tmp_path, p=rule("{models: [any], providers: [any]}")).per_target


def test_the_same_facts_get_the_same_decision_and_no_others(tmp_path: Path) -> None:
    """Decisions are remembered by all facts together: one that differs anywhere is decided anew."""
    loaded = policies(tmp_path, p=rule("{tools: [payments.charge], agents: [procurement], teams: [finance]}"))
    assert loaded.decide(facts()) is loaded.decide(facts())
    for changed in (facts(agent="x"), facts(team="x"), facts(tool="x.y"), facts(kind="own"), facts(kind="llm")):
        assert loaded.decide(changed).hits == ()
    assert loaded.decide(facts()).allowed


def test_names_that_agents_make_up_do_not_fill_the_memory(tmp_path: Path) -> None:
    """Remembered decisions are few and short, whatever models agents ask for."""
    loaded = policies(tmp_path, p=rule("{models: [any]}"))
    for number in range(5000):
        assert loaded.decide(facts(kind="llm", model=f"m{number}")).allowed
    assert len(loaded._memo) <= 4096
    loaded.decide(facts(kind="llm", model="m" * 100_000))
    assert not any(len(known.model) > 1000 for known, _ in loaded._memo)


def test_a_default_deny_says_what_would_allow_it(tmp_path: Path) -> None:
    """The sentence names agent and target and the entries that a rule would need."""
    loaded = policies(tmp_path, p=rule("{tools: [mail.send]}"))
    asked = facts(agent="support")
    assert explain_refusal(loaded.decide(asked), asked) == (
        "no rule allows agent support to call tool payments.charge; the security team can allow it in the policy "
        "files, by an allow rule that matches agents: [support] and tools: [payments.charge]"
    )
    asked = facts(kind="llm", agent="support")
    assert "to use model demo-small; " in explain_refusal(loaded.decide(asked), asked)


def test_a_deny_rule_is_named_with_its_message(tmp_path: Path) -> None:
    """The sentence names policy and rule and says what the rule's author wrote."""
    text = "  - {id: never, effect: deny, match: {agents: [support]}, message: Ask procurement.}"
    asked = facts(agent="support")
    decision = policies(tmp_path, money=text).decide(asked)
    assert explain_refusal(decision, asked) == (
        "rule money/never denies agent support to call tool payments.charge: Ask procurement."
    )


def test_several_deny_rules_are_named_and_counted(tmp_path: Path) -> None:
    """Three rules are named, the others counted, and one message is said once."""
    text = "\n".join(f"  - {{id: d{n}, effect: deny, match: {{agents: [support]}}, message: No.}}" for n in range(5))
    asked = facts(agent="support", kind="own")
    sentence = explain_refusal(policies(tmp_path, p=text).decide(asked), asked)
    assert sentence.startswith("rules p/d0 and p/d1 and p/d2 and 2 more deny agent support to ")
    assert sentence.endswith(": No.")


def test_a_refusal_repeats_no_unprintable_or_endless_name(tmp_path: Path) -> None:
    """P14: what an agent puts into a model's name reaches the sentence cut and made printable."""
    asked = facts(kind="llm", model="x\r\nSet-Cookie: a=b\x1b[31m" + "y" * 10_000)
    loaded = policies(tmp_path)
    sentence = explain_refusal(loaded.decide(asked), asked)
    assert sentence.isprintable()
    assert len(sentence) < 1000


@pytest.mark.parametrize(
    ("agent", "target", "allowed"),
    [
        ("procurement", "demo-small", True),
        ("procurement", "sim-anything", True),
        ("procurement", "gpt-6-sol", False),
        ("procurement", "fraud.check", True),
        ("procurement", "payments.charge", True),
        ("procurement", "payments.order", True),
        ("procurement", "ledger.post", True),
        ("procurement", "mail.send", False),
        ("support", "demo-small", True),
        ("support", "mail.send", True),
        ("support", "payments.charge", False),
        ("support", "fraud.check", False),
        ("researcher", "demo-small", True),
        ("researcher", "mail.send", False),
        ("researcher", "payments.charge", False),
        ("stranger", "sim-small", True),
        ("stranger", "demo-small", False),
    ],
)
def test_the_example_policies_mean_what_they_say(agent: str, target: str, allowed: bool) -> None:  # noqa: FBT001
    """The policies that ship with the demo allow each agent its job and nothing more."""
    complaints = Complaints()
    tools = frozenset({"fraud.check", "payments.charge", "payments.order", "mail.send", "ledger.post"})
    known = Known(
        agents=frozenset({"procurement", "support", "researcher"}),
        models=frozenset({"sim-*", "demo-small"}),
        tools=tools,
    )
    loaded = load(PoliciesSettings(dir=EXAMPLES), DiskSources(), known, complaints)
    assert (complaints.found, loaded.warnings) == ([], ())
    asked = facts(agent=agent, tool=target) if target in tools else facts(agent=agent, kind="llm", model=target)
    assert loaded.decide(asked).allowed is allowed


def test_support_reads_why_it_may_not_pay() -> None:
    """The example's deny rule answers with its author's words."""
    loaded = load(PoliciesSettings(dir=EXAMPLES), DiskSources(), Known(), Complaints())
    asked = facts(agent="support")
    assert explain_refusal(loaded.decide(asked), asked).endswith("Hand the order over to procurement.")
