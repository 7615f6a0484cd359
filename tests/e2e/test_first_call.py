"""The first call, end to end: what somebody sees who points a client at a fresh gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulator.gateway import Gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    with Gateway(folder) as running:
        yield running


def test_an_answer_is_metered_and_on_the_ledger(gateway: Gateway) -> None:
    """A call costs what the price says, in the header, in the ledger and in the metrics."""
    before = len(gateway.rows())
    reply = gateway.chat("what does it cost?")
    assert reply.status == 200
    usage = reply.json()["usage"]
    (row,) = gateway.wait_for_rows(before + 1)[before:]
    assert row["request_id"] == reply.headers["gateway-request-id"]
    assert (row["input_tokens"], row["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert row["cost_nano_usd"] == usage["prompt_tokens"] * 1_000 + usage["completion_tokens"] * 2_000
    assert (row["agent"], row["team"], row["outcome"], row["estimated"]) == ("procurement", "finance", "complete", 0)
    spent = [value for name, value in gateway.metrics().items() if name.startswith("passgate_spend_usd_total")]
    assert round(sum(spent) * 1e9) == sum(one["cost_nano_usd"] for one in gateway.rows())


def test_a_call_in_a_run_is_counted_before_its_answer_is_out(gateway: Gateway) -> None:
    """When the agent has the answer, the run's counters and the ledger have it too."""
    for number in (1, 2, 3):
        reply = gateway.call(
            "POST",
            "/r/job-1/v1/chat/completions",
            {"model": "sim-small", "messages": [{"role": "user", "content": "x"}]},
        )
        assert reply.headers["gateway-step"] == str(number)
        assert len(gateway.rows("run = 'job-1'")) == number
        run = gateway.call("GET", "/gateway/v1/runs/job-1").json()
        assert run["steps"] == number


def test_a_refusal_helps_and_is_on_the_ledger(gateway: Gateway) -> None:
    """No credential, a wrong one and an unknown model each say what to do next."""
    nobody = gateway.call("POST", "/v1/chat/completions", {}, token=None)
    assert (nobody.status, nobody.refusal) == (401, "identity_missing")
    assert "passgate token mint" in nobody.json()["error"]["message"]
    unknown = gateway.chat(model="gpt-nobody")
    assert (unknown.status, unknown.refusal) == (404, "model_unknown")
    (row,) = gateway.wait_for_rows(1, "code = 'model_unknown'")
    assert (row["outcome"], row["attempt"], row["cost_nano_usd"]) == ("refused", 0, 0)
