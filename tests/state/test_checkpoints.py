"""The table of checkpoints."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from gateway.state import Store
from gateway.state.checkpoints import Checkpoint, add_checkpoint, all_checkpoints, last_checkpoint


async def test_checkpoints_are_kept_in_order_and_never_replaced(tmp_path: Path) -> None:
    """The last one is the one of the highest line; a second one of the same line changes nothing."""
    store = await Store.open(tmp_path / "passgate.db")
    assert await store.read(last_checkpoint) is None
    first, second = Checkpoint(5, 1_800_000_000, "aa", "one"), Checkpoint(9, 1_700_000_000, "bb", "two")
    for checkpoint in (second, first, Checkpoint(9, 1_900_000_000, "cc", "three")):
        await asyncio.wrap_future(store.submit(partial(add_checkpoint, checkpoint=checkpoint)))
    assert await store.read(last_checkpoint) == second
    assert await store.read(lambda conn: list(all_checkpoints(conn))) == [first, second]
    await store.close()
