"""One worker's pipeline with real parts around it, and a door that can close at any moment.

The store, the register of runs, the book with its recovery files, policy, identity and the outbound
client are the real ones; only the door and the channel between worker and supervisor are in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sqlite3
import types
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multidict import CIMultiDict

from gateway.build import build_world, prepare
from gateway.config import load
from gateway.core.approval import ApprovalAsk, ApprovalKey, Standing
from gateway.core.attestation import Attestation, Use
from gateway.core.call import ClientGone, Head
from gateway.core.clock import SystemClock
from gateway.core.errors import Refusal
from gateway.core.run import RunKey, RunLimits, RunRef
from gateway.core.sources import DiskSources
from gateway.flights import Flights
from gateway.identity.stops import StopList
from gateway.ledger import Batch, Book, Poster, find_call
from gateway.pipeline import Pipeline
from gateway.process.approving import Approving
from gateway.process.attesting import Attesting
from gateway.process.in_force import InForce
from gateway.process.messages import (
    AnyMessage,
    AwaitApproval,
    Claim,
    Consume,
    Done,
    FindApproval,
    Gather,
    Gathered,
    Hold,
    Present,
    Recorded,
    Release,
    ShowApproval,
    Stands,
    Unclaim,
    Withdraw,
)
from gateway.process.reading import Read
from gateway.runs import Entered, Register
from gateway.state import Runs, Store, StoreUnavailable
from gateway.telemetry.logs import Log
from gateway.telemetry.metrics import Counts, Registry
from gateway.world import World
from tests.simulator.attester import Attester
from tests.simulator.gateway import ALLOW_ALL, Gateway
from tests.simulator.provider import completion, streamed
from tests.simulator.upstream import Received, Script, ScriptedUpstream, answer


@dataclass
class Door:
    """A request, and the client that reads the reply: it leaves at its `leaves_at`-th write, if at all.

    `last` is called when the gateway lets the last part of a reply go, before anybody has it.
    """

    head: Head
    sent: bytes = b""
    leaves_at: int = 0
    last: Callable[[Door], None] | None = None
    begun: bool = False
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    got: bytearray = field(default_factory=bytearray)
    writes: int = 0
    ended: bool = False

    async def body(self, most: int | None = None) -> bytes:
        """See `core.call.Exchange`."""
        assert most is None or len(self.sent) <= most
        await asyncio.sleep(0)
        return self.sent

    async def reply(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """See `core.call.Exchange`."""
        self._open(status, headers)
        await self._end(body)

    async def begin(self, status: int, headers: list[tuple[str, str]]) -> None:
        """See `core.call.Exchange`."""
        self._open(status, headers)
        await self._write(b"")

    async def send(self, data: bytes) -> None:
        """See `core.call.Exchange`."""
        await self._write(data)

    async def end(self, data: bytes = b"") -> None:
        """See `core.call.Exchange`."""
        await self._end(data)

    def cut(self, after: float = 0.0) -> None:
        """See `core.call.Exchange`; what it keeps has left."""
        self.ended = self.ended or not after

    @property
    def request_id(self) -> str:
        """What the gateway calls it."""
        return self.headers["gateway-request-id"]

    def _open(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.begun, self.status, self.headers = True, status, dict(headers)

    async def _end(self, data: bytes) -> None:
        if self.last is not None:
            self.last(self)
        await self._write(data)
        self.ended = True

    async def _write(self, data: bytes) -> None:
        self.writes += 1
        await asyncio.sleep(0)  # a slow reader may make the gateway wait here
        if self.writes == self.leaves_at:
            raise ClientGone
        self.got += data


class Supervising:
    """The supervisor's side, without a channel between; `log` is its decision log, which takes nothing while `full`."""

    def __init__(self, store: Store, register: Register, poster: Poster, now: InForce) -> None:
        self._store, self._register, self._poster = store, register, poster
        registry, clock = Registry(100), SystemClock()
        self._attesting = Attesting(store, registry, lambda: now.log, clock)
        self.approving = Approving(store, registry, now, clock)
        self._gone = asyncio.Event()
        self.log: list[bytes] = []
        self.full = False
        self._told = set[asyncio.Future[object]]()

    async def gather(
        self,
        run: RunKey,
        names: tuple[str, ...],
        across: tuple[tuple[str, int], ...],
        presented: tuple[Attestation, ...],
    ) -> tuple[tuple[Attestation, ...], int]:
        """See `permit.Desk`."""
        gathered = await self._attesting.handle(Gather(run, names, across, presented))
        assert isinstance(gathered, Gathered)
        return gathered.attestations, gathered.seen

    async def present(self, attestations: tuple[Attestation, ...]) -> tuple[bool, ...]:
        """See `attestation_endpoint.Recorder`."""
        recorded = await self._attesting.handle(Present(attestations))
        assert isinstance(recorded, Recorded)
        return recorded.new

    async def consume(
        self, holder: str, uses: tuple[Use, ...], run: RunKey, names: tuple[str, ...], steps: tuple[str, ...], seen: int
    ) -> None:
        """See `permit.Desk`; like over a channel, it happens also when nobody waits for it any more."""
        asked = self._attesting.handle(Consume(holder, uses, run, names, steps, seen))
        await asyncio.shield(asyncio.ensure_future(asked))

    def release(self, holder: str) -> None:
        """See `permit.Desk`."""
        self._tell(self._attesting.handle(Release(holder)))

    async def decided(self, record: bytes) -> None:
        """See `permit.Desk`."""
        await asyncio.sleep(0)
        if self.full:
            raise Refusal("store_unavailable", "decisions cannot be written down")
        self.log.append(record)

    async def find_approval(self, key: ApprovalKey) -> Standing | None:
        """See `permit.Desk`."""
        return await self._stands(FindApproval(key))

    async def hold(self, ask: ApprovalAsk) -> Standing | None:
        """See `permit.Desk`."""
        return await self._stands(Hold(ask))

    async def withdraw(self, key: ApprovalKey) -> None:
        """See `permit.Desk`."""
        await self._approve(Withdraw(key))

    async def await_approval(self, approval: str, seconds: float) -> Standing | None:
        """See `permit.Desk`."""
        return await self._stands(AwaitApproval(approval, seconds))

    async def claim(self, approval: str, request_id: str) -> Standing | None:
        """See `permit.Desk`."""
        return await self._stands(Claim(approval, request_id))

    def unclaim(self, approval: str, request_id: str, *, sent: bool) -> None:
        """See `permit.Desk`."""
        self._tell(self._approve(Unclaim(approval, request_id, sent)))

    async def show_approval(self, approval: str, owner: tuple[str, str]) -> Mapping[str, object] | None:
        """See `pipeline.Supervisor`."""
        shown = await self._approve(ShowApproval(approval, *owner))
        assert isinstance(shown, Done)
        return shown.value

    async def _stands(self, message: AnyMessage) -> Standing | None:
        stands = await asyncio.shield(asyncio.ensure_future(self._approve(message)))
        assert isinstance(stands, Stands)
        return stands.standing

    async def _approve(self, message: AnyMessage) -> AnyMessage | None:
        return await self.approving.handle(message, "worker-1", self._gone)

    def _tell(self, work: Coroutine[Any, Any, object]) -> None:
        task: asyncio.Future[object] = asyncio.ensure_future(work)
        self._told.add(task)
        task.add_done_callback(self._told.discard)

    async def enter(self, run: RunRef, kind: str) -> Entered:
        """See `runs.Entrance`."""
        return await self._register.enter("worker-1", run, kind)

    def leave(self, ticket: int) -> None:
        """See `runs.Entrance`."""
        self._register.leave(ticket)

    async def fetch_keys(self, issuer: str) -> None:
        """See `identity.Authority`: there is nobody to fetch from."""

    async def first_use(self, proof: bytes, until: float) -> bool:
        """See `identity.Authority`."""
        return bool(proof) and until > 0

    async def grant(self, claims: bytes, child: str, run: RunRef | None) -> str:
        """See `token_endpoint.Granter`: here is nobody who signs."""
        raise Refusal("store_unavailable", f"no token for {child}", detail=f"{claims!r} {run}")

    async def show_run(self, key: RunKey) -> Mapping[str, object] | None:
        """See `pipeline.Supervisor`."""
        facts = await self._register.facts(key)
        return {"steps": facts.steps} if facts else None

    async def show_call(self, request_id: str, owner: tuple[str, str]) -> Mapping[str, object] | None:
        """See `pipeline.Supervisor`."""
        return await self._store.read(lambda conn: find_call(conn, request_id, owner, SystemClock().now()))

    async def post(self, batch: Batch) -> None:
        """What a worker's book submits."""
        posted = await self._poster.post(batch)
        for delta in posted.deltas:
            self._register.settled(delta)


@dataclass
class Stage:
    """The pipeline and everything around it."""

    folder: Path
    gateway: Gateway
    upstream: ScriptedUpstream
    world: World
    store: Store
    register: Register
    book: Book
    pipeline: Pipeline
    counts: Counts
    supervising: Supervising
    attester: Attester

    def door(self, path: str, body: object = None, *, method: str = "POST", **headers: str) -> Door:
        """A request of the agent `procurement`."""
        fields = CIMultiDict(headers)
        fields.setdefault("authorization", f"Bearer {self.gateway.token()}")
        fields.setdefault("content-type", "application/json")
        path, _, query = path.partition("?")
        sent = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return Door(Head(method, path, query, fields, "127.0.0.1"), sent)

    def chat(self, *, stream: bool = False, run: str = "", model: str = "m") -> Door:
        """A chat completion."""
        messages = [{"role": "user", "content": "hello"}]
        path = f"/r/{run}/v1/chat/completions" if run else "/v1/chat/completions"
        return self.door(path, {"model": model, "messages": messages, "stream": stream})

    def pay(self, *, run: str = "") -> Door:
        """A tool call with an effect."""
        return self.door(f"/r/{run}/tools/bank/pay/A1" if run else "/tools/bank/pay/A1", {"amount": 1})

    def wire(self, order: str, *, amount: int = 1, **headers: str) -> Door:
        """A guarded tool call, with the attestation that it needs."""
        attested = self.attester.attest(subject={"order": order}, run="r1")
        path = f"/r/r1/tools/bank/wire/{order}"
        return self.door(path, {"amount": amount}, **{"workflow-attestation": attested, **headers})

    async def rows(self) -> list[dict[str, Any]]:
        """The ledger, once all that was taken is committed."""
        for _ in range(3):
            await self.book.flush()
            await asyncio.sleep(0)
        with contextlib.closing(sqlite3.connect(self.store.path)) as conn:
            conn.row_factory = sqlite3.Row
            return [dict(row) for row in conn.execute("SELECT * FROM ledger ORDER BY seq")]

    def committed(self, request_id: str) -> bool:
        """Whether a call's row is in the store at this moment."""
        with contextlib.closing(sqlite3.connect(self.store.path)) as conn:
            query = "SELECT count(*) FROM ledger WHERE request_id = ?"
            return bool(conn.execute(query, (request_id,)).fetchone()[0])

    def written_down(self, request_id: str) -> bool:
        """Whether a call's row is in a recovery file, or committed already, at this moment."""
        files = [file.read_bytes() for file in (self.folder / "recovery").iterdir()]
        return any(request_id.encode() in data for data in files) or self.committed(request_id)

    @property
    def reserved(self) -> int:
        """Steps of runs that are reserved and neither settled nor given back."""
        return len(self.register._tickets)

    def idle(self) -> bool:
        """Whether nothing is counted as under way."""
        return (self.pipeline.inflight, self.world.calls, len(self.pipeline.flights.under_way)) == (0, 0, 0)


@contextlib.asynccontextmanager
async def on_stage(
    folder: Path, *scripts: Script | Callable[[Received], Script], guard: str = ""
) -> AsyncIterator[Stage]:
    """Everything set up; the upstream answers by `scripts`. Provider `main` comes first, `spare` is its stand-in."""
    async with ScriptedUpstream(list(scripts)) as upstream:
        attester = Attester()
        gateway = Gateway(folder, _config(upstream.url), {"all.yaml": ALLOW_ALL, "guard.yaml": guard or GUARD})
        gateway.write()
        (folder / "attester.json").write_bytes(attester.jwks())
        sources = DiskSources()
        config = load(folder / "config.yaml", sources)
        built = prepare(config, sources)
        world = build_world(config, built, sources, None)
        store = await Store.open(folder / "passgate.db")
        register = Register(Runs(store), RunLimits, SystemClock())
        supervising = Supervising(
            store, register, Poster(store), InForce(Read(config, built.policy.image, 0), sources, SystemClock())
        )
        (folder / "recovery").mkdir()
        book = Book(folder / "recovery", "worker-1", supervising.post, SystemClock())
        book.start()
        counts = Counts()
        flights = Flights(StopList(SystemClock()))
        flights.adopt(1, math.inf, [])
        pipeline = Pipeline(book, supervising, flights, counts, Log("worker-1", level="error"))
        pipeline.adopt(world, Log("worker-1", level="error"))
        try:
            parts = store, register, book, pipeline, counts, supervising
            yield Stage(folder, gateway, upstream, world, *parts, attester)
        finally:
            await world.outbound.close()
            with contextlib.suppress(StoreUnavailable):
                await book.close()
            await store.close()


def _config(url: str) -> dict[str, Any]:
    provider = {"dialects": ["openai"], "base_url": f"{url}/v1", "allow_internal": True}
    return {
        "providers": {name: {**provider, "base_url": f"{url}/{name}"} for name in ("main", "spare")},
        "models": {
            "m": {"targets": [{"provider": "main"}]},
            "searching": {"targets": [{"provider": "main"}], "hosted_tools": {"web_search": "allow"}},
            "pair": {"targets": [{"provider": "main"}, {"provider": "spare"}]},
        },
        "prices": {f"{name}/*": [{"input": "1.00", "output": "2.00"}] for name in ("main", "spare")},
        "tools": {
            "bank": {
                "kind": "http",
                "base_url": f"{url}/bank",
                "allow_internal": True,
                "operations": {
                    "pay": {"method": "POST", "path": "/pay/{order}", "cost": "0.01 USD"},
                    "wire": {"method": "POST", "path": "/wire/{order}", "cost": "0.01 USD"},
                },
            }
        },
        "attesters": [{"name": "fraud-service", "keys": {"file": "attester.json"}, "may_attest": ["fraud-check"]}],
        "operators": [{"id": "desk", "token_sha256": "0" * 64, "roles": ["approver"], "groups": ["finance"]}],
    }


GUARD = """version: 1
policy: guard
rules:
  - id: fraud-check-first
    effect: require
    match: {tools: [bank.wire]}
    requires: [{attestation: {step: fraud-check, max_age: 5m, consume: per_subject, bind: {order: args.order}}}]
    approve: {when: args.amount > 100, approvers: ["group:finance"]}
observe:
  - {step: wired, tool: bank.wire, outcome: 'result.paid ? "passed" : "failed"', subject: {order: args.order}}
"""
"""`bank.wire` is for orders that were checked, once each; above 100 with a person's word."""


async def cancelled_at(work: Coroutine[Any, Any, None], point: int) -> bool:
    """Run `work` in a task that is cancelled at its `point`-th suspension; whether it came so far."""

    def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    try:
        return await disturbed_at(work, point, cancel)
    except asyncio.CancelledError:
        return True


async def disturbed_at(work: Coroutine[Any, Any, None], point: int, disturb: Callable[[], object]) -> bool:
    """Run `work` in a task that `disturb` is called in at its `point`-th suspension; whether it came so far."""

    async def counting() -> int:
        return await _driven(work, point, disturb)

    return await asyncio.create_task(counting()) >= point


@types.coroutine
def _driven(work: Awaitable[None], point: int, disturb: Callable[[], object]) -> Generator[Any, Any, int]:
    """Pass on what `work` waits for, and call `disturb` as it begins to wait for the `point`-th time."""
    inner = work.__await__()
    waits = 0
    reply: BaseException | None = None
    while True:
        try:
            waited_for = inner.throw(reply) if reply is not None else inner.send(None)
        except StopIteration:
            return waits
        waits += 1
        if waits == point:
            disturb()
        reply = None
        try:
            yield waited_for
        except BaseException as error:  # noqa: BLE001 - cancellation above all: `work` is who handles it
            reply = error


PAID = answer(b'{"paid": true}', ("Content-Type", "application/json"))


def serves(received: Received) -> Script:
    """What upstreams answer to `ADMITTED`: each part after a moment, so that there is something to interrupt."""
    if "/bank/" in received.line:
        return [0.005, PAID]
    if b'"stream": true' in received.body:
        return [0.005, *(step for frame in streamed("a", "b", "c") for step in (frame, 0.005))]
    return [0.005, *completion("ok")]


ADMITTED: dict[str, Callable[[Stage], Door]] = {
    "chat": lambda stage: stage.chat(),
    "stream": lambda stage: stage.chat(stream=True),
    "tool": lambda stage: stage.pay(),
    "chat in a run": lambda stage: stage.chat(run="r1"),
    "stream in a run": lambda stage: stage.chat(stream=True, run="r1"),
    "tool in a run": lambda stage: stage.pay(run="r1"),
    "guarded tool": lambda stage: stage.wire(uuid.uuid4().hex),
    "model list": lambda stage: stage.door("/v1/models", method="GET"),
}
"""One call of each kind that is let in."""
