"""A worker's start, with its supervisor's end of the channel in the test's hand."""

from __future__ import annotations

import asyncio
import math
import socket
from pathlib import Path

from gateway.core.principal import StopKey
from gateway.core.stop import Stop
from gateway.process.channel import Channel
from gateway.process.messages import (
    AnyMessage,
    Done,
    Hello,
    Stops,
    Welcome,
)
from gateway.process.worker import Worker

STOP = Stop(StopKey("agent", "procurement"), 1.0, "ada", "")


async def test_a_stop_that_comes_before_the_whole_list_waits_for_it(tmp_path: Path) -> None:
    """A change that reaches a worker at its start is taken after the list that it changes, and acknowledged then."""
    asked: list[asyncio.Task[Done]] = []
    channels: list[Channel] = []

    async def handle(message: AnyMessage) -> AnyMessage | None:
        if isinstance(message, Hello):
            change = Stops(8, math.inf, [STOP], [])
            asked.append(asyncio.create_task(channels[0].request(change, Done)))
            await asyncio.sleep(0.05)  # it is on its way before the list is
            return Welcome(b"", {}, Stops(7, math.inf, [], []))
        return None

    ours, theirs = socket.socketpair()
    (tmp_path / "recovery").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        channels.append(await Channel.open(ours, handle))
        worker = Worker("worker-1", tmp_path / "recovery", listener)
        running = asyncio.create_task(worker.run(theirs))
        async with asyncio.timeout(5):
            while not asked:  # noqa: ASYNC110 - the worker asks when it is ready
                await asyncio.sleep(0.01)
            assert await asked[0] == Done()
            again = await channels[0].request(Stops(8, math.inf, [STOP], []), Done)
        assert again == Done()
        channels[0].close()
        await running
