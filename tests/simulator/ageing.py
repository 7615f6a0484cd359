"""Time goes by for a gateway that is stopped: what its store has written down becomes older."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import msgspec


def age(folder: Path, *, minutes: float) -> None:
    """Make all attestations and approvals of the gateway in `folder` so much older; it must not be running."""
    passed = round(minutes * 60 * 1_000_000)
    with contextlib.closing(sqlite3.connect(folder / "var" / "passgate.db")) as conn, conn:
        for seq, record in conn.execute("SELECT seq, record FROM attestations").fetchall():
            attested = msgspec.msgpack.decode(record)
            for name in ("at", "expires"):
                if attested.get(name):
                    attested[name] -= passed
            older = (passed, msgspec.msgpack.encode(attested), seq)
            conn.execute("UPDATE attestations SET received = received - ?, record = ? WHERE seq = ?", older)
        for name, ask in conn.execute("SELECT id, ask FROM approvals").fetchall():
            asked = msgspec.msgpack.decode(ask)
            asked["expires"] -= passed / 1_000_000
            times = "created = created - ?1, expires = expires - ?1, changed = changed - ?1"
            query = f"UPDATE approvals SET {times}, ask = ?2 WHERE id = ?3"  # noqa: S608 -- constants
            conn.execute(query, (passed, msgspec.msgpack.encode(asked), name))
        conn.execute("UPDATE uses SET time = time - ?", (passed,))
