"""Processes whose files may not grow: the kernel refuses real writes beyond RLIMIT_FSIZE, as a full disk does.

The exit code is 0 when what was acknowledged is there and nothing else was claimed; else an assertion tells.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from gateway.core.clock import SystemClock
from gateway.core.errors import Refusal
from gateway.ledger import Batch, Book, Poster, Posting
from gateway.state import Store, StoreUnavailable, read_only
from tests.simulator.rows import row


def _limit(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def _unlimited() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def _refusal(act: Callable[[], None]) -> Refusal | None:
    try:
        act()
    except Refusal as refusal:
        return refusal
    return None


async def store(folder: Path) -> None:
    """A store that can write no more: nothing is acknowledged that is not kept, and it heals by itself."""
    opened = await Store.open(folder / "passgate.db")
    poster = Poster(opened)
    _limit(300_000)
    acknowledged: list[str] = []
    refused: list[str] = []
    for number in range(3000):
        name = f"req_{number}"
        try:
            await poster.post(Batch((Posting((row(name),)),)))
        except StoreUnavailable:
            refused.append(name)
            if len(refused) == 3:
                break
        else:
            assert not refused, "it healed although nothing has changed"
            acknowledged.append(name)
    assert acknowledged, "nothing could be written at all"
    assert len(refused) == 3
    assert not opened.healthy
    with closing(read_only(opened.path)) as conn:
        assert {name for (name,) in conn.execute("SELECT request_id FROM ledger")} == set(acknowledged)
    _unlimited()
    async with asyncio.timeout(20):
        while not opened.healthy:  # noqa: ASYNC110 - it heals by itself, and tells nobody
            await asyncio.sleep(0.05)
    for name in refused:  # whoever kept them hands them in again
        await poster.post(Batch((Posting((row(name),)),)))
    await opened.close()
    with closing(sqlite3.connect(opened.path)) as conn:
        found = [name for (name,) in conn.execute("SELECT request_id FROM ledger ORDER BY seq")]
    assert found == acknowledged + refused


async def book(folder: Path) -> None:
    """A book whose file can take no more: says so, lets nobody in, heals; dies with all it took in its file."""

    async def submit(_: Batch) -> None:
        raise AssertionError("it was never started: nothing is sent")

    kept = Book(folder, "worker-1", submit, SystemClock())
    _limit(20_000)
    taken: list[str] = []
    while not (refused := _refusal(partial(kept.post, row(f"req_{len(taken)}")))) and len(taken) < 1000:
        taken.append(f"req_{len(taken)}")
    assert refused is not None
    assert refused.code == "store_unavailable"
    assert taken
    assert not kept.healthy
    _unlimited()
    kept.post(row("after a torn row"))  # of a call that was let in before
    _limit(40_000)  # a probe begins to fit, and does not
    for _ in range(2):
        await asyncio.sleep(0.6)  # so that a probe is due
        refused = _refusal(kept.check)
        assert refused is not None, "a call was let in although nothing has changed"
        assert "takes no rows" in str(refused.detail)
    _unlimited()
    kept.post(row("after a torn probe"))
    await asyncio.sleep(0.6)
    kept.check()
    kept.post(row("afterwards"))
    print(*taken, "after a torn row", "after a torn probe", "afterwards", sep=",", flush=True)
    os._exit(0)  # as a killed process does: nothing is closed or tidied up


if __name__ == "__main__":
    asyncio.run({"store": store, "book": book}[sys.argv[1]](Path(sys.argv[2])))
