"""`passgate policy lint`: what is wrong with policies, whether a gateway would take them or not, and what is odd."""

from __future__ import annotations

import argparse
from typing import Final

from gateway.cli import DONE
from gateway.cli.policy_report import Finding, counted, report
from gateway.cli.policy_sources import Workplace
from gateway.core.sources import DiskSources
from gateway.settings import Complaints

FOUND: Final = 1


def lint(given: argparse.Namespace) -> int:
    """Print all of them; 1 where there is a mistake, or with `--strict` a warning."""
    place = Workplace.of(given, given.paths)
    sources, mistakes = DiskSources(), Complaints()
    policies = place.load(sources, mistakes)
    if not mistakes.total:
        place.tests(sources, mistakes)
    wrong = sorted((*mistakes.found, *policies.errors))
    errors = [Finding.of("error", one) for one in wrong if place.asks_about(one.file)]
    warnings = [Finding.of("warning", one) for one in sorted(policies.warnings) if place.asks_about(one.file)]
    summary = f"{place.settings.dir}: {counted(policies.size, 'rule')}, {counted(len(errors), 'mistake')}, "
    summary += counted(len(warnings), "warning")
    report([*errors, *warnings], given.format, summary, mistakes=len(errors), warnings=len(warnings))
    return FOUND if errors or (given.strict and warnings) else DONE
