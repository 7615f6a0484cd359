"""Ledger rows to play with."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec.structs import replace

from gateway.core.row import LedgerRow
from gateway.core.run import RunDelta, RunKey

NOON = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()) * 1_000_000
"""Epoch microseconds."""

PLAIN = LedgerRow(
    time=NOON,
    request_id="req_1",
    agent="procurement",
    issuer="dev",
    subject="spiffe://acme.example/agent/procurement",
    assurance="bearer",
    key_id="k1",
    team="finance",
    cost_center="CC-114",
    tags='{"env":"prod"}',
    decision_id="dec_1",
    provider="demo",
    model="demo-small",
    served_model="demo-small-1",
    dialect="openai",
    input_tokens=1200,
    cached_input_tokens=200,
    output_tokens=300,
    reasoning_tokens=100,
    price_version="2026-11-01",
    cost_nano_usd=1_500_000,
    list_cost_nano_usd=1_500_000,
    upstream_request_id="up_1",
    iss="https://issuer.example",
    status=200,
    duration_us=1200,
)
KEY = RunKey(PLAIN.iss, PLAIN.subject, "r1")


def row(request_id: str, **changes: object) -> LedgerRow:
    """A plain row of a call of its own, with `changes`."""
    return replace(PLAIN, request_id=request_id, **changes)


def delta(step: int = 1, *, tool_calls: int = 0, tokens: int = 1500, cost: int = 1_500_000) -> RunDelta:
    """What one step of run `r1` used up."""
    return RunDelta(KEY, step, step, tool_calls, tokens, cost)
