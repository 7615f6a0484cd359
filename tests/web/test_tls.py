"""TLS at the agents' door, and towards upstreams with authorities of one's own."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.outbound import NotSent, Outbound, Upstream
from gateway.web.hosts import Hosts
from gateway.web.tls import server_context
from tests.simulator.names import Names
from tests.web.door import echo, serving


@dataclass(frozen=True)
class Limits:
    """Deadlines for tests."""

    connect: float = 5.0
    first_byte: float = 5.0
    idle: float = 5.0
    total: float = 10.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "tls.crt", folder / "tls.key"


async def test_both_sides_speak_tls(files: tuple[Path, Path]) -> None:
    """The door serves TLS; a client with the right `ca_file` gets through, again and again on one connection."""
    cert, key = files
    async with serving(echo, tls=server_context(cert, key), hosts=Hosts((), "127.0.0.1")) as running:
        client = Outbound(ca_file=cert)
        target = Upstream("self", f"https://localhost:{running.port}/v1", timeouts=Limits())
        for size in (2, 50_000, 2):
            async with client.send(target, "POST", "/x", [], b"x" * size) as got:
                assert (got.status, await got.read(60_000)) == (200, b"x" * size)
        assert running.door.open == 1
        async with client.send(target, "POST", "/x", [], b"x" * 100_001) as got:
            assert got.status == 413
        await client.close()


async def test_an_unknown_authority_and_a_wrong_name_are_not_sent(files: tuple[Path, Path]) -> None:
    """Without the authority, or by a name that the certificate does not have, no byte of the request leaves."""
    cert, key = files
    async with serving(echo, tls=server_context(cert, key)) as running:
        for ca_file, host in ((None, "localhost"), (cert, "other.example")):
            client = Outbound(ca_file=ca_file, resolver=Names(["127.0.0.1"]))
            target = Upstream("self", f"https://{host}:{running.port}", timeouts=Limits(), allow_internal=True)
            with pytest.raises(NotSent, match=r"[Cc]ertificate"):
                async with client.send(target, "POST", "/", [], b"s3cret"):
                    pass
            await client.close()
        assert running.refused == []


async def test_old_protocols_are_not_spoken(files: tuple[Path, Path]) -> None:
    """TLS below 1.2 ends in the handshake."""
    context = server_context(*files)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
