"""The tool `payments` as a configuration would describe it, for these tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multidict import CIMultiDict

from gateway.core.call import Call, Head
from gateway.core.sources import KeptSources
from gateway.dialects.json_body import JsonLimits
from gateway.outbound.settings import TimeoutSettings
from gateway.settings.types import Secret
from gateway.tools import Match, Tools, tool_read
from gateway.tools.settings import AuthSettings, OperationSettings, ToolSettings

SECRET = "tool-secret-canary-0001"
CHARGE_SCHEMA: Mapping[str, object] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "order_id": {"type": "string", "pattern": "^[A-Z]+[0-9]+$"},
        "amount": {"type": "integer", "minimum": 1},
        "currency": {"enum": ["EUR", "USD"]},
    },
    "required": ["order_id", "amount", "currency"],
    "additionalProperties": False,
}

_SCHEMA_FILE = Path("charge.json")
_STANDARD = {
    "charge": OperationSettings(method="POST", path="/charge", arguments=_SCHEMA_FILE, cost=10_000_000),
    "refund": OperationSettings(method="POST", path="/orders/{order_id}/refund", query=("notify",), repeat="with_key"),
    "order": OperationSettings(method="GET", path="/orders/{order_id}", repeat="safe"),
    "open": OperationSettings(method="GET", path="/orders/open", repeat="safe"),
}


def build(operations: Mapping[str, OperationSettings] | None = None, **settings: Any) -> Tools:  # noqa: ANN401 -- any setting
    """Build the tool, with other operations or settings where a test names them."""
    standard: dict[str, Any] = {
        "kind": "http",
        "base_url": "https://payments.example/v2",
        "auth": AuthSettings(value=Secret(f"Bearer {SECRET}")),
        "operations": operations or _STANDARD,
    }
    sources = KeptSources({str(_SCHEMA_FILE): json.dumps(CHARGE_SCHEMA).encode()}, {}, {})
    return Tools.build({"payments": ToolSettings(**standard | settings)}, sources, timeouts=TimeoutSettings())


tools = build()


def head(
    method: str = "POST", query: str = "", headers: Mapping[str, str] | None = None, *pairs: tuple[str, str]
) -> Head:
    """The head of a request to a tool; JSON by default."""
    given: Any = CIMultiDict(
        {"Content-Type": "application/json"} if headers is None else headers
    )  # overloads what `Headers` says in one line
    given.extend(pairs)
    return Head(method, "/tools/payments", query, given, "127.0.0.1")


def read(match: Match, body: bytes = b"", **head_parts: Any) -> Call:  # noqa: ANN401 -- any part of `head`
    """Read a request to a match, with the standard limits."""
    return tool_read(match, head(**head_parts), body, JsonLimits())
