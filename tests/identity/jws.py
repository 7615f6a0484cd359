"""A JWS by the gateway's own readers, keys and algorithms, whatever its payload: published examples are no tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.identity.algorithms import ALGORITHMS
from gateway.identity.jose import from_base64url, from_json
from gateway.identity.keys import KeyMistakes, read_jwks

VECTORS = Path(__file__).parents[1] / "vectors"


def vectors(name: str) -> list[dict[str, Any]]:
    """The groups of a file of Project Wycheproof; each has its `tests`."""
    groups: list[dict[str, Any]] = json.loads((VECTORS / "wycheproof" / name).read_text())["testGroups"]
    return groups


def holds(jws: str, *keys: dict[str, Any]) -> bool:
    """Whether one of these public keys, and no other reading of header or key, verifies this JWS."""
    try:
        head, payload, tail = jws.split(".")
        header, signature = from_json(from_base64url(head)), from_base64url(tail)
        from_base64url(payload)
        found = read_jwks(_set(keys)).find(header.get("kid"), header.get("alg"))  # type: ignore[arg-type]  # none is found
    except (ValueError, KeyMistakes):
        return False
    return found is not None and verifies(str(header["alg"]), f"{head}.{payload}".encode(), found.key, signature)


def verifies(alg: str, message: bytes, public: Any, signature: bytes) -> bool:  # noqa: ANN401 - a key of any type
    """Whether the signature is this key's over this message."""
    return ALGORITHMS[alg].verifies(message, public, signature)


def public_key(alg: str, jwk: dict[str, Any]) -> Any:  # noqa: ANN401 - a key of any type
    """The key that a JWK is; raises `KeyMistakes`."""
    (found,) = [read_jwks(_set([jwk])).find(None, alg)]
    assert found is not None
    return found.key


def _set(keys: Sequence[dict[str, Any]]) -> bytes:
    return json.dumps({"keys": keys}).encode()
