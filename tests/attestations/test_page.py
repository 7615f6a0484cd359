"""The page about attestations names every reason that one is refused for, and every claim."""

from __future__ import annotations

from pathlib import Path

from tests.attestations.board import Board
from tests.simulator.attester import Attester
from tests.simulator.clock import SetClock

PAGE = (Path(__file__).parents[2] / "docs" / "attestations.md").read_text()


def test_every_claim_is_explained() -> None:
    """What an attestation says stands in a table."""
    rows = " ".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `"))
    claims = (*Attester().claims(), "evidence_hash", "prev")
    assert [name for name in claims if f"`{name}`" not in rows] == []


def test_every_reason_is_explained() -> None:
    """So does whatever code the verifier and the book of attestations give."""
    board = Board(Attester(), clock=SetClock())
    codes = {step.code for step in board.attesters._verifier.steps}
    codes |= {"revoked", "chain", "replayed", "consumed", "superseded"}
    assert [code for code in sorted(codes) if f"`{code}`" not in PAGE] == []
