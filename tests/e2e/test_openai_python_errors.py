"""The official OpenAI SDK for Python when something goes wrong: its error classes, its retries, its timeout."""

from __future__ import annotations

import openai
import pytest
from openai import OpenAI, omit
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from tests.simulator.gateway import Gateway
from tests.simulator.issuer import Issuer
from tests.simulator.provider import KEY, ScriptedProvider, completion, failure, streamed
from tests.simulator.upstream import LAST_CHUNK

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What does a harbour pilot do?"}]


# -- errors


def refused(caught: pytest.ExceptionInfo[openai.APIStatusError], code: str) -> openai.APIStatusError:
    """Check that an exception is the gateway's own refusal; gives it."""
    error = caught.value
    assert error.code == code
    assert isinstance(error.body, dict)
    assert error.body["message"].startswith(f"{code}: ")
    assert f"{code}: " in error.message
    assert error.response.headers["gateway-refusal"] == code
    assert error.request_id == error.response.headers["gateway-request-id"]
    return error


@pytest.mark.parametrize("key", ["not-a-token", "forged"])
def test_a_forged_identity_is_an_authentication_error(gateway: Gateway, key: str) -> None:
    """401: a string that is no token, and a token that somebody else signed."""
    given = Issuer().token() if key == "forged" else key
    with (
        OpenAI(base_url=f"{gateway.url}/v1", api_key=given) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.chat.completions.create(model="sim-small", messages=QUESTION)
    refused(caught, "identity_invalid")
    assert given not in str(caught.value)


def test_no_identity_is_an_authentication_error(client: OpenAI) -> None:
    """401: the credential left out."""
    with pytest.raises(openai.AuthenticationError) as caught:
        client.chat.completions.create(model="sim-small", messages=QUESTION, extra_headers={"Authorization": omit})
    refused(caught, "identity_missing")


def test_a_policy_is_a_permission_error(client: OpenAI) -> None:
    """403, with the rule's own message."""
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client.chat.completions.create(model="forbidden", messages=QUESTION)
    assert "Ask sim-small instead." in refused(caught, "policy_denied").message


def test_an_unknown_model_is_a_not_found_error(client: OpenAI) -> None:
    """404, with the address that lists the others."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-nobody", messages=QUESTION)
    assert "GET /v1/models" in refused(caught, "model_unknown").message


def test_a_body_that_is_no_request_is_a_bad_request_error(client: OpenAI) -> None:
    """400: the gateway reads what it decides on."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="sim-small", messages=QUESTION, extra_body={"model": 7})
    refused(caught, "request_malformed")


PASSED = [
    (400, openai.BadRequestError),
    (404, openai.NotFoundError),
    (409, openai.ConflictError),
    (413, openai.APIStatusError),
    (422, openai.UnprocessableEntityError),
]


@pytest.mark.parametrize(("status", "kind"), PASSED)
def test_what_the_provider_refuses_is_the_providers_own_error(
    client: OpenAI, first: ScriptedProvider, status: int, kind: type[openai.APIStatusError]
) -> None:
    """A 4xx about the request passes as it came, without a word of the gateway in its body."""
    name = f"scripted-passes-{status}"
    first.says(name, failure(status, "the provider says no", ("x-request-id", "up-1"), code="their_code"))
    with pytest.raises(kind) as caught:
        client.with_options(max_retries=0).chat.completions.create(model=name, messages=QUESTION)
    error = caught.value
    assert (error.status_code, error.code, error.request_id) == (status, "their_code", "up-1")
    assert error.body == {"message": "the provider says no", "type": "some_error", "param": None, "code": "their_code"}
    assert "gateway-refusal" not in error.response.headers


KEPT: list[tuple[int, type[openai.APIStatusError], str]] = [
    (429, openai.RateLimitError, "upstream_unavailable"),
    (500, openai.InternalServerError, "upstream_failed"),
    (502, openai.InternalServerError, "upstream_failed"),
    (503, openai.InternalServerError, "upstream_unavailable"),
    (504, openai.InternalServerError, "upstream_timeout"),
]


@pytest.mark.parametrize(("status", "kind", "code"), KEPT)
def test_what_ails_the_provider_keeps_its_status(
    client: OpenAI, first: ScriptedProvider, status: int, kind: type[openai.APIStatusError], code: str
) -> None:
    """A 429 or 5xx of the last target keeps status and retry-after, and names the upstream as the cause."""
    name = f"scripted-ails-{status}"
    first.says(name, failure(status, "internal words", ("retry-after", "17")))
    with pytest.raises(kind) as caught:
        client.with_options(max_retries=0).chat.completions.create(model=name, messages=QUESTION)
    error = refused(caught, code)
    assert (error.status_code, error.response.headers["retry-after"]) == (status, "17")
    assert "internal words" not in error.response.text


def test_a_broken_stream_is_an_api_error(client: OpenAI) -> None:
    """A stream without its terminal frame raises; no finish reason is made up."""
    seen: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIError) as caught:
        seen.extend(client.chat.completions.create(model="sim-cut-3", messages=QUESTION, stream=True))
    assert (type(caught.value), caught.value.code) == (openai.APIError, "upstream_failed")
    assert caught.value.message.startswith("upstream_failed: ")


def test_a_stream_that_just_ends_is_an_api_error_too(client: OpenAI, first: ScriptedProvider) -> None:
    """The body ends in order, but the terminal frame is not in it: what came is passed, then the error."""
    first.says("scripted-short", [*streamed("half an ", "answer", done=False), LAST_CHUNK])
    seen: list[ChatCompletionChunk] = []
    stream = client.chat.completions.create(model="scripted-short", messages=QUESTION, stream=True)
    with pytest.raises(openai.APIError) as caught:
        seen.extend(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in seen) == "half an answer"
    assert all(choice.finish_reason is None for chunk in seen for choice in chunk.choices)
    assert caught.value.code == "upstream_truncated"
    assert caught.value.message.startswith("upstream_truncated: ")


# -- retries and timeouts


def test_the_sdk_retries_a_busy_provider_until_it_answers(
    client: OpenAI, gateway: Gateway, first: ScriptedProvider
) -> None:
    """503 and 429 are retried by the SDK as it documents; each attempt that was made is on the ledger."""
    busy, limited = failure(503, "busy", ("retry-after-ms", "10")), failure(429, "slow down")
    first.says("scripted-recovers", busy, limited, completion("at last"))
    raw = client.chat.completions.with_raw_response.create(model="scripted-recovers", messages=QUESTION)
    assert (raw.parse().choices[0].message.content, raw.retries_taken) == ("at last", 2)
    assert len(first.heard("scripted-recovers")) == 3
    rows = gateway.wait_for_rows(3, "model = 'scripted-recovers'")
    assert [(row["outcome"], row["cost_nano_usd"]) for row in rows] == [("failed", 0)] * 2 + [("complete", 20_000)]


def test_the_sdk_gives_up_after_its_retries(client: OpenAI, first: ScriptedProvider) -> None:
    """`max_retries=1` asks twice, and then raises what the provider said last."""
    first.says("scripted-limited", failure(429, "slow down"))
    with pytest.raises(openai.RateLimitError):
        client.with_options(max_retries=1).chat.completions.create(model="scripted-limited", messages=QUESTION)
    assert len(first.heard("scripted-limited")) == 2


def test_the_sdk_does_not_retry_what_cannot_help(client: OpenAI, gateway: Gateway, first: ScriptedProvider) -> None:
    """A 502 would be retried, but for `x-should-retry: false`: the gateway's own key was refused, and stays here."""
    first.says("scripted-locked", failure(401, f"Incorrect API key provided: {KEY}"))
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="scripted-locked", messages=QUESTION)
    error = refused(caught, "upstream_credential")
    assert (error.status_code, error.response.headers["x-should-retry"]) == (502, "false")
    (heard,) = first.heard("scripted-locked")
    assert heard.header("authorization") == f"Bearer {KEY}"
    assert KEY not in f"{error.response.headers} {error.response.text}"
    assert KEY not in (gateway.folder / "log.ndjson").read_text()


def test_a_refusal_is_asked_for_once(client: OpenAI, gateway: Gateway) -> None:
    """What policy denies is not asked again by a client with retries left."""
    gateway.call("GET", "/gateway/v1/calls/req_none")  # what other tests left is on the ledger once this is answered
    before = len(gateway.rows("code = 'policy_denied'"))
    for _ in range(2):
        with pytest.raises(openai.PermissionDeniedError):
            client.chat.completions.create(model="forbidden", messages=QUESTION)
    gateway.wait_for_rows(before + 2, "code = 'policy_denied'")


def test_a_long_retry_after_reaches_the_sdk(client: OpenAI, first: ScriptedProvider) -> None:
    """The provider's own `retry-after` is kept: the SDK does not wait an hour, and so does not ask again."""
    first.says("scripted-tomorrow", failure(503, "maintenance", ("retry-after", "3600")))
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="scripted-tomorrow", messages=QUESTION)
    assert caught.value.response.headers["retry-after"] == "3600"
    assert len(first.heard("scripted-tomorrow")) == 1


def test_an_upstream_cannot_order_retries(client: OpenAI, first: ScriptedProvider) -> None:
    """`x-should-retry` of the provider stays here: with it any 400 would be sent three times."""
    first.says("scripted-pushy", failure(400, "no", ("x-should-retry", "true")))
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="scripted-pushy", messages=QUESTION)
    assert len(first.heard("scripted-pushy")) == 1


def test_a_client_that_times_out_has_still_spent(client: OpenAI, gateway: Gateway) -> None:
    """The SDK's own timeout raises; the answer that the provider gave is billed all the same."""
    with pytest.raises(openai.APITimeoutError):
        client.with_options(max_retries=0, timeout=0.2).chat.completions.create(
            model="sim-latency-1500", messages=QUESTION
        )
    (row,) = gateway.wait_for_rows(1, "model = 'sim-latency-1500'")
    assert (row["estimated"], row["output_tokens"] > 0, row["cost_nano_usd"] > 0) == (0, True, True)
