"""What the policies would say today of a call that was decided before, as far as a record of it tells.

1. A record holds what rules read then, not the whole call. A rule that reads more today cannot be told: its word is
   taken both ways, and where that makes a difference the outcome is unknown and the missing facts are named.
2. Of attestations a record holds those that the decision rested on: of their steps they are taken for all there was.
   Of another step nothing is known, unless the record says that it was not attested at all, or the call had no run.
3. The same policies in the same mode say the same.

What it refuses to know: how records are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, NamedTuple

from gateway.core.attestation import Attestation
from gateway.core.call import Call
from gateway.core.decision import Decision
from gateway.core.principal import Principal
from gateway.policy.decide import Matching, PolicySet
from gateway.policy.rules import Entries, Facts, Rule
from gateway.policy.situation import RunView, Situation, View
from gateway.policy.verdicts import Verdict, judge
from gateway.telemetry.redact import HIDDEN

_TOLD: Final = {
    "agent": ("id", "team", "category"),
    "principal": ("issuer", "subject", "assurance", "on_behalf_of"),
    "run": ("id", "step"),
    "call": ("kind", "model", "tool", "method", "dialect", "hosted_tools"),
    "args": (),
}
"""What a record holds of every call."""
_DECIMALS: Final = ("run.spend_usd",)
"""Facts that are no JSON value: a record has their text."""
_ABSENT: Final = frozenset({"none", "no_run"})
"""Codes of a clause that failed since the step was not attested at all."""


class Failed(NamedTuple):
    """A clause that did not hold then."""

    rule: str
    code: str
    step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A decision of the past, and the call as far as its record tells. Times are epoch seconds."""

    principal: Principal
    call: Call
    at: float
    run: str = ""
    step: int = 0
    providers: tuple[str, ...] = ()  # where it might go
    read: Mapping[str, object] = field(default_factory=dict)  # facts by path; `None` is null or missing
    attested: tuple[Attestation, ...] = ()
    failed: tuple[Failed, ...] = ()
    effect: str
    approved: bool = False
    policy_hash: str
    mode: str


class Again(NamedTuple):
    """What comes of it today; `unknown` are facts for lack of which that cannot be told."""

    decision: Decision
    unknown: tuple[str, ...] = ()


def decide_again(past: Past, policies: PolicySet) -> Again | None:
    """What today's policies say; `None` where they are those of then."""
    if (past.policy_hash, past.mode) == (policies.hash, policies.mode):
        return None
    facts = Facts.of(past.principal, past.call)
    by_target = policies.per_target and past.call.kind == "llm"
    found = [_weighed(past, policies.find(facts, name)) for name in (by_target and past.providers) or (None,)]
    worst, best = min((one.worst for one in found), key=_rank), min((one.best for one in found), key=_rank)
    unknown = {name for one in found for name in one.unknown} if worst.effect != best.effect else set[str]()
    if by_target and not past.providers and any(_might_match(rule, facts) for rule in policies.rules):
        unknown.add("provider")
    return Again(worst, tuple(sorted(unknown)))


class Recollection:
    """A past call as rules look at it: what the record does not hold is noted in `missed` when it is asked for."""

    def __init__(self, past: Past, rules: Iterable[Rule] = (), *, null: bool = False) -> None:
        """`null`: what is null or missing is null."""
        self.missed: set[str] = set()
        self.view = View(_situation(past), {path for rule in rules for path in rule.obligations.redact})
        known = {name: {member: self.view.facts[name][member] for member in told} for name, told in _told(past)}  # type: ignore[index]
        absent: set[tuple[str, ...]] = set()
        for name, value in past.read.items():
            path = tuple(name.split("."))
            if value is None and not null:
                absent.add(path)
            elif value != HIDDEN and len(path) > 1 and path[0] in known:
                _put(known[path[0]], path[1:], Decimal(str(value)) if name in _DECIMALS else value)
        for name, values in known.items():
            self.view.facts[name] = _Partial(values, (name,), absent, self.missed)


class _Partial(dict[str, object]):
    """What is known of a map; what else is asked for is noted."""

    def __init__(
        self, known: Mapping[str, object], path: tuple[str, ...], absent: set[tuple[str, ...]], missed: set[str]
    ) -> None:
        super().__init__(
            {
                name: _Partial(value, (*path, name), absent, missed) if isinstance(value, dict) else value
                for name, value in known.items()
            }
        )
        self._path, self._absent, self._missed = path, absent, missed

    def __missing__(self, name: object) -> object:
        self._note(name)
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name):
            return True
        self._note(name)
        return False

    def _note(self, name: object) -> None:
        path = (*self._path, str(name))
        if path not in self._absent:
            self._missed.add(".".join(path))


def _might_match(rule: Rule, facts: Facts) -> bool:
    """Whether a rule on providers matches a call that goes to one of its providers."""
    return rule.providers is not None and rule.matches(facts, _some(rule.providers))


def _some(entries: Entries) -> str:
    """A value that matches."""
    return next(iter((*entries.exact, *entries.prefixes)))


class _Weighed(NamedTuple):
    """The decision with what cannot be told taken to be against the call, and in its favour; and what that is."""

    worst: Decision
    best: Decision
    unknown: frozenset[str] = frozenset()


def _weighed(past: Past, matching: Matching) -> _Weighed:
    if matching.settled is not None:
        return _Weighed(matching.settled, matching.settled)
    unknown: set[str] = set()
    worst: list[Verdict] = []
    best: list[Verdict] = []
    for rule in matching.rules:
        verdict, missing = _verdict(past, rule, matching.rules)
        unknown |= missing
        worst.append(Verdict(rule, held=rule.effect == "deny") if missing else verdict)
        best.append(Verdict(rule, held=rule.effect != "deny") if missing else verdict)
    return _Weighed(matching.weigh(worst), matching.weigh(best), frozenset(unknown))


def _rank(decision: Decision) -> int:
    return ("allow", "hold", "deny").index(decision.effect)


def _verdict(past: Past, rule: Rule, rules: Sequence[Rule]) -> tuple[Verdict, set[str]]:
    """What a rule says, and the facts for lack of which that is not certain."""
    memory = Recollection(past, rules)
    verdict = judge(rule, memory.view)
    missing = memory.missed | {".".join(path) for path in rule.reads if _whole(path, past)}
    if not verdict.held:
        unsure = (one for one in verdict.reasons if one.step and one.code != "bind")
        missing |= {f"attestations of {one.step}" for one in unsure if not knows_step(past, one.step)}
    nulls = {name for name, value in past.read.items() if value is None}
    if nulls:
        null = judge(rule, Recollection(past, rules, null=True).view)
        missing |= nulls if (null.held, null.asks) != (verdict.held, verdict.asks) else set()
    return verdict, missing


def _whole(path: tuple[str, ...], past: Past) -> bool:
    """Whether a path asks for more than single facts: then what the record holds of it is not all."""
    if path == ("attestations",):
        return bool(past.run)
    name = ".".join(path)
    return path in {("args",), ("call",)} or any(known.startswith(f"{name}.") for known in past.read)


def knows_step(past: Past, step: str) -> bool:
    """Whether a record tells what was attested of a step."""
    if not past.run or any(one.step == step for one in past.attested):
        return True
    return any(one.step == step and one.code in _ABSENT for one in past.failed)


def _told(past: Past) -> Iterable[tuple[str, tuple[str, ...]]]:
    for name, members in _TOLD.items():
        if name == "call" and past.call.kind != "llm":
            yield name, (*members, "region")
        elif name != "run" or past.run:
            yield name, members


def _situation(past: Past) -> Situation:
    run = RunView(past.run, "", past.step, 0, 0) if past.run else None
    return Situation(past.principal, past.call, past.at, run=run, region=past.call.region, attested=past.attested)


def _put(values: dict[str, object], path: Sequence[str], value: object) -> None:
    """Put a value where its path leads."""
    *above, last = path
    for step in above:
        below = values.setdefault(step, {})
        if not isinstance(below, dict):
            return
        values = below
    values[last] = value
