"""`passgate attest`, as a developer and an operator type it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.attestations import Attesters
from gateway.cli import main
from gateway.config import load
from gateway.core.attestation import Attestation
from gateway.core.clock import SystemClock
from gateway.core.sources import DiskSources
from tests.simulator.attester import Attester

CONFIG = """
identity:
  audience: https://gateway.example
  issuers: [{name: dev, iss: https://issuer.example, keys: {file: jwks.json}}]
agents:
  - {id: buyer, issuer: dev, subject: agent/buyer}
attesters:
  - {name: fraud-service, keys: {file: fraud.json}, may_attest: [fraud-check, limit-check]}
"""
SIGN = ("sign", "--agent", "buyer", "--run", "r1", "--step", "fraud-check")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    return file


@pytest.fixture
def keyed(config: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """With a key for the attester."""
    assert main(["keys", "new", "--file", str(config.parent / "fraud.json"), "--config", str(config)]) == 0
    capsys.readouterr()
    return config


def attest(config: Path, *words: str) -> int:
    """Run the command with this configuration."""
    try:
        return main(["attest", *words, "--config", str(config)])
    except SystemExit as left:  # argparse's own refusals
        return int(str(left.code))


def verdict(config: Path, text: str) -> object:
    """What a gateway with this configuration makes of it."""
    settings = load(config, DiskSources()).settings
    attesters = Attesters.build(settings.attesters, DiskSources(), settings.identity, SystemClock())
    return attesters.examine(text, ("agent/buyer", "buyer"), None)


def test_what_is_signed_counts(keyed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An attestation is one command away, and is all that the command prints; a subject's values keep their types."""
    subject = ("order_id=A1", "amount:=100", "gift:=true", "note=a=b", 'quoted:="5"')
    words = [word for member in subject for word in ("--subject", member)]
    assert attest(keyed, *SIGN, *words, "--outcome", "failed", "--ttl", "90s", "--evidence-hash", "sha-256:00") == 0
    printed = capsys.readouterr()
    found = verdict(keyed, printed.out.removesuffix("\n"))
    assert isinstance(found, Attestation)
    assert found.subject == {"order_id": "A1", "amount": 100, "gift": True, "note": "a=b", "quoted": "5"}
    assert (found.agent, found.run, found.outcome, found.evidence_hash) == ("buyer", "r1", "failed", "sha-256:00")
    assert found.expires - found.at == 89_000_001  # what did not pass counts from the end of its second
    assert printed.err == ""


def test_a_chain_is_signed(keyed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `verify` calls its digest is what the next one names as `prev`."""
    assert attest(keyed, *SIGN) == 0
    first = capsys.readouterr().out.strip()
    assert attest(keyed, "verify", first) == 0
    digest = next(line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("digest"))
    assert attest(keyed, *SIGN, "--prev", digest) == 0
    found = verdict(keyed, capsys.readouterr().out.strip())
    assert isinstance(found, Attestation)
    earlier = verdict(keyed, first)
    assert isinstance(earlier, Attestation)
    assert found.prev == earlier.digest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--step", "audit"), "may not attest the step audit"),
        (("--ttl", "2h"), "max_lifetime"),
        (("--run", "r 1"), "run is not an id"),
        (("--prev", "x"), "prev is not"),
        (("--attester", "auditor"), "choose an attester with --attester: fraud-service"),
        (("--key", "nowhere.json"), "nowhere.json is missing: run `passgate keys new --file"),
        (("--subject", "x:=1.5"), "minor units"),
        (("--subject", "x:={}"), "strings, integers and booleans"),
        (("--subject", "x:=y"), "is not JSON"),
        (("--subject", "x"), "NAME=TEXT"),
        (("--subject", "=x"), "NAME=TEXT"),
        (("--outcome", "ok"), "invalid choice"),
        (("--ttl", "0s"), "--ttl"),
    ],
)
def test_what_would_not_count_is_not_signed(
    words: tuple[str, ...], said: str, keyed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 with a sentence, and nothing on standard output."""
    code = attest(keyed, *SIGN, *words)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert said in err


def test_without_a_key(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence says how to get one."""
    assert attest(config, *SIGN) == 2
    assert "passgate keys new --file" in capsys.readouterr().err
    assert attest(config, "verify", "x") == 2
    assert "the keys of attester fraud-service cannot be read" in capsys.readouterr().err


def test_every_reason_is_printed(keyed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who verifies one sees all that is wrong with it and what to do, and exit code 1."""
    attester = Attester(audience="https://other.example")
    (keyed.parent / "fraud.json").write_bytes(attester.jwks())
    text = attester.attest(agent="seller", step="audit", subject={"x": 1.5})
    assert attest(keyed, "verify", "--agent", "buyer", "--run", "r2", text) == 1
    out = capsys.readouterr().out
    refused = [line.split()[0] for line in out.splitlines() if " refused " in line]
    assert refused == ["10", "15", "16", "17", "18"]
    assert "refused: 5 reasons" in out
    assert out.count("->") == 5


def test_from_a_file(keyed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A DSSE envelope is in a file more often than not, with the white space that editors add."""
    attester = Attester()
    (keyed.parent / "fraud.json").write_bytes(attester.jwks())
    (keyed.parent / "a.json").write_text(f" {attester.dsse(agent='agent/buyer')}\r\n")
    assert attest(keyed, "verify", f"@{keyed.parent / 'a.json'}", "--agent", "buyer", "--run", "r1") == 0
    assert "it counts" in capsys.readouterr().out


@pytest.mark.parametrize("given", [["-"], []])
def test_from_standard_input(given: list[str], keyed: Path) -> None:
    """What another command prints can be piped in."""
    attester = Attester()
    (keyed.parent / "fraud.json").write_bytes(attester.jwks())
    command = [sys.executable, "-m", "gateway", "attest", "verify", *given, "--config", str(keyed)]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    text = f"\n{attester.attest()}\n"
    done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
    assert "it counts" in done.stdout


def test_for_a_program(keyed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same as JSON."""
    assert attest(keyed, *SIGN) == 0
    text = capsys.readouterr().out.strip()
    assert attest(keyed, "verify", "--format", "json", text) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (told["counts"], told["claims"]["step"]) == (True, "fraud-check")
    assert {one["outcome"] for one in told["steps"]} == {"ok"}
    assert attest(keyed, "verify", "--format", "json", "--run", "r9", text) == 1
    told = json.loads(capsys.readouterr().out)
    assert [(one["code"], one["step"]) for one in told["steps"] if one["code"]] == [("other_run", 18)]


@pytest.mark.parametrize("text", ["", " ", "@nowhere"])
def test_nothing_to_look_at(text: str, keyed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong use is exit code 2 and a sentence."""
    assert attest(keyed, "verify", text) == 2
    assert capsys.readouterr().err.startswith("passgate: ")


def test_what_it_says_does_not_speak_to_the_terminal(keyed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever somebody writes into one is printed escaped."""
    attester = Attester()
    (keyed.parent / "fraud.json").write_bytes(attester.jwks())
    for odd in ("\x1b[2J", "\u202e", "\x9b"):
        text = attester.attest(agent=odd, run=odd, step=odd, outcome=odd, iss=odd, subject={odd: odd})
        assert attest(keyed, "verify", text) == 1
        assert odd not in capsys.readouterr().out
