"""What an agent may read of its own call: `GET /gateway/v1/calls/{request-id}`."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from gateway.core.money import usd_text
from gateway.ledger.period import rfc3339_of

_KEPT_US: Final = 24 * 3600 * 1_000_000

_FIND: Final = """
SELECT time, run, step, attempt, kind, decision_id, provider, model, served_model, tool, dialect, input_tokens,
  cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, audio_tokens, image_tokens, price_version,
  cost_nano_usd, outcome, estimated, upstream_request_id, status, code, duration_us
FROM ledger WHERE request_id = ? AND iss = ? AND subject = ? AND time >= ? ORDER BY attempt
"""
_TOKENS: Final = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_tokens",
    "image_tokens",
)


def find_call(
    conn: sqlite3.Connection, request_id: str, owner: tuple[str, str], now: float
) -> dict[str, object] | None:
    """Cost, tokens, decision and attempts of one of `owner`'s calls of the last 24 hours.

    `None` for a call that is unknown, older or somebody else's: the three cannot be told apart.
    `owner` is the pair (iss, subject), `now` epoch seconds.
    """
    cursor = conn.execute(_FIND, (request_id, *owner, int(now) * 1_000_000 - _KEPT_US))
    names = [column[0] for column in cursor.description]
    rows: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in cursor]
    if not rows:
        return None
    attempts = [row for row in rows if row["attempt"]]
    last = attempts[-1] if attempts else rows[0]
    own = rows[0] if not rows[0]["attempt"] else None  # what the gateway itself said: a refusal, an answer from memory
    end = own or last
    cost = sum(row["cost_nano_usd"] for row in rows)
    answer: dict[str, object] = {
        "request_id": request_id,
        "time": rfc3339_of(min(row["time"] for row in rows)),
        "kind": last["kind"],
        "dialect": last["dialect"],
        "outcome": end["outcome"],
        "status": end["status"],
        "decision_id": end["decision_id"],
        "cost_usd": usd_text(cost),
        "cost_nano_usd": cost,
        "estimated": any(row["estimated"] for row in rows),
        "price_known": all(_priced(row) for row in rows),
        "tokens": {name: sum(row[name] for row in rows) for name in _TOKENS},
        "attempts": [_attempt(row) for row in attempts],
    }
    optional = {
        "refusal": end["code"],
        "run": last["run"],
        "step": last["step"],
        "model": last["model"],
        "tool": last["tool"],
    }
    answer.update({name: value for name, value in optional.items() if value})
    return answer


def _priced(row: dict[str, Any]) -> bool:
    return bool(row["price_version"] or row["kind"] != "llm" or not (row["input_tokens"] or row["output_tokens"]))


def _attempt(row: dict[str, Any]) -> dict[str, object]:
    told = {
        "attempt": row["attempt"],
        "provider": row["provider"],
        "model": row["served_model"] or row["model"],
        "outcome": row["outcome"],
        "status": row["status"],
        "cost_usd": usd_text(row["cost_nano_usd"]),
        "duration_us": row["duration_us"],
        "upstream_request_id": row["upstream_request_id"],
        "refusal": row["code"],
    }
    return {name: value for name, value in told.items() if value != ""}
