"""What lint reads and what it says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.policy.files import AttestationEntry, PolicyFile, RequirementEntry, RuleEntry
from gateway.policy.observations import Observation
from gateway.policy.rules import Rule
from gateway.settings.binder import Binder, Steps, path_text
from gateway.settings.complaints import Complaints


class PlacedRule(NamedTuple):
    """A rule as it is written, as it is compiled, and where it stands."""

    entry: RuleEntry
    rule: Rule
    binder: Binder
    path: Steps

    @property
    def attestations(self) -> Iterator[tuple[Steps, AttestationEntry]]:
        """The attestations that it asks for, each with its place."""
        for number, one in enumerate(self.entry.requires):
            yield from _attestations(one, (*self.path, "requires", number))


@dataclass(frozen=True, slots=True)
class PlacedPolicy:
    """One document: as it is written, as it is compiled, and a binder that knows where its parts stand."""

    entry: PolicyFile
    rules: tuple[Rule, ...]
    observations: tuple[Observation, ...]
    binder: Binder

    @property
    def placed(self) -> Iterator[PlacedRule]:
        """Its rules."""
        for number, (entry, rule) in enumerate(zip(self.entry.rules, self.rules, strict=True)):
            yield PlacedRule(entry, rule, self.binder, ("rules", number))


@dataclass(slots=True)
class Linted:
    """What was found: errors and warnings."""

    errors: Complaints = field(default_factory=Complaints)
    warnings: Complaints = field(default_factory=Complaints)

    def error(self, binder: Binder, path: Steps, problem: str, remedy: str) -> None:
        """A rule that does not do what it says."""
        self.errors.add(binder.place(path), path_text(path), problem, remedy)

    def warn(self, binder: Binder, path: Steps, problem: str, remedy: str) -> None:
        """Something that probably means something else."""
        self.warnings.add(binder.place(path), path_text(path), problem, remedy)


def _attestations(entry: RequirementEntry, path: Steps) -> Iterator[tuple[Steps, AttestationEntry]]:
    if entry.attestation is not None:
        yield (*path, "attestation"), entry.attestation
    for key, parts in (("any", entry.any_), ("all", entry.all_)):
        for number, one in enumerate(parts):
            yield from _attestations(one, (*path, key, number))
