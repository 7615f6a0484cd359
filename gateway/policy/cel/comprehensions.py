"""Comprehensions: `all`, `exists`, `exists_one`, `map` and `filter` over the items of a list or the keys of a map.

Each item is a step of the budget, in nested comprehensions too. The variable is a slot of the frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from gateway.policy.cel.errors import CelError, OutOfBudget
from gateway.policy.cel.values import MAX_STEPS, Closure, Frame, a_bool, keys, kind_of

_Items: TypeAlias = Callable[[Frame], Iterable[object]]


def comprehension(kind: str, source: Closure, slot: int, arguments: Sequence[Closure]) -> Closure:
    """The closure of a macro; `arguments` are those behind the variable."""
    items = _items(kind, source)
    match kind:
        case "all":
            return _quantified(items, slot, *arguments, decisive=False)
        case "exists":
            return _quantified(items, slot, *arguments, decisive=True)
        case "exists_one":
            holding = _collected(items, slot, arguments[0], lambda _: None)
            return lambda frame: len(holding(frame)) == 1
        case "filter":
            return _collected(items, slot, arguments[0], lambda frame: frame.slots[slot])
    *conditions, value = arguments
    return _collected(items, slot, conditions[0] if conditions else None, value)


def _items(kind: str, source: Closure) -> _Items:
    def items(frame: Frame) -> Iterable[object]:
        value = source(frame)
        found = kind_of(value)
        if found == "list":
            return value  # type: ignore[return-value] # by kind
        if found == "map":
            return keys(value)  # type: ignore[arg-type] # by kind
        raise CelError(f"{kind} goes through a list or a map, and this is of type {found}")

    return items


def _step(frame: Frame) -> None:
    frame.steps -= 1
    if frame.steps < 0:
        raise OutOfBudget(f"the expression goes through more than {MAX_STEPS} items")


def _quantified(items: _Items, slot: int, condition: Closure, *, decisive: bool) -> Closure:
    """As `&&` or `||` between what the condition gives for each item."""

    def quantified(frame: Frame) -> bool:
        failure: CelError | None = None
        slots = frame.slots
        for item in items(frame):
            _step(frame)
            slots[slot] = item
            try:
                if a_bool(condition(frame), "the condition") is decisive:
                    return decisive
            except OutOfBudget:
                raise
            except CelError as error:
                failure = error
        if failure is not None:
            raise failure
        return not decisive

    return quantified


def _collected(items: _Items, slot: int, condition: Closure | None, value: Closure) -> Callable[[Frame], list[object]]:
    """A value for each item for which the condition holds."""

    def collected(frame: Frame) -> list[object]:
        found, slots = [], frame.slots
        for item in items(frame):
            _step(frame)
            slots[slot] = item
            if condition is None or a_bool(condition(frame), "the condition"):
                found.append(value(frame))
        return found

    return collected
