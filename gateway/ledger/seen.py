"""When an agent was last seen, and who has called in its name.

An index of the ledger by agent would dirty a page for each agent of every batch and make posting half as
dear again; one row an agent, written when it is a minute old, costs nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

from gateway.core.row import LedgerRow
from gateway.ledger.period import rfc3339_of

_MINUTE: Final = 60_000_000
_RECENT: Final = 50_000
"""Rows of the ledger that are looked through for callers, from the newest on."""

_NOTE: Final = """
INSERT INTO seen VALUES (?, ?) ON CONFLICT (agent) DO UPDATE SET time = max(time, excluded.time)
"""
_CALLERS: Final = """
SELECT issuer, subject, key_id, assurance, on_behalf_of, count(*), max(time)
FROM (SELECT * FROM ledger ORDER BY seq DESC LIMIT ?) WHERE agent = ?
GROUP BY issuer, subject, key_id, assurance, on_behalf_of ORDER BY max(time) DESC LIMIT ?
"""


class Seen:
    """Keeps the table `seen`, to the minute; used by the store's one writer."""

    def __init__(self) -> None:
        """Knows nothing of what was noted before: the first row of an agent is noted again."""
        self._noted: dict[str, int] = {}

    def note(self, conn: sqlite3.Connection, rows: Iterable[LedgerRow]) -> None:
        """Note the agents of new rows.

        Where the transaction fails the note of that minute is lost, and the next one tells as much.
        """
        noted = self._noted
        new = {row.agent: row.time for row in rows if row.time - noted.get(row.agent, 0) >= _MINUTE}
        if new:
            conn.executemany(_NOTE, new.items())
            noted |= new


def last_seen(conn: sqlite3.Connection) -> dict[str, int]:
    """When each agent's last row was written, to the minute: epoch microseconds by agent id."""
    return dict(conn.execute("SELECT agent, time FROM seen"))


def callers(conn: sqlite3.Connection, agent: str, limit: int = 20) -> list[dict[str, object]]:
    """Who called as this agent of late, latest first: subjects with their issuer, key and assurance.

    A child that the agent delegated to calls with a subject of its own, of the issuer `gateway`.
    """
    names = ("issuer", "subject", "key_id", "assurance", "on_behalf_of", "calls", "last_seen")
    found = conn.execute(_CALLERS, (_RECENT, agent, limit))
    return [dict(zip(names, (*row[:6], rfc3339_of(row[6])), strict=True)) for row in found]
