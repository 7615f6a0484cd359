"""`passgate demo` as somebody sees it who types it in an empty folder, and what it says when a step fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli.demo import RULES, walk_through
from tests.simulator.gateway import ROOT, alive, eventually


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of one run, in a folder that has nothing of the repository."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "demo"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "http_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
        timeout=55,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert list(folder.iterdir()) == []  # it takes its own folder away
    return done.stdout


@pytest.mark.parametrize(
    "line",
    [
        r"without a token is refused:\n +401 identity_missing: .+\.",
        r"forged one.+:\n +401 identity_invalid: .+\.",
        r"without a fraud check:\n +403 attestation_required: .+ is not attested in this run\.",
        r"no check of A1:\n +403 attestation_required: .+ about something else \(its order_id is another\)\.",
        r"A1 checked: 200\n +and pays it: 200\n +but not twice:\n +403 attestation_required: .+",
        r"waits for a person:\n +403 approval_required: .+\n +passgate approvals approve apr_.+\n.+ through: 200",
        r"may never pay:\n +403 policy_denied: .*demo/support-never-pays.*Support does not move money\.",
        r"own record: 2 payments",
        r"killed right after an answer: 200\n.+answers: 200\n.+is in the ledger",
        r"not built yet: 64 sub-agents",
        r"steps 7, tool_calls 5, tokens \d+, cost_usd 0\.020188",
        r"\n +total .+\n",
        r"security asks: passgate audit verify\n +\d+ lines in 1 file of .*: every one as it was written",
        r"\nAll of it went as announced, in \d+ s\. ",
    ],
)
def test_it_shows_what_is_built_and_names_what_is_not(shown: str, line: str) -> None:
    """§11: one line and its result for each part, in an empty folder, whatever proxy the environment names."""
    assert re.search(line, shown), shown


def test_a_step_that_goes_otherwise_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """§11: with a policy that lets an unchecked order be paid, it says which step that was, what came, and exits 1."""
    lenient = RULES.replace("effect: require", "effect: require\n    mode: shadow")
    assert walk_through(lenient) == 1
    out, err = capsys.readouterr()
    said = "it wants to pay order A1 without a fraud check: expected 403 attestation_required, got 200"
    assert err == f"\nThe demo stops here: {said}\n"
    assert "it streams as well: 200" in out


def test_a_gateway_that_does_not_start_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    """§11: the gateway's own words are what is printed, and the exit code is 1."""
    assert walk_through(RULES.replace("effect: deny", "effect: perhaps")) == 1
    assert re.search(r"did not start:\n.*demo\.yaml:15: ", capsys.readouterr().err)


def test_it_takes_its_gateway_along_when_it_is_told_to_stop(tmp_path: Path) -> None:
    """§11: SIGTERM in the middle ends the demo and the gateway that it started, and leaves no folder."""
    demo = subprocess.Popen(
        [sys.executable, "-u", "-m", "gateway", "demo"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with demo:
        assert demo.stdout is not None
        assert demo.stdout.readline().startswith("A gateway of its own")
        (child,) = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
        demo.terminate()
        assert demo.wait(30) == 128 + 15
    eventually(lambda: not alive(int(child)), "the gateway lives on")
    assert list(tmp_path.iterdir()) == []
