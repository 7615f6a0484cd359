"""The tree of an expression. The parser makes it, the checker gives each node its type, the compiler reads both.

`start` and `end` are offsets in the text; `at` is where a mistake in the node points to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from gateway.policy.cel.declared import DYN, CelType


@dataclass(slots=True, eq=False, kw_only=True)
class _Place:
    start: int
    end: int
    at: int
    depth: int = 0
    type: CelType = field(default=DYN)


@dataclass(slots=True, eq=False)
class Literal(_Place):
    """A value that stands in the text."""

    value: object


@dataclass(slots=True, eq=False)
class Name(_Place):
    """A variable, or the name of a type (`of_type`). `.name` is `absolute`; `slot` is a comprehension variable's."""

    name: str
    absolute: bool = False
    slot: int | None = None
    of_type: bool = False


@dataclass(slots=True, eq=False)
class Select(_Place):
    """`operand.field`, or `has(operand.field)`."""

    operand: Node
    field: str
    test: bool = False


@dataclass(slots=True, eq=False)
class Call(_Place):
    """A function or an operator (`_+_`, `_[_]`, `_?_:_` …); of a receiver call the first operand is the receiver."""

    function: str
    operands: list[Node]
    receiver: bool = False


@dataclass(slots=True, eq=False)
class Logic(_Place):
    """All operands of a row of `&&`, or of `||`."""

    sign: str
    operands: list[Node]


@dataclass(slots=True, eq=False)
class ListLiteral(_Place):
    """`[a, b]`."""

    items: list[Node]


@dataclass(slots=True, eq=False)
class MapLiteral(_Place):
    """`{a: b}`."""

    entries: list[tuple[Node, Node]]


@dataclass(slots=True, eq=False)
class Macro(_Place):
    """A comprehension: `source.kind(variable, arguments…)`. `slot` is the variable's."""

    kind: str
    source: Node
    variable: str
    arguments: list[Node]
    slot: int = 0


Node: TypeAlias = Literal | Name | Select | Call | Logic | ListLiteral | MapLiteral | Macro


def path_of(node: Node) -> tuple[str, ...] | None:
    """The path that a node reads from the facts: `args.a["b"]` is ("args", "a", "b"); `None` where it is no path."""
    steps: list[str] = []
    while True:
        match node:
            case Name(slot=None, of_type=False, name=name):
                return (name, *reversed(steps))
            case Select(operand=operand, field=step):
                node = operand
                steps.append(step)
            case Call(function="_[_]", operands=[operand, Literal(value=str(step))]):
                node = operand
                steps.append(step)
            case _:
                return None


def parts(node: Node) -> list[Node]:
    """The nodes right below a node."""
    match node:
        case Select():
            return [node.operand]
        case Call() | Logic():
            return node.operands
        case ListLiteral():
            return node.items
        case MapLiteral():
            return [part for entry in node.entries for part in entry]
        case Macro():
            return [node.source, *node.arguments]
    return []
