"""A reply that must come to its end soon: what has left by then stays, the rest is cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from gateway.core.call import ClientGone, Exchange
from gateway.web.connection import Deadlines
from gateway.web.exchange import AgentExchange
from tests.web.door import serving, status, talk

KEPT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gw\r\nContent-Length: 0\r\n\r\n"


async def deaf(port: int) -> socket.socket:
    """A client that asks and does not read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    await asyncio.get_running_loop().sock_sendall(client, KEPT)
    return client


@pytest.mark.parametrize("whole", [True, False], ids=["reply", "stream"])
async def test_a_client_that_does_not_read_is_cut_off(*, whole: bool) -> None:
    """What waits for it when the time has come is never sent, and whoever writes hears that it is gone."""
    gone = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        asyncio.get_running_loop().call_later(0.05, exchange.cut, 0.05)
        try:
            if whole:
                await exchange.reply(200, [], b"x" * 32_000_000)
            await exchange.begin(200, [])
            while True:
                await exchange.send(b"x" * 60_000)
        except ClientGone:
            gone.set()
            raise

    async with serving(handler, deadlines=Deadlines()) as running:
        client = await deaf(running.port)
        async with asyncio.timeout(2):
            await gone.wait()
        got = b""
        with contextlib.suppress(ConnectionError):
            while part := await asyncio.get_running_loop().sock_recv(client, 1_000_000):
                got += part
        client.close()
        assert got.startswith(b"HTTP/1.1 200 ")
        assert len(got) < 32_000_000
        assert not got.endswith(b"0\r\n\r\n")
        assert running.failures == []


async def test_what_has_left_in_time_is_whole() -> None:
    """A stream that ends before is not touched; its connection carries nothing after it."""

    async def handler(exchange: Exchange) -> None:
        await exchange.begin(200, [])
        exchange.cut(after=0.05)
        await exchange.end(b"the end")
        await asyncio.sleep(0.1)
        assert isinstance(exchange, AgentExchange)
        broken.append(exchange.gone)

    broken: list[bool] = []

    async with serving(handler) as running:
        answer = await talk(running.port, KEPT, KEPT)
    assert broken == [False]
    assert answer.endswith(b"7\r\nthe end\r\n0\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_reply_that_has_not_begun_waits() -> None:
    """Until it begins there is nothing to cut; it says that it is the connection's last."""

    async def handler(exchange: Exchange) -> None:
        exchange.cut(after=0.02)
        await asyncio.sleep(0.1)
        await exchange.reply(403, [], b"no")

    async with serving(handler) as running:
        answer = await talk(running.port, KEPT, KEPT)
    assert status(answer) == 403
    assert answer.endswith(b"\r\n\r\nno")
    assert b"Connection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1 ") == 1
