"""Types, and the names that an expression may use.

1. `dyn` is a value whose type is known at run time only: it passes every check at load.
2. An object is closed: what it does not declare it never has, so a wrong member is a mistake at load.
   A map is open: its keys are known at run time.
3. A member is certain or optional. A missing one is an error at run time, for which `has()` asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class CelType:
    """A type. Make lists, maps and objects with `list_of`, `map_of` and `object_of`."""

    name: str
    parameters: tuple[CelType, ...] = ()
    members: Mapping[str, CelType] | None = field(default=None, hash=False)  # of a closed object
    optional: frozenset[str] = frozenset()  # those of `members` that may be missing

    def __str__(self) -> str:
        """As documents and mistakes write it: `map(string, dyn)`."""
        return f"{self.name}({', '.join(map(str, self.parameters))})" if self.parameters else self.name


DYN: Final = CelType("dyn")
NULL: Final = CelType("null_type")
BOOL: Final = CelType("bool")
INT: Final = CelType("int")
UINT: Final = CelType("uint")
DOUBLE: Final = CelType("double")
STRING: Final = CelType("string")
BYTES: Final = CelType("bytes")
TIMESTAMP: Final = CelType("google.protobuf.Timestamp")
DURATION: Final = CelType("google.protobuf.Duration")
DECIMAL: Final = CelType("decimal")


def list_of(item: CelType) -> CelType:
    """A list whose items are of this type."""
    return CelType("list", (item,))


def map_of(key: CelType, value: CelType) -> CelType:
    """An open map; what an evaluation is given has string or int keys."""
    return CelType("map", (key, value))


def type_of(named: CelType) -> CelType:
    """The type of a value that is itself a type, as `type(x)` gives it."""
    return CelType("type", (named,))


def object_of(name: str, members: Mapping[str, CelType], optional: Iterable[str] = ()) -> CelType:
    """A closed object; `optional` names those of its members that may be missing."""
    return CelType(name, (), MappingProxyType(dict(members)), frozenset(optional))


class Environment:
    """The variables that expressions may name, with their types."""

    def __init__(self, variables: Mapping[str, CelType]) -> None:
        """`variables` are always there, unless an activation lacks one, which is an error at run time."""
        self.variables: Final = MappingProxyType(dict(variables))

    def certain(self, path: tuple[str, ...]) -> bool:
        """Whether what a path of `Program.reads` names is always there: no optional member, no key of a map."""
        found = self.variables.get(path[0])
        for name in path[1:]:
            if found is None or found.members is None or name in found.optional:
                return False
            found = found.members.get(name)
        return found is not None


FREE: Final = CelType("nothing")
"""What the items of an empty list are: of any type that is asked for."""

_NULLABLE: Final = frozenset({TIMESTAMP, DURATION})
_VARIABLES: Final = frozenset({"A", "B"})  # names that stand for any type in the parameters of an overload


def fits(wanted: CelType, given: CelType, bound: dict[str, CelType]) -> bool:
    """Whether an operand may stand where `wanted` is asked for; binds the type variables of `wanted`."""
    if wanted.name in _VARIABLES:
        common = joined(bound.get(wanted.name, FREE), given)
        if common is not None:
            bound[wanted.name] = common
        return common is not None
    if wanted.name == given.name:
        return all(fits(*pair, bound) for pair in zip(wanted.parameters, given.parameters, strict=True))
    return DYN in {wanted, given} or given is FREE or (given == NULL and wanted in _NULLABLE)


def joined(a: CelType, b: CelType) -> CelType | None:
    """The type of what may be either; `None` where they have nothing in common."""
    if a == b or b is FREE:
        return a
    if a is FREE:
        return b
    if DYN in {a, b}:
        return DYN
    if NULL in {a, b} and not _NULLABLE.isdisjoint({a, b}):
        return b if a == NULL else a
    if a.name != b.name:
        return None
    if a.name == "type":
        return type_of(DYN)
    parameters = [joined(*pair) for pair in zip(a.parameters, b.parameters, strict=True)]
    known = tuple(parameter for parameter in parameters if parameter is not None)
    return CelType(a.name, known) if len(known) == len(parameters) else None


def settled(found: CelType, bound: dict[str, CelType] | None = None) -> CelType:
    """A type with its variables replaced by what they are bound to; without `bound`, with `dyn` for what is open."""
    if found.name in _VARIABLES:
        return (bound or {}).get(found.name, DYN)
    if found is FREE and bound is None:
        return DYN
    return CelType(found.name, tuple(settled(p, bound) for p in found.parameters)) if found.parameters else found
