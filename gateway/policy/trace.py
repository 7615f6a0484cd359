"""How the rules that concern a call come to what they say, clause by clause.

What a rule says in the end is asked of the part that decides; this shows how it comes to that. What stands under a
hidden name is not shown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from gateway.core.decision import Reason, RuleHit
from gateway.policy.cel import CelError, Clause, Program
from gateway.policy.requirements import AllOf, AnyOf, Requirement
from gateway.policy.rules import Rule
from gateway.policy.situation import Situation, View
from gateway.policy.verdicts import judge
from gateway.telemetry.redact import HIDDEN

SAYS: Final = {
    ("allow", True): "grants",
    ("allow", False): "does not grant",
    ("deny", True): "denies",
    ("deny", False): "does not deny",
    ("require", True): "holds",
    ("require", False): "does not hold",
}
"""What a rule does, by its effect and whether its clauses let it."""


class Operand(NamedTuple):
    """One operand of a condition's top-level `&&` or `||`."""

    text: str
    value: bool | None  # `None` where there is an error
    error: str
    read: tuple[tuple[str, str], ...]  # the facts that it reads, by path, each with its value as it is shown


class ClauseTrace(NamedTuple):
    """One clause of a rule. `value` is `None` where it has no value."""

    clause: str  # when | requires[0] | approve.when
    text: str
    value: bool | None
    said: str  # why it does not hold, and what would satisfy it
    operands: tuple[Operand, ...] = ()
    unknown: tuple[str, ...] = ()  # of a call of the past: facts for lack of which its value cannot be told


class RuleTrace(NamedTuple):
    """One rule that matches a call. `acts`: it grants, denies or holds; `asks`: for an approval, where it does."""

    hit: RuleHit
    acts: bool | None  # `None` where it cannot be told
    asks: bool
    clauses: tuple[ClauseTrace, ...]

    @property
    def says(self) -> str:
        """What it does, in a word or two."""
        if self.acts is None:
            return "cannot be told"
        return SAYS[self.hit.effect, self.acts] + (", with an approval" if self.acts and self.asks else "")


def view_of(rules: Iterable[Rule], situation: Situation) -> View:
    """A call as the rules that match it look at it."""
    return View(situation, {path for rule in rules for path in rule.obligations.redact})


def trace(rules: Iterable[Rule], view: View, hidden: Collection[str] = ()) -> tuple[RuleTrace, ...]:
    """What each of the rules says of a call that it matches; values under `hidden` names (lower case) are not shown."""
    return tuple(_rule(rule, view, frozenset(hidden)) for rule in rules)


def _rule(rule: Rule, view: View, hidden: frozenset[str]) -> RuleTrace:
    clauses = list(_requires(rule, view))
    if rule.when is not None:
        clauses.append(_condition("when", rule.when, view, hidden))
    if rule.approval is not None and rule.approval.when is not None:
        clauses.append(_condition("approve.when", rule.approval.when, view, hidden))
    verdict = judge(rule, view)
    return RuleTrace(rule.hit, verdict.held, verdict.asks, tuple(clauses))


def _requires(rule: Rule, view: View) -> Iterable[ClauseTrace]:
    for number, requirement in enumerate(rule.requires):
        name = f"requires[{number}]"
        found = requirement.check(view, rule.hit.name, name)
        said = "; ".join(_said(one, name) for one in found.reasons)
        yield ClauseTrace(name, _words(requirement), found.held, said)


def _said(reason: Reason, clause: str) -> str:
    """Why a part of a requirement does not hold; what is needed says its text."""
    return f"{reason.clause.removeprefix(clause)} {reason.code}: {reason.detail.partition('; needed is ')[0]}".strip()


def _words(requirement: Requirement) -> str:
    """What is asked for, in a sentence."""
    match requirement:
        case AnyOf(options=parts):
            return f"one of: {'; '.join(map(_words, parts))}"
        case AllOf(parts=parts):
            return f"all of: {'; '.join(map(_words, parts))}"
    return " and ".join(leaf.words() for leaf in requirement.leaves())


def _condition(name: str, program: Program, view: View, hidden: frozenset[str]) -> ClauseTrace:
    operands = tuple(_operand(one, view, hidden) for one in program.explain(view.facts))
    try:
        return ClauseTrace(name, program.text, program.evaluate(view.facts) is True, "", operands)
    except CelError as error:
        secret = any(_hides(path, view, hidden) for path in program.reads)
        return ClauseTrace(name, program.text, None, HIDDEN if secret else str(error), operands)


def _operand(one: Clause, view: View, hidden: frozenset[str]) -> Operand:
    secret = [_hides(path, view, hidden) for path, _ in one.read]
    read = tuple(
        (".".join(path), HIDDEN if hides else value) for (path, value), hides in zip(one.read, secret, strict=True)
    )
    value = one.value if isinstance(one.value, bool) else None
    return Operand(one.text, value, HIDDEN if one.error and any(secret) else one.error, read)


def _hides(path: tuple[str, ...], view: View, hidden: frozenset[str]) -> bool:
    return view.hides([path]) or not hidden.isdisjoint(step.lower() for step in path)
