"""Reading policy files: which are read, and that every mistake is a load error with its place and its remedy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.sources import DiskSources, KeptSources
from gateway.policy import Facts, Known, PolicySet, load
from gateway.policy.settings import PoliciesSettings
from gateway.settings.complaints import Complaints

GOOD = "version: 1\npolicy: {name}\nrules:\n  - {{id: {name}-r, effect: allow, match: {{tools: [{name}.do]}}}}\n"


def loaded(folder: Path, known: Known | None = None) -> tuple[PolicySet, list[str]]:
    """The set and the complaints, as people read them, with the folder cut off."""
    complaints = Complaints()
    found = load(PoliciesSettings(dir=folder), DiskSources(), known or Known(), complaints)
    return found, [str(complaint).replace(f"{folder}{os.sep}", "") for complaint in complaints.found]


def complaints_about(folder: Path, text: str) -> list[str]:
    """The complaints about one file, `p.yaml`."""
    (folder / "p.yaml").write_text(text, encoding="utf-8")
    return loaded(folder)[1]


def allows(policies: PolicySet, name: str) -> bool:
    """Whether the rule of `GOOD` by that name is in force."""
    return policies.decide(Facts("a", "", "", "i", "bearer", "tool", "", f"{name}.do", "http")).allowed


def with_rule(rule: str) -> str:
    """A file with one rule in flow style, which stands in line 4."""
    return f"version: 1\npolicy: p\nrules:\n  - {rule}\n"


def with_match(match: str) -> str:
    """A file with one allow rule."""
    return with_rule(f"{{id: r, effect: allow, match: {match}}}")


def with_more(more: str) -> str:
    """A file with one allow rule that says more."""
    return with_rule(f"{{id: r, effect: allow, match: {{tools: [a.b]}}, {more}}}")


def with_attestation(said: str) -> str:
    """A file with one rule that asks for one attestation."""
    return with_more(f"requires: [{{attestation: {{{said}}}}}]")


def with_observe(observe: str) -> str:
    """A file with one rule and one observation, which stands in line 6."""
    return with_rule("{id: r, effect: deny, match: {}}") + f"observe:\n  - {observe}\n"


def test_policy_files_are_found_and_others_left_alone(tmp_path: Path) -> None:
    """`*.yaml` and `*.yml` at any depth are read; dot names, tests, locks and all else are not."""
    read = ["a.yaml", "b.yml", "deep/er/c.yaml", "test.yaml", "not_a_test.yml"]
    skipped = [".d.yaml", ".git/e.yaml", "deep/.hidden/f.yaml", "g_test.yaml", "h.lock.yaml", "i.json", "j.yaml.bak"]
    for number, name in enumerate(read + skipped):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(GOOD.format(name=f"n{number}"), encoding="utf-8")
    policies, complaints = loaded(tmp_path)
    assert complaints == []
    assert [allows(policies, f"n{number}") for number in range(len(read + skipped))] == [True] * 5 + [False] * 7


def test_a_file_with_two_names_is_read_once(tmp_path: Path) -> None:
    """A link to a policy file is not a second file, whose rules would stand twice."""
    (tmp_path / "a.yaml").write_text(GOOD.format(name="n"), encoding="utf-8")
    (tmp_path / "z.yaml").symlink_to(tmp_path / "a.yaml")
    policies, complaints = loaded(tmp_path)
    assert complaints == []
    assert allows(policies, "n")


def test_no_link_can_hide_a_policy_file(tmp_path: Path) -> None:
    """A link that is no policy by its own name does not stand in for the policy that it leads to."""
    (tmp_path / "p.yaml").write_text(GOOD.format(name="n"), encoding="utf-8")
    for name in ("a.txt", "a_test.yaml", "b.lock.yaml"):
        (tmp_path / name).symlink_to(tmp_path / "p.yaml")
    policies, complaints = loaded(tmp_path)
    assert complaints == []
    assert allows(policies, "n")


@pytest.mark.parametrize("target", ["gone.yaml", "p.yaml"])
def test_a_link_that_leads_nowhere_is_a_mistake(target: str, tmp_path: Path) -> None:
    """A rule that denies may have stood there: what is named like a policy and cannot be read is never left out."""
    (tmp_path / "p.yaml").symlink_to(tmp_path / target)
    _, complaints = loaded(tmp_path)
    assert len(complaints) == 1
    assert complaints[0].startswith("p.yaml:1: cannot be read")


def test_a_file_may_hold_several_documents_or_none(tmp_path: Path) -> None:
    """Documents are policies of their own; a file of comments has none."""
    (tmp_path / "a.yaml").write_text(GOOD.format(name="x") + "---\n" + GOOD.format(name="y"), encoding="utf-8")
    (tmp_path / "b.yaml").write_text("# nothing yet\n", encoding="utf-8")
    policies, complaints = loaded(tmp_path)
    assert complaints == []
    assert allows(policies, "x")
    assert allows(policies, "y")


def test_the_hash_goes_by_content_alone(tmp_path: Path) -> None:
    """Names and order of files do not change the hash; a changed byte, one file more or less does."""
    hashes = []
    for number, files in enumerate((("a", "b"), ("b", "a"), ("a", "c"), ("a",), ())):
        folder = tmp_path / str(number)
        folder.mkdir()
        for position, content in enumerate(files):
            (folder / f"{position}.yaml").write_text(GOOD.format(name=content), encoding="utf-8")
        hashes.append(loaded(folder)[0].hash)
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4
    assert all(len(found) == 64 for found in hashes)


def test_workers_load_what_the_supervisor_read(tmp_path: Path) -> None:
    """From the record of the files comes the same set, though the files have changed since."""
    (tmp_path / "a.yaml").write_text(GOOD.format(name="n"), encoding="utf-8")
    disk, complaints = DiskSources(), Complaints()
    first = load(PoliciesSettings(dir=tmp_path), disk, Known(), complaints)
    (tmp_path / "a.yaml").write_text("changed", encoding="utf-8")
    kept = KeptSources(disk.files, disk.dirs, disk.variables)
    second = load(PoliciesSettings(dir=tmp_path), kept, Known(), complaints)
    assert complaints.found == []
    assert first.hash == second.hash
    assert allows(second, "n")


def test_a_folder_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    """No folder is not an empty one."""
    complaints = Complaints()
    load(PoliciesSettings(dir=tmp_path / "none"), DiskSources(), Known(), complaints)
    assert "is not a directory" in str(complaints.found[0])


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("policy: p\nrules:\n  - {id: r, effect: deny, match: {}}\n", 1, "version: is missing"),
        ("version: 2\npolicy: p\nrules:\n  - {id: r, effect: deny, match: {}}\n", 1, "write version: 1"),
        ('version: "1"\npolicy: p\nrules:\n  - {id: r, effect: deny, match: {}}\n', 1, "write version: 1"),
        ("version: 1\nrules:\n  - {id: r, effect: deny, match: {}}\n", 1, "policy: is missing"),
        ("version: 1\npolicy: p\n", 1, "rules: is missing"),
        ("version: 1\npolicy: p\nrules: []\n", 3, "the list is empty"),
        ("version: 1\npolicy: p\nrules: {}\n", 3, "write a list"),
        ("version: 1\npolicy: p\nrules:\n", 3, "write a list"),
        ("version: 1\npolicy: p\nmode: dry\nrules:\n  - {id: r, effect: deny, match: {}}\n", 3, "among the choices"),
        ("version: 1\npolicy: p\nmode:\nrules:\n  - {id: r, effect: deny, match: {}}\n", 3, "mode: "),
        ("version: 1\npolicy: p\ntests: null\nrules:\n  - {id: r, effect: deny, match: {}}\n", 3, "write a list"),
        ("version: 1\npolicy: p\nobserve: []\nrules:\n  - {id: r, effect: deny, match: {}}\n", 3, "the list is empty"),
        (
            "version: 1\npolicy: p\ntests:\n  - {name: t}\nrules:\n  - {id: r, effect: deny, match: {}}\n",
            4,
            "tests[0].expect: is missing",
        ),
        ("version: 1\npolicy: p\nrulez: 1\nrules:\n  - {id: r, effect: deny, match: {}}\n", 3, "unknown key"),
        ("[1, 2]\n", 1, "write a mapping"),
        ("just text\n", 1, "write a mapping"),
        ("version: 1\npolicy: [\n", 3, "this is not YAML"),
        (with_rule("{effect: allow, match: {tools: [a.b]}}"), 4, "rules[0].id: is missing"),
        (with_rule("{id: r, match: {tools: [a.b]}}"), 4, "rules[0].effect: is missing"),
        (with_rule("{id: r, effect: deny}"), 4, "rules[0].match: is missing"),
        (with_rule("{id: r, effect: deny, match: }"), 4, "write a mapping"),
        (with_rule("{id: r, effect: Allow, match: {tools: [a.b]}}"), 4, "'Allow' is not among the choices"),
        (with_rule("{id: r, effect: require, match: {tools: [a.b]}}"), 4, "asks for nothing"),
        (with_rule("{id: r, effect: require, match: {kinds: [own]}, approve: {approvers: [a]}}"), 4, "never held"),
        (
            with_rule("{id: r, effect: deny, match: {}, requires: [{attestation: {step: s}}]}"),
            4,
            "cannot have `requires`",
        ),
        (with_rule("{id: r, effect: deny, match: {}, approve: {approvers: [a]}}"), 4, "cannot have `approve`"),
        (with_rule("{id: r, effect: deny, match: {}, obligations: {cache: never}}"), 4, "cannot have `obligations`"),
        (with_more("mode: dry"), 4, "among the choices"),
        (with_more("mode: "), 4, "rules[0].mode: "),
        (with_more("requires: []"), 4, "the list is empty"),
        (with_more("requires: {}"), 4, "write a list"),
        (with_more("requires: [{}]"), 4, "one of attestation, any, all"),
        (with_more("requires: [{attestation: }]"), 4, "rules[0].requires[0].attestation: this is empty"),
        (with_more("requires: [{any: []}]"), 4, "the list is empty"),
        (with_more("requires: [{any: [{attestation: {step: s}}], all: [{attestation: {step: s}}]}]"), 4, "is one of"),
        (with_more("requires: [{all: [{any: [{step: s}]}]}]"), 4, "rules[0].requires[0].all[0].any[0].step: unknown"),
        (with_attestation("outcome: failed"), 4, "attestation.step: is missing"),
        (with_attestation("step: 'a b'"), 4, "is not a step's name"),
        (with_attestation("step: s, outcome: Passed"), 4, "among the choices"),
        (with_attestation("step: s, attested_by: []"), 4, "the list is empty"),
        (with_attestation("step: s, attested_by: fraud"), 4, "write a list"),
        (with_attestation("step: s, max_age: 15"), 4, "is not a duration"),
        (with_attestation("step: s, max_age: 0s"), 4, "is too small"),
        (with_attestation("step: s, max_age: "), 4, "is not a duration"),
        (with_attestation("step: s, bind: {}"), 4, "the mapping is empty"),
        (with_attestation("step: s, bind: {a: }"), 4, "bind.a: the expression is missing"),
        (with_attestation("step: s, bind: {'a b': args.a}"), 4, "is not a name"),
        (with_attestation("step: s, bind: {amount: 1.5}"), 4, "this is a double"),
        (with_attestation("step: s, bind: {amount: args.amount / 2.0}"), 4, "bind.amount"),
        (with_attestation("step: s, bind: {amount: '[args.a]'}"), 4, "this is a list"),
        (with_attestation("step: s, bind: {amount: 'null'}"), 4, "this is a null_type"),
        (with_attestation("step: s, bind: {amount: arg.amount}"), 4, "bind.amount"),
        (with_attestation("step: s, consume: twice"), 4, "among the choices"),
        (with_attestation("step: s, consume: per_subject"), 4, "without `bind`"),
        (with_attestation("step: s, bind: {a: args.a}, per: [a]"), 4, "by what `per_subject` counts"),
        (with_attestation("step: s, bind: {a: args.a}, consume: per_subject, per: [b]"), 4, "b is not in `bind`"),
        (with_attestation("step: s, void_across_runs: yes"), 4, "write true or false"),
        (with_more("when: "), 4, "the expression is missing"),
        (with_more("when: ''"), 4, "the expression is missing"),
        (with_more("when: [x]"), 4, "rules[0].when"),
        (with_more("when: 'args.amount <= '"), 4, "rules[0].when"),
        (with_more("when: 'size(args) + 1'"), 4, "rules[0].when"),
        (with_more("when: 'agent.env == \"prod\"'"), 4, "env"),
        (with_more("when: '1 == 1 && nobody.id == \"x\"'"), 4, "at character 11: nobody.id"),
        (with_more(f"when: '{'a' * 4001}'"), 4, "longer than 4000"),
        (with_more("obligations: "), 4, "write a mapping"),
        (with_more("obligations: {cache: }"), 4, "obligations.cache"),
        (with_more("obligations: {cache: always}"), 4, "among the choices"),
        (with_more("obligations: {redact: []}"), 4, "the list is empty"),
        (with_more("obligations: {redact: [arg.card]}"), 4, "there is no fact arg.card"),
        (with_more("obligations: {redact: ['args.*']}"), 4, "is not a fact"),
        (with_more("obligations: {output_tokens: {max: 5}}"), 4, "of LLM calls"),
        (with_more("obligations: {route: {only: [eu]}}"), 4, "of LLM calls"),
        (
            with_rule("{id: r, effect: allow, match: {models: [m]}, obligations: {output_tokens: {max: 0}}}"),
            4,
            "too small",
        ),
        (with_rule("{id: r, effect: allow, match: {models: [m]}, obligations: {route: {only: []}}}"), 4, "is empty"),
        (with_rule("{id: r, effect: allow, match: {models: [m]}, obligations: {route: {}}}"), 4, "only: is missing"),
        (with_more("approve: "), 4, "rules[0].approve: this is empty"),
        (with_more("approve: {}"), 4, "approvers: is missing"),
        (with_more("approve: {approvers: []}"), 4, "the list is empty"),
        (with_more("approve: {approvers: [a b]}"), 4, "does not say who may approve"),
        (with_more("approve: {approvers: ['group:']}"), 4, "does not say who may approve"),
        (with_more("approve: {approvers: [a], expires: 30s}"), 4, "is too small"),
        (with_more("approve: {approvers: [a], expires: 31d}"), 4, "is too large"),
        (with_more("approve: {approvers: [a], when: 'args'}"), 4, "approve.when"),
        (with_observe("{step: s, tool: a.b}"), 6, "outcome: is missing"),
        (with_observe("{step: s, tool: 'a.*', outcome: result.x}"), 6, "is not a tool"),
        (with_observe("{step: s, tool: any, outcome: result.x}"), 6, "alone matches no tool"),
        (with_observe("{step: s, tool: a, outcome: result.x}"), 6, "write a.NAME for one of its operations"),
        (with_observe("{step: s, tool: a.b, outcome: 'true'}"), 6, "observe[0].outcome"),
        (with_observe("{step: s, tool: a.b, outcome: agent.id}"), 6, "agent"),
        (with_observe("{step: s, tool: a.b, outcome: result.x, subject: {a: 1.0}}"), 6, "this is a double"),
        (with_rule("{id: r, effect: allow, match: {tools: [a.b]}, mesage: x}"), 4, "did you mean `message`?"),
        (with_rule("{id: r, effect: deny, match: {}, message: }"), 4, "rules[0].message"),
        (with_rule("{id: r, effect: deny, match: {}, message: [x]}"), 4, "rules[0].message"),
        (with_rule("{id: 'a b', effect: deny, match: {}}"), 4, "rules[0].id"),
        (with_rule("{id: 7, effect: deny, match: {}}"), 4, "rules[0].id"),
        (with_match("{hosted_tools: []}"), 4, "the list is empty"),
        (with_match("{hosted_tools: null, tools: [a.b]}"), 4, "write a list"),
        (
            with_match("{hosted_tools: [web_search], tools: [a.b]}"),
            4,
            "no call matches hosted_tools and tools together",
        ),
        (with_match("{hosted_tools: ['*_search']}"), 4, "is not an entry"),
        (with_match("{}"), 4, "must name models, tools, hosted_tools or kinds: [own]"),
        (with_match("{agents: [a]}"), 4, "must name models, tools, hosted_tools or kinds: [own]"),
        (with_match("{kinds: [llm]}"), 4, "must name models, tools, hosted_tools or kinds: [own]"),
        (with_match("{kinds: [own, tool]}"), 4, "must name models, tools, hosted_tools or kinds: [own]"),
        (with_match("{kinds: [any]}"), 4, "must name models, tools, hosted_tools or kinds: [own]"),
        (with_match("{models: [m], tools: [a.b]}"), 4, "no call has both a model and a tool"),
        (with_match("{tools: [a.b], providers: [p]}"), 4, "no call matches providers and tools together"),
        (with_match("{tools: [a.b], kinds: [llm]}"), 4, "no call matches kinds and tools together"),
        (with_match("{models: [m], kinds: [own, tool]}"), 4, "no call matches kinds and models together"),
        (with_match("{tools: []}"), 4, "the list is empty"),
        (with_match("{tools: [a.b], agents: []}"), 4, "the list is empty"),
        (with_match("{tools: [a.b], agents: }"), 4, "write a list"),
        (with_match("{tools: [a.b], agents: null}"), 4, "write a list"),
        (with_match("{tools: [a.b], min_assurance: }"), 4, "match.min_assurance: "),
        (with_match("{tools: [a.b], agents: any}"), 4, "write a list"),
        (with_match("{tools: a.b}"), 4, "write a list"),
        (with_match("{tools: [payments]}"), 4, 'write "payments.*" for all its operations'),
        (with_match("{tools: [.charge]}"), 4, "is not a tool"),
        (with_match("{tools: [payments.]}"), 4, "is not a tool"),
        (with_match("{tools: ['*.charge']}"), 4, "is not a tool"),
        (with_match("{tools: ['pay*ts.charge']}"), 4, "is not a tool"),
        (with_match("{tools: ['a.b**']}"), 4, "is not a tool"),
        (with_match("{tools: ['']}"), 4, "is not a tool"),
        (with_match("{tools: [1.5]}"), 4, "is not a tool"),
        (with_match("{tools: [{a: b}]}"), 4, "rules[0].match.tools[0]"),
        (with_match("{models: ['a*b']}"), 4, "is not an entry"),
        (with_match("{models: ['']}"), 4, "is not an entry"),
        (with_match("{models: [4]}"), 4, "rules[0].match.models[0]"),
        (with_match("{models: [null]}"), 4, "rules[0].match.models[0]"),
        (with_match("{models: [m], kinds: [LLM]}"), 4, "among the choices"),
        (with_match("{models: [m], dialects: [open*]}"), 4, "among the choices"),
        (with_match("{models: [m], categories: [closed]}"), 4, "among the choices"),
        (with_match("{models: [m], min_assurance: strong}"), 4, "match.min_assurance: "),
        (with_match("{models: [m], min_assurance: [key]}"), 4, "rules[0].match.min_assurance"),
        (with_match("{models: [m], agent: [a]}"), 4, "did you mean `agents`?"),
    ],
)
def test_each_mistake_is_a_load_error_with_line_and_remedy(tmp_path: Path, text: str, line: int, says: str) -> None:
    """What is wrong is said with its line and what to write instead; nothing is ignored."""
    found = complaints_about(tmp_path, text)
    assert any(complaint.startswith(f"p.yaml:{line}: ") and says in complaint for complaint in found), found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nversion: 1\n", "alias"),
        ("version: 1\npolicy: !!python/object/apply:os.system ['true']\nrules: []\n", "tag"),
        ("version: 1\npolicy: !!str p\nrules: []\n", "tag"),
        (with_match("{tools: [a.b], tools: [any]}"), "stands twice"),
        (with_rule("{id: r, effect: deny, effect: allow, match: {tools: [any]}}"), "stands twice"),
        (with_match("{<<: {tools: [any]}}"), "merge"),
        (with_match("{tools: [a.b], everything: true}"), "unknown key"),
        ("version: 1\npolicy: " + "[" * 5000 + "\n", "levels"),
    ],
)
def test_yaml_that_surprises_is_refused(tmp_path: Path, text: str, says: str) -> None:
    """P7: aliases, tags, duplicate, merged and unknown keys, and endless depth refuse the file."""
    assert any(says in complaint for complaint in complaints_about(tmp_path, text))


def test_two_files_cannot_have_the_same_rule(tmp_path: Path) -> None:
    """P8: a rule id stands once over all files; the complaint names both places."""
    one = "version: 1\npolicy: one\nrules:\n  - {id: same, effect: allow, match: {tools: [a.b]}}\n"
    (tmp_path / "a.yaml").write_text(one, encoding="utf-8")
    (tmp_path / "b.yaml").write_text("# moved\n" + one.replace("policy: one", "policy: two"), encoding="utf-8")
    (complaint,) = loaded(tmp_path)[1]
    assert complaint.startswith("b.yaml:5: rules[0].id: a rule called same stands already in ")
    assert "a.yaml:4; " in complaint


def test_one_file_cannot_have_the_same_rule_twice(tmp_path: Path) -> None:
    """P8: neither can one file, nor two documents of it, nor two policies share a name."""
    twice = with_rule("{id: r, effect: deny, match: {}}") + "  - {id: r, effect: deny, match: {}}\n"
    assert "a rule called r stands already" in complaints_about(tmp_path, twice)[0]
    (tmp_path / "p.yaml").unlink()
    again = GOOD.format(name="n") + "---\n" + GOOD.format(name="n")
    found = complaints_about(tmp_path, again)
    assert [complaint.split(" stands")[0] for complaint in found] == [
        "p.yaml:7: policy: a policy called n",
        "p.yaml:9: rules[0].id: a rule called n-r",
    ]


def test_all_mistakes_of_all_files_are_told_together(tmp_path: Path) -> None:
    """One run of the check shows everything that is wrong."""
    (tmp_path / "a.yaml").write_text(with_match("{tools: [payments]}"), encoding="utf-8")
    (tmp_path / "b.yaml").write_text(with_rule("{id: s, effect: maybe, match: {}, requires: x}"), encoding="utf-8")
    found = loaded(tmp_path)[1]
    assert {complaint.split(":")[0] for complaint in found} == {"a.yaml", "b.yaml"}
    assert len(found) >= 3


def test_names_that_nothing_has_are_warned_of(tmp_path: Path) -> None:
    """A misspelt name is a rule that never matches: it loads, with a warning that guesses what was meant."""
    (tmp_path / "p.yaml").write_text(
        with_rule("{id: a, effect: allow, match: {agents: [procurment], tools: [payments.charge, 'mail.*', 'mial.*']}}")
        + "  - {id: b, effect: allow, match: {agents: [any, 'proc*'], models: [sim-1, 'si*', 'sim-x*', gpt]}}\n",
        encoding="utf-8",
    )
    known = Known(
        agents=frozenset({"procurement", "support"}),
        models=frozenset({"sim-*", "demo"}),
        tools=frozenset({"payments.charge", "mail.send"}),
    )
    policies, complaints = loaded(tmp_path, known)
    assert complaints == []
    assert [(warning.line, warning.path, warning.remedy) for warning in policies.warnings] == [
        (4, "rules[0].match.agents[0]", "did you mean procurement?"),
        (4, "rules[0].match.tools[2]", "the configuration has mail.send, payments.charge"),
        (5, "rules[1].match.models[3]", "the configuration has demo, sim-*"),
    ]


def test_deny_rules_that_surprise_are_warned_of(tmp_path: Path) -> None:
    """Denying everybody, or the best proven, is possible and probably not meant."""
    (tmp_path / "p.yaml").write_text(
        with_rule("{id: a, effect: deny, match: {}}")
        + "  - {id: b, effect: deny, match: {min_assurance: mtls}}\n"
        + "  - {id: c, effect: deny, match: {min_assurance: key, agents: [x]}}\n",
        encoding="utf-8",
    )
    assert [warning.problem for warning in loaded(tmp_path)[0].warnings] == [
        "this denies every call",
        "this denies those who prove their identity best",
        "no rule allows anything, so every call is refused",
    ]


_SCALARS = st.sampled_from(
    ["1", "p", "allow", "deny", "require", "any", "a.b", "x*", "null", "{}", "[]", "~", "*a", "&a x", "!!t", "é", "'"]
)
_KEYS = st.sampled_from(
    ["version", "policy", "rules", "id", "effect", "match", "tools", "models", "kinds", "when", "mode", "<<", "? "]
)
_FLOW = st.recursive(
    _SCALARS | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(st.tuples(_KEYS, inner), max_size=6).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
        )
    ),
    max_leaves=12,
)


class _OneFile:
    """Sources that hold one file in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, path: Path) -> bytes:  # noqa: ARG002 -- there is but one
        """The file."""
        return self._data

    def listdir(self, path: Path, wanted: Callable[[str], bool]) -> list[Path]:  # noqa: ARG002 -- it is wanted
        """The one file."""
        return [path / "p.yaml"]

    def environment(self, name: str) -> str | None:  # noqa: ARG002 -- nothing is set
        """Nothing."""
        return None


@settings(max_examples=300, deadline=None)
@given(_FLOW.map(str.encode) | st.binary(max_size=200) | _FLOW.map(lambda rule: with_rule(rule).encode()))
def test_no_file_brings_a_traceback(data: bytes) -> None:
    """Whatever bytes stand in a policy file, loading ends in a set or in complaints, each with a remedy."""
    complaints = Complaints()
    load(PoliciesSettings(dir=Path("policies")), _OneFile(data), Known(agents=frozenset({"a"})), complaints)
    assert all(complaint.problem and complaint.remedy for complaint in complaints.found)
