"""Signed documents: DSSE envelopes (Dead Simple Signing Envelope, v1.0) around bytes of any type.

1. What is signed is the type together with the bytes, each with its length, so that a document of one type is never
   taken for one of another, and the bytes are verified before anybody reads them.
2. An envelope with several signatures counts when one of them does.
3. Only EdDSA and ES256 sign here: the envelope does not name an algorithm, so the key does.
"""

from __future__ import annotations

import base64
import json
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from gateway.identity.algorithms import ALGORITHMS
from gateway.identity.issue import MINTABLE, PrivateKey
from gateway.identity.jose import from_json
from gateway.identity.keys import KeySet, PublicKey

_MOST_SIGNATURES: Final = 16
_TO_STANDARD: Final = str.maketrans("-_", "+/")


class Envelope(NamedTuple):
    """What an envelope says; nothing of it is verified."""

    payload_type: str
    payload: bytes
    signatures: tuple[tuple[str | None, bytes], ...]  # each with the name of its key, where it has one


def seal(payload: bytes, payload_type: str, key: PrivateKey) -> bytes:
    """The envelope as JSON, signed with one key, whose `kid` it names."""
    signature = ALGORITHMS[key.alg].sign(_encoded(payload_type, payload), key.key)
    envelope = {
        "payloadType": payload_type,
        "payload": base64.b64encode(payload).decode("ascii"),
        "signatures": [{"keyid": key.kid, "sig": base64.b64encode(signature).decode("ascii")}],
    }
    return (json.dumps(envelope, indent=2) + "\n").encode()


def unseal(envelope: bytes, payload_type: str, keys: KeySet) -> bytes:
    """The payload, once one of `keys` is known to have signed it as this type.

    Raises `ValueError` with the rest of a sentence about the envelope.
    """
    opened = read_envelope(envelope, payload_type)
    if signer(opened, keys) is None:
        raise ValueError("is not signed by a key that counts")
    return opened.payload


def read_envelope(data: bytes, payload_type: str) -> Envelope:
    """Read an envelope of this type; raises `ValueError` with the rest of a sentence about it."""
    whole = from_json(data)
    signatures = whole.get("signatures")
    if whole.get("payloadType") != payload_type:
        raise ValueError(f"is not of the type {payload_type}")
    if not isinstance(signatures, list) or not 0 < len(signatures) <= _MOST_SIGNATURES:
        raise ValueError(f"has no list of 1 to {_MOST_SIGNATURES} signatures")
    return Envelope(payload_type, _decoded(whole.get("payload"), "payload"), tuple(map(_signature, signatures)))


def signer(envelope: Envelope, keys: KeySet) -> PublicKey | None:
    """The key that signed it: each signature may be of the key that it names, or of the only one that it can be of."""
    message = _encoded(envelope.payload_type, envelope.payload)
    for name, signature in envelope.signatures:
        for alg in MINTABLE:
            key = keys.find(name, alg)
            if key is not None and ALGORITHMS[alg].verifies(message, key.key, _as_jws(alg, signature)):
                return key
    return None


def _signature(signature: object) -> tuple[str | None, bytes]:
    if not isinstance(signature, dict):
        raise ValueError("has a signature that is no object")  # noqa: TRY004 - one class for all that input gets wrong
    sig, name = _decoded(signature.get("sig"), "signature"), signature.get("keyid") or None
    if name is not None and not isinstance(name, str):
        raise ValueError("has a keyid that is no text")
    return name, sig


def _as_jws(alg: str, signature: bytes) -> bytes:
    """An ECDSA signature as RFC 7518 §3.4 has it; in-toto's tools write it as DER, where DSSE leaves that open."""
    if alg != "ES256":
        return signature
    try:
        r, s = decode_dss_signature(signature)
        return r.to_bytes(32) + s.to_bytes(32)
    except (ValueError, OverflowError):
        return signature


def _encoded(payload_type: str, payload: bytes) -> bytes:
    """What is signed: the pre-authentication encoding (DSSE v1.0, "PAE")."""
    name = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def _decoded(text: object, what: str) -> bytes:
    """Base64 in either alphabet (DSSE v1.0, "Protocol")."""
    if not isinstance(text, str) or not text:
        raise ValueError(f"has no {what}")
    try:
        return base64.b64decode(text.translate(_TO_STANDARD), validate=True)
    except ValueError:
        raise ValueError(f"has a {what} that is not base64") from None
