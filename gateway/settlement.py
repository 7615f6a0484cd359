"""Settling: what one attempt came to is put on the ledger, once, whichever way the attempt ended.

The last attempt of a step is settled durably, together with what the step adds to its run. All of it is
shielded or needs no waiting, so that nobody's hanging up stops the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import NamedTuple

from gateway.core.approval import ApprovedOutcome
from gateway.core.attestation import Attestation
from gateway.core.call import Target
from gateway.core.errors import Refusal
from gateway.flights import Flight
from gateway.ledger import Bill, Book, Posting, ledger_row
from gateway.outbound import Aborted, OutboundError
from gateway.permit import Permit
from gateway.relay import Received, broken_off
from gateway.routing import FREE, Charge, Dispatch, Errand
from gateway.runs import Step
from gateway.telemetry.logs import Log
from gateway.telemetry.metrics import Counts
from gateway.telemetry.trail import Trail


class Accounts(NamedTuple):
    """Where a worker writes down what calls came to."""

    book: Book
    counts: Counts
    log: Log


class Attempt:
    """One attempt to carry a call to a target; one of its methods ends it."""

    __slots__ = ("_accounts", "_errand", "_flight", "_permit", "_sending", "_step", "_target", "_trail")

    def __init__(
        self,
        accounts: Accounts,
        trail: Trail,
        flight: Flight,
        step: Step,
        permit: Permit,
        errand: Errand,
        target: Target,
        sending: Dispatch,
    ) -> None:
        self._accounts = accounts
        self._trail = trail
        self._flight = flight
        self._step = step
        self._permit = permit
        self._errand = errand
        self._target = target
        self._sending = sending

    async def settle(
        self, received: Received, *, final: bool, attestations: tuple[Attestation, ...] = (), own_headers: int = 0
    ) -> Charge:
        """An answer came. Gives its charge; raises `Refusal`, after which the answer's last byte may not go.

        `final` says that no other target will be asked. `attestations` are what was observed; the first `own_headers`
        of the answer are the gateway's. What the stop of an agent cut short is settled as cancelled.
        """
        stopped = self._flight.stopped
        if stopped is not None and (received.aborted or received.gone):
            received.outcome, received.broken = "cancelled", stopped
        charge = received.charge(self._errand, self._target)
        self._count(received.outcome)
        self._note(charge, received)
        refusal = received.fault.refusal if received.fault is not None else received.broken
        bill = self._bill(charge, received.outcome, refusal, received.status, received.upstream_request_id)
        outcome = None
        if final and received.broken is None and received.fault is None:
            body = None if received.streamed else received.last
            outcome = self._permit.outcome(received.status, received.headers[own_headers:], body)
        elif final:
            outcome = self._permit.in_doubt
        await self._post(bill, final=final, attestations=attestations, outcome=outcome)
        return charge

    async def broke(self, error: OutboundError, *, last: bool) -> Refusal:
        """No answer came, or none that counts; gives the refusal for the agent.

        What was never sent costs nothing; what was sent may have been done and billed, so its input is
        estimated. `last` says that no other target is left.
        """
        refusal, outcome = broken_off(error, self._target.provider, effect=self._errand.effect), "failed"
        stopped = self._flight.stopped
        if stopped is not None:
            last = True
            if isinstance(error, Aborted):
                refusal, outcome = stopped, "cancelled"
                self._trail.outcome = outcome
        self._count(("cancelled" if outcome == "cancelled" else "broken") if error.sent else "not_sent")
        if error.sent:
            charge = self._errand.charge(self._target, None, "", 0, time.time())
            bill, doubt = self._bill(charge, outcome, refusal, refusal.status), self._permit.in_doubt
            await self._post(bill, final=last, outcome=doubt if last else None)
        elif last:  # nothing to pay, but a refusal, and perhaps what the attempts before it cost
            await self._post(self._bill(FREE, "refused", refusal, refusal.status), final=self._step.owes)
        return refusal

    def abandon(self) -> None:
        """The call is cancelled while its request is out: what is known of it is written down, without waiting."""
        usage, model, answered = None, "", 0
        if self._sending.reader is not None:
            tally = self._sending.reader.close().tally
            usage, model, answered = tally.usage, tally.served_model, tally.output_bytes
        charge = self._errand.charge(self._target, usage, model, answered, time.time())
        row = ledger_row(self._trail, self._bill(charge, "cancelled", None, 0))
        step = self._step
        with contextlib.suppress(Refusal):  # it is kept in memory all the same, and there is nobody to tell
            delta = step.delta(charge.usage.total, charge.cost) if step.in_run else None
            self._accounts.book.post(row, delta, self._permit.in_doubt)

    async def _post(
        self,
        bill: Bill,
        *,
        final: bool,
        attestations: tuple[Attestation, ...] = (),
        outcome: ApprovedOutcome | None = None,
    ) -> None:
        """Raises `store_unavailable`, or for an effect that was perhaps done `step_in_doubt`."""
        row, call, step = ledger_row(self._trail, bill), self._trail.call, self._step
        self._trail.recorded = bill.attempt
        try:
            if final and (step.in_run or outcome is not None):
                delta = step.delta(bill.usage.total, bill.cost) if step.in_run else None
                posting = Posting((row,), delta, attestations, outcome)
                await asyncio.shield(self._accounts.book.post_durable(posting))
            else:
                self._accounts.book.post(row)
                if not final:
                    step.owe(bill.usage.total, bill.cost)
        except Refusal as refusal:
            if bill.outcome == "refused" or call is None or call.repeat == "safe":
                raise
            raise Refusal(
                "step_in_doubt",
                f"what came of {call.tool} could not be recorded; look whether it happened before you repeat it",
                detail=refusal.detail,
            ) from refusal

    def _bill(
        self, charge: Charge, outcome: str, refusal: Refusal | None, status: int, upstream_request_id: str = ""
    ) -> Bill:
        return Bill(
            outcome=outcome,
            status=refusal.status if refusal is not None else status,
            attempt=self._trail.attempts,
            provider=self._target.provider,
            model=self._target.model,
            served_model=charge.served_model,
            usage=charge.usage,
            price_version=charge.price_version,
            cost=charge.cost,
            list_cost=charge.list_cost,
            upstream_request_id=upstream_request_id,
            code=refusal.code if refusal is not None else "",
        )

    def _count(self, result: str) -> None:
        self._accounts.counts.add("upstream_attempts", (self._target.provider, self._target.model, result))

    def _note(self, charge: Charge, received: Received) -> None:
        """What is odd about an answer never vanishes."""
        provider, (_, counts, log) = self._target.provider, self._accounts
        for name in charge.unknown_fields:
            counts.add("usage_unknown_fields", (provider, name))
        request_id = self._trail.request_id
        if charge.alarm:
            log.warning("usage_rejected", request_id=request_id, provider=provider, why=charge.alarm)
        fault, broken = received.fault, received.broken
        if fault is not None and fault.alert:
            log.warning("upstream_alert", request_id=request_id, provider=provider, detail=fault.refusal.detail)
        elif broken is not None and broken.detail and broken.code != "agent_stopped":
            log.warning("upstream_alert", request_id=request_id, provider=provider, detail=broken.detail)
