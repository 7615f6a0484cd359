"""The usual issuer, clock and door."""

from __future__ import annotations

import pytest

from tests.identity.door import Door
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="session")
def rsa_issuer() -> Issuer:
    return Issuer(name="corp", iss="https://corp.example", alg="RS256")


@pytest.fixture
def door(issuer: Issuer, clock: SetClock) -> Door:
    return Door(issuer, clock=clock)
