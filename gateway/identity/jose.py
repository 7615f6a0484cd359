"""The two encodings of JOSE, read strictly: base64url without padding (RFC 7515 §2) and JSON (RFC 8259).

What two readers could understand differently is refused, so that nobody can make one part see
another token than the next: padding, stray bits in the last character, duplicate members,
anything but UTF-8, `NaN`, half a surrogate pair. The JSON is read as the body of a call is.
"""

from __future__ import annotations

import base64
from binascii import a2b_base64, b2a_base64
from typing import Final

from gateway.dialects.json_body import JsonLimits, read

_TO_STANDARD: Final = bytes.maketrans(b"-_+/", b"+/\xff\xff")  # what only plain base64 has becomes what none has
_SHORT: Final = 8 * 1024
_LIMITS: Final = JsonLimits(depth=512)


def base64url(data: bytes) -> str:
    """Encode without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_base64url(text: str) -> bytes:
    """Decode the one canonical spelling of some bytes; raises `ValueError` for every other one."""
    plain = text.encode("ascii").translate(_TO_STANDARD)
    data = a2b_base64(plain + b"==="[: -len(plain) % 4])
    if b2a_base64(data, newline=False).rstrip(b"=") != plain:
        raise ValueError("is not canonical base64url")
    return data


def from_json(data: bytes) -> dict[str, object]:
    """Read one JSON object; raises `ValueError`, the rest of a sentence about it, for what is not strictly one."""
    # What is this short cannot hold enough to cost anything, and the decoder itself bounds the depth.
    value = read(data, _LIMITS, checked=len(data) <= _SHORT)
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")  # noqa: TRY004 - one class for all that input can get wrong
    return value
