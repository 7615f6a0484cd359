"""Signed documents: what was signed is what is read, or nothing is."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from gateway.identity.dsse import seal, unseal
from gateway.identity.issue import PrivateKey
from gateway.identity.keys import KeySet, read_jwks

TYPE = "application/vnd.example+json"
PAYLOAD = b'{"revision": 1}'


def keys(*own: PrivateKey) -> KeySet:
    """The public parts as a key set."""
    return read_jwks(json.dumps({"keys": [key.public_jwk for key in own]}).encode())


def changed(envelope: bytes, **members: object) -> bytes:
    """The envelope with members changed."""
    return json.dumps({**json.loads(envelope), **members}).encode()


def signature(envelope: bytes) -> dict[str, Any]:
    """Its one signature."""
    (one,) = json.loads(envelope)["signatures"]
    return dict(one)


@pytest.mark.parametrize("alg", ["EdDSA", "ES256"])
def test_what_was_sealed_is_unsealed(alg: str) -> None:
    """Both algorithms sign, and any of the keys that count may have done it."""
    key, other = PrivateKey.new(alg), PrivateKey.new("EdDSA")
    assert unseal(seal(PAYLOAD, TYPE, key), TYPE, keys(other, key)) == PAYLOAD


def test_the_signature_is_that_of_the_specification() -> None:
    """DSSE v1.0: what is signed is the encoding that its example has, type and payload each with its length."""
    key = PrivateKey.new("EdDSA")
    sealed = seal(b"hello world", "http://example.com/HelloWorld", key)
    assert isinstance(key.key, ed25519.Ed25519PrivateKey)
    message = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    key.key.public_key().verify(base64.b64decode(signature(sealed)["sig"]), message)
    assert json.loads(sealed)["payload"] == "aGVsbG8gd29ybGQ="


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"payload": base64.b64encode(PAYLOAD + b" ").decode()}, "is not signed by a key that counts"),
        ({"payloadType": "text/plain"}, "is not of the type"),
        ({"payload": None}, "has no payload"),
        ({"payload": "***"}, "has a payload that is not base64"),
        ({"signatures": []}, "has no list of 1 to 16 signatures"),
        ({"signatures": [{}] * 17}, "has no list of 1 to 16 signatures"),
        ({"signatures": [7]}, "has a signature that is no object"),
        ({"signatures": [{"keyid": "k"}]}, "has no signature"),
        ({"signatures": [{"keyid": 7, "sig": "AAAA"}]}, "has a keyid that is no text"),
        ({"signatures": [{"sig": "AAAA"}]}, "is not signed by a key that counts"),
    ],
)
def test_what_was_changed_is_refused(what: dict[str, object], said: str) -> None:
    """P9: nothing of the payload, the type or the signature can be another."""
    key = PrivateKey.new("EdDSA")
    with pytest.raises(ValueError, match=said):
        unseal(changed(seal(PAYLOAD, TYPE, key), **what), TYPE, keys(key))


def test_another_type_is_another_document() -> None:
    """What was signed as one type is no document of another one, whatever the envelope says of itself."""
    key = PrivateKey.new("EdDSA")
    with pytest.raises(ValueError, match="is not signed by a key that counts"):
        unseal(changed(seal(PAYLOAD, "text/plain", key), payloadType=TYPE), TYPE, keys(key))


def test_a_stranger_signs_nothing() -> None:
    """P9: neither under a name of its own, nor under that of a key that counts, nor under none."""
    key, stranger = PrivateKey.new("EdDSA"), PrivateKey.new("EdDSA")
    sealed = seal(PAYLOAD, TYPE, stranger)
    for name in (stranger.kid, key.kid, None):
        forged = changed(sealed, signatures=[{**signature(sealed), "keyid": name}])
        with pytest.raises(ValueError, match="is not signed by a key that counts"):
            unseal(forged, TYPE, keys(key))


def test_one_good_signature_is_enough() -> None:
    """Two may sign, so that a key can be replaced; one of them has to count."""
    key, old = PrivateKey.new("EdDSA"), PrivateKey.new("ES256")
    both = [signature(seal(PAYLOAD, TYPE, one)) for one in (old, key)]
    assert unseal(changed(seal(PAYLOAD, TYPE, key), signatures=both), TYPE, keys(key)) == PAYLOAD


def test_what_is_no_envelope_is_refused() -> None:
    """Anything but one JSON object is, whatever else it may be."""
    for odd in (b"", b"[]", b"{", b'{"payload": "YQ==", "payload": "Yg=="}', b"\xff"):
        with pytest.raises(ValueError, match=r"\w"):
            unseal(odd, TYPE, keys(PrivateKey.new("EdDSA")))
