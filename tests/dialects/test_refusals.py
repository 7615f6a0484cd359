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
    assert ("www-authenticate" in named) == (status == 401)
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


def test_a_refusals_own_challenge_is_kept() -> None:
    """A 401 that brings its challenges gets no other."""
    own = ("WWW-Authenticate", 'DPoP algs="ES256"')
    _, headers, _ = render(Refusal("identity_invalid", "not accepted", headers=(own,)), "own", "req_1")
    assert [pair for pair in headers if pair[0].lower() == "www-authenticate"] == [own]


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
