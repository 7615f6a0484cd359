"""The statements about runs: opening one, reading its counters, adding what a step used up."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Final

from gateway.core.run import RunDelta, RunFacts, RunKey
from gateway.state.durable import Durable

_MICRO: Final = 1_000_000

_LOAD: Final = """
SELECT opened, parent, depth, steps, tool_calls, tokens, cost_nano_usd, children, last_step
FROM runs WHERE iss = ? AND subject = ? AND id = ?
"""
_OPEN: Final = """
INSERT INTO runs (iss, subject, id, opened, last, parent, depth) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (iss, subject, id) DO NOTHING
"""
_ADOPT: Final = "UPDATE runs SET children = children + 1 WHERE iss = ? AND subject = ? AND id = ?"

_KNOWN_CHILD: Final = "SELECT 1 FROM children WHERE iss = ? AND subject = ? AND run = ? AND child = ?"
_CHILDREN: Final = "SELECT children FROM runs WHERE iss = ? AND subject = ? AND id = ?"
_ADD_CHILD: Final = "INSERT INTO children (iss, subject, run, child) VALUES (?, ?, ?, ?)"

# A step that is settled proves that its run was opened, so a missing run is made, not passed over.
_ADD: Final = """
INSERT INTO runs (iss, subject, id, opened, last, last_step, steps, tool_calls, tokens, cost_nano_usd)
VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?, ?)
ON CONFLICT (iss, subject, id) DO UPDATE SET
  last = max(last, excluded.last), last_step = max(last_step, excluded.last_step), steps = steps + 1,
  tool_calls = tool_calls + excluded.tool_calls, tokens = tokens + excluded.tokens,
  cost_nano_usd = cost_nano_usd + excluded.cost_nano_usd
"""


def load_run(conn: sqlite3.Connection, key: RunKey) -> tuple[RunFacts, int] | None:
    """A run's counters and the highest step that was settled, or `None` when it was never opened."""
    found = conn.execute(_LOAD, key).fetchone()
    if found is None:
        return None
    opened, parent, depth, steps, tool_calls, tokens, cost, children, last_step = found
    facts = RunFacts(
        key,
        opened / _MICRO,
        parent,
        depth=depth,
        steps=steps,
        tool_calls=tool_calls,
        tokens=tokens,
        cost_nano_usd=cost,
        children=children,
    )
    return facts, last_step


def open_run(conn: sqlite3.Connection, facts: RunFacts) -> None:
    """Insert a run and count it as a child of its parent; a run that is there already stays as it is."""
    opened = round(facts.opened * _MICRO)
    inserted = conn.execute(_OPEN, (*facts.key, opened, opened, facts.parent, facts.depth)).rowcount
    if inserted and facts.parent is not None and facts.parent != facts.key.id:
        conn.execute(_ADOPT, (facts.key.iss, facts.key.subject, facts.parent))


def add_child(conn: sqlite3.Connection, key: RunKey, child: str, most: int | None) -> bool | None:
    """Count an agent that was delegated to in an open run; whether it is new, `None` where there may be no more."""
    if conn.execute(_KNOWN_CHILD, (*key, child)).fetchone():
        return False
    (children,) = conn.execute(_CHILDREN, key).fetchone()
    if most is not None and children >= most:
        return None
    conn.execute(_ADD_CHILD, (*key, child))
    conn.execute(_ADOPT, key)
    return True


def add_to_run(conn: sqlite3.Connection, delta: RunDelta, time: int) -> None:
    """Count one settled step; `time` is epoch microseconds. Whoever calls sees to it that it is done once."""
    used = (delta.tool_calls, delta.tokens, delta.cost_nano_usd)
    conn.execute(_ADD, (*delta.key, time, time, delta.step, *used))


class Runs:
    """The register's view of the durable store."""

    def __init__(self, store: Durable) -> None:
        """`store` keeps them."""
        self._store = store

    async def load_run(self, key: RunKey) -> tuple[RunFacts, int] | None:
        """See `load_run`; raises `StoreUnavailable`."""
        return await self._store.read(lambda conn: load_run(conn, key))

    async def open_run(self, facts: RunFacts) -> None:
        """See `open_run`; durable on return; raises `StoreUnavailable`."""
        await asyncio.wrap_future(self._store.submit(lambda conn: open_run(conn, facts)))

    async def add_child(self, key: RunKey, child: str, most: int | None) -> bool | None:
        """See `add_child`; durable on return; raises `StoreUnavailable`."""
        return await asyncio.wrap_future(self._store.submit(lambda conn: add_child(conn, key, child, most)))
