"""A DPoP client (RFC 9449) in memory: it owns a key and proves whatever it is told, truly or not.

It shares no code with the gateway, so that the two cannot agree on a mistake.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.simulator.issuer import Issuer, Members, PrivateKey, b64, changed, number

_REQUIRED = {"OKP": ("crv", "kty", "x"), "EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}


@dataclass
class Prover:
    """A client with one key; `proof` makes a good proof unless told otherwise."""

    alg: str = "ES256"
    nonce: str | None = None
    """The nonce that the gateway gave last."""
    key: PrivateKey = field(default=None, repr=False)  # type: ignore[assignment]  # made below, where alg is known

    def __post_init__(self) -> None:
        """Make a key; signing is done as an issuer does it."""
        self._signer = Issuer(alg=self.alg, key=self.key)
        self.key = self._signer.key

    def jwk(self) -> dict[str, str]:
        """The public key and nothing else."""
        return {name: value for name, value in self._signer.jwk().items() if name not in {"kid", "alg", "use"}}

    def private_jwk(self) -> dict[str, str]:
        """The key with what no proof may give away."""
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.jwk() | {"d": b64(self.key.private_bytes_raw())}
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.jwk() | {"d": number(self.key.private_numbers().d)}
        assert isinstance(self.key, ec.EllipticCurvePrivateKey)
        return self.jwk() | {"d": b64(self.key.private_numbers().private_value.to_bytes(32, "big"))}

    @property
    def thumbprint(self) -> str:
        """What a token's `cnf.jkt` says for this key (RFC 7638)."""
        jwk = self.jwk()
        members = ",".join(f'"{name}":"{jwk[name]}"' for name in _REQUIRED[jwk["kty"]])
        return b64(hashlib.sha256(f"{{{members}}}".encode()).digest())

    @property
    def cnf(self) -> dict[str, str]:
        """The claim of a token that is bound to this key."""
        return {"jkt": self.thumbprint}

    def header(self, **changes: object) -> dict[str, object]:
        """A good header; a change to `...` leaves the member out."""
        return changed({"typ": "dpop+jwt", "alg": self.alg, "jwk": self.jwk()}, changes)

    def claims(
        self, method: str, url: str, token: str | None = None, now: float | None = None, **changes: object
    ) -> dict[str, object]:
        """Good claims for a request with this token; a change to `...` leaves the member out."""
        members: dict[str, object] = {
            "jti": uuid.uuid4().hex,
            "htm": method,
            "htu": url.partition("?")[0],
            "iat": int(time.time() if now is None else now),
        }
        if token is not None:
            members["ath"] = b64(hashlib.sha256(token.encode()).digest())
        if self.nonce is not None:
            members["nonce"] = self.nonce
        return changed(members, changes)

    def proof(
        self, method: str, url: str, token: str | None = None, now: float | None = None, **changes: object
    ) -> str:
        """A good proof, with claims changed."""
        return self.sign(self.header(), self.claims(method, url, token, now, **changes))

    def sign(self, header: Members, claims: Members) -> str:
        """Sign these members."""
        return self._signer.sign(header, claims)

    def sign_bytes(self, header: bytes, claims: bytes) -> str:
        """Sign these very bytes, whatever they are."""
        return self._signer.sign_bytes(header, claims)

    def headers(self, method: str, url: str, token: str, **changes: object) -> dict[str, str]:
        """What a request with this token carries now."""
        return {"Authorization": f"DPoP {token}", "DPoP": self.proof(method, url, token, None, **changes)}

    def learn(self, headers: Any) -> None:  # noqa: ANN401 - any mapping of header names in lower case
        """Take over the nonce of an answer, if it brings one (RFC 9449 §8.2)."""
        self.nonce = headers.get("dpop-nonce", self.nonce)
