"""`passgate policy replay` and `diff`: what other policies would have said, and where policies differ."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from gateway.audit import DecisionRecord, read_records
from gateway.cli import DONE, WrongUse
from gateway.cli.policy_past import past_of
from gateway.cli.policy_report import Finding, counted, report
from gateway.cli.policy_sources import Workplace, read_config
from gateway.core.sources import DiskSources
from gateway.policy import PolicySet
from gateway.policy.compare import compare
from gateway.policy.documents import rule_places
from gateway.policy.replay import Past, decide_again
from gateway.policy.settings import PoliciesSettings
from gateway.policy.testing import deciding

DIFFERS: Final = 1
_SHOWN: Final = 3


@dataclass(slots=True)
class Group:
    """Calls of one agent that one rule decides otherwise, or that cannot be told for the same reason."""

    before: str
    after: str  # empty where it cannot be told
    rules: tuple[str, ...]
    unknown: tuple[str, ...]
    agent: str
    count: int = 0
    newest: DecisionRecord | None = None


@dataclass(slots=True)
class Tally:
    """What came of the calls of a log."""

    same: int = 0
    groups: dict[tuple[str, ...], Group] = field(default_factory=dict)

    def add(
        self, record: DecisionRecord, before: str, after: str, rules: tuple[str, ...], unknown: tuple[str, ...]
    ) -> None:
        """Note one call, in the order of the log."""
        key = (before, after, *rules, "", *unknown, "", record.agent)
        group = self.groups.setdefault(key, Group(before, after, rules, unknown, record.agent))
        group.count += 1
        group.newest = record

    @property
    def flipped(self) -> int:
        """How many are decided otherwise."""
        return sum(group.count for group in self.groups.values() if group.after)

    @property
    def untold(self) -> int:
        """Of how many that cannot be told."""
        return sum(group.count for group in self.groups.values() if not group.after)

    def summary(self) -> str:
        """All of it in a line."""
        said = f"{counted(self.same + self.flipped + self.untold, 'call')}: {self.same} decided as before"
        return f"{said}, {self.flipped} otherwise, {self.untold} cannot be told"

    def findings(self, policies: Path, sources: DiskSources) -> Iterator[Finding]:
        """The groups, those with the newest calls first; what cannot be told comes last."""
        places = rule_places(policies, sources)
        ordered = sorted(self.groups.values(), key=lambda one: one.newest.time if one.newest else "", reverse=True)
        for group in sorted(ordered, key=lambda one: not one.after):
            place = next((places[rule] for rule in group.rules if rule in places), None)
            file, line = (place.file, place.line) if place is not None else (str(policies), 1)
            title = " and ".join(group.rules[:_SHOWN]) or ("no rule allows it" if group.after == "deny" else "")
            yield Finding("error" if group.after else "notice", file, line, title, _words(group))


def replay(given: argparse.Namespace) -> int:
    """Decide the calls of a log anew; 1 where some come out otherwise than they did."""
    place = Workplace.of(given)
    sources = DiskSources()
    tally = _tally(given.log, None, place.usable(sources))
    findings = tally.findings(place.settings.dir, sources)
    report(findings, given.format, tally.summary(), same=tally.same, otherwise=tally.flipped, untold=tally.untold)
    return DIFFERS if tally.flipped else DONE


def diff(given: argparse.Namespace) -> int:
    """Compare two folders; 1 where a rule differs, or with `--log` a decision."""
    config = read_config(given.config)
    settings = config.settings.policies if config is not None else PoliciesSettings()
    for folder in (given.old, given.new):
        if not folder.is_dir():
            raise WrongUse(f"passgate: {folder} is no folder; name two folders of policies.")
    sources = DiskSources()
    old, new = (Workplace(replace(settings, dir=one, bundle=None), config) for one in (given.old, given.new))
    before, after = old.usable(sources), new.usable(sources)
    changes = compare(given.old, given.new, sources, settings.mode)
    findings = [
        Finding(
            "notice", change.place.file, change.place.line, change.rule, ": ".join((change.kind, *_listed(change.keys)))
        )
        for change in changes
    ]
    summary, numbers = counted(len(changes), "difference"), {"changes": len(changes)}
    flipped = 0
    if given.log is not None:
        tally = _tally(given.log, before, after)
        findings += tally.findings(given.new, sources)
        summary, flipped = f"{summary}; {tally.summary()}", tally.flipped
        numbers |= {"same": tally.same, "otherwise": flipped, "untold": tally.untold}
    report(findings, given.format, summary, **numbers)
    return DIFFERS if changes or flipped else DONE


def _tally(log: Path, before: PolicySet | None, after: PolicySet) -> Tally:
    """Decide the calls of a log by one set, against what another one says or was said then."""
    tally, found = Tally(), False
    try:
        for one in read_records(log):
            found = True
            past = past_of(one.record)
            was, _, lacking = _effect(past, before) if before is not None else (past.effect, (), ())
            now, rules, unknown = _effect(past, after)
            unknown = tuple(dict.fromkeys((*lacking, *unknown)))
            if unknown:
                tally.add(one.record, past.effect, "", (), unknown)
            elif was == now:
                tally.same += 1
            else:
                tally.add(one.record, was, now, rules, ())
    except OSError as error:
        raise WrongUse(f"passgate: {error.filename}: {error.strerror}.") from None
    if not found:
        raise WrongUse(f"passgate: {log} has no decision; name the folder of a decision log, or a file of it.")
    return tally


def _effect(past: Past, policies: PolicySet) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """What a set says of a call, which rules make it so, and for lack of what that cannot be told."""
    again = decide_again(past, policies)
    if again is None:
        return past.effect, (), ()
    effect = again.decision.effect
    effect = "allow" if past.approved and effect == "hold" else effect
    return effect, deciding(again.decision), again.unknown


def _words(group: Group) -> str:
    who = f"{counted(group.count, 'call')} of agent {group.agent}"
    if group.after:
        said = f"{who}: {group.before} before, {group.after} now"
    else:
        said = f"{who}: cannot be told, the log does not have {', '.join(group.unknown)}"
    one = group.newest
    return f"{said}; the newest is {one.id} of {one.time}, {one.tool or one.model or one.operation}" if one else said


def _listed(keys: Iterable[str]) -> Iterator[str]:
    """The keys in one text, where there are any."""
    if named := ", ".join(keys):
        yield named
