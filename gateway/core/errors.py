"""Refusals: the answers that the gateway gives itself, and the one table of their codes.

A `Refusal` is raised wherever a call may not go on and is turned into the caller's own dialect at
the door. Its `sentence` and `fields` are public; its `detail` is for the log only. What an
upstream got wrong is a refusal too (`upstream_*`); what *we* got wrong is any other exception and
leaves as `INTERNAL`, so that the caller's mistakes and ours never share a class.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Repeat(Enum):
    """Whether sending the same call again can help, as told to SDKs."""

    USELESS = "useless"  # x-should-retry: false
    LATER = "later"  # retry-after: N
    UNSAID = "unsaid"  # neither header: the client knows better (a token can be renewed)


@dataclass(frozen=True, slots=True)
class Code:
    """What is fixed for a refusal code: its HTTP status and whether repeating can help."""

    status: int
    repeat: Repeat = Repeat.USELESS


_LATER = Repeat.LATER

CODES: Final[dict[str, Code]] = {
    "request_malformed": Code(400),
    "run_conflict": Code(400),
    "run_required": Code(400),
    "dialect_unsupported": Code(400),
    "identity_missing": Code(401),
    "identity_invalid": Code(401),
    "identity_conflict": Code(401),
    "proof_invalid": Code(401, Repeat.UNSAID),
    "identity_expired": Code(401, Repeat.UNSAID),
    "run_limit": Code(402),
    "agent_unknown": Code(403),
    "agent_ambiguous": Code(403),
    "agent_stopped": Code(403),
    "policy_denied": Code(403),
    "attestation_required": Code(403),
    "approval_required": Code(403),
    "hosted_tool_refused": Code(403),
    "scope_exceeded": Code(403),
    "output_cap_too_low": Code(403),
    "origin_refused": Code(403),
    "route_unknown": Code(404),
    "model_unknown": Code(404),
    "tool_unknown": Code(404),
    "run_unknown": Code(404),
    "object_unknown": Code(404),
    "method_not_allowed": Code(405),
    "step_in_progress": Code(409, _LATER),
    "step_expired": Code(410),
    "request_too_large": Code(413),
    "encoding_unsupported": Code(415),
    "headers_too_large": Code(431),
    "arguments_invalid": Code(422),
    "step_in_doubt": Code(424),
    "rate_limited": Code(429, _LATER),
    "concurrency_limited": Code(429, _LATER),
    "internal_error": Code(500),
    "upstream_failed": Code(502, _LATER),
    "upstream_truncated": Code(502, _LATER),
    "upstream_credential": Code(502),
    "upstream_unavailable": Code(503, _LATER),
    "overloaded": Code(503, _LATER),
    "store_unavailable": Code(503, _LATER),
    "identity_source_unavailable": Code(503, _LATER),
    "upstream_timeout": Code(504, _LATER),
}
"""Every code that is raised today. A code joins when its first raiser does."""


class Refusal(Exception):
    """The gateway answers this call itself.

    `code` is a key of `CODES`; `sentence` says in public words what is wrong and what to do next
    (without the code: the dialect puts it in front); `fields` are public facts for programs (JSON
    scalars, lists or objects); `detail` goes to the log only and may name what the public may not
    know. `status` is the table's, but for upstream failures that keep the upstream's own status.
    `repeat` is the table's, but for effects, where repeating is never advised.
    """

    def __init__(
        self,
        code: str,
        sentence: str,
        *,
        detail: str | None = None,
        fields: dict[str, object] | None = None,
        status: int | None = None,
        repeat: Repeat | None = None,
        retry_after: int = 1,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Raise `KeyError` for a code that the table does not have."""
        known = CODES[code]
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence
        self.detail = detail
        self.fields = fields or {}
        self.status = known.status if status is None else status
        self.repeat = known.repeat if repeat is None else repeat
        self.retry_after = max(1, min(30, retry_after))
        self.headers = headers


def method_not_allowed(methods: Iterable[str]) -> Refusal:
    """The refusal of a method, with `Allow` naming those that the address takes (RFC 9110 §15.5.6)."""
    allowed = sorted(set(methods))
    text = ", ".join(allowed)
    return Refusal(
        "method_not_allowed",
        f"this address answers to {text} only; send one of these methods",
        fields={"allow": allowed},
        headers=(("allow", text),),
    )
