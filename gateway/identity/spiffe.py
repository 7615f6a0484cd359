"""SPIFFE IDs (SPIFFE-ID §2): the names of workloads, read exactly, so that one name has one spelling.

The specification allows no case folding, no percent-encoding and no dot segments, hence an id is
compared as text once it is known to be one.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

SCHEME: Final = "spiffe://"
MAX_ID: Final = 2048  # bytes; no valid character is longer than one
MAX_TRUST_DOMAIN: Final = 255

_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]+")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+")


class SpiffeId(NamedTuple):
    """`spiffe://trust_domain/path`; the path begins with its slash and is empty for the trust domain itself."""

    trust_domain: str
    path: str


def spiffe_id(text: str) -> SpiffeId:
    """Read an id; raises `ValueError`, the rest of a sentence about it, for what is not exactly one."""
    if len(text) > MAX_ID:
        raise ValueError(f"is longer than {MAX_ID} bytes")
    if not text.startswith(SCHEME):
        raise ValueError(f"does not begin with {SCHEME}")
    trust_domain, slash, path = text[len(SCHEME) :].partition("/")
    if not _TRUST_DOMAIN.fullmatch(trust_domain) or len(trust_domain) > MAX_TRUST_DOMAIN:
        raise ValueError(f"has a trust domain that is not 1 to {MAX_TRUST_DOMAIN} characters of a-z 0-9 . - _")
    for segment in path.split("/") if slash else ():
        if segment in {"", ".", ".."}:
            raise ValueError("has an empty path segment, a dot segment or a slash at its end")
        if not _SEGMENT.fullmatch(segment):
            raise ValueError("has a path segment with other characters than A-Z a-z 0-9 . - _")
    return SpiffeId(trust_domain, slash + path)
