"""The guard: what was seen is not new, for as long as anybody would take it; and never without bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Refusal
from gateway.identity.replay import ReplayGuard
from tests.simulator.clock import SetClock


def test_a_proof_is_new_once(clock: SetClock) -> None:
    """I15: the second time it is not new, until the very end of its time; another one is."""
    guard = ReplayGuard(clock)
    until = clock.time + 35
    assert guard.first_use(b"one", until)
    assert guard.first_use(b"two", until)
    for _ in range(35):
        assert not guard.first_use(b"one", until)
        clock.pass_(1)
    assert not guard.first_use(b"one", until)


def test_another_end_does_not_make_it_new(clock: SetClock) -> None:
    """I15: the same key and `jti` with another `iat` is not new either, while the first is remembered."""
    guard = ReplayGuard(clock)
    assert guard.first_use(b"one", clock.time + 5)
    assert not guard.first_use(b"one", clock.time + 64)


def test_what_comes_too_late_is_not_new(clock: SetClock) -> None:
    """A question that waited past the end of the proof's time cannot be answered, so it is not new."""
    guard = ReplayGuard(clock)
    assert not guard.first_use(b"late", clock.time)
    assert guard.first_use(b"in time", clock.time + 0.001)


def test_a_clock_that_is_set_back(clock: SetClock) -> None:
    """What was forgotten does not become new when the clock is set back to where it would hold again."""
    guard = ReplayGuard(clock)
    until = clock.time + 35
    assert guard.first_use(b"one", until)
    clock.pass_(60)
    assert guard.first_use(b"two", until + 60)  # by now the first is forgotten
    assert len(guard) == 1
    clock.pass_(-60)
    assert not guard.first_use(b"one", until)
    assert not guard.first_use(b"two", until + 60)


def test_memory_is_given_back(clock: SetClock) -> None:
    """However many come by, only those are kept that still could be replayed."""
    guard = ReplayGuard(clock)
    for number in range(1000):
        assert guard.first_use(b"%d" % number, clock.time + 35)
        clock.pass_(1)
        assert len(guard) <= 35 + 10


def test_a_full_guard_refuses_and_forgets_nothing(clock: SetClock) -> None:
    """Beyond its bound it says 503 and to come back; what it remembers stays, and room comes with time."""
    guard = ReplayGuard(clock, most=3)
    for number in range(3):
        assert guard.first_use(b"%d" % number, clock.time + 35)
    with pytest.raises(Refusal) as caught:
        guard.first_use(b"more", clock.time + 35)
    assert (caught.value.code, caught.value.status) == ("overloaded", 503)
    assert not any(guard.first_use(b"%d" % number, clock.time + 35) for number in range(3))
    clock.pass_(50)
    assert guard.first_use(b"more", clock.time + 35)


@given(
    st.lists(
        st.tuples(st.floats(-20, 20), st.sampled_from([b"a", b"b", b"c"]), st.floats(-30, 30)), min_size=2, max_size=30
    )
)
def test_no_proof_is_ever_new_twice(steps: list[tuple[float, bytes, float]]) -> None:
    """Whatever the clock does, a proof of one `iat` is new at most once."""
    clock = SetClock()
    guard = ReplayGuard(clock)
    new: set[tuple[bytes, float]] = set()
    for passed, proof, made in steps:
        clock.pass_(passed)
        until = 1_800_000_000.0 + round(made) + 35
        if guard.first_use(proof, until):
            assert (proof, until) not in new
            new.add((proof, until))
