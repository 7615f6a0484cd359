"""Stops and starts agents, issuers, tokens and runs: the durable book of it, and its way to every worker.

1. A stop is durable first, then told. A store that takes no writes lets no call in either.
2. Every worker that has a channel is told, so that one which is starting has the list before it serves.
3. A stop is in force once each worker that serves has acknowledged it. One that hangs is not waited for:
   its list grows too old by itself, since the clock of the assurances is ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Final, Self

from gateway.core.clock import Clock, rfc3339
from gateway.core.errors import Refusal
from gateway.core.principal import StopKey
from gateway.core.stop import Stop
from gateway.process.channel import ChannelError
from gateway.process.in_force import InForce
from gateway.process.messages import (
    Beat,
    Done,
    Stops,
)
from gateway.process.pool import WorkerPool, WorkerProcess
from gateway.process.roster import KINDS, list_agents, list_stops, reason_given, show_agent, stoppable
from gateway.state import Durable, StoreUnavailable
from gateway.state.stops import Action, in_force, record
from gateway.web.admin import AdminCall, Route

_BEAT: Final = 0.25
"""Seconds between two assurances that the list still holds."""
_ACKNOWLEDGED: Final = 1.0
"""Seconds in which a worker has to say that it knows."""
_MOST: Final = 100_000
"""Entries of the list, which every worker holds."""


class Stopping:
    """The stop list, while it is entered. Used from the supervisor's event loop."""

    def __init__(self, store: Durable, pool: WorkerPool, now: InForce, clock: Clock) -> None:
        """`store` keeps the list, the workers of `pool` hear of it; ids are those of the configuration `now`."""
        self._store = store
        self._pool = pool
        self._now = now
        self._clock = clock
        self._stops: dict[StopKey, Stop] = {}
        self._version = 1
        self._changing = asyncio.Lock()
        self._beating: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._stops = await self._store.read(in_force)
        self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._beating.cancel()

    @property
    def everything(self) -> Stops:
        """The whole list, for a worker that starts."""
        return self._message(list(self._stops.values()), [])

    def find(self, keys: Iterable[StopKey]) -> Stop | None:
        """An entry of the list that is among `keys`, if any is."""
        return next((self._stops[key] for key in keys if key in self._stops), None)

    def _message(self, added: list[Stop], removed: list[StopKey]) -> Stops:
        return Stops(self._version, self._clock.monotonic(), added, removed)

    async def _beat(self) -> None:
        while True:
            beat = Beat(self._version, self._clock.monotonic())
            for worker in self._pool.workers.values():
                if not worker.channel.congested:
                    worker.channel.tell(beat)
            await asyncio.sleep(_BEAT)

    # -- stop and start

    async def act(self, action: Action, key: StopKey, by: str, reason: str) -> dict[str, object]:
        """Stop or start; gives what holds now, and whether all workers know. Raises `Refusal`."""
        began = self._clock.monotonic()
        stop = Stop(key, self._clock.now(), by, reason)
        async with self._changing:
            known = self._stops.get(key)
            changed = (known is None) == (action == "stop")
            message = self._message([], [])
            if changed:
                await self._write(action, stop)
                message = self._changed(action, stop)
            # Sent again where nothing changed: whoever acknowledges that knows of all that came before.
            asking = [asyncio.create_task(self._acknowledged(worker, message)) for worker in self._told(message)]
        now = known if known is not None and not changed else stop
        log = self._now.log
        log.info("stop_list", action=action, kind=key.kind, id=key.id, operator=by, reason=reason, changed=changed)
        late = sorted(filter(None, await asyncio.gather(*asking)))
        if late:
            log.error("stop_not_acknowledged", kind=key.kind, id=key.id, workers=late)
        log.flush()
        answer: dict[str, object] = {"kind": key.kind, "id": key.id, "stopped": action == "stop", "changed": changed}
        if action == "stop" or changed:
            answer |= {"since": rfc3339(now.since), "by": now.by, "reason": now.reason}
        took = round((self._clock.monotonic() - began) * 1000, 1)
        return answer | {"effective": not late, "workers": len(asking), "late": late, "ms": took}

    async def _write(self, action: Action, stop: Stop) -> None:
        if action == "stop" and len(self._stops) >= _MOST:
            raise Refusal("request_malformed", f"{_MOST} things are stopped already; start some of them first")
        try:
            await asyncio.wrap_future(self._store.submit(lambda conn: record(conn, action, stop)))
        except StoreUnavailable as error:
            sentence = "the durable store takes no writes, so nothing was changed (and it lets no new call in either)"
            raise Refusal("store_unavailable", sentence, detail=str(error)) from error

    def _changed(self, action: Action, stop: Stop) -> Stops:
        self._version += 1
        if action == "stop":
            self._stops[stop.key] = stop
            return self._message([stop], [])
        del self._stops[stop.key]
        return self._message([], [stop.key])

    def _told(self, message: Stops) -> list[WorkerProcess]:
        """The workers that serve, which must acknowledge; those that do not yet are told and not waited for."""
        workers = list(self._pool.workers.values())
        for worker in workers:
            if not worker.serving:
                worker.channel.tell(message)
        return [worker for worker in workers if worker.serving]

    async def _acknowledged(self, worker: WorkerProcess, message: Stops) -> str:
        """The worker's name where it serves on without having said that it knows."""
        try:
            async with asyncio.timeout(_ACKNOWLEDGED):
                await worker.channel.request(message, Done)
        except (ChannelError, TimeoutError):
            return worker.name if worker.serving else ""
        return ""

    # -- the admin API

    def routes(self) -> list[Route]:
        """What the admin listener serves of it."""

        async def agents(_: AdminCall) -> object:
            settings = self._now.config.settings
            return await self._store.read(lambda conn: list_agents(conn, settings, self._stops))

        async def agent(call: AdminCall) -> object:
            settings = self._now.config.settings
            return await self._store.read(lambda conn: show_agent(conn, settings, self._stops, call.variables["id"]))

        async def stops(_: AdminCall) -> object:
            return await self._store.read(lambda conn: list_stops(conn, self._stops))

        def acting(kind: str, action: Action) -> Callable[[AdminCall], Awaitable[object]]:
            async def act(call: AdminCall) -> object:
                reason, agent = reason_given(call.body, ("reason", "agent") if kind == "run" else ("reason",))
                key = stoppable(self._now.config.settings, kind, call.variables["id"], agent, self._stops)
                return await self.act(action, key, call.operator.id, reason)

            return act

        actions: tuple[Action, ...] = ("stop", "start")
        return [
            Route("GET", "/admin/v1/agents", "viewer", agents),
            Route("GET", "/admin/v1/agents/{id}", "viewer", agent),
            Route("GET", "/admin/v1/stops", "viewer", stops),
            *(
                Route("POST", f"/admin/v1/{kind}s/{{id}}/{action}", "operator", acting(kind, action))
                for kind in KINDS
                for action in actions
            ),
        ]
