"""Reading facts: variables, members, and whether a member is there. What is not there is an error that names it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from gateway.policy.cel.errors import CelError
from gateway.policy.cel.values import Closure, Frame, kind_of


def path(steps: Sequence[str]) -> Closure:
    """A variable and members of it; the common lengths have a closure of their own."""
    name, *rest = steps

    def variable(frame: Frame) -> object:
        try:
            return frame.facts[name]
        except KeyError:
            _lacking(frame, steps)

    def member(frame: Frame) -> object:
        try:
            return frame.facts[name][first]  # type: ignore[index] # what has no members raises
        except (KeyError, TypeError):
            _lacking(frame, steps)

    def deep(frame: Frame) -> object:
        try:
            found = frame.facts[name][first]  # type: ignore[index]
            for step in rest:
                found = found[step]
        except (KeyError, TypeError):
            _lacking(frame, steps)
        return found

    if not rest:
        return variable
    first, *rest = rest
    return deep if rest else member


def _lacking(frame: Frame, steps: Sequence[str]) -> NoReturn:
    """Say where a path ends too early."""
    found: object = frame.facts
    for number, step in enumerate(steps):
        before = ".".join(steps[:number])
        try:
            found = found[step]  # type: ignore[index] # what has no members raises
        except KeyError:
            raise CelError(f"{before} has no {step}" if number else f"there is no {step}") from None
        except TypeError:
            raise CelError(f"{before} is of type {kind_of(found)}, which has no members") from None
    raise CelError(f"{'.'.join(steps)} is there only now and then")


def member(operand: Closure, field: str) -> Closure:
    """A member of what an expression gives."""

    def read(frame: Frame) -> object:
        found = operand(frame)
        try:
            return found[field]  # type: ignore[index] # what has no members raises
        except KeyError:
            raise CelError(f"there is no key {field}") from None
        except TypeError:
            raise CelError(f"what is of type {kind_of(found)} has no members") from None

    return read


def has(operand: Closure, field: str) -> Closure:
    """Whether a member is there, of something that may have members."""

    def asked(frame: Frame) -> bool:
        found = operand(frame)
        try:
            found[field]  # type: ignore[index] # what has no members raises
        except KeyError:
            return False
        except TypeError:
            raise CelError(f"what is of type {kind_of(found)} has no members") from None
        return True

    return asked
