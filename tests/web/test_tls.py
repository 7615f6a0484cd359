"""TLS at the agents' door, and towards upstreams with authorities of one's own."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.core.call import Exchange
from gateway.core.sources import DiskSources
from gateway.outbound import NotSent, Outbound, Upstream
from gateway.web.hosts import Hosts
from gateway.web.settings import TlsSettings
from gateway.web.tls import ServerTls
from tests.simulator.authority import SERVER, Authority, Certified, Lives, client_context
from tests.simulator.names import Names
from tests.web.door import echo, post, serving


@dataclass(frozen=True)
class Limits:
    """Deadlines for tests."""

    connect: float = 5.0
    first_byte: float = 5.0
    idle: float = 5.0
    total: float = 10.0


def server_context(
    cert: Path, key: Path, client_ca: Path | None = None, *, clients_must: bool = False
) -> ssl.SSLContext:
    """What a listener uses with these files."""
    files = TlsSettings(cert=cert, key=key, client_ca=client_ca)
    return ServerTls.read(files, DiskSources()).context(clients_must=clients_must)


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


# -- client certificates


class Mutual:
    """A door that asks for certificates of one authority, and clients of it."""

    def __init__(self, folder: Path) -> None:
        self.servers, self.agents = Authority("servers"), Authority("agents")
        self.folder = folder
        self.server_ca = self.servers.save(folder, "servers-ca.pem")
        self.client_ca = self.agents.save(folder, "agents-ca.pem")
        self.cert, self.key = self.servers.server().save(folder, "server")

    def door(self, *, clients_must: bool = False, client_ca: Path | None = None) -> ssl.SSLContext:
        """What the listener uses."""
        return server_context(self.cert, self.key, client_ca or self.client_ca, clients_must=clients_must)

    def client(self, shown: Certified | None = None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """What a client uses that shows this certificate."""
        context = client_context(self.server_ca, shown.save(self.folder, "client") if shown else None)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory) -> Mutual:
    return Mutual(tmp_path_factory.mktemp("mutual"))


async def tell(exchange: Exchange) -> None:
    """Answer with the certificate of the head."""
    await exchange.reply(200, [], exchange.head.certificate or b"none")


def asked(
    port: int, context: ssl.SSLContext, *requests: bytes, session: ssl.SSLSession | None = None
) -> tuple[list[bytes], ssl.SSLSession | None, bool | None]:
    """The bodies of the answers on one connection, its TLS session, and whether that one was resumed."""
    with (
        socket.create_connection(("127.0.0.1", port), 5) as raw,
        context.wrap_socket(raw, server_hostname="localhost", session=session) as tls,
        tls.makefile("rb") as answers,
    ):
        bodies = []
        for request in requests or (post(b"", host="localhost"),):
            tls.sendall(request)
            if not answers.readline():
                raise ConnectionError("the door closed without an answer")
            length = 0
            while (line := answers.readline().strip()) != b"":
                name, _, value = line.lower().partition(b":")
                length = int(value) if name == b"content-length" else length
            bodies.append(answers.read(length))
        return bodies, tls.session, tls.session_reused


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_shows_its_certificate(mutual: Mutual, version: ssl.TLSVersion) -> None:
    """Each head has what the handshake proved, on every request, and so has a connection that resumes the session."""
    svid = mutual.agents.svid()
    again = post(b"", host="localhost").replace(b"Connection: close", b"Connection: keep-alive")
    async with serving(tell, tls=mutual.door(), hosts=Hosts((), "127.0.0.1")) as running:
        for shown, told in ((svid, svid.der), (None, b"none")):
            context = mutual.client(shown, version)
            first, session, resumed = await asyncio.to_thread(asked, running.port, context, again, again)
            assert (first, resumed) == ([told, told], False)
            second, _, resumed = await asyncio.to_thread(asked, running.port, context, session=session)
            assert (second, resumed) == ([told], True)


async def test_no_header_shows_a_certificate(mutual: Mutual) -> None:
    """I17: what a header says of a certificate is not the session's, whether there is one or not."""
    svid, other = mutual.agents.svid(), mutual.agents.svid()
    pem = other.cert.public_bytes(serialization.Encoding.PEM).decode().replace("\n", "")
    words = [f"{name}: {pem}" for name in ("Client-Cert", "X-Forwarded-Client-Cert", "X-SSL-Client-Cert", "Ssl-Cert")]
    forged = post(b"", *words, host="localhost")
    async with serving(tell, tls=mutual.door(), hosts=Hosts((), "127.0.0.1")) as running:
        assert (await asyncio.to_thread(asked, running.port, mutual.client(), forged))[0] == [b"none"]
        assert (await asyncio.to_thread(asked, running.port, mutual.client(svid), forged))[0] == [svid.der]
    async with serving(tell) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(post(b"", *words))
        assert (await reader.read()).endswith(b"\r\n\r\nnone")
        writer.close()


async def test_a_certificate_of_somebody_else_ends_in_the_handshake(mutual: Mutual) -> None:
    """I14: of a foreign authority, expired, not yet begun, a server's, not as RFC 5280 has it: nobody is served."""
    foreign = Authority("agents")  # the same name, another key
    shown = [foreign.svid(), mutual.servers.svid(), mutual.agents.svid(lives=Lives(-7200, -1))]
    shown += [mutual.agents.svid(purposes=(SERVER,)), mutual.agents.svid(lives=Lives(60, 3600))]
    shown += [mutual.agents.svid(names_signer=False)]
    async with serving(tell, tls=mutual.door(), hosts=Hosts((), "127.0.0.1")) as running:
        for one in shown:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(asked, running.port, mutual.client(one))
        assert (await asyncio.to_thread(asked, running.port, mutual.client(mutual.agents.svid())))[0] != [b"none"]


async def test_where_clients_must_show_one(mutual: Mutual) -> None:
    """Metrics and admin ask for a certificate and serve nobody without."""
    context = mutual.door(clients_must=True)
    async with serving(tell, tls=context, hosts=Hosts((), "127.0.0.1")) as running:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(asked, running.port, mutual.client())
        svid = mutual.agents.svid()
        assert (await asyncio.to_thread(asked, running.port, mutual.client(svid)))[0] == [svid.der]


async def test_an_authority_in_between(mutual: Mutual) -> None:
    """The listed authority need not be a root: what another one below the same root signed is not taken."""
    root = Authority("root")
    agents, others = Authority("agents", root), Authority("others", root)
    svid = agents.svid()
    async with serving(
        tell, tls=mutual.door(client_ca=agents.save(mutual.folder, "between.pem")), hosts=Hosts((), "127.0.0.1")
    ) as running:
        assert (await asyncio.to_thread(asked, running.port, mutual.client(svid)))[0] == [svid.der]
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(asked, running.port, mutual.client(others.svid()))
    async with serving(
        tell, tls=mutual.door(client_ca=root.save(mutual.folder, "root.pem")), hosts=Hosts((), "127.0.0.1")
    ) as running:
        assert (await asyncio.to_thread(asked, running.port, mutual.client(svid)))[0] == [svid.der]
