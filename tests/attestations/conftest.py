"""One attester, and a gateway that believes it about its steps."""

from __future__ import annotations

import pytest

from tests.attestations.board import Board
from tests.simulator.attester import Attester
from tests.simulator.clock import SetClock


@pytest.fixture
def clock() -> SetClock:
    """A clock that stands still."""
    return SetClock()


@pytest.fixture
def attester() -> Attester:
    """Who checks for fraud."""
    return Attester()


@pytest.fixture
def board(attester: Attester, clock: SetClock) -> Board:
    """Who believes it."""
    return Board(attester, clock=clock)
