"""The one writer of the decision log.

1. What `append` returned from is in the file: the page cache outlives the process; what `sync` returned from
   outlives the power.
2. A batch goes in whole or not at all; after a failure the file is cut back before anything else is written.
3. It begins where the log ends. A torn last line, which a crash leaves and nobody was told of, is cut off. A log
   whose end does not verify, which is shorter than its last checkpoint, or which changes while it is open, is left as
   it is: a new file goes on from the last checkpoint or line.
4. What became of the log itself is a note in it, before the next record.
5. One process writes: the folder is locked until `close`.

What it refuses to know: what stands in a record.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from gateway.audit.chain import LONGEST, START, Link, linked
from gateway.audit.end import End, find_end
from gateway.audit.files import file_name, file_number
from gateway.audit.record import note
from gateway.core.clock import Clock

FILE_SIZE: Final = 64 << 20
"""Bytes after which another file is begun."""
_LONGEST_RECORD: Final = LONGEST - 1024


class AuditRefused(Exception):
    """The log cannot be opened; the sentence says why and what to do."""


class Chain:
    """The log while it is open; used from one event loop. Made by `open`."""

    def __init__(self, folder: Path, lock: int, clock: Clock, file_size: int) -> None:
        """Use `Chain.open`."""
        self.folder = folder
        self.tip = START
        self.said: list[tuple[str, str]] = []
        """What became of the log, for whoever keeps the other log: (`damaged` | `torn`, a sentence)."""
        self._lock = lock
        self._clock = clock
        self._file_size = file_size
        self._notes: list[bytes] = []  # what the next line has to say of the log itself
        self._number = 0
        self._file = -1  # the descriptor, -1 until something is written
        self._size = 0
        self._torn = False
        self._full: list[int] = []  # files that are not synced yet, and get no more lines

    @classmethod
    def open(cls, folder: Path, checkpoint: Link | None, clock: Clock, *, file_size: int = FILE_SIZE) -> Chain:
        """Find the end of the log in `folder` (made 0700 where it is missing), as long as at `checkpoint` or longer.

        Reads the last file, which takes some tenths of a second. Raises `AuditRefused` and `OSError`.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        chain = cls(folder, lock, clock, file_size)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AuditRefused(
                    f"another gateway writes its decision log to {folder}: "
                    "stop it first, or give this one a folder of its own (telemetry.audit)"
                ) from None
            chain._go_on(find_end(folder, checkpoint))
            chain.append(())
        except BaseException:
            chain.close()
            raise
        return chain

    def append(self, records: Sequence[bytes]) -> None:
        """Add a line for each record (a JSON object without line feeds), after a line for each note that waits.

        Raises `OSError`: then nothing was added, and the notes wait on.
        """
        for record in records:
            if b"\n" in record or len(record) > _LONGEST_RECORD:
                raise ValueError("a record is more than one line, or too long for one")
        lines, tip = linked(self.tip, *self._notes, *records)
        if lines:
            self._write(lines)
            self.tip = tip
            self._notes.clear()

    def note(self, kind: str, detail: str) -> None:
        """Have the log say what became of it, before the next record."""
        self._notes.append(note(kind, self._clock.now(), detail))

    def say(self, kind: str, detail: str) -> None:
        """As `note`; and have whoever keeps the other log hear of it."""
        self.said.append((kind, detail))
        self.note(kind, detail)

    def look(self) -> None:
        """Whether the file is what was written to it; where it is not, the next line begins another one."""
        if self._file < 0 or self._torn:
            return
        path = self.folder / file_name(self._number)
        try:
            there = path.stat()
        except FileNotFoundError:
            self._damaged(f"{path.name} was taken away while the gateway wrote to it")
            return
        if not os.path.samestat(there, os.fstat(self._file)):
            self._damaged(f"{path.name} was replaced while the gateway wrote to it")
        elif there.st_size != self._size:
            self._damaged(f"{path.name} was changed by somebody else while the gateway wrote to it")

    async def sync(self) -> Link:
        """Have the log outlive a power cut up to the link that this gives. Raises `OSError`."""
        tip, full = self.tip, list(self._full)
        await asyncio.to_thread(_sync, [*full, self._file, self._lock])
        for descriptor in full:
            self._full.remove(descriptor)
            os.close(descriptor)
        return tip

    def close(self) -> None:
        """Close the files and let go of the folder."""
        for descriptor in (*self._full, self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)

    # -- the file

    def _go_on(self, end: End) -> None:
        """Find the place for the next line."""
        self.tip = end.link
        self._number = file_number(end.file) if end.file is not None else 0
        if end.problem:
            self._damaged(end.problem)
        elif end.file is not None:
            self._file = os.open(end.file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            self._size = end.size
            if end.torn:
                self._cut()
                self.say("torn", f"{end.torn} bytes of a line that was not written to its end were cut off")

    def _damaged(self, problem: str) -> None:
        """Leave the file as it is; the next line begins another one."""
        self.say("damaged", f"{problem}; the log goes on behind line {self.tip.seq} in a new file")
        if self._file >= 0:
            self._full.append(self._file)
            self._file = -1

    def _write(self, data: bytes) -> None:
        if self._torn:
            self._cut()
        if self._file >= 0 and self._size >= self._file_size:
            self._full.append(self._file)
            self._file = -1
        if self._file < 0:
            self._create()
        self._torn = True  # until it is known that it is not
        if os.write(self._file, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._torn = False
        self._size += len(data)

    def _create(self) -> None:
        path = self.folder / file_name(self._number + 1)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._number += 1
        self._size = 0

    def _cut(self) -> None:
        """Cut off what stands behind the last whole line."""
        os.ftruncate(self._file, self._size)
        self._torn = False


def _sync(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        if descriptor >= 0:
            os.fsync(descriptor)
