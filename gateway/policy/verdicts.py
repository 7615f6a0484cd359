"""What one rule says of one call: whether it holds, why not, and what it rests on and asks for where it does.

An error never lets a call go on: in an allow rule it grants nothing, in a deny rule it denies, in a require rule it
does not hold.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.core.attestation import Attestation, Use
from gateway.core.decision import Reason
from gateway.policy.cel import CelError, Program
from gateway.policy.requirements import REASONS, together
from gateway.policy.rules import Rule
from gateway.policy.situation import View

_SHOWN: Final = 200  # characters of an error in a reason


class Verdict(NamedTuple):
    """A rule's word: a deny rule that holds denies, an allow rule grants, a require rule is content."""

    rule: Rule
    held: bool
    reasons: tuple[Reason, ...] = ()  # why it does not hold; of a deny rule, why it does
    asks: bool = False  # for an approval
    rests_on: tuple[Attestation, ...] = ()
    uses: tuple[Use, ...] = ()
    lacks_only_attestations: bool = False


def unconditional(rule: Rule) -> Verdict:
    """The verdict of a rule that has no conditions, or whose conditions are taken to be in the call's favour."""
    if not rule.conditional:
        return Verdict(rule, held=True, reasons=_denied(rule, "match", "denied") if rule.effect == "deny" else ())
    return Verdict(rule, held=rule.effect != "deny")


def judge(rule: Rule, view: View) -> Verdict:
    """The verdict of a rule that matches."""
    if not rule.conditional:
        return unconditional(rule)
    when = _truth(rule.when, view)
    if rule.effect == "deny":
        if when is False:
            return Verdict(rule, held=False)
        return Verdict(rule, held=True, reasons=_denied(rule, "when", "denied" if when is True else "error"))
    reasons: tuple[Reason, ...] = ()
    if when is not True:
        reasons = (_failed(rule, "when", when) if isinstance(when, CelError) else rule.untrue,)
    asks = _truth(rule.approval.when, view) if rule.approval is not None else False
    if isinstance(asks, CelError):
        reasons += (_failed(rule, "approve.when", asks),)
    found = together(one.check(view, rule.hit.name, f"requires[{n}]") for n, one in enumerate(rule.requires))
    if reasons or not found.held:
        lacks = not reasons
        return Verdict(rule, held=False, reasons=(*reasons, *found.reasons), lacks_only_attestations=lacks)
    return Verdict(rule, held=True, asks=asks is True, rests_on=found.rests_on, uses=found.uses)


def _truth(program: Program | None, view: View) -> bool | CelError:
    """Whether a condition is true; none is."""
    if program is None:
        return True
    try:
        value = program.evaluate(view.facts)
    except CelError as error:
        return error
    return value if isinstance(value, bool) else CelError("the condition is neither true nor false")


def _denied(rule: Rule, clause: str, code: str) -> tuple[Reason, ...]:
    return (Reason(rule.hit.name, clause, code, REASONS[code]),)


def _failed(rule: Rule, clause: str, error: CelError) -> Reason:
    return Reason(rule.hit.name, clause, "error", f"{REASONS['error']}: {str(error)[:_SHOWN]}")
