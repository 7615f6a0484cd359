"""The functions that expressions may call, with their overloads: `FUNCTIONS` are called f(x), `METHODS` x.f().

The checker reads the parameters, the compiler the implementations. Each takes the frame first, and pays for what
is more than a moment's work.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from gateway.policy.cel import conversions as to
from gateway.policy.cel import times
from gateway.policy.cel.arithmetic import a_uint, an_int, quotient, remainder
from gateway.policy.cel.declared import (
    BOOL,
    BYTES,
    DECIMAL,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    STRING,
    TIMESTAMP,
    UINT,
    type_of,
)
from gateway.policy.cel.operators import LIST, MAP, A, Overload
from gateway.policy.cel.values import Duration, Frame, Timestamp, TypeValue, kind_of


def _same(_: Frame, value: object) -> object:
    return value


def _length(_: Frame, value: list[object]) -> int:
    return len(value)


def _contains(frame: Frame, text: str, part: str) -> bool:
    frame.pay(len(text))
    return part in text


def _starts(frame: Frame, text: str, part: str) -> bool:
    frame.pay(len(part))
    return text.startswith(part)


def _ends(frame: Frame, text: str, part: str) -> bool:
    frame.pay(len(part))
    return text.endswith(part)


def _lower(frame: Frame, text: str) -> str:
    frame.pay(len(text))
    return text.translate(_LOWER)


def _upper(frame: Frame, text: str) -> str:
    frame.pay(len(text))
    return text.translate(_UPPER)


def _trim(frame: Frame, text: str) -> str:
    frame.pay(len(text))
    return text.strip(_WHITE)


def _decoded(frame: Frame, value: bytes) -> str:
    frame.pay(len(value))
    return to.string_from_bytes(value)


def _encoded(frame: Frame, text: str) -> bytes:
    frame.pay(len(text))
    return to.bytes_from_string(text)


_ZONE: Final = 10_000  # units that looking for a time zone costs
_LOWER: Final = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_UPPER: Final = {code + 32: code for code in _LOWER}
_WHITE: Final = "".join(
    map(chr, [*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000])
)


def _part(name: str, add: int = 0) -> tuple[Overload, ...]:
    """A part of a moment, in UTC or in a time zone."""

    def read(_: Frame, value: Timestamp, zone: str = "UTC") -> int:
        return int(getattr(times.parts(value, zone), name)) + add

    def read_there(frame: Frame, value: Timestamp, zone: str) -> int:
        frame.pay(_ZONE + len(zone))
        return read(frame, value, zone)

    return Overload((TIMESTAMP,), INT, read), Overload((TIMESTAMP, STRING), INT, read_there)


def _whole(unit: int) -> Overload:
    """A length of time in whole units, cut toward zero."""
    return Overload((DURATION,), INT, lambda _, value: quotient(value.ns, unit))


def _milliseconds(_: Frame, value: Duration) -> int:
    return quotient(remainder(value.ns, times.SECOND), 1_000_000)


_SIZE: Final = tuple(Overload((sized,), INT, _length) for sized in (STRING, BYTES, LIST, MAP))
_MATCHES: Final = (Overload((STRING, STRING), BOOL),)

FUNCTIONS: Final[dict[str, tuple[Overload, ...]]] = {
    "size": _SIZE,
    "matches": _MATCHES,
    "type": (Overload((A,), type_of(A), lambda _, value: TypeValue(kind_of(value))),),
    "dyn": (Overload((A,), DYN, _same),),
    "int": (
        Overload((INT,), INT, _same),
        Overload((UINT,), INT, lambda _, value: an_int(int(value))),
        Overload((DOUBLE,), INT, lambda _, value: to.int_from_double(value)),
        Overload((STRING,), INT, lambda _, value: to.int_from_string(value)),
        Overload((TIMESTAMP,), INT, lambda _, value: value.ns // times.SECOND),
    ),
    "uint": (
        Overload((UINT,), UINT, _same),
        Overload((INT,), UINT, lambda _, value: a_uint(value)),
        Overload((DOUBLE,), UINT, lambda _, value: to.uint_from_double(value)),
        Overload((STRING,), UINT, lambda _, value: to.uint_from_string(value)),
    ),
    "double": (
        Overload((DOUBLE,), DOUBLE, _same),
        Overload((INT,), DOUBLE, lambda _, value: to.double_from_int(value)),
        Overload((UINT,), DOUBLE, lambda _, value: float(value)),
        Overload((STRING,), DOUBLE, lambda _, value: to.double_from_string(value)),
    ),
    "string": (
        Overload((STRING,), STRING, _same),
        Overload((BOOL,), STRING, lambda _, value: "true" if value else "false"),
        Overload((INT,), STRING, lambda _, value: str(an_int(value))),
        Overload((UINT,), STRING, lambda _, value: str(int(value))),
        Overload((DOUBLE,), STRING, lambda _, value: to.string_from_double(value)),
        Overload((BYTES,), STRING, _decoded),
        Overload((TIMESTAMP,), STRING, lambda _, value: times.write_timestamp(value)),
        Overload((DURATION,), STRING, lambda _, value: times.write_duration(value)),
        Overload((DECIMAL,), STRING, lambda _, value: to.string_from_decimal(value)),
    ),
    "bytes": (Overload((BYTES,), BYTES, _same), Overload((STRING,), BYTES, _encoded)),
    "bool": (Overload((BOOL,), BOOL, _same), Overload((STRING,), BOOL, lambda _, value: to.bool_from_string(value))),
    "timestamp": (
        Overload((TIMESTAMP,), TIMESTAMP, _same),
        Overload((STRING,), TIMESTAMP, lambda _, value: times.read_timestamp(value)),
        Overload((INT,), TIMESTAMP, lambda _, value: times.moment(value * times.SECOND)),
    ),
    "duration": (
        Overload((DURATION,), DURATION, _same),
        Overload((STRING,), DURATION, lambda _, value: times.read_duration(value)),
    ),
    "decimal": (
        Overload((DECIMAL,), DECIMAL, _same),
        Overload((STRING,), DECIMAL, lambda _, value: to.decimal_from_string(value)),
        Overload((INT,), DECIMAL, lambda _, value: Decimal(an_int(value))),
        Overload((UINT,), DECIMAL, lambda _, value: Decimal(int(value))),
    ),
}

METHODS: Final[dict[str, tuple[Overload, ...]]] = {
    "size": _SIZE,
    "matches": _MATCHES,
    "contains": (Overload((STRING, STRING), BOOL, _contains),),
    "startsWith": (Overload((STRING, STRING), BOOL, _starts),),
    "endsWith": (Overload((STRING, STRING), BOOL, _ends),),
    "lowerAscii": (Overload((STRING,), STRING, _lower),),
    "upperAscii": (Overload((STRING,), STRING, _upper),),
    "trim": (Overload((STRING,), STRING, _trim),),
    "getFullYear": _part("year"),
    "getMonth": _part("month"),
    "getDate": _part("day", add=1),
    "getDayOfMonth": _part("day"),
    "getDayOfWeek": _part("weekday"),
    "getDayOfYear": _part("day_of_year"),
    "getHours": (*_part("hours"), _whole(3600 * times.SECOND)),
    "getMinutes": (*_part("minutes"), _whole(60 * times.SECOND)),
    "getSeconds": (*_part("seconds"), _whole(times.SECOND)),
    "getMilliseconds": (*_part("milliseconds"), Overload((DURATION,), INT, _milliseconds)),
}
