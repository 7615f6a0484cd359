"""`passgate approvals`: the calls that wait for a person, and what operators say of them."""

from __future__ import annotations

import argparse
import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from gateway.cli import DONE, WrongUse, add_config, load_settings
from gateway.cli.admin_client import NothingServes, add_admin, admin

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.cli.admin_client import Admin

_COLUMNS: Final = ("id", "status", "age", "ends in", "agent", "operation", "waits for")
_DECIDE: Final = """\
The agent's next identical call is carried out, once; what its policy asks beside the approval is asked anew then. Each
rule that asks needs one of its approvers; a single no is a no, and holds until the approval ends. The agent can read
the reason. Nobody decides about calls of their own.

example:
  passgate approvals list
  passgate approvals show apr_0193f4…
  passgate approvals approve apr_0193f4… --reason "invoice 4711 checked"
  passgate approvals deny apr_0193f4… --reason duplicate"""
_LIST: Final = """example:
  passgate approvals list
  passgate approvals list --status denied
  passgate approvals list --status all --format json"""
_RAW: Final[dict[str, Any]] = {"formatter_class": argparse.RawDescriptionHelpFormatter}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `approvals` and what is below it."""
    from gateway.core.approval import MOVES

    approvals = commands.add_parser("approvals", help="calls that wait for a person", epilog=_DECIDE, **_RAW)
    below = approvals.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = below.add_parser("list", help="the calls that wait, or those of another status", epilog=_LIST, **_RAW)
    listing.add_argument("--status", choices=(*MOVES, "all"), default="pending", help="default: pending")
    _add_shared(listing)
    listing.set_defaults(run=_list)
    show = below.add_parser("show", help="one of them, with its arguments", epilog=_DECIDE, **_RAW)
    show.add_argument("id", metavar="ID")
    _add_shared(show)
    show.set_defaults(run=_show)
    for verdict, what in (("approve", "let it happen, once"), ("deny", "refuse it")):
        act = below.add_parser(verdict, help=what, epilog=_DECIDE, **_RAW)
        act.add_argument("id", metavar="ID")
        act.add_argument("--reason", default="", metavar="TEXT", help="why; kept, and the agent can read it")
        _add_shared(act)
        act.set_defaults(run=_act, verdict=verdict)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_admin(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text")


def _list(given: argparse.Namespace) -> int:
    query = "" if given.status == "all" else "?" + urlencode({"status": given.status})
    answer = _asked(given, lambda gateway: gateway.get(f"/admin/v1/approvals{query}"))
    if given.format == "json":
        print(json.dumps(answer, indent=2))
        return DONE
    if not answer["approvals"]:
        print("No call waits for approval." if given.status == "pending" else "There is none.")
        return DONE
    now = time.time()
    _table([_COLUMNS, *(_line(one, now) for one in answer["approvals"])])
    if answer["more"]:
        print("… and more; --status names those of one status")
    return DONE


def _line(approval: dict[str, Any], now: float) -> tuple[str, ...]:
    left = _seconds(approval["expires_at"]) - now
    return (
        approval["id"],
        approval["status"],
        _span(now - _seconds(approval["held_at"])),
        _span(left) if left > 0 else "",
        approval["agent"],
        approval["operation"],
        _groups(approval["waits_for"]),
    )


def _table(rows: list[tuple[str, ...]]) -> None:
    from gateway.approvals.showing import inert

    shown = [[inert(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _show(given: argparse.Namespace) -> int:
    from gateway.approvals.showing import inert

    shown = _asked(given, lambda gateway: gateway.get(f"/admin/v1/approvals/{quote(given.id, safe='')}"))
    if given.format == "json":
        print(json.dumps(shown, indent=2))
        return DONE
    for name, value in shown.items():
        if name not in ("args", "votes") and value not in ("", []):
            print(f"{name.replace('_', ' '):<15} {inert(_text(name, value))}")
    for vote in shown["votes"]:
        why = f": {vote['reason']}" if vote["reason"] else ""
        print(inert(f"{vote['at']} {vote['operator']} said {vote['decision']}{why}"))
    if shown["args"] is None:
        print("\narguments: too long to be kept; args sha256 is theirs")
        return DONE
    pretty = json.dumps(json.loads(shown["args"]), indent=2, ensure_ascii=False)
    print("\narguments")
    print("\n".join(map(inert, pretty.split("\n"))))
    return DONE


def _act(given: argparse.Namespace) -> int:
    path = f"/admin/v1/approvals/{quote(given.id, safe='')}/{given.verdict}"
    answer = _asked(given, lambda gateway: gateway.post(path, {"reason": given.reason}))
    if given.format == "json":
        print(json.dumps(answer, indent=2))
        return DONE
    said = f"approval {answer['id']} is {answer['status']}"
    if not answer["changed"]:
        said = f"you had said so already: {said}"
    if answer["status"] == "pending":
        said = f"{said}: it still needs {_groups(answer['waits_for'])}"
    elif answer["status"] == "approved":
        said = f"{said}; the agent's next identical call until {answer['expires_at']} is carried out"
    elif answer["status"] == "denied":
        said = f"{said}; identical calls are refused until {answer['expires_at']}"
    print(f"{said}.")
    return DONE


def _asked(given: argparse.Namespace, ask: Callable[[Admin], dict[str, Any]]) -> dict[str, Any]:
    try:
        return ask(admin(load_settings(given.config), given))
    except NothingServes as nothing:
        raise WrongUse(
            f"passgate: nothing serves at {nothing}, and approvals are decided where it serves; start it, or name it "
            "with --admin."
        ) from None


def _text(name: str, value: object) -> str:
    if name in ("approvers", "waits_for") and isinstance(value, list):
        return _groups(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _groups(groups: list[list[str]]) -> str:
    return " and ".join(" or ".join(group) for group in groups)


def _seconds(time_text: str) -> float:
    return datetime.fromisoformat(time_text).timestamp()


def _span(seconds: float) -> str:
    """A length of time in its largest whole unit: 40s, 29m, 3h, 2d."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(0, int(seconds))}s"
