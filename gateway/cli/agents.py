"""`passgate agents`: who is registered, who is stopped; stopping and starting, also single tokens and runs."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from gateway.cli import DONE, WrongUse, add_config, load_settings
from gateway.cli.admin_client import NothingServes, add_admin, admin
from gateway.core.clock import rfc3339

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.core.principal import StopKey
    from gateway.core.stop import Stop
    from gateway.state.stops import Action

NOT_EVERYWHERE: Final = 1
"""Exit code: it is written down, but not every worker has said that it knows."""

_COLUMNS: Final = ("id", "issuer", "team", "category", "owner", "last_seen", "stopped")
_LIST: Final = """example:
  passgate agents list
  passgate agents list --stopped --format json"""
_SHOW: Final = "example: passgate agents show procurement"
_STOP: Final = """\
Holds on every worker within a second, until it is started again. Calls to models that are under way are broken off
and settled; a tool that has the request finishes, is recorded, and the agent gets 403 agent_stopped. Children that an
agent delegated to stop with it, child runs with their run. Where nothing serves it is written down and holds from the
next start on.

A token is named by its id: its `jti`, else what `passgate token inspect` shows.

example:
  passgate agents stop procurement --reason "pays invoices twice"
  passgate agents stop procurement/reader         one child that it delegated to
  passgate agents stop procurement --run order-17 one run of this agent
  passgate agents stop --issuer corp-idp          everybody that it vouches for
  passgate agents stop --token 7f3c…"""
_START: Final = "example: passgate agents start procurement"
_RAW: Final[dict[str, Any]] = {"formatter_class": argparse.RawDescriptionHelpFormatter}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `agents` and what is below it."""
    agents = commands.add_parser("agents", help="who is registered; stop and start", epilog=_STOP, **_RAW)
    below = agents.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = below.add_parser("list", help="the registered agents", epilog=_LIST, **_RAW)
    listing.add_argument(
        "--stopped", action="store_true", help="only those that are stopped; and which tokens and runs"
    )
    _add_shared(listing)
    listing.set_defaults(run=_list)
    show = below.add_parser("show", help="one agent: what stops it, who called in its name", epilog=_SHOW, **_RAW)
    show.add_argument("id", metavar="ID", help="the agent, as `agents:` names it")
    _add_shared(show)
    show.set_defaults(run=_show)
    for action, what, epilog in (
        ("stop", "stop an agent, an issuer, a token or a run", _STOP),
        ("start", "take a stop back", _START),
    ):
        act = below.add_parser(action, help=what, epilog=epilog, **_RAW)
        act.add_argument("id", metavar="ID", nargs="?", help="the agent, or AGENT/CHILD")
        act.add_argument("--issuer", metavar="NAME", help="everybody that this issuer vouches for")
        act.add_argument("--token", metavar="ID", help="one token, and all that were derived from it")
        act.add_argument(
            "--run", dest="of_run", metavar="RUN", help="one run with its child runs; of one agent with ID"
        )
        act.add_argument("--reason", default="", metavar="TEXT", help="why; kept, and told to operators only")
        _add_shared(act)
        act.set_defaults(run=_act, action=action)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_admin(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text")


def _list(given: argparse.Namespace) -> int:
    from gateway.process.roster import list_agents, list_stops

    settings = load_settings(given.config)
    stopped: dict[str, Any] = {"stops": []}
    try:
        gateway = admin(settings, given)
        agents = gateway.get("/admin/v1/agents")["agents"]
        if given.stopped:
            stopped = gateway.get("/admin/v1/stops")
    except NothingServes:
        agents = _offline(settings, lambda conn, stops: list_agents(conn, settings, stops))["agents"]
        if given.stopped:
            stopped = _offline(settings, list_stops)
    agents = [agent for agent in agents if agent["stopped"] or not given.stopped]
    if given.format == "json":
        print(json.dumps({"agents": agents, **({"stops": stopped["stops"]} if given.stopped else {})}, indent=2))
        return DONE
    if agents:
        _table(agents)
    else:
        print("No agent is stopped." if given.stopped else "No agent is registered; add one under `agents:`.")
    of_agents = [stop for agent in agents for stop in agent["stops"]]
    for stop in stopped["stops"]:
        if stop not in of_agents:  # a token, a run, a child, an issuer that no agent has
            print(_stopped(stop))
    return DONE


def _table(agents: list[dict[str, Any]]) -> None:
    rows = [
        [name.replace("_", " ") for name in _COLUMNS],
        *([_cell(agent[name]) for name in _COLUMNS] for agent in agents),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _show(given: argparse.Namespace) -> int:
    from gateway.process.roster import show_agent

    settings = load_settings(given.config)
    try:
        shown = admin(settings, given).get(f"/admin/v1/agents/{quote(given.id, safe='')}")
    except NothingServes:
        shown = _offline(settings, lambda conn, stops: show_agent(conn, settings, stops, given.id))
    if given.format == "json":
        print(json.dumps(shown, indent=2))
        return DONE
    for name, value in shown.items():
        if not isinstance(value, list):
            print(f"{name.replace('_', ' '):<14} {_cell(value)}".rstrip())
    for stop in [*shown["stops"], *shown["stops_within"]]:
        print(_stopped(stop))
    print("\ncallers of late" if shown["callers"] else "\nNobody called in its name of late.")
    for caller in shown["callers"]:
        whose = f" for {caller['on_behalf_of']}" if caller["on_behalf_of"] else ""
        key = f"key {caller['key_id']}, {caller['assurance']}"
        print(
            f"  {caller['last_seen']}  {caller['issuer']}  {caller['subject']}{whose}  ({key}, {caller['calls']} calls)"
        )
    return DONE


def _act(given: argparse.Namespace) -> int:
    from gateway.core.errors import Refusal
    from gateway.process.roster import reason_given, stoppable

    kind, name, agent = _meant(given)
    settings = load_settings(given.config)
    body = {"reason": given.reason, **({"agent": agent} if agent else {})}
    try:
        answer = admin(settings, given).post(f"/admin/v1/{kind}s/{quote(name, safe='')}/{given.action}", body)
    except NothingServes:
        try:
            reason, _ = reason_given(body, ("reason", "agent"))
            key = stoppable(settings, kind, name, agent)
        except Refusal as refusal:
            raise WrongUse(f"passgate: {refusal.sentence}.") from None
        answer = _write(settings, given.action, key, reason)
    if given.format == "json":
        print(json.dumps(answer, indent=2))
    else:
        print(_done(answer))
    return DONE if answer["effective"] is not False else NOT_EVERYWHERE


def _meant(given: argparse.Namespace) -> tuple[str, str, str]:
    """Kind, id, and for a run perhaps its agent; raises `WrongUse`."""
    named = {"issuer": given.issuer, "token": given.token, "run": given.of_run}
    found = [(kind, name) for kind, name in named.items() if name]
    if len(found) == 1 and (not given.id or found[0][0] == "run"):
        return (*found[0], given.id or "")
    if not found and given.id:
        return "agent", given.id, ""
    raise WrongUse(
        f"passgate: say what to {given.action}: an agent's ID, or --issuer, or --token, or --run (with an ID: its run)."
    )


def _done(answer: dict[str, Any]) -> str:
    """What an operator wants to know now: does it hold, where, since when."""
    what = f"{answer['kind']} {answer['id']}"
    if answer["changed"]:
        said = f"{what} is {'stopped' if answer['stopped'] else 'started again'}"
    else:
        said = f"already so: {_stopped(answer)}" if answer["stopped"] else f"{what} was not stopped"
    if answer["effective"] is None:
        return f"{said}; nothing serves now, so it holds from the next start on."
    if answer["effective"]:
        return f"{said}; all {answer['workers']} workers know, after {answer['ms']} ms."
    return (
        f"{said}, but {', '.join(answer['late'])} has not said that it knows. A worker that hears nothing lets nobody "
        "in after a second; what it has under way goes on. Ask again to see whether it knows by now."
    )


def _stopped(stop: dict[str, Any]) -> str:
    why = f": {stop['reason']}" if stop["reason"] else ""
    return f"{stop['kind']} {stop['id']} was stopped at {stop['since']} by {stop['by']}{why}"


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "stopped" if value else ""
    if isinstance(value, dict):
        return ", ".join(f"{name}={text}" for name, text in value.items())
    return "" if value is None else str(value)


def _offline(
    settings: Settings, work: Callable[[sqlite3.Connection, dict[StopKey, Stop]], dict[str, Any]]
) -> dict[str, Any]:
    """Look into the store that nobody serves; raises `WrongUse`."""
    from gateway.core.errors import Refusal
    from gateway.state import StoreRefused, read_only
    from gateway.state.stops import in_force

    try:
        with closing(read_only(settings.state.durable)) as conn:
            return work(conn, in_force(conn))
    except StoreRefused as mistake:
        raise WrongUse(f"passgate: nothing serves, and {mistake}") from None
    except Refusal as refusal:
        raise WrongUse(f"passgate: {refusal.sentence}.") from None
    except sqlite3.Error as error:
        raise WrongUse(f"passgate: {settings.state.durable} cannot be read: {error}.") from None


def _write(settings: Settings, action: Action, key: StopKey, reason: str) -> dict[str, Any]:
    """Write it down for the next start, under the lock of the store; raises `WrongUse` where somebody has that."""
    from gateway.core.stop import Stop
    from gateway.state import Store, StoreError
    from gateway.state.stops import in_force, record

    stop = Stop(key, time.time(), f"uid-{os.getuid()}", reason)

    def work(conn: sqlite3.Connection) -> tuple[bool, Stop]:
        known = in_force(conn).get(key)
        if (known is None) == (action == "stop"):
            record(conn, action, stop)
            return True, stop
        return False, known or stop

    async def write() -> tuple[bool, Stop]:
        store = await Store.open(settings.state.durable)
        try:
            return await asyncio.wrap_future(store.submit(work))
        finally:
            await store.close()

    try:
        changed, holds = asyncio.run(write())
    except StoreError as error:
        raise WrongUse(f"passgate: {error} Where a gateway serves at another address, name it with --admin.") from None
    return {
        "kind": key.kind, "id": key.id, "stopped": action == "stop", "changed": changed,
        "since": rfc3339(holds.since), "by": holds.by, "reason": holds.reason, "effective": None,
    }  # fmt: skip
