"""Values as an expression sees them: plain Python, and a few classes for what Python has no type for.

1. `bool`, `int` (64 bits), `float`, `str`, `bytes`, `None`, lists and mappings stand for themselves.
   `UInt`, `Timestamp`, `Duration`, `Decimal` and `TypeValue` are the other types.
2. `true` and `1` are different values and different keys, which they are not in Python: see `key_of`.
3. What costs more than a moment is paid for, see `Frame`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeAlias

from gateway.policy.cel.errors import CelError, OutOfBudget

MIN_INT: Final = -(2**63)
MAX_INT: Final = 2**63 - 1
MAX_UINT: Final = 2**64 - 1
MAX_STEPS: Final = 10_000  # of comprehensions, nested ones counted together
MAX_WORK: Final = 4_000_000  # units: a character that is looked at or made is one
MAX_DEPTH: Final = 128  # of values that are compared or returned
ITEM: Final = 32  # units that an item of a list or an entry of a map costs


class UInt(int):
    """A value of type uint."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, order=True)
class Timestamp:
    """A moment: nanoseconds since 1970-01-01T00:00:00Z, within the years 1 to 9999."""

    ns: int

    @classmethod
    def at(cls, seconds: float) -> Timestamp:
        """The moment of an epoch time in seconds, to the microsecond."""
        return cls(round(seconds * 1_000_000) * 1000)


@dataclass(frozen=True, slots=True, order=True)
class Duration:
    """A length of time in nanoseconds, within 64 bits: about 292 years either way."""

    ns: int

    @classmethod
    def of(cls, seconds: float) -> Duration:
        """A length in seconds, to the microsecond."""
        return cls(round(seconds * 1_000_000) * 1000)


@dataclass(frozen=True, slots=True)
class TypeValue:
    """A type as a value: what `type(x)` gives and `int`, `string` … name."""

    name: str


class BoolKey(enum.Enum):
    """A key of type bool in a map that an expression made; outside of it `true` would be the key `1`."""

    FALSE = 0
    TRUE = 1


class Frame:
    """One evaluation: what it reads, what it may still spend, and the variables of its comprehensions."""

    __slots__ = ("facts", "slots", "steps", "work")

    def __init__(self, facts: Mapping[str, object], slots: int) -> None:
        """Begin with whole budgets."""
        self.facts = facts
        self.steps = MAX_STEPS
        self.work = MAX_WORK
        self.slots: list[object] = [None] * slots

    def pay(self, units: int) -> None:
        """Take units of work from the budget, before the work is done."""
        self.work -= units
        if self.work < 0:
            raise OutOfBudget(f"the expression looks at or makes too much: more than {MAX_WORK} units of work")


Closure: TypeAlias = Callable[[Frame], object]
"""A compiled expression: gives a value or raises `CelError`."""

_KINDS: Final[dict[type, str]] = {
    type(None): "null_type",
    bool: "bool",
    int: "int",
    UInt: "uint",
    float: "double",
    str: "string",
    bytes: "bytes",
    list: "list",
    tuple: "list",
    dict: "map",
    Timestamp: "google.protobuf.Timestamp",
    Duration: "google.protobuf.Duration",
    Decimal: "decimal",
    TypeValue: "type",
}


def kind_of(value: object) -> str:
    """The name of a value's type, without parameters."""
    known = _KINDS.get(type(value))
    if known is not None:
        return known
    if isinstance(value, Mapping):
        return "map"
    raise CelError(f"a value of the Python type {type(value).__name__} has no type in CEL")


def a_bool(value: object, role: str) -> bool:
    """The value, where it is a bool; `role` is what it stands for."""
    if type(value) is bool:
        return value
    raise CelError(f"{role} has to be a bool, and is of type {kind_of(value)}")


def key_of(value: object) -> object:
    """A value as a key of a map; what cannot be one is an error. Numbers that are equal are one key."""
    if value is True:
        return BoolKey.TRUE
    if value is False:
        return BoolKey.FALSE
    if type(value) in {str, int, UInt, float}:
        return value
    raise CelError(f"a key of a map cannot be of type {kind_of(value)}")


def keys(mapping: Mapping[object, object]) -> Iterator[object]:
    """The keys of a map as values."""
    for key in mapping:
        yield bool(key.value) if type(key) is BoolKey else key


def plain(value: object, depth: int = 0) -> object:
    """A value that may leave: with no `BoolKey` in it."""
    if depth > MAX_DEPTH:
        raise OutOfBudget(f"the value is nested deeper than {MAX_DEPTH} levels")
    if type(value) is list:
        return [plain(item, depth + 1) for item in value]
    if type(value) is dict:
        found = {key: plain(item, depth + 1) for key, item in zip(keys(value), value.values(), strict=True)}
        if len(found) < len(value):
            raise CelError("the value is a map with the keys true and 1, or false and 0, which cannot be told apart")
        return found
    return value
