"""One request and its reply on an agent's connection: `core.call.Exchange` written straight to the transport.

aiohttp's request and response objects are left out: a gateway copies bytes, and building cookies,
URLs and default headers for each call costs as much as all checks together.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs
from aiohttp.http_writer import HttpVersion11

from gateway.core.call import ClientGone
from gateway.core.errors import Refusal
from gateway.core.headers import header_lines

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.streams import StreamReader

    from gateway.core.call import Head
    from gateway.web.connection import Connection

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_BODILESS: Final = frozenset({204, 304})
_JOINED: Final = 64 * 1024
# What chunk sizes, extensions and trailers may cost on top of a body (they are dropped, but read).
_CHUNK_OVERHEAD: Final = 64 * 1024


class _Date:
    """The `Date` header, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = ""

    def line(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second, self._line = second, f"Date: {formatdate(second, usegmt=True)}\r\n"
        return self._line


_date: Final = _Date()


class AgentExchange:
    """See `core.call.Exchange`; `gone` is true once the client has left."""

    __slots__ = (
        "_body",
        "_chunked",
        "_connection",
        "_ended",
        "_held",
        "_last",
        "_message",
        "begun",
        "gone",
        "head",
        "payload",
        "reading_since",
        "stays",
    )

    def __init__(self, connection: Connection, message: RawRequestMessage, payload: StreamReader, head: Head) -> None:
        """`head` has passed `read_head`."""
        self.head = head
        self.begun = False
        self.gone = False
        self.payload = payload
        self.stays = False  # whether the connection may carry another request after the reply
        self.reading_since = 0.0  # monotonic; 0 while nobody waits for the body
        self._ended = False
        self._last = False  # nothing more is served on this connection
        self._chunked = False
        self._connection = connection
        self._message = message
        self._body: bytes | None = None
        self._held = 0

    # -- the request

    async def body(self, most: int | None = None) -> bytes:
        """The whole body as it came, at most `most` bytes; raises `Refusal` (400, 413, 415, 503) or `ClientGone`."""
        if self._body is None:
            limit = self._connection.door.body_limit
            self._body = await self._read_body(limit if most is None else min(most, limit))
        return self._body

    async def _read_body(self, limit: int) -> bytes:
        payload, headers = self.payload, self.head.headers
        coding = headers.get(hdrs.CONTENT_ENCODING)
        if coding is not None and coding.strip(" \t").lower() not in {"", "identity"}:
            # Decompressing what an agent sends would let a kilobyte cost a gigabyte (R05).
            raise Refusal("encoding_unsupported", "compressed bodies are not read; send without Content-Encoding")
        announced = headers.get(hdrs.CONTENT_LENGTH)
        if announced is not None and int(announced) > limit:
            raise self._too_large(limit)
        if payload.is_eof():  # came with its head, as nearly all do
            data = payload.read_nowait()
            if len(data) > limit:
                raise self._too_large(limit)
            self._hold(len(data))
            return data
        if self.awaits_continue:
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.reading_since = time.monotonic()
        try:
            return await self._read_on(limit)
        except Refusal:
            raise
        except Exception as error:
            raise ClientGone("the client left in the middle of its body") from error
        finally:
            self.reading_since = 0.0

    async def _read_on(self, limit: int) -> bytes:
        payload, parts, size = self.payload, [], 0
        while part := await payload.readany():
            parts.append(part)
            size += len(part)
            if size > limit:
                raise self._too_large(limit)
            self._hold(len(part))
            if self._connection.body_bytes - payload.total_bytes > _CHUNK_OVERHEAD + payload.total_bytes:
                raise Refusal("request_malformed", "the body's chunks carry more framing than data; use larger chunks")
        return b"".join(parts)

    @property
    def awaits_continue(self) -> bool:
        """Whether the client asked to be invited to send its body and none of it has come (RFC 9110 §10.1.1)."""
        return (
            hdrs.EXPECT in self.head.headers
            and self._message.version is HttpVersion11
            and self.payload.total_bytes == 0
            and not self.payload.is_eof()
        )

    def _hold(self, size: int) -> None:
        # Counted as it comes: an announced length would let a few slow clients keep all others out.
        door = self._connection.door
        if door.buffered + size > door.buffered_limit:
            raise Refusal("overloaded", "the gateway holds as many request bodies as it may; try again shortly")
        door.buffered += size
        self._held += size

    def _too_large(self, limit: int) -> Refusal:
        if limit < self._connection.door.body_limit:
            return Refusal(
                "request_too_large", f"the body is larger than {limit} bytes, the most that is read here; send less"
            )
        return Refusal(
            "request_too_large",
            f"the body is larger than {limit} bytes; send less, or have the operator raise limits.body",
            fields={"limit": limit, "setting": "limits.body"},
        )

    # -- the reply

    async def reply(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Send a whole reply; raises `ClientGone`, and `ValueError` for headers that may not be set."""
        head = self._head_bytes(status, headers, len(body))
        if self.head.method == "HEAD" or status in _BODILESS:
            body = b""
        if len(body) <= _JOINED:
            self._write(head + body)
        else:
            self._write(head)
            self._write(body)
        self._ended = True
        await self._drain()

    async def begin(self, status: int, headers: list[tuple[str, str]]) -> None:
        """Send status and headers; the body is chunked, or for HTTP/1.0 ends with the connection."""
        self._write(self._head_bytes(status, headers, None))
        await self._drain()

    async def send(self, data: bytes) -> None:
        """Send a part at once; waits while the client reads slowly."""
        if data:
            self._write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
            if self._connection.writing_paused:  # asked here, as a coroutine a frame costs more than the question
                await self._drain()

    async def end(self, data: bytes = b"") -> None:
        """Send the last part and the end."""
        if self._chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        if data:
            self._write(data)
        self._ended = True
        await self._drain()

    def cut(self, after: float = 0.0) -> None:
        """Reset the connection: an orderly end could pass for a complete reply. See `Exchange` for `after`."""
        self._last, self.stays = True, False
        if after:
            asyncio.get_running_loop().call_later(after, self._cut_unsent)
            return
        self._ended = True
        if self._connection.transport is not None:
            self._connection.transport.abort()

    def _cut_unsent(self) -> None:
        transport = self._connection.transport
        if self.begun and transport is not None and (not self._ended or transport.get_write_buffer_size()):
            self.cut()

    @property
    def ended(self) -> bool:
        """Whether the reply is out, or was cut."""
        return self._ended

    def _head_bytes(self, status: int, headers: list[tuple[str, str]], length: int | None) -> bytes:
        lines = header_lines(headers)
        message = self._message
        modern = message.version is HttpVersion11
        framing = ""
        if length is not None:
            framing = "" if status in _BODILESS else f"Content-Length: {length}\r\n"
        elif modern:
            self._chunked = True
            framing = "Transfer-Encoding: chunked\r\n"
        self.stays = (
            modern
            and not message.should_close
            and not message.upgrade
            and not self._last
            and not self._connection.leaving
            and self.payload.is_eof()
        )
        closing = "" if self.stays else "Connection: close\r\n"
        self.begun = True
        # Upstreams have statuses of their own, such as 529; the phrase may be empty (RFC 9112 §4).
        first = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n"
        return f"{first}{lines}{_date.line()}{framing}{closing}\r\n".encode("utf-8", "surrogateescape")

    def _write(self, data: bytes) -> None:
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            self.gone = True
            raise ClientGone("the client left before its reply was complete")
        transport.write(data)

    async def _drain(self) -> None:
        connection = self._connection
        if connection.writing_paused:
            await connection.drained()
            if connection.transport is None or connection.transport.is_closing():
                self.gone = True
                raise ClientGone("the client left before its reply was complete")

    # -- for the connection

    def close(self) -> None:
        """Give back what the body took of the door's buffer."""
        self._connection.door.buffered -= self._held
        self._held = 0

    def _cancel(self, error: BaseException) -> None:
        """The connection is lost (aiohttp's name for it): wake whoever waits for the body."""
        self.gone = True
        self.payload.set_exception(error)
