"""`passgate policy coverage`: what of the rules the tests have seen, and what none of them has."""

from __future__ import annotations

import argparse
from decimal import Decimal
from typing import Final

from gateway.cli import DONE, WrongUse
from gateway.cli.policy_report import Finding, counted, report
from gateway.cli.policy_sources import Workplace
from gateway.core.sources import DiskSources
from gateway.policy.coverage import Coverage, Point
from gateway.policy.testing import run_test
from gateway.settings import Complaints, ScalarNode
from gateway.settings.types import Misfit, Percent

TOO_LITTLE: Final = 1
_REMEDY: Final = {"true": "add a test in which it holds", "false": "add a test in which it does not hold"}


def coverage(given: argparse.Namespace) -> int:
    """Print what no test has seen; 1 where that is more than `--min` leaves."""
    least = _share(given.min)
    place = Workplace.of(given, given.paths)
    sources, mistakes = DiskSources(), Complaints()
    policies = place.usable(sources)
    tests = place.tests(sources, mistakes)
    if mistakes.found:
        raise WrongUse("\n".join(map(str, (*sorted(mistakes.found), "passgate: the tests have mistakes."))))
    found = Coverage.of(place.settings.dir, sources)
    for one in tests:
        found.add(run_test(one, policies, place.surroundings).decided.traces)
    missed = [point for point in found.missed if place.asks_about(point.place.file)]
    points = [point for point in found.points if place.asks_about(point.place.file)]
    seen = len(points) - len(missed)
    enough = seen >= least * len(points)
    percent = f"{100 * seen / len(points):.1f}%" if points else "100%"
    summary = f"{seen} of {len(points)} seen by {counted(len(tests), 'test')}: {percent}"
    summary += "" if enough else f", where --min asks for {given.min}"
    severity = "warning" if enough else "error"
    findings = [_finding(severity, point, matched=point.rule in found.matched) for point in missed]
    report(findings, given.format, summary, seen=seen, points=len(points), tests=len(tests))
    return DONE if enough else TOO_LITTLE


def _finding(severity: str, point: Point, *, matched: bool) -> Finding:
    clause, _, truth = point.what.rpartition(" ")
    if not matched:
        text = "no test has a call that this rule matches"
    elif clause:
        text = f"no test has seen {clause} {truth}; {_REMEDY[truth]}"
    else:
        text = f"matched, but no test has seen that it {point.what}"
    return Finding(severity, point.place.file, point.place.line, point.rule, text)


def _share(text: str) -> Decimal:
    try:
        return Percent().read(ScalarNode("--min", 1, 1, text, "text"))
    except Misfit as misfit:
        raise WrongUse(f"passgate: --min: {misfit.problem}; {misfit.remedy}.") from None
