"""Money is a whole number of nano-USD (10⁻⁹ USD) in an `int`; no float ever touches it."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

NANO_PER_USD: Final = 1_000_000_000
_FEMTO_PER_NANO: Final = 1_000_000
_HALF: Final = _FEMTO_PER_NANO // 2
_DECIMAL: Final = re.compile(r"\d{1,12}(\.\d{1,12})?")


def nano_usd(text: str) -> int:
    """Read a non-negative decimal amount of USD such as `0.01` into nano-USD.

    Raises `ValueError` for anything but plain digits with at most one point, and for amounts
    finer than a nano-USD.
    """
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"{text!r} is not an amount of USD such as 12.50")
    scaled = Decimal(text) * NANO_PER_USD
    whole = int(scaled)
    if whole != scaled:
        raise ValueError(f"{text!r} is finer than a nano-USD (9 decimal places)")
    return whole


def usd_text(nano: int) -> str:
    """Nano-USD as a decimal string of USD without trailing zeros: `1500000` is `0.0015`."""
    sign, nano = ("-", -nano) if nano < 0 else ("", nano)
    whole, rest = divmod(nano, NANO_PER_USD)
    return f"{sign}{whole}.{rest:09d}".rstrip("0").rstrip(".") if rest else f"{sign}{whole}"


def per_million_tokens(usd: Decimal) -> int:
    """A price in USD per million tokens as femto-USD (10⁻¹⁵) a token: exact down to 10⁻⁹ USD per million."""
    scaled = usd * NANO_PER_USD
    whole = int(scaled)
    if whole != scaled:
        raise ValueError(f"{usd} USD per million tokens is finer than this book can hold (9 decimal places)")
    return whole


def to_nano(femto: int) -> int:
    """Femto-USD rounded to nano-USD, half to even; sum first, then round once."""
    nano, rest = divmod(femto, _FEMTO_PER_NANO)
    if rest > _HALF or (rest == _HALF and nano & 1):
        nano += 1
    return nano
