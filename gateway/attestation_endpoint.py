"""The address where attestations are handed in: by the agent they are for, or by their attester itself.

An agent presents them before the call that rests on them, when they are too many for a header: it is identified, and
decided on, like at every address. An attester has no token here: what it signed says who it is, and it hands in
nothing but its own; above all what an agent would rather leave out. Either way all of them are recorded or none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec
from msgspec.structs import replace

from gateway.attestations import NotAttested
from gateway.core.attestation import Attestation
from gateway.core.call import Exchange, Head
from gateway.core.errors import Refusal
from gateway.core.principal import Principal
from gateway.dialects import JsonLimits, json_body
from gateway.runs import run_key
from gateway.world import World

MAX_BODY: Final = 32 * 1024
MAX_POSTED: Final = 16

_CREDENTIALS: Final = ("authorization", "x-api-key", "x-goog-api-key")
_JSON: Final = re.compile(r"application/json\s*(;.*)?", re.IGNORECASE)
_JOSE: Final = re.compile(r"application/(jose|jwt)\s*(;.*)?", re.IGNORECASE)
_FORM: Final = (
    'send {"attestations": [...]} as application/json, each a compact JWS or a DSSE envelope; '
    "or one compact JWS as application/jose"
)


class Recorder(Protocol):
    """What the endpoint asks of the process that keeps them."""

    async def present(self, attestations: tuple[Attestation, ...]) -> tuple[bool, ...]:
        """Record them durably; for each whether it was new. Raises `Refusal`."""
        ...


def signs_itself(head: Head, world: World) -> bool:
    """Whether a request carries no credential but the signatures of what it hands in."""
    carried = any(head.headers.get(name) for name in _CREDENTIALS)
    return not carried and not (head.certificate is not None and world.identity.takes_certificates)


async def present(
    exchange: Exchange, principal: Principal, world: World, recorder: Recorder, request_id: str
) -> Mapping[str, object]:
    """Record what an agent presents: for itself, in runs of its own. Gives the answer (201); raises `Refusal`."""
    names = (principal.subject, principal.agent.id)
    found: list[Attestation] = []
    for index, text in enumerate(_read(exchange.head, await exchange.body(MAX_BODY))):
        verdict = world.attesters.examine(text, names, None)
        if isinstance(verdict, NotAttested):
            raise _not_attested(verdict, index)
        owner = run_key(principal, verdict.run)[:2]
        found.append(replace(verdict, owner=owner, request_id=request_id))
    return _answer(found, await recorder.present(tuple(found)))


async def post(exchange: Exchange, world: World, recorder: Recorder, request_id: str) -> Mapping[str, object]:
    """Record what an attester hands in itself. Gives the answer (201); raises `Refusal`."""
    try:
        texts = _read(exchange.head, await exchange.body(MAX_BODY))
    except Refusal as refusal:
        if refusal.code == "request_malformed":  # whoever it is brings nothing that would say so
            raise _unknown("identity_missing", refusal.sentence) from None
        raise
    found: list[Attestation] = []
    for index, text in enumerate(texts):
        verdict = world.attesters.examine(text, None, None)
        if isinstance(verdict, NotAttested):
            if not verdict.signed:
                raise _unknown("identity_invalid", f"attestations[{index}]: {verdict}")
            raise _not_attested(verdict, index)
        found.append(replace(verdict, request_id=request_id))
    if len(attesters := {one.by for one in found}) > 1:
        sentence = f"the attestations are of {' and '.join(sorted(attesters))}, and each posts its own; send them apart"
        raise Refusal("request_malformed", sentence)
    return _answer(found, await recorder.present(tuple(found)))


def _read(head: Head, body: bytes) -> Sequence[str]:
    """The attestations in a body, unverified; raises `Refusal` (`request_malformed`)."""
    kind = head.headers.get("content-type") or ""
    if _JOSE.fullmatch(kind):
        return [body.decode("latin-1").strip()]
    if not _JSON.fullmatch(kind):
        raise Refusal("request_malformed", f"the body's media type is not served here; {_FORM}")
    value = json_body.parse(body, JsonLimits())
    entries = value.get("attestations") if isinstance(value, dict) else None
    if not isinstance(entries, list) or not entries:
        raise Refusal("request_malformed", f"the body has no list `attestations`; {_FORM}")
    if len(entries) > MAX_POSTED:
        raise Refusal(
            "request_malformed",
            f"the body has {len(entries)} attestations, and {MAX_POSTED} are the most; send them in several requests",
            fields={"limit": MAX_POSTED},
        )
    texts: list[str] = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, str | dict):
            raise Refusal("request_malformed", f"attestations[{index}] is neither text nor an object; {_FORM}")
        texts.append(entry if isinstance(entry, str) else msgspec.json.encode(entry).decode())
    return texts


def _not_attested(verdict: NotAttested, index: int) -> Refusal:
    code = "request_malformed" if verdict.code == "malformed" else "policy_denied"
    fields = {"reason": verdict.code, "step": verdict.step, "index": index}
    sentence = f"attestations[{index}] does not count, and none of them was recorded: {verdict.detail}"
    return Refusal(code, sentence, detail=str(verdict), fields=fields)


def _unknown(code: str, detail: str) -> Refusal:
    """Nobody is known to have sent it: one public sentence for all causes, as for tokens."""
    return Refusal(
        code,
        "send an agent's token, or attestations that carry the signature of an attester that is configured here; "
        "the gateway's log has the cause under this request id",
        detail=detail,
    )


def _answer(attestations: Iterable[Attestation], new: Iterable[bool]) -> Mapping[str, object]:
    return {
        "attestations": [
            {
                "id": one.id,
                "by": one.by,
                "step": one.step,
                "outcome": one.outcome,
                "run": one.run,
                "subject": one.subject,
                "new": is_new,
            }
            for one, is_new in zip(attestations, new, strict=True)
        ]
    }
