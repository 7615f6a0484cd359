"""The stop list as one worker has it: what is stopped, and how old that knowledge is.

The supervisor keeps the list. A worker gets all of it at its start (`adopt`), every change with the
next version number (`change`), and four times a second the assurance that a version still held at some
moment (`heard`). Those moments are on the monotonic clock, which all processes of one machine share, so
that an assurance which waited in a full socket does not count as a fresh one.

Pure: time is asked of the clock that is handed in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.core.clock import Clock
from gateway.core.principal import StopKey
from gateway.core.stop import Stop

OLDEST: Final = 1.0
"""Seconds after which what is known may no longer be acted on."""


class StopList:
    """What may not call; empty and too old until `adopt`."""

    __slots__ = ("_monotonic", "_stops", "_until", "version")

    def __init__(self, clock: Clock) -> None:
        """`clock.monotonic()` is on the supervisor's clock too."""
        self._monotonic = clock.monotonic
        self._stops: dict[StopKey, Stop] = {}
        self._until = float("-inf")
        self.version = 0

    def adopt(self, version: int, at: float, stops: Iterable[Stop]) -> None:
        """Take the whole list, as it was at the moment `at`."""
        self._stops = {stop.key: stop for stop in stops}
        self.version = version
        self.heard(version, at)

    def change(self, version: int, at: float, added: Iterable[Stop], removed: Iterable[StopKey]) -> None:
        """Take a change; one that is known already changes nothing.

        Raises `ValueError` where one before it is missing: then the list grows too old, and nobody is let in.
        """
        if version > self.version + 1:
            raise ValueError(f"change {version} of the stop list came after {self.version}")
        if version == self.version + 1:
            self._stops.update((stop.key, stop) for stop in added)
            for key in removed:
                self._stops.pop(key, None)
            self.version = version
        self.heard(version, at)

    def heard(self, version: int, at: float) -> None:
        """At the moment `at` this version held."""
        if version == self.version:
            self._until = max(self._until, at + OLDEST)

    def fresh(self) -> bool:
        """Whether it is young enough to let anybody in."""
        return self._monotonic() < self._until

    def find(self, keys: Iterable[StopKey]) -> Stop | None:
        """The oldest entry that is among `keys`, if any is."""
        stops = self._stops
        if not stops:
            return None
        return min((stops[key] for key in keys if key in stops), key=lambda stop: stop.since, default=None)
