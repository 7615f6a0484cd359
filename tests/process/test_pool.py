"""The pool, with real worker processes."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from gateway.process.channel import ChannelError
from gateway.process.messages import (
    AnyMessage,
    Hello,
    Prepare,
    Stops,
    Welcome,
)
from gateway.process.pool import WorkerPool, WorkerProcess
from gateway.telemetry.logs import Log
from tests.simulator.gateway import alive


async def test_workers_that_cannot_take_the_first_configuration_end_the_start(tmp_path: Path) -> None:
    """The start fails with the worker's name and its own reason, and no process stays."""
    wills: list[str] = []

    async def handle(_: WorkerProcess, message: AnyMessage) -> AnyMessage | None:
        return Welcome(b"", {}, Stops(0, 0.0, [], [])) if isinstance(message, Hello) else None

    async def reaped(name: str) -> None:
        wills.append(name)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        pool = WorkerPool(2, tmp_path / "recovery", handle, reaped, lambda: Log("test", level="error"))
        nothing = Prepare(1, str(tmp_path / "config.yaml"), {}, {}, {}, b"", None)
        with pytest.raises(ChannelError, match=r"worker-\d\.\d+\.\d+ did not start: .*config\.yaml"):
            await pool.start(listener, nothing)
        await pool.stop(0)
    assert not pool.workers
    assert {name[:8] for name in wills} == {"worker-1", "worker-2"}


async def test_a_stop_in_the_middle_of_a_start_ends_it(tmp_path: Path) -> None:
    """Whoever waits for the start learns that it will not come, and no process stays."""

    async def handle(_: WorkerProcess, __: AnyMessage) -> AnyMessage | None:
        return None

    async def reaped(_: str) -> None:
        return None

    with socket.create_server(("127.0.0.1", 0)) as listener:
        pool = WorkerPool(1, tmp_path / "recovery", handle, reaped, lambda: Log("test", level="error"))
        starting = asyncio.create_task(pool.start(listener, Prepare(1, "config.yaml", {}, {}, {}, b"", None)))
        while not pool.workers:  # noqa: ASYNC110 - the pool sets no event
            await asyncio.sleep(0.005)
        pid = pool.workers[0].pid
        await pool.stop(0)
        with pytest.raises((ChannelError, asyncio.CancelledError)):
            await starting
    assert not alive(pid)
