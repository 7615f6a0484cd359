"""The statements about the revision of the policies: the highest that this gateway has ever taken."""

from __future__ import annotations

import sqlite3
from typing import Final

_READ: Final = "SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'policy_revision'"
_RAISE: Final = """
INSERT INTO meta VALUES ('policy_revision', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value
WHERE CAST(excluded.value AS INTEGER) > CAST(meta.value AS INTEGER)
"""


def highest_revision(conn: sqlite3.Connection) -> int:
    """The highest revision that was taken, 0 where none ever was."""
    row = conn.execute(_READ).fetchone()
    return int(row[0]) if row else 0


def record_revision(conn: sqlite3.Connection, revision: int) -> None:
    """Note a revision that was taken; a lower one than that which stands changes nothing."""
    conn.execute(_RAISE, (str(revision),))
