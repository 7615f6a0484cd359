"""A refusal reaches each SDK as the exception that it has for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest

from gateway.core.errors import CODES, Refusal, Repeat
from gateway.dialects.refusals import render, stream_error

DIALECTS = ("openai", "anthropic", "gemini", "http", "own", "mcp", "well_known")


@contextmanager
def serving(status: int, headers: list[tuple[str, str]], body: bytes) -> Iterator[tuple[openai.OpenAI, list[str]]]:
    """A server on loopback that always answers so, an SDK client of it, and the paths it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            asked.append(self.path)
            self.send_response(status)
            for name, value in [*headers, ("content-length", str(len(body)))]:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/v1"
            with openai.OpenAI(base_url=url, api_key="token", max_retries=2) as client:
                yield client, asked
        finally:
            server.shutdown()
            thread.join()


def ask(client: openai.OpenAI) -> None:
    client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_says_the_same_in_every_dialect(code: str, dialect: str) -> None:
    """Status, code header, ids and a sentence that starts with the code, in every dialect."""
    refusal = Refusal(code, "what is wrong; what to do", fields={"limit": 3}, retry_after=7)
    status, headers, body = render(refusal, dialect, "req_1")
    named = dict(headers)
    assert status == CODES[code].status
    assert named["gateway-refusal"] == code
    assert named["x-request-id"] == named["request-id"] == "req_1"
    assert named.get("x-should-retry") == ("false" if refusal.repeat is Repeat.USELESS else None)
    assert named.get("retry-after") == ("7" if refusal.repeat is Repeat.LATER else None)
    assert "www-authenticate" not in named  # challenges are `identity.challenges`, for all dialects alike
    answer = json.loads(body)
    error = answer.get("error", answer)
    message = error.get("message", error.get("detail"))
    assert message == f"{code}: what is wrong; what to do"


def test_the_openai_shape() -> None:
    """OpenAI: message, type, param from the pointer, code and the gateway's own facts."""
    refusal = Refusal("request_malformed", "the member model is missing", fields={"pointer": "/model"})
    _, headers, body = render(refusal, "openai", "req_1")
    assert ("content-type", "application/json") in headers
    assert json.loads(body) == {
        "error": {
            "message": "request_malformed: the member model is missing",
            "type": "invalid_request_error",
            "param": "model",
            "code": "request_malformed",
            "gateway": {"pointer": "/model", "code": "request_malformed", "request_id": "req_1"},
        }
    }


def test_the_anthropic_shape() -> None:
    """Anthropic: an error within an error, with the request id beside it."""
    _, _, body = render(Refusal("policy_denied", "no rule allows it"), "anthropic", "req_1")
    assert json.loads(body) == {
        "type": "error",
        "error": {
            "type": "permission_error",
            "message": "policy_denied: no rule allows it",
            "gateway": {"code": "policy_denied", "request_id": "req_1"},
        },
        "request_id": "req_1",
    }


def test_the_gemini_shape() -> None:
    """Gemini: a google.rpc.Status whose ErrorInfo has strings alone."""
    _, _, body = render(Refusal("rate_limited", "too many", fields={"limit": 3, "of": ["a"]}), "gemini", "req_1")
    assert json.loads(body) == {
        "error": {
            "code": 429,
            "message": "rate_limited: too many",
            "status": "RESOURCE_EXHAUSTED",
            "details": [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "rate_limited",
                    "domain": "passgate",
                    "metadata": {"request_id": "req_1", "limit": "3", "of": '["a"]'},
                }
            ],
        }
    }


def test_the_problem_shape() -> None:
    """Tools and own addresses: RFC 9457 with a code."""
    _, headers, body = render(Refusal("tool_unknown", "no such tool"), "http", "req_1")
    assert ("content-type", "application/problem+json") in headers
    assert json.loads(body) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "tool_unknown: no such tool",
        "code": "tool_unknown",
        "gateway": {"code": "tool_unknown", "request_id": "req_1"},
    }


def test_a_refusal_keeps_an_upstreams_own_status() -> None:
    """An upstream's status that the table does not have is kept, whatever the dialect."""
    for dialect in DIALECTS:
        status, _, body = render(Refusal("upstream_failed", "it failed", status=529), dialect, "req_1")
        assert status == 529
        assert b"upstream_failed" in body


def test_a_refusals_own_headers_are_sent() -> None:
    """What a refusal brings beside its sentence reaches the client."""
    own = ("DPoP-Nonce", "abc")
    _, headers, _ = render(Refusal("proof_invalid", "not accepted", headers=(own,)), "own", "req_1")
    assert own in headers


def test_what_an_agent_sent_cannot_break_the_shape() -> None:
    """P14: quotes, newlines, markup and bytes that are no text stay inside the sentence."""
    nasty = 'x"}\r\n\r\ndata: [DONE]\x00\udcff</script>'
    refusal = Refusal("model_unknown", nasty, fields={"model": nasty})
    for dialect in DIALECTS:
        _, _, body = render(refusal, dialect, "req_1")
        answer = json.loads(body)
        error = answer.get("error", answer)
        assert error.get("message", error.get("detail")) == f"model_unknown: {nasty}"
        assert body.isascii()
        assert b"\n" not in body
    assert stream_error(refusal, "openai", "req_1").count(b"\n") == 2


@pytest.mark.parametrize(
    ("code", "exception"),
    [
        ("request_malformed", openai.BadRequestError),
        ("identity_invalid", openai.AuthenticationError),
        ("identity_expired", openai.AuthenticationError),
        ("policy_denied", openai.PermissionDeniedError),
        ("route_unknown", openai.NotFoundError),
        ("arguments_invalid", openai.UnprocessableEntityError),
        ("upstream_credential", openai.InternalServerError),
        ("run_limit", openai.APIStatusError),
        ("method_not_allowed", openai.APIStatusError),
    ],
)
def test_the_openai_sdk_raises_its_own_exception_once(code: str, exception: type[openai.APIStatusError]) -> None:
    """The official SDK maps a refusal to its class, reads code and request id, and does not repeat in vain."""
    refusal = Refusal(code, "what is wrong; what to do", fields={"pointer": "/model"})
    with serving(*render(refusal, "openai", "req_1")) as (client, asked), pytest.raises(exception) as raised:
        ask(client)
    assert len(asked) == 1
    assert raised.value.code == code
    assert raised.value.param == "model"
    assert raised.value.request_id == "req_1"
    assert f"{code}: what is wrong" in raised.value.message


def test_the_openai_sdk_repeats_where_it_can_help() -> None:
    """Where repeating can help, the official SDK waits for retry-after and asks again."""
    refusal = Refusal("overloaded", "busy; ask again", retry_after=1)
    with serving(*render(refusal, "openai", "req_1")) as (client, asked), pytest.raises(openai.InternalServerError):
        ask(client.with_options(max_retries=1))
    assert len(asked) == 2


def test_the_openai_sdk_raises_on_a_broken_stream() -> None:
    """R10: the event that ends a broken stream is an APIError in the official SDK, after what came before it."""
    chunk = b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'  # noqa: E501  one frame
    refusal = Refusal("upstream_truncated", "the answer ended too soon; ask again")
    headers = [("content-type", "text/event-stream")]
    got: list[str | None] = []
    with serving(200, headers, chunk + stream_error(refusal, "openai", "req_1")) as (client, _):
        stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
        with pytest.raises(openai.APIError, match="upstream_truncated: the answer ended too soon") as raised:
            got.extend(part.choices[0].delta.content for part in stream)
    assert got == ["Hi"]
    assert raised.value.code == "upstream_truncated"
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["gateway"] == {"code": "upstream_truncated", "request_id": "req_1"}


def test_stream_errors_of_other_dialects() -> None:
    """Anthropic names its event, Gemini does not, and tools have none."""
    refusal = Refusal("upstream_truncated", "ended")
    assert stream_error(refusal, "anthropic", "r").startswith(b'event: error\ndata: {"type":"error"')
    assert stream_error(refusal, "gemini", "r").startswith(b'data: {"error":')
    assert stream_error(refusal, "http", "r") == b""


@pytest.mark.parametrize(
    ("refusal", "status", "error"),
    [
        (Refusal("request_malformed", "x"), 400, "invalid_request"),
        (Refusal("identity_invalid", "x"), 400, "invalid_request"),
        (Refusal("identity_expired", "x"), 400, "invalid_request"),
        (Refusal("identity_conflict", "x"), 400, "invalid_request"),
        (Refusal("identity_missing", "x"), 401, "invalid_client"),
        (Refusal("identity_invalid", "x", fields={"error": "invalid_client"}), 401, "invalid_client"),
        (Refusal("proof_invalid", "x", fields={"error": "invalid_dpop_proof"}), 400, "invalid_dpop_proof"),
        (Refusal("proof_invalid", "x", fields={"error": "use_dpop_nonce"}), 400, "use_dpop_nonce"),
        (Refusal("proof_invalid", "x", fields={"error": "invalid_token"}), 400, "invalid_request"),
        (Refusal("scope_exceeded", "x", status=400, fields={"error": "invalid_scope"}), 400, "invalid_scope"),
        (Refusal("run_limit", "x"), 400, "invalid_request"),
        (Refusal("agent_stopped", "x"), 403, "access_denied"),
        (Refusal("agent_unknown", "x"), 403, "access_denied"),
        (Refusal("policy_denied", "x"), 403, "access_denied"),
        (Refusal("method_not_allowed", "x"), 405, "invalid_request"),
        (Refusal("request_too_large", "x"), 413, "invalid_request"),
        (Refusal("internal_error", "x"), 500, "server_error"),
        (Refusal("store_unavailable", "x"), 503, "temporarily_unavailable"),
        (Refusal("overloaded", "x"), 503, "temporarily_unavailable"),
    ],
)
def test_the_token_endpoint_speaks_oauth(refusal: Refusal, status: int, error: str) -> None:
    """RFC 6749 §5.2 and RFC 8693 §2.2.2: one word, never cached; what is wrong with a token is a bad request."""
    given, headers, body = render(refusal, "oauth", "req_1")
    told = json.loads(body)
    assert (given, told["error"]) == (status, error)
    assert told["error_description"] == f"{refusal.code}: x"
    assert dict(headers)["content-type"] == "application/json"
    assert dict(headers)["cache-control"] == "no-store"
    assert dict(headers)["gateway-refusal"] == refusal.code


def test_an_oauth_description_has_the_characters_that_it_may() -> None:
    """RFC 6749 §5.2: no quotation mark, no backslash, nothing but printable ASCII, whatever is quoted."""
    _, _, body = render(Refusal("request_malformed", 'say "a\\b\n\u00e4"'), "oauth", "req_1")
    assert json.loads(body)["error_description"] == "request_malformed: say 'a?b??'"
