"""A model with two targets, and tools, whose upstreams fail in every way that happens."""

from __future__ import annotations

import json

import pytest

from tests.simulator.gateway import Gateway, Reply
from tests.simulator.provider import KEY, ScriptedProvider, completion, failure, streamed
from tests.simulator.upstream import CHUNKED, Do, Script, answer


def said(reply: Reply) -> str:
    """The words of a chat completion."""
    assert reply.status == 200, reply.body
    return str(reply.json()["choices"][0]["message"]["content"])


# -- models: the next target is asked


FAILURES: dict[str, Script] = {
    "408": failure(408, "too slow"),
    "429": failure(429, "slow down", ("retry-after", "9")),
    "500": failure(500, "oh"),
    "503": failure(503, "busy"),
    "529": failure(529, "overloaded"),
    "redirect": failure(302, "over there", ("location", "http://127.0.0.1:1/")),
    "reset": [Do.RESET],
    "closed": [Do.CLOSE],
    "not-http": [b"SSH-2.0-OpenSSH_9.6\r\n\r\n", Do.CLOSE],
    "cut": [completion("half an answer")[0][:-20], Do.CLOSE],
}


@pytest.mark.parametrize("how", FAILURES)
def test_the_next_target_answers_where_the_first_one_fails(
    gateway: Gateway, first: ScriptedProvider, second: ScriptedProvider, how: str
) -> None:
    """The agent gets the second one's answer and is told that it took two attempts; both are on the ledger."""
    model = f"pair-{how}"
    first.says(model, FAILURES[how])
    second.says(model, completion("second"))
    reply = gateway.chat(model=model)
    assert said(reply) == "second"
    assert (reply.headers["gateway-attempts"], reply.headers["gateway-provider"]) == ("2", "second")
    assert (len(first.heard(model)), len(second.heard(model))) == (1, 1)
    failed, done = gateway.wait_for_rows(2, "request_id = ?", reply.headers["gateway-request-id"])
    assert (failed["attempt"], failed["provider"], failed["outcome"]) == (1, "first", "failed")
    assert (done["attempt"], done["provider"], done["outcome"]) == (2, "second", "complete")
    assert done["cost_nano_usd"] == 10 * 1_000 + 5 * 2_000


@pytest.mark.parametrize("how", ["503", "reset"])
def test_a_stream_goes_to_the_next_target_as_well(
    gateway: Gateway, first: ScriptedProvider, second: ScriptedProvider, how: str
) -> None:
    """As long as no byte is out, a stream can be had elsewhere."""
    model = f"pair-stream-{how}"
    first.says(model, FAILURES[how])
    second.says(model, streamed("sec", "ond"))
    reply = gateway.chat(model=model, stream=True)
    assert (reply.status, reply.headers["gateway-attempts"]) == (200, "2")
    assert reply.body.endswith(b"data: [DONE]\n\n")


def test_a_stream_that_breaks_before_its_first_frame_goes_there_too(
    gateway: Gateway, first: ScriptedProvider, second: ScriptedProvider
) -> None:
    """A head alone is not yet a byte of the answer."""
    first.says("pair-headless", [CHUNKED, Do.RESET])
    second.says("pair-headless", streamed("second"))
    reply = gateway.chat(model="pair-headless", stream=True)
    assert (reply.headers["gateway-provider"], reply.headers["gateway-attempts"]) == ("second", "2")


def test_after_the_first_byte_nothing_is_tried_again(
    gateway: Gateway, first: ScriptedProvider, second: ScriptedProvider
) -> None:
    """A stream that broke in the middle ends with an error event; what had come is billed."""
    first.says("pair-middle", [*streamed("half of it", done=False), Do.RESET])
    reply = gateway.chat(model="pair-middle", stream=True)
    *frames, last = reply.body.decode().strip().split("\n\n")
    assert "half of it" in frames[0]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_failed"
    assert "[DONE]" not in reply.body.decode()
    assert second.heard("pair-middle") == []
    (row,) = gateway.wait_for_rows(1, "request_id = ?", reply.headers["gateway-request-id"])
    assert (row["outcome"], row["estimated"], row["cost_nano_usd"] > 0) == ("truncated", 1, True)


def test_an_unreachable_target_costs_nothing(gateway: Gateway, second: ScriptedProvider) -> None:
    """A refused connection is an attempt that was not sent: it is counted, but there is nothing to book."""
    second.says("closed-1", completion("second"))
    reply = gateway.chat(model="closed-1")
    assert (said(reply), reply.headers["gateway-attempts"]) == ("second", "2")
    (row,) = gateway.wait_for_rows(1, "request_id = ?", reply.headers["gateway-request-id"])
    assert (row["attempt"], row["provider"]) == (2, "second")


def test_a_target_that_says_nothing_is_left(
    gateway: Gateway, first: ScriptedProvider, second: ScriptedProvider
) -> None:
    """Beyond `timeouts.first_byte` the next one is asked; the silent one may bill us, so its attempt is booked."""
    first.says("hasty-1", [Do.HANG])
    second.says("hasty-1", completion("second"))
    reply = gateway.chat(model="hasty-1")
    assert (said(reply), reply.headers["gateway-attempts"]) == ("second", "2")
    silent, done = gateway.wait_for_rows(2, "request_id = ?", reply.headers["gateway-request-id"])
    assert (silent["provider"], silent["outcome"], silent["code"]) == ("hasty", "failed", "upstream_timeout")
    assert (silent["estimated"], silent["cost_nano_usd"] > 0) == (1, True)
    assert (done["provider"], done["outcome"]) == ("second", "complete")


# -- models: where the next one is not asked, or cannot help


@pytest.mark.parametrize("status", [400, 404, 409, 413, 415, 420, 422])
def test_an_error_about_the_request_passes_as_it_came(
    gateway: Gateway, first: ScriptedProvider, second: ScriptedProvider, status: int
) -> None:
    """The provider's own words reach the agent byte for byte; elsewhere the request would be no better."""
    model = f"pair-passes-{status}"
    body = b'{ "error" : {"message":"no\\u002c thanks", "code":null,\r\n "type": "odd"} }'
    first.says(model, [answer(body, ("Content-Type", "application/json; charset=utf-8"), status=f"{status} No")])
    reply = gateway.chat(model=model)
    assert (reply.status, reply.body, reply.refusal) == (status, body, "")
    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    assert reply.headers["gateway-attempts"] == "1"
    assert second.heard(model) == []


def test_our_own_credential_is_our_own_trouble(
    gateway: Gateway, first: ScriptedProvider, second: ScriptedProvider
) -> None:
    """S05: where every provider refuses the gateway's key the agent gets 502, and the key gets nowhere."""
    first.says("pair-locked", failure(401, f"Incorrect API key provided: {KEY}"))
    second.says("pair-locked", failure(403, "your account is closed"))
    reply = gateway.chat(model="pair-locked")
    assert (reply.status, reply.refusal, reply.headers["x-should-retry"]) == (502, "upstream_credential", "false")
    assert "www-authenticate" not in reply.headers
    assert KEY.encode() not in reply.body
    assert KEY not in str(reply.headers)
    alerts = [line for line in gateway.log() if line["event"] == "upstream_alert"]
    assert any("Incorrect API key provided: [credential]" in line["detail"] for line in alerts)
    assert any("your account is closed" in line["detail"] for line in alerts)
    assert KEY not in (gateway.folder / "log.ndjson").read_text()
    assert first.heard("pair-locked")[0].header("authorization") == f"Bearer {KEY}"
    assert KEY.encode() not in second.seen()


def test_another_target_helps_where_one_refuses_our_key(
    gateway: Gateway, first: ScriptedProvider, second: ScriptedProvider
) -> None:
    """The agent gets its answer; the operator gets an alert."""
    first.says("pair-unlocked", failure(401, "Incorrect API key provided"))
    second.says("pair-unlocked", completion("second"))
    assert said(gateway.chat(model="pair-unlocked")) == "second"


def test_an_answer_with_our_key_in_it_is_withheld(gateway: Gateway, first: ScriptedProvider) -> None:
    """What would pass as it came does not where it quotes the credential."""
    first.says("scripted-echo", failure(400, f"you sent {KEY}"))
    reply = gateway.chat(model="scripted-echo")
    assert (reply.status, reply.refusal) == (502, "upstream_failed")
    assert KEY.encode() not in reply.body


def test_the_last_failure_keeps_its_status(gateway: Gateway, first: ScriptedProvider, second: ScriptedProvider) -> None:
    """When none can help the agent gets what the last one said, with its retry-after and the upstream's name."""
    first.says("pair-none", failure(500, "oh"))
    second.says("pair-none", failure(529, "full", ("retry-after", "7"), ("x-should-retry", "true")))
    reply = gateway.chat(model="pair-none")
    assert (reply.status, reply.refusal, reply.headers["retry-after"]) == (529, "upstream_unavailable", "7")
    assert reply.headers["gateway-attempts"] == "2"
    assert "x-should-retry" not in reply.headers
    assert "second" in reply.json()["error"]["message"]
    rows = gateway.wait_for_rows(2, "request_id = ?", reply.headers["gateway-request-id"])
    assert [(row["attempt"], row["outcome"], row["cost_nano_usd"]) for row in rows] == [
        (1, "failed", 0),
        (2, "failed", 0),
    ]


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [("nobody-1", 503, "upstream_unavailable"), ("crowded-1", 504, "upstream_timeout")],
)
def test_a_provider_that_cannot_be_connected_costs_nothing(
    gateway: Gateway, model: str, status: int, code: str
) -> None:
    """Infrastructure trouble says so, with a hint when to come back; the refusal is on the ledger, and nobody pays."""
    reply = gateway.chat(model=model)
    assert (reply.status, reply.refusal) == (status, code)
    assert 1 <= int(reply.headers["retry-after"]) <= 30
    assert "nothing was sent" in reply.json()["error"]["message"]
    (row,) = gateway.wait_for_rows(1, "request_id = ?", reply.headers["gateway-request-id"])
    assert (row["outcome"], row["code"], row["cost_nano_usd"]) == ("refused", code, 0)


@pytest.mark.parametrize(("model", "helped"), [("hasty-2", True), ("vain-1", False)])
def test_a_run_is_told_of_every_attempt_that_may_cost(
    gateway: Gateway, first: ScriptedProvider, second: ScriptedProvider, model: str, *, helped: bool
) -> None:
    """The run has spent what its rows say: the answer, and the silent attempt before it; also when that was all."""
    first.says(model, [Do.HANG])
    second.says(model, completion("second"))
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    reply = gateway.call("POST", f"/r/run-{model}/v1/chat/completions", body)
    assert reply.status == (200 if helped else 503)
    rows = gateway.wait_for_rows(2, "request_id = ?", reply.headers["gateway-request-id"])
    assert [row["outcome"] for row in rows] == ["failed", "complete" if helped else "refused"]
    run = gateway.call("GET", f"/gateway/v1/runs/run-{model}").json()
    assert run["steps"] == 1
    assert run["cost_nano_usd"] == sum(row["cost_nano_usd"] for row in rows) > 0


# -- tools: an effect is sent once


@pytest.mark.parametrize(
    ("how", "script", "status", "code"),
    [
        ("silent", [Do.HANG], 504, "upstream_timeout"),
        ("reset", [Do.RESET], 502, "upstream_failed"),
        ("cut", [answer(b'{"paid": true}')[:-4], Do.CLOSE], 502, "upstream_failed"),
        ("busy", failure(503, "busy", ("retry-after", "2")), 503, "upstream_unavailable"),
    ],
)
def test_an_effect_that_may_have_happened_is_never_repeated(
    gateway: Gateway, first: ScriptedProvider, how: str, script: Script, status: int, code: str
) -> None:
    """X02: a payment without an answer was sent once, and nothing in the refusal says to send it again."""
    path = f"/bank/pay/{how}"
    first.says(path, script)
    reply = gateway.call("POST", f"/tools{path}", {"amount": 5})
    assert (reply.status, reply.refusal) == (status, code)
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["x-should-retry"] == "false"
    assert "retry-after" not in reply.headers
    assert "look before you repeat it" in reply.json()["detail"]
    assert len(first.heard(path)) == 1
    (row,) = gateway.wait_for_rows(1, "request_id = ?", reply.headers["gateway-request-id"])
    assert (row["tool"], row["outcome"], row["code"]) == ("bank.pay", "failed", code)


def test_a_read_may_be_asked_again(gateway: Gateway, first: ScriptedProvider) -> None:
    """What is `repeat: safe` gets a retry-after instead."""
    first.says("/bank/look/1", [Do.HANG])
    reply = gateway.call("GET", "/tools/bank/look/1")
    assert (reply.status, reply.refusal) == (504, "upstream_timeout")
    assert "x-should-retry" not in reply.headers
    assert int(reply.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("tool", "status", "code"), [("shut", 503, "upstream_unavailable"), ("crowded", 504, "upstream_timeout")]
)
def test_an_effect_that_was_not_sent_may_be_repeated(gateway: Gateway, tool: str, status: int, code: str) -> None:
    """Where no connection could be had the refusal says that nothing was sent."""
    reply = gateway.call("POST", f"/tools/{tool}/pay", {"amount": 5})
    assert (reply.status, reply.refusal) == (status, code)
    assert "nothing was sent" in reply.json()["detail"]
    assert "x-should-retry" not in reply.headers
    assert int(reply.headers["retry-after"]) >= 1
