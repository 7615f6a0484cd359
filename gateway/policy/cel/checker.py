"""Types at load: every node of a tree gets its type, every name its meaning (langdef.md, "Gradual Type Checking").

1. A name, a member of a closed object or a function that is not there is a mistake, and so are operands that no
   overload takes. The nearest name that is there is offered.
2. What is `dyn` passes, and is checked when the value is there.
3. Numbers of different types may be ordered, as cel-go has it; `==` asks for one type, as the specification has it.

What it refuses to know: values.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Final

from gateway.policy.cel.declared import (
    BOOL,
    BYTES,
    DECIMAL,
    DOUBLE,
    DURATION,
    DYN,
    FREE,
    INT,
    NULL,
    STRING,
    TIMESTAMP,
    UINT,
    CelType,
    Environment,
    fits,
    joined,
    list_of,
    map_of,
    settled,
    type_of,
)
from gateway.policy.cel.errors import CelMistake
from gateway.policy.cel.functions import FUNCTIONS, METHODS
from gateway.policy.cel.operators import OPERATORS, Overload
from gateway.policy.cel.syntax import Call, ListLiteral, Literal, Logic, Macro, MapLiteral, Name, Node, Select
from gateway.policy.cel.values import UInt

TYPES: Final = {
    named.name: type_of(named)
    for named in (
        BOOL, BYTES, DECIMAL, DOUBLE, DURATION, INT, NULL, STRING, TIMESTAMP, UINT,
        list_of(DYN), map_of(DYN, DYN), CelType("type"),
    )
}  # fmt: skip
"""Types that have a name, which is a value."""

_LITERALS: Final[dict[type, CelType]] = {
    bool: BOOL, int: INT, UInt: UINT, float: DOUBLE, str: STRING, bytes: BYTES, type(None): NULL,
}  # fmt: skip
_KEYS: Final = frozenset({"int", "uint", "bool", "string", "dyn", FREE.name})
_SIGNS: Final = {
    "_==_": ("==", "compare values of one type, with int(), string() or another function around one of them"),
    "_!=_": ("!=", "compare values of one type, with int(), string() or another function around one of them"),
    "@in": ("in", "look for an item in a list of that type, for a key in a map, with contains() in a text"),
    "_[_]": ("[]", "a list takes an int, a map a key, and of other things members are written with a point"),
    "_?_:_": ("? :", "write a bool before the ?, and two values of one type behind it"),
}
_FORMS: Final = 4  # of a function that are shown


def check(tree: Node, text: str, environment: Environment) -> int:
    """Give every node its type; returns how many variables of comprehensions there are at once."""
    checker = _Checker(text, environment)
    checker.check(tree)
    return checker.slots


class _Checker:
    def __init__(self, text: str, environment: Environment) -> None:
        self._text = text
        self._variables = environment.variables
        self._scope: list[tuple[str, CelType]] = []
        self.slots = 0

    def check(self, node: Node) -> CelType:
        match node:
            case Literal():
                node.type = _LITERALS[type(node.value)]
            case Name():
                node.type = self._name(node)
            case Select():
                node.type = self._select(node)
            case Call():
                node.type = self._call(node)
            case Logic():
                for operand in node.operands:
                    self._condition(operand, f"an operand of {node.sign}")
                node.type = BOOL
            case ListLiteral():
                node.type = list_of(_union(map(self.check, node.items)))
            case MapLiteral():
                node.type = self._map(node)
            case Macro():
                node.type = self._macro(node)
        return node.type

    def _name(self, node: Name) -> CelType:
        if not node.absolute:
            for slot in reversed(range(len(self._scope))):
                if self._scope[slot][0] == node.name:
                    node.slot = slot
                    return self._scope[slot][1]
        found = self._variables.get(node.name)
        if found is None:
            found = TYPES.get(node.name)
            node.of_type = found is not None
        if found is None:
            known = [*self._variables, *(name for name, _ in self._scope)]
            remedy = _nearest(node.name, known, "the names are")
            raise CelMistake(f"there is no {node.name} here", node.at, remedy)
        return found

    def _select(self, node: Select) -> CelType:
        operand = self.check(node.operand)
        if operand.members is not None:
            found = operand.members.get(node.field)
            if found is None:
                shown, remedy = self._shown(node.operand), _nearest(node.field, operand.members, "its members are")
                raise CelMistake(f"{shown} has no member {node.field}", node.at, remedy)
        elif operand.name == "map":
            found = operand.parameters[1]
        elif operand in {DYN, FREE}:
            found = DYN
        else:
            raise CelMistake(
                f"{self._shown(node.operand)} is of type {settled(operand)}, which has no members", node.at
            )
        return BOOL if node.test else found

    def _map(self, node: MapLiteral) -> CelType:
        for key, _ in node.entries:
            if self.check(key).name not in _KEYS:
                raise CelMistake(f"a key of a map cannot be of type {settled(key.type)}", key.at, "write a string")
        keys = _union(key.type for key, _ in node.entries)
        return map_of(keys, _union([self.check(value) for _, value in node.entries]))

    def _macro(self, node: Macro) -> CelType:
        source = self.check(node.source)
        if source.name in {"list", "map"}:
            item = source.parameters[0]
        elif source in {DYN, FREE}:
            item = DYN
        else:
            shown = self._shown(node.source)
            raise CelMistake(f"{shown} is of type {settled(source)}, and {node.kind} takes a list or a map", node.at)
        node.slot = len(self._scope)
        self._scope.append((node.variable, item))
        self.slots = max(self.slots, len(self._scope))
        *conditions, last = node.arguments
        for condition in conditions:
            self._condition(condition, f"the condition of {node.kind}")
        if node.kind == "map":
            found = list_of(self.check(last))
        else:
            self._condition(last, f"the condition of {node.kind}")
            found = list_of(item) if node.kind == "filter" else BOOL
        self._scope.pop()
        return found

    def _condition(self, node: Node, role: str) -> None:
        found = self.check(node)
        if not fits(BOOL, found, {}):
            raise CelMistake(f"{role} has to be a bool, and this is of type {settled(found)}", node.at, "compare it")

    def _call(self, node: Call) -> CelType:
        operands = [self.check(operand) for operand in node.operands]
        overloads = OPERATORS.get(node.function)
        if overloads is None:
            overloads = self._overloads(node)
        results = [found for overload in overloads if (found := _result(overload, operands)) is not None]
        if not results:
            raise self._misfit(node, operands, overloads)
        return results[0] if all(result == results[0] for result in results) else DYN

    def _overloads(self, node: Call) -> tuple[Overload, ...]:
        table, other = (METHODS, FUNCTIONS) if node.receiver else (FUNCTIONS, METHODS)
        if node.function in table:
            return table[node.function]
        if node.function in other:
            form = f"{node.function}(x)" if node.receiver else f"x.{node.function}()"
            raise CelMistake(f"{node.function} is not called like this", node.at, f"write {form}")
        raise CelMistake(f"there is no function {node.function}", node.at, _nearest(node.function, table, "there are"))

    def _misfit(self, node: Call, operands: list[CelType], overloads: Iterable[Overload]) -> CelMistake:
        given = [str(settled(operand)) for operand in operands]
        if "double" in given and "decimal" in {*given, node.function}:
            return CelMistake(
                "a decimal never meets a double, which cannot hold most amounts exactly", node.at,
                'write decimal("1.50") instead of 1.5',
            )  # fmt: skip
        if "null_type" in given and node.function in {"_==_", "_!=_"}:
            other = next((kind for kind in given if kind != "null_type"), "null_type")
            return CelMistake(f"what is of type {other} is never null", node.at, "ask has() whether a member is there")
        name, remedy = _SIGNS.get(node.function, (node.function.strip("_"), ""))
        if not remedy:
            forms = [f"({', '.join(map(str, each.parameters))})" for each in overloads]
            remedy = f"it takes {' or '.join(forms[:_FORMS])}{' or others' if len(forms) > _FORMS else ''}"
        return CelMistake(f"{name} does not take ({', '.join(given)})", node.at, remedy)

    def _shown(self, node: Node) -> str:
        shown = self._text[node.start : node.end]
        return shown if len(shown) <= 60 else f"{shown[:60]}…"  # noqa: PLR2004 # characters


def _result(overload: Overload, operands: Sequence[CelType]) -> CelType | None:
    """What an overload gives for operands of these types; `None` where it does not take them."""
    bound: dict[str, CelType] = {}
    if len(overload.parameters) != len(operands):
        return None
    for wanted, given in zip(overload.parameters, operands, strict=True):
        if not fits(wanted, given, bound):
            return None
    return settled(overload.result, bound)


def _union(types: Iterable[CelType]) -> CelType:
    """The type of items that stand together: their common one, else dyn."""
    found = FREE
    for other in types:
        found = joined(found, other) or DYN
    return found


def _nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else f"{otherwise} {', '.join(sorted(known))}"
