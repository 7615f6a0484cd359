"""A process that writes a decision log until it is killed; with `full`, on a disk that fills up and is freed again.

It prints the number of every record once it is told that it is in the log.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from gateway.audit.writer import Chain
from gateway.core.clock import SystemClock


def _record(number: int) -> bytes:
    return b'{"number":%d,"padding":"%b"}' % (number, b"x" * 300)


def _until_killed(folder: Path) -> None:
    chain = Chain.open(folder, None, SystemClock(), file_size=20_000)
    while True:
        number = chain.tip.seq + 1
        chain.append([_record(number)] * 3)
        print(chain.tip.seq, flush=True)


def _full(folder: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    chain = Chain.open(folder, None, SystemClock())
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (10_000, hard)
    )  # the kernel refuses writes beyond it, as a full disk does
    written: list[int] = []
    failed = number = 0
    while failed < 3:
        number += 1
        batch = [number * 10, number * 10 + 1]
        try:
            chain.append([_record(one) for one in batch])
        except OSError:
            failed += 1
            chain.note("unwritable", "the disk is full")
        else:
            assert not failed, "it healed although nothing has changed"
            written += batch
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    chain.append([_record(7)])
    print(*written, 7)


if __name__ == "__main__":
    (_full if sys.argv[2:] == ["full"] else _until_killed)(Path(sys.argv[1]))
