"""Refusals in the shape of each dialect, so that every SDK raises its own exception for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from gateway.core.errors import Refusal, Repeat

Headers = list[tuple[str, str]]
_Body = dict[str, object]

_OPENAI_TYPES: Final = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_GEMINI_STATUSES: Final = {
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    409: "ABORTED",
    410: "NOT_FOUND",
    424: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    504: "DEADLINE_EXCEEDED",
}
_CHALLENGES: Final = {"identity_missing": 'Bearer realm="passgate"'}
_INVALID_TOKEN: Final = 'Bearer realm="passgate", error="invalid_token"'  # noqa: S105  RFC 6750 §3.1, no secret


def render(refusal: Refusal, dialect: str, request_id: str) -> tuple[int, Headers, bytes]:
    """Status, headers and body of a refusal.

    The headers leave out `content-length`, which the door adds. A 401 without a challenge of its own
    gets the plain one of RFC 6750.
    """
    body = _SHAPES.get(dialect, _problem)(refusal, request_id)
    problem = dialect not in _JSON_DIALECTS
    headers = [
        ("content-type", "application/problem+json" if problem else "application/json"),
        ("gateway-refusal", refusal.code),
        ("x-request-id", request_id),
        ("request-id", request_id),
    ]
    if refusal.repeat is Repeat.USELESS:
        headers.append(("x-should-retry", "false"))
    elif refusal.repeat is Repeat.LATER:
        headers.append(("retry-after", str(refusal.retry_after)))
    headers.extend(refusal.headers)
    if refusal.status == HTTPStatus.UNAUTHORIZED and not any(
        name.lower() == "www-authenticate" for name, _ in refusal.headers
    ):
        headers.append(("www-authenticate", _CHALLENGES.get(refusal.code, _INVALID_TOKEN)))
    return refusal.status, headers, _json(body)


def stream_error(refusal: Refusal, dialect: str, request_id: str) -> bytes:
    """The event that ends a stream which has begun, to be sent where a frame has ended.

    Empty where a dialect has no streams: there only a cut connection tells the truth.
    """
    if dialect not in _JSON_DIALECTS:
        return b""
    event = b"event: error\n" if dialect == "anthropic" else b""
    return event + b"data: " + _json(_SHAPES[dialect](refusal, request_id)) + b"\n\n"


def _json(body: Mapping[str, object]) -> bytes:
    """ASCII throughout: a sentence may quote what an agent sent, whatever that was."""
    return json.dumps(body, separators=(",", ":"), default=str).encode()


def _sentence(refusal: Refusal) -> str:
    return f"{refusal.code}: {refusal.sentence}"


def _gateway(refusal: Refusal, request_id: str) -> _Body:
    return {**refusal.fields, "code": refusal.code, "request_id": request_id}


def _openai(refusal: Refusal, request_id: str) -> _Body:
    kind = _OPENAI_TYPES.get(refusal.status)
    if kind is None:
        kind = "server_error" if refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    pointer = refusal.fields.get("pointer")
    return {
        "error": {
            "message": _sentence(refusal),
            "type": kind,
            "param": pointer[1:] if isinstance(pointer, str) and pointer else None,
            "code": refusal.code,
            "gateway": _gateway(refusal, request_id),
        }
    }


def _anthropic(refusal: Refusal, request_id: str) -> _Body:
    kind = _ANTHROPIC_TYPES.get(refusal.status)
    if kind is None:
        kind = "api_error" if refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    return {
        "type": "error",
        "error": {"type": kind, "message": _sentence(refusal), "gateway": _gateway(refusal, request_id)},
        "request_id": request_id,
    }


def _gemini(refusal: Refusal, request_id: str) -> _Body:
    status = _GEMINI_STATUSES.get(refusal.status)
    if status is None:
        status = "UNAVAILABLE" if refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "INVALID_ARGUMENT"
    facts = {"request_id": request_id, **refusal.fields}
    return {
        "error": {
            "code": refusal.status,
            "message": _sentence(refusal),
            "status": status,
            "details": [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": refusal.code,
                    "domain": "passgate",
                    # google.rpc.ErrorInfo: a map of strings
                    "metadata": {name: v if isinstance(v, str) else json.dumps(v) for name, v in facts.items()},
                }
            ],
        }
    }


def _problem(refusal: Refusal, request_id: str) -> _Body:
    """RFC 9457, for HTTP tools, own and well-known addresses."""
    known = refusal.status in HTTPStatus._value2member_map_
    return {
        "type": "about:blank",  # §4.2.1: nothing beyond the status; `code` is what programs read
        "title": HTTPStatus(refusal.status).phrase if known else "Error",
        "status": refusal.status,
        "detail": _sentence(refusal),
        "code": refusal.code,
        "gateway": _gateway(refusal, request_id),
    }


_SHAPES: Final[dict[str, Callable[[Refusal, str], _Body]]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "gemini": _gemini,
}
_JSON_DIALECTS: Final = frozenset(_SHAPES)
