"""A worker that does nothing but post rows, and tells each one when its `post` has returned.

Started with a recovery directory and the path of a Unix socket; batches go there as a length and
MessagePack, and are acknowledged by one byte. The first row of each ten is a step of run `r1`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from gateway.core.clock import SystemClock
from gateway.ledger import Batch, Book, Posting
from tests.simulator.rows import delta, row


async def _main() -> None:
    reader, writer = await asyncio.open_unix_connection(sys.argv[2])
    encoder = msgspec.msgpack.Encoder()

    async def submit(batch: Batch) -> None:
        data = encoder.encode(batch)
        writer.write(len(data).to_bytes(4, "big") + data)
        await reader.readexactly(1)

    book = Book(Path(sys.argv[1]), "worker-1", submit, SystemClock())
    book.start()
    number = 0
    while True:
        number += 1
        name = f"{sys.argv[3]}-{number}"
        if number % 10 == 1:
            await book.post_durable(Posting((row(name, run="r1", step=number),), delta(number)))
        else:
            book.post(row(name))
            await asyncio.sleep(0)
        print(name, flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
