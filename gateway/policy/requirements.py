"""Whether an attestation is the one that a rule asks for: of this run, agent and subject, fresh, and not taken back.

1. What is bound compares by type and value: `"1000"`, `1000`, `1000.0` and `true` are four values. A value that is
   missing, or that nothing can be attested about (a float, null, a list), fails the clause.
2. An attestation fits when all of this holds: it is of the run of the call, for the agent that calls, by an attester
   that the rule accepts, its subject has every bound name with the bound value, its outcome is the one asked for, and
   it is neither too old nor expired.
3. Of those that fit the newest counts. It is void once a newer one of the same run says otherwise, from whoever may
   attest the step, unless its subject names another value: a name that it lacks contradicts nothing. At the same time
   the one that says otherwise is the newer. With `void_across_runs` one of another run voids too, where its subject
   shares a bound name.
4. What is used up is said, not taken: whoever sends the call takes it.

What it refuses to know: signatures, and who may attest what. What it is given counts already.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from gateway.core.attestation import Attestation, Scalar, Use, subject_text
from gateway.core.decision import Reason
from gateway.policy.cel import CelError, Program
from gateway.policy.situation import Discounted, View
from gateway.telemetry.redact import HIDDEN

REASONS: Final[Mapping[str, str]] = {
    # of an attestation, in the order in which they are found: the later, the nearer it is to what is asked for
    "no_run": "the call names no run, and attestations are of a run",
    "none": "the step is not attested in this run",
    "subject_mismatch": "the step is attested, but about something else",
    "other_run": "the step is attested, but in another run",
    "other_agent": "the step is attested, but for another agent",
    "attester": "the step is attested, but by somebody whose word this rule does not take",
    "outcome": "the step is attested, but with another outcome",
    "not_yet": "the attestation is from the future",
    "expired": "the attestation has expired",
    "too_old": "the attestation is older than the rule allows",
    "superseded": "a newer attestation about the same says otherwise",
    "consumed": "the attestation, or its subject under this rule, has been used up by another call",
    "bind": "the call lacks a value that the attestation must be about, or it is of a kind that nothing can attest",
    # of what was presented or stored and does not count at all
    "malformed": "what was presented is not an attestation",
    "signature": "the attestation is not signed by a key of its attester",
    "audience": "the attestation is made for another gateway",
    "lifetime": "the attestation is valid for longer than its attester's may be",
    "unknown_attester": "the attester is not in the configuration",
    "step_not_allowed": "the attester may not attest this step",
    "revoked": "the attester, the step or the key it was signed with counts no more",
    "replayed": "an attestation with this id says something else",
    "chain": "the earlier attestation that it builds on does not stand in this run",
    # of other clauses
    "denied": "the rule denies what it matches",
    "false": "the condition of the rule is not true of this call",
    "error": "the condition of the rule has no value for this call",
    "not_granted": "no rule allows it",
    "no_provider": "no provider is left that all rules let serve the call",
}
"""Every code of a `Reason`, with what it says."""

_STAGES: Final = (
    "subject_mismatch", "other_run", "other_agent", "attester", "outcome", "not_yet", "expired", "too_old",
)  # fmt: skip
_ABOUT_ELSE: Final = _STAGES.index("subject_mismatch")
"""Up to here an attestation is about something else than the call: what does not count may say more."""
_MICRO: Final = 1_000_000
_SKEW: Final = 600 * _MICRO
"""What clocks may differ at most, see `identity.skew`; its own is kept where attestations are verified."""
_SHOWN: Final = 200  # characters of a value in a reason


class Found(NamedTuple):
    """What came of a requirement: what it rests on and uses up where it holds, else why it does not."""

    held: bool
    rests_on: tuple[Attestation, ...] = ()
    uses: tuple[Use, ...] = ()
    reasons: tuple[Reason, ...] = ()


class Requirement(Protocol):
    """An attestation, one of several, or all of several."""

    def check(self, view: View, rule: str, clause: str) -> Found:
        """Whether it holds; `rule` and `clause` say in reasons where it stands."""
        ...

    def leaves(self) -> Iterator[Attested]:
        """The attestations that it speaks of."""
        ...


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of several must hold: where more do, the first of those that use up least."""

    options: tuple[Requirement, ...]

    def check(self, view: View, rule: str, clause: str) -> Found:
        """See `Requirement`."""
        found = [one.check(view, rule, f"{clause}.any[{n}]") for n, one in enumerate(self.options)]
        held = [one for one in found if one.held]
        if held:
            return min(held, key=lambda one: len(one.uses))
        return Found(held=False, reasons=tuple(reason for one in found for reason in one.reasons))

    def leaves(self) -> Iterator[Attested]:
        """See `Requirement`."""
        return (leaf for one in self.options for leaf in one.leaves())


@dataclass(frozen=True, slots=True)
class AllOf:
    """All of several must hold."""

    parts: tuple[Requirement, ...]

    def check(self, view: View, rule: str, clause: str) -> Found:
        """See `Requirement`."""
        return together(one.check(view, rule, f"{clause}.all[{n}]") for n, one in enumerate(self.parts))

    def leaves(self) -> Iterator[Attested]:
        """See `Requirement`."""
        return (leaf for one in self.parts for leaf in one.leaves())


def together(found: Iterable[Found]) -> Found:
    """All of them, as one."""
    every = tuple(found)
    reasons = tuple(reason for one in every for reason in one.reasons)
    if not all(one.held for one in every):
        return Found(held=False, reasons=reasons)
    rests_on = tuple(attestation for one in every for attestation in one.rests_on)
    return Found(held=True, rests_on=rests_on, uses=tuple(use for one in every for use in one.uses))


class _Unbound(Exception):
    """A value that cannot be bound: which, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """A step must be attested."""

    step: str
    outcome: str
    by: frozenset[str]  # empty: whoever may attest the step
    max_age: float  # seconds; 0: as long as it is valid
    bind: tuple[tuple[str, Program], ...]
    consume: str  # never | once | per_subject
    per: frozenset[str]
    across: bool

    def leaves(self) -> Iterator[Attested]:
        """See `Requirement`."""
        yield self

    def check(self, view: View, rule: str, clause: str) -> Found:
        """See `Requirement`."""
        try:
            bound = {name: _value(name, program, view.facts) for name, program in self.bind}
        except _Unbound as unbound:
            return self._failed(view, rule, clause, "bind", {}, str(unbound))
        if view.situation.run is None:
            return self._failed(view, rule, clause, "no_run", bound, "")
        candidates = view.of_step(self.step)
        fit = -1
        nearest, nearest_at = -1, -1
        for position, attestation in enumerate(candidates):
            stage = self._stage(attestation, bound, view)
            if stage == len(_STAGES):
                if fit < 0 or attestation.at >= candidates[fit].at:
                    fit = position
            elif stage > nearest or (stage == nearest and attestation.at >= candidates[nearest_at].at):
                nearest, nearest_at = stage, position
        if fit < 0:
            return self._missed(view, rule, clause, bound, nearest, candidates[nearest_at] if nearest >= 0 else None)
        chosen = candidates[fit]
        if any(self._voids(other, chosen, bound, view) for other in candidates):
            return self._failed(view, rule, clause, "superseded", bound, "")
        return Found(held=True, rests_on=(chosen,), uses=self._uses(chosen, bound, rule))

    def _stage(self, one: Attestation, bound: Mapping[str, Scalar], view: View) -> int:
        """How far an attestation is from what is asked for: the position in `_STAGES` of what is wrong with it."""
        for name, value in bound.items():
            if name not in one.subject or not same(one.subject[name], value):
                return 0
        if not view.in_run(one):
            return 1
        if not view.for_caller(one):
            return 2
        if self.by and one.by not in self.by:
            return 3
        if one.outcome != self.outcome:
            return 4
        if one.at > view.now + _SKEW:
            return 5
        if one.expires and view.as_of >= one.expires:
            return 6
        if self.max_age and view.as_of - one.at > self.max_age * _MICRO:
            return 7
        return len(_STAGES)

    def _voids(self, other: Attestation, chosen: Attestation, bound: Mapping[str, Scalar], view: View) -> bool:
        """Whether another one is newer, is about the same and says otherwise."""
        if other.outcome == self.outcome or other.at < chosen.at:
            return False
        if _contradicts(other.subject, bound):
            return False
        if view.in_run(other):
            return True
        return self.across and (not bound or any(name in other.subject for name in bound))

    def _uses(self, chosen: Attestation, bound: Mapping[str, Scalar], rule: str) -> tuple[Use, ...]:
        if self.consume == "once":
            return (Use("once", f"{chosen.by}/{chosen.id}"),)
        if self.consume == "per_subject":
            counted = {name: value for name, value in bound.items() if not self.per or name in self.per}
            return (Use(rule, f"{self.step} {subject_text(counted)}"),)
        return ()

    # -- why it does not hold

    def _missed(
        self, view: View, rule: str, clause: str, bound: Mapping[str, Scalar], stage: int, nearest: Attestation | None
    ) -> Found:
        """Nothing that counts is what is asked for; where it is about something else, what does not count says why."""
        discounted = self._discounted(view, bound) if stage <= _ABOUT_ELSE else None
        if discounted is not None:
            return self._failed(view, rule, clause, discounted.code, bound, discounted.detail)
        if nearest is None:
            return self._failed(view, rule, clause, "none", bound, "")
        code = _STAGES[stage]
        return self._failed(view, rule, clause, code, bound, self._said(nearest, bound, view, code))

    def _discounted(self, view: View, bound: Mapping[str, Scalar]) -> Discounted | None:
        """What was presented or stored of the step, perhaps about the very same, and does not count."""
        near = [
            one
            for one in view.situation.discounted
            if one.step in (self.step, "") and not _contradicts(one.subject, bound)
        ]
        exact = [one for one in near if one.step] or near
        return exact[-1] if exact else None

    def _said(self, one: Attestation, bound: Mapping[str, Scalar], view: View, code: str) -> str:
        """What is so of the attestation that comes nearest."""
        match code:
            case "attester":
                return f"it is by {one.by}"
            case "subject_mismatch":
                wrong = (n for n, value in bound.items() if n not in one.subject or not same(one.subject[n], value))
                return "; ".join(_difference(name, one.subject.get(name), bound[name]) for name in wrong)
            case "outcome":
                return f"it says {one.outcome}"
            case "too_old":
                return f"it is {(view.as_of - one.at) // _MICRO} s old"
        return ""

    def _failed(self, view: View, rule: str, clause: str, code: str, bound: Mapping[str, Scalar], said: str) -> Found:
        about = REASONS.get(code, "an attestation of the step does not count") + (f" ({said})" if said else "")
        hidden = {name for name, program in self.bind if view.hides(program.reads)}
        subject = {name: HIDDEN if name in hidden else _short(value) for name, value in bound.items()}
        reason = Reason(rule, clause, code, f"{about}; needed is {self.words()}", self.step, subject or None)
        return Found(held=False, reasons=(reason,))

    def words(self) -> str:
        """What is asked for, as a refusal says it."""
        said = f"step {self.step} {self.outcome}"
        if self.by:
            said += f", attested by {' or '.join(sorted(self.by))}"
        if self.max_age:
            said += f", not older than {self.max_age:g} s"
        if self.bind:
            said += f", for the same {', '.join(name for name, _ in self.bind)}"
        return said


def same(one: Scalar, other: Scalar) -> bool:
    """Whether two values are of the same type and equal."""
    return type(one) is type(other) and one == other


def _contradicts(subject: Mapping[str, Scalar], bound: Mapping[str, Scalar]) -> bool:
    """Whether it is about something else; a name that it lacks contradicts nothing."""
    return any(name in subject and not same(subject[name], value) for name, value in bound.items())


def _value(name: str, program: Program, facts: Mapping[str, object]) -> Scalar:
    try:
        value = program.evaluate(facts)
    except CelError as error:
        raise _Unbound(f"{name}: {error}") from None
    if type(value) is str or type(value) is int or type(value) is bool:
        return value
    raise _Unbound(f"{name} is {_kind(value)}, not a string, an integer or a boolean")


def _difference(name: str, attested: Scalar | None, asked: Scalar) -> str:
    if attested is None:
        return f"it does not say which {name}"
    if type(attested) is not type(asked):
        return f"its {name} is {_kind(attested)}, that of the call {_kind(asked)}"
    return f"its {name} is another"


def _kind(value: object) -> str:
    kinds = {str: "a string", bool: "a boolean", int: "an integer", float: "a float", type(None): "null"}
    return kinds.get(type(value), "not a scalar")


def _short(value: Scalar) -> Scalar:
    return value[:_SHOWN] + "…" if isinstance(value, str) and len(value) > _SHOWN else value
