"""One call's place in its run, given back on every way out unless it was settled."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from gateway.core.run import RunDelta, RunFacts, RunRef
from gateway.runs.register import Entered, Entrance


class Step:
    """`async with Step(entrance, ref, kind) as step`: inside, the call has its place; outside a run there is none.

    `ref` is `None` for a call that names no run. Raises `Refusal` (`run_limit`, …) on entering.
    """

    __slots__ = ("_cost", "_entered", "_entrance", "_kind", "_ref", "_settled", "_tokens", "owes")

    def __init__(self, entrance: Entrance, ref: RunRef | None, kind: str) -> None:
        self._entrance = entrance
        self._ref = ref
        self._kind = kind
        self._entered: Entered | None = None
        self._settled = False
        self._tokens = self._cost = 0
        self.owes = False  # an attempt was sent that `delta` has not told of yet

    @property
    def number(self) -> int:
        """The step's number in its run, from 1; 0 outside a run."""
        return self._entered.step if self._entered else 0

    @property
    def line(self) -> tuple[str, ...]:
        """The ids of the run and its parents, nearest first; empty outside a run."""
        return self._entered.line if self._entered else ()

    @property
    def facts(self) -> RunFacts | None:
        """The run's counters before this call; `None` outside a run."""
        return self._entered.facts if self._entered else None

    @property
    def in_run(self) -> bool:
        """Whether the call is in a run, and must be settled there."""
        return self._entered is not None

    def owe(self, tokens: int, cost_nano_usd: int) -> None:
        """Keep what an attempt used that another one follows, for `delta`."""
        self._tokens += tokens
        self._cost += cost_nano_usd
        self.owes = True

    def delta(self, tokens: int, cost_nano_usd: int) -> RunDelta:
        """What this step adds to its run, its last attempt given.

        Taking it settles the step: it is counted, not given back.
        """
        if self._entered is None:
            raise ValueError("a call outside a run adds to none")
        self._settled, self.owes = True, False
        tokens, cost_nano_usd = tokens + self._tokens, cost_nano_usd + self._cost
        entered = self._entered
        return RunDelta(
            entered.facts.key, entered.ticket, entered.step, int(self._kind == "tool"), tokens, cost_nano_usd
        )

    async def __aenter__(self) -> Self:
        if self._ref is not None:
            self._entered = await self._entrance.enter(self._ref, self._kind)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._entered is not None and not self._settled:
            self._entrance.leave(self._entered.ticket)
