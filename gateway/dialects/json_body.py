"""The one strict JSON parse of what others send, and edits of single members that touch no other byte.

What is decided on must be what is sent, so a text that two parsers could read in two ways is refused:
duplicate members (also after unescaping), anything but UTF-8, a byte order mark, NaN and Infinity,
half a surrogate pair, numbers out of range, anything after the value (RFC 8259, I-JSON RFC 7493).

A parser holds the interpreter while it works. What would keep it busy for long (deep nesting, very many
members, very long integers) is therefore counted first, by byte operations that run at C speed; a large
body is counted in windows of 128 KiB, so that an asynchronous caller can let others run in between.
"""

from __future__ import annotations

import gc
import json
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import msgspec

from gateway.core.errors import Refusal


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """How much structure a text may have before it is parsed.

    `depth` counts nested arrays and objects, `keys` object members, `elements` commas and opening
    brackets, which no count of values exceeds; `digits` those of one integer (not configurable).
    """

    depth: int = 64
    keys: int = 100_000
    elements: int = 2_000_000
    digits: int = 400


WINDOW: Final = 128 * 1024
_LARGE: Final = 1024 * 1024

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_SIGNED: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # +1 and -1 as signed bytes
_NO_BRACKET: Final = bytes(set(range(256)) - set(b"[]{}"))
_ONE_DIGIT: Final = bytes.maketrans(b"123456789", b"000000000")
_HALF_PAIR: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
_KEY: Final = re.compile(rb'[ \t\n\r]*"[^"\\]*(?:\\.[^"\\]*)*"[ \t\n\r]*:[ \t\n\r]*', re.DOTALL)
_COMMA: Final = re.compile(rb"[ \t\n\r]*,?")
_EMPTY: Final = re.compile(rb"[ \t\n\r]*}")


class NotStrict(ValueError):
    """What is wrong with a JSON text, as the rest of a sentence about it; `fields` are facts for programs."""

    def __init__(self, problem: str, **fields: object) -> None:
        super().__init__(problem)
        self.fields = fields

    def refusal(self) -> Refusal:
        """As a refusal of the body; a limit that was met is told with its config key."""
        key = self.fields.get("config")
        return Refusal("request_malformed", f"the body {self}{f' ({key})' if key else ''}", fields=self.fields)


def _over(limit: int, what: str, key: str) -> NotStrict:
    return NotStrict(f"has {what} than {limit}; send less at once", limit=limit, config=key)


def check(data: bytes, limits: JsonLimits) -> None:
    """Refuse a body that is over a limit, before anything parses it. Says nothing about its validity."""
    for _ in windows(data, limits):
        pass


def windows(data: bytes, limits: JsonLimits) -> Iterator[None]:
    """Do what `check` does, and yield between windows of a large body (a few milliseconds each).

    Small bodies are first bounded by counting bytes wherever they stand; only when such a bound is
    over a limit (code in a prompt has brackets, too) are the strings taken out and the rest counted.
    """
    try:
        yield from _windows(data, limits)
    except NotStrict as wrong:
        raise wrong.refusal() from None


def _windows(data: bytes, limits: JsonLimits) -> Iterator[None]:
    if not _bounded(data, limits):
        yield from _count(data, limits)


def _bounded(data: bytes, limits: JsonLimits) -> bool:
    if len(data) > _LARGE:
        return False
    opening = data.count(b"[") + data.count(b"{")
    return (
        opening <= limits.depth
        and data.count(b":") <= limits.keys
        and data.count(b",") + opening <= limits.elements
        and (len(data) <= limits.digits or not _long_integer(data, limits.digits))
    )


def _long_integer(text: bytes, digits: int) -> bool:
    return b"0" * (digits + 1) in text.translate(_ONE_DIGIT)


def _count(data: bytes, limits: JsonLimits, size: int = WINDOW) -> Iterator[None]:
    """Count outside strings, with a yield every `size` bytes (two at least).

    What is malformed is left to the parser, which stops where this does.
    """
    start = level = keys = elements = inside = 0
    tail = b""
    while start < len(data):
        stop = min(start + size, len(data))
        window = data[start:stop]
        if stop < len(data) and (len(window) - len(window.rstrip(b"\\"))) % 2:
            stop -= 1  # never part a backslash from what it escapes
            window = window[:-1]
        start = stop
        if b"\\" in window:
            window = window.replace(b"\\\\", b"").replace(b'\\"', b"")
        pieces = window.split(b'"')
        outside = b"".join(pieces[inside::2])
        inside ^= (len(pieces) - 1) & 1

        keys += outside.count(b":")
        if keys > limits.keys:
            raise _over(limits.keys, "more object members", "limits.json_keys")
        brackets = outside.translate(_SIGNED, _NO_BRACKET)
        opening = brackets.count(b"\x01")
        elements += outside.count(b",") + opening
        if elements > limits.elements:
            raise _over(limits.elements, "more elements", "limits.json_elements")
        tail += outside
        if len(tail) > limits.digits and _long_integer(tail, limits.digits):
            raise NotStrict(
                f"has an integer of more than {limits.digits} digits; write it as text", limit=limits.digits
            )
        tail = tail[-limits.digits :]
        if level + opening > limits.depth and max(accumulate(array("b", brackets), initial=level)) > limits.depth:
            raise _over(limits.depth, "arrays and objects nested deeper", "limits.json_depth")
        level += 2 * opening - len(brackets)
        if level < 0:
            return  # more was closed than opened
        yield


def parse(data: bytes, limits: JsonLimits, *, checked: bool = False) -> object:
    """The value of a body; raises `Refusal` `request_malformed` for whatever is not strictly JSON.

    `checked` says that the caller has already run `windows` to its end over these very bytes.
    """
    try:
        return read(data, limits, checked=checked)
    except NotStrict as wrong:
        raise wrong.refusal() from None


def read(data: bytes, limits: JsonLimits, *, checked: bool = False) -> object:
    """The value of any JSON text, as `parse` reads a body; raises `NotStrict`."""
    if not checked:
        for _ in _windows(data, limits):
            pass
    try:
        value = _decode(data) if len(data) < _LARGE else _decode_large(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _explain(data, error) from None
    # Each member has its colon. Written out again, a value has as many colons as its text had,
    # unless the decoder let one of two members of the same name go.
    colons = data.count(b":")
    if b"\\u003a" in data or b"\\u003A" in data:
        plain = data.replace(b"\\\\", b"")
        colons += plain.count(b"\\u003a") + plain.count(b"\\u003A")
    if colons != _encode(value).count(b":"):
        raise _duplicate(data)
    return value


def _decode_large(data: bytes) -> object:
    """Decode without the cyclic collector, which would walk a million fresh containers again and again."""
    if not gc.isenabled():
        return _decode(data)
    gc.disable()
    try:
        return _decode(data)
    finally:
        gc.enable()


def _explain(data: bytes, error: Exception) -> NotStrict:
    if not data.strip():
        return NotStrict("is empty; write a JSON object")
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return NotStrict("starts with a byte order mark; write plain UTF-8", offset=0)
    if isinstance(error, RecursionError):
        return NotStrict("is nested too deeply; make it flatter")
    try:
        data.decode()
    except UnicodeDecodeError as wrong:
        return NotStrict(f"is not UTF-8 at byte {wrong.start}", offset=wrong.start)
    text = str(error).removeprefix("JSON is malformed: ")
    half = _HALF_PAIR.search(data) if "surrogate" in text or "truncated" in text else None
    if half:
        at = half.start()
        return NotStrict(f"has half a surrogate pair in a \\u escape at byte {at}", offset=at)
    return NotStrict(f"is not strict JSON: {text[:1].lower()}{text[1:]}")


class _Twice(Exception):
    """Carries the name of a member that an object has twice."""


def _once(pairs: list[tuple[str, object]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise _Twice(name)
        seen.add(name)


def _duplicate(data: bytes) -> NotStrict:
    """Name the member that is there twice, if looking for it costs little."""
    if len(data) < WINDOW:
        try:
            json.loads(data, object_pairs_hook=_once)
        except _Twice as twice:
            name = str(twice)[:80]
            return NotStrict(f"has a duplicate: {name!r} stands twice in one object; write it once", member=name)
    return NotStrict("has a duplicate: a member stands twice in one object; write each once")


def member_spans(data: bytes) -> dict[str, tuple[int, int]]:
    """Where the value of each top-level member stands: `data[start:end]` is its text.

    `data` is an object that `parse` has accepted; raises `ValueError` for what it would not accept.
    """
    try:
        members = _members(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a JSON object: {error}") from None
    spans: dict[str, tuple[int, int]] = {}
    at = data.index(b"{") + 1
    for name, raw in members.items():
        key = _KEY.match(data, at)
        if key is None:
            raise ValueError("an object with two members of one name")
        start = key.end()
        end = start + memoryview(raw).nbytes
        spans[name] = start, end
        comma = _COMMA.match(data, end)
        at = comma.end() if comma else end
    return spans


def replace(data: bytes, values: Mapping[str, bytes]) -> bytes:
    """The same object with other texts as the values of members it has; every other byte stays."""
    spans = member_spans(data)
    pieces: list[bytes] = []
    at = 0
    for (start, end), value in sorted((spans[name], value) for name, value in values.items()):
        pieces += (data[at:start], value)
        at = end
    pieces.append(data[at:])
    return b"".join(pieces)


def insert(data: bytes, values: Mapping[str, bytes]) -> bytes:
    """The same object with members added in front that it does not have; every byte of it stays."""
    at = data.index(b"{") + 1
    added = b",".join([_encode(name) + b":" + value for name, value in values.items()])
    comma = b"" if not added or _EMPTY.match(data, at) else b","
    return b"".join((data[:at], added, comma, data[at:]))


def edit(data: bytes, values: Mapping[str, bytes]) -> bytes:
    """The same object with these members replaced where they are, and added in front where they are not."""
    there = member_spans(data).keys()
    old = {name: value for name, value in values.items() if name in there}
    new = {name: value for name, value in values.items() if name not in there}
    changed = replace(data, old) if old else data
    return insert(changed, new) if new else changed
