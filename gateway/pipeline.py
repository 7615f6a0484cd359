"""The one page: the whole way of a call, in order. No other module orders these steps, and none calls the next.

1 identify · 2 read · 3 enter run · 4 admit · 6 gather · 7 decide · 8 approve · then for each target, until the
first byte is out: 11 send · 12 relay · 13 settle. (The numbers between belong to stages that are not built yet.)
Whoever leaves early leaves through a `Refusal`; what was taken is given back by `async with` on every way out.

What must hold on this page:
- Nothing but the anonymous addresses gets past step 1, and nothing past step 8 undecided.
- What a call rests on is used up before it is sent.
- From step 1 on a call is a flight: whoever is stopped meanwhile gets no step further, and no new attempt begins.
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
from http import HTTPStatus
from typing import Final, Protocol

import msgspec

from gateway.attestation_endpoint import Recorder, post, present, signs_itself
from gateway.core.approval import Stored
from gateway.core.attestation import Attestation
from gateway.core.call import Call, ClientGone, Exchange, Target
from gateway.core.errors import Refusal
from gateway.core.money import usd_text
from gateway.core.principal import Principal
from gateway.core.run import RunKey, RunRef
from gateway.dialects.addresses import ANONYMOUS, dialect_of, resolve
from gateway.dialects.refusals import render, stream_error
from gateway.flights import Flight, Flights
from gateway.identity import check_reach
from gateway.identity.challenges import challenges
from gateway.ledger import Bill, Book, ledger_row
from gateway.observing import observed
from gateway.outbound import OutboundError
from gateway.permission import Permission
from gateway.permit import Desk, Permit
from gateway.relay import Received, relay
from gateway.routing import Errand
from gateway.runs import Entrance, Step, name_run, run_key
from gateway.settlement import Accounts, Attempt
from gateway.telemetry.logs import Log
from gateway.telemetry.metrics import Counts
from gateway.telemetry.traces import continued
from gateway.telemetry.trail import Trail
from gateway.token_endpoint import Granter, TokenRequest
from gateway.world import World

_WRITES: Final = frozenset({"token", "attest"})
"""The operations on own addresses that change something durable."""


class Supervisor(Entrance, Granter, Desk, Recorder, Protocol):
    """What a worker asks of the process that owns the shared state."""

    async def show_approval(self, approval: str, owner: tuple[str, str]) -> Mapping[str, object] | None:
        """How an approval of this owner stands, `None` where there is none."""
        ...

    async def show_run(self, key: RunKey) -> Mapping[str, object] | None:
        """A run's counters, `None` where this owner never opened it."""
        ...

    async def show_call(self, request_id: str, owner: tuple[str, str]) -> Mapping[str, object] | None:
        """What the ledger knows of one of the owner's calls of the last 24 hours."""
        ...


class Pipeline:
    """Carries calls through one worker.

    A reload swaps `world`; a call keeps the one it began with, but that it is decided by the policies of the moment.
    """

    def __init__(self, book: Book, supervisor: Supervisor, flights: Flights, counts: Counts, log: Log) -> None:
        """`book` settles, `supervisor` keeps the runs, `flights` knows who is stopped, `counts` and `log` observe."""
        self.world: World
        self.log = log
        self.inflight = 0
        self.flights = flights
        self._book = book
        self._supervisor = supervisor
        self._counts = counts
        self._accounts = Accounts(book, counts, log)

    def adopt(self, world: World, log: Log) -> None:
        """New calls run on this configuration from now on."""
        self.world, self.log = world, log
        self._accounts = Accounts(self._book, self._counts, log)

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
                await self._refuse(exchange, trail, world, refusal)
            except Exception as error:
                if isinstance(error, ClientGone):
                    raise
                self.log.error("internal_error", request_id=trail.request_id, error=world.describe(error))
                ours = Refusal("internal_error", "the gateway failed; its log says why")
                await self._refuse(exchange, trail, world, ours)
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
            trail.status, headers, body = world.public(head, address)
            await exchange.reply(trail.status, headers, body)
            return
        if address.operation == "attest" and signs_itself(head, world):  # what it hands in says who it is
            self._admit(world)  # 4 admit
            told = await post(exchange, world, self._supervisor, trail.request_id)  # 1 identify
            await self._answer_own(exchange, trail, told)
            return
        asked: TokenRequest | None = None
        if address.operation == "token":  # the one address whose credential is in its body
            asked = await TokenRequest.receive(exchange, address, world, self._supervisor)  # 1 identify
            principal = trail.principal = asked.parent
        else:
            principal = trail.principal = await world.identity.identify(head, address, self._supervisor)  # 1 identify
        async with Flight(self.flights, principal, exchange) as flight:  # who is stopped ends here, or at a step below
            call, errand = await world.read(exchange, address)  # 2 read
            trail.call = call
            if errand is not None:
                trail.target = errand.label
            check_reach(principal, call)  # a delegated token is for what was handed on
            run = self._run_of(trail, principal, call, world)
            async with Step(self._supervisor, run, call.kind) as step:  # 3 enter run
                trail.step = step.number
                flight.enter_run(step.line)
                if errand is not None or address.operation in _WRITES:
                    self._admit(world)  # 4 admit
                permission = Permission(
                    self._supervisor, lambda: self.world, trail, principal, call, errand, step, flight
                )
                permit = await permission.seek()  # 6 gather, 7 decide, 8 approve
                async with permit:  # what was used up for a call that is not sent is given back
                    flight.check()
                    if errand is None:
                        told = await self._told(exchange, trail, principal, world, flight, asked)
                        await self._answer_own(exchange, trail, told)
                    elif permit.stored is not None and permit.approval is not None:
                        await self._repeat(exchange, trail, errand, permit.stored, permit.approval.changed)
                    else:
                        await self._attempts(exchange, trail, world, flight, step, permit, errand)

    # -- 3, 4: may it go on? --------------------------------------------------------------------------

    def _run_of(self, trail: Trail, principal: Principal, call: Call, world: World) -> RunRef | None:
        """The run that the call names; own addresses belong to none."""
        address = trail.address
        if call.kind == "own" or address is None:
            return None
        runs = world.runs
        claim_only = runs.source == "claim"
        trail.run = name_run(principal, trail.head, address, from_headers=runs.from_headers, claim_only=claim_only)
        limited = any(name != "depth" for name, _ in principal.limits)  # a depth is kept without a run
        if trail.run is None and (limited or world.run_required(principal.agent, call)):
            why = "the token limits its run" if limited else "runs.required"
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

    # -- 11 to 13: carry it ---------------------------------------------------------------------------

    async def _attempts(
        self,
        exchange: Exchange,
        trail: Trail,
        world: World,
        flight: Flight,
        step: Step,
        permit: Permit,
        errand: Errand,
    ) -> None:
        """Each target in order, until one answers; raises the `Refusal` of the last one."""
        refusal: Refusal | None = None
        for number, target in enumerate(permit.targets, 1):
            flight.check()
            last = number == len(permit.targets)
            refusal = await self._attempt(exchange, trail, world, flight, step, permit, errand, target, last=last)
            if refusal is None:
                return
        assert refusal is not None  # noqa: S101 - a plan is never empty
        raise refusal

    async def _attempt(
        self,
        exchange: Exchange,
        trail: Trail,
        world: World,
        flight: Flight,
        step: Step,
        permit: Permit,
        errand: Errand,
        target: Target,
        *,
        last: bool,
    ) -> Refusal | None:
        """Ask one target and bring its answer back.

        Gives a refusal where no byte is out and another target may be asked: it stands if none can help.
        """
        sending = errand.dispatch(target, continued(trail.head.headers.get("traceparent")))
        trail.attempts += 1
        trail.provider = target.provider
        headers = [*self._headers(trail), *sending.notes]
        attempt = Attempt(self._accounts, trail, flight, step, permit, errand, target, sending)
        out = world.outbound.send(
            sending.upstream, sending.method, sending.path, sending.headers, sending.body, sending.timeouts
        )
        flight.sends(out, finishes=trail.kind == "tool")
        began, waited = time.perf_counter(), 0.0
        try:
            async with out as answer:  # 11 send
                drain = step.in_run or sending.drain
                received = await relay(exchange, answer, errand, target, sending, headers, drain=drain)  # 12 relay
                waited = received.waited
        except OutboundError as error:
            return await attempt.broke(error, last=last)  # 13 settle
        except asyncio.CancelledError:
            if out.sent:
                attempt.abandon()
            raise
        finally:
            permit.sent |= out.sent
            trail.upstream += time.perf_counter() - began - waited
        if received.first_byte is not None:
            trail.first_byte = received.first_byte - trail.began
        fault = received.fault
        final = last or fault is None or not fault.elsewhere
        seen = self._observed(trail, world, received)
        charge = await attempt.settle(received, final=final, attestations=seen, own_headers=len(headers))  # 13 settle
        if fault is not None:
            return fault.refusal
        trail.status, trail.outcome = received.status, received.outcome
        if not received.streamed:
            received.headers.append(("gateway-cost-usd", usd_text(charge.cost)))
        flight.check()
        await received.finish(exchange)
        return None

    @staticmethod
    def _observed(trail: Trail, world: World, received: Received) -> tuple[Attestation, ...]:
        """What rules let the gateway attest of this answer."""
        call, run, principal = trail.call, trail.run, trail.principal
        observations = world.policy.observations(call.tool) if call is not None and call.tool else ()
        if not observations or run is None or call is None or principal is None:
            return ()
        return tuple(
            observed(
                observations,
                call,
                received,
                principal=principal,
                run=run.key,
                request_id=trail.request_id,
                limits=world.json_limits,
                at=world.clock.now(),
            )
        )

    # -- what the gateway answers itself ----------------------------------------------------------------

    async def _told(
        self,
        exchange: Exchange,
        trail: Trail,
        principal: Principal,
        world: World,
        flight: Flight,
        asked: TokenRequest | None,
    ) -> Mapping[str, object]:
        """A token, what became of attestations, model lists, what an agent may know of its own; raises `Refusal`."""
        address, supervisor = trail.address, self._supervisor
        if address is None:
            raise ValueError("what has no address has no answer")
        variables = address.variables
        match address.operation:
            case "token" if asked is not None:
                return await asked.grant(exchange.head, address, world, supervisor, flight)
            case "attest":
                return await present(exchange, principal, world, supervisor, trail.request_id)
            case "own_run":
                found = await supervisor.show_run(run_key(principal, variables["run"]))
                unknown = Refusal("run_unknown", "there is no such run of this agent; check its id")
            case "own_call":
                await self._book.flush()  # a call that was answered a moment ago is told of
                found = await supervisor.show_call(variables["request_id"], principal.owner)
                unknown = Refusal("object_unknown", "this agent made no such call in the last 24 hours; check its id")
            case "own_approval":
                found = await supervisor.show_approval(variables["id"], principal.owner)
                unknown = Refusal("object_unknown", "there is no such approval of this agent; check its id")
            case _:
                return world.models_for(principal, address)
        if found is None:
            raise unknown
        return found

    async def _repeat(self, exchange: Exchange, trail: Trail, errand: Errand, stored: Stored, since: float) -> None:
        """An approved call was carried out before, at `since` (epoch seconds): its answer again, at no cost."""
        now = self.world.clock.now()
        avoided = errand.charge(errand.targets[0], None, "", len(stored.body), now).cost
        bill = Bill(outcome="replayed", status=stored.status, avoided=avoided, avoided_reason="replayed")
        self._book.post(ledger_row(trail, bill))
        trail.recorded, trail.status, trail.outcome = 0, stored.status, "replayed"
        replayed = ("gateway-replayed", f"true; age={max(0, int(now - since))}")
        headers = [*self._headers(trail), replayed, ("gateway-cost-usd", "0"), *stored.headers]
        await exchange.reply(stored.status, headers, stored.body)

    async def _answer_own(self, exchange: Exchange, trail: Trail, told: Mapping[str, object]) -> None:
        headers = [*self._headers(trail), ("content-type", "application/json")]
        operation = trail.address.operation if trail.address is not None else ""
        if operation == "token":
            headers.append(("cache-control", "no-store"))  # RFC 6749 §5.1
        trail.status = 201 if operation == "attest" else 200
        await exchange.reply(trail.status, headers, msgspec.json.encode(told))

    async def _refuse(self, exchange: Exchange, trail: Trail, world: World, refusal: Refusal) -> None:
        """Answer in the caller's dialect; a stream that has begun ends with an error event.

        A refusal of a known agent is put on the ledger, unless its last attempt is there already.
        """
        dialect = trail.address.dialect if trail.address is not None else dialect_of(trail.head.path)
        status, headers, body = render(refusal, dialect, trail.request_id)
        trail.refusal, trail.status = refusal, status
        if trail.principal is not None and trail.recorded < trail.attempts:
            outcome = "failed" if trail.attempts else "refused"
            bill = Bill(outcome=outcome, status=status, code=refusal.code, attempt=trail.attempts)
            row = ledger_row(trail, bill)
            with contextlib.suppress(Refusal):  # without a store the refusal is in the log alone
                self._book.post(row)
        if exchange.begun:
            await exchange.end(stream_error(refusal, dialect, trail.request_id))
            return
        if status == HTTPStatus.UNAUTHORIZED:
            headers += challenges(refusal, world.origin(trail.head))
        await exchange.reply(status, [*self._headers(trail), *headers], body)

    def _headers(self, trail: Trail) -> list[tuple[str, str]]:
        """The gateway's own answer headers, as far as they are known by now."""
        headers = [("gateway-request-id", trail.request_id)]
        if trail.principal is not None and (nonce := self.world.identity.next_nonce(trail.principal)):
            headers.append(("dpop-nonce", nonce))
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
