"""Server-side TLS of the three listeners."""

from __future__ import annotations

import contextlib
import math
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Self

from cryptography import x509

if TYPE_CHECKING:
    from gateway.core.sources import Sources
    from gateway.web.settings import TlsSettings


@dataclass(frozen=True)
class ServerTls:
    """What a listener ends TLS with: the contents of its files (PEM), so that all processes serve with the same.

    A renewal makes another one, with a context of its own, and never changes a context that serves: only so do
    the sessions that older handshakes left end with it. Were the context exchanged within the handshake (SNI),
    a client could resume such a session although the authority of its certificate was taken out.
    """

    cert: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None

    @classmethod
    def read(cls, tls: TlsSettings, sources: Sources) -> Self:
        """Read the files; raises `OSError`."""
        client_ca = None if tls.client_ca is None else sources.read(tls.client_ca)
        return cls(sources.read(tls.cert), sources.read(tls.key), client_ca)

    def context(self, *, clients_must: bool = False) -> ssl.SSLContext:
        """A context for HTTP/1.1 over TLS 1.2 or newer; raises `OSError` (`ssl.SSLError` is one) for unusable files.

        With `client_ca` a client is asked for a certificate: one that these authorities did not sign ends the
        handshake, and so does none where `clients_must`. An authority that is listed need not be a root, so that a
        company can name the one that signs for its agents and not all that its root vouches for.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.options |= ssl.OP_NO_RENEGOTIATION
        with _path(self.cert) as cert, _path(self.key) as key:
            context.load_cert_chain(cert, key, password=_no_password)
        if self.client_ca is not None:
            with _path(self.client_ca) as client_ca:
                context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED if clients_must else ssl.CERT_OPTIONAL
            # What Python 3.13 sets by itself, so that a certificate counts alike under every version (RFC 5280 §6).
            context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags.VERIFY_X509_STRICT
        return context

    @cached_property
    def life(self) -> tuple[float, float]:
        """From when until when the listener's own certificate holds, as Unix time; raises `ValueError` for none."""
        leaf = x509.load_pem_x509_certificate(self.cert)
        return leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()

    @cached_property
    def trust_ends(self) -> float:
        """When the last authority of `client_ca` expires, as Unix time: no client certificate is good any more then."""
        authorities = self.context().get_ca_certs()
        return max((ssl.cert_time_to_seconds(str(one["notAfter"])) for one in authorities), default=math.inf)


@contextlib.contextmanager
def _path(data: bytes) -> Iterator[str]:
    """A path under which OpenSSL, which takes nothing else, finds what is in memory; a key never touches a disk."""
    with os.fdopen(os.memfd_create("pem"), "wb", buffering=0) as file:
        file.write(data)
        yield f"/proc/self/fd/{file.fileno()}"


def _no_password() -> str:
    """What OpenSSL calls for an encrypted key; without it a terminal would be asked, in the midst of a reload."""
    raise OSError("the key is encrypted, and nobody is there to ask for its password")
