r"""Patterns of `matches()`: the syntax of RE2, read into a small tree (see `Part`), which automaton.py runs.

Not there: scripts (`\p{Greek}`; categories such as `\p{Lu}` are there), `\C`, a repetition right behind flags, and what
RE2 itself refuses, such as back-references and looking around.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NoReturn, TypeAlias

from gateway.policy.cel.errors import CelMistake

MAX_PATTERN: Final = 1000  # characters
_MAX_DEPTH: Final = 32
_MAX_REPEAT: Final = 1000
_LAST: Final = 0x10FFFF


@dataclass(frozen=True, slots=True)
class Chars:
    """A set of characters: those of some ranges (code points), categories and other sets, or all but those."""

    ranges: tuple[tuple[int, int], ...] = ()
    categories: tuple[str, ...] = ()  # general categories of Unicode, or their first letter
    others: tuple[Chars, ...] = ()
    negated: bool = False
    folded: bool = False  # upper and lower case are one

    def __contains__(self, char: str) -> bool:
        """Whether a character is in it."""
        among = self._has(char) or (self.folded and any(map(self._has, _cases(char))))
        return among is not self.negated

    def _has(self, char: str) -> bool:
        code = ord(char)
        return (
            any(low <= code <= high for low, high in self.ranges)
            or (self.categories != () and unicodedata.category(char).startswith(self.categories))
            or any(char in other for other in self.others)
        )


@dataclass(frozen=True, slots=True)
class Assertion:
    """A place: `start` or `end` of the text, `line_start` or `line_end`, a `boundary` of a word, or `inside`: none."""

    kind: str


@dataclass(frozen=True, slots=True)
class Row:
    """One part after the other; none is the empty text."""

    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """Any of the parts."""

    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A part `least` to `most` times; `None` is without end."""

    part: Part
    least: int
    most: int | None


Part: TypeAlias = Chars | Assertion | Row | Choice | Repeat

_DIGIT: Final = Chars(((48, 57),))
_WORD: Final = Chars(((48, 57), (65, 90), (95, 95), (97, 122)))
_SPACE: Final = Chars(((9, 10), (12, 13), (32, 32)))
_PERL: Final = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_PLACES: Final = {"A": "start", "z": "end", "b": "boundary", "B": "inside"}
_CONTROLS: Final = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_CATEGORIES: Final = frozenset({
    "C", "Cc", "Cf", "Co", "Cs", "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N", "Nd", "Nl", "No",
    "P", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm", "So", "Z", "Zl", "Zp", "Zs",
})  # fmt: skip


def _ascii(test: Callable[[str], bool] | str) -> Chars:
    codes = [code for code in range(128) if (chr(code) in test if isinstance(test, str) else test(chr(code)))]
    return Chars(tuple((code, code) for code in codes))


_POSIX: Final = {
    "alnum": _ascii(str.isalnum), "alpha": _ascii(str.isalpha), "ascii": Chars(((0, 127),)),
    "blank": _ascii(" \t"), "cntrl": Chars(((0, 31), (127, 127))), "digit": _DIGIT, "graph": Chars(((33, 126),)),
    "lower": _ascii(string.ascii_lowercase), "print": Chars(((32, 126),)), "punct": _ascii(string.punctuation),
    "space": Chars(((9, 13), (32, 32))), "upper": _ascii(string.ascii_uppercase), "word": _WORD,
    "xdigit": _ascii(string.hexdigits),
}  # fmt: skip


def _cases(char: str) -> set[str]:
    """A character's other cases, those of one character."""
    near = {char.lower(), char.upper()}
    return {other for case in near for other in (case, case.lower(), case.upper()) if len(other) == 1}


def read_pattern(text: str, position: int) -> Part:
    """The tree of a pattern; raises `CelMistake` at `position`."""
    return _Reader(text, position).whole()


class _Reader:
    def __init__(self, text: str, position: int) -> None:
        self._text = text
        self._position = position
        self._at = 0
        self._depth = 0
        self._flags: frozenset[str] = frozenset()
        if len(text) > MAX_PATTERN:
            self._wrong(f"is longer than {MAX_PATTERN} characters")

    def whole(self) -> Part:
        part = self._choice()
        if self._at < len(self._text):
            self._wrong("has a ) without a (")
        return part

    def _wrong(self, what: str, remedy: str = "write it in the syntax of RE2") -> NoReturn:
        raise CelMistake(f"the pattern {what} (at its character {self._at})", self._position, remedy)

    def _peek(self, length: int = 1) -> str:
        return self._text[self._at : self._at + length]

    def _accept(self, sign: str) -> bool:
        found = self._text.startswith(sign, self._at)
        self._at += len(sign) if found else 0
        return found

    def _choice(self) -> Part:
        """What stands between brackets; flags that are set in it end with it."""
        flags = self._flags
        rows = [self._row()]
        while self._accept("|"):
            rows.append(self._row())
        self._flags = flags
        return rows[0] if len(rows) == 1 else Choice(tuple(rows))

    def _row(self) -> Part:
        parts: list[Part] = []
        while self._peek() not in {"", "|", ")"}:
            if self._accept("\\Q"):
                quoted, _, _ = self._text[self._at :].partition("\\E")
                self._at = min(self._at + len(quoted) + 2, len(self._text))
                parts.extend(self._char(ord(char)) for char in quoted[:-1])
                if not quoted:
                    continue
                parts.append(self._repeated(self._char(ord(quoted[-1]))))
            elif (atom := self._atom()) is not None:
                parts.append(self._repeated(atom))
        return parts[0] if len(parts) == 1 else Row(tuple(parts))

    def _repeated(self, part: Part) -> Part:
        times = self._times()
        if times is None:
            return part
        self._accept("?")  # as few as possible: finds the same texts
        if self._times() is not None:
            self._wrong("repeats a repetition", "put brackets around the inner one: (?:a*)*")
        return Repeat(part, *times)

    def _times(self) -> tuple[int, int | None] | None:
        """How often the part before may come, where a sign says so; `{` that says nothing is a character."""
        for sign, times in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._accept(sign):
                return times
        if self._peek() != "{":
            return None
        body, closed, _ = self._text[self._at + 1 : self._at + 12].partition("}")
        least, comma, most = body.partition(",")
        if not closed or not _number(least) or not (_number(most) or most == ""):
            return None
        low, high = int(least), (int(most) if most else None) if comma else int(least)
        if low > _MAX_REPEAT or (high is not None and (high > _MAX_REPEAT or high < low)):
            self._wrong("repeats from more to less, or more than 1000 times", "write {least,most}, most at most 1000")
        self._at += len(body) + 2
        return low, high

    def _atom(self) -> Part | None:
        """One part; `None` where flags are set for what follows."""
        char = self._peek()
        self._at += 1
        match char:
            case "(":
                return self._group()
            case "[":
                return self._set()
            case ".":
                return Chars(((0, _LAST),)) if "s" in self._flags else Chars(((10, 10),), negated=True)
            case "^":
                return Assertion("line_start" if "m" in self._flags else "start")
            case "$":
                return Assertion("line_end" if "m" in self._flags else "end")
            case "*" | "+" | "?" | "{" if self._repeats(char):
                self._wrong("repeats nothing", f"write \\{char} for the character")
            case "\\":
                return self._escaped()
        return self._char(ord(char))

    def _repeats(self, char: str) -> bool:
        """Whether a sign that was just read says how often something may come."""
        self._at -= 1
        repeats = self._times() is not None
        self._at += 0 if repeats else len(char)
        return repeats

    def _char(self, code: int) -> Chars:
        if "i" not in self._flags:
            return Chars(((code, code),))
        return Chars(tuple((ord(case), ord(case)) for case in {chr(code), *_cases(chr(code))}), folded=True)

    def _group(self) -> Part | None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._wrong(f"is nested deeper than {_MAX_DEPTH} levels")
        before = self._flags
        if self._accept("?"):
            if self._accept("P<") or (self._peek(2) not in {"<=", "<!"} and self._accept("<")):
                self._name()
            elif not self._set_flags():
                self._depth -= 1
                return None
        part = self._choice()
        if not self._accept(")"):
            self._wrong("has a ( without a )")
        self._flags = before
        self._depth -= 1
        return part

    def _name(self) -> None:
        name, closed, _ = self._text[self._at :].partition(">")
        if not closed or not name.replace("_", "a").isalnum():
            self._wrong("has a group without a good name", "write (?:…)")
        self._at += len(name) + 1

    def _set_flags(self) -> bool:
        """Read `i`, `m`, `s`, `U` and those that are taken back; whether a group follows, else they stand alone."""
        flags, sets, some = set(self._flags), True, False
        while (char := self._peek()) not in {":", ")"}:
            if char and char in "imsU":
                (flags.add if sets else flags.discard)(char)
                some = True
            elif char == "-" and sets:
                sets, some = False, False
            else:
                self._wrong("has a (? that is not supported", "back-references and looking around are not in RE2")
            self._at += 1
        if not some and not sets:
            self._wrong("has flags without a flag", "write (?:…)")
        self._at += 1
        self._flags = frozenset(flags)
        return char == ":"

    def _escaped(self) -> Part:
        char = self._peek()
        if char in _PLACES:
            self._at += 1
            return Assertion(_PLACES[char])
        return self._class() or self._char(self._point())

    def _class(self) -> Chars | None:
        """`d`, `W`, `pL`, `p{Lu}` … behind a backslash."""
        char = self._peek()
        if char and char in "dDwWsS":
            self._at += 1
            return Chars(others=(_PERL[char.lower()],), negated=char.isupper(), folded="i" in self._flags)
        if char not in {"p", "P"}:
            return None
        name, self._at = self._peek(2)[1:], self._at + 2
        if name == "{":
            name, closed, _ = self._text[self._at :].partition("}")
            self._at += len(name) + len(closed)
        negated, name = (char == "P") is not name.startswith("^"), name.removeprefix("^")
        if name == "Any":
            return Chars(((0, _LAST),), negated=negated)
        if name not in _CATEGORIES:
            self._wrong(f"asks for {name[:20]}, which is no category of Unicode", "write one such as \\p{L} or \\p{Nd}")
        return Chars(categories=(name,), negated=negated, folded="i" in self._flags)

    def _point(self) -> int:
        """The code point of an escape whose backslash is read."""
        char = self._peek()
        self._at += 1
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char == "x":
            digits = self._peek(2)
            if digits.startswith("{"):
                digits, closed, _ = self._text[self._at + 1 : self._at + 12].partition("}")
                self._at += len(digits) + (2 if closed else 0)
            else:
                closed = digits[1:]
                self._at += 2
            if closed and all(digit in string.hexdigits for digit in digits) and digits and int(digits, 16) <= _LAST:
                return int(digits, 16)
            self._wrong("has a \\x without a character's number", "write \\x7F or \\x{1F600}")
        if char == "0" or (char and char in "1234567" and self._peek() and self._peek() in string.octdigits):
            self._at -= 1
            digits = ""
            while len(digits) < 3 and self._peek() and self._peek() in string.octdigits:  # noqa: PLR2004 # digits
                digits, self._at = digits + self._peek(), self._at + 1
            return int(digits, 8)
        if not char.isascii() or char.isalnum() or not char:
            self._wrong(f"has \\{char}, which is no escape", "write \\\\ for a backslash")
        return ord(char)

    def _set(self) -> Chars:
        """What stands between square brackets, the first of which is read."""
        negated = self._accept("^")
        ranges: list[tuple[int, int]] = []
        others: list[Chars] = []
        first = True
        while first or self._peek() != "]":
            first = False
            if not self._peek():
                self._wrong("has a [ without a ]", "write \\[ for the character")
            if (other := self._named_set()) is not None:
                others.append(other)
                continue
            low = high = self._set_char()
            if self._peek() == "-" and self._peek(2) not in {"-", "-]"}:
                self._at += 1
                high = self._set_char()
            if high < low:
                self._wrong("has a range from high to low")
            ranges.append((low, high))
        self._at += 1
        return Chars(tuple(ranges), (), tuple(others), negated, "i" in self._flags)

    def _named_set(self) -> Chars | None:
        if self._peek(2) == "[:":
            name, closed, _ = self._text[self._at + 2 :].partition(":]")
            found = _POSIX.get(name.removeprefix("^"))
            if found is None and closed:
                self._wrong("has a class that is not there", f"there are {', '.join(_POSIX)}")
            if found is not None and closed:
                self._at += len(name) + 4
                return replace(found, negated=name.startswith("^"))
        if self._peek() != "\\":
            return None
        self._at += 1
        found = self._class()
        self._at -= 1 if found is None else 0
        return found

    def _set_char(self) -> int:
        char = self._peek()
        if not char:
            self._wrong("has a [ without a ]", "write \\[ for the character")
        self._at += 1
        return self._point() if char == "\\" else ord(char)


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit()
