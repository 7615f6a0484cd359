"""Posting has one effect however often it is done, and one bad row does not hold up the others."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.row import COLUMNS, LedgerRow
from gateway.core.run import RunFacts, RunKey
from gateway.ledger import Batch, Posted, Poster, Posting, recover
from gateway.ledger.posting import frame
from gateway.state import Runs, Store, StoreUnavailable
from tests.simulator.rows import KEY, PLAIN, delta, row

TEXT = [name for name in COLUMNS if isinstance(getattr(PLAIN, name), str)]
METACHARACTERS = [
    "'; DROP TABLE ledger; --",
    "' OR pg_sleep(10) --",
    '") ; DELETE FROM ledger WHERE ("1"="1',
    "%_\\?:name@x$1",
    "\x00'\x00",
]


def leave(folder: Path, data: bytes) -> None:
    """What a dead worker left behind."""
    folder.mkdir()
    (folder / "worker-1_x.rows").write_bytes(data)


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def all_rows(store: Store) -> list[LedgerRow]:
    found = await store.read(
        lambda conn: conn.execute(f"SELECT {', '.join(COLUMNS)} FROM ledger ORDER BY seq").fetchall()  # noqa: S608
    )
    return [LedgerRow(**{**dict(zip(COLUMNS, values, strict=True)), "estimated": bool(values[COLUMNS.index("estimated")])}) for values in found]  # fmt: skip # noqa: E501


async def test_posting_again_changes_nothing(store: Store, poster: Poster) -> None:
    """The same batch again: no second row, refusals (attempt 0) included, and the run's counters stay."""
    batch = Batch(
        (
            Posting((row("a"),)),
            Posting((row("b", outcome="refused", attempt=0, code="policy_denied"),)),
            Posting((row("c", run="r1", step=2), row("c", run="r1", step=2, attempt=2)), delta(2, tool_calls=1)),
        )
    )
    first = await poster.post(batch)
    again = await poster.post(batch)
    assert first.rows == tuple(each for posting in batch.postings for each in posting.rows)
    assert first.deltas == (delta(2, tool_calls=1),)
    assert again == Posted((), ())
    assert await all_rows(store) == list(first.rows)
    loaded = await Runs(store).load_run(KEY)
    assert loaded is not None
    assert (loaded[0].steps, loaded[0].tool_calls, loaded[0].tokens, loaded[1]) == (1, 1, 1500, 2)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 10**12)), max_size=30))
def test_counters_are_the_sums_of_the_rows_that_are_there(sent: list[tuple[int, int, int]]) -> None:
    """Any sequence of postings with any repetition: the run's money is the sum of its ledger rows."""

    async def story() -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = await Store.open(Path(folder) / "passgate.db")
            poster = Poster(store)
            for call, attempt, cost in sent:
                posted = row(f"c{call}", run="r1", attempt=attempt, cost_nano_usd=cost)
                await poster.post(Batch((Posting((posted,), delta(cost=cost)),)))
            loaded = await Runs(store).load_run(KEY)
            rows = await all_rows(store)
            assert (loaded[0].cost_nano_usd if loaded else 0) == sum(each.cost_nano_usd for each in rows)
            assert (
                (loaded[0].steps if loaded else 0) == len(rows) == len({(call, attempt) for call, attempt, _ in sent})
            )
            await store.close()

    asyncio.run(story())


async def test_sql_in_every_text_column_is_data(store: Store, poster: Poster) -> None:
    """S06: what agents and upstreams write is a parameter in every column, in run names too, and never SQL."""
    rows = [
        row(f"{column}-{index}", **({column: text} if column != "request_id" else {}))
        for column in TEXT
        for index, text in enumerate(METACHARACTERS)
    ] + [row(text) for text in METACHARACTERS]
    await poster.post(Batch(tuple(Posting((each,)) for each in rows)))
    assert await all_rows(store) == rows
    key = RunKey(METACHARACTERS[0], METACHARACTERS[1], METACHARACTERS[2])
    runs = Runs(store)
    await runs.open_run(RunFacts(key, 5.0))
    assert await runs.load_run(key) == (RunFacts(key, 5.0), 0)


async def test_a_row_that_no_column_takes_does_not_hold_up_the_others(store: Store, poster: Poster) -> None:
    """A number beyond 64 bits: the row comes back as rejected, the rest of its batch is committed."""
    bad = row("bad", input_tokens=1 << 63)
    posted = await poster.post(Batch((Posting((row("a"),)), Posting((bad,), delta()), Posting((row("b"),)))))
    assert [each.request_id for each in posted.rows] == ["a", "b"]
    assert posted.rejected == (bad,)
    assert posted.deltas == ()
    assert await Runs(store).load_run(KEY) is None
    assert [each.request_id for each in await all_rows(store)] == ["a", "b"]
    assert store.healthy


async def test_a_closed_store_acknowledges_nothing(store: Store, poster: Poster) -> None:
    """When the store cannot commit, the poster says so instead of returning."""
    await store.close()
    with pytest.raises(StoreUnavailable):
        await poster.post(Batch((Posting((row("a"),)),)))


async def test_a_damaged_file_is_kept_after_all_that_can_be_read_was_posted(
    tmp_path: Path, store: Store, poster: Poster
) -> None:
    """A recovery file damaged in the middle: its other rows are posted, the file is kept and named."""
    frames = [bytearray(frame(Posting((row(name),)))) for name in "abc"]
    frames[1][20] ^= 1
    leave(tmp_path / "recovery", b"".join(frames))
    report = await recover(tmp_path / "recovery", poster.post)
    assert (report.files, report.rows) == (1, 2)
    (complaint,) = report.damaged
    assert "worker-1_x.damaged" in complaint
    assert f"offset {len(frames[0])}" in complaint
    assert [each.request_id for each in await all_rows(store)] == ["a", "c"]
    assert left_in(tmp_path / "recovery") == ["worker-1_x.damaged"]


async def test_a_file_stays_while_its_rows_cannot_be_committed(tmp_path: Path, store: Store, poster: Poster) -> None:
    """Recovery removes a file after the commit, never before: a failing store leaves it for the next time."""
    leave(tmp_path / "recovery", frame(Posting((row("a"),))))
    await store.close()
    with pytest.raises(StoreUnavailable):
        await recover(tmp_path / "recovery", poster.post)
    assert left_in(tmp_path / "recovery") == ["worker-1_x.rows"]


async def test_a_run_is_opened_once_and_counts_as_a_child_once(store: Store) -> None:
    """Opening a run again changes neither its age nor its parent's count of children."""
    runs = Runs(store)
    child = RunKey(KEY.iss, KEY.subject, "child")
    await runs.open_run(RunFacts(KEY, 100.25))
    for opened in (200.5, 300.75):
        await runs.open_run(RunFacts(child, opened, KEY.id, depth=1))
    assert await runs.load_run(child) == (RunFacts(child, 200.5, KEY.id, depth=1), 0)
    parent = await runs.load_run(KEY)
    assert parent is not None
    assert (parent[0].opened, parent[0].children) == (100.25, 1)
