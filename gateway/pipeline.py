"""The one page: the whole way of a call, in order. No other module orders these steps, and none calls the next.

1 identify · 2 read · 3 enter run · 4 admit · 7 decide · then for each target, until the first byte is
out: 11 send · 12 relay · 13 settle. (The numbers between belong to stages that are not built yet.) Whoever
leaves early leaves through a `Refusal`; what was taken is given back by `async with` on every way out.

What must hold on this page:
- Nothing but the anonymous addresses gets past step 1, and nothing past step 7 undecided.
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
from typing import Protocol

import msgspec

from gateway.core.call import Address, Call, ClientGone, Exchange, Target
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
from gateway.outbound import OutboundError
from gateway.policy import Facts, explain_refusal
from gateway.relay import relay
from gateway.routing import Errand
from gateway.runs import Entrance, Step, name_run, run_key
from gateway.settlement import Accounts, Attempt
from gateway.telemetry.logs import Log
from gateway.telemetry.metrics import Counts
from gateway.telemetry.traces import continued
from gateway.telemetry.trail import Trail
from gateway.token_endpoint import Granter, TokenRequest
from gateway.world import World


class Supervisor(Entrance, Granter, Protocol):
    """What a worker asks of the process that owns the shared state."""

    async def show_run(self, key: RunKey) -> Mapping[str, object] | None:
        """A run's counters, `None` where this owner never opened it."""
        ...

    async def show_call(self, request_id: str, owner: tuple[str, str]) -> Mapping[str, object] | None:
        """What the ledger knows of one of the owner's calls of the last 24 hours."""
        ...


class Pipeline:
    """Carries calls through one worker. A reload swaps `world`; a call keeps the one it began with."""

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
                if errand is not None or asked is not None:
                    self._admit(world)  # 4 admit
                targets = self._decide(trail, principal, call, errand, world)  # 7 decide
                if errand is None:
                    if asked is not None:
                        told = await asked.grant(head, address, world, self._supervisor, flight)
                    else:
                        told = await self._told(principal, address, world)
                    await self._answer_own(exchange, trail, told)
                    return
                refusal: Refusal | None = None
                for number, target in enumerate(targets, 1):  # 11 to 13
                    flight.check()
                    last = number == len(targets)
                    refusal = await self._attempt(exchange, trail, world, flight, step, errand, target, last=last)
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
        self,
        exchange: Exchange,
        trail: Trail,
        world: World,
        flight: Flight,
        step: Step,
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
        attempt = Attempt(self._accounts, trail, flight, step, errand, target, sending)
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
            trail.upstream += time.perf_counter() - began - waited
        if received.first_byte is not None:
            trail.first_byte = received.first_byte - trail.began
        fault = received.fault
        charge = await attempt.settle(received, final=last or fault is None or not fault.elsewhere)  # 13 settle
        if fault is not None:
            return fault.refusal
        trail.status, trail.outcome = received.status, received.outcome
        if not received.streamed:
            received.headers.append(("gateway-cost-usd", usd_text(charge.cost)))
        flight.check()
        await received.finish(exchange)
        return None

    # -- what the gateway answers itself ----------------------------------------------------------------

    async def _told(self, principal: Principal, address: Address, world: World) -> Mapping[str, object]:
        """Model lists, and what the gateway tells an agent about its own runs and calls; raises `Refusal`."""
        if address.operation == "own_run":
            run = await self._supervisor.show_run(run_key(principal, address.variables["run"]))
            if run is None:
                raise Refusal("run_unknown", "there is no such run of this agent; check its id")
            return run
        if address.operation == "own_call":
            await self._book.flush()  # a call that was answered a moment ago is told of
            call = await self._supervisor.show_call(address.variables["request_id"], principal.owner)
            if call is None:
                raise Refusal("object_unknown", "this agent made no such call in the last 24 hours; check its id")
            return call
        return world.models_for(principal, address)

    async def _answer_own(self, exchange: Exchange, trail: Trail, told: Mapping[str, object]) -> None:
        headers = [*self._headers(trail), ("content-type", "application/json")]
        if trail.address is not None and trail.address.operation == "token":
            headers.append(("cache-control", "no-store"))  # RFC 6749 §5.1
        trail.status = 200
        await exchange.reply(200, headers, msgspec.json.encode(told))

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
