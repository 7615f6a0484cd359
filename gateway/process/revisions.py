"""The revision of the policies goes one way: up.

1. A set of a lower revision than the highest that was ever taken is refused, at a reload and at a start.
2. The highest is durable from the moment a set is taken. While the store takes no writes it is kept in mind and
   written down as soon as it does.
3. Policies without a bundle have revision 0, and whether they may be so says the configuration alone.
"""

from __future__ import annotations

import asyncio

from gateway.state import Durable, StoreUnavailable
from gateway.state.revision import highest_revision, record_revision


class Revisions:
    """The highest revision; knows of none before `open`."""

    def __init__(self) -> None:
        self._highest = self._written = 0
        self._store: Durable | None = None

    async def open(self, store: Durable) -> None:
        """Read what was written down in `store`; raises `StoreUnavailable`."""
        self._store = store
        self._highest = self._written = await store.read(highest_revision)

    def problems(self, revision: int) -> list[str]:
        """Why a set of this revision cannot be taken, in a sentence; empty where it can."""
        if not revision or revision >= self._highest:
            return []
        problem = f"the policies are signed as revision {revision}, and this gateway has taken {self._highest} before"
        return [f"{problem}; put those back, or sign these with --revision {self._highest + 1}"]

    async def take(self, revision: int) -> None:
        """Note that a set of this revision is in force."""
        self._highest = max(self._highest, revision)
        await self.tend()

    async def tend(self) -> None:
        """Write down what is not written yet; to be called again and again."""
        highest = self._highest
        if self._store is None or highest <= self._written:
            return
        try:
            await asyncio.wrap_future(self._store.submit(lambda conn: record_revision(conn, highest)))
        except StoreUnavailable:
            return  # the store says so itself, and this is tried again
        self._written = max(self._written, highest)
