"""The one page: the whole way of a call, in order. No other module orders these steps, and none calls the next.

1 identify · 2 read · 3 enter run · 4 admit · 7 decide · then for each target, until the first byte is
out: 11 send · 12 relay · 13 settle. (5, 6, 8, 9 and 10 of the design are not here yet.) Whoever leaves
early leaves through a `Refusal`; what was taken is given back by `async with` on every way out.

What must hold on this page:
- Nothing but the anonymous addresses of wire §3 gets past step 1, and nothing past step 7 undecided.
- Settlement comes before the last byte: an answer that an agent has in full is on the ledger. Where it
  cannot be put there, the last byte is withheld.
- After the first byte nothing is tried again, and a stream that broke ends with an error, never with a
  made-up finish.
- An agent that hangs up does not stop the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Protocol

import msgspec

from gateway.core.call import Address, Call, ClientGone, Exchange, Target
from gateway.core.errors import Refusal
from gateway.core.money import usd_text
from gateway.core.principal import Principal
from gateway.core.run import RunKey, RunRef
from gateway.dialects.addresses import ANONYMOUS, dialect_of, resolve
from gateway.dialects.refusals import render, stream_error
from gateway.ledger import Bill, Book, ledger_row
from gateway.outbound import OutboundError
from gateway.policy import Facts, explain_refusal
from gateway.relay import Received, broken_off, relay
from gateway.routing import FREE, Charge, Dispatch, Errand
from gateway.runs import Entrance, Step, name_run
from gateway.telemetry.logs import Log
from gateway.telemetry.metrics import Counts
from gateway.telemetry.traces import continued
from gateway.telemetry.trail import Trail
from gateway.world import World


class Supervisor(Entrance, Protocol):
    """What a worker asks of the process that owns the shared state."""

    async def show_run(self, key: RunKey) -> Mapping[str, object] | None:
        """A run's counters, `None` where this owner never opened it."""
        ...

    async def show_call(self, request_id: str, owner: tuple[str, str]) -> Mapping[str, object] | None:
        """What the ledger knows of one of the owner's calls of the last 24 hours."""
        ...


class Pipeline:
    """Carries calls through one worker. A reload swaps `world`; a call keeps the one it began with."""

    def __init__(self, book: Book, supervisor: Supervisor, counts: Counts, log: Log) -> None:
        """`book` settles, `supervisor` keeps the runs, `counts` and `log` observe."""
        self.world: World
        self.log = log
        self.inflight = 0
        self._book = book
        self._supervisor = supervisor
        self._counts = counts

    def adopt(self, world: World, log: Log) -> None:
        """New calls run on this configuration from now on."""
        self.world, self.log = world, log

    def refused_at_the_door(self, refusal: Refusal, peer: str) -> None:
        """A request that was no request, or not meant for this gateway, and therefore has no trail."""
        self._counts.add("refusals", ("", refusal.code))
        self.log.info("refused_at_the_door", code=refusal.code, detail=refusal.detail, peer=peer)

    async def handle(self, exchange: Exchange) -> None:
        """One request, from its head to its last byte; raises nothing but cancellation."""
        world = self.world
        trail = Trail(exchange.head)
        self.inflight += 1
        world.calls += 1
        try:
            try:
                await self._carry(exchange, trail, world)
            except Refusal as refusal:
                await self._refuse(exchange, trail, refusal)
            except Exception as error:
                if isinstance(error, ClientGone):
                    raise
                self.log.error("internal_error", request_id=trail.request_id, error=world.describe(error))
                await self._refuse(exchange, trail, Refusal("internal_error", "the gateway failed; its log says why"))
        except ClientGone:
            trail.outcome = trail.outcome or "cancelled"
        except asyncio.CancelledError:
            trail.outcome = trail.outcome or "cancelled"
            raise
        finally:
            self.inflight -= 1
            world.calls -= 1
            trail.close(self._counts, self.log, access=world.access_log)

    async def _carry(self, exchange: Exchange, trail: Trail, world: World) -> None:
        """The way itself."""
        head = exchange.head
        address = trail.address = resolve(head.method, head.path)
        if address.operation in ANONYMOUS:
            trail.status, headers, body = world.public(address)
            await exchange.reply(trail.status, headers, body)
            return
        principal = trail.principal = world.identity.identify(head, address)  # 1 identify
        call, errand = await world.read(exchange, address)  # 2 read
        trail.call = call
        run = self._run_of(trail, principal, call, world)
        async with Step(self._supervisor, run, call.kind) as step:  # 3 enter run
            trail.step = step.number
            if errand is not None:
                self._admit(world)  # 4 admit
            targets = self._decide(trail, principal, call, errand, world)  # 7 decide
            if errand is None:
                await self._answer_own(exchange, trail, principal, address, world)
                return
            refusal: Refusal | None = None
            for number, target in enumerate(targets, 1):
                last = number == len(targets)
                refusal = await self._attempt(exchange, trail, world, step, errand, target, last=last)  # 11 to 13
                if refusal is None:
                    return
            assert refusal is not None  # noqa: S101 - a plan is never empty
            raise refusal

    # -- 3, 4, 7: may it go on? -----------------------------------------------------------------------

    def _run_of(self, trail: Trail, principal: Principal, call: Call, world: World) -> RunRef | None:
        """The run that the call names; own addresses belong to none."""
        address = trail.address
        if call.kind == "own" or address is None:
            return None
        runs = world.runs
        claim_only = runs.source == "claim"
        trail.run = name_run(principal, trail.head, address, from_headers=runs.from_headers, claim_only=claim_only)
        if trail.run is None and (principal.limits or world.run_required(principal.agent, call)):
            why = "the token limits its run" if principal.limits else "runs.required"
            raise Refusal(
                "run_required",
                f"this call must name its run ({why}): put /r/RUN in front of the base URL's path, "
                "or send the header Gateway-Run",
            )
        return trail.run

    def _admit(self, world: World) -> None:
        if world.calls > world.concurrency:
            raise Refusal("overloaded", f"{world.calls - 1} calls are under way (limits.concurrency); retry shortly")
        self._book.check()

    def _decide(
        self, trail: Trail, principal: Principal, call: Call, errand: Errand | None, world: World
    ) -> tuple[Target, ...]:
        """Let policy decide, for each target where rules name providers. Gives the targets that are allowed."""
        facts = Facts.of(principal, call)
        targets = allowed = errand.targets if errand is not None else ()
        policy = world.policy
        if policy.names_providers and targets:
            decisions = [policy.decide(facts, target.provider) for target in targets]
            allowed = tuple(t for t, decided in zip(targets, decisions, strict=True) if decided.allowed)
            decision = next((decided for decided in decisions if decided.allowed), decisions[0])
        else:
            decision = policy.decide(facts)
        trail.decision = decision
        trail.decision_id = world.decision_id(trail.request_id, principal, facts, allowed=decision.allowed)
        if not decision.allowed:
            raise Refusal("policy_denied", explain_refusal(decision, facts), fields={"decision_id": trail.decision_id})
        return allowed

    # -- 11 to 13: carry it ---------------------------------------------------------------------------

    async def _attempt(
        self, exchange: Exchange, trail: Trail, world: World, step: Step, errand: Errand, target: Target, *, last: bool
    ) -> Refusal | None:
        """Ask one target and bring its answer back.

        Gives a refusal where no byte is out and another target may be asked: it stands if none can help.
        """
        sending = errand.dispatch(target, continued(trail.head.headers.get("traceparent")))
        trail.attempts += 1
        trail.provider, trail.target = target.provider, errand.label
        headers = [*self._headers(trail), *sending.notes]
        out = world.outbound.send(
            sending.upstream, sending.method, sending.path, sending.headers, sending.body, sending.timeouts
        )
        began, waited = time.perf_counter(), 0.0
        try:
            async with out as answer:  # 11 send
                drain = step.in_run or sending.drain
                received = await relay(exchange, answer, errand, target, sending, headers, drain=drain)  # 12 relay
                waited = received.waited
        except OutboundError as error:
            self._count_attempt(target, "broken" if error.sent else "not_sent")
            refusal = broken_off(error, target.provider, effect=errand.effect)
            if not error.sent:
                if last:  # nothing to pay, but a refusal, and perhaps what the attempts before it cost
                    await self._settle(trail, step, _bill(trail, target, FREE, "refused", refusal), final=step.owes)
                return refusal
            charge = errand.charge(target, None, "", 0, time.time())  # it may have been done and billed
            bill = _bill(trail, target, charge, "failed", refusal)
            await self._settle(trail, step, bill, final=last or errand.effect)
            if errand.effect:
                raise refusal from error
            return refusal
        except asyncio.CancelledError:
            if out.sent:
                self._abandon(trail, step, errand, target, sending)
            raise
        finally:
            trail.upstream += time.perf_counter() - began - waited
        if received.first_byte is not None:
            trail.first_byte = received.first_byte - trail.began
        final = last or received.fault is None or not received.fault.elsewhere
        return await self._conclude(exchange, trail, step, errand, target, received, final=final)

    async def _conclude(
        self,
        exchange: Exchange,
        trail: Trail,
        step: Step,
        errand: Errand,
        target: Target,
        received: Received,
        *,
        final: bool,
    ) -> Refusal | None:
        """What came is settled, then its end may go; gives the refusal of an answer that does not pass."""
        fault = received.fault
        charge = received.charge(errand, target)
        self._count_attempt(target, received.outcome)
        self._note(trail, target, charge, received)
        refusal = fault.refusal if fault is not None else received.broken
        bill = _bill(trail, target, charge, received.outcome, refusal, received)
        await self._settle(trail, step, bill, final=final)  # 13 settle
        if fault is not None:
            return fault.refusal
        trail.status, trail.outcome = received.status, received.outcome
        if not received.streamed:
            received.headers.append(("gateway-cost-usd", usd_text(charge.cost)))
        await received.finish(exchange)
        return None

    async def _settle(self, trail: Trail, step: Step, bill: Bill, *, final: bool) -> None:
        """Put an attempt on the ledger; the last one of a step durably, with what the step adds to its run.

        Shielded, so that nobody's hanging up stops the record. Raises `Refusal`, after which the last
        byte stays here: `store_unavailable`, or for an effect `step_in_doubt`.
        """
        row, call = ledger_row(trail, bill), trail.call
        trail.recorded = bill.attempt
        try:
            if step.in_run and final:
                await asyncio.shield(self._book.post_durable([row], step.delta(bill.usage.total, bill.cost)))
            else:
                self._book.post(row)
                if not final:
                    step.owe(bill.usage.total, bill.cost)
        except Refusal as refusal:
            if bill.outcome != "complete" or call is None or call.repeat == "safe":
                raise
            raise Refusal(
                "step_in_doubt",
                f"{call.tool} answered, but that could not be recorded; look whether it happened before you repeat it",
                detail=refusal.detail,
            ) from refusal

    def _abandon(self, trail: Trail, step: Step, errand: Errand, target: Target, sending: Dispatch) -> None:
        """The call is cancelled while its request is out: put on the ledger what is known of it, without waiting."""
        usage, model, answered = None, "", 0
        if sending.reader is not None:
            tally = sending.reader.close().tally
            usage, model, answered = tally.usage, tally.served_model, tally.output_bytes
        charge = errand.charge(target, usage, model, answered, time.time())
        row = ledger_row(trail, _bill(trail, target, charge, "cancelled", None))
        with contextlib.suppress(Refusal):  # it is kept in memory all the same, and there is nobody to tell
            self._book.post(row, step.delta(charge.usage.total, charge.cost) if step.in_run else None)

    def _count_attempt(self, target: Target, result: str) -> None:
        self._counts.add("upstream_attempts", (target.provider, target.model, result))

    def _note(self, trail: Trail, target: Target, charge: Charge, received: Received) -> None:
        """What is odd about an answer never vanishes."""
        for name in charge.unknown_fields:
            self._counts.add("usage_unknown_fields", (target.provider, name))
        if charge.alarm:
            self.log.warning("usage_rejected", request_id=trail.request_id, provider=target.provider, why=charge.alarm)
        fault, broken = received.fault, received.broken
        if fault is not None and fault.alert:
            detail = fault.refusal.detail
            self.log.warning("upstream_alert", request_id=trail.request_id, provider=target.provider, detail=detail)
        elif broken is not None and broken.detail:
            self.log.warning(
                "upstream_alert", request_id=trail.request_id, provider=target.provider, detail=broken.detail
            )

    # -- what the gateway answers itself ----------------------------------------------------------------

    async def _answer_own(
        self, exchange: Exchange, trail: Trail, principal: Principal, address: Address, world: World
    ) -> None:
        """Model lists, and what the gateway tells an agent about its own runs and calls."""
        told: Mapping[str, object] | None
        if address.operation == "own_run":
            told = await self._supervisor.show_run(RunKey(*principal.owner, address.variables["run"]))
            if told is None:
                raise Refusal("run_unknown", "there is no such run of this agent; check its id")
        elif address.operation == "own_call":
            await self._book.flush()  # a call that was answered a moment ago is told of
            told = await self._supervisor.show_call(address.variables["request_id"], principal.owner)
            if told is None:
                raise Refusal("object_unknown", "this agent made no such call in the last 24 hours; check its id")
        else:
            told = world.models_for(principal, address)
        trail.status = 200
        await exchange.reply(
            200, [*self._headers(trail), ("content-type", "application/json")], msgspec.json.encode(told)
        )

    async def _refuse(self, exchange: Exchange, trail: Trail, refusal: Refusal) -> None:
        """Answer in the caller's dialect; a stream that has begun ends with an error event.

        A refusal of a known agent is put on the ledger, unless its last attempt is there already.
        """
        trail.refusal, trail.status = refusal, refusal.status
        dialect = trail.address.dialect if trail.address is not None else dialect_of(trail.head.path)
        if trail.principal is not None and trail.recorded < trail.attempts:
            outcome = "failed" if trail.attempts else "refused"
            bill = Bill(outcome=outcome, status=refusal.status, code=refusal.code, attempt=trail.attempts)
            row = ledger_row(trail, bill)
            with contextlib.suppress(Refusal):  # without a store the refusal is in the log alone
                self._book.post(row)
        if exchange.begun:
            await exchange.end(stream_error(refusal, dialect, trail.request_id))
            return
        status, headers, body = render(refusal, dialect, trail.request_id)
        await exchange.reply(status, [*self._headers(trail), *headers], body)

    def _headers(self, trail: Trail) -> list[tuple[str, str]]:
        """The gateway's own answer headers (wire §3), as far as they are known by now."""
        headers = [("gateway-request-id", trail.request_id)]
        if trail.run is not None:
            headers.append(("gateway-run", trail.run.key.id))
            if trail.step:
                headers.append(("gateway-step", str(trail.step)))
        if trail.decision is not None:
            headers.append(("gateway-policy", trail.decision.policy_hash[:16]))
            headers.append(("gateway-decision-id", trail.decision_id))
        if trail.attempts:
            headers.append(("gateway-provider", trail.provider))
            headers.append(("gateway-attempts", str(trail.attempts)))
        return headers


def _bill(
    trail: Trail,
    target: Target,
    charge: Charge,
    outcome: str,
    refusal: Refusal | None,
    received: Received | None = None,
) -> Bill:
    """What the present attempt came to."""
    return Bill(
        outcome=outcome,
        status=refusal.status if refusal is not None else received.status if received is not None else 0,
        attempt=trail.attempts,
        provider=target.provider,
        model=target.model,
        served_model=charge.served_model,
        usage=charge.usage,
        price_version=charge.price_version,
        cost=charge.cost,
        list_cost=charge.list_cost,
        upstream_request_id=received.upstream_request_id if received is not None else "",
        code=refusal.code if refusal is not None else "",
    )
