"""`passgate policy test`: what the policies decide of the calls that are written down as tests."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

from gateway.cli import DONE, WRONG_USE
from gateway.cli.policy_report import Finding, clause_lines, counted, report
from gateway.cli.policy_sources import Workplace
from gateway.core.sources import DiskSources
from gateway.policy.testing import Outcome, run_test
from gateway.settings import Complaints

FAILED: Final = 1
_NONE: Final = """\
there are no tests. Write one into a policy file, or into a file of its own, such as {folder}/first_test.yaml:

version: 1
tests:
  - name: nobody pays without being told to
    given: {{agent: AGENT, tool: SERVER.OPERATION, args: {{amount: 100}}}}
    expect: deny"""


def test(given: argparse.Namespace) -> int:
    """Run them; 1 where one fails or there is none, 2 where one cannot be run."""
    place = Workplace.of(given, given.paths)
    sources, mistakes = DiskSources(), Complaints()
    policies = place.usable(sources)
    tests = place.tests(sources, mistakes)
    errors = [Finding.of("error", one) for one in sorted(mistakes.found) if place.asks_about(one.file)]
    if errors:
        report(errors, given.format, f"{counted(len(errors), 'mistake')}, so no test was run", tests=0, failed=0)
        return WRONG_USE
    outcomes = [run_test(one, policies, place.surroundings) for one in tests]
    if not outcomes:
        summary = _NONE.format(folder=place.settings.dir)
        report([], given.format, f"passgate: {summary}", tests=0, failed=0)
        return FAILED
    failed = [one for one in outcomes if one.differences]
    summary = f"{counted(len(outcomes), 'test')}, {len(failed) or 'none'} failed"
    report(map(finding, failed), given.format, summary, tests=len(outcomes), failed=len(failed))
    return FAILED if failed else DONE


def finding(outcome: Outcome) -> Finding:
    """A test that failed: what was expected, what came, and which clauses made it so."""
    test, place = outcome.placed
    text = "\n".join([*outcome.differences, *(f"  {line}" for line in _why(outcome))])
    return Finding("error", place.file, place.line, f"test {test.name!r}", text)


def _why(outcome: Outcome) -> Iterator[str]:
    """What the rules that match say; of those that are as expected no more than that."""
    for one in outcome.decided.traces:
        shadow = " (shadow)" if one.hit.mode == "shadow" else ""
        yield f"{one.hit.name} {one.says}{shadow}"
        failed = (clause for clause in one.clauses if not one.acts and clause.value is not True)
        yield from (
            f"  {line}" for clause in failed if clause.clause != "approve.when" for line in clause_lines(clause)
        )
    if not outcome.decided.traces:
        yield outcome.decided.decision.message or "no rule matches this call"
