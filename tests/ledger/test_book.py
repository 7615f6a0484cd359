"""The worker's book: rows outlive their process, are sent until acknowledged, and stop admission when they cannot."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from gateway.core.clock import SystemClock
from gateway.core.errors import Refusal
from gateway.ledger import Batch, Book, Poster, Posting, recover
from gateway.state import Runs, Store
from tests.simulator.clock import SetClock
from tests.simulator.rows import KEY, delta, row


async def ids(store: Store) -> list[str]:
    found = await store.read(lambda conn: conn.execute("SELECT request_id FROM ledger ORDER BY seq").fetchall())
    return [name for (name,) in found]


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.rows"))


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - it watches files and figures, which set no event
            await asyncio.sleep(0.005)


async def test_a_posted_row_is_in_the_file_at_once_and_in_the_ledger_soon(
    tmp_path: Path, store: Store, poster: Poster
) -> None:
    """`post` returns with the row in the recovery file; the commit follows by itself, and then the file is empty."""
    book = Book(tmp_path / "recovery", "worker-1", poster.post, SystemClock())
    book.start()
    book.post(row("a"))
    assert size_of(tmp_path / "recovery") > 0
    assert book.queued == 1
    await eventually(lambda: book.queued == 0)
    await book.flush()
    assert await ids(store) == ["a"]
    assert size_of(tmp_path / "recovery") == 0
    await book.close()
    assert list((tmp_path / "recovery").iterdir()) == []


async def test_post_durable_returns_after_the_commit(tmp_path: Path, store: Store, poster: Poster) -> None:
    """When `post_durable` returns, rows and counters of the run are committed."""
    book = Book(tmp_path / "recovery", "worker-1", poster.post, SystemClock())
    book.start()
    rows = row("a", run="r1", step=4), row("a", run="r1", step=4, attempt=2)
    await book.post_durable(Posting(rows, delta(4, tokens=30, cost=7)))
    assert await ids(store) == ["a", "a"]
    loaded = await Runs(store).load_run(KEY)
    assert loaded is not None
    facts, last_step = loaded
    assert (facts.steps, facts.tokens, facts.cost_nano_usd, last_step) == (1, 30, 7, 4)
    await book.close()


async def test_rows_posted_while_a_batch_is_on_its_way_wait_for_their_own_commit(tmp_path: Path) -> None:
    """A commit under way acknowledges only what it carries; the file of later rows is not emptied by it."""
    gate = asyncio.Event()
    sent: list[list[str]] = []

    async def slow(batch: Batch) -> None:
        sent.append([each.request_id for posting in batch.postings for each in posting.rows])
        await gate.wait()
        gate.clear()

    book = Book(tmp_path, "worker-1", slow, SystemClock())
    book.start()
    first = asyncio.create_task(book.post_durable(Posting((row("a"),), delta(1))))
    await eventually(lambda: bool(sent))
    second = asyncio.create_task(book.post_durable(Posting((row("b"),), delta(2))))
    await asyncio.sleep(0)
    book.post(row("c"))
    gate.set()
    await first
    await eventually(lambda: len(sent) == 2)
    assert not second.done()
    assert size_of(tmp_path) > 0
    gate.set()
    await second
    assert sent == [["a"], ["b", "c"]]
    await book.close()


async def test_what_was_not_acknowledged_is_sent_again_and_nobody_is_let_in_meanwhile(
    tmp_path: Path, store: Store, poster: Poster
) -> None:
    """A supervisor that commits but dies before it says so: whoever waits is refused, the row is in the ledger once."""
    failures = 2

    async def lossy(batch: Batch) -> None:
        nonlocal failures
        await poster.post(batch)
        if failures:
            failures -= 1
            raise ConnectionResetError("the other process is gone")

    book = Book(tmp_path / "recovery", "worker-1", lossy, SystemClock())
    book.start()
    with pytest.raises(Refusal) as refused:
        await book.post_durable(Posting((row("a", run="r1"),), delta(tokens=30)))
    assert refused.value.code == "store_unavailable"
    with pytest.raises(Refusal):
        book.check()
    await eventually(lambda: book.healthy)
    book.check()
    await book.flush()
    assert await ids(store) == ["a"]
    loaded = await Runs(store).load_run(KEY)
    assert loaded is not None
    assert (loaded[0].steps, loaded[0].tokens) == (1, 30)
    await book.close()


async def test_a_cancelled_caller_does_not_take_its_settlement_back(
    tmp_path: Path, store: Store, poster: Poster
) -> None:
    """The agent hangs up while its step is being committed: the commit happens all the same."""
    gate = asyncio.Event()

    async def slow(batch: Batch) -> None:
        await gate.wait()
        await poster.post(batch)

    book = Book(tmp_path / "recovery", "worker-1", slow, SystemClock())
    book.start()
    waiting = asyncio.create_task(book.post_durable(Posting((row("a"),), delta())))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    gate.set()
    await book.flush()
    assert await ids(store) == ["a"]
    await book.close()


async def test_a_silent_supervisor_stops_admission_and_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """No acknowledgement for seconds: `check` refuses, `post_durable` gives up, `close` leaves the rows in the file."""
    clock = SetClock()

    async def silent(_: Batch) -> None:
        await asyncio.Event().wait()

    book = Book(tmp_path, "worker-1", silent, clock)
    book.start()
    with pytest.raises(Refusal, match="store_unavailable"):
        await book.post_durable(Posting((row("a"),), delta()), patience=0.05)
    book.check()
    clock.pass_(6)
    with pytest.raises(Refusal, match="store_unavailable"):
        book.check()
    await book.close(patience=0.05)
    recovered: list[str] = []

    async def post(batch: Batch) -> None:
        recovered.extend(each.request_id for posting in batch.postings for each in posting.rows)

    assert (await recover(tmp_path, post)).rows == 1
    assert recovered == ["a"]


async def test_a_store_that_the_supervisor_calls_ill_stops_admission(tmp_path: Path, poster: Poster) -> None:
    """X02: the supervisor's word that its store takes no writes is enough to let nobody in."""
    book = Book(tmp_path / "recovery", "worker-1", poster.post, SystemClock())
    book.store_healthy = False
    with pytest.raises(Refusal) as refused:
        book.check()
    assert refused.value.status == 503
    book.store_healthy = True
    book.check()
    await book.close()


async def test_many_rows_go_in_few_batches(tmp_path: Path, store: Store, poster: Poster) -> None:
    """Rows are gathered: a thousand posts are a handful of commits, none of them larger than the limit."""
    batches: list[int] = []

    async def counting(batch: Batch) -> None:
        batches.append(len(batch.postings))
        await poster.post(batch)

    book = Book(tmp_path / "recovery", "worker-1", counting, SystemClock())
    book.start()
    for number in range(5000):
        book.post(row(f"r{number}"))
    await book.close()
    assert len(batches) <= 5
    assert max(batches) <= 2000
    assert await ids(store) == [f"r{number}" for number in range(5000)]


async def test_a_delta_without_rows_is_a_mistake(tmp_path: Path, poster: Poster) -> None:
    """What a step adds is tied to its rows, so that it is added once; without rows it cannot be."""
    book = Book(tmp_path / "recovery", "worker-1", poster.post, SystemClock())
    book.start()
    with pytest.raises(ValueError, match="tied to its rows"):
        await book.post_durable(Posting((), delta()))
    await book.close()


async def test_a_full_disk_under_the_file_refuses_and_loses_nothing(tmp_path: Path) -> None:
    """X02: a real write that fails leaves no half row; every row whose `post` returned is recovered, in order."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.simulator.full_disk", "book", str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    told, complaint = await child.communicate()
    assert child.returncode == 0, complaint.decode()
    recovered: list[str] = []

    async def post(batch: Batch) -> None:
        recovered.extend(each.request_id for posting in batch.postings for each in posting.rows)

    report = await recover(tmp_path, post)
    assert report.damaged == []
    assert recovered == told.decode().strip().split(",")


def serve(poster: Poster) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """The supervisor's end of the simulated channel: commits each batch, then acknowledges it."""
    decoder = msgspec.msgpack.Decoder(Batch)

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                size = int.from_bytes(await reader.readexactly(4), "big")
                await poster.post(decoder.decode(await reader.readexactly(size)))
                writer.write(b"k")
        writer.close()

    return one


async def test_killed_at_any_moment_every_row_that_was_told_is_in_the_ledger_once(
    tmp_path: Path, store: Store, poster: Poster
) -> None:
    """SIGKILL of a real process: every row it told is in the ledger once, and the run's counters are their sums."""
    server = await asyncio.start_unix_server(serve(poster), tmp_path / "s")
    told: list[str] = []
    for kill in range(5):
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.simulator.bookkeeper", str(tmp_path / "recovery"), str(tmp_path / "s"), f"k{kill}"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdout is not None
        told += [(await child.stdout.readline()).decode().strip() for _ in range(100 + 37 * kill)]
        child.send_signal(signal.SIGKILL)
        told += [line.decode() for line in (await child.stdout.read()).split(b"\n")[:-1]]
        await child.wait()
    server.close()
    report = await recover(tmp_path / "recovery", poster.post)
    assert report.damaged == []
    assert report.files == 10, "each worker has two files"
    counted = Counter(await ids(store))
    assert set(counted.values()) == {1}
    assert set(told) <= set(counted)
    assert len(counted) - len(told) <= 5, "at most the row that each was busy with was not told"
    sums = await store.read(
        lambda conn: conn.execute("SELECT count(*), sum(cost_nano_usd) FROM ledger WHERE run = 'r1'").fetchone()
    )
    loaded = await Runs(store).load_run(KEY)
    assert loaded is not None
    assert (loaded[0].steps, loaded[0].cost_nano_usd) == sums
    assert (await recover(tmp_path / "recovery", poster.post)).files == 0


async def test_the_file_of_a_living_worker_is_left_alone(tmp_path: Path, poster: Poster) -> None:
    """Recovery takes only files whose worker is dead: the lock tells, from another process too."""
    book = Book(tmp_path / "recovery", "worker-1", poster.post, SystemClock())
    book.post(row("a"))
    assert (await recover(tmp_path / "recovery", poster.post)).files == 0
    other = subprocess.run(  # noqa: ASYNC221 - a short one
        [sys.executable, "-c", _RECOVER, str(tmp_path / "recovery")], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == "0"
    await book.close(patience=0.01)
    assert (await recover(tmp_path / "recovery", poster.post)).files == 1


_RECOVER = """
import asyncio, sys
from pathlib import Path
from gateway.ledger import recover
async def post(batch): raise AssertionError("took the file of a living worker")
print(asyncio.run(recover(Path(sys.argv[1]), post)).files)
"""
