"""Which headers cross the gateway, and which never do (wire §3).

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
    "transfer-encoding", "upgrade",
})  # fmt: skip
"""RFC 9110 §7.6.1, and the names that older proxies used."""

FRAMING: Final = HOP_BY_HOP | {
    "accept-encoding",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
}
"""What each connection's own writer sets: no credential can travel in these."""

_NEVER: Final = (FRAMING - {"content-type"}) | {
    # Credentials and accounts: the inbound ones are the gateway's to check, the outbound ones its own to add.
    "authorization", "x-api-key", "x-goog-api-key", "api-key", "dpop", "cookie", "cookie2",
    "openai-organization", "openai-project", "x-goog-user-project", "anthropic-workspace-id",
    # Words to the gateway itself.
    "workflow-attestation", "prefer",
    # Another method or path than the one that was decided on.
    "x-http-method", "x-http-method-override", "x-method-override", "x-original-url", "x-rewrite-url",
    # Who asked, by what way: the upstream's peer is the gateway.
    "forwarded", "via", "x-real-ip",
}  # fmt: skip
_NEVER_PREFIXES: Final = ("gateway-", "proxy-", "x-forwarded-", "sec-websocket-")

_CLEAN: Final = re.compile("[\t\x20-\x7e\x80-\ud7ff\ue000-\U0010ffff]{0,8192}")
_ANSWER_HEADERS: Final = 64


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
