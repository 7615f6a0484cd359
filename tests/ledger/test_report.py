"""`spend report`: sums that finance can check by hand."""

from __future__ import annotations

import asyncio
import csv
import json
import tempfile
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.row import LedgerRow
from gateway.ledger import Batch, Poster, Posting
from gateway.ledger.filter import DIMENSIONS
from gateway.ledger.period import Period, read_period
from gateway.ledger.report import Report, as_csv, as_json, as_text, spend_report
from gateway.state import Store, read_only
from tests.simulator.rows import NOON, row

DAY = 24 * 3600 * 1_000_000
ALWAYS = Period()

UNUSED = {"cost_nano_usd": 0, "input_tokens": 0, "output_tokens": 0}
SMALL = [
    row("a", agent="alpha", model="big", cost_nano_usd=2_000_000_000, input_tokens=1000, output_tokens=10),
    # A call with two attempts: one call, the sum of both.
    row("b", agent="alpha", model="big", outcome="failed", cost_nano_usd=500_000_000, input_tokens=5, output_tokens=0),
    row("b", agent="alpha", model="big", attempt=2, cost_nano_usd=250_000_001, input_tokens=5, output_tokens=2),
    row("c", agent="beta", model="small", time=NOON + DAY, cost_nano_usd=1, input_tokens=1, output_tokens=1),
    # A price that is not known, and usage that the provider did not give.
    row(
        "d",
        agent="beta",
        model="own",
        price_version="",
        cost_nano_usd=0,
        input_tokens=7,
        output_tokens=7,
        estimated=True,
    ),
    row("e", agent="beta", model="small", attempt=0, outcome="refused", **UNUSED),
    row("f", agent="beta", model="small", attempt=0, outcome="cached", avoided_nano_usd=300_000_000, **UNUSED),
]


async def report_of(store: Store, rows: Sequence[LedgerRow], by: Sequence[str], period: Period = ALWAYS) -> Report:
    await Poster(store).post(Batch(tuple(Posting((each,)) for each in rows)))
    with closing(read_only(store.path)) as conn:
        return spend_report(conn, by, period)


async def test_the_text_of_a_small_ledger(store: Store) -> None:
    """The table, computed by hand: money exact to the nano-USD, attempts of a call counted once, notes below."""
    report = await report_of(store, SMALL, ["agent", "model"])
    assert as_text(report) == (
        "Spend from the beginning to now (UTC)\n"
        "\n"
        "agent  model          USD                        calls  refused  input tokens  output tokens\n"
        "--------------------------------------------------------------------------------------------\n"
        "alpha  big    2.750000001  ████████████████████      2        0         1,010             12\n"
        "beta   small  0.000000001  █                         3        1             1              1\n"
        "beta   own           0.00                            1        0             7              7\n"
        "--------------------------------------------------------------------------------------------\n"
        "total         2.750000002                            6        1         1,018             20\n"
        "\n"
        "0.30 USD were avoided (answers from memory).\n"
        "1 call has no known price, counted as 0 USD; add the model under `prices:` in the config.\n"
        "1 call has estimated tokens, because the provider gave no usage."
    )


async def test_the_same_as_json_and_csv(store: Store) -> None:
    """Programs get whole nano-USD beside decimal strings; no float stands in for money."""
    report = await report_of(store, SMALL, ["agent"])
    told = json.loads(as_json(report), parse_float=lambda text: pytest.fail(f"a float: {text}"))
    assert told["by"] == ["agent"]
    assert [(line["agent"], line["cost_nano_usd"], line["cost_usd"], line["calls"]) for line in told["lines"]] == [
        ("alpha", 2_750_000_001, "2.750000001", 2),
        ("beta", 1, "0.000000001", 4),
    ]
    assert told["total"]["cost_nano_usd"] == 2_750_000_002
    assert told["total"]["avoided_nano_usd"] == 300_000_000
    assert (told["from"], told["to"]) == (None, None)
    lines = list(csv.DictReader(StringIO(as_csv(report), newline="")))
    assert [(line["agent"], line["cost_usd"], line["calls"], line["refused_calls"]) for line in lines] == [
        ("alpha", "2.750000001", "2", "0"),
        ("beta", "0.000000001", "4", "1"),
    ]


async def test_days_come_in_their_order_and_a_period_ends_before_its_end(store: Store) -> None:
    """By day the order is time's; `--to` is exclusive."""
    report = await report_of(store, SMALL, ["day"])
    assert [key for key, _ in report.lines] == [("2026-11-20",), ("2026-11-21",)]
    one_day = Period(NOON, NOON + DAY)
    assert [key for key, _ in (await report_of(store, [], ["day"], one_day)).lines] == [("2026-11-20",)]
    assert (await report_of(store, [], ["month"])).lines[0][0] == ("2026-11",)


async def test_an_empty_ledger_says_what_to_do(store: Store) -> None:
    """No rows: a sentence, and the period that was asked for."""
    period = read_period(now=datetime(2026, 11, 20, tzinfo=UTC), month="2026-11")
    text = as_text(await report_of(store, [], ["agent"], period))
    assert text.startswith("No calls from 2026-11-01 to 2026-12-01 (UTC).")


async def test_every_dimension_can_be_asked_for(store: Store) -> None:
    """Each dimension gives lines whose sums are the total."""
    for name in DIMENSIONS:
        report = await report_of(store, SMALL, [name])
        assert sum(sums.cost_nano_usd for _, sums in report.lines) == report.total.cost_nano_usd, name


async def test_runs_of_two_owners_are_two_runs(store: Store) -> None:
    """A run is the pair (owner, id): the same id used by two agents makes two lines."""
    rows = [row("a", run="r", subject="one"), row("b", run="r", subject="two")]
    report = await report_of(store, rows, ["run"])
    assert [(key, sums.calls) for key, sums in report.lines] == [(("r",), 1), (("r",), 1)]


@pytest.mark.parametrize("by", [[""], ["agent; DROP TABLE ledger"], ["time"], ["agent", "agent"], []])
async def test_an_unknown_dimension_is_a_sentence(store: Store, by: list[str]) -> None:
    """S06: what is asked for is looked up, never put into SQL; wrong words are refused."""
    with pytest.raises(ValueError, match="--by"):
        await report_of(store, [], by)


async def test_a_terminal_obeys_no_agent(store: Store) -> None:
    """Control and bidirectional characters in names that agents chose are shown, not sent."""
    report = await report_of(store, [row("a", model="\x1b[2Jx\u202e\r\n")], ["model"])
    text = as_text(report)
    assert r"\x1b[2Jx\u202e\r\n" in text
    assert "\x1b" not in text


async def test_a_sum_that_does_not_fit_is_an_error_not_a_rounded_figure(store: Store) -> None:
    """Two amounts near the limit of 64 bits: SQLite refuses to add them, nothing is approximated."""
    huge = (1 << 63) - 1
    with pytest.raises(Exception, match="integer overflow"):
        await report_of(store, [row("a", cost_nano_usd=huge), row("b", cost_nano_usd=huge)], ["agent"])


LINES = st.tuples(
    st.sampled_from(["alpha", "beta"]),
    st.sampled_from(["big", "small", "it's; --"]),
    st.integers(-(10**12), 10**15),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.sampled_from(["complete", "refused", "failed"]),
    st.integers(0, 40 * DAY),
)


@settings(max_examples=20, deadline=None)
@given(st.lists(LINES, max_size=40), st.lists(st.sampled_from(sorted(DIMENSIONS)), min_size=1, max_size=3, unique=True))
def test_lines_add_up_to_the_total_and_the_total_to_the_rows(
    lines: list[tuple[str, str, int, int, int, str, int]], by: list[str]
) -> None:
    """Whatever the rows and the breakdown: every figure of the total is the sum over the rows, and over the lines."""
    rows = [
        row(f"r{number}", agent=agent, model=model, cost_nano_usd=cost, input_tokens=tokens_in,
            output_tokens=tokens_out, outcome=outcome, time=NOON + later)
        for number, (agent, model, cost, tokens_in, tokens_out, outcome, later) in enumerate(lines)
    ]  # fmt: skip

    async def story() -> Report:
        with tempfile.TemporaryDirectory() as folder:
            store = await Store.open(Path(folder) / "passgate.db")
            report = await report_of(store, rows, by)
            await store.close()
            return report

    report = asyncio.run(story())
    expected = {
        "cost_nano_usd": sum(each.cost_nano_usd for each in rows),
        "input_tokens": sum(each.input_tokens for each in rows),
        "output_tokens": sum(each.output_tokens for each in rows),
        "calls": len(rows),
        "refused_calls": sum(each.outcome == "refused" for each in rows),
    }
    for name, value in expected.items():
        assert getattr(report.total, name) == value, name
        assert sum(getattr(sums, name) for _, sums in report.lines) == value, name
