"""Which headers cross the gateway, and which never do.

Both directions go by allow-lists that the parts own. What stands here is what no allow-list may name: what
belongs to one hop, what carries somebody's credential or account, what speaks to the gateway itself, and
what could make an upstream see another method or path than the one that was decided on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from gateway.core.call import Headers

HOP_BY_HOP: Final = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "http2-settings",
})  # fmt: skip
"""RFC 9110 §7.6.1, and the names that older proxies used."""

_WRITTEN_ANEW: Final = HOP_BY_HOP | {"content-length", "expect", "host"}
"""What each hop writes itself: copying one of these is how requests are smuggled."""

FRAMING: Final = _WRITTEN_ANEW | {"accept-encoding", "content-encoding", "content-type"}
"""What each connection's own writer sets: no credential can travel in these."""

REQUEST_IDS: Final = ("x-request-id", "request-id", "x-goog-request-id", "x-amzn-requestid")
"""How upstreams name a request of theirs, the first that is there counts."""

_NEVER: Final = (FRAMING - {"content-type"}) | {
    # Credentials and accounts: the inbound ones are the gateway's to check, the outbound ones its own to add.
    "authorization", "x-api-key", "x-goog-api-key", "api-key", "dpop", "cookie", "cookie2",
    "openai-organization", "openai-project", "x-goog-user-project", "anthropic-workspace-id",
    # Words to the gateway itself.
    "workflow-attestation", "prefer",
    # Another method or path than the one that was decided on.
    "x-http-method", "x-http-method-override", "x-method-override", "x-original-url", "x-rewrite-url",
    # Who asked, by what way: the upstream's peer is the gateway, and what a client says of its own certificate
    # in one of the names that proxies use (RFC 9440 and older ones) is not what TLS has proven of it.
    "forwarded", "via", "x-real-ip", "client-cert", "client-cert-chain", "x-client-cert", "x-arr-clientcert",
}  # fmt: skip
_NEVER_PREFIXES: Final = (
    "gateway-", "proxy-", "x-forwarded-", "sec-websocket-", "ssl-client-", "x-ssl-", "x-client-cert-",
)  # fmt: skip

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token, RFC 9110 §5.6.2
CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # all but the tab, RFC 9110 §5.5
_CLEAN: Final = re.compile("[\t\x20-\x7e\x80-\ud7ff\ue000-\U0010ffff]{0,8192}")
_ANSWER_HEADERS: Final = 64
_SETTABLE: Final = 1024


def is_header_value(value: str) -> bool:
    """Whether a text can be sent as a header's value: one line, not empty, no space around it."""
    return bool(value) and value == value.strip() and _CLEAN.fullmatch(value) is not None


def never_upstream(name: str) -> bool:
    """Whether a header (lower case) may never be sent on, whatever a config says."""
    return name in _NEVER or name.startswith(_NEVER_PREFIXES)


def to_upstream(headers: Headers, allowed: Sequence[str]) -> list[tuple[str, str]]:
    """The inbound headers that an allow-list of lower-case names lets through.

    What the client's `Connection` header nominates belongs to its own hop and stays behind (RFC 9110
    §7.6.1), even when the list names it. A value with a control character or a lone surrogate stays behind.
    """
    nominated = _nominated(headers)
    return [
        (name, value)
        for name in allowed
        if name in headers and name not in nominated
        for value in headers.getall(name, [])
        if _CLEAN.fullmatch(value)
    ]


def to_agent(headers: Iterable[tuple[str, str]], allowed: frozenset[str]) -> list[tuple[str, str]]:
    """The upstream's headers that an allow-list of lower-case names lets back.

    The first of each name counts, so that two content types cannot mean two things to two readers; `link`
    and `warning` may repeat. At most 64 pass, each at most 8 KiB, none with a control character (R11).
    """
    kept: list[tuple[str, str]] = []
    seen: set[str] = set()
    for name, value in headers:
        key = name.lower()
        if key not in allowed or (key in seen and key not in {"link", "warning"}) or not _CLEAN.fullmatch(value):
            continue
        seen.add(key)
        kept.append((key, value))
        if len(kept) == _ANSWER_HEADERS:
            break
    return kept


def _nominated(headers: Headers) -> frozenset[str]:
    values = headers.getall("connection", [])
    if not values or values == ["keep-alive"]:  # nearly always
        return frozenset()
    return frozenset(name.strip().lower() for value in values for name in value.split(","))


def header_lines(headers: Iterable[tuple[str, str]]) -> str:
    """The header block of a message without its framing headers; each line ends with CRLF.

    Raises `ValueError` for names and values that could split a header, and for names that belong
    to the connection: whoever built the list has to leave them out.
    """
    lines: list[str] = []
    for name, value in headers:
        if name not in _settable:
            _check_name(name)
        # `isprintable` runs at the speed of memory and says yes to nearly all; the pattern judges the rest.
        if not value.isprintable() and CONTROL.search(value):
            raise ValueError("a header contains a control character")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines)


_settable: Final[set[str]] = set()  # the names that passed: they come from the configuration and are few


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a header's name")
    if name.lower() in _WRITTEN_ANEW:
        raise ValueError(f"the header {name!r} belongs to the connection and cannot be set")
    if len(_settable) < _SETTABLE:
        _settable.add(name)
