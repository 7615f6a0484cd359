"""A certificate authority in memory: it signs X.509-SVIDs and server certificates, good and hostile.

It shares no code with the gateway, so that the two cannot agree on a mistake.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import ipaddress
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

BUYER: Final = "spiffe://acme.example/agent/buyer"
CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


@dataclass(frozen=True)
class Certified:
    """A certificate, its key, and the authorities between it and the root."""

    cert: x509.Certificate
    key: PrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def der(self) -> bytes:
        """What a TLS session shows of it."""
        return self.cert.public_bytes(Encoding.DER)

    @property
    def thumbprint(self) -> str:
        """Its `x5t#S256`."""
        return base64.urlsafe_b64encode(hashlib.sha256(self.der).digest()).decode().rstrip("=")

    def save(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write the chain and the key as PEM; gives both paths."""
        folder.mkdir(parents=True, exist_ok=True)
        cert, key = folder / f"{name}.crt", folder / f"{name}.key"
        cert.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in (self.cert, *self.chain)))
        key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return cert, key


@dataclass(frozen=True)
class Lives:
    """From when until when a certificate holds, in seconds from `now` (default: the machine's clock)."""

    begins: float = -3600.0
    ends: float = 3600.0
    now: float | None = None

    def times(self) -> tuple[dt.datetime, dt.datetime]:
        """Both as dates."""
        now = time.time() if self.now is None else self.now
        return dt.datetime.fromtimestamp(now + self.begins, dt.UTC), dt.datetime.fromtimestamp(now + self.ends, dt.UTC)


class Authority:
    """One authority, signed by itself or by `parent`."""

    def __init__(self, name: str = "agents", parent: Authority | None = None, lives: Lives | None = None) -> None:
        """Make a key and a certificate for it."""
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        signer, issuer = (parent.key, parent.name) if parent else (self.key, self.name)
        builder = _builder(self.name, issuer, self.key, lives or Lives(ends=86400.0))
        for extension in (x509.BasicConstraints(ca=True, path_length=None), _usage(signs=True)):
            builder = builder.add_extension(extension, critical=True)
        self.cert = _signed(builder, signer)
        # What goes along with a certificate of this authority: all up to the root, which the other side has.
        self.chain: tuple[x509.Certificate, ...] = (self.cert, *parent.chain) if parent else ()

    def pem(self) -> bytes:
        """What stands in `client_ca`."""
        return self.cert.public_bytes(Encoding.PEM)

    def save(self, folder: Path, name: str = "agents-ca.pem") -> Path:
        """Write that file."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(self.pem())
        return folder / name

    def svid(
        self,
        *uris: str,
        names: Sequence[x509.GeneralName] = (),
        ca: bool | None = False,
        signs: bool = False,
        revokes: bool = False,
        purposes: Sequence[x509.ObjectIdentifier] | None = (CLIENT, SERVER),
        lives: Lives | None = None,
        key: PrivateKey | None = None,
        raw_names: bytes | None = None,
        names_signer: bool = True,
    ) -> Certified:
        """A workload's certificate, of `BUYER` unless told other URIs or `names`; good unless told otherwise.

        `raw_names` stands in place of the subject alternative names, whatever these bytes are; without
        `names_signer` it lacks the authority key identifier that RFC 5280 §4.2.1.1 demands.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Acme")])  # names nobody
        builder = _builder(subject, self.name, key, lives or Lives())
        if raw_names is not None:
            unparsed = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, raw_names)
            builder = builder.add_extension(unparsed, critical=True)
        elif everybody := [*map(x509.UniformResourceIdentifier, uris or (() if names else (BUYER,))), *names]:
            builder = builder.add_extension(x509.SubjectAlternativeName(everybody), critical=True)
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs=signs, revokes=revokes), critical=True)
        if purposes is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        cert = _signed(builder, self.key) if names_signer else builder.sign(self.key, hashes.SHA256())
        return Certified(cert, key, self.chain)

    def server(self, lives: Lives | None = None) -> Certified:
        """A listener's certificate for loopback."""
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return self.svid(names=names, purposes=(SERVER,), lives=lives)


def client_context(server_ca: Path, shows: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """What a client uses that trusts this authority and shows this certificate, if any."""
    context = ssl.create_default_context(cafile=str(server_ca))
    if shows is not None:
        context.load_cert_chain(*shows)
    return context


def _builder(subject: x509.Name, issuer: x509.Name, key: PrivateKey, lives: Lives) -> x509.CertificateBuilder:
    begins, ends = lives.times()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _signed(builder: x509.CertificateBuilder, signer: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    own = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return builder.add_extension(own, critical=False).sign(signer, hashes.SHA256())


def _usage(*, signs: bool = False, revokes: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=revokes,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
