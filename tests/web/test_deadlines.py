"""Slow and vanished clients: every wait on them ends, and nobody else notices."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import socket

import pytest

from gateway.core.call import ClientGone, Exchange
from gateway.core.errors import Refusal
from gateway.web.agents import connections_that_fit
from gateway.web.connection import Deadlines
from tests.web.door import QUICK, echo, post, refusal, serving, status, talk

G = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gw\r\n"


@pytest.mark.parametrize(
    ("name", "start", "drip"),
    [
        ("silence", b"", b""),
        ("head", b"POST /v1/x HTTP/1.1\r\nHost: gw\r\n", b"X: y\r\n"),
        ("body", G + b"Content-Length: 5000\r\n\r\n", b"x"),
    ],
)
async def test_slow_connections_end_and_harm_nobody(name: str, start: bytes, drip: bytes) -> None:
    """R01: 300 connections that are silent, or send a head or a body too slowly, end while others are served."""
    async with serving(echo, deadlines=dataclasses.replace(QUICK, linger=2)) as running:
        slow = []
        for _ in range(300):
            sock = socket.create_connection(("127.0.0.1", running.port))
            sock.setblocking(False)
            sock.send(start)
            slow.append(sock)
        told: list[bytes] = []
        open_ones = list(slow)
        async with asyncio.timeout(20):
            while open_ones:
                for sock in list(open_ones):
                    try:
                        answer = sock.recv(4096)
                        told.extend([answer] if answer else [])
                        open_ones.remove(sock)
                    except BlockingIOError:
                        if drip:
                            sock.send(drip)
                    except ConnectionError:
                        open_ones.remove(sock)
                assert status(await talk(running.port, post(b"hello"))) == 200
        for sock in slow:
            sock.close()
        assert bool(told) == bool(drip), name
        assert {refusal(answer) for answer in told} <= {"request_malformed"}


async def test_an_idle_connection_is_closed_quietly() -> None:
    """A kept connection ends after the keep-alive time, without an answer to nothing."""
    async with serving(echo) as running:
        answer = await talk(running.port, b"GET /v1/models HTTP/1.1\r\nHost: gw\r\n\r\n")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert running.refused == []


async def test_a_head_on_a_kept_connection_has_the_same_deadline() -> None:
    """The second request's head may be no slower than the first's."""
    async with serving(echo, deadlines=Deadlines(head=0.2, keepalive=30, linger=0.2, tick=0.05)) as running:
        answer = await talk(running.port, b"GET /v1/models HTTP/1.1\r\nHost: gw\r\n\r\n", 0.1, b"GET /v1/")
        assert answer.count(b"HTTP/1.1 ") == 2
        assert answer.count(b"400 Bad Request") == 1


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    """R02: a client that stops reading gets a bounded buffer and then a reset; the handler learns that it is gone."""
    outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    sent = 0

    async def stream(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.begin(200, [])
        try:
            while True:
                await exchange.send(b"x" * 65536)
                sent += 65536
        except ClientGone:
            outcome.set_result("gone")
            raise

    async with serving(stream) as running:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", running.port))
            client.send(post(b""))
            assert await asyncio.wait_for(outcome, 5) == "gone"
        assert sent < 32 * 1024 * 1024
        assert running.failures == []


async def test_a_whole_reply_that_nobody_reads_does_not_stay() -> None:
    """R02: the same for a reply that was handed over in one piece."""
    outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def large(exchange: Exchange) -> None:
        try:
            await exchange.reply(200, [], b"x" * 16_000_000)
        except ClientGone:
            outcome.set_result("gone")
            raise

    async with serving(large) as running:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", running.port))
            client.send(post(b""))
            assert await asyncio.wait_for(outcome, 5) == "gone"
            for _ in range(100):
                if not running.door.open:
                    break
                await asyncio.sleep(0.02)
            assert running.door.open == 0


async def test_a_slow_but_steady_reader_gets_everything() -> None:
    """R02: slowness alone is no reason: who keeps reading is served to the end."""

    async def large(exchange: Exchange) -> None:
        await exchange.reply(200, [], b"x" * 6_000_000)

    async with serving(large) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=65536)
        writer.write(post(b""))
        got = 0
        while data := await reader.read(300_000):
            got += len(data)
            await asyncio.sleep(0.01)
        writer.close()
        assert got > 6_000_000


@pytest.mark.parametrize(
    "raw", [b"GET / HTTP/1.1\r\n\r\n", G + b"Content-Length: 500000\r\n\r\n", b"GET http://x/ HTTP/1.1\r\n"]
)
async def test_a_refused_client_that_never_leaves_is_reset(raw: bytes) -> None:
    """R01: who was refused and keeps the connection open holds a socket for a moment, not for ever."""
    async with serving(echo) as running:
        with socket.create_connection(("127.0.0.1", running.port)) as client:
            client.send(raw)
            while not running.refused:  # noqa: ASYNC110 - the door's record is what is waited for
                await asyncio.sleep(0.02)
            async with asyncio.timeout(4):
                while running.door.open:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.02)


async def test_a_body_that_had_to_wait_is_read_to_its_end() -> None:
    """A client that was held back while the handler did not read yet goes on to the last byte of a large body."""
    body = bytes(range(256)) * 16 * 1024

    async def later(exchange: Exchange) -> None:
        await asyncio.sleep(0.1)  # more arrives than is held for a slow handler
        await exchange.reply(200, [], b"%d" % (await exchange.body() == body))

    async with serving(later, body_limit=len(body), buffered_limit=len(body)) as running:
        answer = await talk(running.port, post(body))
    assert answer.endswith(b"\r\n\r\n1")


async def test_leaving_in_the_middle_of_a_body_is_no_failure() -> None:
    """A client that leaves while its body is read ends the exchange as gone, not as our mistake."""
    outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def handler(exchange: Exchange) -> None:
        try:
            await exchange.body()
        except ClientGone:
            outcome.set_result("gone")
            raise

    async with serving(handler) as running:
        await talk(running.port, G + b"Content-Length: 500\r\n\r\nhalf", patience=0.05)
        assert await asyncio.wait_for(outcome, 2) == "gone"
        assert running.failures == []


async def test_a_broken_body_is_refused_at_once() -> None:
    """R03: framing that goes wrong in the middle of a body is 400 before any deadline."""
    async with serving(echo, deadlines=Deadlines(linger=0.2, tick=0.05)) as running:
        start = G + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"
        answer = await talk(running.port, start, 0.1, b"zz\r\n")
        assert (status(answer), refusal(answer)) == (400, "request_malformed")


async def test_what_goes_wrong_in_us_is_told_without_detail() -> None:
    """An exception of our own is a bare 500 and one record of where; begun streams are cut, never ended."""

    async def broken(exchange: Exchange) -> None:
        if exchange.head.path == "/v1/begun":
            await exchange.begin(200, [])
            await exchange.send(b"half")
        raise LookupError("s3cret")

    async with serving(broken) as running:
        answer = await talk(running.port, post(b""))
        assert status(answer) == 500
        assert b"s3cret" not in answer
        begun = await talk(running.port, post(b"", path="/v1/begun"))
        assert not begun.endswith(b"0\r\n\r\n")
        assert len(running.failures) == 2
        assert not any("s3cret" in failure for failure in running.failures)
        assert all("LookupError at " in failure for failure in running.failures)


async def test_a_handler_that_forgets_its_end_is_cut() -> None:
    """A stream that the handler never ended cannot pass for a whole one."""

    async def forgetful(exchange: Exchange) -> None:
        await exchange.begin(200, [])
        await exchange.send(b"half")

    async with serving(forgetful) as running:
        assert not (await talk(running.port, post(b""))).endswith(b"0\r\n\r\n")
        assert len(running.failures) == 1


@pytest.mark.parametrize(
    "header", [("x-a", "a\r\nset-cookie: b=c"), ("x-a", "a\nb"), ("x-a", "a\0b"), ("x-a: b\r\nx", "c")]
)
async def test_headers_that_would_split_the_reply_are_not_written(header: tuple[str, str]) -> None:
    """R11: control characters in a reply's header end as our own error, never as a second header."""

    async def handler(exchange: Exchange) -> None:
        await exchange.reply(200, [header], b"")

    async with serving(handler) as running:
        answer = await talk(running.port, post(b""))
        assert status(answer) == 500
        assert b"set-cookie" not in answer


async def test_more_connections_than_fit_are_told_so() -> None:
    """R18: a door that is full answers 503 with retry-after, and serves again once there is room."""
    async with serving(echo, max_connections=3) as running:
        held = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(3)]
        await asyncio.sleep(0.05)
        answer = await talk(running.port, post(b""))
        assert (status(answer), refusal(answer)) == (503, "overloaded")
        assert b"retry-after: " in answer
        for sock in held:
            sock.close()
        await asyncio.sleep(0.1)
        assert status(await talk(running.port, post(b""))) == 200
    assert connections_that_fit() >= 8


async def test_http_1_0_gets_a_body_that_the_connection_ends() -> None:
    """HTTP/1.0 knows no chunks: a stream ends with the connection."""

    async def stream(exchange: Exchange) -> None:
        await exchange.begin(200, [])
        await exchange.send(b"one ")
        await exchange.end(b"two")

    async with serving(stream) as running:
        answer = await talk(running.port, b"GET /v1/x HTTP/1.0\r\nHost: gw\r\nConnection: keep-alive\r\n\r\n")
        assert answer.endswith(b"\r\n\r\none two")
        assert b"chunked" not in answer


async def test_replies_without_a_body() -> None:
    """HEAD and 204 carry no body bytes, so that the next reply on the connection is not misread."""

    async def handler(exchange: Exchange) -> None:
        await exchange.reply(204 if exchange.head.path == "/v1/none" else 200, [], b"body")

    async with serving(handler) as running:
        raw = b"HEAD /v1/x HTTP/1.1\r\nHost: gw\r\n\r\nGET /v1/none HTTP/1.1\r\nHost: gw\r\n\r\n" + post(b"")
        head, none, last = (await talk(running.port, raw)).split(b"HTTP/1.1 ")[1:]
        assert head.endswith(b"\r\n\r\n")
        assert b"Content-Length: 4" in head
        assert none.endswith(b"\r\n\r\n")
        assert b"Content-Length" not in none
        assert last.endswith(b"\r\n\r\nbody")


async def test_a_refusal_of_the_handler_is_rendered() -> None:
    """A `Refusal` that reaches the door becomes an answer in the caller's dialect."""

    async def handler(_exchange: Exchange) -> None:
        raise Refusal("identity_missing", "send a token.")

    async with serving(handler) as running:
        answer = await talk(running.port, post(b""))
        assert (status(answer), refusal(answer)) == (401, "identity_missing")
        assert b"identity_missing: send a token." in answer


async def test_only_trusted_proxies_say_where_a_call_came_from() -> None:
    """X-Forwarded-For counts from `trusted_proxies` only, read from its end."""
    ours = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("10.0.0.0/8"))
    forged = post(b"", "X-Forwarded-For: 1.1.1.1, 8.8.8.8, 10.0.0.7")
    async with serving(echo) as running:
        assert b"x-peer: 127.0.0.1\r\n" in await talk(running.port, forged)
    async with serving(echo, trusted_proxies=ours) as running:
        assert b"x-peer: 8.8.8.8\r\n" in await talk(running.port, forged)
        junk = post(b"", "X-Forwarded-For: 8.8.8.8, junk")
        assert b"x-peer: 127.0.0.1\r\n" in await talk(running.port, junk)
        assert b"x-peer: 127.0.0.1\r\n" in await talk(running.port, post(b""))
