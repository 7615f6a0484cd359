"""The connections to one upstream: kept, checked where they lead, and used only while the peer was silent on them.

A kept connection that the peer has closed, or on which it has spoken unasked, is thrown away before
it is used: so a request that finds no connection is known not to have been sent.
"""

from __future__ import annotations

import asyncio
import functools
import select
import ssl
from typing import TYPE_CHECKING, Final

from aiohttp import ClientError, ClientHttpProxyError, ClientTimeout
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection, TCPConnector
from yarl import URL

from gateway.outbound.destination import AddressForbidden, socket_factory
from gateway.outbound.errors import AddressRefused, NotSent, UpstreamTimeout

if TYPE_CHECKING:
    from aiohttp.abc import AbstractResolver

    from gateway.outbound.upstream import Upstream

FAR: Final = float("inf")
"""A deadline that never comes."""

_KEEPALIVE: Final = 30.0  # seconds that an unused connection is kept
_POLL_FLAGS: Final = select.POLLIN | select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)


class _Wire(ResponseHandler):
    """A pooled connection that can tell whether the peer was silent since its last answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.used = False
        self._poll: select.poll | None = None

    def fresh(self) -> bool:
        """Whether it may carry a request: nothing to read, no end seen, no leftovers of the answer before.

        The kernel is asked, since the loop may not have seen the peer's FIN yet.
        """
        transport = self.transport
        if transport is None or self.should_close:
            return False
        if not self.used:
            self.used = True
            return True
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(transport.get_extra_info("socket").fileno(), _POLL_FLAGS)
        return not self._poll.poll(0)

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        """Spare the round through the parser that aiohttp makes after each part it gave, paused or not."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Tell who waits for the body too: aiohttp lets them wait on when its framing is broken (R09)."""
        super().set_exception(exc, *cause)
        if self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(exc, *cause)


class _Request(ClientRequest):
    """What aiohttp's connector wants to know of a request: the same for all of one pool."""

    @functools.cached_property
    def connection_key(self) -> object:  # type: ignore[override]
        """Built once instead of at each look-up."""
        return ClientRequest.connection_key.fget(self)  # type: ignore[attr-defined]


class _Connector(TCPConnector):
    def __init__(
        self, upstream: Upstream, *, checked: bool, context: ssl.SSLContext, resolver: AbstractResolver | None
    ) -> None:
        super().__init__(
            ssl=context,
            resolver=resolver,
            limit=0,  # concurrency is limited where calls are admitted
            keepalive_timeout=_KEEPALIVE,
            timeout_ceil_threshold=FAR,
            socket_factory=socket_factory(upstream.host, allow_internal=upstream.allow_internal) if checked else None,
        )
        self._factory = functools.partial(_Wire, loop=self._loop)  # type: ignore[assignment] # invariant


class Pool:
    """The connections to one upstream, and what never changes between its requests."""

    __slots__ = ("connector", "limits", "proxied", "proxy_header", "request", "target")

    def __init__(
        self, upstream: Upstream, proxy: URL | None, context: ssl.SSLContext, resolver: AbstractResolver | None
    ) -> None:
        proxy = None if upstream.loopback else proxy
        # Behind a proxy the address that is connected is the proxy's, which the configuration names.
        self.connector = _Connector(upstream, checked=proxy is None, context=context, resolver=resolver)
        self.request = _Request("GET", upstream.url, loop=asyncio.get_running_loop(), proxy=proxy)
        self.proxied = proxy is not None and not upstream.tls
        self.target = f"http://{upstream.authority}{upstream.path}" if self.proxied else upstream.path
        self.limits: dict[float, ClientTimeout] = {}

    async def connection(self, seconds: float) -> Connection:
        """A connection that may be written to; raises `NotSent` or `UpstreamTimeout`."""
        limit = self.limits.get(seconds)
        if limit is None:
            limit = self.limits[seconds] = ClientTimeout(connect=seconds, ceil_threshold=FAR)
        while True:
            try:
                connection = await self.connector.connect(self.request, [], limit)
            except TimeoutError:
                raise UpstreamTimeout("connect", seconds, sent=False) from None
            except (ClientError, OSError, RuntimeError) as error:
                raise _not_sent(error) from error
            wire = connection.protocol
            if isinstance(wire, _Wire) and wire.fresh():
                return connection
            connection.close()


def _not_sent(error: BaseException) -> NotSent:
    cause = getattr(error, "os_error", error)
    if isinstance(cause, AddressForbidden) or "leads to the internal address" in str(cause):
        return AddressRefused(f"{cause}; set allow_internal: true if that is meant")
    if isinstance(error, ClientHttpProxyError):
        return NotSent(f"the proxy answered {error.status} {error.message}")
    return NotSent(f"{type(error).__name__}: {error}")
