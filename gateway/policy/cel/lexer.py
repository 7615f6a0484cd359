"""Tokens: the text of an expression cut into names, literals and signs (langdef.md of the CEL specification, "Syntax").

What it refuses to know: which sequences of tokens mean anything.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from gateway.policy.cel.errors import CelMistake
from gateway.policy.cel.values import MAX_INT, MAX_UINT, UInt

MAX_TEXT: Final = 4096  # characters

_TOKEN: Final = re.compile(
    r"""
      (?P<space> [\t\n\f\r\ ]+ | //[^\n]* )
    | (?P<string> [bB]?[rR]?(?:"|') )
    | (?P<double> (?:\d*\.\d+(?:[eE][+-]?\d+)?) | \d+[eE][+-]?\d+ )
    | (?P<int> (?:0x[0-9a-fA-F]+ | \d+)[uU]? )
    | (?P<name> [_a-zA-Z][_a-zA-Z0-9]* )
    | (?P<quoted> `[a-zA-Z0-9_.\-/\ ]+` )
    | (?P<sign> && | \|\| | [=!<>]= | [-+*/%<>!?:.,()\[\]{}] )
    """,
    re.VERBOSE | re.ASCII,
)
_ESCAPE: Final = re.compile(
    r"""\\(?: (?P<plain>[abfnrtv\\?"'`]) | [xX](?P<x>[0-9a-fA-F]{2}) | u(?P<u>[0-9a-fA-F]{4})
    | U(?P<U>[0-9a-fA-F]{8}) | (?P<octal>[0-3][0-7]{2}) )""",
    re.VERBOSE,
)
_PLAIN: Final = dict(zip("abfnrtv\\?\"'`", "\a\b\f\n\r\t\v\\?\"'`", strict=True))
_INSTEAD: Final = {"=": "write == to compare", "&": "write &&", "|": "write ||", ";": "an expression has no statements"}


class Token(NamedTuple):
    """One token: `kind` is name, quoted (a name in backquotes), literal, sign or end; `value` is that of a literal."""

    kind: str
    text: str
    start: int
    end: int
    value: object = None


def tokens(text: str) -> list[Token]:
    """The tokens of a text, the last one of kind `end`; raises `CelMistake`."""
    if len(text) > MAX_TEXT:
        raise CelMistake(
            f"the expression is longer than {MAX_TEXT} characters", MAX_TEXT, "split the rule into several"
        )
    found: list[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            shown = text[at] if text[at].isprintable() else f"U+{ord(text[at]):04X}"
            raise CelMistake(f"unexpected character {shown}", at, _INSTEAD.get(text[at], ""))
        kind, end = match.lastgroup or "", match.end()
        if kind == "string":
            value, end = _string(text, at, match[0])
            found.append(Token("literal", text[at:end], at, end, value))
        elif kind in {"int", "double"}:
            found.append(Token("literal", match[0], at, end, _number(kind, match[0], at)))
        elif kind != "space":
            found.append(Token(kind, match[0], at, end))
        at = end
    found.append(Token("end", "", at, at))
    return found


def _number(kind: str, text: str, at: int) -> object:
    """A literal's value. 2**63 passes, since a minus may stand before it: the parser looks."""
    if kind == "double":
        return float(text)
    digits = text.rstrip("uU")
    base = 16 if digits.startswith("0x") else 10
    most = MAX_UINT if digits != text else MAX_INT + 1
    if int(digits, base) > most:
        raise CelMistake("the number does not fit into 64 bits", at, "write a double, such as 1e30")
    return UInt(digits, base) if digits != text else int(digits, base)


def _string(text: str, at: int, opening: str) -> tuple[object, int]:
    """A string's or bytes' value and where it ends, `opening` being its prefix and first quote."""
    prefix, quote = opening[:-1].lower(), opening[-1]
    body = at + len(opening)
    if text.startswith(quote * 2, body):
        quote, body = quote * 3, body + 2
    end = body
    while not text.startswith(quote, end):
        if end >= len(text) or (len(quote) == 1 and text[end] in "\r\n"):
            raise CelMistake("the string does not end", at, f"close it with {quote}")
        end += 2 if text[end] == "\\" and "r" not in prefix else 1
    content = text[body:end]
    if "b" in prefix:
        return (content.encode("utf-8", "replace") if "r" in prefix else _bytes(content, body)), end + len(quote)
    return (content if "r" in prefix else _unescaped(content, body)), end + len(quote)


def _unescaped(content: str, start: int) -> str:
    """A string with its escapes read."""
    parts = []
    for plain, escape, at in _pieces(content, start):
        parts.append(plain)
        if escape is not None:
            point = _point(escape)
            if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:  # noqa: PLR2004 # the limits of Unicode
                raise CelMistake(
                    f"{escape[0]} is no Unicode character", at, "write \\U and eight digits beyond \\uFFFF"
                )
            parts.append(_PLAIN[escape["plain"]] if escape["plain"] else chr(point))
    return "".join(parts)


def _bytes(content: str, start: int) -> bytes:
    """Bytes with their escapes read: numbers are octets, characters stand for their UTF-8."""
    parts = []
    for plain, escape, at in _pieces(content, start):
        parts.append(plain.encode("utf-8", "replace"))
        if escape is not None:
            if escape["u"] or escape["U"]:
                raise CelMistake(f"{escape[0]} cannot stand in bytes", at, "write the octets with \\x")
            parts.append(_PLAIN[escape["plain"]].encode() if escape["plain"] else bytes([_point(escape)]))
    return b"".join(parts)


def _pieces(content: str, start: int) -> list[tuple[str, re.Match[str] | None, int]]:
    """Plain text and the escape behind it, with the escape's place; the last has no escape."""
    found: list[tuple[str, re.Match[str] | None, int]] = []
    at = 0
    while (slash := content.find("\\", at)) >= 0:
        escape = _ESCAPE.match(content, slash)
        if escape is None:
            shown = content[slash : slash + 2]
            raise CelMistake(
                f"{shown} is no escape", start + slash, f"write \\\\ for a backslash, or a raw string r'{shown}'"
            )
        found.append((content[at:slash], escape, start + slash))
        at = escape.end()
    found.append((content[at:], None, start + at))
    return found


def _point(escape: re.Match[str]) -> int:
    if escape["octal"]:
        return int(escape["octal"], 8)
    return int(escape["x"] or escape["u"] or escape["U"] or "0", 16)
