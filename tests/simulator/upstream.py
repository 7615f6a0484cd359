"""An upstream on loopback that says exactly what a test wrote, in exactly the pieces it wrote.

It keeps its own record of every byte that came in, so that a test can ask what really reached it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Self


class Do(Enum):
    """What can be done beside sending bytes and waiting."""

    CLOSE = "end the connection in order"
    RESET = "break the connection with a TCP reset"
    HANG = "say nothing more until the other side leaves"


Step = bytes | float | Do
"""Bytes are sent in one piece, a number is a wait in seconds."""
Script = Iterable[Step]


@dataclass
class Received:
    """One request as it came: the head's lines without CRLF, and the body."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass
class ScriptedUpstream:
    """Answers the first request by the first script, and so on; the last one repeats.

    A script is a list of steps, or a function that gives one for a request.
    """

    scripts: list[Script | Callable[[Received], Script]]
    requests: list[Received] = field(default_factory=list)
    raw: list[bytearray] = field(default_factory=list)  # every byte, by connection
    left: list[int] = field(default_factory=list)  # connections that the other side ended
    port: int = 0
    tls: ssl.SSLContext | None = None
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """The base URL, without a path."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        number = len(self.raw)
        self.raw.append(bytearray())
        try:
            while (received := await self._request(reader, number)) is not None:
                self.requests.append(received)
                script = self.scripts[min(len(self.requests), len(self.scripts)) - 1]
                if not await self._play(script(received) if callable(script) else script, reader, writer):
                    return
            self.left.append(number)
        except ConnectionError:
            self.left.append(number)
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, number: int) -> Received | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            self.raw[number] += error.partial
            return None
        self.raw[number] += head
        line, *lines = head[:-4].decode("latin-1").split("\r\n")
        headers = [(name, value.strip()) for name, _, value in (text.partition(":") for text in lines)]
        received = Received(line, headers, b"", number)
        length = int(received.header("content-length") or 0)
        try:
            received.body = await reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            self.raw[number] += error.partial
            return None
        self.raw[number] += received.body
        return received

    async def _play(self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        for step in script:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif isinstance(step, Do):
                if step is Do.HANG:
                    await reader.read()
                    raise ConnectionError
                if step is Do.RESET:
                    # Give what was written the time to leave the loop, then discard the rest in the kernel.
                    await asyncio.sleep(0.01)
                    sock: socket.socket = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                return False
            else:
                await asyncio.sleep(step)
        return True


def answer(body: bytes, *headers: tuple[str, str], status: str = "200 OK") -> bytes:
    """A whole answer with its Content-Length."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {status}\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
"""The head of a stream."""
LAST_CHUNK = b"0\r\n\r\n"


def held_back(steps: Sequence[Step], sent: int, go_on: threading.Event) -> Iterator[Step]:
    """An answer of which the first `sent` steps come at once, and the others when a test lets them go on."""
    yield from steps[:sent]
    while not go_on.is_set():
        yield 0.02
    yield from steps[sent:]
