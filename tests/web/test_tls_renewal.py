"""A listener takes over another certificate and other authorities while it serves."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import uvloop
from aiohttp import web
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from gateway.core.call import Exchange
from gateway.web.connection import Deadlines
from gateway.web.hosts import Hosts
from gateway.web.listener import listen, listen_anew
from gateway.web.tls import ServerTls
from tests.simulator.authority import Authority, Certified, client_context
from tests.web.door import post, serving

HANGS_UP = (ssl.SSLError, ConnectionError)
HOSTS = Hosts((), "127.0.0.1")
LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
Loop = Callable[[], asyncio.AbstractEventLoop]


class Party:
    """The authority of servers, two of agents, and the files that clients need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers, self.first, self.second = Authority("servers"), Authority("agents"), Authority("agents")
        self.server_ca = self.servers.save(folder, "servers-ca.pem")

    def listener(self, client_ca: Authority | None = None) -> tuple[Certified, ServerTls]:
        """Another certificate, and what serves with it."""
        server = self.servers.server()
        cert, key = server.save(self.folder, "server")
        return server, ServerTls(cert.read_bytes(), key.read_bytes(), client_ca.pem() if client_ca else None)

    def client(self, authority: Authority, version: ssl.TLSVersion) -> ssl.SSLContext:
        """What a client uses that shows a certificate of this authority."""
        context = client_context(self.server_ca, authority.svid().save(self.folder, "client"))
        context.minimum_version = context.maximum_version = version
        return context


@pytest.fixture(scope="module")
def party(tmp_path_factory: pytest.TempPathFactory) -> Party:
    return Party(tmp_path_factory.mktemp("renewal"))


@contextmanager
def connected(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Iterator[ssl.SSLSocket]:
    """One connection to the listener."""
    with (
        socket.create_connection(("127.0.0.1", port), 5) as raw,
        context.wrap_socket(raw, server_hostname="localhost", session=session) as tls,
    ):
        yield tls


class Shaken(NamedTuple):
    """What a handshake came to."""

    shown: bytes | None
    resumed: bool | None
    session: ssl.SSLSession | None


def asked(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Shaken:
    """Have one request answered on a connection of its own."""
    with connected(port, context, session) as tls:
        tls.sendall(post(b"", host="localhost"))
        if not tls.recv(100).startswith(b"HTTP/1.1 200"):
            raise ConnectionError("the listener closed without an answer")
        return Shaken(tls.getpeercert(binary_form=True), tls.session_reused, tls.session)


@LOOPS
@VERSIONS
def test_what_is_renewed_holds_for_new_handshakes_alone(party: Party, loop: Loop, version: ssl.TLSVersion) -> None:
    """New authorities count and removed ones do not, even for a session of before; answers under way go on."""
    goes_on = asyncio.Event()

    async def slowly(exchange: Exchange) -> None:
        if exchange.head.path == "/slow":
            await goes_on.wait()
        await exchange.reply(200, [], exchange.head.certificate or b"none")

    async def play() -> None:
        old, before = party.listener(party.first)
        new, after = party.listener(party.second)
        leaving, joining = party.client(party.first, version), party.client(party.second, version)
        async with serving(slowly, tls=before.context(), hosts=HOSTS) as running:
            first = await asyncio.to_thread(asked, running.port, leaving)
            again = await asyncio.to_thread(asked, running.port, leaving, first.session)
            assert (first.shown, first.resumed, again.resumed) == (old.der, False, True)
            with pytest.raises(HANGS_UP):
                await asyncio.to_thread(asked, running.port, joining)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", running.port, ssl=leaving, server_hostname="localhost"
            )
            writer.write(post(b"", path="/slow", host="localhost"))
            await asyncio.sleep(0.05)

            await running.door.renew(after.context())
            joined = await asyncio.to_thread(asked, running.port, joining)
            again = await asyncio.to_thread(asked, running.port, joining, joined.session)
            assert (joined.shown, joined.resumed, again.resumed) == (new.der, False, True)
            for session in (None, first.session):
                with pytest.raises(HANGS_UP):
                    await asyncio.to_thread(asked, running.port, leaving, session)
            goes_on.set()
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
            writer.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(play())


@LOOPS
def test_who_a_removed_authority_let_in_is_nobody_any_more(party: Party, loop: Loop) -> None:
    """A connection outlives the listener's certificate, and not the authority of its client's own."""
    version, goes_on = ssl.TLSVersion.TLSv1_3, asyncio.Event()
    seen: list[bytes | None] = []

    def request(path: str = "/v1/models") -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()

    async def note(exchange: Exchange) -> None:
        seen.append(exchange.head.certificate)
        if exchange.head.path == "/slow":
            await goes_on.wait()
        await exchange.reply(200, [], b"")

    async def answered(reader: asyncio.StreamReader) -> bytes:
        return await reader.readuntil(b"\r\n\r\n")

    async def play() -> None:
        _, before = party.listener(party.first)
        _, renewed = party.listener(party.first)
        _, after = party.listener(party.second)
        leaving = party.client(party.first, version)
        async with serving(note, tls=before.context(), hosts=HOSTS, deadlines=Deadlines()) as running:
            (busy, ask_busy), (idle, ask_idle), (fresh, ask_fresh) = [
                await asyncio.open_connection("127.0.0.1", running.port, ssl=leaving, server_hostname="localhost")
                for _ in range(3)
            ]
            ask_idle.write(request())
            assert b"Connection: close" not in await answered(idle)
            await running.door.renew(renewed.context())
            ask_idle.write(request())
            assert b"Connection: close" not in await answered(idle)
            ask_busy.write(request("/slow"))
            while len(seen) < 3:  # noqa: ASYNC110 - it has no event, and the test a time limit
                await asyncio.sleep(0.005)
            assert None not in seen

            await running.door.renew(after.context(), others=True)
            assert await idle.read() == b""
            goes_on.set()
            assert b"Connection: close" in await answered(busy)
            ask_fresh.write(request())
            assert b"Connection: close" in await answered(fresh)
            assert seen[3:] == [None]
            for writer in (ask_busy, ask_idle, ask_fresh):
                writer.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(play())


@LOOPS
def test_a_listener_for_operators_is_renewed_alike(party: Party, loop: Loop) -> None:
    """Metrics and admin take a new certificate and other authorities over, and insist on theirs as before."""
    version = ssl.TLSVersion.TLSv1_3

    async def get(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def play() -> None:
        old, before = party.listener(party.first)
        new, after = party.listener(party.second)
        leaving, joining = party.client(party.first, version), party.client(party.second, version)
        app = web.Application()
        app.router.add_post("/v1/chat/completions", get)
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = sock.getsockname()[1]
            runner = await listen(app, sock.dup(), tls=before.context(clients_must=True))
            try:
                first = await asyncio.to_thread(asked, port, leaving)
                assert first.shown == old.der
                await listen_anew(runner, sock.dup(), tls=after.context(clients_must=True))
                assert len(runner.sites) == 1  # two would share the connections by chance
                assert (await asyncio.to_thread(asked, port, joining)).shown == new.der
                for session in (None, first.session):
                    with pytest.raises(HANGS_UP):
                        await asyncio.to_thread(asked, port, leaving, session)
                with pytest.raises(HANGS_UP):
                    await asyncio.to_thread(asked, port, client_context(party.server_ca))
            finally:
                await runner.cleanup()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(play())


@LOOPS
def test_a_door_that_drains_is_not_opened_again(party: Party, loop: Loop) -> None:
    """A renewal that comes while the gateway stops, or just before, lets nobody in any more."""

    async def refuse(_: Exchange) -> None:
        raise AssertionError("nobody may get here")

    async def play() -> None:
        _, tls = party.listener()
        for late in (False, True):
            async with serving(refuse, tls=tls.context(), hosts=HOSTS) as running:
                renewing = [] if late else [asyncio.create_task(running.door.renew(tls.context()))]
                await asyncio.sleep(0)
                await running.door.drain(1.0)
                await asyncio.gather(*renewing)
                await running.door.renew(tls.context())
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", running.port)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(play())


def test_an_encrypted_key_is_refused_and_no_terminal_is_asked(party: Party) -> None:
    """Nobody is there to type a password when a file changes at night."""
    server, tls = party.listener()
    locked = server.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    with pytest.raises(OSError, match="the key is encrypted"):
        ServerTls(tls.cert, locked).context()
    assert b"PRIVATE KEY" in tls.key
    assert "PRIVATE KEY" not in repr(tls)
