"""The two encodings of JOSE, read strictly: base64url without padding (RFC 7515 §2) and JSON (RFC 8259).

What two readers could understand differently is refused, so that nobody can make one part see
another token than the next: padding, stray bits in the last character, duplicate members,
anything but UTF-8, `NaN`, half a surrogate pair. The JSON is read as the body of a call is.
"""

from __future__ import annotations

import base64
from typing import Final

from gateway.dialects.json_body import JsonLimits, read

_LIMITS: Final = JsonLimits(depth=512)


def base64url(data: bytes) -> str:
    """Encode without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_base64url(text: str) -> bytes:
    """Decode the one canonical spelling of some bytes; raises `ValueError` for every other one."""
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64url(data) != text:
        raise ValueError("is not canonical base64url")
    return data


def from_json(data: bytes) -> dict[str, object]:
    """Read one JSON object; raises `ValueError`, the rest of a sentence about it, for what is not strictly one."""
    value = read(data, _LIMITS)
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")  # noqa: TRY004 - one class for all that input can get wrong
    return value
