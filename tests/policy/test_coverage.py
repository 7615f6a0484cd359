"""Coverage: what of the rules the tests have seen, no more and no less."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.sources import DiskSources
from gateway.policy import Known, load
from gateway.policy.coverage import Coverage
from gateway.policy.settings import PoliciesSettings
from gateway.policy.testing import Surroundings, read_tests, run_test
from gateway.settings.complaints import Complaints

POLICY = """version: 1
policy: p
rules:
  - {id: pays, effect: allow, match: {tools: [pay.charge]}, when: 'args.amount <= 100'}
  - id: checked
    effect: require
    match: {tools: [pay.charge]}
    requires:
      - attestation: {step: check}
      - attestation: {step: stock}
    approve: {when: 'args.amount > 50', approvers: ["group:desk"]}
  - {id: never, effect: deny, match: {tools: [pay.refund]}}
  - {id: silent, effect: allow, match: {tools: [mail.send]}}
"""
LINES = {
    "pays": 4, "checked": 5, "never": 12, "silent": 13, "requires[0]": 9, "requires[1]": 10, "approve.when": 11,
}  # fmt: skip


def seen(folder: Path, *tests: str) -> Coverage:
    """What these tests see."""
    (folder / "p.yaml").write_text(POLICY)
    lines = "".join(f"  - {{name: t, given: {{agent: a, {one}}}, expect: deny}}\n" for one in tests)
    (folder / "t_test.yaml").write_text(f"version: 1\ntests:\n{lines}")
    said, sources = Complaints(), DiskSources()
    policies = load(PoliciesSettings(dir=folder), sources, Known(), said)
    found = Coverage.of(folder, sources)
    for test in read_tests(folder, sources, Surroundings(), said):
        found.add(run_test(test, policies, Surroundings()).decided.traces)
    assert said.found == []
    return found


def missed(coverage: Coverage) -> set[str]:
    """What was not seen, without the policy's name."""
    return {f"{point.rule.removeprefix('p/')}: {point.what}" for point in coverage.missed}


ALL = {
    "pays: granted", "pays: when true", "pays: when false", "checked: held",
    *(f"checked: requires[{n}] {truth}" for n in (0, 1) for truth in ("true", "false")),
    "checked: approve.when true", "checked: approve.when false", "never: denied", "silent: granted",
}  # fmt: skip
PAY = "tool: pay.charge, run: {id: r}"
BOTH = "attestations: [{step: check}, {step: stock}]"


@pytest.mark.parametrize(
    ("tests", "covers"),
    [
        (["tool: else.where"], set[str]()),
        (["tool: pay.refund"], {"never: denied"}),
        (["tool: mail.send"], {"silent: granted"}),
        (
            [f"{PAY}, args: {{amount: 1}}"],
            {
                "pays: granted", "pays: when true", "checked: approve.when false",
                "checked: requires[0] false", "checked: requires[1] false",
            },
        ),
        (
            [f"{PAY}, args: {{amount: 101}}, {BOTH}"],
            {
                "pays: when false", "checked: approve.when true", "checked: held",
                "checked: requires[0] true", "checked: requires[1] true",
            },
        ),
        (  # what has no value does not hold
            [f"{PAY}, {BOTH}"],
            {
                "pays: when false", "checked: approve.when false",
                "checked: requires[0] true", "checked: requires[1] true",
            },
        ),
        (
            [
                *("tool: pay.refund", "tool: mail.send", f"{PAY}, args: {{amount: 1}}"),
                f"{PAY}, args: {{amount: 101}}, {BOTH}",
            ],
            ALL,
        ),
    ],
)  # fmt: skip
def test_what_tests_see(tests: list[str], covers: set[str], tmp_path: Path) -> None:
    """A rule is seen when it acts, a condition once when it holds and once when it does not."""
    assert missed(seen(tmp_path, *tests)) == ALL - covers


def test_where_it_stands(tmp_path: Path) -> None:
    """Each point says the file and the line of its rule or of its condition."""
    for point in seen(tmp_path, "tool: a.b").points:
        rule, clause = point.rule.removeprefix("p/"), point.what.rpartition(" ")[0]
        assert Path(point.place.file).name == "p.yaml"
        assert point.place.line == LINES.get(clause, LINES[rule])


def test_which_rules_no_test_reaches(tmp_path: Path) -> None:
    """A rule that no test matches is told apart from one that never acted."""
    assert seen(tmp_path, "tool: pay.charge, args: {amount: 101}").matched == {"p/pays", "p/checked"}
