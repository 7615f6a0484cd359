"""The worker's book: what a call cost is in here before its last byte leaves.

1. `post` returns after the row is in the recovery file; its commit follows within some 50 ms.
2. `post_durable` returns after the commit.
3. A row that was taken is sent until it is acknowledged. A recovery file is emptied only when all
   it holds is acknowledged, so a row is sent twice rather than never; posting twice has one effect.
4. While rows can be neither written down nor committed, `check` lets no new call in.

Two files take turns: one is written to while the rows of the other one are on their way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from gateway.core.approval import ApprovedOutcome
from gateway.core.clock import Clock
from gateway.core.errors import Refusal
from gateway.core.row import LedgerRow
from gateway.core.run import RunDelta
from gateway.ledger.posting import Batch, Posting, frame
from gateway.ledger.segment import Segment

_INTERVAL: Final = 0.05
"""Seconds until a row is sent, at the latest."""
_ENOUGH: Final = 256
"""Postings that are sent without waiting for the interval."""
_CHUNK: Final = 2_000
"""Postings in one batch, so that a long backlog does not become one huge frame."""
_MOST: Final = 100_000
"""Postings that may wait; they are kept in memory and on disk."""
_STALLED: Final = 5.0
"""Seconds without an acknowledgement after which no new call is let in."""
_RETRY: Final = (0.1, 0.2, 0.5, 1.0)
_PROBE_EVERY: Final = 0.5

_SENTENCE: Final = "what calls cost cannot be written down at the moment; try again shortly"


class Book:
    """The ledger as one worker sees it. Used from one event loop."""

    def __init__(
        self, recovery_dir: Path, worker_name: str, submit: Callable[[Batch], Awaitable[object]], clock: Clock
    ) -> None:
        """`submit` returns once the batch is committed and raises when it may not be; raises `OSError`."""
        self._submit = submit
        self._clock = clock
        self._active = Segment.open(recovery_dir, worker_name)
        self._sealed = Segment.open(recovery_dir, worker_name)
        self._pending: list[Posting] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._on_their_way = 0
        self._sent_at = 0.0
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sending: asyncio.Task[None] | None = None
        self._disk_trouble: str | None = None
        self._submit_trouble: str | None = None
        self._probed_at = 0.0
        self.store_healthy = True  # what the supervisor last told of its store

    def start(self) -> None:
        """Begin to send; call it inside the event loop."""
        self._loop = asyncio.get_running_loop()
        self._sending = self._loop.create_task(self._send_regularly())
        if self._pending:
            self._wake.set()

    @property
    def queued(self) -> int:
        """Postings that are not acknowledged yet."""
        return len(self._pending) + self._on_their_way

    @property
    def trouble(self) -> str | None:
        """Why no new call may begin, for the log; `None` while all is well."""
        if self._disk_trouble is not None:
            return self._disk_trouble
        if self._submit_trouble is not None:
            return self._submit_trouble
        if not self.store_healthy:
            return "the durable store takes no writes"
        if self._on_their_way and self._clock.monotonic() - self._sent_at > _STALLED:
            return f"no batch was acknowledged for {_STALLED:.0f} s"
        if self.queued >= _MOST:
            return f"{self.queued} postings wait to be committed"
        return None

    @property
    def healthy(self) -> bool:
        """Whether new calls may begin."""
        return self.trouble is None

    def check(self) -> None:
        """Ask at admission, before anything is spent; raises `Refusal` (`store_unavailable`)."""
        self.heal()
        trouble = self.trouble
        if trouble is not None:
            raise Refusal("store_unavailable", _SENTENCE, detail=trouble)

    def post(self, row: LedgerRow, delta: RunDelta | None = None, outcome: ApprovedOutcome | None = None) -> None:
        """Take the row of a call outside a run, or with its `delta` and `outcome` of one that nobody waits for.

        Raises `Refusal` (`store_unavailable`) where it could not be written down: then the answer
        may not be given as complete. The row is still kept in memory and sent.
        """
        posting = Posting((row,), delta, outcome=outcome)
        record = frame(posting)
        self._queue(posting)
        try:
            self._write(record)
        except OSError:
            raise Refusal("store_unavailable", _SENTENCE, detail=self._disk_trouble) from None

    async def post_durable(self, posting: Posting, *, patience: float = 10.0) -> None:
        """Take the rows of a step and all that is committed with them; returns after the commit.

        Raises `Refusal` (`store_unavailable`) where the commit did not come within `patience`
        seconds or failed: then the outcome may not be given to the agent. The posting is kept
        nevertheless, and committed as soon as that works: the money was spent. Cancelling the
        caller does not take it back.
        """
        if not posting.rows:
            raise ValueError("what a step adds to its run is tied to its rows; there are none")
        record = frame(posting)
        self._queue(posting)
        # The caller waits for the commit, so its file may fail; after a kill it tells what was spent.
        with contextlib.suppress(OSError):
            self._write(record)
        try:
            async with asyncio.timeout(patience):
                await self._wait()
        except TimeoutError:
            raise Refusal("store_unavailable", _SENTENCE, detail=f"no commit within {patience} s") from None

    async def flush(self) -> None:
        """Send what waits now; returns when it is acknowledged or the attempt failed."""
        if self.queued:
            with contextlib.suppress(Refusal):
                await self._wait()

    async def close(self, patience: float = 5.0) -> None:
        """Send what waits, for at most `patience` seconds; what is left stays in the recovery files."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.flush()
        if self._timer is not None:
            self._timer.cancel()
        if self._sending is not None:
            self._sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sending
        self._active.close()
        self._sealed.close()

    def _queue(self, posting: Posting) -> None:
        if len(self._pending) >= _MOST:
            raise Refusal("store_unavailable", _SENTENCE, detail=self.trouble)
        self._pending.append(posting)
        if len(self._pending) >= _ENOUGH:
            self._wake.set()
        elif self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(_INTERVAL, self._wake.set)

    def _write(self, record: bytes) -> None:
        try:
            self._active.append(record)
        except OSError as error:
            self._disk_trouble = f"{self._active.path} takes no rows: {error.strerror}"
            self._probed_at = self._clock.monotonic()
            raise

    def _wait(self) -> asyncio.Future[None]:
        """Done when all that is queued now is acknowledged; a `Refusal` when an attempt failed before that."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._wake.set()
        return done

    def heal(self) -> None:
        """Find out whether a disk that failed takes rows again; to be called now and then, also while nobody asks."""
        now = self._clock.monotonic()
        if self._disk_trouble is None or now - self._probed_at < _PROBE_EVERY:
            return
        self._probed_at = now
        with contextlib.suppress(OSError):
            self._active.probe()
            self._disk_trouble = None

    async def _send_regularly(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._pending:
                await self._send()
            else:  # whoever asked to flush came while the last batch was on its way
                self._tell(None)

    async def _send(self) -> None:
        """Seal what waits and send it until all of it is acknowledged; then its file is emptied."""
        postings, self._pending = self._pending, []
        waiting, self._waiting = self._waiting, []
        self._active, self._sealed = self._sealed, self._active
        self._on_their_way = len(postings)
        self._sent_at = self._clock.monotonic()
        failures = 0
        while postings:
            try:
                await self._submit(Batch(tuple(postings[:_CHUNK])))
            except Exception as error:  # noqa: BLE001 - whatever it was, nothing is acknowledged and the rows stay
                self._submit_trouble = f"rows are not committed: {error}"
                # Who waits is told at once; who comes while the store is down, at the next attempt.
                self._waiting += waiting
                waiting = []
                self._tell(Refusal("store_unavailable", _SENTENCE, detail=self._submit_trouble))
                await asyncio.sleep(_RETRY[min(failures, len(_RETRY) - 1)])
                failures += 1
                continue
            del postings[:_CHUNK]
            self._on_their_way = len(postings)
            self._sent_at = self._clock.monotonic()
            self._submit_trouble = None
        try:
            self._sealed.clear()
        except OSError as error:
            self._disk_trouble = f"{self._sealed.path} cannot be emptied: {error.strerror}"
        _tell(waiting, None)

    def _tell(self, refusal: Refusal | None) -> None:
        waiting, self._waiting = self._waiting, []
        _tell(waiting, refusal)


def _tell(waiting: list[asyncio.Future[None]], refusal: Refusal | None) -> None:
    for done in waiting:
        if done.done():
            continue  # cancelled, or its patience ended
        if refusal is None:
            done.set_result(None)
        else:
            done.set_exception(refusal)
