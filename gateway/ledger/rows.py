"""Ledger rows made of a call's trail: one per attempt that may cost, one per refusal of a known agent."""

from __future__ import annotations

import json
from functools import lru_cache

from msgspec import Struct

from gateway.core.row import LedgerRow
from gateway.core.usage import NOTHING, Usage
from gateway.telemetry.trail import Trail


class Bill(Struct, frozen=True):
    """What one attempt (or a refusal, attempt 0) came to; amounts are nano-USD."""

    outcome: str
    status: int
    attempt: int = 0
    provider: str = ""
    model: str = ""
    served_model: str = ""
    usage: Usage = NOTHING
    price_version: str = ""
    cost: int = 0
    list_cost: int = 0
    avoided: int = 0  # what it would have cost today
    avoided_reason: str = ""  # replayed
    upstream_request_id: str = ""
    code: str = ""


def ledger_row(trail: Trail, bill: Bill) -> LedgerRow:
    """The row for `bill`. Whoever is not identified has none: strangers cannot fill the ledger."""
    principal, call, usage = trail.principal, trail.call, bill.usage
    if principal is None:
        raise ValueError("nobody was identified")
    agent = principal.agent
    return LedgerRow(
        time=trail.time,
        request_id=trail.request_id,
        run=trail.run.key.id if trail.run else "",
        step=trail.step,
        attempt=bill.attempt,
        kind=trail.kind,
        agent=agent.id,
        issuer=principal.issuer,
        subject=principal.subject,
        assurance=principal.assurance,
        key_id=principal.key_id,
        chain=" ".join(principal.chain),
        team=agent.team,
        cost_center=agent.cost_center,
        tags=_tags(agent.tags) if agent.tags else "",
        on_behalf_of=principal.on_behalf_of,
        decision_id=trail.decision_id,
        provider=bill.provider,
        model=bill.model or (call.model if call else ""),
        served_model=bill.served_model,
        tool=call.tool if call else "",
        dialect=trail.address.dialect if trail.address else "",
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        audio_tokens=usage.audio_tokens,
        image_tokens=usage.image_tokens,
        price_version=bill.price_version,
        cost_nano_usd=bill.cost,
        list_cost_nano_usd=bill.list_cost,
        avoided_nano_usd=bill.avoided,
        avoided_reason=bill.avoided_reason,
        outcome=bill.outcome,
        estimated=usage.estimated,
        upstream_request_id=bill.upstream_request_id,
        iss=principal.owner[0],
        status=bill.status,
        code=bill.code,
        duration_us=int(trail.elapsed * 1_000_000),
    )


@lru_cache(1024)
def _tags(tags: tuple[tuple[str, str], ...]) -> str:
    """An agent's tags as a JSON object, made once as long as it keeps calling."""
    return json.dumps(dict(tags), sort_keys=True, separators=(",", ":"))
