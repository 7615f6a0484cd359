"""What can be set about policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from gateway.settings.types import Later


@dataclass(frozen=True, slots=True, kw_only=True)
class PoliciesSettings:
    """Where the policy files are and whether they bind."""

    NOT_BUILT: ClassVar[Mapping[str, str]] = {"bundle": "signed policy bundles are not built yet"}

    dir: Path = Path("policies")
    """Every `*.yaml` and `*.yml` below it is loaded."""
    mode: Annotated[Literal["enforce"], Later("shadow")] = "enforce"
    """`enforce`: what no rule allows is refused."""
