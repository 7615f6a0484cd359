"""What workers settle goes into the store, and its effects to whoever counts on them; so does what dead workers left.

1. A batch is answered after its commit, and counts once, however often it comes.
2. The workers know within a moment when the store takes no writes, and when it does again.
3. What a dead worker left is posted before anything that it had reserved is given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.core.clock import Clock
from gateway.core.errors import Refusal
from gateway.ledger import Batch, Posted, Poster, recover
from gateway.process.in_force import InForce
from gateway.process.messages import (
    StoreState,
)
from gateway.process.pool import WorkerPool
from gateway.state import Durable, StoreUnavailable
from gateway.telemetry.metrics import Registry

_LOOK_EVERY: Final = 0.5
"""Seconds between two looks at the store."""
_LEFTOVERS_EVERY: Final = 2.0
"""Seconds between two looks at what dead workers left."""


class Bookkeeping:
    """The supervisor's side of all workers' books; `posted` hears of everything that is committed."""

    def __init__(
        self,
        store: Durable,
        pool: WorkerPool,
        registry: Registry,
        now: InForce,
        clock: Clock,
        *,
        recovery: Path,
        posted: Callable[[Posted], None],
    ) -> None:
        """`recovery` is the folder of the workers' files; `registry` counts the rows."""
        self._store = store
        self._poster = Poster(store)
        self._pool = pool
        self._registry = registry
        self._now = now
        self._clock = clock
        self._recovery = recovery
        self._posted = posted
        self._told: str | None = None  # the trouble that workers were last told of
        self._recovering = asyncio.Lock()

    async def post(self, batch: Batch) -> None:
        """Commit a batch; raises `Refusal` (`store_unavailable`)."""
        try:
            posted = await self._poster.post(batch)
        except StoreUnavailable as error:
            self._tell()
            sentence = "the durable store takes no writes; retry later"
            raise Refusal("store_unavailable", sentence, detail=str(error)) from error
        for row in posted.rows:
            self._registry.count_row(row)
        for row in posted.rejected:
            self._now.log.error("row_rejected", request_id=row.request_id, attempt=row.attempt)
        self._posted(posted)
        self._tell()

    async def tend(self) -> None:
        """For ever: a store heals by itself and tells nobody, a worker whose own supervisor was killed dies unseen."""
        looked_at = self._clock.monotonic()
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            self._tell(again=True)
            await self._now.revisions.tend()
            if self._clock.monotonic() - looked_at > _LEFTOVERS_EVERY:
                await self.post_leftovers()
                looked_at = self._clock.monotonic()

    async def post_leftovers(self) -> None:
        """Post what dead workers left. What cannot be posted now stays, and is looked at again and again."""
        async with self._recovering:
            try:
                recovered = await recover(self._recovery, self.post)
            except (OSError, Refusal) as error:
                reason = (isinstance(error, Refusal) and error.detail) or str(error)
                self._now.log.error("recovery_failed", error=reason)
                return
        if recovered.rows or recovered.damaged:
            self._now.log.warning("recovered", rows=recovered.rows, damaged=recovered.damaged)

    def _tell(self, *, again: bool = False) -> None:
        """Let the workers know when the store fails or works again; `again` reminds them while it fails."""
        trouble, told = self._store.trouble, self._told
        self._told = trouble
        if trouble and not told:
            self._now.log.error("store_failed", error=trouble)
        elif told and not trouble:
            self._now.log.info("store_recovered")
        if bool(trouble) != bool(told) or (trouble and again):
            for worker in self._pool.serving:
                worker.channel.tell(StoreState(trouble is None))
