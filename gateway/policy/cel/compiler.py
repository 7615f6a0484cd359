"""From a checked tree to closures: each takes the `Frame` of one evaluation and gives a value or raises `CelError`.

1. Nothing is looked up that the expression does not name, and nothing is copied.
2. Types of values are looked at where they are used, whatever the checker knew: facts come from outside.
3. `&&`, `||`, `all` and `exists` ignore errors of other operands where one decides; they never ignore `OutOfBudget`.
4. What conditions are mostly made of (a path beside a literal) has closures of its own; all else shares a few.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from gateway.policy.cel import facts
from gateway.policy.cel.automaton import Pattern
from gateway.policy.cel.comprehensions import comprehension
from gateway.policy.cel.errors import CelError, CelMistake, OutOfBudget
from gateway.policy.cel.functions import FUNCTIONS, METHODS
from gateway.policy.cel.operators import OPERATORS, Overload, Run, brief, compare, contained, equal, index
from gateway.policy.cel.syntax import Call, ListLiteral, Literal, Logic, Macro, MapLiteral, Name, Node, Select, path_of
from gateway.policy.cel.times import offset_of
from gateway.policy.cel.values import ITEM, Closure, Frame, TypeValue, a_bool, key_of, kind_of

_INTS: Final[dict[str, Callable[..., bool]]] = {
    "_<_": operator.lt, "_<=_": operator.le, "_>_": operator.gt, "_>=_": operator.ge,
}  # fmt: skip
_READ_ONCE: Final = frozenset({"timestamp", "duration", "decimal"})
"""Functions that read a text: that of a literal is read at load."""


def compiled(node: Node) -> Closure:
    """The closure of a node; raises `CelMistake` for what only a literal shows to be wrong."""
    path = path_of(node)
    match node:
        case Select(test=True):
            return facts.has(compiled(node.operand), node.field)
        case _ if path is not None:
            return facts.path(path)
        case Select():
            return facts.member(compiled(node.operand), node.field)
        case Literal() | Name():
            return _atom(node)
        case ListLiteral() | MapLiteral():
            return _collection(node)
        case Logic():
            return _logic([compiled(operand) for operand in node.operands], decisive=node.sign == "||")
        case Macro():
            source, arguments = compiled(node.source), [compiled(argument) for argument in node.arguments]
            return comprehension(node.kind, source, node.slot, arguments)
        case Call():
            return _call(node, [compiled(operand) for operand in node.operands])


def _atom(node: Literal | Name) -> Closure:
    if isinstance(node, Name) and node.slot is not None:
        slot = node.slot
        return lambda frame: frame.slots[slot]
    value = TypeValue(node.name) if isinstance(node, Name) else node.value
    return lambda _: value


def _collection(node: ListLiteral | MapLiteral) -> Closure:
    if isinstance(node, MapLiteral):
        return _map([(compiled(key), compiled(value)) for key, value in node.entries])
    items = [compiled(item) for item in node.items]

    def made(frame: Frame) -> list[object]:
        frame.pay(ITEM * len(items))
        return [item(frame) for item in items]

    return made


def _map(entries: Sequence[tuple[Closure, Closure]]) -> Closure:
    def made(frame: Frame) -> dict[object, object]:
        frame.pay(ITEM * len(entries))
        found: dict[object, object] = {}
        for key, value in entries:
            name = key(frame)
            place = key_of(name)
            if type(name) is float:
                raise CelError("a key of a map cannot be of type double")
            if place in found:
                raise CelError(f"the map has the key {brief(name)} twice")
            found[place] = value(frame)
        return found

    return made


def _logic(operands: Sequence[Closure], *, decisive: bool) -> Closure:
    """A row of `&&` (where false decides) or of `||`."""

    def logic(frame: Frame) -> bool:
        failure: CelError | None = None
        for operand in operands:
            try:
                if a_bool(operand(frame), "an operand") is decisive:
                    return decisive
            except OutOfBudget:
                raise
            except CelError as error:
                failure = error
        if failure is not None:
            raise failure
        return not decisive

    return logic


def _call(node: Call, operands: Sequence[Closure]) -> Closure:
    """Operators and functions with code of their own; else the overload for the values is looked for each time."""
    match node.function, operands:
        case (("_==_" | "_!=_"), (left, right)):
            return _equal(left, right, node.operands[1], wanted=node.function == "_==_")
        case (("_<_" | "_<=_" | "_>_" | "_>=_"), (left, right)):
            return _compare(node.function, left, right, node.operands[1])
        case "@in", (item, container):
            return _in(item, container, node.operands[1])
        case "_[_]", (container, key):
            return lambda frame: index(container(frame), key(frame))
        case "!_", (only,):
            return lambda frame: not a_bool(only(frame), "the operand of !")
        case "_?_:_", (test, then, other):
            return lambda frame: then(frame) if a_bool(test(frame), "the condition of ? :") else other(frame)
        case "matches", (subject, _):
            return _matches(subject, node.operands[1])
    if node.function.startswith("get"):
        _known(node.operands[1:])
    table = METHODS if node.receiver else FUNCTIONS
    closure = _dispatched(node.function, operands, OPERATORS.get(node.function) or table[node.function])
    return _fixed(closure, node) if node.function in _READ_ONCE else closure


def _fixed(closure: Closure, node: Call) -> Closure:
    """The value itself where the operand is a literal; what can never be one is a mistake."""
    literal = node.operands[0]
    if not isinstance(literal, Literal):
        return closure
    try:
        value = closure(Frame({}, 0))
    except CelError as error:
        raise CelMistake(str(error), literal.at) from None
    return lambda _: value


def _dispatched(name: str, operands: Sequence[Closure], overloads: Iterable[Overload]) -> Closure:
    runs: dict[tuple[str, ...], Run] = {}
    for overload in overloads:
        if overload.run is not None:
            runs[tuple(parameter.name for parameter in overload.parameters)] = overload.run
    any_type = runs.get(("A",))

    def dispatched(frame: Frame) -> object:
        values = [operand(frame) for operand in operands]
        kinds = tuple(map(kind_of, values))
        run = runs.get(kinds, any_type)
        if run is None:
            raise CelError(f"{name.strip('_')} does not take ({', '.join(kinds)})")
        return run(frame, *values)

    return dispatched


def _equal(left: Closure, right: Closure, second: Node, *, wanted: bool) -> Closure:
    constant = second.value if isinstance(second, Literal) else None
    kind = type(constant)

    def same_as(frame: Frame) -> bool:
        value = left(frame)
        return (value == constant if type(value) is kind else equal(value, constant, frame)) is wanted

    return same_as if kind in {str, int} else lambda frame: equal(left(frame), right(frame), frame) is wanted


def _compare(name: str, left: Closure, right: Closure, second: Node) -> Closure:
    ask, constant = _INTS[name], second.value if isinstance(second, Literal) else None

    def with_int(frame: Frame) -> bool:
        value = left(frame)
        return ask(value, constant) if type(value) is int else compare(name, value, constant, frame)

    return with_int if type(constant) is int else lambda frame: compare(name, left(frame), right(frame), frame)


def _in(item: Closure, container: Closure, second: Node) -> Closure:
    """`in` a list of texts that stands in the expression is one look into a set."""
    constants = second.items if isinstance(second, ListLiteral) else []
    texts = frozenset(each.value for each in constants if isinstance(each, Literal) and type(each.value) is str)

    def among(frame: Frame) -> bool:
        value = item(frame)
        return value in texts if type(value) is str else contained(value, container(frame), frame)

    only_texts = constants and len(texts) == len(constants)
    return among if only_texts else lambda frame: contained(item(frame), container(frame), frame)


def _matches(subject: Closure, pattern: Node) -> Closure:
    if not isinstance(pattern, Literal) or type(pattern.value) is not str:
        raise CelMistake(
            "the pattern of matches() has to stand in the expression", pattern.at,
            'write it as a string, such as matches("^A[0-9]+$"), or use contains() or startsWith()',
        )  # fmt: skip
    found_in = Pattern(pattern.value, pattern.at).found_in

    def matches(frame: Frame) -> bool:
        value = subject(frame)
        if type(value) is not str:
            raise CelError(f"matches does not take ({kind_of(value)})")
        return found_in(value, frame.pay)

    return matches


def _known(zones: Sequence[Node]) -> None:
    """Look for the time zone, where one is given as a literal."""
    for zone in zones:
        if isinstance(zone, Literal):
            try:
                offset_of(str(zone.value))
            except CelError as error:
                raise CelMistake(str(error), zone.at) from None
