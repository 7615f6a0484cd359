"""Arithmetic within 64 bits, and exact decimals.

Integers never wrap around: what does not fit is an error. Division cuts toward zero, a remainder has the sign of
what is divided. Doubles follow IEEE 754.
"""

from __future__ import annotations

import decimal
import math
from decimal import Decimal
from typing import Final

from gateway.policy.cel.errors import CelError
from gateway.policy.cel.values import MAX_INT, MAX_UINT, MIN_INT, UInt

DIGITS: Final = 60  # of a decimal
_EXACT: Final = decimal.Context(
    prec=DIGITS, Emin=-DIGITS, Emax=DIGITS, traps=[decimal.Inexact, decimal.Overflow, decimal.InvalidOperation]
)


def an_int(value: int) -> int:
    """The value, where it fits into an int."""
    if MIN_INT <= value <= MAX_INT:
        return value
    raise CelError("the number does not fit into an int of 64 bits")


def a_uint(value: int) -> UInt:
    """The value, where it fits into a uint."""
    if 0 <= value <= MAX_UINT:
        return UInt(value)
    raise CelError("the number does not fit into a uint of 64 bits")


def quotient(a: int, b: int) -> int:
    """Divided, cut toward zero."""
    if b == 0:
        raise CelError("division by zero")
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def remainder(a: int, b: int) -> int:
    """What a division leaves, with the sign of `a`."""
    an_int(quotient(a, b) if a < 0 else 0)  # the least int by -1 is an overflow, whatever is left
    if b == 0:
        raise CelError("division by zero")
    return abs(a) % abs(b) * (-1 if a < 0 else 1)


def ratio(a: float, b: float) -> float:
    """Divided, infinite or not a number where `b` is zero."""
    if b:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)


def exact(operation: str, a: Decimal | int, b: Decimal | int) -> Decimal:
    """`add`, `subtract` or `multiply` decimals and integers, without rounding."""
    try:
        result: Decimal = getattr(_EXACT, operation)(Decimal(a), Decimal(b))
    except decimal.DecimalException:
        raise CelError(f"the decimal would have more than {DIGITS} digits") from None
    return result
