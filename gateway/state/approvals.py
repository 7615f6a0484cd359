"""The statements about approvals: held calls, what operators said of them, and what became of each.

Every function is a part of one unit of work. A status changes only along `core.approval.MOVES`, and what a held call
keeps for itself is given back in the very transaction that ends it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from gateway.core.approval import (
    MOVES,
    NOT_CARRIED_OUT,
    Approval,
    ApprovalAsk,
    ApprovalKey,
    ApprovedOutcome,
    Stored,
    Vote,
)
from gateway.core.errors import Refusal
from gateway.state.uses import release, take

MOST_PENDING: Final = 100
"""Calls of one owner that may wait for approval at the same time: what people are asked has an end."""
_CARRIED_OUT: Final = frozenset({"executing", "consumed", "failed"})
_MICRO: Final = 1_000_000

_COLUMNS: Final = "id, status, created, changed, previous, votes, request_id, ask"
_LOAD: Final = f"SELECT {_COLUMNS}, args, outcome FROM approvals WHERE id = ?"  # noqa: S608 - constants
_CALL: Final = "iss = ? AND subject = ? AND run = ? AND operation = ? AND digest = ? AND on_behalf_of = ?"
# A call under way stands also when its time is up.
_LIVE: Final = f"""
SELECT {_COLUMNS}, args, outcome FROM approvals WHERE {_CALL} AND (expires > ? OR status = 'executing')
AND status NOT IN ('expired', 'cancelled') ORDER BY created DESC, id DESC
"""  # noqa: S608 - constants
_LATEST: Final = f"SELECT status FROM approvals WHERE {_CALL} ORDER BY created DESC, id DESC LIMIT 1"  # noqa: S608
_PENDING_OF: Final = "SELECT count(*) FROM approvals WHERE status = 'pending' AND iss = ? AND subject = ?"
_INSERT: Final = """
INSERT INTO approvals (id, status, created, expires, changed, iss, subject, on_behalf_of, run, operation, digest,
previous, ask, args) VALUES (?, 'pending', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_CHANGE: Final = "UPDATE approvals SET status = ?, changed = ?, votes = ?, request_id = ? WHERE id = ? AND status = ?"
_KEEP: Final = "UPDATE approvals SET outcome = ? WHERE id = ?"
_DUE: Final = f"""
SELECT {_COLUMNS} FROM approvals WHERE status IN ('pending', 'approved') AND expires <= ? ORDER BY expires LIMIT 500
"""  # noqa: S608 - constants
_EXECUTING: Final = f"SELECT {_COLUMNS} FROM approvals WHERE status = 'executing'"  # noqa: S608 - constants
_ALL: Final = f"SELECT {_COLUMNS} FROM approvals ORDER BY id DESC LIMIT ?"  # noqa: S608 - constants
_SOME: Final = f"SELECT {_COLUMNS} FROM approvals WHERE status = ? ORDER BY expires LIMIT ?"  # noqa: S608 - constants
_LAST: Final = f"SELECT {_COLUMNS} FROM approvals WHERE status = ? ORDER BY id DESC LIMIT ?"  # noqa: S608 - constants
_UNTOLD: Final = f"""
SELECT {_COLUMNS}, event FROM (
  SELECT {_COLUMNS}, told, status AS event FROM approvals WHERE status = 'pending'
  UNION ALL
  SELECT {_COLUMNS}, told, iif(status IN ('executing', 'consumed', 'failed'), 'approved', status)
  FROM approvals WHERE status <> 'pending' AND changed > ?
) WHERE event <> told AND event <> 'cancelled' ORDER BY changed LIMIT ?
"""  # noqa: S608 - constants
_TOLD: Final = "UPDATE approvals SET told = ? WHERE id = ?"
_FORGET: Final = """
DELETE FROM approvals WHERE status IN ('consumed', 'denied', 'expired', 'cancelled', 'failed') AND expires < ?
"""

_encode: Final = msgspec.msgpack.Encoder().encode
_ask: Final = msgspec.msgpack.Decoder(ApprovalAsk).decode
_stored: Final = msgspec.msgpack.Decoder(Stored).decode
_votes: Final = msgspec.json.Decoder(tuple[Vote, ...]).decode


class Held(NamedTuple):
    """What holding a call came to: its approval, whether that is new, and the approvals that ended with it."""

    approval: Approval
    new: bool
    ended: list[Approval]


def load(conn: sqlite3.Connection, name: str) -> Approval | None:
    """One approval with its arguments and its outcome."""
    found = conn.execute(_LOAD, (name,)).fetchone()
    return _read(found) if found is not None else None


def find(conn: sqlite3.Connection, key: ApprovalKey, now: float) -> Approval | None:
    """The approval of this very call, whoever must give it: one that was carried out before any other."""
    live = _live(conn, key, now)
    return next((one for one in live if one.status in _CARRIED_OUT), live[0] if live else None)


def hold(conn: sqlite3.Connection, ask: ApprovalAsk, name: str, now: float) -> Held:
    """The approval that stands, or a new pending one with this name, and with it all that the call would use up.

    What was carried out stands whoever had approved it. What still waits, was approved or denied counts for the same
    approvers only: where others are asked now, it is cancelled. Raises `Refusal` (`attestation_required`) where
    something is used up already, and `rate_limited` where too much of this owner waits.
    """
    ended = expire(conn, now)
    live = _live(conn, ask.key, now)
    for one in sorted(live, key=lambda one: one.status not in _CARRIED_OUT):
        if one.status in _CARRIED_OUT or one.ask.approvers == ask.approvers:
            return Held(one, new=False, ended=ended)
    ended += _cancel(conn, live, now)
    (waiting,) = conn.execute(_PENDING_OF, (ask.key.iss, ask.key.subject)).fetchone()
    if waiting >= MOST_PENDING:
        sentence = f"{waiting} calls of this agent wait for approval already; have some of them decided"
        raise Refusal("rate_limited", sentence, retry_after=30)
    latest = conn.execute(_LATEST, _call(ask.key)).fetchone()
    previous = {"expired": "approval_expired", "failed": "step_in_doubt"}.get(latest[0], "") if latest else ""
    at, key = _micro(now), ask.key
    about = (key.iss, key.subject, key.on_behalf_of, key.run, key.operation, key.digest)
    conn.execute(
        _INSERT,
        (name, at, _micro(ask.expires), at, *about, previous, _encode(replace(ask, args=b"")), ask.args),
    )
    take(conn, name, ask.uses, at)
    held = Approval(id=name, status="pending", held_at=at / _MICRO, ask=ask, changed=at / _MICRO, previous=previous)
    return Held(held, new=True, ended=ended)


def withdraw(conn: sqlite3.Connection, key: ApprovalKey, now: float) -> list[Approval]:
    """This call needs no approval any more: what waits for one, or has it, is cancelled; gives those."""
    return _cancel(conn, _live(conn, key, now), now)


def change(conn: sqlite3.Connection, before: Approval, after: Approval, now: float) -> Approval:
    """Write down what became of an approval that was read in this unit of work; gives it as it stands now."""
    if after.status != before.status and after.status not in MOVES[before.status]:
        raise ValueError(f"an approval that is {before.status} cannot become {after.status}")
    votes = msgspec.json.encode(after.votes).decode()
    at = _micro(now)
    conn.execute(_CHANGE, (after.status, at, votes, after.request_id, before.id, before.status))
    if after.status in NOT_CARRIED_OUT:
        release(conn, before.id)
    return replace(after, changed=at / _MICRO)


def claim(conn: sqlite3.Connection, name: str, request_id: str, now: float) -> Approval | None:
    """Let this call carry an approved one out, if nobody does; gives the approval as it stands then."""
    found = load(conn, name)
    if found is None or found.status_at(now) != "approved":
        return found
    return change(conn, found, replace(found, status="executing", request_id=request_id), now)


def unclaim(conn: sqlite3.Connection, name: str, request_id: str, now: float) -> Approval | None:
    """This call was certainly not sent: the approval stands as before. `None` where it is not this call's."""
    found = load(conn, name)
    if found is None or (found.status, found.request_id) != ("executing", request_id):
        return None
    return change(conn, found, replace(found, status="approved", request_id=""), now)


def finish(conn: sqlite3.Connection, outcome: ApprovedOutcome, request_id: str, time: int) -> Approval | None:
    """What came of the call that carries an approval out, at `time` (epoch microseconds); `None` where nothing changes.

    A call that was given up for lost may turn out to have been answered.
    """
    found = load(conn, outcome.approval)
    if found is None or found.request_id != request_id or outcome.status not in MOVES[found.status]:
        return None
    if outcome.stored is not None:
        conn.execute(_KEEP, (_encode(outcome.stored), found.id))
    return change(conn, found, replace(found, status=outcome.status), time / _MICRO)


def expire(conn: sqlite3.Connection, now: float) -> list[Approval]:
    """Write down whose time is up; gives those."""
    due = [_read(row) for row in conn.execute(_DUE, (_micro(now),)).fetchall()]
    return [change(conn, one, replace(one, status="expired"), now) for one in due]


def doubt(conn: sqlite3.Connection, alive: Collection[str], now: float) -> list[Approval]:
    """Write down that nobody knows what came of the calls under way, but for those that are `alive`; gives them."""
    lost = [one for one in map(_read, conn.execute(_EXECUTING).fetchall()) if one.id not in alive]
    return [change(conn, one, replace(one, status="failed"), now) for one in lost]


def to_tend(conn: sqlite3.Connection, alive: Collection[str], now: float) -> bool:
    """Whether `expire` or `doubt` would find something."""
    due = conn.execute(_DUE, (_micro(now),)).fetchone() is not None
    return due or any(row[0] not in alive for row in conn.execute(_EXECUTING))


def page(conn: sqlite3.Connection, status: str, limit: int) -> list[Approval]:
    """Approvals without their arguments, latest first; those that wait in the order in which their time is up."""
    if not status:
        return [_read(row) for row in conn.execute(_ALL, (limit,))]
    return [_read(row) for row in conn.execute(_SOME if status == "pending" else _LAST, (status, limit))]


def untold(conn: sqlite3.Connection, since: float, limit: int) -> Iterator[tuple[Approval, str]]:
    """What the webhook has not acknowledged, oldest first, each with its event: pending, approved, denied, expired.

    What was decided before `since` (epoch seconds) is of no interest any more.
    """
    for row in conn.execute(_UNTOLD, (_micro(since), limit)).fetchall():
        yield _read(row[:-1]), row[-1]


def told(conn: sqlite3.Connection, name: str, event: str) -> None:
    """The webhook has acknowledged this event."""
    conn.execute(_TOLD, (event, name))


def forget(conn: sqlite3.Connection, before: float) -> int:
    """Delete what was over before then; gives how many."""
    return conn.execute(_FORGET, (_micro(before),)).rowcount


def _live(conn: sqlite3.Connection, key: ApprovalKey, now: float) -> list[Approval]:
    return [_read(row) for row in conn.execute(_LIVE, (*_call(key), _micro(now)))]


def _cancel(conn: sqlite3.Connection, live: list[Approval], now: float) -> list[Approval]:
    return [
        change(conn, one, replace(one, status="cancelled"), now) for one in live if "cancelled" in MOVES[one.status]
    ]


def _call(key: ApprovalKey) -> tuple[str, ...]:
    return key.iss, key.subject, key.run, key.operation, key.digest, key.on_behalf_of


def _read(row: tuple[Any, ...]) -> Approval:
    name, status, created, changed, previous, votes, request_id, ask, *more = row
    args, outcome = more or (b"", None)
    return Approval(
        id=name,
        status=status,
        held_at=created / _MICRO,
        ask=replace(_ask(ask), args=args) if args else _ask(ask),
        votes=_votes(votes),
        request_id=request_id,
        changed=changed / _MICRO,
        previous=previous,
        outcome=_stored(outcome) if outcome is not None else None,
    )


def _micro(seconds: float) -> int:
    return round(seconds * _MICRO)
