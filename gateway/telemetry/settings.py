"""What can be set about metrics and logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from gateway.settings.types import PositiveCount, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySettings:
    """What observers get to see."""

    NOT_BUILT: ClassVar[Mapping[str, str]] = {"otlp": "OpenTelemetry export is not built yet"}

    audit: Path | None = None
    """The folder of the decision log; without it `audit` beside the durable store."""
    redact: tuple[Text, ...] = ("authorization",)
    """Names whose values no log shows, wherever they stand."""
    max_series: PositiveCount = 10_000
    """How many agents get metrics of their own; the others count as `_other`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How the gateway logs."""

    format: Literal["json", "text"] = "json"
    """One JSON object a line, or text for people."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged."""
    access: bool = True
    """Whether each call gets a line."""
