"""The supervisor's side of the ledger: postings go into the store, each once.

A row is known by its request and attempt, so one that comes again changes nothing. What a posting
adds to its run is added in the transaction that inserts its rows, and only if one of them is new:
it has therefore one effect, however often a worker or a recovery sends it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass
from typing import Final

from msgspec.structs import astuple

from gateway.core.approval import ApprovedOutcome
from gateway.core.attestation import Attestation
from gateway.core.row import COLUMNS, LedgerRow
from gateway.core.run import RunDelta
from gateway.ledger.posting import Batch, Posting
from gateway.ledger.seen import Seen
from gateway.state import Durable, StoreUnavailable
from gateway.state.approvals import finish
from gateway.state.attestations import add
from gateway.state.runs import add_to_run

_INSERT: Final = (
    f"INSERT INTO ledger ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "  # noqa: S608 - constants
    "ON CONFLICT (request_id, attempt) DO NOTHING"
)


@dataclass(frozen=True, slots=True)
class Posted:
    """What a batch changed: rows and deltas that were not there before, and rows that no column takes."""

    rows: tuple[LedgerRow, ...]
    deltas: tuple[RunDelta, ...]
    rejected: tuple[LedgerRow, ...] = ()
    outcomes: tuple[tuple[ApprovedOutcome, str], ...] = ()  # of approved calls, each with its request's id
    attestations: tuple[Attestation, ...] = ()  # what was observed


class Poster:
    """Commits batches; owned by the supervisor."""

    def __init__(self, store: Durable) -> None:
        """`store` is the durable engine."""
        self._store = store
        self._seen = Seen()

    async def post(self, batch: Batch) -> Posted:
        """Commit a batch in one transaction; durable on return.

        Raises `StoreUnavailable`: then nothing of it may be taken for committed. A posting that
        the tables refuse (a number beyond 64 bits) does not hold up the others: it comes back as
        `rejected`, which whoever called must log as an error.
        """
        try:
            return await self._commit(batch.postings)
        except StoreUnavailable:
            raise
        except (sqlite3.Error, OverflowError):
            return await self._one_by_one(batch)

    async def _commit(self, postings: tuple[Posting, ...]) -> Posted:
        return await asyncio.wrap_future(self._store.submit(lambda conn: _apply(conn, postings, self._seen)))

    async def _one_by_one(self, batch: Batch) -> Posted:
        rows: list[LedgerRow] = []
        deltas: list[RunDelta] = []
        rejected: list[LedgerRow] = []
        outcomes: list[tuple[ApprovedOutcome, str]] = []
        attestations: list[Attestation] = []
        for posting in batch.postings:
            try:
                posted = await self._commit((posting,))
            except (sqlite3.Error, OverflowError):
                rejected += posting.rows
            else:
                rows += posted.rows
                deltas += posted.deltas
                outcomes += posted.outcomes
                attestations += posted.attestations
        return Posted(tuple(rows), tuple(deltas), tuple(rejected), tuple(outcomes), tuple(attestations))


def _apply(conn: sqlite3.Connection, postings: tuple[Posting, ...], seen: Seen) -> Posted:
    cursor = conn.cursor()
    rows: list[LedgerRow] = []
    deltas: list[RunDelta] = []
    outcomes: list[tuple[ApprovedOutcome, str]] = []
    attestations: list[Attestation] = []
    for posting in postings:
        new = [row for row in posting.rows if cursor.execute(_INSERT, astuple(row)).rowcount]
        rows += new
        if posting.delta is not None and new:
            add_to_run(conn, posting.delta, posting.rows[-1].time)
            deltas.append(posting.delta)
        if new:
            attestations += (one for one in posting.attestations if add(conn, one, one.at))
        if posting.outcome is not None and new:
            request_id = posting.rows[-1].request_id
            if finish(conn, posting.outcome, request_id, posting.rows[-1].time) is not None:
                outcomes.append((posting.outcome, request_id))
    seen.note(conn, rows)
    return Posted(tuple(rows), tuple(deltas), outcomes=tuple(outcomes), attestations=tuple(attestations))
