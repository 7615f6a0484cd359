"""A call to an LLM provider on the wire: which headers it gets, which come back, what its errors mean.

What a dialect adds is one row of `_DIALECTS`: how the credential is written, which of the agent's headers
the provider gets, which of its answer's headers pass back, and where each operation is below `base_url`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.core.call import Head
from gateway.core.credential import Injected
from gateway.core.fault import ABOUT_US, Fault, detail_of, fault
from gateway.core.headers import REQUEST_IDS, to_agent, to_upstream
from gateway.outbound.upstream import Upstream

_QUOTA_BODY_BYTES: Final = 64 * 1024
_TOO_MANY: Final = 429


@dataclass(frozen=True, slots=True)
class DialectRules:
    """How one dialect goes over the wire to a provider."""

    credential: tuple[str, str]  # the header's name and what stands before the key
    requests: tuple[str, ...]  # the agent's headers that the provider gets
    answers: frozenset[str]  # the answer's headers that the agent gets
    limits: frozenset[str]  # those that it gets with `expose_limits`
    paths: Mapping[str, str]  # operation -> path below base_url
    quota: frozenset[str]  # codes in a 429 that speak of our account


_DIALECTS: Final[dict[str, DialectRules]] = {
    "openai": DialectRules(
        credential=("authorization", "Bearer "),
        # The SDK's own user-agent and x-stainless-* describe the agent's machine: no provider needs them.
        requests=("accept", "openai-beta", "idempotency-key", "x-client-request-id", "x-grok-conv-id"),
        answers=frozenset(REQUEST_IDS) | {
            "cf-ray", "content-type", "retry-after", "retry-after-ms",
            "openai-model", "openai-processing-ms", "openai-version",
        },
        limits=frozenset(
            f"x-ratelimit-{figure}-{unit}"
            for figure in ("limit", "remaining", "reset")
            for unit in ("requests", "tokens", "input-tokens", "output-tokens")
        ),
        paths={"chat": "/chat/completions"},
        quota=frozenset({
            "insufficient_quota", "quota_exceeded", "billing_hard_limit_reached", "billing_not_active",
            "account_deactivated", "access_terminated", "insufficient_balance", "exceeded_current_quota_error",
        }),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Provider:
    """One LLM upstream, compiled."""

    name: str
    upstream: Upstream
    dialects: tuple[str, ...]
    on_disconnect: str  # abort | drain
    credentials: Mapping[str, Injected]  # by dialect; empty where the provider wants none
    answers: Mapping[str, frozenset[str]]  # by dialect
    region: str = ""  # where it processes data, as the config says

    def path(self, dialect: str, operation: str, query: str = "") -> str:
        """The path below `base_url`, with the agent's query; `KeyError` for what the dialect does not have."""
        path = _DIALECTS[dialect].paths[operation]
        return f"{path}?{query}" if query else path

    def request_headers(
        self, head: Head, dialect: str, *, content_type: str, traceparent: str
    ) -> list[tuple[str, str]]:
        """All headers of the request (I25): the dialect's few of the agent's, and the gateway's own.

        `content_type` is the body's; empty without a body. An empty `traceparent` is left out.
        """
        headers = to_upstream(head.headers, _DIALECTS[dialect].requests)
        # Usage must be read from the answer, and the credential looked for in it.
        headers.append(("accept-encoding", "identity"))
        if content_type:
            headers.append(("content-type", content_type))
        if traceparent:
            headers.append(("traceparent", traceparent))
        credential = self.credentials.get(dialect)
        if credential is not None:
            headers.append(credential.header())
        return headers

    def answer_headers(self, headers: Iterable[tuple[str, str]], dialect: str) -> list[tuple[str, str]]:
        """The headers of an answer that the agent gets, names in lower case."""
        return to_agent(headers, self.answers[dialect])

    def judge(self, status: int, retry_after: str | None, body: bytes, dialect: str) -> Fault | None:
        """What an answer's status means; `None` passes as it came.

        `body` is the whole body of an answer that is not 2xx (an empty one will do for 2xx).
        """
        if status // 100 == 2:  # noqa: PLR2004 -- success, RFC 9110 §15.3
            return None
        about_us = status in ABOUT_US or (status == _TOO_MANY and not _DIALECTS[dialect].quota.isdisjoint(_codes(body)))
        return fault(
            f"provider {self.name}",
            status,
            retry_after,
            about_us=about_us,
            detail=detail_of(body, self.credentials.get(dialect)),
        )


def credential_of(dialect: str, key: str) -> Injected:
    """A provider's key as the dialect's header."""
    name, scheme = _DIALECTS[dialect].credential
    return Injected(name, scheme + key)


def answers_of(dialect: str, *, expose_limits: bool) -> frozenset[str]:
    """The answer's headers that pass back."""
    rules = _DIALECTS[dialect]
    return rules.answers | rules.limits if expose_limits else rules.answers


def _codes(body: bytes) -> frozenset[str]:
    """The `code` and `type` of an error body, wherever the provider put them; nothing of what is not JSON."""
    if len(body) > _QUOTA_BODY_BYTES:
        return frozenset()
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return frozenset()
    if not isinstance(document, dict):
        return frozenset()
    error = document.get("error")
    places = (document, error) if isinstance(error, dict) else (document,)
    return frozenset(value for place in places for key in ("code", "type") if isinstance(value := place.get(key), str))
