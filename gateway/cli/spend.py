"""`passgate spend`: what the ledger says, for finance. Reads the database beside a gateway that may run."""

from __future__ import annotations

import argparse
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from gateway.cli import DONE, WrongUse, add_config, load_settings

if TYPE_CHECKING:
    from gateway.ledger.period import Period

_EXAMPLE: Final = "example: passgate spend report --by agent,model --since 2026-11-01"
_REPORT_EXAMPLE: Final = """\
Who used the payments API on a day, and on whose authority:
  passgate spend report --by agent,issuer,subject,on_behalf_of,chain,assurance,key_id \\
    --where 'tool=payments.*' --from 2026-11-17 --to 2026-11-18

"""
_COLUMNS: Final = (
    "agent, team, cost_center, model, served_model, provider, tool, dialect, run, kind, issuer, subject, on_behalf_of, "
    "chain, assurance, key_id, outcome, code, request_id, decision_id, day, month"
)
_EXPORT_EXAMPLE: Final = """\
In CSV a text cell that a spreadsheet could run as a formula has one apostrophe in front; a program takes one
leading apostrophe off text cells to have the exact text. NDJSON has the texts as they are.

example: passgate spend export --format csv --period 2026-11 > november.csv"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `spend` and what is below it."""
    spend = commands.add_parser("spend", help="who spent what on what", epilog=_EXAMPLE)
    below = spend.add_subparsers(title="commands", metavar="COMMAND", required=True)

    report = below.add_parser(
        "report",
        help="sums by agent, model, team, …",
        epilog=_REPORT_EXAMPLE + _EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument(
        "--by",
        default="agent,model",
        metavar="A,B",
        help=f"{_COLUMNS}; separated by commas (default: agent,model)",
    )
    report.add_argument("--format", choices=("text", "json", "csv"), default="text")
    _add_shared(report)
    report.set_defaults(run=_report)

    export = below.add_parser(
        "export",
        help="the rows themselves, for other programs",
        epilog=_EXPORT_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("--format", choices=("csv", "ndjson", "focus"), default="csv", help="focus is not built yet")
    export.add_argument("--focus-version", choices=("1.0", "1.2", "1.3"), help="for --format focus")
    _add_shared(export)
    export.set_defaults(run=_export)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--since", metavar="TIME", help="a date, a time, or an age such as 7d")
    parser.add_argument("--from", dest="start", metavar="TIME", help="the first moment, UTC unless it says otherwise")
    parser.add_argument("--to", dest="end", metavar="TIME", help="the first moment after it (exclusive)")
    parser.add_argument("--period", metavar="YYYY-MM", help="a whole month")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="COLUMN=TEXT",
        help="only what has this text in this column (those of --by); TEXT* for all that begin like it; given again "
        "for another column both must hold, for the same one either",
    )
    add_config(parser)


def _report(given: argparse.Namespace) -> int:
    from gateway.ledger.filter import read_filter
    from gateway.ledger.report import as_csv, as_json, as_text, spend_report

    def work(conn: sqlite3.Connection) -> None:
        by = tuple(name.strip() for name in given.by.split(","))
        report = spend_report(conn, by, _period(given), read_filter(given.where))
        if given.format == "json":
            print(as_json(report))
        elif given.format == "csv":
            sys.stdout.write(as_csv(report))
        else:
            print(as_text(report, bar="█" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"))

    return _with_ledger(given, work)


def _export(given: argparse.Namespace) -> int:
    from gateway.ledger.export import export_csv, export_ndjson
    from gateway.ledger.filter import read_filter

    if given.format == "focus":
        raise WrongUse("passgate: --format focus is not built yet; use csv or ndjson.")

    def work(conn: sqlite3.Connection) -> None:
        period, where = _period(given), read_filter(given.where)
        write = export_csv if given.format == "csv" else export_ndjson
        # The file's bytes are the format's, not the terminal's: UTF-8, and line ends as written.
        with open(sys.stdout.fileno(), "w", encoding="utf-8", newline="", closefd=False) as out:
            write(conn, period, out, where)

    return _with_ledger(given, work)


def _period(given: argparse.Namespace) -> Period:
    from gateway.ledger.period import read_period

    now = datetime.now(UTC)
    return read_period(now=now, since=given.since, start=given.start, end=given.end, month=given.period)


def _with_ledger(given: argparse.Namespace, work: Callable[[sqlite3.Connection], None]) -> int:
    """Run `work` on the ledger of the given config; raises `WrongUse`."""
    from gateway.state import StoreRefused, read_only

    try:
        with closing(read_only(load_settings(given.config).state.durable)) as conn:
            work(conn)
    except (StoreRefused, ValueError) as mistake:
        raise WrongUse(f"passgate: {str(mistake).rstrip('.')}.") from None
    except sqlite3.Error as error:
        raise WrongUse(f"passgate: the ledger cannot be read: {error}.") from None
    return DONE
