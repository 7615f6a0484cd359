"""The statements about stops: what operators stopped and started again, who, when and why."""

from __future__ import annotations

import sqlite3
from typing import Final, Literal, TypeAlias

from gateway.core.clock import rfc3339
from gateway.core.principal import StopKey
from gateway.core.stop import Stop

Action: TypeAlias = Literal["stop", "start"]

_MICRO: Final = 1_000_000

_ADD: Final = "INSERT INTO stops (time, action, kind, id, reason, operator) VALUES (?, ?, ?, ?, ?, ?)"
_IN_FORCE: Final = """
SELECT kind, id, time, operator, reason FROM stops
WHERE seq IN (SELECT max(seq) FROM stops GROUP BY kind, id) AND action = 'stop' ORDER BY seq
"""
_HISTORY: Final = "SELECT time, action, kind, id, reason, operator FROM stops ORDER BY seq DESC LIMIT ?"


def record(conn: sqlite3.Connection, action: Action, stop: Stop) -> None:
    """Add one action: what, when, by whom and why, as `stop` says."""
    conn.execute(_ADD, (round(stop.since * _MICRO), action, *stop.key, stop.reason, stop.by))


def in_force(conn: sqlite3.Connection) -> dict[StopKey, Stop]:
    """What is stopped: whatever was stopped last and not started since."""
    found = conn.execute(_IN_FORCE)
    stops = (Stop(StopKey(kind, name), time / _MICRO, by, reason) for kind, name, time, by, reason in found)
    return {stop.key: stop for stop in stops}


def history(conn: sqlite3.Connection, limit: int) -> list[dict[str, object]]:
    """The last actions, latest first."""
    names = ("time", "action", "kind", "id", "reason", "operator")
    return [
        dict(zip(names, (rfc3339(row[0] / _MICRO), *row[1:]), strict=True)) for row in conn.execute(_HISTORY, (limit,))
    ]
