"""The durable engine of one machine: SQLite in WAL mode, one writing process, one writing thread.

What it promises:
1. A future is done only after the commit that holds its work is on disk (`synchronous=FULL`).
2. Whatever waits goes into one transaction (group commit); a unit of work that fails is undone
   alone, by its savepoint, and fails alone.
3. When the disk fails (full, read-only, I/O error) nothing of that transaction is acknowledged:
   every unit in it fails with `StoreUnavailable`, `trouble` says why, and the store tries again by
   itself until a write works.
4. One process writes: the lock on `<file>.lock` is held until `close`. Readers need no lock.

What it refuses to know: what the work is about.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from gateway.state.durable import StoreRefused, StoreUnavailable, Work
from gateway.state.schema import VERSION, migrate, version_of

T = TypeVar("T")

_GROUP: Final = 512
"""Units of work in one transaction, so that the first of a burst does not wait for all of it."""
_WAITING: Final = 50_000
"""Units that may wait for the writer; more than that are refused at once."""
_PROBE_SECONDS: Final = 0.5
_BUSY_MS: Final = 5_000
_OLDEST_SQLITE: Final = (3, 37, 0)  # STRICT tables

# The engine's own failures, after which the whole transaction is given up. Anything else that a
# unit of work runs into (a constraint, a value of the wrong type) is that unit's own mistake.
_ENGINE_FAILURES: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


@dataclass(frozen=True, slots=True)
class _Unit:
    """Work that waits, and how its end is told: `work` gives what to call after the commit, else `fail` is called."""

    work: Callable[[sqlite3.Connection], Callable[[], None]]
    fail: Callable[[BaseException], None]


class Store:
    """The one writer. Made by `open`; `submit` may be called from any thread."""

    def __init__(self, path: Path, lock: int, conn: sqlite3.Connection) -> None:
        """Use `Store.open`."""
        self.path = path
        self._lock = lock
        self._conn = conn
        self._trouble: str | None = None
        self._queue: queue.SimpleQueue[_Unit | None] = queue.SimpleQueue()
        self._closed = False
        self._closing = threading.Lock()  # between `submit` and `close`: nothing is queued behind the end
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="durable-reader")
        self._reading: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._write, name="durable-store", daemon=True)
        self._thread.start()

    @classmethod
    async def open(cls, path: Path) -> Store:
        """Open for writing, made and migrated where need be; raises `StoreRefused`.

        The directory is made 0700 and the file 0600; SQLite gives its `-wal` and `-shm` the same mode.
        """
        return await asyncio.to_thread(cls._open, path)

    @classmethod
    def _open(cls, path: Path) -> Store:
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise StoreRefused(f"SQLite {sqlite3.sqlite_version} is too old; Passgate needs 3.37 or newer.")
        try:
            path = path.resolve()  # the lock belongs to the file, by whatever name it was reached
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _lock(path)
        except OSError as error:
            raise _cannot_open(path, error.strerror or str(error)) from None
        try:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                _prepare(conn, path)
            except BaseException:
                conn.close()
                raise
        except (OSError, sqlite3.Error) as error:
            os.close(lock)
            raise _cannot_open(path, str(error)) from None
        except BaseException:
            os.close(lock)
            raise
        return cls(path, lock, conn)

    @property
    def trouble(self) -> str | None:
        """See `Durable`."""
        return self._trouble

    @property
    def healthy(self) -> bool:
        """See `Durable`."""
        return self._trouble is None

    def submit(self, work: Work[T]) -> Future[T]:
        """See `Durable`."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # from here on cancelling whoever waits changes nothing

        def run(conn: sqlite3.Connection) -> Callable[[], None]:
            result = work(conn)
            return lambda: future.set_result(result)

        with self._closing:
            if self._closed:
                future.set_exception(StoreUnavailable(f"{self.path} is closed"))
            elif self._queue.qsize() >= _WAITING:
                future.set_exception(StoreUnavailable(f"{_WAITING} writes wait for {self.path} already"))
            else:
                self._queue.put(_Unit(run, future.set_exception))
        return future

    async def read(self, work: Work[T]) -> T:
        """See `Durable`."""
        if self._closed:
            raise StoreUnavailable(f"{self.path} is closed")

        def run() -> T:
            if self._reading is None:
                self._reading = read_only(self.path)
            return work(self._reading)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._reader, run)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{self.path} cannot be read: {error}") from error

    async def close(self) -> None:
        """Commit what waits, close, give up the lock. Doing it twice is harmless."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        self._reader.shutdown()
        if self._reading is not None:
            self._reading.close()
        self._conn.close()  # the last connection to close moves the log into the file
        os.close(self._lock)

    def _write(self) -> None:
        while True:
            try:
                unit = self._queue.get(timeout=_PROBE_SECONDS if self._trouble else None)
            except queue.Empty:
                self._commit([_Unit(_probe, lambda _: None)])
                continue
            group: list[_Unit] = []
            while unit is not None:
                group.append(unit)
                if len(group) == _GROUP:
                    break
                try:
                    unit = self._queue.get_nowait()
                except queue.Empty:
                    break
            if group:
                self._commit(group)
            if unit is None:
                return

    def _commit(self, group: list[_Unit]) -> None:
        try:
            self._conn.execute("BEGIN IMMEDIATE")
            done = [self._run(unit) for unit in group]
            self._conn.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                if self._conn.in_transaction:
                    self._conn.execute("ROLLBACK")
            self._trouble = f"{self.path} takes no writes: {error}"
            for unit in group:
                unit.fail(StoreUnavailable(self._trouble))
            return
        self._trouble = None
        for tell in done:
            tell()

    def _run(self, unit: _Unit) -> Callable[[], None]:
        """Run one unit inside its savepoint; raises `sqlite3.Error` only where the engine failed."""
        self._conn.execute("SAVEPOINT unit")
        try:
            done = unit.work(self._conn)
        except Exception as error:
            if _engine_failed(error):
                raise
            self._conn.execute("ROLLBACK TO unit")
            done = partial(unit.fail, error)  # its own mistake, told to whoever waits for it
        self._conn.execute("RELEASE unit")
        return done


def read_only(path: Path) -> sqlite3.Connection:
    """A connection that can only read, also while another process writes; raises `StoreRefused`."""
    try:
        path = path.resolve()
        if not path.is_file():
            raise StoreRefused(f"{path} does not exist yet; the gateway makes it at its first start.")
        try:
            conn, version = _open_reading(path, "mode=ro")
        except sqlite3.OperationalError as error:
            # A log's index cannot be made on a read-only disk; without a log the file is all there is.
            if error.sqlite_errorcode != sqlite3.SQLITE_CANTOPEN or path.with_name(path.name + "-wal").exists():
                raise
            conn, version = _open_reading(path, "mode=ro&immutable=1")
    except (OSError, sqlite3.Error) as error:
        raise _cannot_open(path, str(error)) from None
    if version == VERSION:
        return conn
    conn.close()
    if version == 0:
        raise StoreRefused(f"{path} is empty: it is not a Passgate database yet; start the gateway once.")
    raise StoreRefused(f"{path} is of an older Passgate; start the gateway once to bring it up to date.")


def _open_reading(path: Path, how: str) -> tuple[sqlite3.Connection, int]:
    conn = sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, isolation_level=None, check_same_thread=False)
    try:
        conn.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        conn.execute("PRAGMA query_only = ON")
        return conn, version_of(conn, str(path))
    except BaseException:
        conn.close()
        raise


def _lock(path: Path) -> int:
    """Take the writer's lock beside the file; raises `StoreRefused` naming the process that has it."""
    name = path.with_name(path.name + ".lock")
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        if error.errno == errno.EWOULDBLOCK:
            raise StoreRefused(
                f"{path} is open for writing in process {holder or '(unknown)'}; "
                "stop that gateway first, or give this one a file of its own (state.durable)."
            ) from None
        raise StoreRefused(
            f"{name} cannot be locked: {error.strerror}; put state.durable on a local disk (a network one will not do)."
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _prepare(conn: sqlite3.Connection, path: Path) -> None:
    conn.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    version_of(conn, str(path))  # before anything is changed: the file may not be ours
    (mode,) = conn.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreRefused(f"{path} cannot keep a write-ahead log there; put state.durable on a local disk.")
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute("PRAGMA foreign_keys = ON")
    conn.execute("PRAGMA trusted_schema = OFF")
    conn.execute(f"PRAGMA journal_size_limit = {64 << 20}")
    migrate(conn, str(path))
    _probe(conn)  # what cannot be written is found out now, not by the first call


def _probe(conn: sqlite3.Connection) -> Callable[[], None]:
    """A write that proves that writing works."""
    conn.execute(
        "INSERT INTO meta VALUES ('probed', datetime('now')) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    )
    return lambda: None


def _engine_failed(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _ENGINE_FAILURES


def _cannot_open(path: Path, why: str) -> StoreRefused:
    return StoreRefused(f"cannot open {path} for state.durable: {why}; check the path, its permissions and the disk.")
