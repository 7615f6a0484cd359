"""What can be set about runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from gateway.core.run import RunLimits
from gateway.settings.types import NON_EMPTY, Count, HeaderName, PositiveCount, Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimitSettings:
    """What one run may use up in its life; `null` lifts a limit."""

    NOT_BUILT: ClassVar[Mapping[str, str]] = {"repeats": "the guard against loops is not built yet"}

    steps: PositiveCount | None = 500
    """Calls of any kind."""
    tool_calls: Count | None = 200
    """Tool calls."""
    tokens: PositiveCount | None = 2_000_000
    """Input and output tokens together."""
    duration: Seconds | None = 7200.0
    """From the first call on."""
    depth: Count | None = 4
    """How deep runs may nest and agents may delegate; what has no parent has depth 0."""
    children: Count | None = 20
    """How many runs may name it as their parent and how many agents may be delegated to in it, together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsSettings:
    """When a call must name its run, who may name it, and what a run may use up."""

    NOT_BUILT: ClassVar[Mapping[str, str]] = {
        "retention": "the retention of runs is not built yet: they are kept",
    }

    required: (
        Literal["never", "tools", "always"] | Annotated[tuple[Literal["workflow", "bounded", "open"], ...], NON_EMPTY]
    ) = "never"
    """Which calls must name a run: none, tool calls, all, or all calls of agents of these categories."""
    source: Literal["any", "claim"] = "any"
    """`claim`: only the token's signed claim names a run."""
    from_headers: tuple[HeaderName, ...] = ()
    """Client headers that name a run where nothing else does; for grouping and limits only."""
    limits: RunLimitSettings = field(default_factory=RunLimitSettings)
    """What one run may use up."""

    @property
    def run_limits(self) -> RunLimits:
        """The limits as the runs know them."""
        own = self.limits
        return RunLimits(own.steps, own.tool_calls, own.tokens, own.duration, own.depth, own.children)
