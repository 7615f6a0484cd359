"""What of the rules tests have seen: which rules acted, which conditions were true, which were false.

A rule is seen when it granted, denied or held in some test. A condition (each item of `requires`, `when`,
`approve.when`) is seen twice: when it held, and when it did not; one that has no value did not hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from gateway.core.sources import Sources
from gateway.policy.documents import read_policies
from gateway.policy.files import RuleEntry
from gateway.policy.trace import RuleTrace
from gateway.settings.binder import Steps
from gateway.settings.complaints import Place

ACTS: Final = {"allow": "granted", "deny": "denied", "require": "held"}
"""What a rule did in a test that saw it, by its effect."""


class Point(NamedTuple):
    """One thing that a test can see."""

    rule: str  # POLICY/RULE
    what: str  # granted | denied | held | when true | when false | requires[0] true | …
    place: Place


@dataclass(slots=True)
class Coverage:
    """What there is to be seen, and what of it was."""

    points: tuple[Point, ...]
    matched: set[str] = field(default_factory=set)  # rules that matched the call of some test
    _seen: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def of(cls, folder: Path, sources: Sources) -> Coverage:
        """Of the policies in a folder, with nothing seen yet."""
        return cls(tuple(_points(folder, sources)))

    def add(self, traces: Iterable[RuleTrace]) -> None:
        """Note what one test saw."""
        for trace in traces:
            rule = trace.hit.name
            self.matched.add(rule)
            if trace.acts:
                self._seen.add((rule, ACTS[trace.hit.effect]))
            for clause in trace.clauses:
                self._seen.add((rule, f"{clause.clause} {'true' if clause.value else 'false'}"))

    @property
    def missed(self) -> list[Point]:
        """What no test has seen, in the order of the files."""
        return [point for point in self.points if (point.rule, point.what) not in self._seen]


def _points(folder: Path, sources: Sources) -> Iterator[Point]:
    for policy, binder in read_policies(folder, sources):
        for number, rule in enumerate(policy.rules):
            name, path = f"{policy.policy}/{rule.id}", ("rules", number)
            yield Point(name, ACTS[rule.effect], binder.place((*path, "id")))
            for clause, below in _clauses(rule):
                for truth in ("true", "false"):
                    yield Point(name, f"{clause} {truth}", binder.place((*path, *below)))


def _clauses(rule: RuleEntry) -> Iterator[tuple[str, Steps]]:
    """The conditions of a rule, and where each stands below it."""
    for number in range(len(rule.requires)):
        yield f"requires[{number}]", ("requires", number)
    if rule.when:
        yield "when", ("when",)
    if rule.approve is not None and rule.approve.when:
        yield "approve.when", ("approve", "when")
