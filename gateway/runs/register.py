"""The register of runs: durable counters, and the reservations of steps that are under way.

1. A run is opened on its first use; the opening is durable before the call goes on.
2. A step is reserved when a call enters and counted when it is settled; a refused call gives its
   reservation back and counts for nothing.
3. Limits count what is posted plus what is reserved, so that concurrent calls cannot slip past.
4. Only settlement changes durable counters, in the transaction of its ledger rows (`ledger/`).

The register knows nothing of workers but a name by which a dead one's reservations are given back.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from gateway.core.clock import Clock
from gateway.core.errors import Refusal
from gateway.core.run import RunDelta, RunFacts, RunKey, RunLimits, RunRef

_KEPT: Final = 10_000
"""Runs without a call under way that stay in memory; the rest is read again from the store."""
_DEEPEST: Final = 100
"""How deep runs nest at most, whatever the limits say: all parents of a run are looked at when one is stopped."""


@dataclass(frozen=True, slots=True)
class Entered:
    """A call is in its run: `facts` before it, its reserved `step`, and the `ticket` to settle or give back."""

    facts: RunFacts
    step: int
    ticket: int
    line: tuple[str, ...] = ()  # the ids of the run and its parents, nearest first


class Entrance(Protocol):
    """How a worker reaches the register."""

    async def enter(self, run: RunRef, kind: str) -> Entered:
        """Reserve a step; raises `Refusal` (`run_limit`, `store_unavailable`)."""
        ...

    def leave(self, ticket: int) -> None:
        """Give a reservation back: the call was refused or never sent."""
        ...


class RunStore(Protocol):
    """What the register asks of the durable store."""

    async def load_run(self, key: RunKey) -> tuple[RunFacts, int] | None:
        """A run's counters and the highest step number given out, or `None` when it was never opened."""
        ...

    async def open_run(self, facts: RunFacts) -> None:
        """Insert a run, and count it as a child of its parent; durable on return."""
        ...

    async def add_child(self, key: RunKey, child: str, most: int | None) -> bool | None:
        """Count a child agent of a run; whether it is new, `None` where there may be no more; durable on return."""
        ...


@dataclass(slots=True)
class _Run:
    facts: RunFacts
    last_step: int
    line: tuple[str, ...]
    reserved: dict[int, tuple[str, int]] = field(default_factory=dict)  # ticket -> (kind, step)

    @property
    def tool_calls_reserved(self) -> int:
        return sum(kind == "tool" for kind, _ in self.reserved.values())


class Register:
    """All runs of this gateway; owned by the supervisor, used from its event loop only."""

    def __init__(self, store: RunStore, limits: Callable[[], RunLimits], clock: Clock) -> None:
        """`limits` is asked at every entry, so that a reload holds for runs that are open."""
        self._store = store
        self._limits = limits
        self._clock = clock
        self._runs: OrderedDict[RunKey, _Run] = OrderedDict()
        self._opening: dict[RunKey, asyncio.Future[_Run]] = {}
        self._tickets: dict[int, tuple[RunKey, str]] = {}  # ticket -> (run, worker)
        # Settlements that an earlier register's calls left behind must not meet a ticket of ours.
        self._next_ticket = int(clock.now() * 1_000_000)

    async def enter(self, worker: str, ref: RunRef, kind: str) -> Entered:
        """Reserve the next step of a run for a call of `kind` (llm or tool), opening the run at its first use."""
        key, limits = ref.key, self._limits().narrowed(ref.limits)
        run = await self._get(key, ref.parent, limits)
        self._check(run, kind, limits)
        self._next_ticket += 1
        run.last_step += 1
        run.reserved[self._next_ticket] = (kind, run.last_step)
        self._tickets[self._next_ticket] = (key, worker)
        return Entered(run.facts, run.last_step, self._next_ticket, run.line)

    async def add_child(self, ref: RunRef, child: str) -> None:
        """Count an agent that is delegated to in a run, once; raises `Refusal` (`run_limit`, `run_unknown`).

        Compared and counted in one transaction, so that no two requests both get the last place.
        """
        key, limits = ref.key, self._limits().narrowed(ref.limits)
        await self._get(key, ref.parent, limits)
        new = await self._store.add_child(key, child, limits.children)
        if new is None:
            run = await self._get(key, ref.parent, limits)
            why = f"run {key.id} may have no more children"
            raise _limit("children", limits.children or 0, run.facts.children, why)
        if new:
            self._adopt(key)

    def leave(self, ticket: int) -> None:
        """Give a reservation back; its step number too, where no later one was given out."""
        key, _ = self._tickets.pop(ticket, (None, ""))
        if key is None:
            return
        run = self._runs[key]
        _, step = run.reserved.pop(ticket)
        if step == run.last_step:
            run.last_step -= 1

    def settled(self, delta: RunDelta) -> None:
        """Take over what a committed settlement added."""
        self._tickets.pop(delta.ticket, None)
        run = self._runs.get(delta.key)
        if run is None:
            return  # not in memory: the next entry reads the store
        run.reserved.pop(delta.ticket, None)
        facts = run.facts
        run.facts = replace(
            facts,
            steps=facts.steps + 1,
            tool_calls=facts.tool_calls + delta.tool_calls,
            tokens=facts.tokens + delta.tokens,
            cost_nano_usd=facts.cost_nano_usd + delta.cost_nano_usd,
        )

    def worker_died(self, worker: str) -> None:
        """Give back what a dead worker had reserved, once its recovery file was posted."""
        for ticket in [ticket for ticket, (_, owner) in self._tickets.items() if owner == worker]:
            self.leave(ticket)

    async def facts(self, key: RunKey) -> RunFacts | None:
        """A run's counters, without opening it."""
        if key in self._runs:
            return self._runs[key].facts
        loaded = await self._store.load_run(key)
        return loaded[0] if loaded else None

    async def _get(self, key: RunKey, parent: str | None, limits: RunLimits) -> _Run:
        run = self._runs.get(key)
        if run is not None:
            self._runs.move_to_end(key)
            return run
        opening = self._opening.get(key)
        if opening is None:
            # One opening per run, however many calls arrive first; it outlives the call that began it.
            opening = self._opening[key] = asyncio.ensure_future(self._load_or_open(key, parent, limits))
            opening.add_done_callback(lambda _: self._opening.pop(key, None))
        return await asyncio.shield(opening)

    async def _load_or_open(self, key: RunKey, parent: str | None, limits: RunLimits) -> _Run:
        loaded = await self._store.load_run(key)
        line = await self._line(loaded[0]) if loaded else (key.id,)
        if len(line) > 1:
            loaded = await self._store.load_run(key)  # again: finding the parents took time, in which steps may settle
        if loaded is None:
            facts = RunFacts(key, self._clock.now(), parent)
            if parent is not None and parent != key.id:
                facts = replace(facts, depth=await self._join_parent(RunKey(key.iss, key.subject, parent), limits))
            await self._store.open_run(facts)
            if facts.parent:
                self._adopt(RunKey(key.iss, key.subject, facts.parent))
            loaded, line = (facts, 0), await self._line(facts)
        run = self._runs[key] = _Run(*loaded, line)
        self._forget_idle()
        return run

    async def _line(self, facts: RunFacts) -> tuple[str, ...]:
        """A run's id and those of its parents, nearest first. Parents never change, so it is found once."""
        key, parent = facts.key, facts.parent
        line = [key.id]
        while parent is not None and parent not in line:
            line.append(parent)
            above = await self.facts(RunKey(key.iss, key.subject, parent))
            parent = above.parent if above else None
        return tuple(line)

    async def _join_parent(self, parent: RunKey, limits: RunLimits) -> int:
        """The depth of a new child of `parent`; refused where the parent's limits leave no room."""
        facts = await self.facts(parent)
        if facts is None:
            why = f"the token names parent run {parent.id}, which this agent never opened; open it first"
            raise Refusal("run_unknown", why)
        if limits.children is not None and facts.children >= limits.children:
            raise _limit("children", limits.children, facts.children, f"run {parent.id} may not open more child runs")
        deepest = _DEEPEST if limits.depth is None else min(limits.depth, _DEEPEST)
        if facts.depth + 1 > deepest:
            raise _limit("depth", deepest, facts.depth, f"run {parent.id} may not be a parent")
        return facts.depth + 1

    def _adopt(self, parent: RunKey) -> None:
        if parent in self._runs:
            run = self._runs[parent]
            run.facts = replace(run.facts, children=run.facts.children + 1)

    def _check(self, run: _Run, kind: str, limits: RunLimits) -> None:
        facts = run.facts
        under_way = len(run.reserved)
        if limits.steps is not None and facts.steps + under_way >= limits.steps:
            raise _limit("steps", limits.steps, facts.steps + under_way)
        calls = facts.tool_calls + run.tool_calls_reserved
        if kind == "tool" and limits.tool_calls is not None and calls >= limits.tool_calls:
            raise _limit("tool_calls", limits.tool_calls, calls)
        if limits.tokens is not None and facts.tokens >= limits.tokens:
            raise _limit("tokens", limits.tokens, facts.tokens)
        age = int(self._clock.now() - facts.opened)
        if limits.duration is not None and age >= limits.duration:
            raise _limit("duration", int(limits.duration), age)

    def _forget_idle(self) -> None:
        for key in list(self._runs)[: max(0, len(self._runs) - _KEPT)]:
            if not self._runs[key].reserved:
                del self._runs[key]


def _limit(name: str, limit: int, used: int, why: str = "this run has used it up") -> Refusal:
    return Refusal(
        "run_limit",
        f"the run's limit of {limit} {name} is reached ({used}): {why}; "
        f"end the run, or have the limit raised: it is the token's, or runs.limits.{name} of the configuration",
        fields={"limit": name, "allowed": limit, "used": used},
    )
