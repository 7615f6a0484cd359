"""Client certificates: X.509-SVIDs (SPIFFE X509-SVID), and those that tokens are bound to (RFC 8705).

The handshake has proven that the client holds the key and that an authority of `listen.agents.tls.client_ca`
signed the certificate. What the certificate says is judged here, and again with every request: a connection and
a TLS session may well outlive it. As an X.509-SVID it counts when

 1  it can be read                                    and none of its extensions stands twice
 2  it has exactly one URI among its names            two would be two agents (I14)
 3  that is a SPIFFE ID of the issuer's trust domain  one name has one spelling, and no other domain's (I13)
 4  it names a workload                               the root of a trust domain is nobody
 5  it is no authority's, and signs neither certificates nor revocation lists             (I14)
 6  it is for clients, where it says what it is for   a server's certificate is no caller
 7  its key is of today's strength                    RSA of 2048 bits, P-256, P-384, P-521, Ed25519
 8  it holds now                                      last, so that "expired" means "all else was right"

All causes but "expired" share the public sentence of a token that is not valid; the log has the cause.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Callable
from typing import Final, NamedTuple, Self, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.core.clock import Clock, rfc3339
from gateway.core.errors import Refusal
from gateway.identity.jose import base64url
from gateway.identity.settings import IdentitySettings
from gateway.identity.spiffe import spiffe_id
from gateway.identity.tokens import invalid

_READ: Final = 1024
"""How many certificates are kept read at most: reading one costs more than all that is asked of it."""
_RSA_BITS: Final = 2048
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_UNREADABLE: Final = (
    ValueError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType
)  # fmt: skip
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


class Certificate(NamedTuple):
    """What a certificate says, as far as anybody here asks."""

    thumbprint: str  # x5t#S256: the SHA-256 of all of it, base64url (RFC 8705 §3.1)
    key_id: str  # the SHA-256 of its public key (SubjectPublicKeyInfo), base64url: stays when it is renewed
    uris: tuple[str, ...]
    authority: bool  # cA, keyCertSign or cRLSign
    for_clients: bool  # extendedKeyUsage has clientAuth, or is not there (RFC 5280 §4.2.1.12)
    strong: bool
    begins: float  # epoch seconds
    ends: float


@functools.lru_cache(maxsize=_READ)
def read(der: bytes) -> Certificate:
    """Read a certificate (DER); raises `ValueError`, the rest of a sentence about it."""
    try:
        cert = x509.load_der_x509_certificate(der)
        key = cert.public_key()
        extensions = cert.extensions
        names = _value(extensions, x509.SubjectAlternativeName)
        uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
        constraints = _value(extensions, x509.BasicConstraints)
        usage = _value(extensions, x509.KeyUsage)
        purposes = _value(extensions, x509.ExtendedKeyUsage)
    except _UNREADABLE as error:
        raise ValueError(f"cannot be read: {type(error).__name__}") from None
    public = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Certificate(
        thumbprint=base64url(hashlib.sha256(der).digest()),
        key_id=base64url(hashlib.sha256(public).digest()),
        uris=tuple(uris),
        authority=(constraints is not None and constraints.ca)
        or (usage is not None and (usage.key_cert_sign or usage.crl_sign)),
        for_clients=purposes is None or ExtendedKeyUsageOID.CLIENT_AUTH in purposes,
        strong=isinstance(key, ed25519.Ed25519PublicKey)
        or (isinstance(key, rsa.RSAPublicKey) and key.key_size >= _RSA_BITS)
        or (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES)),
        begins=cert.not_valid_before_utc.timestamp(),
        ends=cert.not_valid_after_utc.timestamp(),
    )


def _value(extensions: x509.Extensions, kind: type[_Extension]) -> _Extension | None:
    """An extension's value, `None` where it is not there."""
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


class Svid(NamedTuple):
    """A certificate that is a workload's X.509-SVID and holds now."""

    subject: str  # its SPIFFE ID
    certificate: Certificate


class Svids:
    """Takes the X.509-SVIDs of one issuer's trust domain."""

    def __init__(self, issuer: str, identifier: str, trust_domain: str, *, skew: float, clock: Clock) -> None:
        """`issuer` is its name in the config, `identifier` who it is to the rest of the world, `skew` in seconds."""
        self.issuer = issuer
        self.identifier = identifier
        self._trust_domain = trust_domain
        self._skew = skew
        self._clock = clock
        # What each finds is the rest of a sentence about the certificate; empty: nothing.
        self.steps: Final[tuple[tuple[int, Callable[[Certificate], str]], ...]] = (
            (2, _several_names),
            (3, self._foreign),
            (4, _nobody),
            (5, _authority),
            (6, _not_for_clients),
            (7, _weak),
            (8, self._too_early),
        )

    @classmethod
    def of(cls, settings: IdentitySettings, clock: Clock) -> Self | None:
        """For the issuer of X.509-SVIDs, `None` without one; `client_ca` vouches for all alike, hence there is one."""
        for issuer in settings.issuers:
            if "x509-svid" in issuer.kinds and issuer.trust_domain is not None:
                return cls(issuer.name, issuer.identifier, issuer.trust_domain, skew=settings.skew, clock=clock)
        return None

    def verify(self, der: bytes) -> Svid:
        """All steps in order; raises `Refusal` (`identity_invalid`, `identity_expired`), and nothing else."""
        try:
            certificate = read(der)  # 1
        except ValueError as error:
            raise invalid(f"the client certificate {error}") from None
        for _, problem in self.steps:
            if found := problem(certificate):
                raise invalid(f"the client certificate {found}")
        if self._clock.now() >= certificate.ends + self._skew:  # 8
            moment = rfc3339(certificate.ends)
            raise Refusal(
                "identity_expired",
                f"the client certificate expired at {moment}; connect again with a current one and repeat the call",
                fields={"expired_at": moment},
            )
        return Svid(certificate.uris[0], certificate)

    def _foreign(self, certificate: Certificate) -> str:
        try:
            trust_domain = spiffe_id(certificate.uris[0]).trust_domain
        except ValueError as error:
            return f"has the URI {certificate.uris[0][:100]!r}, which {error}"
        return "" if trust_domain == self._trust_domain else f"is of trust domain {trust_domain}"

    def _too_early(self, certificate: Certificate) -> str:
        return "is not valid yet" if self._clock.now() < certificate.begins - self._skew else ""


def _several_names(certificate: Certificate) -> str:
    found = len(certificate.uris)
    return "" if found == 1 else f"has {found} URIs among its names, where an SVID has one"


def _nobody(certificate: Certificate) -> str:
    return "" if spiffe_id(certificate.uris[0]).path else "names a trust domain and no workload in it"


def _authority(certificate: Certificate) -> str:
    return "is an authority's: it may sign certificates or revocation lists" if certificate.authority else ""


def _not_for_clients(certificate: Certificate) -> str:
    return "" if certificate.for_clients else "is not for clients: its extended key usage lacks clientAuth"


def _weak(certificate: Certificate) -> str:
    return "" if certificate.strong else "has a key that is not RSA of 2048 bits, P-256, P-384, P-521 or Ed25519"


def prove(der: bytes | None, thumbprint: str, *, now: float, skew: float) -> None:
    """Check that a token is used over a TLS session of the certificate that it is bound to (RFC 8705 §3, I16).

    `der` is the session's certificate, `None` without one. Raises `Refusal` (`proof_invalid`).
    """
    try:
        certificate = read(der) if der is not None else None
    except ValueError:
        certificate = None
    cause = ""
    if certificate is None:
        cause = "the request came without a client certificate that can be read"
    elif not hmac.compare_digest(certificate.thumbprint, thumbprint):
        cause = f"the client certificate is {certificate.thumbprint}"
    elif not certificate.begins - skew <= now < certificate.ends + skew:
        cause = "the client certificate is not valid now"
    if cause:
        raise Refusal(
            "proof_invalid",
            "the token is bound to a client certificate (`cnf` with `x5t#S256`, RFC 8705), and this connection has not "
            "that one; connect over TLS with it and its key, or get a token for the certificate that you have",
            detail=cause,
        )
