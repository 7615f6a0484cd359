"""`spend report`: who spent what on what, as sums over the ledger.

Sums are made by SQLite over 64-bit integers; a sum that does not fit is an error, never a rounded
figure. A call is a request: its attempts are rows of their own and are counted once.
"""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from io import StringIO
from typing import Final

from gateway.core.money import usd_text
from gateway.ledger.export import unformula
from gateway.ledger.filter import ALL, DIMENSIONS, Filter
from gateway.ledger.period import Period, rfc3339_of

_SUMS: Final = """
  coalesce(sum(cost_nano_usd), 0), coalesce(sum(list_cost_nano_usd), 0), coalesce(sum(avoided_nano_usd), 0),
  count(DISTINCT request_id), count(DISTINCT iif(outcome = 'refused', request_id, NULL)),
  coalesce(sum(input_tokens), 0), coalesce(sum(cached_input_tokens), 0), coalesce(sum(output_tokens), 0),
  coalesce(sum(reasoning_tokens), 0),
  count(DISTINCT iif(kind = 'llm' AND price_version = '' AND input_tokens + output_tokens > 0, request_id, NULL)),
  count(DISTINCT iif(estimated, request_id, NULL))
"""
_FROM: Final = "FROM ledger WHERE time >= ? AND time < ?"
_BAR: Final = 20


@dataclass(frozen=True, slots=True)
class Sums:
    """The figures of one line; amounts are nano-USD."""

    cost_nano_usd: int
    list_cost_nano_usd: int
    avoided_nano_usd: int
    calls: int
    refused_calls: int
    input_tokens: int  # with the cached ones
    cached_input_tokens: int
    output_tokens: int  # with the reasoning ones
    reasoning_tokens: int
    unpriced_calls: int  # tokens were used, and no price is known for them
    estimated_calls: int  # the provider gave no usage


_SUM_NAMES: Final = tuple(field.name for field in fields(Sums))


@dataclass(frozen=True, slots=True)
class Report:
    """One line for each combination of the dimensions `by`, dearest first (by time where time comes first)."""

    by: tuple[str, ...]
    period: Period
    lines: tuple[tuple[tuple[str, ...], Sums], ...]
    total: Sums
    where: Filter = ALL


def spend_report(conn: sqlite3.Connection, by: Sequence[str], period: Period, where: Filter = ALL) -> Report:
    """Sum up the rows of a period that pass `where`.

    Raises `ValueError` for a dimension that does not exist or comes twice.

    A run is the pair (owner, id): with `run` the same id of two owners makes two lines, which
    `subject` tells apart.
    """
    unknown = [name for name in by if name not in DIMENSIONS]
    if unknown or not by:
        raise ValueError(f"--by {','.join(unknown) or '(nothing)'} is not one of {', '.join(DIMENSIONS)}")
    if len(set(by)) != len(by):
        raise ValueError("--by names a dimension twice")
    keys = ", ".join(DIMENSIONS[name] for name in by)
    groups = keys + (", iss, subject" if "run" in by else "")
    rows, parameters = _FROM + where.sql, (*period.bounds, *where.parameters)
    conn.execute("BEGIN")  # lines and total see the same rows
    try:
        found = conn.execute(f"SELECT {keys}, {_SUMS} {rows} GROUP BY {groups}", parameters).fetchall()
        total = Sums(*conn.execute(f"SELECT {_SUMS} {rows}", parameters).fetchone())
    finally:
        conn.execute("ROLLBACK")
    width = len(by)
    lines = [(tuple(row[:width]), Sums(*row[width:])) for row in found]
    in_time = by[0] in ("day", "month")
    lines.sort(key=lambda line: line[0] if in_time else (-line[1].cost_nano_usd, -line[1].calls, line[0]))
    return Report(tuple(by), period, tuple(lines), total, where)


def as_json(report: Report) -> str:
    """For programs; amounts in whole nano-USD, and in USD as a decimal string."""
    return json.dumps(
        {
            "by": report.by,
            "from": _time(report.period.start),
            "to": _time(report.period.end),
            "where": report.where.columns,
            "lines": [{**dict(zip(report.by, key, strict=True)), **_figures(sums)} for key, sums in report.lines],
            "total": _figures(report.total),
        },
        indent=2,
        ensure_ascii=False,
    )


def as_csv(report: Report) -> str:
    """For spreadsheets: a header, one line each, no total; text cells as in `export`."""
    out = StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow((*report.by, "cost_usd", *_SUM_NAMES))
    for key, sums in report.lines:
        writer.writerow((*map(unformula, key), usd_text(sums.cost_nano_usd), *astuple(sums)))
    return out.getvalue()


def as_text(report: Report, *, bar: str = "█") -> str:
    """For people: a table with bars, the total, and what the figures do not tell."""
    asked = f"{report.period}{_printable(str(report.where))}"
    if not report.lines:
        return (
            f"No calls {asked}.\n"
            "The ledger has a row for every call of an agent; look at another period, or send a call first."
        )
    most = max(sums.cost_nano_usd for _, sums in report.lines)
    table = [[*report.by, "USD", "", "calls", "refused", "input tokens", "output tokens"]]
    table += [[*(_printable(part) or "-" for part in key), *_cells(sums, most, bar)] for key, sums in report.lines]
    table.append(["total", *[""] * (len(report.by) - 1), *_cells(report.total, 0, bar)])
    left = {*range(len(report.by)), len(report.by) + 1}
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([f"Spend {asked}", "", lines[0], rule, *lines[1:-1], rule, lines[-1], *_notes(report.total)])


def _figures(sums: Sums) -> dict[str, object]:
    return {"cost_usd": usd_text(sums.cost_nano_usd), **dict(zip(_SUM_NAMES, astuple(sums), strict=True))}


def _time(microseconds: int | None) -> str | None:
    return None if microseconds is None else rfc3339_of(microseconds)


def _cells(sums: Sums, most: int, bar: str) -> list[str]:
    filled = -(-max(sums.cost_nano_usd, 0) * _BAR // most) if most > 0 else 0
    counts = (sums.calls, sums.refused_calls, sums.input_tokens, sums.output_tokens)
    return [_usd(sums.cost_nano_usd), bar * filled, *(f"{count:,}" for count in counts)]


def _usd(nano: int) -> str:
    """USD with at least two places, all that are needed, and separators: `1,234.50`."""
    sign = "-" if nano < 0 else ""
    whole, _, rest = usd_text(abs(nano)).partition(".")
    return f"{sign}{int(whole):,}.{rest.ljust(2, '0')}"


def _notes(total: Sums) -> list[str]:
    notes = []
    if total.avoided_nano_usd:
        notes.append(f"{_usd(total.avoided_nano_usd)} USD were avoided (answers from memory).")
    if total.unpriced_calls:
        calls = _count(total.unpriced_calls)
        notes.append(f"{calls} no known price, counted as 0 USD; add the model under `prices:` in the config.")
    if total.estimated_calls:
        notes.append(f"{_count(total.estimated_calls)} estimated tokens, because the provider gave no usage.")
    return ["", *notes] if notes else []


def _count(calls: int) -> str:
    return "1 call has" if calls == 1 else f"{calls:,} calls have"


def _printable(text: str) -> str:
    """Agents choose some of these texts; a terminal must not obey them."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
