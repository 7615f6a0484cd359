"""Which answers of a tool the gateway attests anything of."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.errors import Refusal
from gateway.core.run import RunKey
from gateway.dialects.json_body import JsonLimits
from gateway.observing import observed
from gateway.relay import Received
from tests.policy.scene import CALLER, NOW, ORDER, call, read

OBSERVE = """version: 1
policy: p
rules:
  - {id: r, effect: deny, match: {}}
observe:
  - {step: check, tool: fraud.check, outcome: '"passed"', subject: {order_id: args.order_id}}
"""


def attested(**changes: Any) -> list[str]:  # noqa: ANN401 -- members of an answer
    """The steps that are attested of a good answer with something else in it."""
    body = json.dumps({"verdict": "pass"}).encode()
    good: dict[str, Any] = {"status": 200, "headers": [("content-type", "application/json")], "last": body}
    answer = Received(upstream_request_id="", **(good | changes))
    found = observed(
        read(OBSERVE).observations("fraud.check"),
        call(ORDER, tool="fraud.check"),
        answer,
        principal=CALLER,
        run=RunKey(*CALLER.owner, "r1"),
        request_id="req_1",
        limits=JsonLimits(),
        at=NOW,
    )
    return [one.step for one in found]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"status": 201},
        {"headers": [("content-type", "Application/JSON; charset=utf-8")]},
        {"headers": [("content-type", "application/vnd.bank+json")]},
    ],
)
def test_a_whole_answer_in_json_is_attested(changes: dict[str, Any]) -> None:
    """What a tool has said in full, and as JSON, is what the gateway saw."""
    assert attested(**changes) == ["check"]


@pytest.mark.parametrize(
    "changes",
    [
        {"status": 206},
        {"status": 500, "billed": False},
        {"outcome": "truncated"},
        {"outcome": "cancelled"},
        {"streamed": True},
        {"gone": True},
        {"broken": Refusal("upstream_truncated", "cut off")},
        {"headers": []},
        {"headers": [("content-type", "text/plain")]},
        {"last": b'{"verdict": "pass"'},
        {"last": b'{"verdict": "fail", "verdict": "pass"}'},
        {"last": b""},
    ],
)
def test_anything_less_attests_nothing(changes: dict[str, Any]) -> None:
    """A part of an answer, another form, an error or an answer that nobody waited for says nothing of the step."""
    assert attested(**changes) == []
