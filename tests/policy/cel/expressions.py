"""Expressions made up at random: mostly of one type, now and then of the wrong one, and facts for their names."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from gateway.policy.cel import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    NULL,
    STRING,
    TIMESTAMP,
    UINT,
    CelType,
    Duration,
    Timestamp,
    UInt,
    list_of,
    map_of,
)

INTS, STRINGS, ANYS = list_of(INT), list_of(STRING), list_of(DYN)
NUMBERED, NAMED, OPEN = map_of(INT, STRING), map_of(STRING, INT), map_of(STRING, DYN)
VARIABLES: Final[dict[str, CelType]] = {
    "i": INT, "j": INT, "d": DOUBLE, "e": DOUBLE, "s": STRING, "t": STRING, "b": BYTES, "p": BOOL, "q": BOOL,
    "u": UINT, "at": TIMESTAMP, "since": TIMESTAMP, "span": DURATION, "li": INTS, "ls": STRINGS, "ld": ANYS,
    "mi": NUMBERED, "ms": NAMED, "md": OPEN, "x": DYN, "y": DYN, "z": DYN,
}  # fmt: skip

EDGES: Final = (0, 1, -1, 2, 7, -3, 10, 100, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63), 2**63 - 2, -(2**62))
DOUBLES: Final = (
    0.0, -0.0, 1.0, -1.5, 0.1, 3.0, 1e6, 123456.789, 1e-5, 1e300, -1e300, 9.3e18, 2.0**63, 2.0**53, 5e-324,
    float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
TEXTS: Final = (
    "", "a", "b", "ab", "ABC", "prod", "é", "e\u0301", "日本", "\U0001f600", "\uffff", "a\U0001f600b", "\n", "\x00",
    "'\"\\", "1", "-5", "007", "1.5", "1e3", "true", "false", "2h", "-1.5s", "9223372036854775808",
    "2026-11-20T10:00:00Z",
)  # fmt: skip
MOMENTS: Final = (
    "2026-11-20T10:00:00Z", "1970-01-01T00:00:00Z", "1969-12-31T23:59:59.999999999Z", "2024-02-29T23:59:59.5+02:00",
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2026-03-29T01:30:00Z", "2000-12-31T12:00:00.000001Z",
)  # fmt: skip
LENGTHS: Final = ("0", "1h", "-1h30m", "1.5s", "250ms", "999999999ns", "2562047h", "-1us", "24h", "90m")
ZONES: Final = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "+02:00", "-09:30", "00:00")
PATTERNS: Final = (
    "a",
    "^a",
    "b$",
    "^$",
    "a|b",
    "[a-c]+",
    ".*",
    "^\\\\d+$",
    "(?i)abc",
    "\\\\pL",
    "a{1,2}",
    "^.$",
    "\\\\bb",
)
PARTS: Final = ("FullYear", "Month", "Date", "DayOfMonth", "DayOfWeek", "DayOfYear")
CLOCK: Final = ("Hours", "Minutes", "Seconds", "Milliseconds")

T = TypeVar("T")


class Maker:
    """Makes expressions and facts from one source of chance."""

    def __init__(self, rng: random.Random) -> None:
        """The same state of chance makes the same expressions."""
        self._random = rng
        self._scope: list[tuple[str, CelType]] = []
        self._makers: dict[CelType, Callable[[int], str]] = {
            BOOL: self._bool, INT: self._int, UINT: self._uint, DOUBLE: self._double, STRING: self._string,
            BYTES: self._bytes, TIMESTAMP: self._timestamp, DURATION: self._duration, DYN: self._dyn,
            INTS: self._list, STRINGS: self._list_of_strings, ANYS: self._any_list,
            NUMBERED: self._numbered, NAMED: self._named, OPEN: self._open, NULL: lambda _: "null",
        }  # fmt: skip

    def one_of(self, *choices: str) -> str:
        """One of some texts."""
        return self._random.choice(choices)

    def some(self, choices: Sequence[T], count: int) -> list[T]:
        """Some of several things."""
        return self._random.sample(choices, count)

    def expression(self) -> str:
        """An expression of any type, bools above all."""
        wanted = BOOL if self._random.random() < 0.6 else self._random.choice(list(self._makers))
        return self.make(wanted, self._random.randint(1, 4))

    def make(self, wanted: CelType, depth: int, *, exact: bool = False) -> str:
        """An expression of a type; one in forty is of another, unless it has to be exact."""
        if not exact and self._random.random() < 0.025:
            wanted = self._random.choice(list(self._makers))
        names = [name for name, declared in [*VARIABLES.items(), *self._scope] if declared == wanted]
        if names and self._random.random() < (0.9 if depth <= 0 else 0.2):
            return self._random.choice(names)
        return self._makers[wanted](depth - 1) if depth > 0 else self._literal(wanted)

    def _literal(self, wanted: CelType) -> str:
        match wanted.name:
            case "bool":
                return self.one_of("true", "false")
            case "int":
                return self.one_of(*map(str, EDGES), "0x7f", "-0x1")
            case "uint":
                return self.one_of("0u", "1u", "7u", "18446744073709551615u", "0xFFu")
            case "double":
                return self.one_of("0.0", "-0.0", "1.0", "2.5", "-1e3", ".5", "1e300", "9.3e18", "1e-7")
            case "string":
                return self.quoted(self._random.choice(TEXTS))
            case "bytes":
                return self.one_of("b''", "b'a'", "b'\\xff\\x00'", 'b"é"', "br'\\n'", "b'\\303\\251'")
            case "google.protobuf.Timestamp":
                return f"timestamp({self.one_of(*map(repr, MOMENTS), '0', '-62135596800')})"
            case "google.protobuf.Duration":
                return f"duration('{self.one_of(*LENGTHS)}')"
        return {"null_type": "null", "dyn": "dyn(1)", "list": "[]", "map": "{}"}[wanted.name]

    def quoted(self, text: str) -> str:
        """A string literal in one of its forms."""
        if self._random.random() < 0.3 and "\\" not in text and "\n" not in text and '"' not in text:
            return f'{self.one_of("r", "")}"{text}"'
        if self._random.random() < 0.2:
            return "'" + "".join(f"\\U{ord(char):08x}" for char in text) + "'"
        named = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\x00", "\\000")
        return f"'{named}'"

    def _any(self, depth: int) -> tuple[CelType, str]:
        chosen = self._random.choice(list(self._makers))
        return chosen, self.make(chosen, depth)

    def _choice(self, wanted: CelType, depth: int) -> str:
        then, other = self.make(wanted, depth), self.make(wanted, depth)
        return f"({self.make(BOOL, depth)} ? {then} : {other})"

    def _within(self, item: CelType, wanted: CelType, depth: int, name: str = "") -> tuple[str, str]:
        """A variable, and an expression in which it is there."""
        name = name or self.one_of("a", "c", "i", "k", "x")
        self._scope.append((name, item))
        made = self.make(wanted, depth)
        self._scope.pop()
        return name, made

    def _bool(self, depth: int) -> str:
        return self._random.choice(
            (
                self._compared, self._compared, self._equal, self._logic, self._logic, self._quantified,
                self._member, self._asked, self._text_asked, lambda d: self._choice(BOOL, d),
            )
        )(depth)  # fmt: skip

    def _compared(self, depth: int) -> str:
        kind = self._random.choice((INT, INT, DOUBLE, UINT, STRING, BYTES, BOOL, TIMESTAMP, DURATION, DYN))
        other = DYN if self._random.random() < 0.2 else kind
        return f"({self.make(kind, depth)} {self.one_of('<', '<=', '>', '>=')} {self.make(other, depth)})"

    def _equal(self, depth: int) -> str:
        kind, made = self._any(depth)
        other = DYN if self._random.random() < 0.3 else kind
        return f"({made} {self.one_of('==', '!=')} {self.make(other, depth)})"

    def _logic(self, depth: int) -> str:
        operands = [self.make(BOOL, depth) for _ in range(self._random.randint(1, 3))]
        if len(operands) == 1:
            return f"!{operands[0]}"
        return f"({self.one_of(' && ', ' || ').join(operands)})"

    def _quantified(self, depth: int) -> str:
        source, item = self._source(depth)
        name, condition = self._within(item, BOOL, depth)
        return f"{source}.{self.one_of('all', 'exists', 'exists_one')}({name}, {condition})"

    def _source(self, depth: int) -> tuple[str, CelType]:
        source = self._random.choice((INTS, STRINGS, ANYS, NUMBERED, NAMED, OPEN, DYN))
        return self.make(source, depth), source.parameters[0] if source.parameters else DYN

    def _member(self, depth: int) -> str:
        container = self._random.choice((INTS, STRINGS, ANYS, NUMBERED, NAMED, OPEN, DYN))
        item = container.parameters[0] if container.parameters and self._random.random() < 0.8 else DYN
        return f"({self.make(item, depth)} in {self.make(container, depth)})"

    def _asked(self, depth: int) -> str:
        return f"has({self.make(self._random.choice((NAMED, OPEN, OPEN, DYN)), depth)}.{self.one_of('a', 'b', 'k')})"

    def _text_asked(self, depth: int) -> str:
        if self._random.random() < 0.2:
            return f"bool({self.make(STRING, depth)})"
        if self._random.random() < 0.25:
            return f"{self.make(STRING, depth)}.matches('{self.one_of(*PATTERNS)}')"
        asked = self.one_of("contains", "startsWith", "endsWith")
        return f"{self.make(STRING, depth)}.{asked}({self.make(STRING, depth)})"

    def _int(self, depth: int) -> str:
        kind, sized = self._any(depth)
        inner = self._random.choice((DOUBLE, STRING, UINT, TIMESTAMP, INT))
        zone = self.one_of("", "", *(f"'{zone}'" for zone in ZONES))
        return self.one_of(
            f"({self.make(INT, depth)} {self.one_of('+', '-', '*', '/', '%')} {self.make(INT, depth)})",
            f"({self.make(INT, depth)} {self.one_of('+', '-', '*', '/', '%')} {self.make(INT, depth)})",
            f"-({self.make(INT, depth)})",
            f"size({sized})"
            if kind.name in {"list", "map", "string", "bytes"}
            else f"{self.make(STRING, depth)}.size()",
            f"int({self.make(inner, depth)})",
            f"{self.make(INTS, depth)}[{self.one_of('0', '1', self.make(INT, depth))}]",
            f"{self.make(NAMED, depth)}{self.one_of('.a', '.k', f'[{self.make(STRING, depth)}]')}",
            f"{self.make(TIMESTAMP, depth)}.get{self.one_of(*PARTS, *CLOCK)}({zone})",
            f"{self.make(DURATION, depth)}.get{self.one_of(*CLOCK)}()",
            self._choice(INT, depth),
            self._literal(INT),
        )

    def _uint(self, depth: int) -> str:
        return self.one_of(
            f"({self.make(UINT, depth)} {self.one_of('+', '-', '*', '/', '%')} {self.make(UINT, depth)})",
            f"uint({self.make(self._random.choice((INT, DOUBLE, STRING)), depth)})",
            self._literal(UINT),
        )

    def _double(self, depth: int) -> str:
        return self.one_of(
            f"({self.make(DOUBLE, depth)} {self.one_of('+', '-', '*', '/')} {self.make(DOUBLE, depth)})",
            f"-({self.make(DOUBLE, depth)})",
            f"double({self.make(self._random.choice((INT, UINT, STRING)), depth)})",
            self._choice(DOUBLE, depth),
            self._literal(DOUBLE),
        )

    def _string(self, depth: int) -> str:
        inner = self._random.choice((INT, BOOL, BYTES, TIMESTAMP, DURATION, UINT))
        return self.one_of(
            f"({self.make(STRING, depth)} + {self.make(STRING, depth)})",
            f"string({self.make(inner, depth, exact=True)})",
            f"string({self.one_of('d', 'e', self._literal(DOUBLE))})",  # no 0/0: the sign of NaN is the machine's
            f"{self.make(STRINGS, depth)}[{self.make(INT, 0)}]",
            f"{self.make(NUMBERED, depth)}[{self.make(self._random.choice((INT, INT, DYN)), depth)}]",
            self._choice(STRING, depth),
            self._literal(STRING),
        )

    def _bytes(self, depth: int) -> str:
        return self.one_of(
            f"({self.make(BYTES, depth)} + {self.make(BYTES, depth)})",
            f"bytes({self.make(STRING, depth)})",
            self._literal(BYTES),
        )

    def _timestamp(self, depth: int) -> str:
        return self.one_of(
            f"({self.make(TIMESTAMP, depth)} {self.one_of('+', '-')} {self.make(DURATION, depth)})",
            f"({self.make(DURATION, depth)} + {self.make(TIMESTAMP, depth)})",
            f"timestamp({self.make(INT, depth)})",
            self._literal(TIMESTAMP),
        )

    def _duration(self, depth: int) -> str:
        return self.one_of(
            f"({self.make(DURATION, depth)} {self.one_of('+', '-')} {self.make(DURATION, depth)})",
            f"({self.make(TIMESTAMP, depth)} - {self.make(TIMESTAMP, depth)})",
            self._literal(DURATION),
        )

    def _dyn(self, depth: int) -> str:
        _, made = self._any(depth)
        return self.one_of(
            f"dyn({made})",
            f"{self.make(OPEN, depth)}{self.one_of('.a', '.k', '.b', '[s]')}",
            f"{self.make(ANYS, depth)}[{self.make(INT, 0)}]",
            f"{self.make(DYN, depth)}{self.one_of('.a', '[0]', '[i]', '[x]')}",
            f"({self.make(DYN, depth)} {self.one_of('+', '-', '*', '/', '%')} {self.make(DYN, depth)})",
            self._choice(DYN, depth),
            f"type({made})",
        )

    def _listed(self, item: CelType, depth: int) -> str:
        return "[" + ", ".join(self.make(item, depth) for _ in range(self._random.randint(0, 4))) + "]"

    def _surely_list(self, depth: int) -> tuple[str, CelType]:
        """A list, never a map: the keys of a map have no order that two implementations share."""
        of = self._random.choice((INTS, STRINGS, ANYS))
        names = [name for name, declared in VARIABLES.items() if declared == of]
        made = self.one_of(*names, self._listed(of.parameters[0], depth))
        return (f"({made} + {self.one_of(*names)})" if self._random.random() < 0.3 else made), of.parameters[0]

    def _lists(self, wanted: CelType, depth: int) -> str:
        item = wanted.parameters[0]
        source, of = self._surely_list(depth)
        name, made = self._within(of, item, depth)
        condition = f"{self._within(of, BOOL, 1, name)[1]}, " if self._random.random() < 0.3 else ""
        return self.one_of(
            self._listed(item, depth),
            f"({self.make(wanted, depth)} + {self.make(wanted, depth)})",
            f"{source}.map({name}, {condition}{made})",
            f"{source}.filter({name}, {self._within(of, BOOL, depth, name)[1]})",
        )

    def _list(self, depth: int) -> str:
        return self._lists(INTS, depth)

    def _list_of_strings(self, depth: int) -> str:
        return self._lists(STRINGS, depth)

    def _any_list(self, depth: int) -> str:
        return (
            self._lists(ANYS, depth)
            if self._random.random() < 0.5
            else "[" + ", ".join(self._any(depth)[1] for _ in range(self._random.randint(0, 3))) + "]"
        )

    def _entries(self, key: CelType, value: CelType, depth: int) -> str:
        pairs = (f"{self.make(key, 0)}: {self.make(value, depth)}" for _ in range(self._random.randint(0, 3)))
        return "{" + ", ".join(pairs) + "}"

    def _numbered(self, depth: int) -> str:
        return self._entries(INT, STRING, depth)

    def _named(self, depth: int) -> str:
        return self._entries(STRING, INT, depth)

    def _open(self, depth: int) -> str:
        return self._entries(STRING, DYN, depth)

    def facts(self) -> dict[str, object]:
        """A value for each name; times are whole microseconds, which the oracle can be handed."""
        facts = {name: self._value(declared, 2) for name, declared in VARIABLES.items()}
        if self._random.random() < 0.2:
            del facts[self.one_of(*facts)]
        return facts

    def _value(self, wanted: CelType, depth: int) -> object:
        chance = self._random
        match wanted.name:
            case "bool":
                return chance.random() < 0.5
            case "int":
                return chance.choice(EDGES)
            case "uint":
                return UInt(chance.choice((0, 1, 5, 2**53)))
            case "double":
                return chance.choice(DOUBLES)
            case "string":
                return chance.choice(TEXTS).replace("\x00", "0")  # the oracle would cut it there
            case "bytes":
                return chance.choice((b"", b"a", b"\xff", "é".encode()))
            case "google.protobuf.Timestamp":
                return Timestamp(chance.randint(-(10**15), 4 * 10**15) * 1000)
            case "google.protobuf.Duration":
                return Duration(chance.choice((0, 1, -1, 10**6, 3600 * 10**6, -86399 * 10**6)) * 1000)
            case "list":
                return [self._value(wanted.parameters[0], depth - 1) for _ in range(chance.randint(0, 3))]
            case "map":
                key, value = wanted.parameters
                names = ("a", "b", "k", "é") if key == STRING else (0, 1, 2, -1)
                return {name: self._value(value, depth - 1) for name in names if chance.random() < 0.5}
        others = (BOOL, INT, DOUBLE, STRING, BYTES, NULL, ANYS, OPEN)  # the oracle is handed no times as dyn
        chosen = chance.choice(others[:6] if depth <= 0 else others)
        return None if chosen == NULL else self._value(chosen, depth)
