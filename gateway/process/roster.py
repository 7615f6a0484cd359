"""The agents as operators see them: registered, seen, stopped; and what of them can be stopped.

Each function is one request of the admin API. The command line asks them too, beside a store that nobody serves.
"""

from __future__ import annotations

import heapq
import os
import sqlite3
from collections.abc import Container, Iterable, Mapping
from typing import Final

from gateway.config import Settings
from gateway.core.clock import rfc3339
from gateway.core.errors import Refusal
from gateway.core.ids import RUN_ID
from gateway.core.principal import StopKey
from gateway.core.stop import Stop, run_key
from gateway.identity.api_keys import ISSUER as API_KEYS
from gateway.identity.delegation import GATEWAY
from gateway.identity.kinds import MAX_NAME
from gateway.identity.settings import AgentSettings
from gateway.ledger.period import rfc3339_of
from gateway.ledger.seen import callers, last_seen
from gateway.state.stops import history

KINDS: Final = ("agent", "issuer", "token", "run")
"""What can be stopped."""

_LONGEST_REASON: Final = 500
_HISTORY: Final = 1_000
"""Actions that `list_stops` tells."""
_NAMED: Final = 20
"""Names that a refusal lists."""


def stoppable(settings: Settings, kind: str, name: str, agent: str = "", stopped: Container[StopKey] = ()) -> StopKey:
    """What an operator means, as the stop list names it; raises `Refusal` (404, 400) for what there cannot be.

    An agent's child is `agent/child`. A run is that of one `agent`, with all of its children, or without one
    everybody's of this id.
    Whether there is such a token cannot be known. What is `stopped` can be named whatever became of it since.
    """
    key = run_key(name, agent) if kind == "run" else StopKey(kind, name)
    if key in stopped:
        return key
    if kind == "agent" or agent:
        _known("agent", agent or name.partition("/")[0], [one.id for one in settings.agents])
    if kind == "issuer":
        _known("issuer", name, [*(issuer.name for issuer in settings.identity.issuers), GATEWAY, API_KEYS])
    if not name or not name.isprintable() or len(name) > MAX_NAME or name.endswith("/"):
        raise Refusal("request_malformed", f"this is not the id of {_a(kind)}: send one line of text")
    if kind == "token" and name.startswith("eyJ") and "." in name:
        why = "this is a token, not its id: send its `jti`; `passgate token inspect` shows what its id is"
        raise Refusal("request_malformed", why)
    if kind == "run" and not RUN_ID.fullmatch(name):
        raise Refusal("request_malformed", f"a run's id matches {RUN_ID.pattern}; send one that does")
    return key


def _known(what: str, name: str, names: list[str]) -> None:
    if name in names:
        return
    near = names
    if len(names) > _NAMED:
        near = heapq.nlargest(_NAMED, names, key=lambda one: len(os.path.commonprefix((one, name))))  # noqa: RUF071 - letters
    listed = ", ".join(near) + (f", … ({len(names)} in all)" if len(near) < len(names) else "")
    raise Refusal("object_unknown", f"there is no {what} {name[:100]!r} in the configuration; there are {listed}")


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "ai" else f"a {kind}"


def reason_given(body: Mapping[str, object], known: tuple[str, ...]) -> tuple[str, str]:
    """Reason and agent of the body of a request; raises `Refusal`."""
    for name, value in body.items():
        if name not in known:
            raise Refusal("request_malformed", f"`{name[:100]}` means nothing here; send {' and '.join(known)}")
        if not isinstance(value, str) or not value.isprintable() or len(value) > _LONGEST_REASON:
            why = f"`{name}` is one line of text of at most {_LONGEST_REASON} characters"
            raise Refusal("request_malformed", f"{why}; send it so")
    return str(body.get("reason", "")), str(body.get("agent", ""))


def list_agents(conn: sqlite3.Connection, settings: Settings, stops: Mapping[StopKey, Stop]) -> dict[str, object]:
    """All registered agents, in the order of the configuration."""
    seen = last_seen(conn)
    return {"agents": [_brief(agent, stops, seen.get(agent.id)) for agent in settings.agents]}


def show_agent(
    conn: sqlite3.Connection, settings: Settings, stops: Mapping[StopKey, Stop], name: str
) -> dict[str, object]:
    """One agent: what is configured, what stops it or a part of it, who called in its name. Raises `Refusal` (404)."""
    _known("agent", name, [one.id for one in settings.agents])
    agent = next(one for one in settings.agents if one.id == name)
    inside = [
        stop for stop in stops.values() if stop.key.id.startswith(f"{name}/") and stop.key.kind in ("agent", "run")
    ]
    return {
        **_brief(agent, stops, last_seen(conn).get(name)),
        "claims": dict(agent.claims),
        "cost_center": agent.cost_center,
        "tags": dict(agent.tags),
        "require_proof": agent.require_proof,
        "stops_within": _told(inside),
        "callers": callers(conn, name),
    }


def list_stops(conn: sqlite3.Connection, stops: Mapping[StopKey, Stop]) -> dict[str, object]:
    """All that is stopped, and the last actions, latest first."""
    return {"stops": _told(stops.values()), "history": history(conn, _HISTORY)}


def _brief(agent: AgentSettings, stops: Mapping[StopKey, Stop], seen: int | None) -> dict[str, object]:
    keys = (StopKey("agent", agent.id), StopKey("issuer", agent.issuer))
    found = [stops[key] for key in keys if key in stops]
    return {
        "id": agent.id,
        "issuer": agent.issuer,
        "subject": agent.subject,
        "team": agent.team,
        "category": agent.category,
        "owner": agent.owner,
        "last_seen": None if seen is None else rfc3339_of(seen),
        "stopped": bool(found),
        "stops": _told(found),
    }


def _told(stops: Iterable[Stop]) -> list[dict[str, object]]:
    return [
        {"kind": stop.key.kind, "id": stop.key.id, "since": rfc3339(stop.since), "by": stop.by, "reason": stop.reason}
        for stop in stops
    ]
