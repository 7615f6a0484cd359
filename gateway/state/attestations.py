"""The statements about attestations: what was attested in which run, each once.

One is known by its attester and the id that this gave it. It belongs to the run of whoever presented it or called
when it was observed; what its attester posted belongs to every run of that id of an agent of that name, since nobody
but the gateway knows who owns a run. Nothing is ever changed or removed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from gateway.core.attestation import Attestation, subject_text
from gateway.core.errors import Refusal
from gateway.core.run import RunKey

MOST_IN_RUN: Final = 1_000
"""Attestations that may be presented in one run, and as many posted for it."""
MOST_READ: Final = 2_000
"""Attestations that a call may have to be judged by; those that were observed have no other limit."""

_LEEWAY: Final = 600 * 1_000_000
"""Microseconds by which an attester's clock may be ahead, at most (`identity.skew`): what it says may be received
before it was attested."""

_ADD: Final = """
INSERT INTO attestations (attester, id, step, outcome, about, iss, subject, run, received, record)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (attester, id) DO NOTHING
"""
_KNOWN: Final = "SELECT record FROM attestations WHERE attester = ? AND id = ?"
_COUNT: Final = "SELECT count(*) FROM attestations WHERE iss = ? AND subject = ? AND run = ?"
_NEWEST: Final = "SELECT coalesce(max(seq), 0) FROM attestations"
_OF_RUN: Final = "SELECT seq, record FROM attestations WHERE iss = ? AND subject = ? AND run = ? LIMIT ?"
_NOT_PASSED: Final = """
SELECT seq, record FROM attestations WHERE step = ? AND outcome <> 'passed' AND received >= ? LIMIT ?
"""
_SINCE: Final = """
SELECT step FROM attestations
WHERE iss = ? AND subject = ? AND run = ? AND seq > ? AND step = ? AND outcome <> 'passed' LIMIT 1
"""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Attestation).decode


def add(conn: sqlite3.Connection, one: Attestation, received: int) -> bool:
    """Insert one, at `received` (epoch microseconds); whether there was none of its attester with its id."""
    values = (one.by, one.id, one.step, one.outcome, subject_text(one.subject), *_run(one), received, _encode(one))
    return conn.execute(_ADD, values).rowcount > 0


def missing(conn: sqlite3.Connection, attestations: Iterable[Attestation]) -> list[Attestation]:
    """Those that are not recorded as they are."""
    return [one for one in attestations if not _same(one, conn.execute(_KNOWN, (one.by, one.id)).fetchone())]


def record(conn: sqlite3.Connection, attestations: Iterable[Attestation], received: int) -> tuple[bool, ...]:
    """Insert what was presented or posted; for each whether it was new.

    Raises `Refusal` (`request_malformed`) for an id that its attester gave to another one before, and where a run has
    too many of them: then the unit of work that this is a part of must end, and nothing is recorded.
    """
    new: list[bool] = []
    for one in attestations:
        known = conn.execute(_KNOWN, (one.by, one.id)).fetchone()
        new.append(known is None)
        if known is not None and not _same(one, known):
            sentence = (
                f"{one.by} has attested something else as {one.id} before; an attester gives each an id of its own"
            )
            raise Refusal("request_malformed", sentence, fields={"reason": "replayed", "attestation": one.id})
        if known is None:
            (count,) = conn.execute(_COUNT, _run(one)).fetchone()
            if count >= MOST_IN_RUN:
                sentence = f"run {one.run} has {count} attestations, and {MOST_IN_RUN} are the most; begin another run"
                raise Refusal("request_malformed", sentence, fields={"limit": MOST_IN_RUN, "run": one.run})
            add(conn, one, received)
    return tuple(new)


def newest(conn: sqlite3.Connection) -> int:
    """The number of the last one of all; 0 before the first."""
    (seq,) = conn.execute(_NEWEST).fetchone()
    return int(seq)


def gathered(
    conn: sqlite3.Connection, run: RunKey, names: Sequence[str], across: Iterable[tuple[str, int]]
) -> tuple[Attestation, ...]:
    """What is attested in a run of an agent that is called `names`, in the order in which it was recorded.

    Beside it, of each step of `across`, what did not pass in any other run, since the time that is given with it
    (epoch microseconds), and since the first attestation of this run that did. Raises `Refusal` where it is too much
    to judge by: to leave out what may close would open.
    """
    found: dict[int, Attestation] = {}
    for iss, subject in _owners(run, names):
        found.update(_read(conn, _OF_RUN, (iss, subject, run.id)))
    first_passed: dict[str, int] = {}
    for one in found.values():
        if one.outcome == "passed":
            first_passed[one.step] = min(one.at, first_passed.get(one.step, one.at))
    for step, since in across:
        if step in first_passed:
            found.update(_read(conn, _NOT_PASSED, (step, max(since, first_passed[step]) - _LEEWAY)))
    if len(found) > MOST_READ:
        raise _too_many(run.id)
    return tuple(found[seq] for seq in sorted(found))


def withdrawn(
    conn: sqlite3.Connection, run: RunKey, names: Sequence[str], steps: Iterable[str], seen: int
) -> str | None:
    """The first of these steps that was attested after number `seen` not to have passed in this run."""
    for step in steps:
        for iss, subject in _owners(run, names):
            if conn.execute(_SINCE, (iss, subject, run.id, seen, step)).fetchone():
                return step
    return None


def _owners(run: RunKey, names: Sequence[str]) -> list[tuple[str, str]]:
    """Under which owners the attestations of a run stand: its own, and those of its attesters' posts."""
    return [(run.iss, run.subject), *(("", name) for name in dict.fromkeys(names))]


def _run(one: Attestation) -> tuple[str, str, str]:
    return (*(one.owner or ("", one.agent)), one.run)


def _read(conn: sqlite3.Connection, query: str, values: tuple[object, ...]) -> list[tuple[int, Attestation]]:
    return [(seq, _decode(data)) for seq, data in conn.execute(query, (*values, MOST_READ + 1))]


def _same(one: Attestation, known: tuple[bytes] | None) -> bool:
    """Whether it says what is recorded; who brought it, and under which of its attester's keys, says nothing."""
    return known is not None and _said(_decode(known[0])) == _said(one)


def _said(one: Attestation) -> tuple[Attestation, str]:
    rest = replace(one, subject={}, source="", owner=None, key="", request_id="", digest="")
    return rest, subject_text(one.subject)  # to a dict 1 and true are the same


def _too_many(run: str) -> Refusal:
    return Refusal(
        "attestation_required",
        f"run {run} would be judged by more than {MOST_READ} attestations; begin another run, "
        "or have the policy look back less far (max_age)",
        fields={"reason": "too_many", "limit": MOST_READ},
    )
