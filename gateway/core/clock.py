"""Time, as a part of what is wired: tests hand in a clock of their own."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """Wall-clock time for what is written down, monotonic time for what is measured."""

    def now(self) -> float:
        """Seconds since the epoch (UTC)."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...


class SystemClock:
    """The machine's clocks."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


def rfc3339(seconds: float) -> str:
    """Epoch seconds as RFC 3339 in UTC with microseconds: `2026-11-20T10:00:00.000000Z`."""
    whole, micro = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{_to_the_second(whole)}.{micro:06d}Z"


@lru_cache(maxsize=4)
def _to_the_second(seconds: int) -> str:
    """Formatting a date costs ten times what the rest of a log line does, so each second is formatted once."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
