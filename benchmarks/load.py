"""The load: a number of keep-alive connections, each asking again as soon as it has its whole answer."""

from __future__ import annotations

import asyncio
import json
import re
import time
from array import array
from dataclasses import dataclass, field
from typing import cast

REQUEST_BYTES = 340
TIME_LIMIT = 120.0  # seconds for one load, so that a server that hangs ends the benchmark

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def request(token: str, *, frames: int = 0) -> bytes:
    """Give one chat completion request with a body of 340 bytes; with frames it asks for a stream of so many."""
    asked: dict[str, object] = {"model": "gpt-4o-mini", "messages": [], "max_tokens": 100, "seed": frames}
    if frames:
        asked["stream"] = True
    message = {"role": "user", "content": ""}
    asked["messages"] = [{"role": "system", "content": "Answer in one sentence."}, message]
    message["content"] = "How is it going?".ljust(REQUEST_BYTES - len(json.dumps(asked)), "?")
    body = json.dumps(asked).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json\r\n"
        f"authorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(slots=True)
class Load:
    """What was asked for, and what came of it; times in seconds."""

    request: bytes
    left: int  # calls that no connection has begun yet
    done: asyncio.Future[None]
    open: int = 0  # connections still at it
    elapsed: float = 0.0
    latencies: array[float] = field(
        default_factory=lambda: array("d")
    )  # request out to the last byte, but for each connection's first
    firsts: array[float] = field(default_factory=lambda: array("d"))  # request out to the first event, for streams


class Caller(asyncio.Protocol):
    """One connection: a request out, an answer in, and again while calls are left."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.begun = 0.0
        self.buffer = b""  # what came of the answer; of a stream its end only
        self.expected = 0  # bytes of the whole answer; 0 until the head came, -1 for a stream
        self.waits_for_first = False
        self.opened = False  # whether its first call, which waits for connections to open, is over

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask the first time."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self.load.open += 1
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the load when the last connection has no more to do, or with the error that broke it."""
        self.load.open -= 1
        if self.load.done.done():
            return
        if self.begun:
            self.load.done.set_exception(exc or ConnectionResetError("the server closed in the middle of a call"))
        elif self.load.open == 0:
            self.load.done.set_result(None)

    def _ask(self) -> None:
        self.begun = 0.0
        if self.load.left <= 0:
            self.transport.close()
            return
        self.load.left -= 1
        self.buffer, self.expected, self.waits_for_first = b"", 0, True
        self.begun = time.perf_counter()
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        """Take a part of the answer; ask again once it is whole."""
        self.buffer += data
        if self.expected == 0:
            self._read_head()
        if self.expected < 0:
            if self.waits_for_first and b"data: " in self.buffer:
                self.waits_for_first = False
                self.load.firsts.append(time.perf_counter() - self.begun)
            self.buffer = self.buffer[-64:]
            whole = self.buffer.endswith(b"0\r\n\r\n")
            if whole and b"[DONE]" not in self.buffer:
                self._fail("a stream ended without [DONE]")
        else:
            whole = 0 < self.expected <= len(self.buffer)
        if whole:
            if self.opened:
                self.load.latencies.append(time.perf_counter() - self.begun)
            self.opened = True
            self._ask()

    def _read_head(self) -> None:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        if not self.buffer.startswith(b"HTTP/1.1 200 "):
            self._fail(f"not a 200: {self.buffer[:2000].decode(errors='replace')}")
        length = _LENGTH.search(self.buffer, 0, end)
        self.expected = end + 4 + int(length[1]) if length else -1

    def _fail(self, why: str) -> None:
        if not self.load.done.done():
            self.load.done.set_exception(RuntimeError(why))
        self.transport.abort()


async def drive(port: int, asked: bytes, *, connections: int, calls: int) -> Load:
    """Make so many calls over so many connections.

    Raises RuntimeError when an answer is not a whole 200, OSError when a connection breaks, TimeoutError.
    """
    loop = asyncio.get_running_loop()
    load = Load(asked, calls, loop.create_future())
    begun, opened = time.perf_counter(), []
    try:
        async with asyncio.timeout(TIME_LIMIT):
            for _ in range(connections):
                transport, _ = await loop.create_connection(lambda: Caller(load), "127.0.0.1", port)
                opened.append(transport)
            await load.done
    finally:
        for transport in opened:
            transport.abort()
        await asyncio.sleep(0)  # the loop closes them now
    load.elapsed = time.perf_counter() - begun
    return load
