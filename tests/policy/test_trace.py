"""How rules come to what they say: every clause of every rule that matches, and nothing that is to be hidden."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from gateway.core.call import Call
from gateway.policy import Facts
from gateway.policy.trace import RuleTrace, trace, view_of
from gateway.telemetry.redact import HIDDEN
from tests.policy.scene import ORDER, attested, call, moment, policies


def traced(rules: str, made: Call | None = None, *steps: str, hidden: Collection[str] = ()) -> dict[str, RuleTrace]:
    """What each rule says of a call, by its id."""
    situation = moment(made, *(attested(step) for step in steps))
    matching = policies(rules).find(Facts.of(situation.principal, situation.call))
    return {one.hit.rule: one for one in trace(matching.rules, view_of(matching.rules, situation), hidden)}


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("effect: allow, match: {tools: [any]}", "grants"),
        ("effect: allow, match: {tools: [any]}, approve: {approvers: [boss]}", "grants, with an approval"),
        ("effect: allow, match: {tools: [any]}, when: 'args.amount == 1'", "does not grant"),
        ("effect: allow, match: {tools: [any]}, approve: {when: 'args.memo', approvers: [boss]}", "does not grant"),
        ("effect: deny, match: {tools: [any]}", "denies"),
        ("effect: deny, match: {tools: [any]}, when: 'args.memo == 1'", "denies"),
        ("effect: deny, match: {tools: [any]}, when: 'args.amount == 1'", "does not deny"),
        ("effect: require, match: {tools: [any]}, when: 'args.amount == 100'", "holds"),
        ("effect: require, match: {tools: [any]}, when: 'args.amount == 1'", "does not hold"),
        ("effect: require, match: {tools: [any]}, approve: {approvers: [boss]}", "holds, with an approval"),
    ],
)
def test_what_a_rule_says(rule: str, says: str) -> None:
    """In the words of its effect."""
    assert traced(f"{{id: r, {rule}}}")["r"].says == says


def test_every_clause_is_shown() -> None:
    """Also those behind the first that does not hold, each with its text, its verdict and why."""
    rule = traced(
        "{id: r, effect: require, match: {tools: [any]}, when: 'args.amount == 1 || args.memo == 2', "
        "requires: [{attestation: {step: a}}, {any: [{attestation: {step: b}}, {all: [{attestation: {step: a}}, "
        "{attestation: {step: c}}]}]}], approve: {when: 'args.amount > 50', approvers: [boss]}}",
        call(),
        "a",
    )["r"]
    assert [(one.clause, one.value) for one in rule.clauses] == [
        ("requires[0]", True),
        ("requires[1]", False),
        ("when", None),
        ("approve.when", True),
    ]
    assert rule.clauses[1].text == "one of: step b passed; all of: step a passed; step c passed"
    assert rule.clauses[1].said == (
        ".any[0] none: the step is not attested in this run; .any[1].all[1] none: the step is not attested in this run"
    )
    first, second = rule.clauses[2].operands
    assert (first.text, first.value, first.error, first.read) == (
        "args.amount == 1", False, "", (("args.amount", "100"),),
    )  # fmt: skip
    assert (second.value, second.error, second.read) == (None, "args has no memo", (("args.memo", "missing"),))


def test_only_rules_that_match_are_shown() -> None:
    """What speaks of other calls says nothing of this one."""
    assert set(
        traced("{id: a, effect: allow, match: {tools: [any]}}\n{id: b, effect: deny, match: {tools: [x.y]}}")
    ) == {"a"}


@pytest.mark.parametrize(
    ("obligation", "hidden"),
    [(", obligations: {redact: [args.pin]}", ()), (", obligations: {redact: [args]}", ()), ("", {"pin"})],
)
def test_what_is_hidden_is_not_shown(obligation: str, hidden: Collection[str]) -> None:
    """Neither as a value, nor in an error, nor where another rule that matches hides it."""
    found = traced(
        f"{{id: hides, effect: allow, match: {{tools: [any]}}{obligation}}}\n"
        '{id: reads, effect: allow, match: {tools: [any]}, when: \'args.pin == "1" && {"a": true}[args.pin]\'}\n'
        "{id: errs, effect: allow, match: {tools: [any]}, when: '{\"a\": true}[args.pin]'}",
        call({**ORDER, "pin": "S3CRET"}),
        hidden=hidden,
    )
    assert "S3CRET" not in repr(found)
    (clause,) = found["reads"].clauses
    assert [one.read for one in clause.operands] == [(("args.pin", HIDDEN),)] * 2
    assert clause.operands[1].error == HIDDEN
    assert found["errs"].clauses[0].said == HIDDEN
