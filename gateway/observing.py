"""What the gateway attests of what it saw itself: the whole answer of a tool, in this call, by the rules' `observe`.

Only a complete 2xx answer in JSON says anything, and only in a run. What was stored, repeated or cut off never does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.core.attestation import GATEWAY, Attestation
from gateway.core.call import Call
from gateway.core.errors import Refusal
from gateway.core.principal import Principal
from gateway.core.run import RunKey
from gateway.dialects.json_body import JsonLimits, parse
from gateway.policy import Observation
from gateway.relay import Received

_MICRO = 1_000_000
_PARTIAL = 206
"""A part of an answer (RFC 9110 §15.3.7), which says nothing of the rest."""


def observed(
    observations: Iterable[Observation],
    call: Call,
    received: Received,
    *,
    principal: Principal,
    run: RunKey,
    request_id: str,
    limits: JsonLimits,
    at: float,
) -> Iterator[Attestation]:
    """The attestations of an answer that came at `at` (epoch seconds)."""
    whole = received.billed and received.outcome == "complete" and not (received.streamed or received.gone)
    whole = whole and received.status != _PARTIAL
    if not whole or received.fault is not None or received.broken is not None or not _is_json(received.headers):
        return
    try:
        result = parse(received.last, limits)
    except Refusal:
        return
    for number, observation in enumerate(observations):
        attested = observation.attest(call.args, result)
        if attested is not None:
            outcome, subject = attested
            yield Attestation(
                by=GATEWAY,
                id=f"obs_{request_id.removeprefix('req_')}_{number}",
                step=observation.step,
                outcome=outcome,
                subject=subject,
                agent=principal.subject,
                run=run.id,
                at=round(at * _MICRO),
                source="observed",
                owner=(run.iss, run.subject),
                request_id=request_id,
            )


def _is_json(headers: Iterable[tuple[str, str]]) -> bool:
    """Whether the answer says that it is JSON (RFC 8259, RFC 6839 §3.1)."""
    given = next((value for name, value in headers if name == "content-type"), "")
    kind = given.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
