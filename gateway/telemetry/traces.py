"""W3C Trace Context: an agent's trace goes on through the gateway, or begins here."""

from __future__ import annotations

import re
from typing import Final

from gateway.core.ids import random_bits

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")


def continued(traceparent: str | None) -> str:
    """The `traceparent` to send on: the same trace with a new parent id; a new trace where none came (§3.2)."""
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if found is None:
        return f"00-{random_bits(127) + 1:032x}-{_span()}-01"
    return f"00-{found[1]}-{_span()}-{found[2]}"


def _span() -> str:
    return f"{random_bits(63) + 1:016x}"  # all zeros would be no id
