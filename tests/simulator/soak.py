"""How long a test with a long form runs (docs/decisions/0004)."""

from __future__ import annotations

import os

SECONDS = float(os.environ.get("PASSGATE_SOAK_SECONDS", "0"))
"""Seconds of the long form, 0 for the short one."""
