"""The worker's side of the decision log: batches, and who waits for them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from gateway.core.errors import Refusal
from gateway.process.channel import Answer, Channel
from gateway.process.decisions import DecisionQueue
from gateway.process.messages import (
    AnyMessage,
    Decided,
    Done,
)


@dataclass
class Log:
    """A supervisor that writes each batch down once `go` is set, or refuses it."""

    batches: list[list[bytes]] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    full: bool = False

    def handle(self, message: AnyMessage) -> Answer:
        """See `channel.Handler`."""
        assert isinstance(message, Decided)
        return self._write(message.records)

    async def _write(self, records: list[bytes]) -> AnyMessage:
        self.batches.append(records)
        await self.go.wait()
        if self.full:
            raise Refusal("store_unavailable", "the log is full", detail="no space left on device")
        return Done()


@dataclass
class Pair:
    """Both ends of a channel, with a log at the far one."""

    log: Log
    near: Channel
    far: Channel


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    log = Log()
    ours, theirs = socket.socketpair()
    near = await Channel.open(ours, lambda _: None)
    far = await Channel.open(theirs, log.handle)
    yield Pair(log, near, far)
    log.go.set()
    near.close()
    await far.ended()


async def put(queue: DecisionQueue, *records: bytes) -> list[asyncio.Future[None]]:
    return [queue.put(record) for record in records]


async def until(log: Log, batches: int) -> None:
    async with asyncio.timeout(10):
        while len(log.batches) < batches:  # noqa: ASYNC110 - the other end tells nobody
            await asyncio.sleep(0.001)


def codes(futures: Sequence[asyncio.Future[None]]) -> set[str]:
    """The codes of the refusals that they have failed with."""
    errors = [future.exception() for future in futures]
    assert all(isinstance(error, Refusal) for error in errors)
    return {error.code for error in errors if isinstance(error, Refusal)}


async def test_who_puts_goes_on_once_it_is_written(pair: Pair) -> None:
    """What one turn of the loop brings is one batch; nobody goes on before it is acknowledged."""
    queue = DecisionQueue(pair.near)
    waiting = await put(queue, b"a", b"b", b"c")
    await until(pair.log, 1)
    assert pair.log.batches == [[b"a", b"b", b"c"]]
    assert not any(future.done() for future in waiting)
    pair.log.go.set()
    await asyncio.gather(*waiting)


async def test_what_comes_meanwhile_is_the_next_batch(pair: Pair) -> None:
    """One batch is on its way at a time; all that comes until its answer goes together, in order."""
    queue = DecisionQueue(pair.near)
    first = await put(queue, b"1")
    await until(pair.log, 1)
    rest = []
    for number in range(2, 6):
        rest += await put(queue, b"%d" % number)
        await asyncio.sleep(0.005)
    assert pair.log.batches == [[b"1"]]
    pair.log.go.set()
    await asyncio.gather(*first, *rest)
    assert pair.log.batches == [[b"1"], [b"2", b"3", b"4", b"5"]]
    await asyncio.gather(*await put(queue, b"6"))
    assert pair.log.batches[2:] == [[b"6"]]


async def test_large_batches_are_divided(pair: Pair) -> None:
    """A message stays of a size; a record that is larger than that goes alone."""
    pair.log.go.set()
    queue = DecisionQueue(pair.near)
    records = [b"x" * 600_000, b"y" * 600_000, b"z" * 2_000_000, b"a", b"b"]
    await asyncio.gather(*await put(queue, *records))
    assert [[len(record) for record in batch] for batch in pair.log.batches] == [
        [600_000],
        [600_000],
        [2_000_000],
        [1, 1],
    ]


async def test_a_log_that_takes_nothing_refuses_each(pair: Pair) -> None:
    """Everybody whose record was in the batch gets the refusal; the next batch is tried."""
    pair.log.full = True
    pair.log.go.set()
    queue = DecisionQueue(pair.near)
    waiting = await put(queue, b"a", b"b")
    await asyncio.wait(waiting)
    assert codes(waiting) == {"store_unavailable"}
    pair.log.full = False
    await asyncio.gather(*await put(queue, b"c"))


async def test_a_supervisor_that_is_gone_lets_nobody_through(pair: Pair) -> None:
    """What is not acknowledged when the other side ends is refused, and so is all that comes later."""
    queue = DecisionQueue(pair.near)
    waiting = await put(queue, b"a")
    await until(pair.log, 1)
    behind = await put(queue, b"b")
    pair.far.close()
    await asyncio.wait((*waiting, *behind), timeout=10)
    later = await put(queue, b"c")
    await asyncio.wait(later, timeout=10)
    assert codes((*waiting, *behind, *later)) == {"store_unavailable"}


async def test_a_supervisor_that_hangs_lets_nobody_wait_for_ever(pair: Pair) -> None:
    """After its patience all that wait are refused, new ones at once; an answer opens the door again."""
    queue = DecisionQueue(pair.near, patience=0.05)
    waiting = await put(queue, b"a")
    await until(pair.log, 1)
    waiting += await put(queue, b"b")
    await asyncio.wait(waiting, timeout=10)
    assert codes(waiting) == {"store_unavailable"}
    late = queue.put(b"c")
    assert late.done()
    assert codes([late]) == {"store_unavailable"}
    pair.log.go.set()
    async with asyncio.timeout(10):
        while (tried := queue.put(b"d")).done() and tried.exception() is not None:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)
        await tried
    assert pair.log.batches == [[b"a"], [b"d"]], "what was refused is not sent afterwards"


async def test_whoever_is_cancelled_keeps_nobody_waiting(pair: Pair) -> None:
    """An agent that hangs up while its decision is on its way changes nothing for the others."""
    queue = DecisionQueue(pair.near)
    gone, stays = await put(queue, b"a", b"b")
    await until(pair.log, 1)
    gone.cancel()
    pair.log.go.set()
    await stays
    assert gone.cancelled()
