"""The supervisor's book of attestations: what was attested, and what of it is used up.

1. What a worker presents is on disk before it is answered, and what it is told was read from there: all workers see
   the same.
2. Something is used up once, by whoever comes first. In the same transaction nothing that it rests on has been
   withdrawn since the worker looked.
3. Without a store nothing is attested, and nothing is used up.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from gateway.core.attestation import Attestation
from gateway.core.clock import Clock
from gateway.core.errors import Refusal
from gateway.process.messages import (
    AnyMessage,
    Consume,
    Gather,
    Gathered,
    Present,
    Recorded,
    Release,
)
from gateway.state import Durable, StoreUnavailable, Work
from gateway.state.attestations import gathered, missing, newest, record, withdrawn
from gateway.state.uses import release, take
from gateway.telemetry.logs import Log
from gateway.telemetry.metrics import Registry

Asked: TypeAlias = Gather | Present | Consume | Release
"""What workers ask of it."""
_MICRO = 1_000_000
_T = TypeVar("_T")


class Attesting:
    """The desk where workers record attestations and use them up."""

    def __init__(self, store: Durable, registry: Registry, log: Callable[[], Log], clock: Clock) -> None:
        """`registry` counts what is recorded; `log` gives the log, which a reload replaces."""
        self._store = store
        self._registry = registry
        self._log = log
        self._clock = clock

    async def handle(self, asked: Asked) -> AnyMessage | None:
        """Answer a worker; raises `Refusal` (`attestation_required`, `request_malformed`, `store_unavailable`)."""
        match asked:
            case Gather():
                return await self._gather(asked)
            case Present():
                return Recorded(await self._record(asked.attestations))
            case Consume():
                await self._write(lambda conn: _consume(conn, asked, self._now))
            case Release():
                await self._release(asked.holder)
        return None

    def observed(self, attestations: tuple[Attestation, ...]) -> None:
        """Count what was recorded; with its ledger row, where the gateway observed it."""
        for one in attestations:
            self._registry.add("attestations", (one.step, one.outcome, one.source))

    async def _gather(self, asked: Gather) -> Gathered:
        def look(conn: sqlite3.Connection) -> tuple[list[Attestation], Gathered]:
            seen = newest(conn)  # first: what comes meanwhile counts as not seen
            absent = missing(conn, asked.presented)  # then: what another call records meanwhile is gathered
            return absent, Gathered(gathered(conn, asked.run, asked.names, asked.across), seen)

        absent, answer = await self._read(look)
        if absent:
            await self._record(tuple(absent))
            _, answer = await self._read(look)
        return answer

    async def _record(self, attestations: tuple[Attestation, ...]) -> tuple[bool, ...]:
        new = await self._write(lambda conn: record(conn, attestations, self._now))
        fresh = tuple(one for one, is_new in zip(attestations, new, strict=True) if is_new)
        self.observed(fresh)
        log = self._log()
        for one in fresh:
            log.info(
                "attestation_recorded",
                attester=one.by,
                id=one.id,
                step=one.step,
                outcome=one.outcome,
                run=one.run,
                agent=one.agent,
                source=one.source,
                request_id=one.request_id,
            )
        log.flush()
        return new

    async def _release(self, holder: str) -> None:
        """Nobody waits for this: where it cannot be done what was taken stays taken, and the log says so."""
        try:
            await self._write(lambda conn: release(conn, holder))
        except Refusal as refusal:
            log = self._log()
            log.error("uses_not_given_back", holder=holder, error=refusal.detail)
            log.flush()

    @property
    def _now(self) -> int:
        return round(self._clock.now() * _MICRO)

    async def _read(self, work: Work[_T]) -> _T:
        try:
            return await self._store.read(work)
        except StoreUnavailable as error:
            raise _unavailable(error) from error

    async def _write(self, work: Work[_T]) -> _T:
        try:
            return await asyncio.wrap_future(self._store.submit(work))
        except StoreUnavailable as error:
            raise _unavailable(error) from error


def _consume(conn: sqlite3.Connection, asked: Consume, now: int) -> None:
    step = withdrawn(conn, asked.run, asked.names, asked.steps, asked.seen)
    if step is not None:
        raise Refusal(
            "attestation_required",
            f"step {step} was attested anew in this run just now, and did not pass",
            fields={"reason": "superseded", "step": step},
        )
    try:
        take(conn, asked.holder, asked.uses, now)
    except Refusal as refusal:
        refusal.fields["step"] = ", ".join(asked.steps)
        raise


def _unavailable(error: StoreUnavailable) -> Refusal:
    """Nothing is known of what was attested, so nothing that rests on it may happen."""
    return Refusal(
        "store_unavailable",
        "the durable store cannot say what was attested; retry later",
        detail=str(error),
        fields={"reason": "attestation_store_unavailable"},
    )
