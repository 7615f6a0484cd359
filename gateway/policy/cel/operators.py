"""Operators on values: equality, order, membership, indexing; and what they take, for the checker.

1. Numbers of different types are compared as numbers; an int or uint meets a double as a double, as other
   implementations have it. A decimal is compared with integers exactly, and never with a double.
2. Other values of different types are unequal, and have no order.
3. `equal`, `contained` and `compare` pay for what they look at.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import product
from typing import Final, NamedTuple

from gateway.policy.cel.arithmetic import a_uint, an_int, exact, quotient, ratio, remainder
from gateway.policy.cel.declared import (
    BOOL,
    BYTES,
    DECIMAL,
    DOUBLE,
    DURATION,
    INT,
    STRING,
    TIMESTAMP,
    UINT,
    CelType,
    list_of,
    map_of,
)
from gateway.policy.cel.errors import CelError, OutOfBudget
from gateway.policy.cel.times import length, moment
from gateway.policy.cel.values import ITEM, MAX_DEPTH, Frame, UInt, key_of, kind_of

Run = Callable[..., object]
"""An implementation: takes the frame and the operands, whose types are those of its overload."""


class Overload(NamedTuple):
    """What one combination of operands gives. `run` is `None` where the compiler has code of its own."""

    parameters: tuple[CelType, ...]
    result: CelType
    run: Run | None = None


A: Final = CelType("A")
B: Final = CelType("B")
LIST: Final = list_of(A)
MAP: Final = map_of(A, B)

_NUMBERS: Final = frozenset({"int", "uint", "double", "decimal"})
_ORDERED: Final = frozenset(kind.name for kind in (BOOL, STRING, BYTES, TIMESTAMP, DURATION))
_MIXED: Final = "a decimal never meets a double, which cannot hold most amounts exactly"


def _exact(operation: str) -> tuple[Overload, ...]:
    pairs = ((DECIMAL, DECIMAL), (DECIMAL, INT), (INT, DECIMAL), (DECIMAL, UINT), (UINT, DECIMAL))
    return tuple(Overload(pair, DECIMAL, lambda _, a, b: exact(operation, a, b)) for pair in pairs)


def _joined(frame: Frame, a: str, b: str) -> str:
    frame.pay(len(a) + len(b))
    return a + b


def _appended(frame: Frame, a: list[object], b: list[object]) -> list[object]:
    frame.pay(ITEM * (len(a) + len(b)))
    return [*a, *b]


_ORDER: Final = tuple(
    Overload(pair, BOOL)
    for pair in (
        *product((INT, UINT, DOUBLE), repeat=2),
        *(overload.parameters for overload in _exact("")),
        *((kind, kind) for kind in (BOOL, STRING, BYTES, TIMESTAMP, DURATION)),
    )
)
_EQUALITY: Final = (Overload((A, A), BOOL), *(Overload(each.parameters, BOOL) for each in _exact("")[1:]))

OPERATORS: Final[dict[str, tuple[Overload, ...]]] = {
    "_+_": (
        Overload((INT, INT), INT, lambda _, a, b: an_int(a + b)),
        Overload((UINT, UINT), UINT, lambda _, a, b: a_uint(a + b)),
        Overload((DOUBLE, DOUBLE), DOUBLE, lambda _, a, b: a + b),
        Overload((STRING, STRING), STRING, _joined),
        Overload((BYTES, BYTES), BYTES, _joined),
        Overload((LIST, LIST), LIST, _appended),
        Overload((TIMESTAMP, DURATION), TIMESTAMP, lambda _, a, b: moment(a.ns + b.ns)),
        Overload((DURATION, TIMESTAMP), TIMESTAMP, lambda _, a, b: moment(a.ns + b.ns)),
        Overload((DURATION, DURATION), DURATION, lambda _, a, b: length(a.ns + b.ns)),
        *_exact("add"),
    ),
    "_-_": (
        Overload((INT, INT), INT, lambda _, a, b: an_int(a - b)),
        Overload((UINT, UINT), UINT, lambda _, a, b: a_uint(a - b)),
        Overload((DOUBLE, DOUBLE), DOUBLE, lambda _, a, b: a - b),
        Overload((TIMESTAMP, TIMESTAMP), DURATION, lambda _, a, b: length(a.ns - b.ns)),
        Overload((TIMESTAMP, DURATION), TIMESTAMP, lambda _, a, b: moment(a.ns - b.ns)),
        Overload((DURATION, DURATION), DURATION, lambda _, a, b: length(a.ns - b.ns)),
        *_exact("subtract"),
    ),
    "_*_": (
        Overload((INT, INT), INT, lambda _, a, b: an_int(a * b)),
        Overload((UINT, UINT), UINT, lambda _, a, b: a_uint(a * b)),
        Overload((DOUBLE, DOUBLE), DOUBLE, lambda _, a, b: a * b),
        *_exact("multiply"),
    ),
    "_/_": (
        Overload((INT, INT), INT, lambda _, a, b: an_int(quotient(a, b))),
        Overload((UINT, UINT), UINT, lambda _, a, b: a_uint(quotient(a, b))),
        Overload((DOUBLE, DOUBLE), DOUBLE, lambda _, a, b: ratio(a, b)),
    ),
    "_%_": (
        Overload((INT, INT), INT, lambda _, a, b: remainder(a, b)),
        Overload((UINT, UINT), UINT, lambda _, a, b: a_uint(remainder(a, b))),
    ),
    "-_": (
        Overload((INT,), INT, lambda _, a: an_int(-a)),
        Overload((DOUBLE,), DOUBLE, lambda _, a: -a),
    ),
    "!_": (Overload((BOOL,), BOOL),),
    "_?_:_": (Overload((BOOL, A, A), A),),
    "@in": (Overload((A, LIST), BOOL), Overload((A, MAP), BOOL)),
    "_[_]": (Overload((LIST, INT), A), Overload((MAP, A), B)),
    **dict.fromkeys(("_==_", "_!=_"), _EQUALITY),
    **dict.fromkeys(("_<_", "_<=_", "_>_", "_>=_"), _ORDER),
}
"""Operators by their names in CEL."""

_ASKED: Final[dict[str, Callable[..., bool]]] = {
    "_<_": operator.lt, "_<=_": operator.le, "_>_": operator.gt, "_>=_": operator.ge,
}  # fmt: skip


def equal(a: object, b: object, frame: Frame, depth: int = 0) -> bool:
    """Whether two values of any types are equal; lists and maps item by item."""
    kind, other = kind_of(a), kind_of(b)
    if kind != other:
        return kind in _NUMBERS and other in _NUMBERS and _met(operator.eq, a, kind, b, other)
    if kind == "list" or kind == "map":  # noqa: PLR1714 # quicker than a set
        return _same_items(a, b, kind, frame, depth)
    if (kind == "string" or kind == "bytes") and len(a) == len(b):  # type: ignore[arg-type]  # noqa: PLR1714
        frame.pay(len(a))  # type: ignore[arg-type] # by kind
    return a == b


def _same_items(a: object, b: object, kind: str, frame: Frame, depth: int) -> bool:
    if depth > MAX_DEPTH:
        raise OutOfBudget(f"the values that are compared are nested deeper than {MAX_DEPTH} levels")
    if len(a) != len(b):  # type: ignore[arg-type] # by kind
        return False
    frame.pay(ITEM * len(a))  # type: ignore[arg-type] # by kind
    if kind == "list":
        return all(equal(x, y, frame, depth + 1) for x, y in zip(a, b, strict=True))  # type: ignore[call-overload]
    return all(key in b and equal(a[key], b[key], frame, depth + 1) for key in a)  # type: ignore[attr-defined,operator,index]


def _met(ask: Callable[..., bool], a: object, kind: str, b: object, other: str) -> bool:
    """Ask of two numbers of different types."""
    if "double" in {kind, other}:
        if "decimal" in {kind, other}:
            raise CelError(_MIXED)
        return ask(*(value if type(value) is float else float(_narrow(value)) for value in (a, b)))
    return ask(a, b)


def _narrow(value: object) -> int:
    return value if type(value) is UInt else an_int(value)  # type: ignore[arg-type] # one of the two


def compare(name: str, a: object, b: object, frame: Frame) -> bool:
    """What `_<_` and its like do with two values."""
    ask, kind, other = _ASKED[name], kind_of(a), kind_of(b)
    if kind in _NUMBERS and other in _NUMBERS:
        return ask(a, b) if kind == other else _met(ask, a, kind, b, other)
    if kind != other or kind not in _ORDERED:
        raise CelError(f"{name.strip('_')} does not take ({kind}, {other})")
    if kind in {"string", "bytes"}:
        frame.pay(min(len(a), len(b)))  # type: ignore[arg-type] # by kind
    return ask(a, b)


def index(container: object, key: object) -> object:
    """`container[key]`; what is not there is an error."""
    kind = kind_of(container)
    if kind == "map":
        try:
            return container[key_of(key)]  # type: ignore[index] # by kind
        except KeyError:
            raise CelError(f"there is no key {brief(key)}") from None
    if kind != "list":
        raise CelError(f"what is of type {kind} has no items")
    if type(key) not in {int, UInt} and not (type(key) is float and key.is_integer()):
        raise CelError(f"the number of an item cannot be of type {kind_of(key)}")
    place = int(key)  # type: ignore[call-overload] # a number
    if 0 <= place < len(container):  # type: ignore[arg-type] # by kind
        return container[place]  # type: ignore[index]
    raise CelError(f"there is no item {place} in a list of {len(container)}")  # type: ignore[arg-type]


def contained(item: object, container: object, frame: Frame) -> bool:
    """`item in container`: an item of a list, or a key of a map."""
    kind = kind_of(container)
    if kind == "map":
        return key_of(item) in container  # type: ignore[operator] # by kind
    if kind != "list":
        raise CelError(f"`in` looks into a list or a map, and this is of type {kind}")
    frame.pay(ITEM * len(container))  # type: ignore[arg-type] # by kind
    return any(equal(item, other, frame) for other in container)  # type: ignore[attr-defined]


def brief(value: object) -> str:
    """A value as a sentence shows it."""
    shown = repr(value) if isinstance(value, str | int | float) else kind_of(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"  # noqa: PLR2004 # characters
