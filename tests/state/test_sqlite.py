"""The durable engine: group commit, the writer's lock, disks that fail, files that are not ours."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import wait
from pathlib import Path

import pytest

from gateway.core.row import COLUMNS
from gateway.state import Store, StoreRefused, StoreUnavailable, read_only
from gateway.state.schema import APPLICATION_ID, VERSION


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "var" / "passgate.db")
    yield opened
    await opened.close()


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(words, capture_output=True, text=True, timeout=50, check=False)


def note(key: str) -> Callable[[sqlite3.Connection], int]:
    """A unit of work: insert one row, return how many there are."""

    def work(conn: sqlite3.Connection) -> int:
        conn.execute("INSERT INTO meta VALUES (?, '')", (key,))
        return int(conn.execute("SELECT count(*) FROM meta WHERE key <> 'probed'").fetchone()[0])

    return work


def notes(path: Path) -> set[str]:
    conn = read_only(path)
    found = {key for (key,) in conn.execute("SELECT key FROM meta WHERE key <> 'probed'")}
    conn.close()
    return found


async def test_work_is_visible_to_others_once_its_future_is_done(store: Store) -> None:
    """A future is done after the commit: another connection sees what was written, and its result comes back."""
    assert await asyncio.wrap_future(store.submit(note("a"))) == 1
    assert notes(store.path) == {"a"}


async def test_what_waits_shares_a_transaction_and_a_failing_unit_fails_alone(store: Store) -> None:
    """Units that queue up behind a busy writer are committed together; the one that fails is undone alone."""
    go, begun = threading.Event(), threading.Event()

    def busy(_: sqlite3.Connection) -> int:
        begun.set()
        return int(go.wait(10))

    def half_done(conn: sqlite3.Connection) -> int:
        conn.execute("INSERT INTO meta VALUES ('half', '')")
        raise LookupError("changed my mind")

    def seen_elsewhere(_: sqlite3.Connection) -> int:
        return len(notes(store.path))  # what is committed while this unit runs

    first = store.submit(busy)
    assert begun.wait(10)
    behind = [store.submit(note("a")), store.submit(half_done), store.submit(seen_elsewhere), store.submit(note("b"))]
    go.set()
    wait([first, *behind], timeout=10)
    assert isinstance(behind[1].exception(), LookupError)
    assert [first.result(), behind[0].result(), behind[3].result()] == [1, 1, 2]
    assert behind[2].result() == 0, "`a` was committed before `b`: not one transaction"
    assert notes(store.path) == {"a", "b"}
    assert store.healthy


async def test_a_breach_of_a_constraint_is_the_units_own_mistake(store: Store) -> None:
    """A constraint or a wrong type fails the unit with SQLite's own error and leaves the store healthy."""
    await asyncio.wrap_future(store.submit(note("a")))
    with pytest.raises(sqlite3.IntegrityError):
        await asyncio.wrap_future(store.submit(note("a")))
    assert store.healthy


async def test_whoever_waits_may_leave_without_taking_the_work_back(store: Store) -> None:
    """Cancelling the waiting coroutine does not cancel the write: settlement outlives the agent."""
    go = threading.Event()
    blocked = store.submit(lambda _: int(go.wait(10)))
    future = store.submit(note("kept"))
    waiter = asyncio.ensure_future(asyncio.wrap_future(future))
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.sleep(0)
    go.set()
    wait([blocked, future], timeout=10)
    await asyncio.wait_for(asyncio.wrap_future(store.submit(note("next"))), 10)  # and the writer goes on
    assert notes(store.path) == {"kept", "next"}


async def test_close_commits_what_waits_and_then_refuses(store: Store) -> None:
    """Closing loses nothing that was handed in before, and takes nothing after."""
    futures = [store.submit(note(f"n{number}")) for number in range(50)]
    await store.close()
    assert [future.exception() for future in futures] == [None] * 50
    assert isinstance(store.submit(note("late")).exception(), StoreUnavailable)
    assert len(notes(store.path)) == 50
    with pytest.raises(StoreUnavailable):
        await store.read(lambda conn: conn.execute("SELECT 1"))


async def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    """SIGKILL at any moment: every unit whose future was done is there afterwards."""
    path = tmp_path / "passgate.db"
    child = await asyncio.create_subprocess_exec(
        sys.executable, *("-m", "tests.simulator.writer", str(path)), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    told = [await child.stdout.readline() for _ in range(200)]
    child.send_signal(signal.SIGKILL)
    told += (await child.stdout.read()).splitlines(keepends=True)
    await child.wait()
    acknowledged = {line.decode().strip() for line in told if line.endswith(b"\n")}
    store = await Store.open(path)  # the dead process's lock is gone with it
    assert acknowledged <= notes(path)
    await store.close()


async def test_a_second_writing_process_is_refused(store: Store) -> None:
    """X05: whoever else wants to write is refused, with the file and the process that has it; readers are not."""
    second = run(sys.executable, "-m", "tests.simulator.writer", str(store.path))
    assert second.returncode == 2
    assert str(store.path) in second.stderr
    assert f"process {os.getpid()}" in second.stderr
    await asyncio.wrap_future(store.submit(note("still mine")))
    assert notes(store.path) == {"still mine"}


async def test_another_name_of_the_same_file_is_the_same_lock(store: Store, tmp_path: Path) -> None:
    """X05: a symbolic link is no way around the lock."""
    link = tmp_path / "link.db"
    link.symlink_to(store.path)
    with pytest.raises(StoreRefused, match="open for writing"):
        await Store.open(link)


async def test_a_backup_taken_while_writing_opens_and_holds_what_was_committed(store: Store, tmp_path: Path) -> None:
    """X05: SQLite's online backup of a database that is being written to is whole, up to its point."""
    for number in range(20):
        store.submit(note(f"before-{number}"))
    await asyncio.wrap_future(store.submit(note("point")))
    after = [store.submit(note(f"after-{number}")) for number in range(200)]
    copy = sqlite3.connect(tmp_path / "copy.db")
    source = read_only(store.path)
    source.backup(copy)
    source.close()
    copy.close()
    wait(after, timeout=10)
    restored = await Store.open(tmp_path / "copy.db")
    assert {f"before-{number}" for number in range(20)} | {"point"} <= notes(restored.path)
    await restored.close()


async def test_files_and_folder_are_for_the_owner_alone(store: Store) -> None:
    """The folder that the store makes is 0700, all its files are 0600."""
    await asyncio.wrap_future(store.submit(note("a")))
    assert store.path.parent.stat().st_mode & 0o777 == 0o700
    modes = {file.name: file.stat().st_mode & 0o777 for file in store.path.parent.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert "passgate.db-wal" in modes


async def test_commits_wait_for_the_disk(store: Store) -> None:
    """WAL with synchronous=FULL, and foreign keys are kept."""

    def pragmas(conn: sqlite3.Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "user_version", "application_id")
        return [conn.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    found = await asyncio.wrap_future(store.submit(pragmas))
    assert found == ["wal", 2, 1, VERSION, APPLICATION_ID]


async def test_the_ledger_table_has_the_columns_of_a_row(store: Store) -> None:
    """The table and `core.row.LedgerRow` name the same columns in the same order; none of them holds real numbers."""
    table = await store.read(lambda conn: conn.execute("PRAGMA table_info(ledger)").fetchall())
    assert tuple(column[1] for column in table)[1:] == COLUMNS
    assert {column[2] for column in table} == {"INTEGER", "TEXT"}


async def test_money_columns_take_no_real_number(store: Store) -> None:
    """All tables are STRICT: a float with a fraction cannot become money, not even by mistake."""
    tables = await store.read(lambda conn: conn.execute("PRAGMA main.table_list").fetchall())
    found = {name: strict for _, name, *_, strict in tables if not name.startswith("sqlite_")}
    assert {"ledger", "meta", "runs", "children"} <= found.keys()
    assert set(found.values()) == {1}

    def spend_a_fraction(conn: sqlite3.Connection) -> None:
        conn.execute("INSERT INTO runs (iss, subject, id, opened, last, cost_nano_usd) VALUES ('', '', '', 0, 0, 0.5)")

    with pytest.raises(sqlite3.IntegrityError):
        await asyncio.wrap_future(store.submit(spend_a_fraction))


async def test_a_foreign_database_is_left_alone(tmp_path: Path) -> None:
    """What is not ours is refused by writers and readers, and not a byte of it changes."""
    other = tmp_path / "other.db"
    conn = sqlite3.connect(other)
    conn.execute("CREATE TABLE precious (x)")
    conn.commit()
    conn.close()
    text = tmp_path / "notes.txt"
    text.write_text("no database at all, but long enough to have a header of sixteen bytes" * 20)
    for path in (other, text):
        before = path.read_bytes()
        with pytest.raises(StoreRefused, match="is not a Passgate database"):
            await Store.open(path)
        with pytest.raises(StoreRefused, match="is not a Passgate database"):
            read_only(path)
        assert path.read_bytes() == before


async def test_a_newer_database_is_refused_by_name(store: Store) -> None:
    """A database of a newer release is not touched by an older one."""
    await store.close()
    conn = sqlite3.connect(store.path)
    conn.execute(f"PRAGMA user_version = {VERSION + 1}")
    conn.close()
    with pytest.raises(StoreRefused, match="newer Passgate"):
        await Store.open(store.path)
    with pytest.raises(StoreRefused, match="newer Passgate"):
        read_only(store.path)


def test_reading_what_is_not_there_says_so(tmp_path: Path) -> None:
    """A missing file is a sentence, and is not made by looking; an empty one is no ledger."""
    with pytest.raises(StoreRefused, match="does not exist yet"):
        read_only(tmp_path / "passgate.db")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreRefused, match="not a Passgate database"):
        read_only(tmp_path / "empty.db")


async def test_readers_cannot_write(store: Store) -> None:
    """The connection of the commands is read-only for SQLite itself."""
    conn = read_only(store.path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        conn.execute("DELETE FROM ledger")
    conn.close()


async def test_a_path_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    """A file where a folder is needed, or a folder where the file should be: refused with the path, no traceback."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreRefused, match=r"file/passgate\.db"):
        await Store.open(tmp_path / "file" / "passgate.db")
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(StoreRefused, match=r"folder\.db"):
        await Store.open(tmp_path / "folder.db")


def test_a_write_beyond_the_limit_is_not_acknowledged_and_heals(tmp_path: Path) -> None:
    """X02: where the kernel refuses to let files grow, nothing is acknowledged that is not kept; then it heals."""
    child = run(sys.executable, "-m", "tests.simulator.full_disk", "store", str(tmp_path))
    assert child.returncode == 0, child.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
async def test_a_full_disk_and_a_read_only_one(tmp_path: Path) -> None:
    """X02: ENOSPC loses nothing acknowledged and heals; a read-only disk is refused to writers, and can be read."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    try:
        store = await Store.open(disk / "passgate.db")
        acknowledged = await _fill(store, "full")
        assert "full" in str(store.trouble)
        assert await store.read(lambda conn: conn.execute("SELECT count(*) FROM meta").fetchone()) is not None
        assert run("mount", "-o", "remount,size=8m", str(disk)).returncode == 0
        await _heals(store)
        await asyncio.wrap_future(store.submit(note("again")))
        await store.close()
        assert run("mount", "-o", "remount,ro", str(disk)).returncode == 0
        assert notes(disk / "passgate.db") == acknowledged | {"again"}
        with pytest.raises(StoreRefused, match="Read-only file system"):
            await Store.open(disk / "passgate.db")
    finally:
        run("umount", "-l", str(disk))


async def _fill(store: Store, name: str) -> set[str]:
    """Write until the disk refuses; returns what was acknowledged until then."""
    acknowledged: set[str] = set()
    for number in range(10_000):
        key = f"{name}-{number}-{'x' * 4000}"
        try:
            await asyncio.wrap_future(store.submit(note(key)))
        except StoreUnavailable:
            return acknowledged
        acknowledged.add(key)
    raise AssertionError("the disk never filled up")


async def _heals(store: Store) -> None:
    async with asyncio.timeout(20):
        while not store.healthy:  # noqa: ASYNC110 - it heals by itself, and tells nobody
            await asyncio.sleep(0.05)
