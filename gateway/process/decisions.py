"""The worker's side of the decision log: records go to the supervisor in batches.

1. Whoever puts a record goes on once it is in the log, or gets a `Refusal` (`store_unavailable`).
2. One batch is on its way at a time. What comes meanwhile makes the next one: the busier the worker, the larger they
   are, and the less each record costs.
3. A supervisor that does not answer lets nobody wait longer than `patience`, and nobody in until it answers.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final, TypeAlias

from gateway.core.errors import Refusal
from gateway.process.channel import Channel, ChannelError, trouble
from gateway.process.messages import (
    AnyMessage,
    Decided,
    Done,
)

_LARGEST: Final = 1 << 20
"""Bytes after which a batch is full."""
_PATIENCE: Final = 10.0
"""Seconds in which a batch has to be in the log."""
_Waiting: TypeAlias = tuple[bytes, "asyncio.Future[None]"]
_SENTENCE: Final = "decisions cannot be written down at the moment, so nothing is let through; try again shortly"


class DecisionQueue:
    """What waits to be written down. Used from one event loop."""

    def __init__(self, channel: Channel, patience: float = _PATIENCE) -> None:
        """`channel` leads to the supervisor; `patience` is in seconds."""
        self._channel = channel
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Waiting] = []
        self._asking = False  # a batch is on its way, or about to be
        self._stalled = False

    def put(self, record: bytes) -> asyncio.Future[None]:
        """Add a record; the future is done once it is in the log, or fails with `Refusal`."""
        written: asyncio.Future[None] = self._loop.create_future()
        if self._stalled:
            written.set_exception(self._too_late())
            return written
        self._waiting.append((record, written))
        if not self._asking:
            self._asking = True
            self._loop.call_soon(self._send)  # with all that this turn of the loop brings
        return written

    def _send(self) -> None:
        batch = self._take()
        late = self._loop.call_later(self._patience, self._give_up, batch)
        self._channel.ask(Decided([record for record, _ in batch]), partial(self._answered, batch, late))

    def _take(self) -> list[_Waiting]:
        """The next batch: what waits, or as much of it as one message should hold."""
        size = 0
        for number, (record, _) in enumerate(self._waiting):
            size += len(record)
            if size > _LARGEST and number:
                batch = self._waiting[:number]
                del self._waiting[:number]
                return batch
        batch, self._waiting = self._waiting, []
        return batch

    def _answered(self, batch: list[_Waiting], late: asyncio.TimerHandle, answer: AnyMessage) -> None:
        late.cancel()
        self._stalled = False
        for _, written in batch:
            if written.done():
                continue  # whoever waited is gone, or was told that it took too long
            if isinstance(answer, Done):
                written.set_result(None)
            else:
                written.set_exception(_refusal(trouble(answer)))
        if self._waiting:
            self._send()
        else:
            self._asking = False

    def _give_up(self, batch: list[_Waiting]) -> None:
        self._stalled = True
        behind, self._waiting = self._waiting, []
        for _, written in (*batch, *behind):
            if not written.done():
                written.set_exception(self._too_late())

    def _too_late(self) -> Refusal:
        return Refusal("store_unavailable", _SENTENCE, detail=f"no decision was written down for {self._patience:g} s")


def _refusal(error: Refusal | ChannelError) -> Refusal:
    if isinstance(error, Refusal):
        return error
    return Refusal("store_unavailable", _SENTENCE, detail=f"the decision log cannot be reached: {error}")
