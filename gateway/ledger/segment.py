"""One recovery file of a worker: appended to without fsync, emptied once its rows are committed.

The page cache survives the death of a process, so what was written is there for whoever reads the
file afterwards; only a power cut takes it. The worker holds a lock on the file for its whole life:
whoever can take the lock knows that the worker is dead.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from gateway.core.ids import new_id

SUFFIX: Final = ".rows"
_PROBE: Final = bytes(64 * 1024)


class Segment:
    """An open recovery file; every method but `open` raises `OSError` where the disk fails."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Use `Segment.open`."""
        self.path = path
        self.size = 0
        self._descriptor = descriptor
        self._torn = False

    @classmethod
    def open(cls, folder: Path, owner: str) -> Segment:
        """Make a new file for `owner` in `folder` (made 0700 where it is missing); raises `OSError`."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            path = folder / (new_id(owner) + SUFFIX)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Between the two calls a recovery may have taken the file for a dead worker's and removed it.
                if os.fstat(descriptor).st_nlink:
                    return cls(path, descriptor)
            except BlockingIOError:
                pass
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def append(self, record: bytes) -> None:
        """Add a record whole or not at all."""
        if self._torn:
            self._cut()
        try:
            written = os.write(self._descriptor, record)
        except OSError:
            self._torn = True
            raise
        if written != len(record):
            self._torn = True
            self._cut()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += written

    def probe(self) -> None:
        """Find out whether there is room again; leaves the file as it was."""
        self._cut()
        self._torn = True
        if os.write(self._descriptor, _PROBE) != len(_PROBE):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._cut()

    def clear(self) -> None:
        """Forget all records: they are committed."""
        self.size = 0
        self._torn = True  # should the cut fail, the next append begins with it
        self._cut()

    def close(self) -> None:
        """Close; a file that holds nothing is removed, any other one is left to recovery."""
        if not self.size:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _cut(self) -> None:
        """Cut off what stands behind the last whole record."""
        os.ftruncate(self._descriptor, self.size)
        self._torn = False
