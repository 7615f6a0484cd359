"""What can be set about models: what agents ask for, and where it goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from gateway.settings.types import NON_EMPTY, Later, Name, Pattern, PositiveCount

ModelName = Annotated[
    str, Pattern("a model's name", r"[!-)+-~]{1,199}", "visible ASCII without *, such as gpt-4o-mini")
]
ModelPattern = Annotated[
    str, Pattern("a model's name", r"[!-)+-~]{0,199}\*?", "visible ASCII; a * only at the end, as in sim-*")
]


HostedTool = Annotated[
    str, Pattern("a hosted tool's name", r"[!-)+-~]{1,199}", "visible ASCII without *, such as web_search")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSettings:
    """One place where a model is served."""

    NOT_BUILT: ClassVar[Mapping[str, str]] = {
        "weight": "weighted targets are not built yet",
        "canary": "canary targets are not built yet",
        "percentage": "canary targets are not built yet",
    }

    provider: Name
    """The provider's name in this file."""
    model: ModelName = ""
    """The model's name there; empty: the name that was asked passes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputTokenSettings:
    """How long answers may be."""

    default: PositiveCount | None = None
    """The cap of calls that name none."""
    max: PositiveCount | None = None
    """The cap that no call may exceed."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """The default fits under the maximum."""
        if self.default is not None and self.max is not None and self.default > self.max:
            yield "default", f"{self.default} is above the maximum of {self.max}", "lower it or raise `max`"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """One model name, or all that begin alike, and the targets behind it."""

    NOT_BUILT: ClassVar[Mapping[str, str]] = {
        "keepalive": "keep-alive comments are not built yet",
        "timeouts": "timeouts of a model are not built yet: set them at the provider",
        "canary": "canary targets are not built yet",
    }

    strategy: Annotated[Literal["ordered"], Later("weighted", "cheapest", "fastest", "least_busy")] = "ordered"
    """`ordered`: the first target that answers."""
    targets: Annotated[tuple[TargetSettings, ...], NON_EMPTY]
    """Where it is served."""
    output_tokens: OutputTokenSettings | None = None
    """How long answers may be."""
    hosted_tools: Mapping[HostedTool, Annotated[Literal["allow", "refuse"], Later("strip")]] = field(
        default_factory=dict
    )
    """Tools that the provider would run itself (`web_search`, `mcp/HOST`); what is not allowed here is refused."""
