"""What an upstream's error means: the one table, for providers and tools."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from gateway.core.credential import Injected
from gateway.core.errors import Refusal, Repeat

ABOUT_US: Final = frozenset({401, 402, 403})
"""Statuses that speak of the gateway's own credential or account there."""

_BY_STATUS: Final[dict[int, str]] = {
    408: "upstream_timeout",
    429: "upstream_unavailable",
    500: "upstream_failed",
    502: "upstream_failed",
    503: "upstream_unavailable",
    504: "upstream_timeout",
    521: "upstream_unavailable",  # 521-524: how a content network in front of the upstream says it
    522: "upstream_timeout",
    523: "upstream_unavailable",
    524: "upstream_timeout",
    529: "upstream_unavailable",  # Anthropic's "overloaded"
}
_RETRY_AFTER: Final = re.compile(r"[0-9]{1,5}|[A-Z][a-z]{2}, [A-Za-z0-9: ]{1,32}")
"""Seconds up to about a day, or a date (RFC 9110 §10.2.3)."""
_DETAIL_BYTES: Final = 2048


@dataclass(frozen=True, slots=True)
class Fault:
    """An upstream's answer that does not pass as it came."""

    refusal: Refusal  # what the agent gets, if no other target can help
    elsewhere: bool  # another target may be asked (never after an effect may have happened)
    alert: bool  # an operator must act


def fault(upstream: str, status: int, retry_after: str | None, *, about_us: bool, detail: str) -> Fault | None:
    """Judge an answer's status; `None` passes as it came.

    `upstream` is a name for the sentence ("provider openai"), `retry_after` the upstream's own header,
    `about_us` says that the body, or the status, speaks of the gateway's credential or account, and `detail`
    goes to the log (`detail_of` the body).

    2xx pass, and so do the 4xx about the request itself. 401, 402, 403 and a spent quota become 502
    `upstream_credential`: telling the agent 401 would send it looking at its own token. 408, 429 and 5xx keep
    their status and `retry-after` (given as a header of the refusal: it may be longer than our own hints, or
    a date). Redirects are never followed (R12) and are a failure; so is anything that is no status at all.
    """
    if about_us:
        refusal = Refusal(
            "upstream_credential",
            f"{upstream} answered {status}: it refused the gateway's own credential or account, not yours; "
            "tell the operator",
            detail=detail,
            fields={"upstream_status": status},
        )
        return Fault(refusal, elsewhere=True, alert=True)
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return None
    if status in _BY_STATUS or HTTPStatus.INTERNAL_SERVER_ERROR <= status < 600:  # noqa: PLR2004 -- the end of 5xx
        return Fault(_kept(upstream, status, retry_after, detail), elsewhere=True, alert=False)
    if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return None
    refusal = Refusal(
        "upstream_failed",
        f"{upstream} answered {status}, which is neither a result nor an error (redirects are not followed); "
        "tell the operator",
        detail=detail,
        fields={"upstream_status": status},
        repeat=Repeat.USELESS,
    )
    return Fault(refusal, elsewhere=True, alert=False)


def detail_of(body: bytes, credential: Injected | None) -> str:
    """What of an upstream's error goes to the log: its beginning, without the credential that was sent."""
    text = body[:_DETAIL_BYTES].decode(errors="replace")
    return credential.redact(text) if credential is not None else text


def _kept(upstream: str, status: int, retry_after: str | None, detail: str) -> Refusal:
    usable = retry_after if retry_after and _RETRY_AFTER.fullmatch(retry_after) else ""
    return Refusal(
        _BY_STATUS.get(status, "upstream_failed"),
        f"{upstream} answered {status}; try again later",
        detail=detail,
        fields={"upstream_status": status},
        status=status,
        repeat=Repeat.UNSAID if usable else Repeat.LATER,  # with its own header the upstream has said it
        headers=(("retry-after", usable),) if usable else (),
    )
