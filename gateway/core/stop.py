"""What an operator has stopped."""

from __future__ import annotations

from msgspec import Struct

from gateway.core.principal import StopKey


class Stop(Struct, frozen=True, array_like=True):
    """One entry of the stop list."""

    key: StopKey
    since: float  # epoch seconds
    by: str  # the operator's id
    reason: str  # for operators; the stopped agent is not told


def run_key(run: str, agent: str = "") -> StopKey:
    """A run by its id, of one agent (`agent/run`) or of all: neither id has a slash."""
    return StopKey("run", f"{agent}/{run}" if agent else run)
