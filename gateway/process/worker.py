"""A worker: it serves the agents, and knows of the rest of the gateway only through its channel.

1. It serves nothing before the supervisor has committed a configuration.
2. It stops taking connections at once when the channel closes: without its supervisor it can
   neither settle runs nor hear of a stop.
3. What it has settled outside runs is in its recovery file before the last byte left.
4. Only the supervisor and the end of the channel make it leave. Signals that a terminal or a
   service manager sends to all processes alike are the supervisor's to act on: else a drain would
   be cut short.
5. It leaves no call unsettled: what is not done in time is broken off upstream, and billed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import uvloop

from gateway.build import Built, build_world, prepare
from gateway.config import Config, load
from gateway.core.clock import SystemClock
from gateway.core.sources import KeptSources
from gateway.flights import Flights
from gateway.identity.keys import KeyMistakes
from gateway.identity.stops import StopList
from gateway.ledger import Batch, Book
from gateway.pipeline import Pipeline
from gateway.process.channel import Channel, ChannelError
from gateway.process.messages import (
    AnyMessage,
    Beat,
    Commit,
    Done,
    Drain,
    Flush,
    Hello,
    Keys,
    Post,
    Prepare,
    Stops,
    StoreState,
    Told,
    Welcome,
)
from gateway.process.port import SupervisorPort
from gateway.telemetry.logs import Log
from gateway.telemetry.metrics import Counts
from gateway.web.agents import AgentsDoor
from gateway.web.hosts import Hosts
from gateway.web.tls import ServerTls
from gateway.world import World

_TELL_EVERY: Final = 0.25
"""Seconds between two reports of counts and gathered log lines."""
_ORPHAN_DRAIN: Final = 5.0
"""Seconds that calls in flight get when the supervisor is gone."""
_SETTLE: Final = 3.0
"""Seconds in which calls that were broken off are settled."""
_LOOK_EVERY: Final = 0.05
_FEW_RULES: Final = 1_000
"""Rules up to which a search for garbage takes some 30 ms."""
_SWITCH: Final = 0.0005
"""Seconds for which a thread that builds a configuration may keep the calls from going on."""


class Worker:
    """The one object of a worker process."""

    def __init__(self, name: str, recovery: Path, listener: socket.socket) -> None:
        """Nothing runs before `run`."""
        self.name = name
        self._recovery = recovery
        self._listener = listener
        self._counts = Counts()
        self._log = Log(name)
        self._prepared: dict[int, tuple[Config, World, ServerTls | None]] = {}
        self._world: World | None = None
        self._tls: ServerTls | None = None  # what the door ends TLS with
        self._stopping = asyncio.Event()
        self._drain = 0.0
        self._door: AgentsDoor | None = None
        self._channel: Channel
        self._book: Book
        self._pipeline: Pipeline
        self._flights = Flights(StopList(SystemClock()))
        self._learned = asyncio.Event()
        self._secret = b""
        self._keys: dict[str, bytes | None] = {}
        self._retired: dict[asyncio.Task[None], World] = {}  # reloaded away, with calls that began there

    async def run(self, sock: socket.socket) -> None:
        """Serve until told to drain, or until the supervisor is gone."""
        self._channel = await Channel.open(
            sock, self._handle, lambda error: self._log.error("internal_error", error=error)
        )
        self._book = Book(self._recovery, self.name, self._post, SystemClock())
        port = SupervisorPort(self._channel)
        self._pipeline = Pipeline(self._book, port, self._flights, self._counts, self._log)
        self._book.start()
        with contextlib.suppress(ChannelError):  # then the channel is closed, and there is nothing to serve
            await self._learn()
        telling = asyncio.create_task(self._tell_regularly())
        gone = asyncio.create_task(self._channel.closed.wait())
        stop = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({gone, stop}, return_when=asyncio.FIRST_COMPLETED)
        await self._finish(_ORPHAN_DRAIN if self._channel.closed.is_set() else self._drain)
        for task in (telling, gone, stop):
            task.cancel()
        with contextlib.suppress(ChannelError):
            await self._book.close()
        self._tell()
        self._log.flush()
        await self._channel.leave()

    async def _learn(self) -> None:
        """Ask for what does not come with a configuration, before the first one comes."""
        welcome = await self._channel.request(Hello(), Welcome)
        self._secret = welcome.secret
        self._keys = welcome.keys
        self._flights.adopt(welcome.stops.version, welcome.stops.at, welcome.stops.added)
        self._learned.set()

    async def _finish(self, seconds: float) -> None:
        """Let the calls under way end within `seconds`, then break them off; settled they are either way."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        if self._door is not None:
            await self._door.drain(seconds, hurry=self._break_off)
        await self._idle(until - loop.time())  # agents that hung up may have left calls that are still recorded
        self._break_off()
        await self._idle(_SETTLE)

    async def _idle(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._pipeline.inflight:  # noqa: ASYNC110 - an event would cost every call, this costs a stop
                    await asyncio.sleep(_LOOK_EVERY)

    def _break_off(self) -> None:
        for world in (self._world, *self._retired.values()):
            if world is not None:
                world.outbound.abort("the gateway was stopped")

    async def _handle(self, message: AnyMessage) -> AnyMessage | None:
        match message:
            case Prepare():
                await self._prepare(message)
            case Commit(generation=generation):
                await self._commit(generation)
            case Stops():
                await self._learned.wait()
                self._flights.change(message.version, message.at, message.added, message.removed)
            case Beat(version=version, at=at):
                self._flights.heard(version, at)
            case Keys(keys=keys):
                self._keys |= keys
                self._adopt(keys)
            case Flush():
                await self._book.flush()
                self._tell()  # not as the answer, which is lost where nobody waits for it any longer
            case StoreState(healthy=healthy):
                self._book.store_healthy = healthy
            case Drain(seconds=seconds):
                self._drain = seconds
                self._stopping.set()
            case _:
                raise ChannelError(f"a worker does not answer {type(message).__name__}")
        return None

    def _adopt(self, keys: dict[str, bytes | None]) -> None:
        """Bring keys into every configuration; retired ones have calls that may still wait for them."""
        for world in (self._world, *(world for _, world, _ in self._prepared.values()), *self._retired.values()):
            try:
                if world is not None:
                    world.identity.adopt(keys)
            except KeyMistakes as mistakes:
                self._log.error("keys_refused", error=str(mistakes))

    async def _prepare(self, message: Prepare) -> None:
        """Build a configuration beside the calls: ten thousand rules take half a second, which no call waits for."""
        await self._learned.wait()
        sources = KeptSources(message.files, message.dirs, message.variables)
        keys = dict(self._keys)

        def build() -> tuple[Config, Built]:
            config = load(Path(message.path), sources)
            return config, prepare(config, sources, keys=keys, secret=self._secret, policies=message.policies)

        with _unhurried():
            config, built = await asyncio.to_thread(build)
        world = build_world(config, built, sources, message.demo_url)
        world.identity.adopt({name: data for name, data in self._keys.items() if keys.get(name, ...) is not data})
        ends = config.settings.listen.agents.tls
        tls = ServerTls.read(ends, sources) if ends is not None else None
        self._prepared = {message.generation: (config, world, tls)}

    async def _commit(self, generation: int) -> None:
        config, world, tls = self._prepared.pop(generation)
        settings = config.settings
        log = settings.log
        self._log.flush()
        self._log = Log(self.name, level=log.level, text=log.format == "text", redact=world.redact)
        before = self._world
        self._world = world
        self._pipeline.adopt(world, self._log)
        if before is not None:
            task = asyncio.create_task(self._retire(before))
            self._retired[task] = before
            task.add_done_callback(self._retired.pop)
        if self._door is None:
            agents = settings.listen.agents
            self._door = AgentsDoor(
                self._pipeline.handle,
                hosts=Hosts(agents.hosts, agents.bind.host),
                body_limit=settings.limits.body,
                buffered_limit=settings.limits.buffered,
                trusted_proxies=settings.trusted_proxies,
                on_refusal=self._pipeline.refused_at_the_door,
                on_failure=lambda what, path: self._log.error("door_failed", error=what, path=path),
            )
            await self._door.start(self._listener, tls=tls.context() if tls is not None else None)
        else:
            self._door.body_limit = settings.limits.body
            self._door.buffered_limit = settings.limits.buffered
            self._door.trusted_proxies = settings.trusted_proxies
            if tls is not None and self._tls is not None and tls != self._tls:
                await self._door.renew(tls.context(), others=tls.client_ca != self._tls.client_ca)
        self._tls = tls

    async def _retire(self, world: World) -> None:
        """A configuration of before ends with its last call; what is left in circles is looked for where that is quick.

        Among very many rules the search would hold up whoever comes meanwhile, for longer than what it finds is worth.
        """
        await world.close_when_idle()
        if not self._pipeline.inflight and self._world is not None and self._world.policy.size <= _FEW_RULES:
            gc.unfreeze()
            gc.collect()
            gc.freeze()

    async def _post(self, batch: Batch) -> None:
        await self._channel.request(Post(batch), Done)

    async def _tell_regularly(self) -> None:
        while True:
            await asyncio.sleep(_TELL_EVERY)
            self._book.heal()
            if not self._channel.congested:
                self._tell()
            self._log.flush()

    def _tell(self) -> None:
        self._channel.tell(Told(self._counts.take(), self._pipeline.inflight, self._book.queued, self._book.trouble))


@contextlib.contextmanager
def _unhurried() -> Iterator[None]:
    """No garbage is looked for while much is built, which is none: that would hold up all calls, time and again.

    Nor is it looked at again later: what is there by then stays for as long as its configuration.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def main() -> None:
    """Run one worker; called by the supervisor with two inherited file descriptors."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    parser = argparse.ArgumentParser(prog="passgate worker")
    parser.add_argument("--name", required=True)
    parser.add_argument("--recovery", type=Path, required=True)
    parser.add_argument("--listener", type=int, required=True)
    parser.add_argument("--channel", type=int, required=True)
    given = parser.parse_args()
    listener = socket.socket(fileno=given.listener)
    channel = socket.socket(fileno=given.channel)

    async def run() -> None:
        await Worker(given.name, given.recovery, listener).run(channel)

    code = 0
    sys.setswitchinterval(_SWITCH)
    try:
        uvloop.run(run())
    except OSError as error:
        print(f"{given.name} cannot run: {error}", file=sys.stderr)
        code = 1
    sys.stderr.flush()
    os._exit(code)  # nothing is left to clean up; a stuck thread must not keep a drained worker


if __name__ == "__main__":
    main()
