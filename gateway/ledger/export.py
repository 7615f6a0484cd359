"""`spend export`: the rows of the ledger as they are, for other programs. Rows are streamed.

The columns are `core.row.EXPORTED`, in that order. Times are RFC 3339 in UTC, money is whole
nano-USD, `tags` is a JSON object, booleans are `true` and `false`.

CSV is RFC 4180 with a header line. Spreadsheets run a cell that starts with `=`, `+`, `-` or `@`
as a formula, and some texts here were chosen by agents and upstreams. A text cell that starts with
one of these, with a control character or with an apostrophe therefore has one apostrophe put in
front; who reads the file by program takes one leading apostrophe off text cells and has the exact
text back. NDJSON needs none of this.
"""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Iterator
from typing import IO, Final

import msgspec

from gateway.core.row import EXPORTED
from gateway.ledger.filter import ALL, Filter
from gateway.ledger.period import Period, rfc3339_of

_SELECT: Final = f"SELECT {', '.join(EXPORTED)} FROM ledger WHERE time >= ? AND time < ?"  # noqa: S608 - constants
_TIME: Final = EXPORTED.index("time")
_TAGS: Final = EXPORTED.index("tags")
_ESTIMATED: Final = EXPORTED.index("estimated")
_FORMULA: Final = tuple("=+-@＝＋－＠'\t\r\n\0")  # noqa: RUF001 - the full-width forms count as the plain ones

_encode_json: Final = msgspec.json.Encoder().encode


def export_csv(conn: sqlite3.Connection, period: Period, out: IO[str], where: Filter = ALL) -> int:
    """Write the rows of a period that pass `where`, in order of time; returns how many."""
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(EXPORTED)
    count = 0
    for row in _rows(conn, period, where):
        row[_TAGS] = row[_TAGS] or "{}"
        row[_ESTIMATED] = "true" if row[_ESTIMATED] else "false"
        writer.writerow([unformula(value) if isinstance(value, str) else value for value in row])
        count += 1
    return count


def export_ndjson(conn: sqlite3.Connection, period: Period, out: IO[str], where: Filter = ALL) -> int:
    """Write the rows of a period that pass `where`, in order of time, one JSON object a line; returns how many."""
    count = 0
    for row in _rows(conn, period, where):
        row[_TAGS] = _tags(str(row[_TAGS]))
        row[_ESTIMATED] = bool(row[_ESTIMATED])
        out.write(_encode_json(dict(zip(EXPORTED, row, strict=True))).decode() + "\n")
        count += 1
    return count


def unformula(text: str) -> str:
    """A text as a CSV cell that no spreadsheet runs; reversible, see above."""
    return "'" + text if text.startswith(_FORMULA) else text


def _rows(conn: sqlite3.Connection, period: Period, where: Filter) -> Iterator[list[object]]:
    query = f"{_SELECT}{where.sql} ORDER BY time, seq"
    for found in conn.execute(query, (*period.bounds, *where.parameters)):
        row = list(found)
        row[_TIME] = rfc3339_of(found[_TIME])
        yield row


def _tags(text: str) -> object:
    try:
        return json.loads(text) if text else {}
    except ValueError:
        return text  # still JSON, and nothing is lost
