"""Refusals in the shape of each dialect, so that every SDK raises its own exception for them."""

from __future__ import annotations

import json
import re
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
# RFC 6749 §4.1.2.1 has the words for what is not the client's fault, §5.2 the others.
_OAUTH_ERRORS: Final = {
    401: "invalid_client",
    403: "access_denied",
    500: "server_error",
    502: "temporarily_unavailable",
    503: "temporarily_unavailable",
    504: "temporarily_unavailable",
}
# What is wrong with a subject token, and what it allows, is wrong with the request (RFC 8693 §2.2.2).
_OF_THE_REQUEST: Final = frozenset(
    {"identity_invalid", "identity_expired", "identity_conflict", "proof_invalid", "run_limit"}
)
_NOT_IN_OAUTH: Final = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")  # RFC 6749 §5.2, error_description


def render(refusal: Refusal, dialect: str, request_id: str) -> tuple[int, Headers, bytes]:
    """Status, headers and body of a refusal.

    The headers leave out `content-length`, which the door adds, and the challenges of a 401 (`identity/challenges.py`).
    """
    body = _SHAPES.get(dialect, _problem)(refusal, request_id)
    problem = dialect not in _JSON_DIALECTS
    status = _oauth_error(refusal)[0] if dialect == "oauth" else refusal.status
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
    if dialect == "oauth":
        headers.append(("cache-control", "no-store"))
    return status, headers, _json(body)


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


def _oauth_error(refusal: Refusal) -> tuple[int, str]:
    """The status and the word at a token endpoint; a refusal that has a word of its own says it as `error`."""
    error = refusal.fields.get("error")
    if error == "invalid_token":  # the word of RFC 6750, for resources
        error = None
    if refusal.code in _OF_THE_REQUEST and error != "invalid_client":
        return HTTPStatus.BAD_REQUEST, str(error or "invalid_request")
    return refusal.status, str(error or _OAUTH_ERRORS.get(refusal.status, "invalid_request"))


def _oauth(refusal: Refusal, request_id: str) -> _Body:
    """RFC 6749 §5.2, for the token endpoint."""
    described = _NOT_IN_OAUTH.sub(lambda found: "'" if found[0] == '"' else "?", _sentence(refusal))
    return {
        "error": _oauth_error(refusal)[1],
        "error_description": described,
        "gateway": _gateway(refusal, request_id),
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
    "oauth": _oauth,
}
_JSON_DIALECTS: Final = frozenset(_SHAPES)
