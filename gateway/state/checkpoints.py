"""The statements about checkpoints: how far the decision log had come, as its key has signed it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final, NamedTuple

_MICRO: Final = 1_000_000

_ADD: Final = "INSERT INTO checkpoints (seq, time, hash, signed) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
_ALL: Final = "SELECT seq, time, hash, signed FROM checkpoints ORDER BY seq"
_LAST: Final = "SELECT seq, time, hash, signed FROM checkpoints ORDER BY seq DESC LIMIT 1"


class Checkpoint(NamedTuple):
    """One row: the log's line `seq` has this `hash`; `signed` says so too."""

    seq: int
    time: int  # epoch seconds
    hash: str  # hex
    signed: str


def add_checkpoint(conn: sqlite3.Connection, checkpoint: Checkpoint) -> None:
    """Keep one; a line has one at most, and none is ever replaced."""
    seq, time, digest, signed = checkpoint
    conn.execute(_ADD, (seq, time * _MICRO, digest, signed))


def last_checkpoint(conn: sqlite3.Connection) -> Checkpoint | None:
    """The one with the highest line."""
    row = conn.execute(_LAST).fetchone()
    return _read(row) if row is not None else None


def all_checkpoints(conn: sqlite3.Connection) -> Iterator[Checkpoint]:
    """All of them, in the order of their lines."""
    return map(_read, conn.execute(_ALL))


def _read(row: tuple[int, int, str, str]) -> Checkpoint:
    return Checkpoint(row[0], row[1] // _MICRO, row[2], row[3])
