"""The signature algorithms that are accepted, and all that is used of PyJWT.

Only asymmetric ones exist here: there is no key with which `none` or an `HS*` could be checked.
PyJWT computes signatures and nothing else. It reads tokens more generously than is safe here
(duplicate members, any `typ`, `exp` as text, ten-year lifetimes), so `tokens.py` reads them itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import Algorithm as Signer
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, RSAPSSAlgorithm


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One `alg` of RFC 7518 and RFC 8037 with the only keys that fit it."""

    name: str
    kty: str
    crv: str  # empty for RSA
    signer: Signer

    def sign(self, message: bytes, private: Any) -> bytes:  # noqa: ANN401 - one of three unrelated key classes
        """Sign with a private key of this `kty` and `crv`."""
        return self.signer.sign(message, private)

    def verifies(self, message: bytes, public: Any, signature: bytes) -> bool:  # noqa: ANN401 - as above
        """Whether the signature is this public key's over exactly this message."""
        return self.signer.verify(message, public, signature)


CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
}
"""The elliptic curves of RFC 7518 §6.2.1.1."""

ALGORITHMS: Final[dict[str, Algorithm]] = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm("EdDSA", "OKP", "Ed25519", OKPAlgorithm()),
        Algorithm("ES256", "EC", "P-256", ECAlgorithm(ECAlgorithm.SHA256, ec.SECP256R1)),
        Algorithm("ES384", "EC", "P-384", ECAlgorithm(ECAlgorithm.SHA384, ec.SECP384R1)),
        Algorithm("ES512", "EC", "P-521", ECAlgorithm(ECAlgorithm.SHA512, ec.SECP521R1)),
        Algorithm("RS256", "RSA", "", RSAAlgorithm(RSAAlgorithm.SHA256)),
        Algorithm("RS384", "RSA", "", RSAAlgorithm(RSAAlgorithm.SHA384)),
        Algorithm("RS512", "RSA", "", RSAAlgorithm(RSAAlgorithm.SHA512)),
        Algorithm("PS256", "RSA", "", RSAPSSAlgorithm(RSAPSSAlgorithm.SHA256)),
        Algorithm("PS384", "RSA", "", RSAPSSAlgorithm(RSAPSSAlgorithm.SHA384)),
        Algorithm("PS512", "RSA", "", RSAPSSAlgorithm(RSAPSSAlgorithm.SHA512)),
    )
}


def algorithms_for(kty: object, crv: object) -> frozenset[str]:
    """Every `alg` that a key of this `kty` and `crv` can be used with; empty for unknown ones."""
    return frozenset(a.name for a in ALGORITHMS.values() if (a.kty, a.crv) == (kty, crv))
