"""A process that writes to a store until it is killed, and tells each unit once it is acknowledged."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from functools import partial
from pathlib import Path

from gateway.state import Store, StoreRefused


def _note(key: str, conn: sqlite3.Connection) -> None:
    conn.execute("INSERT INTO meta VALUES (?, '')", (key,))


async def _main() -> int:
    try:
        store = await Store.open(Path(sys.argv[1]))
    except StoreRefused as refused:
        print(refused, file=sys.stderr)
        return 2
    number = 0
    while True:
        number += 1
        await asyncio.wrap_future(store.submit(partial(_note, f"n{number}")))
        print(f"n{number}", flush=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
