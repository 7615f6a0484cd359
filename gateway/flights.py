"""Calls in flight, and what stops them.

From its identification to its end each call is one flight. A stop that is heard of before ends it at
its entrance; one that comes meanwhile does this:

1. What was not sent is never sent.
2. An answer of a model is broken off at its provider at once, and settled as what it was until then.
3. A tool that has the request brings its answer to an end, which is recorded: breaking it off would
   not take back what it does.
4. Settlement is never touched.
5. The agent is refused at the call's next step (`agent_stopped`), whichever that is; who waits for an approval
   waits no longer. A reply that has begun may end with the error event for another 100 ms, then it is cut.

While the list of stops is too old nobody is let in.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar

from gateway.core.call import Exchange
from gateway.core.clock import rfc3339
from gateway.core.errors import Refusal
from gateway.core.principal import Principal, StopKey
from gateway.core.stop import Stop, run_key
from gateway.identity.stops import OLDEST, StopList
from gateway.outbound import Sending

_T = TypeVar("_T")
_PATIENCE: Final = 0.3
"""Seconds that a call waits for news where the list is too old."""
_LAST_EVENT: Final = 0.1
"""Seconds in which the end of a reply that has begun must have left."""


class Flights:
    """All flights of one worker."""

    def __init__(self, stops: StopList) -> None:
        """`stops` is changed through this object alone, so that flights hear of it."""
        self.stops = stops
        self.under_way: set[Flight] = set()
        self._news = asyncio.Event()

    def adopt(self, version: int, at: float, stops: Sequence[Stop]) -> None:
        """See `StopList`; nobody flies yet."""
        self.stops.adopt(version, at, stops)

    def change(self, version: int, at: float, added: Sequence[Stop], removed: Sequence[StopKey]) -> None:
        """See `StopList`; whoever flies and is stopped by it knows when this returns."""
        self.stops.change(version, at, added, removed)
        if added:
            for flight in self.under_way:
                flight.look()
        self._tell()

    def heard(self, version: int, at: float) -> None:
        """See `StopList`."""
        self.stops.heard(version, at)
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def news(self) -> None:
        """Wait until the list is young enough; raises `Refusal` (`store_unavailable`) where that takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while not self.stops.fresh():
                    await self._news.wait()
        if not self.stops.fresh():
            raise Refusal("store_unavailable", f"the stop list is older than {OLDEST:g} s; retry shortly")


class Flight:
    """One call: `async with Flight(…)` lets it in; what it rests on is looked up again with each change.

    Raises `Refusal` (`agent_stopped`, `store_unavailable`) on entering.
    """

    __slots__ = ("_all", "_exchange", "_finishes", "_keys", "_out", "_principal", "_stop", "_stopped")

    def __init__(self, flights: Flights, principal: Principal, exchange: Exchange) -> None:
        self._all = flights
        self._principal = principal
        self._keys = principal.stops
        self._exchange = exchange
        self._out: Sending | None = None
        self._finishes = False
        self._stop: Stop | None = None
        self._stopped: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        flights = self._all
        stops = flights.stops
        if not stops.fresh():
            await flights.news()
        self._stop = stops.find(self._keys)
        self.check()
        flights.under_way.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all.under_way.discard(self)

    @property
    def stopped(self) -> Refusal | None:
        """What the agent is told, once it is stopped."""
        return None if self._stop is None else _refusal(self._stop, self._principal.agent.id)

    def check(self) -> None:
        """One step more, or none: raises `Refusal` (`agent_stopped`)."""
        if self._stop is not None:
            raise _refusal(self._stop, self._principal.agent.id)

    def enter_run(self, line: Sequence[str]) -> None:
        """The call is in a run: `line` has its id and those of its parents. Raises `Refusal` (`agent_stopped`)."""
        if line:
            self._keys = self._keys.union(*((run_key(run), run_key(run, self._principal.agent.id)) for run in line))
            self._stop = self._stop or self._all.stops.find(self._keys)
        self.check()

    async def unless_stopped(self, work: Awaitable[_T]) -> _T:
        """Wait for something that takes its time; raises `Refusal` (`agent_stopped`) as soon as it is in vain."""
        self.check()
        waiting = asyncio.ensure_future(work)
        self._stopped = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait((waiting, self._stopped), return_when=asyncio.FIRST_COMPLETED)
            self.check()
            return await waiting
        finally:
            self._stopped = None
            waiting.cancel()

    def sends(self, out: Sending, *, finishes: bool) -> None:
        """The next attempt; one that `finishes` is not broken off once it is sent."""
        self._out, self._finishes = out, finishes

    def look(self) -> None:
        """The list has changed."""
        if self._stop is not None:
            return
        stop = self._stop = self._all.stops.find(self._keys)
        if stop is None:
            return
        if self._stopped is not None:
            self._stopped.set_result(None)
        out = self._out
        if out is not None and not (self._finishes and out.sent):
            out.abort(f"{stop.key.kind} {stop.key.id} was stopped")
        self._exchange.cut(after=_LAST_EVENT)


def _refusal(stop: Stop, agent: str) -> Refusal:
    """What is stopped and since when; why is for the log."""
    kind, name = stop.key
    what = {
        "agent": f"agent {name}",
        "issuer": f"issuer {name}, which vouches for agent {agent},",
        "token": f"this token of agent {agent}, or one that it was derived from,",
        "run": f"run {name.rpartition('/')[2]}",
    }[kind]
    since = rfc3339(stop.since)
    return Refusal(
        "agent_stopped",
        f"{what} was stopped at {since}; an operator can start it again",
        detail=f"{kind} {name} stopped by {stop.by}: {stop.reason}",
        fields={"stopped": kind, "since": since},
    )
