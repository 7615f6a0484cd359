"""A clock that a test sets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class SetClock:
    """Stands still until `pass_` moves both of its hands."""

    time: float = 1_800_000_000.0  # 2027-01-15, epoch seconds

    def now(self) -> float:
        """See `core.clock.Clock`."""
        return self.time

    def monotonic(self) -> float:
        """See `core.clock.Clock`."""
        return self.time

    def pass_(self, seconds: float) -> None:
        """Let time go by."""
        self.time += seconds
