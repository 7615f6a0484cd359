"""The one outbound HTTP client: aiohttp's connector and parser, without its session.

aiohttp gives what is hard: connections with names resolved, raced and pooled, TLS, the tunnel
through a proxy, and the response parser in C. The session above it is left out, because what it
adds is what a gateway must not have (redirects, cookies, netrc, decompression, a total timeout of
300 s, retries of its own) and because it costs more than all the rest of a call together.

What holds here:
(1) One request is written at most once. Nothing is repeated by itself, whatever the method.
(2) `NotSent` is raised only where not one byte was handed to the kernel. A kept connection that the
    peer has closed, or on which it has spoken unasked, is thrown away before it is used.
(3) An answer that is not complete never ends quietly: short lengths, cut chunks and resets raise;
    an answer that only the end of the connection delimits says so (`eof_delimited`).
(4) No connection goes to an internal address unless the configuration names it (`destination`).
(5) Every wait has a deadline; one timer for all of them looks at timestamps.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from time import monotonic
from typing import TYPE_CHECKING, Final

from aiohttp import ClientError, ClientPayloadError, ServerDisconnectedError
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from yarl import URL

from gateway.core.headers import CONTROL, header_lines
from gateway.outbound.errors import (
    Aborted,
    AnswerTooLarge,
    OutboundError,
    SendFailed,
    UpstreamTimeout,
)
from gateway.outbound.pool import FAR, Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path
    from types import TracebackType

    from aiohttp.abc import AbstractResolver
    from aiohttp.http_parser import RawResponseMessage
    from multidict import CIMultiDictProxy

    from gateway.outbound.upstream import Timeouts, Upstream

_BUFFER: Final = 64 * 1024  # bytes of an answer held for a slow reader; reading pauses at twice that
_JOINED: Final = 64 * 1024  # a body up to this size leaves in one write with its head
_NO_BODY: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "TRACE"})
_CONTROL: Final = re.compile(CONTROL.pattern.encode())


class Outbound:
    """All connections to upstreams of one process.

    `proxy` is an http or https proxy's URL for everything but loopback, `ca_file` a PEM file of
    authorities that are trusted instead of the system's, `resolver` replaces the system's names (for
    tests), `tick` is the precision of deadlines in seconds.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        ca_file: Path | None = None,
        resolver: AbstractResolver | None = None,
        tick: float = 0.25,
    ) -> None:
        """Raise `OSError` or `ssl.SSLError` for a CA file that cannot be read."""
        self._proxy = URL(proxy) if proxy else None
        self._context = ssl.create_default_context(cafile=ca_file)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.set_alpn_protocols(["http/1.1"])
        self._resolver = resolver
        self._tick = tick
        self._pools: dict[tuple[URL, str, bool], Pool] = {}
        self._watched: set[Sending] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._aborted: Aborted | None = None

    def send(
        self,
        upstream: Upstream,
        method: str,
        path_and_query: str,
        headers: Iterable[tuple[str, str]],
        body: bytes = b"",
        timeouts: Timeouts | None = None,
    ) -> Sending:
        """Prepare one request; `async with` sends it and gives its `Answer`.

        `path_and_query` starts with a slash, is already encoded and is appended to the base URL's
        path as it is. `headers` are all that is sent beside Host and Content-Length; hop-by-hop
        ones are a `ValueError`, as are control characters. `timeouts` replaces the upstream's.
        """
        return Sending(self, upstream, method, path_and_query, headers, body, timeouts or upstream.timeouts)

    def abort(self, reason: str) -> None:
        """Have all that is under way fail with `Aborted`, and what is sent from now on too."""
        self._aborted = Aborted(reason)
        for sending in list(self._watched):
            sending.fail(self._aborted)

    async def close(self) -> None:
        """Close all connections; what is under way fails."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for pool in self._pools.values():
            await pool.connector.close()
        self._pools.clear()

    def _pool(self, upstream: Upstream) -> Pool:
        key = (upstream.url, upstream.path, upstream.allow_internal)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = Pool(upstream, self._proxy, self._context, self._resolver)
        return pool

    def _watch(self, sending: Sending) -> None:
        self._watched.add(sending)
        if self._aborted is not None:
            sending.fail(self._aborted)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._tick, self._sweep)

    def _sweep(self) -> None:
        now = monotonic()
        for sending in [sending for sending in self._watched if sending.deadline <= now]:
            sending.expire()
        self._timer = asyncio.get_running_loop().call_later(self._tick, self._sweep) if self._watched else None


class Sending:
    """One request on its way; entered it is sent, left it gives its connection back or breaks it."""

    __slots__ = (
        "_body",
        "_client",
        "_connecting",
        "_connection",
        "_failed",
        "_head",
        "_method",
        "_path",
        "_payload",
        "_phase",
        "_timeouts",
        "_total_at",
        "_upstream",
        "_wire",
        "deadline",
    )

    def __init__(
        self,
        client: Outbound,
        upstream: Upstream,
        method: str,
        path: str,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        timeouts: Timeouts,
    ) -> None:
        if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
            raise ValueError("the path to an upstream starts with a slash and is percent-encoded")
        self._client, self._upstream, self._timeouts = client, upstream, timeouts
        self._method, self._path, self._body = method, path, body
        self._head = header_lines(headers)
        self._connecting: asyncio.Task[object] | None = None  # who waits for a connection
        self._connection: Connection | None = None
        self._wire: ResponseHandler | None = None
        self._payload: StreamReader = EMPTY_PAYLOAD
        self._failed: OutboundError | None = None  # why we gave up on it
        self._phase = "first_byte"
        self.deadline = FAR

    async def __aenter__(self) -> Answer:
        timeouts = self._timeouts
        self._total_at = monotonic() + timeouts.total
        pool = self._client._pool(self._upstream)  # noqa: SLF001 - the two are one thing
        self._connection = connection = await self._connect(pool, min(timeouts.connect, timeouts.total))
        try:
            self._wire = wire = connection.protocol
            assert wire is not None  # noqa: S101 - a new connection has one; for the type checker
            wire.set_response_params(
                skip_payload=self._method == "HEAD",
                read_until_eof=True,
                auto_decompress=False,
                read_bufsize=_BUFFER,
            )
            self._write(pool, wire)
            self._deadline("first_byte", timeouts.first_byte)
            self._client._watch(self)  # noqa: SLF001 - the two are one thing
            while True:
                message, payload = await wire.read()
                if message.code >= 200:  # noqa: PLR2004 - interim answers are 1xx
                    break
                if message.code == 101:  # noqa: PLR2004 - Switching Protocols
                    raise SendFailed("the upstream switched protocols, unasked")  # noqa: TRY301 - one way out
            self._payload = payload
            self._quiet()
            return Answer(self, message, payload)
        except BaseException as error:
            self._leave(broken=True)
            raised = self._explain(error)
            if raised is error:
                raise
            raise raised from error

    async def _connect(self, pool: Pool, seconds: float) -> Connection:
        if self._failed is not None:
            raise self._failed
        self._connecting = task = asyncio.current_task()
        try:
            return await pool.connection(seconds)
        except asyncio.CancelledError:
            # Ours, and nobody else's beside it: as `asyncio.timeout` tells them apart.
            if self._failed is not None and task is not None and not task.uncancel():
                raise self._failed from None
            raise
        finally:
            self._connecting = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(broken=not self._payload.is_eof() or self._failed is not None)

    def _write(self, pool: Pool, wire: ResponseHandler) -> None:
        """Hand the whole request to the transport; from here on nothing is `NotSent`."""
        body = self._body
        length = f"Content-Length: {len(body)}\r\n" if body or self._method not in _NO_BODY else ""
        authorization = pool.request.headers.get("Proxy-Authorization") if pool.proxied else None
        proxy = f"Proxy-Authorization: {authorization}\r\n" if authorization else ""
        head = (
            f"{self._method} {pool.target}{self._path} HTTP/1.1\r\nHost: {self._upstream.authority}\r\n"
            f"{proxy}{self._head}{length}\r\n"
        ).encode("utf-8", "surrogateescape")
        transport = wire.transport
        assert transport is not None  # noqa: S101 - checked when the connection was taken, nothing awaited since
        if len(body) <= _JOINED:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)

    def _deadline(self, phase: str, seconds: float) -> None:
        at = monotonic() + seconds
        self._phase, self.deadline = (phase, at) if at < self._total_at else ("total", self._total_at)

    def _quiet(self) -> None:
        """Nobody waits for the upstream: only the total counts."""
        self._phase, self.deadline = "total", self._total_at

    def expire(self) -> None:
        """The deadline passed: wake whoever waits with the reason."""
        self.fail(UpstreamTimeout(self._phase, getattr(self._timeouts, self._phase), sent=True))

    def fail(self, reason: OutboundError) -> None:
        """Give up: whoever waits for the upstream, now or later, gets `reason`."""
        self.deadline = FAR
        self._failed = reason
        if self._wire is not None:
            self._wire.set_exception(reason)
        self._payload.set_exception(reason)

    def abort(self, reason: str) -> None:
        """Give up on this request alone: what is not sent yet never is, what is over stays as it is."""
        if self._wire is None:
            self._failed = Aborted(reason, sent=False)
            if self._connecting is not None:
                self._connecting.cancel()
        elif self._connection is not None:
            self.fail(Aborted(reason))

    async def more(self) -> bytes:
        """What has arrived of the body, at least a byte; empty at its proper end."""
        self._deadline("idle", self._timeouts.idle)
        try:
            data = await self._payload.readany()
        except BaseException as error:
            raised = self._explain(error)
            if raised is error:
                raise
            raise raised from error
        self._quiet()
        return data

    def rest(self, limit: int) -> bytes | None:
        """The whole body where its proper end has arrived, as that of a short answer nearly always has, and it fits."""
        payload = self._payload
        if not payload.is_eof() or payload.exception() is not None or payload.total_bytes > limit:
            return None
        return payload.read_nowait()

    @property
    def sent(self) -> bool:
        """Whether the upstream may have the request."""
        return self._wire is not None

    @property
    def bodiless(self) -> bool:
        """Whether the answer has no body whatever its length says."""
        return self._payload is EMPTY_PAYLOAD

    def reset(self) -> bool:
        """Whether the connection ended otherwise than by the peer's orderly close."""
        error = self._wire.exception() if self._wire is not None else None
        return error is not None and not isinstance(error, ServerDisconnectedError)

    def _explain(self, error: BaseException) -> BaseException:
        """The error in this module's words; cancellation and foreign errors stay what they are."""
        if self._failed is not None and not isinstance(error, asyncio.CancelledError):
            return self._failed
        if isinstance(error, OutboundError):
            return error
        if isinstance(error, HttpProcessingError):
            return SendFailed(f"the upstream's answer is not HTTP/1.1: {error.message[:200]!r}")
        if isinstance(error, ServerDisconnectedError):
            return SendFailed("the upstream closed the connection before its answer began")
        if isinstance(error, ClientPayloadError):
            return SendFailed("the upstream's answer ended before it was complete")
        if isinstance(error, (ClientError, OSError, RuntimeError)):
            return SendFailed(f"{type(error).__name__}: {error}")
        return error

    def _leave(self, *, broken: bool) -> None:
        self._client._watched.discard(self)  # noqa: SLF001 - the two are one thing
        self.deadline = FAR
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if broken:
            if connection.protocol is not None:
                connection.protocol.abort()
            connection.close()
        else:
            connection.release()


class Answer:
    """The head of an upstream's answer, and its body as it comes.

    `eof_delimited` says that nothing but the end of the connection ends the body, so that a cut
    cannot be told from an end: only the content can prove that it is complete.
    """

    __slots__ = ("_sending", "eof_delimited", "headers", "status")

    def __init__(self, sending: Sending, message: RawResponseMessage, payload: StreamReader) -> None:
        """Raise `SendFailed` for a head that could mean two things."""
        self._sending = sending
        self.status: int = message.code
        self.headers: CIMultiDictProxy[str] = message.headers
        # aiohttp parses answers leniently; what was let through must not reach anybody else.
        if _CONTROL.search(b"".join([name + value for name, value in message.raw_headers])):
            raise SendFailed("the upstream's answer has a header with a control character")
        coding = self.headers.get("Transfer-Encoding")
        sized = "Content-Length" in self.headers
        if coding is not None and (sized or coding.strip().lower() != "chunked"):
            raise SendFailed("the upstream's answer is framed ambiguously (Transfer-Encoding)")
        self.eof_delimited = not sized and coding is None and payload is not EMPTY_PAYLOAD

    async def read(self, limit: int) -> bytes:
        """The whole body; raises `AnswerTooLarge` above `limit` bytes, `SendFailed` when it is cut short."""
        announced = self.headers.get("Content-Length", "")
        if announced.isdigit() and int(announced) > limit and not self._sending.bodiless:
            raise AnswerTooLarge(f"the upstream announced {announced} bytes where {limit} are allowed")
        if not self.eof_delimited and (whole := self._sending.rest(limit)) is not None:
            return whole
        parts: list[bytes] = []
        size = 0
        while part := await self._sending.more():
            parts.append(part)
            size += len(part)
            if size > limit:
                raise AnswerTooLarge(f"the upstream sent more than the {limit} bytes that are allowed")
        self._judge_end()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body's bytes as they arrive, in pieces that mean nothing; raises as `read` does."""
        while part := await self._sending.more():
            yield part
        self._judge_end()

    def _judge_end(self) -> None:
        if self.eof_delimited and self._sending.reset():
            raise SendFailed("the upstream reset the connection in the middle of its answer")
