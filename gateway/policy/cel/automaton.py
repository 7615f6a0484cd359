"""Finding a pattern in a text in linear time: Thompson's construction, its states made into a DFA as they are met.

1. A text is read once, from left to right; a character costs at most one look at each state.
2. States and steps that were met are kept for the next character and the next text, up to a limit.
3. What is not kept is paid for: see `Frame.pay`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from gateway.policy.cel.errors import CelMistake
from gateway.policy.cel.pattern import Assertion, Chars, Choice, Part, Repeat, Row, read_pattern
from gateway.policy.cel.values import ITEM

MAX_STATES: Final = 1000
_KEPT_STATES: Final = 200
_KEPT_STEPS: Final = 100  # from one state: characters

_Before: TypeAlias = str  # what was read last: `start`, `line` (a line feed), `word` or `other`
_MATCH: Final = 0  # the instruction at which the pattern is found
_Instruction: TypeAlias = "tuple[Chars | Assertion | None, int, int]"
"""What is asked for, the next instruction, and for a branch (which asks for nothing) the other one."""


class _State:
    """Where the automaton stands: the instructions that wait for a character, and what was read last."""

    __slots__ = ("before", "steps", "waiting")

    def __init__(self, waiting: frozenset[int], before: _Before) -> None:
        self.waiting = waiting
        self.before = before
        self.steps: dict[str, _State] = {}


_FOUND: Final = _State(frozenset(), "other")


class Pattern:
    """A pattern, ready to be looked for in any number of texts."""

    def __init__(self, text: str, position: int) -> None:
        """Compile a pattern that stands at `position` of an expression; raises `CelMistake`."""
        self._position = position
        self._instructions: list[_Instruction] = [(None, 0, 0)]
        self._entry = self._emit(read_pattern(text, position), _MATCH)
        self._states: dict[tuple[frozenset[int], _Before], _State] = {}
        self._start = _State(frozenset({self._entry}), "start")

    def found_in(self, subject: str, pay: Callable[[int], None]) -> bool:
        """Whether the pattern is anywhere in the text; `pay` is told of the work before it is done."""
        pay(ITEM * len(subject))
        state = self._start
        for char in subject:
            state = state.steps.get(char) or self._step(state, char, pay)
            if state is _FOUND:
                return True
        return _MATCH in self._reached(state, "", pay)

    def _step(self, state: _State, char: str, pay: Callable[[int], None]) -> _State:
        reached = self._reached(state, char, pay)
        if _MATCH in reached:
            following = _FOUND
        else:
            waiting = {self._entry}
            for number in reached:
                asked, following_number, _ = self._instructions[number]
                if isinstance(asked, Chars) and char in asked:
                    waiting.add(following_number)
            before = "line" if char == "\n" else "word" if _is_word(char) else "other"
            following = self._kept(frozenset(waiting), before)
        if len(state.steps) >= _KEPT_STEPS:
            state.steps.clear()
        state.steps[char] = following
        return following

    def _kept(self, waiting: frozenset[int], before: _Before) -> _State:
        found = self._states.get((waiting, before))
        if found is None:
            if len(self._states) >= _KEPT_STATES:
                self._states.clear()
                self._start.steps.clear()  # else it would keep the old ones alive
            found = self._states[waiting, before] = _State(waiting, before)
        return found

    def _reached(self, state: _State, char: str, pay: Callable[[int], None]) -> set[int]:
        """All instructions that can be come to without reading on, `char` being next (empty: the end)."""
        reached: set[int] = set()
        pending = list(state.waiting)
        while pending:
            number = pending.pop()
            if number in reached:
                continue
            reached.add(number)
            asked, following, other = self._instructions[number]
            if number == _MATCH or isinstance(asked, Chars):
                continue
            if asked is None:
                pending += (following, other)
            elif _holds(asked.kind, state.before, char):
                pending.append(following)
        pay(ITEM * len(reached))
        return reached

    def _emit(self, part: Part, following: int) -> int:
        """Add the instructions of a part that goes on at `following`; returns the first one."""
        match part:
            case Chars() | Assertion():
                return self._add((part, following, following))
            case Row(parts=parts):
                for each in reversed(parts):
                    following = self._emit(each, following)
                return following
            case Choice(parts=parts):
                return self._branch([self._emit(each, following) for each in parts])
            case Repeat():
                return self._repeat(part, following)

    def _branch(self, ways: Iterable[int]) -> int:
        first, *others = ways
        for other in others:
            first = self._add((None, first, other))
        return first

    def _repeat(self, repeat: Repeat, following: int) -> int:
        if repeat.most is None:
            loop = self._add((None, following, following))
            self._instructions[loop] = (None, self._emit(repeat.part, loop), following)
            first = loop
        else:
            first = following
            for _ in range(repeat.most - repeat.least):
                first = self._add((None, self._emit(repeat.part, first), following))
        for _ in range(repeat.least):
            first = self._emit(repeat.part, first)
        return first

    def _add(self, instruction: _Instruction) -> int:
        if len(self._instructions) >= MAX_STATES:
            raise CelMistake(f"the pattern needs more than {MAX_STATES} states", self._position, "repeat less")
        self._instructions.append(instruction)
        return len(self._instructions) - 1


def _holds(kind: str, before: _Before, char: str) -> bool:
    """Whether a place is between what was read last and what comes next."""
    match kind:
        case "start":
            return before == "start"
        case "end":
            return char == ""
        case "line_start":
            return before in {"start", "line"}
        case "line_end":
            return char in {"", "\n"}
    return ((before == "word") is not _is_word(char)) is (kind == "boundary")


def _is_word(char: str) -> bool:
    return char == "_" or (char.isascii() and char.isalnum())
