"""An identity issuer in memory: it owns a key and signs whatever it is told, well-formed or hostile.

It shares no code with the gateway, so that the two cannot agree on a mistake.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Members = Mapping[str, Any]

_CURVES: Mapping[str, type[ec.SECP256R1 | ec.SECP521R1]] = {"ES256": ec.SECP256R1, "ES512": ec.SECP521R1}


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def number(value: int) -> str:
    """A positive integer as JWK writes it."""
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def new_private_key(alg: str, bits: int = 2048) -> PrivateKey:
    """A fresh key for `EdDSA`, `ES256`, `ES512`, `RS256` or `PS256`."""
    if alg == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if alg in _CURVES:
        return ec.generate_private_key(_CURVES[alg]())
    return rsa.generate_private_key(65537, bits)


HEADERS: Members = {
    "jwt-svid": {"typ": "JWT"},
    "k8s": {"typ": ...},
    "txn-token": {"typ": "txntoken+jwt"},
}
"""What sets the header of a good token of some kinds apart."""

CLAIMS: Members = {
    "at+jwt": {"client_id": "procurement-client"},
    "jwt-svid": {"iss": ...},
    "k8s": {
        "sub": "system:serviceaccount:pay:buyer",
        "kubernetes.io": {
            "namespace": "pay",
            "serviceaccount": {"name": "buyer", "uid": "d5b0a0a7-4c5e-4f4b-9d43-2d54e41e3f9b"},
            "pod": {"name": "buyer-0", "uid": "8f0d7a61-3c2e-4cf0-8a55-0a1b2c3d4e5f"},
        },
    },
    "txn-token": {
        "sub": "user/anna",
        "req_wl": "spiffe://acme.example/agent/procurement",
        "txn": "97053963-771d-49cc-a4e3-20aad399c312",
        "scope": "trade.stocks",
        "tctx": {"action": "BUY", "quantity": 100, "customer": {"geo": "US", "tags": ["vip"]}},
        "rctx": {"req_ip": "192.0.2.7"},
    },
}
"""What sets its claims apart."""


@dataclass
class Issuer:
    """One issuer with one key; `token` makes a good token of its kind unless told otherwise."""

    name: str = "dev"
    iss: str = "https://issuer.example"
    audience: str = "https://gateway.example"
    subject: str = "spiffe://acme.example/agent/procurement"
    alg: str = "EdDSA"
    kid: str = "key-1"
    kind: str = "jwt"
    key: PrivateKey = field(default=None, repr=False)  # type: ignore[assignment]  # set below, where alg is known

    def __post_init__(self) -> None:
        """Make a key where none was handed in."""
        if self.key is None:
            self.key = new_private_key(self.alg)

    def jwk(self) -> dict[str, str]:
        """The public key."""
        named = {"kid": self.kid, "alg": self.alg, "use": "jwt-svid" if self.kind == "jwt-svid" else "sig"}
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return named | {"kty": "OKP", "crv": "Ed25519", "x": b64(self.key.public_key().public_bytes_raw())}
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            point, bits = self.key.public_key().public_numbers(), self.key.curve.key_size
            x, y = (b64(value.to_bytes((bits + 7) // 8, "big")) for value in (point.x, point.y))
            return named | {"kty": "EC", "crv": f"P-{bits}", "x": x, "y": y}
        numbers = self.key.public_key().public_numbers()
        return named | {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}

    def jwks(self) -> bytes:
        """The file that the gateway reads."""
        return json.dumps({"keys": [self.jwk()]}).encode()

    def header(self, **changes: object) -> dict[str, object]:
        """A good header; a change to `...` leaves the member out."""
        return changed({"alg": self.alg, "kid": self.kid, "typ": "at+jwt"}, {**HEADERS.get(self.kind, {}), **changes})

    def claims(self, now: float | None = None, **changes: object) -> dict[str, object]:
        """Good claims for an hour; a change to `...` leaves the member out."""
        start = int(time.time() if now is None else now)
        times = {"iat": start, "exp": start + 3600}
        named = {"iss": self.iss, "sub": self.subject, "aud": self.audience, "jti": "t-1", **times}
        return changed(named, {**CLAIMS.get(self.kind, {}), **changes})

    def token(self, now: float | None = None, **changes: object) -> str:
        """A good token, with claims changed."""
        return self.sign(self.header(), self.claims(now, **changes))

    def sign(self, header: Members, claims: Members) -> str:
        """Sign these members."""
        return self.sign_bytes(json.dumps(header).encode(), json.dumps(claims).encode())

    def sign_bytes(self, header: bytes, claims: bytes) -> str:
        """Sign these very bytes, whatever they are."""
        signed = f"{b64(header)}.{b64(claims)}"
        return f"{signed}.{b64(self.signature(signed.encode()))}"

    def signature(self, message: bytes) -> bytes:
        """The bare signature over any bytes (RFC 7518 §3, RFC 8037 §3.1)."""
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(message)
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            size, digest = (self.key.curve.key_size + 7) // 8, SHA512() if self.alg == "ES512" else SHA256()
            r, s = decode_dss_signature(self.key.sign(message, ec.ECDSA(digest)))
            return r.to_bytes(size, "big") + s.to_bytes(size, "big")
        pss = padding.PSS(padding.MGF1(SHA256()), padding.PSS.DIGEST_LENGTH)
        return self.key.sign(message, pss if self.alg == "PS256" else padding.PKCS1v15(), SHA256())

    def mirrored(self, token: str, padding: bytes = b"") -> str:
        """The same token under the other ECDSA signature that holds for it: (r, n - s); `padding` goes before `s`."""
        signed, _, tail = token.rpartition(".")
        assert isinstance(self.key, ec.EllipticCurvePrivateKey)
        signature = base64.urlsafe_b64decode(tail + "==")
        half = len(signature) // 2
        other = self.key.curve.group_order - int.from_bytes(signature[half:])
        return f"{signed}.{b64(signature[:half] + padding + other.to_bytes(half))}"

    def public_spellings(self) -> Iterator[bytes]:
        """All the bytes under which a library might take the public key for a shared secret."""
        public = self.key.public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        yield from (pem, pem.strip(), b" " + pem, pem.replace(b"\n", b"\r\n"), pem.replace(b"\n", b""))
        yield public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        yield from (json.dumps(self.jwk()).encode(), self.jwks(), b"")


def mac(secret: bytes, message: str) -> str:
    """The signature segment of `HS256`, with whatever is taken for a secret."""
    code = HMAC(secret, SHA256())
    code.update(message.encode())
    return b64(code.finalize())


def changed(members: dict[str, object], changes: Mapping[str, object | EllipsisType]) -> dict[str, object]:
    """These members with others in their place; a change to `...` leaves one out."""
    return {name: value for name, value in {**members, **changes}.items() if value is not ...}
