"""The supervisor: it owns what is shared, and has the workers do the serving.

Start: lock and open the store, post what dead workers left, start the built-in demo where the
config names it, bind, open the metrics and admin listeners, start the workers. Stop (SIGTERM,
SIGINT, at any time): not ready, no new connections, what runs finishes within `drain`. Reload
(SIGHUP, `POST /admin/v1/reload`): a whole new state in all workers, or the old one and the reasons.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

from gateway import __version__
from gateway.config import Config
from gateway.core.clock import SystemClock
from gateway.core.sources import DiskSources, KeptSources
from gateway.demo import DemoServer
from gateway.identity.delegation import GATEWAY
from gateway.identity.issue import IssueError
from gateway.identity.own_keys import OwnKeys
from gateway.identity.replay import ReplayGuard
from gateway.ledger import Posted
from gateway.metering.prices import PriceBook
from gateway.process.approving import Approving
from gateway.process.attesting import Asked, Attesting
from gateway.process.auditing import Auditing
from gateway.process.bookkeeping import Bookkeeping
from gateway.process.channel import Answer, ChannelError
from gateway.process.doors import Doors
from gateway.process.granting import Granting
from gateway.process.in_force import InForce
from gateway.process.listening import StartError, bind_listener, listener_url
from gateway.process.messages import (
    AnyMessage,
    Decided,
    Done,
    Enter,
    EnteredRun,
    FetchKeys,
    FirstUse,
    Fresh,
    Grant,
    Hello,
    Keys,
    Leave,
    Post,
    Prepare,
    ShowCall,
    ShowRun,
    Told,
    Welcome,
)
from gateway.process.overview import Overview, own
from gateway.process.pool import WorkerPool, WorkerProcess
from gateway.process.reading import Read
from gateway.process.stopping import Stopping
from gateway.process.trust import Trust
from gateway.runs import Register
from gateway.state import Runs, StoreRefused
from gateway.state.sqlite import Store
from gateway.telemetry.logs import Log
from gateway.telemetry.metrics import Registry
from gateway.web.admin import AdminCall, Route, admin_app
from gateway.web.hosts import Hosts
from gateway.web.metrics import metrics_app


class Supervisor:
    """The one object of the supervising process."""

    def __init__(self, taken: Read, sources: DiskSources, prices: PriceBook) -> None:
        """Take a configuration that was read without mistakes; nothing runs before `run`."""
        self._prices = prices
        config = taken.config
        self.clock = SystemClock()
        self.now = InForce(taken, sources, self.clock)
        self._secret = secrets.token_bytes(32)  # of this start: what it signs holds for as long as the gateway runs
        self._replays = ReplayGuard(self.clock)
        self._draining = False
        self._failed = False  # a part of the supervisor itself ended
        self._urls: dict[str, str] = {}
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self.registry = Registry(config.settings.telemetry.max_series)
        self._demo: DemoServer | None = None
        count = config.settings.worker_count
        self.pool = WorkerPool(count, self.recovery, self._heard, self._reaped, lambda: self.log)
        self.trust = Trust(lambda keys: self.pool.tell_all(Keys(dict(keys))), lambda: self.log, self.clock)
        self.doors = Doors(config.settings.listen, sources, lambda: self.log, self.clock)
        self.overview: Overview
        self._store: Store
        self._books: Bookkeeping
        self._register: Register
        self._granting: Granting
        self._approving: Approving
        self._attesting: Attesting
        self._auditing: Auditing
        self._stopping: Stopping
        self._background: set[asyncio.Task[None]] = set()

    # -- life ---------------------------------------------------------------------------------

    async def run(self, ready: Callable[[Supervisor], None] = lambda _: None) -> int:
        """Serve until told to stop; returns the exit code. `ready` is called once everything listens."""
        self._on_signals()
        async with contextlib.AsyncExitStack() as stack:
            await self._open_state(stack)
            await self._start_demo(stack)
            stack.push_async_callback(self.trust.close)
            await self.trust.start(self.config.settings.identity, self.config.settings.outbound)
            agents = self.config.settings.listen.agents
            listener = bind_listener("listen.agents.bind", agents.bind)
            stack.callback(listener.close)
            self._urls["agents"] = listener_url(listener, tls=agents.tls is not None)
            parts = self.pool, self._store, self.trust, self.doors, self._auditing
            self.overview = Overview(self.now, *parts, lambda: self._draining)
            self.overview.describe(self.registry, self._prices, self.clock)
            await self._open_doors(stack)
            if await self._start_workers(listener):
                await self.now.revisions.take(self.now.revision)
                tending = (self.trust.tend(), self._granting.tend(), self._approving.tend(), self._auditing.tend())
                for work in (self._reload_on_signal(), self.now.watch(self._change), self._books.tend(), *tending):
                    self._spawn(work)
                self.log.info("ready", version=__version__, workers=self.pool.count, **self._urls)
                self.log.flush()
                ready(self)
            await self._stop.wait()
            self._draining = True
            listener.close()
            self.log.info("draining", seconds=self.config.settings.drain)
            self.log.flush()
            for task in self._background:
                task.cancel()
            await self.pool.stop(self.config.settings.drain)
            await self._books.post_leftovers()
        self.log.info("stopped")
        self.log.flush()
        return 1 if self._failed else 0

    async def _start_workers(self, listener: socket.socket) -> bool:
        """Start the workers; false where the gateway was told to stop meanwhile. Raises `StartError`."""
        starting = asyncio.create_task(self.pool.start(listener, self.now.offer()))
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({starting, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not starting.done():
            starting.cancel()
            return False
        try:
            starting.result()
        except ChannelError as error:
            await self.pool.stop(0)
            raise StartError(f"{error}; what it says of itself stands above.") from error
        return True

    async def _open_state(self, stack: contextlib.AsyncExitStack) -> None:
        try:
            self._store = await Store.open(self.database)
        except StoreRefused as error:
            raise StartError(str(error)) from error
        stack.push_async_callback(self._store.close)
        await self.now.revisions.open(self._store)
        if problems := self.now.revisions.problems(self.now.revision):
            raise StartError(f"{problems[0]}.")
        parts = self._store, self.pool, self.registry, self.now, self.clock
        self._books = Bookkeeping(*parts, recovery=self.recovery, posted=self._posted)
        self._stopping = await stack.enter_async_context(Stopping(self._store, self.pool, self.now, self.clock))
        self._register = Register(Runs(self._store), lambda: self.config.settings.runs.run_limits, self.clock)
        self._granting = self._open_keys()
        self._auditing = await stack.enter_async_context(Auditing(self._store, self.now, self.clock))
        self._approving = Approving(self._store, self.registry, self.now, self.clock)
        self._attesting = Attesting(self._store, self.registry, lambda: self.log, self.clock)
        try:
            self.recovery.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartError(f"{self.recovery}: {error.strerror}; workers must be able to write there.") from error
        await self._books.post_leftovers()

    def _open_keys(self) -> Granting:
        folder = self.config.settings.state.keys_dir
        try:
            keys = OwnKeys.open(folder, self.clock.now())
        except IssueError as error:
            raise StartError(str(error)) from error
        except OSError as error:
            raise StartError(f"{folder}: {error.strerror or error}; the gateway keeps its own keys there.") from error
        publish = partial(self.trust.publish, GATEWAY)
        return Granting(keys, self._register, publish, lambda: self.log, self.clock)

    async def _start_demo(self, stack: contextlib.AsyncExitStack) -> None:
        if self.config.uses_demo:
            effects = self.state_dir / "demo" / "effects.ndjson"
            try:
                self._demo = await DemoServer.start(effects)
            except OSError as error:
                raise StartError(f"builtin:demo cannot start with {effects}: {error.strerror or error}.") from error
            self.now.demo_url = self._demo.url
            stack.push_async_callback(self._demo.stop)

    async def _open_doors(self, stack: contextlib.AsyncExitStack) -> None:
        settings = self.config.settings
        try:
            self.now.admit_operators(self.trust, self._stopping.find)
        except (OSError, ValueError) as error:
            raise StartError(str(error)) from error
        admin = settings.listen.admin

        def failed(what: str, path: str) -> None:
            self.log.error("internal_error", error=what, path=path)

        hosts = Hosts(admin.hosts, admin.bind.host)
        apps = {
            "metrics": metrics_app(self._scrape, self.overview.readiness, on_failure=failed),
            "admin": admin_app(self._admin_routes(), lambda: self.now.operators, hosts, on_failure=failed),
        }
        stack.push_async_callback(self.doors.close)
        for name, app in apps.items():
            self._urls[name] = await self.doors.open(name, app)

    def _admin_routes(self) -> list[Route]:
        async def status(_: AdminCall) -> object:
            return self.overview.status()

        async def reload(call: AdminCall) -> object:
            self.log.info("reload_asked", operator=call.operator.id)
            problems = await self.now.reload(self._change)
            return {"reloaded": not problems, "problems": problems, "generation": self.now.generation}

        return [
            Route("GET", "/admin/v1/status", "viewer", status),
            Route("POST", "/admin/v1/reload", "operator", reload),
            *self._granting.routes(),
            *self._stopping.routes(),
            *self._approving.routes(),
        ]

    def _on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)

    async def _reload_on_signal(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()  # signals that come during a reload make one more of it
            await self.now.reload(self._change)

    async def _change(self, config: Config, offer: Prepare) -> None:
        """Give all workers another configuration, once the keys of its issuers are there; raises `ChannelError`."""
        sources = KeptSources(offer.files, offer.dirs, offer.variables)
        async with self.trust.change(config.settings.identity, config.settings.outbound), self.doors.change(sources):
            await self.pool.change(offer)

    # -- what workers ask ---------------------------------------------------------------------------

    def _heard(self, worker: WorkerProcess, message: AnyMessage) -> Answer:
        """The decision log is asked for every call, and answers at once; whatever else is asked may wait."""
        if isinstance(message, Decided):
            self._auditing.write(message.records)
            return None
        return self._handle(worker, message)

    async def _handle(self, worker: WorkerProcess, message: AnyMessage) -> AnyMessage | None:
        match message:
            case Hello():
                return Welcome(self._secret, self.trust.keys, self._stopping.everything)
            case FetchKeys(issuer=issuer):
                await self.trust.fetch(issuer)
            case FirstUse(proof=proof, until=until):
                return Fresh(self._replays.first_use(proof, until))
            case Post(batch=batch):
                await self._books.post(batch)
            case Told():
                self._absorb(worker, message)
            case Enter(run=run, kind=kind):
                return EnteredRun(await self._register.enter(worker.name, run, kind))
            case Leave(ticket=ticket):
                self._register.leave(ticket)
            case ShowRun() | ShowCall():
                return Done(await own(message, self._register, self._store, self.clock.now()))
            case _:
                return await self._at_its_desk(worker, message)
        return None

    async def _at_its_desk(self, worker: WorkerProcess, message: AnyMessage) -> AnyMessage | None:
        if isinstance(message, Grant):
            return await self._granting.grant(message)
        if isinstance(message, Asked):
            return await self._attesting.handle(message)
        return await self._approving.handle(message, worker.name, worker.channel.closed)

    def _posted(self, posted: Posted) -> None:
        """Something is committed."""
        for delta in posted.deltas:
            self._register.settled(delta)
        self._approving.posted(posted.outcomes)
        self._attesting.observed(posted.attestations)

    def _absorb(self, worker: WorkerProcess, told: Told) -> None:
        self.registry.absorb(told.counts)
        worker.inflight, worker.queued, worker.trouble = told.inflight, told.queued, told.trouble

    async def _reaped(self, name: str) -> None:
        """A worker is dead: post what its recovery file holds, then give back what it had reserved."""
        await self._books.post_leftovers()
        self._register.worker_died(name)
        await self._approving.worker_died(name)
        if not self._draining:
            self.registry.add("worker_restarts")

    async def _scrape(self) -> bytes:
        await self.pool.flush()
        return self.registry.render()

    # -- small things -------------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.now.config

    @property
    def log(self) -> Log:
        """The log, as the configuration in force wants it."""
        return self.now.log

    @property
    def database(self) -> Path:
        """Where the durable store is."""
        return self.config.settings.state.durable

    @property
    def state_dir(self) -> Path:
        """The folder of the durable store."""
        return self.database.parent

    @property
    def recovery(self) -> Path:
        """Where workers keep their recovery files."""
        return self.state_dir / "recovery"

    @property
    def urls(self) -> dict[str, str]:
        """Where the listeners `agents`, `metrics` and `admin` are reached on this machine."""
        return dict(self._urls)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        """Have something done for as long as the gateway serves."""

        def ended(task: asyncio.Task[None]) -> None:
            self._background.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                # Whatever it tended (keys that grow too old, the store) nobody tends now: better a gateway that
                # its service manager starts again than one that goes on without.
                self.log.error("internal_error", error=f"{type(error).__name__}: {error}")
                self._failed = True
                self._stop.set()

        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(ended)
