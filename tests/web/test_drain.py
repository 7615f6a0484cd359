"""R17: a drain ends nothing that has begun."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from gateway.core.call import ClientGone, Exchange
from gateway.web.connection import Deadlines
from tests.web.door import QUICK, echo, post, serving, status, talk


async def test_streams_run_to_their_end() -> None:
    """R17: fifty streams that are under way when the drain begins arrive whole."""
    begun = 0
    go_on = asyncio.Event()

    async def stream(exchange: Exchange) -> None:
        nonlocal begun
        await exchange.begin(200, [])
        await exchange.send(b"first ")
        begun += 1
        await go_on.wait()
        for n in range(10):
            await exchange.send(b"%d " % n * 1000)
            await asyncio.sleep(0.01)
        await exchange.end(b"last")

    async with serving(stream) as running:
        raw = b"GET /v1/x HTTP/1.1\r\nHost: gw\r\n\r\n"  # kept alive: the drain has to close it
        clients = [asyncio.create_task(talk(running.port, raw, patience=8)) for _ in range(50)]
        while begun < 50:  # noqa: ASYNC110 - a count is waited for
            await asyncio.sleep(0.01)
        draining = asyncio.create_task(running.door.drain(5))
        await asyncio.sleep(0.1)
        go_on.set()
        assert await draining == 0
        for answer in await asyncio.gather(*clients):
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert answer.endswith(b"last\r\n0\r\n\r\n")


async def test_requests_under_way_are_answered_and_closed() -> None:
    """A request that is being worked on gets its reply with Connection: close; nobody new is let in."""
    go_on = asyncio.Event()
    working = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        working.set()
        await go_on.wait()
        await exchange.reply(200, [], await exchange.body())

    async with serving(handler) as running:
        raw = b"POST /v1/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 4\r\n\r\nbody"
        client = asyncio.create_task(talk(running.port, raw, patience=5))
        await working.wait()
        draining = asyncio.create_task(running.door.drain(5))
        await asyncio.sleep(0.05)
        with contextlib.suppress(ConnectionError):
            assert await talk(running.port, post(b"")) == b""
        go_on.set()
        answer = await client
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(b"body")
        assert await draining == 0


async def test_a_body_on_its_way_is_waited_for() -> None:
    """A request whose body is still coming when the drain begins is served."""
    async with serving(echo, deadlines=Deadlines(linger=0.2, tick=0.05)) as running:
        head, _, body = post(b"x" * 2000).partition(b"\r\n\r\n")
        client = asyncio.create_task(talk(running.port, head + b"\r\n\r\n", 0.3, body))
        await asyncio.sleep(0.1)
        assert await running.door.drain(5) == 0
        assert (await client).endswith(body)


async def test_idle_connections_do_not_hold_a_drain() -> None:
    """Kept connections without a request are closed at once."""
    async with serving(echo, deadlines=Deadlines(linger=60, tick=0.05)) as running:
        kept = asyncio.create_task(talk(running.port, b"GET /v1/x HTTP/1.1\r\nHost: gw\r\n\r\n", patience=9))
        await asyncio.sleep(0.1)
        assert running.door.open == 1
        async with asyncio.timeout(5):
            assert await running.door.drain(60) == 0
            assert status(await kept) == 200


async def test_unused_connections_are_given_a_moment() -> None:
    """A connection that was just made may have its request on the way: it is served, a silent one is closed."""
    async with serving(echo, deadlines=Deadlines(linger=0.5, tick=0.05)) as running:
        late = asyncio.create_task(talk(running.port, 0.3, post(b"late"), patience=9))
        silent = asyncio.create_task(talk(running.port, patience=9))
        await asyncio.sleep(0.1)
        assert running.door.open == 2
        async with asyncio.timeout(5):
            assert await running.door.drain(60) == 0
            assert (await late).endswith(b"late")
            assert await silent == b""


async def test_a_client_that_does_not_read_does_not_hold_a_drain() -> None:
    """After the drain's time a full write buffer is dropped, not waited for."""

    async def large(exchange: Exchange) -> None:
        await exchange.reply(200, [], b"x" * 16_000_000)

    async with serving(large, deadlines=Deadlines(tick=0.05)) as running:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", running.port))
            client.send(post(b""))
            await asyncio.sleep(0.1)
            assert await running.door.drain(0.1) == 1
            async with asyncio.timeout(2):
                while running.door.open:  # noqa: ASYNC110 - the door's own figure is what is waited for
                    await asyncio.sleep(0.02)


async def test_what_is_not_done_in_time_is_cut_and_counted() -> None:
    """After the drain's time a stream is reset, never ended; its handler learns that the client is gone."""
    outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def endless(exchange: Exchange) -> None:
        await exchange.begin(200, [])
        try:
            while True:
                await exchange.send(b"x")
                await asyncio.sleep(0.02)
        except ClientGone:
            outcome.set_result("gone")
            raise

    async with serving(endless, deadlines=QUICK) as running:
        client = asyncio.create_task(talk(running.port, post(b""), patience=5))
        await asyncio.sleep(0.1)
        assert await running.door.drain(0.1) == 1
        assert not (await client).endswith(b"0\r\n\r\n")
        assert await asyncio.wait_for(outcome, 2) == "gone"
