"""What is promised of a figure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """A promise about a figure."""

    what: str
    value: float
    most: float

    def __str__(self) -> str:
        verdict = "holds" if self.value <= self.most else "BROKEN"
        return f"{verdict:<7} {self.what}: {self.value:.2f}, at most {self.most:g}"
