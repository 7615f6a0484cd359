"""What dead workers left behind is posted; used at start and whenever a worker was reaped.

Only a file whose lock can be taken is touched: its worker is dead. It is removed after its last
row is committed, so a crash in between means that rows are posted again, which changes nothing.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.ledger.posting import Batch, Damage, Posting, scan
from gateway.ledger.segment import SUFFIX

_CHUNK: Final = 500


@dataclass(slots=True)
class Recovered:
    """What was found: files taken, rows posted, and the files of which a part could not be read."""

    files: int = 0
    rows: int = 0
    damaged: list[str] = field(default_factory=list)  # one sentence each, with the file and the offset


async def recover(recovery_dir: Path, post: Callable[[Batch], Awaitable[object]]) -> Recovered:
    """Post the rows of every dead worker in `recovery_dir`.

    `post` returns after the commit; what it raises is raised here, and the file stays for the next
    time. A damaged file is kept beside the others as `*.damaged`, after all that could be read of
    it was posted. Raises `OSError`.
    """
    recovered = Recovered()
    for path in _left_behind(recovery_dir):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # its worker closed it just now
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            await _take(path, descriptor, post, recovered)
        except BlockingIOError:
            continue  # its worker lives
        finally:
            os.close(descriptor)
    return recovered


async def _take(path: Path, descriptor: int, post: Callable[[Batch], Awaitable[object]], recovered: Recovered) -> None:
    data = await asyncio.to_thread(_read, descriptor)
    postings: list[Posting] = []
    damage: list[Damage] = []
    for found in scan(data):
        if isinstance(found, Damage):
            damage.append(found)
            continue
        postings.append(found)
        recovered.rows += len(found.rows)
        if len(postings) == _CHUNK:
            await post(Batch(tuple(postings)))
            postings.clear()
    if postings:
        await post(Batch(tuple(postings)))
    recovered.files += 1
    recovered.damaged += _put_away(path, damage)


def _left_behind(recovery_dir: Path) -> list[Path]:
    return sorted(recovery_dir.glob("*" + SUFFIX))


def _put_away(path: Path, damage: list[Damage]) -> list[str]:
    """Remove a file that was read in full; keep a damaged one, and say what of it is missing."""
    if not damage:
        path.unlink(missing_ok=True)
        return []
    kept = path.with_suffix(".damaged")
    path.rename(kept)
    return [f"{kept}: {part.length} bytes at offset {part.offset} cannot be read" for part in damage]


def _read(descriptor: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read()
