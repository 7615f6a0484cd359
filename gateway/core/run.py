"""A run: one execution of an agent's job, named by the pair (owner, id)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple


class RunKey(NamedTuple):
    """The full name of a run: the same id used by two owners is two runs."""

    iss: str
    subject: str
    id: str


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What a run may use up in its life; `None` is unlimited."""

    steps: int | None = None
    tool_calls: int | None = None
    tokens: int | None = None
    duration: float | None = None  # seconds since the run was opened
    depth: int | None = None  # a root run has depth 0
    children: int | None = None

    def narrowed(self, by: tuple[tuple[str, int], ...]) -> RunLimits:
        """These limits, each lowered to what a token's `limits` claim says; a token never widens one."""
        if not by:
            return self
        lower = {}
        for name, limit in by:
            own = getattr(self, name)
            lower[name] = limit if own is None else min(own, limit)
        return replace(self, **lower)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run's durable counters, as read when a call enters it."""

    key: RunKey
    opened: float  # epoch seconds
    parent: str | None = None
    depth: int = 0
    steps: int = 0
    tool_calls: int = 0
    tokens: int = 0
    cost_nano_usd: int = 0
    children: int = 0


@dataclass(frozen=True, slots=True)
class RunRef:
    """Which run a call says it belongs to, and who said so."""

    key: RunKey
    incarnation: str | None
    source: str  # claim | url | header | client-header
    parent: str | None = None
    limits: tuple[tuple[str, int], ...] = ()  # what the token's issuer allows the run at most


@dataclass(frozen=True, slots=True)
class RunDelta:
    """What one settled step adds to its run."""

    key: RunKey
    ticket: int  # the reservation made when the call entered; settled once
    step: int  # the step's number in its run
    tool_calls: int
    tokens: int
    cost_nano_usd: int
