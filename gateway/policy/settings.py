"""What can be set about policies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateway.settings.types import PositiveCount


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSettings:
    """That only signed policies count: `bundle.json` in their folder, which `passgate policy sign` writes."""

    keys: Path
    """A JWK set (RFC 7517) of who may sign, EdDSA or ES256."""
    min_revision: PositiveCount = 1
    """The least revision that is taken; one below the highest that this gateway ever took is refused anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoliciesSettings:
    """Where the policy files are and whether they bind."""

    dir: Path = Path("policies")
    """Every `*.yaml` and `*.yml` below it is loaded."""
    mode: Literal["enforce", "shadow"] = "enforce"
    """`enforce`: what no rule allows is refused. `shadow`: it passes, and so does what a rule refuses that does not
    say `mode: enforce` itself; what would have been refused is counted."""
    bundle: BundleSettings | None = None
    """With it, only signed policies count."""
