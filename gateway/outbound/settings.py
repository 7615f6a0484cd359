"""What can be set about connections to upstreams."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from gateway.settings.types import Seconds, Url


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutOverrides:
    """Deadlines of one provider, tool or operation; what is not named is inherited."""

    connect: Seconds | None = None
    """Until the connection stands, TLS included."""
    first_byte: Seconds | None = None
    """From the request's last byte until the answer's head."""
    idle: Seconds | None = None
    """Between two reads of an answer."""
    total: Seconds | None = None
    """For the whole attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutSettings:
    """Deadlines of every upstream attempt; a provider, a tool or an operation may have its own."""

    connect: Seconds = 5.0
    """Until the connection stands, TLS included."""
    first_byte: Seconds = 120.0
    """From the request's last byte until the answer's head."""
    idle: Seconds = 120.0
    """Between two reads of an answer."""
    total: Seconds = 1800.0
    """For the whole attempt."""

    def overridden(self, by: TimeoutOverrides) -> TimeoutSettings:
        """These deadlines with what `by` names put in their place."""
        named = {name: getattr(by, name) for name in by.__slots__ if getattr(by, name) is not None}
        return replace(self, **named)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundSettings:
    """How connections leave this machine."""

    proxy: Annotated[str, Url()] | None = None
    """An HTTP proxy for all upstreams but those on loopback; it then checks where connections go."""
    ca_file: Path | None = None
    """Certificate authorities to trust instead of the system's, as PEM."""
