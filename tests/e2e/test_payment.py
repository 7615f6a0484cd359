"""The story of a payment: an agent on the OpenAI SDK, the demo's tools, and the rules that stand between them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.simulator.ageing import age
from tests.simulator.gateway import Gateway
from tests.simulator.guard import CONFIG, OPERATOR, PAYMENTS

A1 = {"order_id": "A1", "amount": 1250, "currency": "EUR"}
LARGE = {"order_id": "L1", "amount": 900_000, "currency": "EUR"}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    environment = {"PASSGATE_ADMIN_TOKEN": OPERATOR}
    with Gateway(tmp_path, CONFIG, {"payments.yaml": PAYMENTS}, environment) as running:
        yield running


class Buyer:
    """An agent in one run: it knows a base URL and a key, and nothing else of the gateway."""

    def __init__(self, gateway: Gateway, run: str) -> None:
        self._base = f"{gateway.url}/r/{run}"
        self._client = openai.OpenAI(base_url=f"{self._base}/v1", api_key=gateway.token())

    def think(self) -> str | None:
        """Ask the model."""
        asked = self._client.chat.completions.create(
            model="sim-small", messages=[{"role": "user", "content": "Which order is next?"}]
        )
        return asked.choices[0].message.content

    def act(self, tool: str, args: dict[str, Any]) -> dict[str, Any]:
        """Call a tool, with the SDK's own retries and exceptions."""
        done: Any = self._client.post(f"{self._base}/tools/{tool}", body=args, cast_to=object)
        return dict(done)

    def refused(self, tool: str, args: dict[str, Any]) -> dict[str, Any]:
        """Call a tool that says no, once and for all; gives what the SDK has of the refusal."""
        with pytest.raises(openai.PermissionDeniedError) as caught:
            self.act(tool, args)
        assert caught.value.response.headers["x-should-retry"] == "false"
        return dict(json.loads(caught.value.response.text))


def charges(gateway: Gateway) -> list[str]:
    """The orders that the payment tool has charged, by its own record."""
    lines = (gateway.folder / "var" / "demo" / "effects.ndjson").read_text().splitlines()
    return [line["arguments"]["order_id"] for line in map(json.loads, lines) if line["tool"] == "payments.charge"]


def test_a_payment_rests_on_the_check_of_this_order_and_happens_once(gateway: Gateway) -> None:
    """Refused and told why, until the fraud check of this very order passed; then once, in this run and every other."""
    buyer = Buyer(gateway, "buy-1")
    assert buyer.think()
    told = buyer.refused("payments/charge", A1)
    assert (told["code"], told["gateway"]["step"], told["gateway"]["reason"]) == (
        "attestation_required",
        "fraud-check",
        "none",
    )
    assert told["gateway"]["subject"] == A1
    assert "Run fraud.check for this order first" in told["detail"]

    buyer.act("fraud/check", {**A1, "order_id": "A2"})
    assert buyer.refused("payments/charge", A1)["gateway"]["reason"] == "subject_mismatch"
    assert buyer.act("fraud/check", A1)["verdict"] == "pass"
    assert buyer.refused("payments/charge", {**A1, "amount": 1251})["gateway"]["reason"] == "subject_mismatch"
    assert buyer.act("payments/charge", A1)["status"] == "charged"

    assert buyer.refused("payments/charge", A1)["gateway"]["reason"] == "consumed"
    buyer.act("fraud/check", A1)
    assert buyer.refused("payments/charge", A1)["gateway"]["reason"] == "consumed"
    again = Buyer(gateway, "buy-2")
    again.act("fraud/check", A1)
    assert again.refused("payments/charge", A1)["gateway"]["reason"] == "consumed"
    assert charges(gateway) == ["A1"]


def test_a_large_payment_waits_for_a_person_and_goes_through_once(gateway: Gateway) -> None:
    """Held; twenty minutes and a restart later approved on the command line; carried out once, then told again."""
    buyer = Buyer(gateway, "buy-3")
    buyer.act("fraud/check", LARGE)
    held = buyer.refused("payments/charge", LARGE)
    assert held["code"] == "approval_required"
    approval = held["gateway"]["approval"]["id"]
    assert buyer.refused("payments/charge", LARGE)["gateway"]["approval"]["id"] == approval
    assert charges(gateway) == []

    gateway.stop()
    age(gateway.folder, minutes=20)  # the check is older than its fifteen minutes by now
    gateway.start()
    buyer = Buyer(gateway, "buy-3")
    assert approval in gateway.command("approvals", "list", "--admin", gateway.admin_url).stdout
    gateway.command("approvals", "approve", approval, "--reason", "known supplier", "--admin", gateway.admin_url)
    first = buyer.act("payments/charge", LARGE)
    assert first["status"] == "charged"
    assert buyer.act("payments/charge", LARGE) == first
    assert charges(gateway) == ["L1"]
    other = Buyer(gateway, "buy-4")
    other.act("fraud/check", LARGE)
    assert other.refused("payments/charge", LARGE)["gateway"]["reason"] == "consumed"
    gateway.command("audit", "verify", "--config", "config.yaml")
