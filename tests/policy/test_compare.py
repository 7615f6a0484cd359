"""Comparing policies by what they mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.sources import DiskSources
from gateway.policy.compare import compare

RULES = """
  - id: pays
    effect: allow
    match: {agents: [buyer, seller], tools: ["pay.*"]}
    when: 'args.amount <= 100 && args.currency == "EUR"'
    obligations: {cache: never, redact: [args.card]}
    message: Ask the desk.
  - id: checked
    effect: require
    match: {tools: [pay.charge]}
    requires:
      - attestation: {step: check, bind: {order: args.order, amount: args.amount}}
      - any: [{attestation: {step: a}}, {attestation: {step: b}}]
    approve: {when: 'args.amount > 50', approvers: ["group:desk", boss]}
observe:
  - {step: check, tool: fraud.check, outcome: 'result.ok ? "passed" : "failed"', subject: {order: args.order}}
"""


def write(folder: Path, **files: str) -> Path:
    """A folder of policies, each the text below `rules:`, with the mode where the name ends in `_shadow`."""
    folder.mkdir()
    for name, text in files.items():
        mode = "mode: shadow\n" if name.endswith("_shadow") else ""
        (folder / f"{name}.yaml").write_text(f"version: 1\npolicy: p\n{mode}rules:{text}")
    return folder


def changes(tmp_path: Path, text: str, name: str = "p", mode: str = "enforce") -> list[tuple[str, str, str]]:
    """What differs from `RULES`: kind, rule, and keys."""
    old, new = write(tmp_path / "old", p=RULES), write(tmp_path / "new", **{name: text})
    return [(one.kind, one.rule, " ".join(one.keys)) for one in compare(old, new, DiskSources(), mode)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[buyer, seller]", "[seller, buyer]"),
        ('["group:desk", boss]', '[boss, "group:desk"]'),
        ("'args.amount <= 100 && args.currency", "'args.amount<=100\t&& args . currency"),
        ("    message: Ask the desk.\n", "    message: Ask the desk.   # a comment\n"),
        ("bind: {order: args.order, amount: args.amount}", "bind: {amount: 'args .amount', order: args.order}"),
        (
            "[{attestation: {step: a}}, {attestation: {step: b}}]",
            "[{attestation: {step: b}}, {attestation: {step: a}}]",
        ),
        ("{step: check, bind", "{step: check, outcome: passed, consume: never, bind"),
        ("match: {tools: [pay.charge]}", "match: {tools: [pay.charge], agents: [any], min_assurance: key}"),
        ("effect: require\n", "effect: require\n    mode: enforce\n"),
    ],
)
def test_what_means_the_same_is_the_same(before: str, after: str, tmp_path: Path) -> None:
    """Order, layout, comments, and what holds anyway make no difference."""
    assert before in RULES
    assert changes(tmp_path, RULES.replace(before, after)) == []


def test_files_and_their_order_mean_nothing(tmp_path: Path) -> None:
    """Rules may move to another file, and stand in another order."""
    head, observe = RULES.split("\nobserve:")
    first, second = head.split("  - id: checked")
    assert changes(tmp_path, f"\n  - id: checked{second}{first}\nobserve:{observe}", name="other") == []


@pytest.mark.parametrize(
    ("before", "after", "keys"),
    [
        ("[buyer, seller]", "[buyer]", "match.agents"),
        ("[buyer, seller]", "[any]", "match.agents"),
        ("effect: allow", "effect: require", "effect"),
        ("amount <= 100 ", "amount < 100 ", "when"),
        ('"EUR"\'', '"eur"\'', "when"),
        ("cache: never, ", "", "obligations.cache"),
        ("[args.card]", "[args.iban]", "obligations.redact"),
        ("Ask the desk.", "Ask.", "message"),
        ("effect: allow\n", "effect: allow\n    mode: shadow\n", "mode"),
    ],
)
def test_what_means_something_else_is_named(before: str, after: str, keys: str, tmp_path: Path) -> None:
    """By the keys that say it."""
    assert before in RULES
    assert changes(tmp_path, RULES.replace(before, after, 1)) == [("changed", "p/pays", keys)]


@pytest.mark.parametrize(
    ("before", "after", "keys"),
    [
        ("amount: args.amount", "amount: args.total", "requires"),
        ("step: a}", "step: c}", "requires"),
        ("any: [", "all: [", "requires"),
        ("{step: check, bind", "{step: check, max_age: 5m, bind", "requires"),
        ("amount > 50", "amount > 51", "approve.when"),
        (", boss]", "]", "approve.approvers"),
        ("boss]}", "boss], expires: 1h}", "approve.expires"),
    ],
)
def test_what_must_hold_is_compared(before: str, after: str, keys: str, tmp_path: Path) -> None:
    """Down to what an attestation must be about, and who may approve."""
    assert before in RULES
    assert changes(tmp_path, RULES.replace(before, after, 1)) == [("changed", "p/checked", keys)]


def test_rules_come_and_go(tmp_path: Path) -> None:
    """A rule under another name is another rule; what is observed is compared too."""
    text = RULES.replace("id: pays", "id: paid").replace("result.ok ?", "result.good ?")
    assert changes(tmp_path, text) == [
        ("changed", "p/observe check of fraud.check", "outcome"),
        ("added", "p/paid", ""),
        ("removed", "p/pays", ""),
    ]


def test_the_mode_of_a_policy_is_that_of_its_rules(tmp_path: Path) -> None:
    """What a policy says for all its rules changes each of them, unless it is what the configuration says anyway."""
    assert [one[:2] for one in changes(tmp_path, RULES, name="p_shadow")] == [
        ("changed", "p/checked"),
        ("changed", "p/pays"),
    ]


def test_the_mode_of_the_configuration(tmp_path: Path) -> None:
    """In a configuration that is in shadow mode, a policy that says so too says nothing new."""
    assert changes(tmp_path, RULES, name="p_shadow", mode="shadow") == []
