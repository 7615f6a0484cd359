"""The listeners' certificates in force, and how renewed ones take their place without a restart.

1. A listener whose files changed listens anew, on the same socket and with a context of its own: handshakes from
   then on see the new certificate and the new authorities alone, connections that are open stay, and no TLS session
   of before can be resumed. What an agent's open connection proved to authorities that changed counts no more.
2. The agents' listener is the workers'; the supervisor's own two follow once all workers have the new one.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

from aiohttp import web

from gateway.core.clock import Clock, rfc3339
from gateway.core.sources import Sources
from gateway.process.listening import bind_listener, listener_url
from gateway.telemetry.logs import Log
from gateway.web.listener import listen, listen_anew
from gateway.web.metrics import Check
from gateway.web.settings import ListenSettings
from gateway.web.tls import ServerTls

_RENEW_AT: Final = 0.1
"""With less than this part of its life left, whoever renews a certificate is late."""


class Doors:
    """What all listeners serve TLS with, and the supervisor's own two; `log` gives the log, which a reload replaces."""

    def __init__(self, settings: ListenSettings, sources: Sources, log: Callable[[], Log], clock: Clock) -> None:
        """Take files that were read and found good; nothing listens before `open`."""
        self._settings = settings
        self._log = log
        self._clock = clock
        self._served = _read(settings, sources)
        self._open: dict[str, tuple[web.AppRunner, socket.socket]] = {}

    async def open(self, name: str, app: web.Application) -> str:
        """Have a listener of the supervisor serve; gives its URL on this machine, raises `StartError`."""
        sock = bind_listener(f"listen.{name}.bind", self._settings.doors[name].bind)
        tls = self._served.get(name)
        context = tls.context(clients_must=True) if tls is not None else None
        self._open[name] = (await listen(app, sock.dup(), tls=context), sock)
        return listener_url(sock, tls=tls is not None)

    async def close(self) -> None:
        """Stop serving."""
        while self._open:
            _, (runner, sock) = self._open.popitem()
            await runner.cleanup()
            sock.close()

    @contextlib.asynccontextmanager
    async def change(self, sources: Sources) -> AsyncIterator[None]:
        """Have renewed certificates at hand while the workers take theirs, and serve with them if that succeeds."""
        fresh = _read(self._settings, sources)
        changed = [name for name, tls in fresh.items() if tls != self._served[name]]
        renewed = {name: fresh[name].context(clients_must=True) for name in changed if name in self._open}
        with contextlib.ExitStack() as undo:
            socks = {name: undo.enter_context(self._open[name][1].dup()) for name in renewed}
            yield
            undo.pop_all()
        for name, context in renewed.items():
            await listen_anew(self._open[name][0], socks[name], tls=context)
        self._served = fresh
        for name in changed:
            self._log().info("tls_renewed", listener=name, expires=rfc3339(fresh[name].life[1]))

    def expiries(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """When the certificate that each listener serves expires, as Unix time."""
        for name, tls in self._served.items():
            yield (name,), tls.life[1]

    def checks(self) -> Iterator[Check]:
        """A warning for each certificate that has expired or will soon, and for authorities that all have."""
        now = self._clock.now()
        for name, tls in self._served.items():
            begins, ends = tls.life
            if ends - now < _RENEW_AT * (ends - begins):
                what = "and clients refuse it" if ends <= now else "and nobody has renewed it yet"
                text = f"listener {name}: its certificate {_expires(ends, now)}, {what}"
                yield Check("certificate", "warning", text)
            if tls.trust_ends <= now:
                text = (
                    f"listener {name}: its client_ca {_expires(tls.trust_ends, now)}, and no client certificate counts"
                )
                yield Check("certificate", "warning", text)


def not_renewed(settings: ListenSettings, kept: Sources, fresh: Sources, now: float) -> list[str]:
    """Why changed files cannot take the place of those that serve: what they hold has expired.

    What did not change is not judged: an expired certificate must not stand in the way of another change.
    """
    served, problems = _read(settings, kept), []
    for name, tls in _read(settings, fresh).items():
        files, before = settings.doors[name].tls, served[name]
        if files is not None and tls.cert != before.cert and tls.life[1] <= now:
            problems.append(f"listen.{name}.tls.cert: {files.cert} {_expires(tls.life[1], now)}")
        if files is not None and tls.client_ca != before.client_ca and tls.trust_ends <= now:
            problems.append(f"listen.{name}.tls.client_ca: {files.client_ca} {_expires(tls.trust_ends, now)}")
    return problems


def _expires(end: float, now: float) -> str:
    return f"{'expired' if end <= now else 'expires'} at {rfc3339(end)}"


def _read(settings: ListenSettings, sources: Sources) -> dict[str, ServerTls]:
    """What each listener that has TLS ends it with; raises `OSError`."""
    return {name: ServerTls.read(door.tls, sources) for name, door in settings.doors.items() if door.tls is not None}
