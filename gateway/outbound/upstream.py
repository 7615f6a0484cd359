"""An upstream: one base URL of the configuration, taken apart once."""

from __future__ import annotations

from typing import Final, Protocol

from yarl import URL

from gateway.outbound.destination import is_localhost, is_loopback, literal


class Timeouts(Protocol):
    """Deadlines in seconds, as `timeouts:` of the configuration names them.

    `connect` covers name, connection and TLS; `first_byte` runs from the end of sending to the
    answer's head; `idle` is the longest silence while the caller waits for more; `total` runs from
    the start to the last byte.
    """

    @property
    def connect(self) -> float: ...  # noqa: D102 - see the class
    @property
    def first_byte(self) -> float: ...  # noqa: D102
    @property
    def idle(self) -> float: ...  # noqa: D102
    @property
    def total(self) -> float: ...  # noqa: D102


_PORTS: Final = {"http": 80, "https": 443}


class Upstream:
    """Where one provider or tool server is, and how long it may take.

    `base_url` is an http or https URL without credentials, query and fragment; its path stands in
    front of every path that is sent. Raises `ValueError` with a sentence for anything else.
    """

    __slots__ = ("allow_internal", "authority", "host", "loopback", "name", "path", "timeouts", "tls", "url")

    def __init__(self, name: str, base_url: str, *, timeouts: Timeouts, allow_internal: bool = False) -> None:
        scheme, separator, rest = base_url.partition("://")
        if not separator or scheme.lower() not in _PORTS or not base_url.isascii() or not base_url.isprintable():
            raise ValueError(f"{base_url!r} is not a URL such as https://api.example/v1")
        if any(mark in rest for mark in "@?#\\ "):
            raise ValueError(f"{base_url!r} has credentials, a query or a fragment; leave them out")
        try:
            url = URL(base_url)
            port = url.port
        except ValueError:
            url, port = URL(), None
        if not url.raw_host or not port:
            raise ValueError(f"{base_url!r} is not a URL such as https://api.example/v1")
        # yarl puts full-width and upper-case forms right; what was written is what is judged.
        authority = rest.partition("/")[0]
        written = authority[1 : authority.find("]")] if authority.startswith("[") else authority.partition(":")[0]
        host = literal(written) or written.lower()
        self.name = name
        self.tls = scheme.lower() == "https"
        self.host = host
        self.loopback = is_loopback(host) or is_localhost(host)
        bracketed = f"[{host}]" if ":" in host else host
        self.authority = bracketed if port == _PORTS[scheme.lower()] else f"{bracketed}:{port}"
        self.path = url.raw_path.rstrip("/")
        self.url = URL.build(scheme=scheme.lower(), authority=f"{bracketed}:{port}", path="/", encoded=True)
        self.timeouts = timeouts
        self.allow_internal = allow_internal

    def __repr__(self) -> str:
        return f"Upstream({self.name!r}, {self.authority})"
