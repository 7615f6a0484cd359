"""An agents' door on loopback, and a client that sends exactly the bytes of a test."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from gateway.core.call import Exchange
from gateway.core.errors import Refusal
from gateway.web.agents import AgentsDoor
from gateway.web.connection import Deadlines
from gateway.web.hosts import Hosts

Handler = Callable[[Exchange], Awaitable[None]]
QUICK = Deadlines(head=0.3, body_grace=0.2, body_rate=1000, keepalive=0.5, stalled=0.4, linger=0.3, tick=0.05)


class Serving:
    """A door that runs, what it refused by itself, and what it got wrong."""

    def __init__(self) -> None:
        self.door: AgentsDoor
        self.port = 0
        self.refused: list[Refusal] = []
        self.failures: list[str] = []


@asynccontextmanager
async def serving(handler: Handler, *, tls: ssl.SSLContext | None = None, **settings: Any) -> AsyncIterator[Serving]:  # noqa: ANN401 - handed through
    """Serve with quick deadlines, unless the test says otherwise."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    running = Serving()
    running.port = sock.getsockname()[1]
    defaults: dict[str, Any] = {
        "hosts": Hosts(("gw",), "127.0.0.1"),
        "body_limit": 100_000,
        "buffered_limit": 1_000_000,
        "deadlines": QUICK,
        "on_refusal": lambda refusal, _peer: running.refused.append(refusal),
        "on_failure": lambda what, _path: running.failures.append(what),
    }
    running.door = AgentsDoor(handler, **(defaults | settings))
    await running.door.start(sock, tls=tls)
    try:
        yield running
    finally:
        await running.door.drain(1.0)


async def echo(exchange: Exchange) -> None:
    """Answer with the body, and with what the head said in headers."""
    body = await exchange.body()
    head = exchange.head
    await exchange.reply(200, [("x-seen", f"{head.method} {head.path}?{head.query}"), ("x-peer", head.peer)], body)


async def talk(port: int, *pieces: bytes | float, patience: float = 3.0) -> bytes:
    """Send the pieces (numbers are waits) on one connection and read until the door closes it, or patience ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = bytearray()

    async def collect() -> None:
        while data := await reader.read(65536):
            got.extend(data)

    collecting = asyncio.create_task(collect())
    try:
        for piece in pieces:
            if isinstance(piece, bytes):
                writer.write(piece)
                await writer.drain()
            else:
                await asyncio.sleep(piece)
        await asyncio.wait_for(collecting, patience)
    except (ConnectionError, TimeoutError):
        collecting.cancel()
    finally:
        writer.transport.abort()
        await asyncio.gather(collecting, return_exceptions=True)
    return bytes(got)


def post(body: bytes = b"{}", *headers: str, path: str = "/v1/chat/completions", host: str = "gw") -> bytes:
    """A well-formed request that asks for the connection to be closed."""
    lines = "".join(f"{line}\r\n" for line in headers)
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{lines}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body


def status(answer: bytes) -> int:
    """The first answer's status; 0 for none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def refusal(answer: bytes) -> str:
    """The first answer's refusal code."""
    for line in answer.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        if line.lower().startswith(b"gateway-refusal:"):
            return line.partition(b":")[2].strip().decode()
    return ""
