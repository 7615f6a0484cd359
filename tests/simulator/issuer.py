"""An identity issuer in memory: it owns a key and signs whatever it is told, well-formed or hostile.

It shares no code with the gateway, so that the two cannot agree on a mistake.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Members = Mapping[str, Any]


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def number(value: int) -> str:
    """A positive integer as JWK writes it."""
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def new_private_key(alg: str, bits: int = 2048) -> PrivateKey:
    """A fresh key for `EdDSA`, `ES256` or `RS256`."""
    if alg == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if alg == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, bits)


@dataclass
class Issuer:
    """One issuer with one key; `token` makes a good token unless told otherwise."""

    name: str = "dev"
    iss: str = "https://issuer.example"
    audience: str = "https://gateway.example"
    subject: str = "spiffe://acme.example/agent/procurement"
    alg: str = "EdDSA"
    kid: str = "key-1"
    key: PrivateKey = field(default=None, repr=False)  # type: ignore[assignment]  # set below, where alg is known

    def __post_init__(self) -> None:
        """Make a key where none was handed in."""
        if self.key is None:
            self.key = new_private_key(self.alg)

    def jwk(self) -> dict[str, str]:
        """The public key."""
        named = {"kid": self.kid, "alg": self.alg, "use": "sig"}
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return named | {"kty": "OKP", "crv": "Ed25519", "x": b64(self.key.public_key().public_bytes_raw())}
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            point = self.key.public_key().public_numbers()
            x, y = (b64(value.to_bytes(32, "big")) for value in (point.x, point.y))
            return named | {"kty": "EC", "crv": "P-256", "x": x, "y": y}
        numbers = self.key.public_key().public_numbers()
        return named | {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}

    def jwks(self) -> bytes:
        """The file that the gateway reads."""
        return json.dumps({"keys": [self.jwk()]}).encode()

    def header(self, **changes: object) -> dict[str, object]:
        """A good header; a change to `...` leaves the member out."""
        return _changed({"alg": self.alg, "kid": self.kid, "typ": "at+jwt"}, changes)

    def claims(self, now: float | None = None, **changes: object) -> dict[str, object]:
        """Good claims for an hour; a change to `...` leaves the member out."""
        start = int(time.time() if now is None else now)
        times = {"iat": start, "exp": start + 3600}
        return _changed({"iss": self.iss, "sub": self.subject, "aud": self.audience, "jti": "t-1", **times}, changes)

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
            r, s = decode_dss_signature(self.key.sign(message, ec.ECDSA(SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return self.key.sign(message, padding.PKCS1v15(), SHA256())


def _changed(members: dict[str, object], changes: Mapping[str, object | EllipsisType]) -> dict[str, object]:
    return {name: value for name, value in {**members, **changes}.items() if value is not ...}
