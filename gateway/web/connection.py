"""An agent's connection: aiohttp's protocol and parser under a loop and deadlines of our own.

aiohttp has no deadline but one for idle connections, builds a task, a request and a response for
each call, and answers parse errors in plain text. Here one task serves a connection, and one timer
of the door looks at the timestamps of all (`check`):

- a head is complete `head` seconds after its first byte (or after the connection came);
- a body comes at `body_rate` bytes a second after `body_grace` seconds, while somebody waits for it;
- an idle connection is kept for `keepalive` seconds;
- a client that leaves the write buffer full for `stalled` seconds is cut off;
- a connection that we closed is gone after `linger` seconds, or `stalled` while it still reads.
"""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final

from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion11
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from msgspec.structs import replace
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from gateway.core.call import ClientGone, Head
from gateway.core.errors import Refusal
from gateway.core.ids import new_id
from gateway.dialects.addresses import dialect_of
from gateway.dialects.refusals import render
from gateway.web.exchange import AgentExchange
from gateway.web.head import HEAD_BYTES, LINE_BYTES, from_parser, malformed, plain, read_head, too_long
from gateway.web.hosts import client_address

if TYPE_CHECKING:
    from gateway.web.agents import AgentsDoor

_WRITE_BUFFER: Final = 64 * 1024
_READ_BUFFER: Final = 64 * 1024
# The parser stops here, so that a read full of tiny headers costs little; ours is lower.
_PARSER_HEADERS: Final = 1000


_NO_HEADERS: Final = CIMultiDictProxy(CIMultiDict[str]())
_NO_MESSAGE: Final = RawRequestMessage(
    "GET",
    "/",
    HttpVersion11,
    _NO_HEADERS,
    (),
    True,
    None,
    False,
    False,
    URL("/"),
)
_NO_HEAD: Final = Head("GET", "/", "", plain(_NO_HEADERS), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How patient a door is, in seconds (`body_rate` in bytes a second); `tick` is the precision."""

    head: float = 10.0
    body_grace: float = 10.0
    body_rate: float = 1024.0
    keepalive: float = 75.0
    stalled: float = 120.0
    linger: float = 2.0
    tick: float = 1.0


class Connection(RequestHandler):
    """One TCP or TLS connection of an agent."""

    __slots__ = (
        "_authorities",
        "_big",
        "_certificate",
        "_closing_since",
        "_deaf",
        "_exchange",
        "_head_bytes",
        "_head_since",
        "_peer",
        "_receiving",
        "_served",
        "_stalled_since",
        "_waiting_since",
        "body_bytes",
        "door",
    )

    def __init__(self, door: AgentsDoor, manager: object, loop: asyncio.AbstractEventLoop) -> None:
        """`manager` is aiohttp's server, which keeps the list of connections."""
        super().__init__(
            manager,  # type: ignore[arg-type]
            loop=loop,
            keepalive_timeout=0,  # ours is in `check`
            access_log=None,  # type: ignore[arg-type]
            max_line_size=LINE_BYTES,
            max_field_size=LINE_BYTES,
            max_headers=_PARSER_HEADERS,
            read_bufsize=_READ_BUFFER,
            auto_decompress=False,
        )
        self.door = door
        self.body_bytes = 0  # of the body under way, with its framing
        self._exchange: AgentExchange | None = None
        self._receiving: StreamReader | None = None  # the body that the parser is in
        self._deaf = False  # nothing more is parsed: the stream's framing is lost or we are leaving
        self._big = False
        self._head_bytes = 0
        self._head_since = 0.0
        self._waiting_since = monotonic()
        self._closing_since = 0.0
        self._stalled_since = 0.0
        self._served = False
        self._peer = ""
        self._certificate: bytes | None = None  # of the client, DER
        self._authorities = door.authorities  # that judge it: those of the moment in which the client came

    # -- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to serve, or refuse where the door is full (R18)."""
        name = transport.get_extra_info("peername")
        self._peer = str(name[0]) if isinstance(name, tuple) else ""
        session = transport.get_extra_info("ssl_object")
        if session is not None:  # asked once, not per request: what a session proved stays (we never renegotiate)
            self._certificate = session.getpeercert(binary_form=True)
        super().connection_made(transport)
        assert self.transport is not None  # noqa: S101 - set above; for the type checker
        self.transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        if self.door.admit():
            return
        if self.door.flooded:
            self.transport.abort()
        else:
            self._inject(Refusal("overloaded", "the gateway has as many connections as it may; try again shortly"))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Wake whoever waits; the door may be waiting for its last connection."""
        self._current_request = self._exchange  # type: ignore[assignment] # aiohttp calls its `_cancel`
        super().connection_lost(exc)
        self.door.left()

    def data_received(self, data: bytes) -> None:
        """Count bytes of head and body, then let aiohttp parse."""
        if self._deaf:
            return
        receiving = self._receiving
        if receiving is not None and receiving.is_eof():
            self._receiving = receiving = None
        if receiving is not None:
            self.body_bytes += len(data)
        elif data:
            if not self._head_bytes:
                self._head_since = monotonic()
            self._head_bytes += len(data)
            self._big = self._big or self._head_bytes > LINE_BYTES
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            # The read that completed a head alone belongs to its body too, as far as can be told.
            self.body_bytes = len(data) if receiving is None and self._request_count == before + 1 else 0
            self._arrived(receiving)
        elif receiving is None and self._head_bytes > HEAD_BYTES:
            self._inject(too_long("the request's head is too large"))

    def _arrived(self, before: StreamReader | None) -> None:
        """One or more heads are complete, or the parser gave up."""
        self._head_bytes = 0
        message, payload = self._messages[-1]
        if isinstance(message, RawRequestMessage):
            self._receiving = None if payload.is_eof() else payload
            return
        self._deaf = True
        if before is not None and not before.is_eof():
            before.set_exception(from_parser(message.exc))

    def pause_writing(self) -> None:
        """The write buffer is full: the client's time to read runs."""
        super().pause_writing()
        self._stalled_since = monotonic()

    def resume_writing(self) -> None:
        """The client has read."""
        self._stalled_since = 0.0
        super().resume_writing()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        """Spare the round through the parser that aiohttp makes after each part it gave, paused or not."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    async def drained(self) -> None:
        """Wait until the client has read, or is gone."""
        try:
            await self._drain_helper()
        except ConnectionError as error:
            raise ClientGone("the client left before its reply was complete") from error

    # -- the loop

    async def start(self) -> None:
        """Serve one request after the other (in place of aiohttp's loop)."""
        stays = True
        try:
            while stays and self.transport is not None:
                if not self._messages:
                    await self._next()
                message, payload = self._messages.popleft()
                self._slot_free()
                if isinstance(message, RawRequestMessage):
                    stays = await self._serve(message, payload)
                else:
                    await self._refuse_unread(from_parser(message.exc))
                    stays = False
        except ClientGone:
            pass
        finally:
            self.hang_up()

    async def _next(self) -> None:
        self._waiting_since = monotonic()
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _slot_free(self) -> None:
        """Let the parser go on with pipelined requests once half of the queue is served (as aiohttp does)."""
        if self.transport is not None and self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()

    async def _serve(self, message: RawRequestMessage, payload: StreamReader) -> bool:
        door = self.door
        peer = self._peer
        if door.trusted_proxies:
            peer = client_address(peer, message.headers.getall("X-Forwarded-For", ()), door.trusted_proxies)
        certificate = None if self.outdated else self._certificate
        try:
            head = read_head(message, door.hosts, peer, measure=self._big, certificate=certificate)
        except Refusal as refusal:
            path, _, query = message.path.partition("?")
            head = Head(message.method, path, query, plain(message.headers), peer)
            exchange = AgentExchange(self, message, payload, head)
            # What cannot be read in one way only may hide a second request: nothing after it is believed.
            self._deaf = True
            await self._refuse(exchange, refusal)
            return False
        self._exchange = exchange = AgentExchange(self, message, payload, head)
        self._served = True
        try:
            await door.handler(exchange)
            if not exchange.ended:
                raise RuntimeError("the handler returned without a complete reply")  # noqa: TRY301 - one way out
        except ClientGone:
            return False
        except Refusal as refusal:
            await self._refuse(exchange, refusal)
        except Exception as error:  # noqa: BLE001 - the door is where our own mistakes end
            await self._broken(exchange, error)
        finally:
            self._exchange = None
            exchange.close()
        return exchange.stays

    # -- replies of the door's own

    async def _refuse(self, exchange: AgentExchange, refusal: Refusal) -> None:
        door = self.door
        door.on_refusal(refusal, exchange.head.peer)
        if exchange.begun:
            exchange.cut()
            return
        await self._tell(exchange, refusal)

    async def _tell(self, exchange: AgentExchange, refusal: Refusal) -> None:
        request_id = new_id("req")
        status, headers, body = render(refusal, dialect_of(exchange.head.path), request_id)
        await exchange.reply(status, [("gateway-request-id", request_id), *headers], body)

    async def _refuse_unread(self, refusal: Refusal) -> None:
        """Refuse what never became a request: there is no path to take a dialect from."""
        head = replace(_NO_HEAD, peer=self._peer)
        await self._refuse(AgentExchange(self, _NO_MESSAGE, EMPTY_PAYLOAD, head), refusal)

    async def _broken(self, exchange: AgentExchange, error: Exception) -> None:
        """Our own mistake: logged with its place, told without any detail."""
        frames = traceback.extract_tb(error.__traceback__)[-4:]
        place = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
        self.door.on_failure(f"{type(error).__name__} at {place}", exchange.head.path)
        if exchange.begun:
            exchange.cut()
            return
        await self._tell(exchange, Refusal("internal_error", "the gateway failed; tell the operator"))

    def _inject(self, refusal: Refusal) -> None:
        """Have the loop answer with a refusal next, and believe nothing that comes after."""
        self._deaf = True
        self._messages.append((_ErrInfo(status=400, exc=refusal, message=""), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- the end

    def hang_up(self) -> None:
        """Close after what was written has gone out.

        Closing with unread bytes makes the kernel send a reset, which can take the reply with it;
        so where more may come our side is closed first and the rest is dropped for a while.
        """
        transport = self.transport
        if transport is None or self._closing_since:
            return
        self._closing_since = monotonic()
        unread = self._deaf or (self._receiving is not None and not self._receiving.is_eof())
        self._deaf = True
        if unread and transport.can_write_eof() and not transport.is_closing():
            if self._reading_paused or self._buffer_paused:
                self._resume_transport_reading()
            transport.write_eof()
        else:
            transport.close()

    @property
    def leaving(self) -> bool:
        """Whether the reply under way is the connection's last."""
        return self._deaf or self.door.draining or self.outdated

    @property
    def outdated(self) -> bool:
        """Whether the client came in with a certificate, and the authorities for those are others by now."""
        return self._certificate is not None and self._authorities != self.door.authorities

    @property
    def idle(self) -> bool:
        """Whether nothing of a request has come and nothing of a reply is due."""
        return self._waiter is not None and not self._messages and not self._head_bytes

    @property
    def fresh(self) -> bool:
        """Whether it never carried a request: its first one may be on the way."""
        return not self._served

    def check(self, now: float, deadlines: Deadlines) -> None:
        """Enforce the deadlines; called by the door's timer."""
        transport = self.transport
        if transport is None:
            return
        if self._closing_since:
            patience = deadlines.stalled if transport.get_write_buffer_size() else deadlines.linger
            if now - self._closing_since > patience:
                transport.abort()
        elif self._stalled_since and now - self._stalled_since > deadlines.stalled:
            transport.abort()
        elif self._waiter is not None and not self._messages:
            self._check_waiting(now, deadlines)
        elif self._exchange is not None and self._exchange.reading_since:
            waited = now - self._exchange.reading_since
            payload = self._exchange.payload
            if waited > deadlines.body_grace and payload.total_bytes < waited * deadlines.body_rate:
                payload.set_exception(malformed(f"the body came slower than {deadlines.body_rate:g} bytes a second"))

    def _check_waiting(self, now: float, deadlines: Deadlines) -> None:
        if self._head_bytes:
            if now - max(self._head_since, self._waiting_since) > deadlines.head:
                self._inject(malformed(f"the request's head was not complete within {deadlines.head:g} s"))
        elif now - self._waiting_since > self._patience(deadlines):
            self.hang_up()

    def _patience(self, deadlines: Deadlines) -> float:
        if self.door.draining:
            return min(deadlines.linger, deadlines.head)
        return deadlines.keepalive if self._served else deadlines.head
