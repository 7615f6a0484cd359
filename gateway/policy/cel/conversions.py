"""Conversions between types. What does not convert exactly is an error; doubles lose their fraction toward zero."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Final

from gateway.policy.cel.arithmetic import a_uint, an_int
from gateway.policy.cel.errors import CelError
from gateway.policy.cel.values import MAX_INT, MAX_UINT, MIN_INT, UInt

_INTEGER: Final = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_DOUBLE: Final = re.compile(
    r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,5})?|inf|infinity|nan)", re.ASCII | re.IGNORECASE
)
_DECIMAL: Final = re.compile(r"-?\d{1,30}(?:\.\d{1,18})?", re.ASCII)
_TRUE: Final = frozenset({"true", "TRUE", "True", "t", "1"})
_FALSE: Final = frozenset({"false", "FALSE", "False", "f", "0"})
_LONGEST: Final = 400  # characters of a text that can be a number


def int_from_double(value: float) -> int:
    """Cut toward zero; the least and the greatest int are out of its range, as the specification has it."""
    if not MIN_INT < value < MAX_INT:
        raise CelError("the double does not fit into an int")
    return int(value)


def uint_from_double(value: float) -> UInt:
    """Cut toward zero."""
    if not 0 <= value < MAX_UINT:
        raise CelError("the double does not fit into a uint")
    return UInt(value)


def int_from_string(text: str) -> int:
    """Decimal digits with a sign."""
    if _INTEGER.fullmatch(text) is None:
        raise CelError("the text is no integer")
    return an_int(int(text))


def uint_from_string(text: str) -> UInt:
    """Decimal digits."""
    if _INTEGER.fullmatch(text) is None or text.startswith("-"):
        raise CelError("the text is no integer without a sign")
    return a_uint(int(text))


def double_from_string(text: str) -> float:
    """A decimal number, with or without an exponent."""
    if len(text) > _LONGEST or _DOUBLE.fullmatch(text) is None:
        raise CelError("the text is no number")
    return float(text)


def double_from_int(value: int) -> float:
    """The nearest double."""
    return float(an_int(value))


def bool_from_string(text: str) -> bool:
    """`true` or `false`, or one of the other spellings that CEL has."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise CelError("the text is neither true nor false")


def string_from_bytes(value: bytes) -> str:
    """The text that has these bytes in UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise CelError("the bytes are no UTF-8") from None


def bytes_from_string(text: str) -> bytes:
    """The text in UTF-8."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise CelError("the text has half a character (a surrogate)") from None


def string_from_double(value: float) -> str:
    """The fewest digits that give the same double again; with an exponent below 1e-4 and from 1e6 on."""
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    sign, numbers, exponent = Decimal(repr(value)).normalize().as_tuple()
    digits = "".join(map(str, numbers))
    power = len(digits) + int(exponent) - 1  # of the first digit
    if not value:
        text = "0"
    elif -5 < power < 6:  # noqa: PLR2004 # as printf's %g has it
        text = format(Decimal(digits).scaleb(int(exponent)), "f")
    else:
        text = f"{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e{'-' if power < 0 else '+'}{abs(power):02}"
    return ("-" if sign else "") + text


def decimal_from_string(text: str) -> Decimal:
    """An exact decimal from digits such as `-12.50`."""
    if _DECIMAL.fullmatch(text) is None:
        raise CelError("the text is no decimal such as 12.50")
    return Decimal(text)


def string_from_decimal(value: Decimal) -> str:
    """Its digits as they are, without an exponent."""
    return format(value, "f")
