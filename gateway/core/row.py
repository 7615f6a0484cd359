"""A ledger row: the names that every export carries."""

from __future__ import annotations

from typing import Final

import msgspec


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One attempt that may cost, one refusal of an identified agent, or one avoidance.

    A row travels without the columns that hold their default, so a default is never changed.
    `time` is epoch microseconds. `input_tokens` includes the cached ones, `output_tokens` the
    reasoning ones. Unknown text is empty, never null, so that groups add up.
    """

    time: int
    request_id: str
    run: str = ""
    step: int = 0
    attempt: int = 1
    kind: str = "llm"  # llm | tool | own
    agent: str = ""
    issuer: str = ""
    subject: str = ""
    assurance: str = ""
    key_id: str = ""
    chain: str = ""  # space-separated, outermost first
    team: str = ""
    cost_center: str = ""
    tags: str = ""  # JSON object
    on_behalf_of: str = ""
    decision_id: str = ""
    provider: str = ""
    model: str = ""
    served_model: str = ""
    tool: str = ""
    dialect: str = ""
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    audio_tokens: int = 0
    image_tokens: int = 0
    price_version: str = ""  # empty: no price is known, cost is 0 and says so
    cost_nano_usd: int = 0
    list_cost_nano_usd: int = 0
    avoided_nano_usd: int = 0
    avoided_reason: str = ""
    held_nano_usd: int = 0
    outcome: str = "complete"  # complete | cancelled | truncated | failed | refused | cached | replayed | lost
    estimated: bool = False
    upstream_request_id: str = ""
    # Not exported: what `/gateway/v1/calls/{id}` and `show` tell beside the money.
    iss: str = ""  # the owner's: with `subject` it is the pair that runs and calls belong to
    status: int = 0
    code: str = ""  # the refusal's code
    duration_us: int = 0


COLUMNS: Final = LedgerRow.__struct_fields__
EXPORTED: Final = COLUMNS[: COLUMNS.index("iss")]
"""The columns of every export, in their order."""
