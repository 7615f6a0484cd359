"""`GET /gateway/v1/calls/{request-id}`: an agent's own call, for a day."""

from __future__ import annotations

from contextlib import closing

from gateway.core.row import LedgerRow
from gateway.ledger import Batch, Poster, Posting, find_call
from gateway.state import Store, read_only
from tests.simulator.rows import NOON, PLAIN, row

OWNER = (PLAIN.iss, PLAIN.subject)
NOW = NOON / 1_000_000 + 60


async def told(
    store: Store, rows: list[LedgerRow], *, request_id: str = "a", owner: tuple[str, str] = OWNER
) -> dict[str, object] | None:
    await Poster(store).post(Batch(tuple(Posting((each,)) for each in rows)))
    with closing(read_only(store.path)) as conn:
        return find_call(conn, request_id, owner, NOW)


async def test_a_call_with_two_attempts(store: Store) -> None:
    """Cost and tokens are sums, each attempt is named with where it went and how it ended."""
    nothing = {
        "cost_nano_usd": 0,
        "input_tokens": 0,
        "output_tokens": 0,
        "cached_input_tokens": 0,
        "reasoning_tokens": 0,
    }
    failed = {"outcome": "failed", "status": 503, "code": "upstream_unavailable", **nothing}
    rows = [
        row("a", provider="one", served_model="", upstream_request_id="", **failed),
        row("a", provider="two", attempt=2, run="r1", step=3),
    ]
    assert await told(store, rows) == {
        "request_id": "a",
        "time": "2026-11-20T12:00:00.000000Z",
        "kind": "llm",
        "dialect": "openai",
        "outcome": "complete",
        "status": 200,
        "decision_id": "dec_1",
        "cost_usd": "0.0015",
        "cost_nano_usd": 1_500_000,
        "estimated": False,
        "price_known": True,
        "tokens": {
            "input_tokens": 1200,
            "cached_input_tokens": 200,
            "cache_write_tokens": 0,
            "output_tokens": 300,
            "reasoning_tokens": 100,
            "audio_tokens": 0,
            "image_tokens": 0,
        },
        "attempts": [
            {"attempt": 1, "provider": "one", "model": "demo-small", "outcome": "failed", "status": 503,
             "cost_usd": "0", "duration_us": 1200, "refusal": "upstream_unavailable"},
            {"attempt": 2, "provider": "two", "model": "demo-small-1", "outcome": "complete", "status": 200,
             "cost_usd": "0.0015", "duration_us": 1200, "upstream_request_id": "up_1"},
        ],
        "run": "r1",
        "step": 3,
        "model": "demo-small",
    }  # fmt: skip


async def test_a_refused_call_names_its_code(store: Store) -> None:
    """A refusal is a call too: no attempts, the code, no cost."""
    refusal = row(
        "a",
        attempt=0,
        outcome="refused",
        status=403,
        code="policy_denied",
        cost_nano_usd=0,
        input_tokens=0,
        output_tokens=0,
    )
    found = await told(store, [refusal])
    assert found is not None
    assert (found["outcome"], found["status"], found["refusal"]) == ("refused", 403, "policy_denied")
    assert (found["attempts"], found["cost_usd"]) == ([], "0")


async def test_an_unknown_price_is_said(store: Store) -> None:
    """A cost of 0 because no price is known is told apart from a cost of 0."""
    found = await told(store, [row("a", price_version="", cost_nano_usd=0)])
    assert found is not None
    assert found["price_known"] is False


async def test_unknown_somebody_elses_and_old_look_alike(store: Store) -> None:
    """S08: another owner's call, one that never was and one older than a day are the same `None`."""
    rows = [row("a"), row("old", time=NOON - 24 * 3600 * 1_000_000)]
    assert await told(store, rows, owner=(PLAIN.iss, "someone else")) is None
    assert await told(store, [], owner=("https://other.example", PLAIN.subject)) is None
    assert await told(store, [], request_id="never") is None
    assert await told(store, [], request_id="old") is None
    assert await told(store, [], request_id="' OR 1=1 --") is None
    assert await told(store, []) is not None
