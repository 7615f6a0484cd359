"""The two encodings of JOSE, read strictly: base64url without padding (RFC 7515 §2) and JSON (RFC 8259).

What two readers could understand differently is refused, so that nobody can make one part see
another token than the next: padding, stray bits in the last character, duplicate members,
anything but UTF-8, `NaN`, half a surrogate pair.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Final

_DEPTH: Final = 512
_BRACKETS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


def base64url(data: bytes) -> str:
    """Encode without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_base64url(text: str) -> bytes:
    """Decode the one canonical spelling of some bytes; raises `ValueError` for every other one."""
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64url(data) != text:
        raise ValueError("it is not canonical base64url")
    return data


def from_json(data: bytes) -> dict[str, object]:
    """Read one JSON object; raises `ValueError` for what is malformed, ambiguous or not an object."""
    text = data.decode("utf-8")
    if _deeper_than(_DEPTH, text):
        raise ValueError("it is nested too deeply")
    try:
        value = _DECODER.decode(text)
        if "\\u" in text:  # only an escape can make half a surrogate pair; encoding finds it
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - one class for all that input can get wrong
    return value


def _deeper_than(depth: int, text: str) -> bool:
    """Whether arrays and objects nest deeper; how deep a parser goes by itself depends on the Python."""
    if text.count("[") + text.count("{") <= depth:
        return False
    level = 0
    for found in _BRACKETS.finditer(text):
        level += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if level > depth:
            return True
    return False


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("it has a duplicate member")
    return members


def _constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant)
