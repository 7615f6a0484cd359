"""The agents' door: where requests of agents come in and their replies leave.

It knows HTTP and nothing of what is asked: a request that is well-formed, addressed to this gateway
and within its limits becomes a `core.call.Exchange` and is handed on. It promises that every wait on
a client ends (`connection.Deadlines`), that memory for bodies is bounded, and that a drain truncates
nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from time import monotonic
from typing import TYPE_CHECKING, Any

from aiohttp import http_parser
from aiohttp.web_server import Server

from gateway.web.connection import Connection, Deadlines

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Awaitable, Callable, Sequence

    from gateway.core.call import Exchange
    from gateway.core.errors import Refusal
    from gateway.settings.types import Network
    from gateway.web.hosts import Hosts


_OWN_FILES = 64  # descriptors for the store, logs, the channel and the like, and for connections that are refused
_REFUSED = 32  # connections beyond those that fit which are told so; in a flood that goes on they would take all


class ParserMissing(Exception):
    """aiohttp runs on its Python parser, which has had the smuggling bugs that the C one has not."""


def require_c_parser() -> None:
    """Raise `ParserMissing` with the remedy unless aiohttp parses with llhttp."""
    if http_parser.HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise ParserMissing(
            "aiohttp has no C parser here, and the gateway does not run on the Python one; unset "
            "AIOHTTP_NO_EXTENSIONS, or install aiohttp from a wheel for this platform"
        )


def connections_that_fit() -> int:
    """How many connections the process may have: each may need a second descriptor for its upstream (R18)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(8, (soft - _OWN_FILES) // 2) if soft != resource.RLIM_INFINITY else 1_000_000


class _Server(Server):
    """aiohttp's list of connections, which makes ours."""

    def __init__(self, door: AgentsDoor, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(_never, loop=loop)
        self._door = door

    def __call__(self) -> Connection:
        return Connection(self._door, self, self._loop)


async def _never(_request: object) -> Any:  # noqa: ANN401 - aiohttp's signature
    raise NotImplementedError("connections serve themselves")


class AgentsDoor:
    """Serves one listening socket.

    `handler` gets each request and replies through it; a `Refusal` that it raises before the reply
    began is rendered. `body_limit` bounds one body and `buffered_limit` all together, in bytes.
    `on_refusal` hears of refusals that no handler saw (and of those it raised), with the client's
    address; `on_failure` of our own mistakes, with their place and the request's path.
    `max_connections` defaults to what the process's descriptors allow.
    """

    def __init__(
        self,
        handler: Callable[[Exchange], Awaitable[None]],
        *,
        hosts: Hosts,
        body_limit: int,
        buffered_limit: int,
        trusted_proxies: Sequence[Network] = (),
        deadlines: Deadlines | None = None,
        max_connections: int | None = None,
        on_refusal: Callable[[Refusal, str], None] = lambda _refusal, _peer: None,
        on_failure: Callable[[str, str], None] = lambda _what, _path: None,
    ) -> None:
        """Raise `ParserMissing` where aiohttp has no C parser."""
        require_c_parser()
        self.handler = handler
        self.hosts = hosts
        self.body_limit = body_limit
        self.buffered_limit = buffered_limit
        self.buffered = 0  # bytes of bodies that requests under way hold
        self.trusted_proxies = tuple(trusted_proxies)
        self.deadlines = deadlines or Deadlines()
        self.on_refusal = on_refusal
        self.on_failure = on_failure
        self.draining = False
        self.authorities = 0  # how often those of client certificates were exchanged
        self._max = connections_that_fit() if max_connections is None else max_connections
        self._open = 0
        self._empty = asyncio.Event()
        self._connections: _Server | None = None
        self._sock: socket.socket  # a server closes the descriptor that it was given, so each gets its own
        self._backlog: int
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def open(self) -> int:
        """How many connections there are."""
        return self._open

    async def start(self, sock: socket.socket, *, tls: ssl.SSLContext | None = None, backlog: int = 1024) -> None:
        """Serve on a bound socket, which may be shared with other processes."""
        loop = asyncio.get_running_loop()
        self._connections = _Server(self, loop)
        self._sock, self._backlog = sock, backlog
        self._server = await self._listen(self._connections, tls)
        self._timer = loop.call_later(self.deadlines.tick, self._tick)

    async def renew(self, tls: ssl.SSLContext, *, others: bool = False) -> None:
        """Have connections begin with another context from now on; those that are open stay as they are.

        With `others` client certificates are judged by other authorities than before: who came in with one has
        nothing any more, and is to connect again.
        """
        if self._connections is None or self._server is None or self.draining:
            return
        before, self._server = self._server, await self._listen(self._connections, tls)
        before.close()
        if others:
            self.authorities += 1
            for connection in self._all():
                if connection.outdated and connection.idle and not connection.fresh:
                    connection.hang_up()
        if self.draining:  # it began meanwhile
            self._server.close()

    async def _listen(self, connections: _Server, tls: ssl.SSLContext | None) -> asyncio.Server:
        handshake = self.deadlines.head if tls is not None else None
        return await asyncio.get_running_loop().create_server(
            connections, sock=self._sock.dup(), ssl=tls, ssl_handshake_timeout=handshake, backlog=self._backlog
        )

    async def drain(
        self,
        timeout: float,  # noqa: ASYNC109 - the caller's budget, not a cancellation
        *,
        hurry: Callable[[], None] = lambda: None,
    ) -> int:
        """Stop accepting, let what runs finish, and close; gives how many connections had to be cut.

        Idle connections are closed at once; a request under way is answered with `Connection: close`
        and a stream runs to its end, for up to `timeout` seconds. After that `hurry` is called, which
        may have replies end early, and what does not end soon is reset.
        """
        self.draining = True
        if self._server is not None:
            self._server.close()
            self._sock.close()
        for connection in self._all():
            if connection.idle and not connection.fresh:
                connection.hang_up()
        if not await self._emptied(timeout):
            hurry()
            await self._emptied(self.deadlines.linger)
        cut = self._open
        for connection in self._all():
            if connection.transport is not None:
                connection.transport.abort()
        if self._timer is not None:
            self._timer.cancel()
        return cut

    async def _emptied(self, seconds: float) -> bool:
        """Wait until no connection is left; false if some still are after `seconds`."""
        if self._open:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._empty.wait()
        return not self._open

    @property
    def flooded(self) -> bool:
        """Whether not even a refusal may be said any more: those who were let in need the descriptor."""
        return self._open > self._max + _REFUSED

    # -- for the connections

    def admit(self) -> bool:
        """Count a connection; false if it is one too many."""
        self._open += 1
        return self._open <= self._max

    def left(self) -> None:
        """A connection is gone."""
        self._open -= 1
        if self.draining and not self._open:
            self._empty.set()

    def _all(self) -> list[Connection]:
        if self._connections is None:
            return []
        return [connection for connection in self._connections.connections if isinstance(connection, Connection)]

    def _tick(self) -> None:
        now = monotonic()
        for connection in self._all():
            connection.check(now, self.deadlines)
        self._timer = asyncio.get_running_loop().call_later(self.deadlines.tick, self._tick)
