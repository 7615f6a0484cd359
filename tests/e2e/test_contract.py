"""The contract as an outsider reads it, section by section: what a test of one part alone would not see."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.simulator.gateway import ALLOW_ALL, Gateway, Reply, eventually
from tests.simulator.provider import KEY, ScriptedProvider, completion
from tests.simulator.upstream import answer

DENY = "  - {id: secret, effect: deny, match: {models: [secret]}, message: Ask another.}\n"
CHAT = "/v1/chat/completions"
HELLO = {"model": "sim-small", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedProvider) -> Iterator[Gateway]:
    """A gateway with a provider and a tool that are off, a model that is denied, and runs from a client's header."""
    real = {"dialects": ["openai"], "base_url": f"{upstream.url}/v1", "allow_internal": True}
    tool = {"kind": "http", "base_url": f"{upstream.url}/bank", "allow_internal": True}
    operations = {"look": {"method": "GET", "path": "/look/{order}", "repeat": "safe", "forward_headers": ["X-Tag"]}}
    config: dict[str, Any] = {
        "providers": {
            "demo": {"dialects": ["openai"], "base_url": "builtin:demo"},
            "real": real | {"api_key": "${env:REAL_KEY}"},
            "openai": real | {"api_key": "${env:NOBODY_SET_THIS?}"},
        },
        "models": {
            "sim-*": {"targets": [{"provider": "demo"}]},
            "sim-listed": {"targets": [{"provider": "demo"}]},
            "real-*": {"targets": [{"provider": "real"}]},
            "secret": {"targets": [{"provider": "real"}]},
            "gpt-4o-mini": {"targets": [{"provider": "openai"}]},
        },
        "tools": {
            "bank": tool | {"operations": operations},
            "mail": tool
            | {
                "auth": {"header": "X-Key", "value": "${env:NOBODY_SET_THIS?}"},
                "operations": {"send": operations["look"]},
            },
        },
        "runs": {"from_headers": ["X-Session-Id"]},
    }
    folder = tmp_path_factory.mktemp("contract")
    with Gateway(folder, config, {"all.yaml": ALLOW_ALL + DENY}, environment={"REAL_KEY": KEY}) as running:
        yield running


def sentence(reply: Reply) -> str:
    """What a refusal says, whatever its dialect."""
    body = reply.json()
    return str(body["error"]["message"] if "error" in body else body["detail"])


def raw(gateway: Gateway, request: str) -> bytes:
    """What is answered to these very bytes."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
        connection.sendall(request.encode("latin-1"))
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


# -- §3: addresses


@pytest.mark.parametrize(("prefix", "base"), [("", "/v1"), ("/openai/v1", "/v1"), ("/r/job-1", "/r/job-1/v1")])
def test_a_404_names_a_base_url_that_works(contract: Gateway, prefix: str, base: str) -> None:
    """§3: whoever pastes what the 404 names gets an answer."""
    lost = contract.call("POST", f"{prefix}/chat/completions", HELLO)
    assert (lost.status, lost.refusal) == (404, "route_unknown")
    assert sentence(lost).endswith(f"{contract.url}{base}")
    assert contract.call("POST", f"{base}/chat/completions", HELLO).status == 200


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/r/job-1/v1", "/r/job-1/i/2/v1/"])
def test_head_on_a_dialects_prefix_is_anonymous(contract: Gateway, path: str) -> None:
    """§3: SDKs and agents probe a base URL before they have a key."""
    assert contract.call("HEAD", path, token=None).status == 204
    assert contract.call("GET", path, token=None).refusal == "identity_missing"


def test_models_are_told_by_what_can_be_asked_for(contract: Gateway) -> None:
    """§3, §5: a name that only a `*` matches can be retrieved; a denied one is unknown; one that is off says why."""
    assert [model["id"] for model in contract.call("GET", "/v1/models/").json()["data"]] == ["sim-listed"]
    assert contract.call("GET", "/v1/models/sim-other").json()["id"] == "sim-other"
    denied, unknown = (contract.call("GET", f"/v1/models/{name}") for name in ("secret", "nobody"))
    assert (denied.status, denied.refusal) == (unknown.status, unknown.refusal) == (404, "model_unknown")
    assert sentence(denied).replace("secret", "nobody") == sentence(unknown)
    off = contract.call("GET", "/v1/models/gpt-4o-mini")
    assert "provider openai is off: NOBODY_SET_THIS unset" in sentence(off)


@pytest.mark.parametrize("header", ["x-api-key", "x-goog-api-key", "Authorization"])
@pytest.mark.parametrize("path", ["/v1/models", "/anthropic/v1/models", "/gemini/v1beta/models", "/tools/no/x", "/mcp"])
def test_any_credential_header_on_any_prefix(contract: Gateway, header: str, path: str) -> None:
    """§3: SDKs and coding agents mix them, so none is refused for its place."""
    value = contract.token()
    reply = contract.call(
        "GET", path, headers={header: f"Bearer {value}" if header == "Authorization" else value}, token=None
    )
    assert reply.status in {200, 404}


# -- §3: runs


@pytest.mark.parametrize(
    ("path", "header", "run"),
    [
        ("/r/a%40b", None, "a@b"),
        ("/r/a@b", "a%40b", "a@b"),
        ("", "a%40b", "a@b"),
        ("", "x" * 128, "x" * 128),
    ],
)
def test_a_run_is_percent_decoded_once(contract: Gateway, path: str, header: str | None, run: str) -> None:
    """§3: URL and header name the same run however they spell it."""
    reply = contract.call("POST", path + CHAT, HELLO, headers={"Gateway-Run": header} if header else {})
    assert (reply.status, reply.headers["gateway-run"]) == (200, run)


@pytest.mark.parametrize("value", ["a%2540", "%ff", "%zz", "-a", "a b", "x" * 129, ""])
def test_what_is_no_run_id_is_malformed(contract: Gateway, value: str) -> None:
    """§3: nothing that a header can hold is the gateway's failure."""
    reply = contract.call("POST", CHAT, HELLO, headers={"Gateway-Run": value})
    assert (reply.status, reply.refusal) == (400, "request_malformed")


def test_sources_of_a_run_agree_or_yield(contract: Gateway) -> None:
    """§3: claim, URL and header must agree; a client's own header is only asked last."""
    claimed = contract.token(run="r1")
    for path, headers in ((f"/r/r2{CHAT}", {}), (CHAT, {"Gateway-Run": "r2"})):
        assert contract.call("POST", path, HELLO, headers=headers, token=claimed).refusal == "run_conflict"
    last = contract.call("POST", CHAT, HELLO, headers={"X-Session-Id": "s1"})
    assert last.headers["gateway-run"] == "s1"
    first = contract.call("POST", CHAT, HELLO, headers={"X-Session-Id": "s1", "Gateway-Run": "r1"})
    assert first.headers["gateway-run"] == "r1"


# -- §3: headers


SENT = {
    "Cookie": "a=b", "Gateway-Foo": "1", "Workflow-Attestation": "x", "Prefer": "wait=1", "OpenAI-Organization": "o",
    "OpenAI-Project": "p", "x-goog-user-project": "p", "anthropic-workspace-id": "w", "TE": "trailers",
    "X-Forwarded-For": "192.0.2.1", "X-Tag": "t", "Accept": "application/json", "Accept-Encoding": "gzip",
    "OpenAI-Beta": "b", "Idempotency-Key": "k",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}  # fmt: skip


def test_only_listed_headers_reach_an_upstream(contract: Gateway, upstream: ScriptedProvider) -> None:
    """§3: a provider gets its dialect's list, a tool the operation's; the trace is continued under a span of ours."""
    upstream.says("real-1", completion("hi"))
    upstream.says("/bank/look/1", [answer(b"{}", ("Content-Type", "application/json"))])
    assert contract.call("POST", CHAT, {**HELLO, "model": "real-1"}, headers=SENT).status == 200
    assert contract.call("GET", "/tools/bank/look/1", headers=SENT).status == 200
    (asked,), (looked,) = upstream.heard("real-1"), upstream.heard("/bank/look/1")
    framing = {"host", "content-length", "content-type", "accept", "accept-encoding", "traceparent", "idempotency-key"}
    assert {name.lower() for name, _ in asked.headers} == framing | {"openai-beta", "authorization"}
    assert {name.lower() for name, _ in looked.headers} <= framing | {"x-tag"}
    assert (asked.header("authorization"), asked.header("accept-encoding")) == (f"Bearer {KEY}", "identity")
    for received in (asked, looked):
        trace, parent = str(received.header("traceparent")).split("-")[1:3]
        assert trace == "0af7651916cd43dd8448eb211c80319c"
        assert parent != "b7ad6b7169203331"


def test_only_listed_headers_come_back(contract: Gateway, upstream: ScriptedProvider) -> None:
    """§3: an upstream cannot speak in the gateway's name, set cookies or tell an SDK to retry."""
    kept = [("X-Request-Id", "up-1"), ("Content-Type", "application/json")]
    lost = [
        *(("Set-Cookie", "a=b"), ("Gateway-Refusal", "x"), ("X-Should-Retry", "true"), ("WWW-Authenticate", "Basic")),
        *(("X-RateLimit-Limit-Requests", "9"), ("Access-Control-Allow-Origin", "*"), ("OpenAI-Organization", "o")),
    ]
    upstream.says("/bank/look/2", [answer(b"{}", *kept, *lost)])
    reply = contract.call("GET", "/tools/bank/look/2")
    assert reply.headers["x-request-id"] == "up-1"
    assert not {name.lower() for name, _ in lost} & set(reply.headers)


# -- §4: refusals


def _refusals(contract: Gateway) -> Iterator[tuple[str, Reply]]:
    yield "route_unknown", contract.call("GET", "/nothing")
    yield "route_unknown", contract.call("POST", "/anthropic/v1/messages", {})
    yield "route_unknown", contract.call("POST", "/gemini/v1beta/models/x:generateContent", {})
    yield "method_not_allowed", contract.call("GET", CHAT)
    yield "identity_missing", contract.call("GET", "/v1/models", token=None)
    yield "identity_invalid", contract.call("GET", "/tools/bank/look/1", token="x.y.z")
    yield "identity_expired", contract.call("GET", "/v1/models", token=contract.token(iat=1_000, exp=2_000))
    yield "agent_unknown", contract.call("GET", "/v1/models", token=contract.token(sub="nobody"))
    yield "policy_denied", contract.chat(model="secret")
    yield "model_unknown", contract.chat(model="gpt-4o-mini")
    yield "tool_unknown", contract.call("GET", "/tools/mail/look/1")
    yield "request_malformed", contract.call("POST", CHAT, b"{")
    yield "request_malformed", contract.call("GET", "/v1/../v1/models")
    yield "encoding_unsupported", contract.call("POST", CHAT, HELLO, headers={"Content-Encoding": "gzip"})
    yield "origin_refused", contract.call("GET", "/v1/models", headers={"Origin": "https://evil.example"})
    yield "headers_too_large", contract.call("GET", "/v1/models", headers={"X-Long": "x" * 9000})
    yield "run_unknown", contract.call("GET", "/gateway/v1/runs/never")
    yield "upstream_failed", contract.chat(model="sim-fail-500")


def test_every_refusal_says_what_programs_and_people_need(contract: Gateway) -> None:
    """§4: the code in the header, in the body and before the sentence; three names of one request id; when to retry."""
    for code, reply in _refusals(contract):
        assert (reply.refusal, sentence(reply).startswith(f"{code}: ")) == (code, True), code
        ids = {reply.headers[name] for name in ("gateway-request-id", "x-request-id", "request-id")}
        assert len(ids) == 1, code
        assert ids.pop().encode() in reply.body, code
        retry = reply.headers.get("x-should-retry"), reply.headers.get("retry-after")
        if code == "upstream_failed":
            assert retry == (None, "1")
        else:
            assert retry == (None if code == "identity_expired" else "false", None), code
        assert ("www-authenticate" in reply.headers) == (reply.status == 401), code
        assert not any(name.startswith("access-control-") for name in reply.headers)


def test_what_is_off_says_so_to_callers(contract: Gateway) -> None:
    """§5: an entry that an unset variable switches off is unknown, with the variable's name; `/readyz` says it too."""
    assert "provider openai is off: NOBODY_SET_THIS unset" in sentence(contract.chat(model="gpt-4o-mini"))
    assert "tool mail is off: NOBODY_SET_THIS unset" in sentence(contract.call("GET", "/tools/mail/look/1"))
    status, text = contract.ready()
    assert (status, text.count("NOBODY_SET_THIS unset")) == (200, 2)


def test_a_limit_is_named_with_its_key(contract: Gateway) -> None:
    """§4: what is over a limit says which, and where it is set."""
    deep = b'{"model": "sim-small", "messages": ' + b"[" * 100 + b"]" * 100 + b"}"
    many = b'{"model": "sim-small", "messages": [], "x": {' + b",".join(b'"%d":1' % n for n in range(100_001)) + b"}}"
    for body, key in ((deep, "limits.json_depth"), (many, "limits.json_keys")):
        reply = contract.call("POST", CHAT, body)
        assert (reply.status, reply.refusal, key in sentence(reply)) == (400, "request_malformed", True)


def test_a_repeated_refusal_keeps_its_decision(contract: Gateway) -> None:
    """§4, §9: the same refusal within a minute has the same decision id, and is counted as a repeat."""

    def repeats() -> float:
        return contract.metrics()["passgate_refusal_repeats_total"]

    before = repeats()
    first, again = (contract.call("POST", CHAT, {**HELLO, "model": "secret", "user": "u"}) for _ in range(2))
    assert (first.status, again.status) == (403, 403)
    assert first.headers["gateway-decision-id"] == again.headers["gateway-decision-id"]
    assert first.headers["gateway-request-id"] != again.headers["gateway-request-id"]
    eventually(lambda: repeats() >= before + 1, "the repeat is not counted")


# -- §2: the door


@pytest.mark.parametrize(
    ("host", "status"), [("localhost", b"204"), ("127.0.0.1:1", b"204"), ("evil.example", b"403"), ("", b"400")]
)
def test_hosts_are_the_bound_address_and_localhost(contract: Gateway, host: str, status: bytes) -> None:
    """§2: without `hosts`, a name that somebody pointed here is refused."""
    reply = raw(contract, f"HEAD /v1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    assert reply.split(b" ")[1] == status
