"""How the supervisor's small listeners (metrics, admin) are served."""

from __future__ import annotations

import logging
import socket
import ssl
from typing import Final

from aiohttp import web

_SLOWEST_HEAD: Final = 15.0  # seconds for a head, and for an idle connection
_silent: Final = logging.getLogger("gateway.web.listener")
# aiohttp logs a traceback for each malformed request: noise that anybody can make.
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


async def listen(app: web.Application, sock: socket.socket, *, tls: ssl.SSLContext | None = None) -> web.AppRunner:
    """Serve an application on a bound socket; `cleanup()` of the result ends it."""
    app.on_response_prepare.append(_hide_software)
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_silent,
        keepalive_timeout=_SLOWEST_HEAD,
        auto_decompress=False,
        shutdown_timeout=2.0,
    )
    await runner.setup()
    await web.SockSite(runner, sock, ssl_context=tls).start()
    return runner


async def listen_anew(runner: web.AppRunner, sock: socket.socket, *, tls: ssl.SSLContext) -> None:
    """Serve on another descriptor of the socket with other TLS; connections that are open stay as they are."""
    before = set(runner.sites)
    await web.SockSite(runner, sock, ssl_context=tls).start()
    for site in before:
        await site.stop()


async def _hide_software(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.pop("Server", None)
