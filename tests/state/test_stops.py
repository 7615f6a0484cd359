"""The book of stops: every action stays, the last one about a thing holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from gateway.core.principal import StopKey
from gateway.core.stop import Stop
from gateway.state.schema import MIGRATIONS, migrate
from gateway.state.stops import history, in_force, record

A, B = StopKey("agent", "a"), StopKey("token", "t'; DROP TABLE stops --")


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    opened = sqlite3.connect(":memory:", isolation_level=None)
    migrate(opened, "memory")
    yield opened
    opened.close()


def test_the_last_action_holds_and_all_are_kept(conn: sqlite3.Connection) -> None:
    """Stopped, started and stopped again: it is stopped, since the last time and for the last reason."""
    first = Stop(A, 1_800_000_000.25, "ada", "pays twice")
    last = Stop(A, 1_800_000_002.0, "bob", "again")
    record(conn, "stop", first)
    record(conn, "stop", Stop(B, 1_800_000_000.5, "ada", "leaked"))
    record(conn, "start", Stop(A, 1_800_000_001.0, "bob", "mended"))
    assert in_force(conn) == {B: Stop(B, 1_800_000_000.5, "ada", "leaked")}
    record(conn, "stop", last)
    assert in_force(conn)[A] == last
    told = history(conn, 10)
    assert [(row["action"], row["id"], row["operator"], row["reason"]) for row in told] == [
        ("stop", "a", "bob", "again"),
        ("start", "a", "bob", "mended"),
        ("stop", B.id, "ada", "leaked"),
        ("stop", "a", "ada", "pays twice"),
    ]
    assert told[3]["time"] == "2027-01-15T08:00:00.250000Z"
    assert len(history(conn, 1)) == 1


def test_an_older_database_learns_who_was_seen() -> None:
    """A ledger of the first schema is brought up to date in place: its agents are seen, and nobody is stopped."""
    conn = sqlite3.connect(":memory:", isolation_level=None)
    for statement in MIGRATIONS[0]:
        conn.execute(statement)
    conn.execute("PRAGMA user_version = 1")
    columns = [row[1:3] for row in conn.execute("PRAGMA table_info(ledger)") if row[1] != "seq"]
    names = ", ".join(name for name, _ in columns)
    for agent, time in (("a", 5), ("a", 7), ("b", 6)):
        values = [{"agent": agent, "time": time, "request_id": f"{time}"}.get(name, "" if kind == "TEXT" else 0)
                  for name, kind in columns]  # fmt: skip
        conn.execute(f"INSERT INTO ledger ({names}) VALUES ({', '.join('?' * len(columns))})", values)  # noqa: S608
    migrate(conn, "memory")
    assert dict(conn.execute("SELECT * FROM seen").fetchall()) == {"a": 7, "b": 6}
    assert in_force(conn) == {}
    conn.close()
