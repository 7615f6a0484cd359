"""The listening sockets, and the one way in which a start fails."""

from __future__ import annotations

import socket
from typing import Final

from gateway.settings.types import Bind

_BACKLOG: Final = 1024


class StartError(Exception):
    """The gateway cannot start; the words say why and what to do."""


def bind_listener(setting: str, bind: Bind) -> socket.socket:
    """A listening socket; raises `StartError` naming the setting."""
    try:
        family, *_, address = socket.getaddrinfo(bind.host, bind.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StartError(f"{setting} {bind}: {reason}; free the port or change the setting.") from error
    listener.setblocking(False)
    return listener


def listener_url(listener: socket.socket, *, tls: bool) -> str:
    """How a listener is reached on this machine."""
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
