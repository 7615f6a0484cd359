"""`spend export`: every row, exactly, in formats that other programs read."""

from __future__ import annotations

import csv
import json
from contextlib import closing
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from gateway.core.row import EXPORTED, LedgerRow
from gateway.ledger import Batch, Poster, Posting
from gateway.ledger.export import export_csv, export_ndjson, unformula
from gateway.ledger.period import Period
from gateway.state import Store, read_only
from tests.simulator.rows import NOON, PLAIN, row

CONTRACT = """
time request_id run step attempt kind agent issuer subject assurance key_id chain team cost_center tags on_behalf_of
decision_id provider model served_model tool dialect input_tokens cached_input_tokens cache_write_tokens output_tokens
reasoning_tokens audio_tokens image_tokens price_version cost_nano_usd list_cost_nano_usd avoided_nano_usd
avoided_reason held_nano_usd outcome estimated upstream_request_id
"""
HEADER = CONTRACT.split()
HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "'quoted", "\ttab", 'say "hi", twice\r\nplease', "＝1", "plain", "€ 5"]  # noqa: RUF001 - on purpose
TEXT = [name for name in EXPORTED if isinstance(getattr(PLAIN, name), str) and name != "tags"]


async def exported(store: Store, rows: list[LedgerRow], *, kind: str, period: Period = Period()) -> str:  # noqa: B008 - it is frozen
    await Poster(store).post(Batch(tuple(Posting((each,)) for each in rows)))
    out = StringIO(newline="")
    with closing(read_only(store.path)) as conn:
        count = (export_csv if kind == "csv" else export_ndjson)(conn, period, out)
    assert period != Period() or count == len(rows)
    return out.getvalue()


async def test_a_csv_line_by_line(store: Store) -> None:
    """The exact bytes of a small export: RFC 4180 with the contract's columns, RFC 3339 times, booleans in words."""
    who = "llm,procurement,dev,spiffe://acme.example/agent/procurement,bearer,k1,,finance,CC-114"
    what = "demo,demo-small,demo-small-1,,openai,1200,200,0,300,100,0,0,2026-11-01,1500000,1500000,0,,0,complete"
    text = await exported(store, [row("a", estimated=True), row("b", tags="", time=NOON + 1)], kind="csv")
    assert text.split("\r\n") == [
        ",".join(HEADER),
        f'2026-11-20T12:00:00.000000Z,a,,0,1,{who},"{{""env"":""prod""}}",,dec_1,{what},true,up_1',
        f"2026-11-20T12:00:00.000001Z,b,,0,1,{who},{{}},,dec_1,{what},false,up_1",
        "",
    ]


async def test_ndjson_has_the_same_columns_with_their_types(store: Store) -> None:
    """One object a line: integers, a true boolean, tags as an object."""
    (line,) = (await exported(store, [row("a")], kind="ndjson")).splitlines()
    told = json.loads(line)
    assert list(told) == HEADER
    assert told["tags"] == {"env": "prod"}
    assert told["estimated"] is False
    assert told["cost_nano_usd"] == 1_500_000
    assert told["time"] == "2026-11-20T12:00:00.000000Z"


@pytest.mark.parametrize("kind", ["csv", "ndjson"])
async def test_any_text_comes_back_as_it_was(store: Store, kind: str) -> None:
    """S06: hostile text in every text column is exact after reading the export by the documented rule."""
    rows = [
        row(
            f"{column}-{index}" if column != "request_id" else text,
            **({} if column == "request_id" else {column: text}),
        )
        for column in TEXT
        for index, text in enumerate(HOSTILE)
    ]
    text = await exported(store, rows, kind=kind)
    if kind == "csv":
        read = list(csv.DictReader(StringIO(text, newline="")))
        found = [{name: line[name].removeprefix("'") for name in TEXT} for line in read]
    else:
        found = [{name: json.loads(line)[name] for name in TEXT} for line in text.splitlines()]
    assert found == [{name: value for name, value in asdict(each).items() if name in TEXT} for each in rows]


async def test_no_cell_of_a_csv_is_a_formula(store: Store) -> None:
    """A spreadsheet that opens the export runs nothing that an agent or an upstream wrote."""
    text = await exported(store, [row(f"r{number}", model=text) for number, text in enumerate(HOSTILE)], kind="csv")
    cells = [line["model"] for line in csv.DictReader(StringIO(text, newline=""))]
    assert not [cell for cell in cells if cell.startswith(tuple("=+-@＝\t\r\n"))]  # noqa: RUF001 - full-width on purpose


@given(st.text())
def test_the_guard_is_reversible(text: str) -> None:
    """Taking one leading apostrophe off gives the exact text back, whatever it was."""
    assert unformula(text).removeprefix("'") == text


async def test_a_period_leaves_the_rest_out(store: Store) -> None:
    """`--from` is inclusive, `--to` exclusive, rows come in order of time."""
    rows = [row("late", time=NOON + 2), row("first", time=NOON), row("second", time=NOON + 1)]
    text = await exported(store, rows, kind="ndjson", period=Period(NOON, NOON + 2))
    assert [json.loads(line)["request_id"] for line in text.splitlines()] == ["first", "second"]


def test_the_columns_are_the_contracts() -> None:
    """The export carries exactly the names that finance relies on, in their order."""
    assert list(EXPORTED) == HEADER
