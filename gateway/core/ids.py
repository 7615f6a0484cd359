"""Ids that sort by time: 48 bits of milliseconds and 80 bits of randomness, in hex.

They are names and no secrets: whoever knows one must still own what it names. The generator is seeded by the
system once in each process, which is quicker by a system call for every id.
"""

from __future__ import annotations

import random
import re
import time
from typing import Final

RUN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~:@+=-]{0,127}")
"""What a run's or an incarnation's id may be; use `fullmatch`."""


random_bits: Final = random.Random().getrandbits  # noqa: S311 - names, no secrets
"""Random bits for names that must not collide."""


def new_id(prefix: str) -> str:
    """A fresh id such as `req_01939f3c…`: `prefix`, an underscore, 32 hex digits."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{random_bits(80):020x}"
