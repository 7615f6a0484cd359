"""What goes wrong with an expression: a mistake in its text, an error in a value."""

from __future__ import annotations


class CelMistake(Exception):
    """An expression that cannot be compiled: what is wrong, where, and what to do.

    `position` is the offset of the first wrong character in the text, from 0; `remedy` is a clause
    ("did you mean team?") or empty.
    """

    def __init__(self, message: str, position: int, remedy: str = "") -> None:
        """`message` starts in lower case and ends without a full stop, `remedy` too."""
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.message = message
        self.position = position
        self.remedy = remedy


class CelError(Exception):
    """An expression that has no value for these facts: a missing key, an overflow, a wrong type.

    `&&`, `||`, `all` and `exists` ignore it where another operand decides.
    """


class OutOfBudget(CelError):
    """An evaluation that was given up since it asked for too much; no operator ignores it."""
