"""Periods on the command line."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.ledger.period import Period, read_period, rfc3339_of

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def micro(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * 1_000_000  # type: ignore[misc,arg-type]  # year, month, day, …


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({}, Period()),
        ({"month": "2026-11"}, Period(micro(2026, 11, 1), micro(2026, 12, 1))),
        ({"month": "2026-12"}, Period(micro(2026, 12, 1), micro(2027, 1, 1))),
        ({"since": "2026-11-01"}, Period(micro(2026, 11, 1))),
        ({"since": "36h"}, Period(micro(2026, 11, 19))),
        ({"since": "2w", "end": "2026-11-20"}, Period(micro(2026, 11, 6, 12), micro(2026, 11, 20))),
        ({"start": "2026-11-01T08:00:00+02:00"}, Period(micro(2026, 11, 1, 6))),
    ],
)
def test_what_is_meant(said: dict[str, str], meant: Period) -> None:
    """Dates are UTC midnights, ages count back from now, a month is exactly its days."""
    assert read_period(now=NOW, **said) == meant


@pytest.mark.parametrize(
    "said",
    [
        {"month": "2026-13"},
        {"month": "november"},
        {"month": "9999-12"},
        {"month": "2026-11", "since": "1h"},
        {"since": "yesterday"},
        {"since": "1h", "start": "2026-11-01"},
        {"start": "2026-11-02", "end": "2026-11-02"},
        {"end": "' OR 1=1"},
    ],
)
def test_what_means_nothing_is_a_sentence(said: dict[str, str]) -> None:
    """A wrong time names its option and what would be right."""
    with pytest.raises(ValueError, match="--"):
        read_period(now=NOW, **said)


def test_times_are_exact_to_the_microsecond() -> None:
    """No float stands between the stored microseconds and their text."""
    assert rfc3339_of(micro(2026, 11, 20) + 1) == "2026-11-20T00:00:00.000001Z"
    assert rfc3339_of(micro(2200, 1, 1) - 1) == "2199-12-31T23:59:59.999999Z"
