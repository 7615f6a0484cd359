"""API keys, for development: whoever has one is its agent, until it is taken out of the configuration.

A key proves nothing but that somebody has it, says nothing of a run or a user, and does not end: its assurance is
`key`, below every token's, so that a policy with `min_assurance: bearer` keeps it out. The gateway knows keys by
their SHA-256 alone. A key has 256 random bits, hence that digest needs neither salt nor many rounds.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

PREFIX: Final = "pgk_"
"""What every key begins with: tells it from a token, and lets scanners for leaked secrets find it."""
ISSUER: Final = "api-key"
"""What policies and reports name as the issuer of whoever comes with a key."""
IDENTIFIER: Final = "urn:passgate:api-key"
"""The same for the rest of the world, in the place of a token's `iss`."""


def new_key() -> str:
    """A fresh key: the prefix and 43 characters of base64url."""
    return PREFIX + secrets.token_urlsafe(32)


def key_digest(key: str) -> str:
    """What the configuration keeps of a key: its SHA-256 in hex."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
