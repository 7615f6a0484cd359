"""The approvals desk: it holds calls, hears the operators, and lets each approved call be carried out once.

1. What is decided is in the store before anybody hears of it, and nothing of it is kept in memory alone: a restart
   changes nothing for who waits.
2. One call carries an approved one out. If it ends, or its worker dies, before what came of it is known, the approval
   has failed: it was perhaps carried out, and nobody does it again.
3. Who waits is woken by the decision. Neither a worker that died nor an agent that waits often keeps places taken.
4. Of an approval that is another owner's it says what it says of one that does not exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from asyncio import FIRST_COMPLETED
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

from gateway.approvals import not_carried_out
from gateway.approvals.settings import WebhookSettings
from gateway.approvals.showing import brief, to_owner, whole
from gateway.approvals.voting import Verdict, vote, who_could
from gateway.core.approval import MOVES, Approval, ApprovalAsk, ApprovedOutcome
from gateway.core.clock import Clock
from gateway.core.errors import Refusal
from gateway.core.ids import new_id
from gateway.outbound.settings import OutboundSettings
from gateway.process.channel import ChannelError
from gateway.process.in_force import InForce
from gateway.process.messages import (
    AnyMessage,
    AwaitApproval,
    Claim,
    Done,
    FindApproval,
    Hold,
    ShowApproval,
    Stands,
    Unclaim,
    Withdraw,
)
from gateway.process.notifying import Notifier, Webhook
from gateway.process.roster import reason_given
from gateway.state import Durable, StoreUnavailable, Work
from gateway.state import approvals as kept
from gateway.telemetry.metrics import Registry
from gateway.web.admin import AdminCall, Operator, Route, roles_of
from gateway.web.settings import OperatorSettings

T = TypeVar("T")

LONGEST_WAIT: Final = 20.0
"""Seconds that one call waits for a decision at most."""
_WAITING: Final = 50
"""Calls of one agent that may wait for decisions; more than that are told at once how it stands."""
_LOOK_EVERY: Final = 0.5
"""Seconds between two looks at whose time is up."""
_FORGET_EVERY: Final = 3600.0
_KEPT: Final = 30 * 86_400.0
"""Seconds for which an approval is kept after its time was up."""
_LISTED: Final = 500
"""Approvals that are listed at most."""


class Approving:
    """The desk. Used from the supervisor's event loop."""

    def __init__(self, store: Durable, registry: Registry, now: InForce, clock: Clock) -> None:
        """`store` keeps the approvals; who may decide is what the configuration `now` says."""
        self._store = store
        self._registry = registry
        self._now = now
        self._clock = clock
        webhook = Webhook("approvals", self._receiver, lambda: now.log, clock)
        self._notifier = Notifier(store, webhook, clock)
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._waiters: Counter[str] = Counter()  # by agent
        self._claims: dict[tuple[str, str], str] = {}  # approval and request → the worker that carries it out
        self._unsent: set[tuple[str, str]] = set()  # claims to be given back
        self._forgot = clock.monotonic()

    def _receiver(self) -> tuple[WebhookSettings | None, OutboundSettings]:
        settings = self._now.config.settings
        return settings.webhooks.approvals, settings.outbound

    # -- what workers ask

    async def handle(self, message: AnyMessage, worker: str, gone: asyncio.Event) -> AnyMessage | None:
        """Answer the worker of this name, until it is `gone`; raises `Refusal`, `ChannelError` for other messages."""
        now = self._clock.now()
        match message:
            case FindApproval(key=key):
                return self._stands(await self._read(lambda conn: kept.find(conn, key, now)))
            case Hold(ask=ask):
                return self._stands(await self._hold(ask))
            case Withdraw(key=key):
                self._ended(await self._write(lambda conn: kept.withdraw(conn, key, now)))
                return Done()
            case AwaitApproval(id=name, seconds=seconds):
                return self._stands(await self._await(name, seconds, gone))
            case Claim(id=name, request_id=request_id):
                return self._stands(await self._claim(name, request_id, worker))
            case Unclaim(id=name, request_id=request_id, sent=True):
                self._claims.pop((name, request_id), None)  # `tend` writes down that nobody knows, if nobody does
                return None
            case Unclaim(id=name, request_id=request_id):
                self._unsent.add((name, request_id))
                with contextlib.suppress(Refusal):  # `tend` tries again
                    await self._give_back()
                return None
            case ShowApproval(id=name):
                return Done(await self._show(message))
            case _:
                raise ChannelError(f"the supervisor does not answer {type(message).__name__}")

    def _stands(self, approval: Approval | None) -> Stands:
        return Stands(approval.standing(self._clock.now()) if approval is not None else None)

    async def _hold(self, ask: ApprovalAsk) -> Approval:
        name, now = new_id("apr"), self._clock.now()
        held = await self._write(lambda conn: kept.hold(conn, ask, name, now))
        self._ended(held.ended)
        if held.new:
            self._happened(held.approval)
        return held.approval

    async def _await(self, name: str, seconds: float, gone: asyncio.Event) -> Approval | None:
        """The approval once it is decided, or time is up, or the worker is gone."""
        decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, set()).add(decided)  # before it is looked at: a decision may come meanwhile
        try:
            approval = await self._read(lambda conn: kept.load(conn, name))
            if approval is None or approval.status_at(self._clock.now()) != "pending":
                return approval
            agent = approval.ask.agent
            if self._waiters[agent] >= _WAITING:
                return approval
            self._waiters[agent] += 1
            leaving = asyncio.create_task(gone.wait())
            ends: tuple[asyncio.Future[Any], ...] = (decided, leaving)
            try:
                await asyncio.wait(ends, timeout=min(seconds, LONGEST_WAIT), return_when=FIRST_COMPLETED)
            finally:
                leaving.cancel()
                self._waiters[agent] -= 1
                self._waiters += Counter()  # without those of whom nobody waits
            return await self._read(lambda conn: kept.load(conn, name))
        finally:
            self._waiting[name].discard(decided)
            if not self._waiting[name]:
                del self._waiting[name]

    async def _claim(self, name: str, request_id: str, worker: str) -> Approval:
        """The approval while this call carries it out (`executing`), or with the outcome that it has (`consumed`).

        Raises `Refusal` for every other standing.
        """
        claim, now = (name, request_id), self._clock.now()
        self._claims[claim] = worker  # before it is written down: what nobody has claimed is given up for lost
        mine = False
        try:
            approval = await self._write(lambda conn: kept.claim(conn, name, request_id, now))
            mine = approval is not None and (approval.status, approval.request_id) == ("executing", request_id)
        finally:
            if not mine:
                self._claims.pop(claim, None)
        if approval is None:
            raise Refusal("object_unknown", "there is no such approval; send the call again")
        if mine:
            self._log("executing", approval, request_id=request_id)
        elif approval.status != "consumed" or approval.outcome is None:
            raise not_carried_out(approval.standing(now))
        return approval

    async def _give_back(self) -> None:
        for claim in list(self._unsent):
            name, request_id = claim
            now = self._clock.now()
            approval = await self._write(lambda conn: kept.unclaim(conn, name, request_id, now))  # noqa: B023 - awaited
            self._unsent.discard(claim)
            self._claims.pop(claim, None)
            if approval is not None:
                self._log("not_sent", approval, request_id=request_id)

    async def _show(self, asked: ShowApproval) -> dict[str, object] | None:
        approval = await self._read(lambda conn: kept.load(conn, asked.id))
        if approval is None or (approval.ask.key.iss, approval.ask.key.subject) != (asked.iss, asked.subject):
            return None
        return to_owner(approval, self._clock.now())

    # -- what happens by itself

    def posted(self, outcomes: Iterable[tuple[ApprovedOutcome, str]]) -> None:
        """What came of approved calls is on the ledger; each with its request's id."""
        for outcome, request_id in outcomes:
            self._claims.pop((outcome.approval, request_id), None)
            self._registry.add("approvals", (outcome.status,))
            self._now.log.info("approval", id=outcome.approval, status=outcome.status, request_id=request_id)
            self._now.log.flush()

    async def worker_died(self, worker: str) -> None:
        """A worker is dead, and all that it left is posted: what it still carried out is in doubt."""
        for claim in [claim for claim, name in self._claims.items() if name == worker]:
            del self._claims[claim]
        with contextlib.suppress(Refusal):  # `tend` tries again
            await self._look()

    async def tend(self) -> None:
        """Write down whose time is up and what nobody carries out any more, and tell the webhook; for ever."""
        telling = asyncio.create_task(self._notifier.tend())
        try:
            while not telling.done():
                with contextlib.suppress(Refusal):  # the store's trouble is told elsewhere
                    await self._give_back()
                    await self._look()
                await asyncio.sleep(_LOOK_EVERY)
            telling.result()
        finally:
            telling.cancel()

    async def _look(self) -> None:
        now, alive = self._clock.now(), self._alive
        if await self._read(lambda conn: kept.to_tend(conn, alive, now)):
            self._ended(await self._write(lambda conn: kept.expire(conn, now)))
            alive = self._alive  # as it is when this work is queued: what is claimed later is not looked at by it
            for approval in await self._write(lambda conn: kept.doubt(conn, alive, now)):
                self._happened(approval, request_id=approval.request_id)
        if self._clock.monotonic() - self._forgot > _FORGET_EVERY:
            self._forgot = self._clock.monotonic()
            await self._write(lambda conn: kept.forget(conn, now - _KEPT))

    @property
    def _alive(self) -> frozenset[str]:
        """The approvals that a worker carries out now."""
        return frozenset(name for name, _ in self._claims)

    def _ended(self, approvals: Iterable[Approval]) -> None:
        for approval in approvals:
            self._happened(approval)

    def _happened(self, approval: Approval, **more: object) -> None:
        """Something has become of an approval: say so, and wake who waits for it."""
        self._registry.add("approvals", (approval.status,))
        self._log(approval.status, approval, **more)
        self._notifier.wake()
        for decided in self._waiting.get(approval.id, ()):
            if not decided.done():
                decided.set_result(None)

    def _log(self, status: str, approval: Approval, **more: object) -> None:
        ask = approval.ask
        about = {"agent": ask.agent, "run": ask.key.run, "operation": ask.key.operation, "rules": list(ask.rules)}
        self._now.log.info("approval", id=approval.id, status=status, **about, **more)
        self._now.log.flush()

    # -- the store

    async def _read(self, work: Work[T]) -> T:
        return await self._asked(self._store.read(work))

    async def _write(self, work: Work[T]) -> T:
        return await self._asked(asyncio.wrap_future(self._store.submit(work)))

    async def _asked(self, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except StoreUnavailable as error:
            sentence = "approvals cannot be looked up or written down at the moment; try again shortly"
            raise Refusal("store_unavailable", sentence, detail=str(error)) from error

    # -- the admin API

    @property
    def _voters(self) -> list[OperatorSettings]:
        """The operators that have the role to decide."""
        return [one for one in self._now.config.settings.operators if "approver" in roles_of(one)]

    async def decide(self, name: str, operator: Operator, verdict: Verdict, reason: str) -> dict[str, object]:
        """An operator's vote; gives how the approval stands then, and whether that changed anything."""
        now, voters = self._clock.now(), self._voters

        def work(conn: sqlite3.Connection) -> tuple[Approval, bool]:
            found = kept.load(conn, name)
            if found is None:
                raise _unknown()
            after = vote(found, operator, verdict, reason, now, voters)
            return (kept.change(conn, found, after, now), True) if after is not found else (found, False)

        try:
            approval, changed = await self._write(work)
        except Refusal as refusal:
            self._now.log.info("approval_refused", id=name, operator=operator.id, decision=verdict, code=refusal.code)
            self._now.log.flush()
            raise
        if changed:
            said = {"operator": operator.id, "decision": verdict, "reason": reason}
            if approval.status == "pending":
                self._log("pending", approval, **said)
            else:
                self._happened(approval, **said)
        return {**whole(approval, self._clock.now()), "changed": changed}

    def routes(self) -> list[Route]:
        """What the admin listener serves of it."""

        async def listing(call: AdminCall) -> object:
            status = call.query.get("status", "")
            if status and status not in MOVES:
                raise Refusal("request_malformed", f"`status` is one of {', '.join(MOVES)}; send one of them")
            now = self._clock.now()
            found = await self._read(lambda conn: kept.page(conn, status, _LISTED + 1))
            return {"approvals": [brief(one, now) for one in found[:_LISTED]], "more": len(found) > _LISTED}

        async def show(call: AdminCall) -> object:
            approval = await self._read(lambda conn: kept.load(conn, call.variables["id"]))
            if approval is None:
                raise _unknown()
            return {**whole(approval, self._clock.now()), "may_decide": who_could(approval.ask, self._voters)}

        def deciding(verdict: Verdict) -> Callable[[AdminCall], Awaitable[object]]:
            async def act(call: AdminCall) -> object:
                reason, _ = reason_given(call.body, ("reason",))
                return await self.decide(call.variables["id"], call.operator, verdict, reason)

            return act

        return [
            Route("GET", "/admin/v1/approvals", "viewer", listing),
            Route("GET", "/admin/v1/approvals/{id}", "viewer", show),
            Route("POST", "/admin/v1/approvals/{id}/approve", "approver", deciding("approve")),
            Route("POST", "/admin/v1/approvals/{id}/deny", "approver", deciding("deny")),
        ]


def _unknown() -> Refusal:
    return Refusal("object_unknown", "there is no such approval; `passgate approvals list` shows those that there are")
