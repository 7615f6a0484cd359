"""The stop list of one worker: what it knows, and for how long that counts."""

from __future__ import annotations

import pytest

from gateway.core.principal import StopKey
from gateway.core.stop import Stop
from gateway.identity.stops import OLDEST, StopList
from tests.simulator.clock import SetClock

A, B, C = (StopKey("agent", name) for name in "abc")


def entry(key: StopKey, since: float = 1.0) -> Stop:
    return Stop(key, since, "ada", "")


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def test_an_empty_list_is_too_old_until_it_was_told(clock: SetClock) -> None:
    """Who has heard nothing yet may let nobody in, not even where nothing is stopped."""
    stops = StopList(clock)
    assert not stops.fresh()
    stops.adopt(1, clock.monotonic(), [])
    assert stops.fresh()


def test_it_ages_by_the_time_of_what_was_said(clock: SetClock) -> None:
    """An assurance counts from when it was given, not from when it was read; an older one takes nothing back."""
    stops = StopList(clock)
    stops.adopt(1, clock.monotonic(), [])
    clock.pass_(OLDEST - 0.001)
    assert stops.fresh()
    clock.pass_(0.001)
    assert not stops.fresh()
    stops.heard(1, clock.monotonic() - OLDEST)
    assert not stops.fresh()
    stops.heard(1, clock.monotonic() - 0.5)
    stops.heard(1, clock.monotonic() - 0.9)
    clock.pass_(0.49)
    assert stops.fresh()
    clock.pass_(0.01)
    assert not stops.fresh()


def test_an_assurance_of_another_version_does_not_count(clock: SetClock) -> None:
    """Whoever has missed a change grows too old, however often the present version is confirmed."""
    stops = StopList(clock)
    stops.adopt(1, clock.monotonic(), [])
    clock.pass_(OLDEST)
    stops.heard(2, clock.monotonic())
    stops.heard(0, clock.monotonic())
    assert not stops.fresh()


def test_changes_come_in_order(clock: SetClock) -> None:
    """Each adds and removes; one that is known already does nothing again, one that comes too early is an error."""
    stops = StopList(clock)
    stops.adopt(7, clock.monotonic(), [entry(A)])
    stops.change(8, clock.monotonic(), [entry(B)], [A, C])
    assert stops.find([A]) is None
    assert stops.find([A, B]) == entry(B)
    stops.change(7, clock.monotonic(), [entry(A)], [B])
    stops.change(8, clock.monotonic(), [], [B])
    assert stops.find([B]) == entry(B)
    with pytest.raises(ValueError, match="change 10 of the stop list came after 8"):
        stops.change(10, clock.monotonic(), [entry(C)], [])
    clock.pass_(OLDEST)
    stops.heard(10, clock.monotonic())
    assert not stops.fresh()


def test_the_oldest_of_several_is_told() -> None:
    """What a principal is told does not hang on the order of its keys."""
    stops = StopList(SetClock())
    stops.adopt(1, 0.0, [entry(A, since=2.0), entry(B, since=1.0)])
    assert stops.find([A, B, C]) == stops.find([C, B, A]) == entry(B, since=1.0)
    assert stops.find(frozenset([C])) is None
    assert stops.find([StopKey("issuer", "a")]) is None
