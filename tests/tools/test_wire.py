"""What a tool really gets over a socket, and what of its answer passes back."""

from __future__ import annotations

import json

import pytest

from gateway.core.errors import Repeat
from gateway.dialects.json_body import JsonLimits
from gateway.outbound.client import Outbound
from gateway.tools import tool_answer_headers, tool_judge, tool_read, tool_request
from gateway.tools.settings import OperationSettings
from tests.simulator.canned import CannedUpstream, canned_upstream
from tests.tools.payments import SECRET, build, head, tools

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
INBOUND = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "Authorization": "Bearer inbound-canary",
    "X-Api-Key": "inbound-canary",
    "X-Goog-Api-Key": "inbound-canary",
    "DPoP": "inbound-canary",
    "Cookie": "session=inbound-canary",
    "Gateway-Run": "inbound-canary",
    "Workflow-Attestation": "inbound-canary",
    "Prefer": "wait=inbound-canary",
    "X-Http-Method-Override": "DELETE-inbound-canary",
    "X-Upstream-Authorization": "inbound-canary",
    "X-Portkey-Custom-Host": "inbound-canary",
    "Connection": "X-Agent-Id, keep-alive",
    "X-Agent-Id": "inbound-canary",
    "Proxy-Authorization": "inbound-canary",
    "Traceparent": "00-inbound-canary",
    "User-Agent": "inbound-canary",
    "X-Tag": "kept",
    "Idempotency-Key": "key-1",
}


async def dispatch(
    upstream: CannedUpstream,
    *,
    path: str = "/orders/A%201/refund",
    query: str = "",
    body: bytes = b"",
) -> bytes:
    """Carry one call to the upstream as the pipeline does; gives the raw request that arrived."""
    operation = OperationSettings(
        method="POST",
        path="/orders/{order_id}/refund",
        query=("notify",),
        forward_headers=("X-Tag", "X-Agent-Id", "Content-Type", "Idempotency-Key"),
    )
    tools = build({"refund": operation}, base_url=f"{upstream.url}/base")
    inbound = head(query=query, headers=INBOUND)
    match = tools.find("payments", "POST", path)
    call = tool_read(match, inbound, body, JsonLimits())
    sending = tool_request(match, call, inbound, traceparent=TRACE)
    client = Outbound()
    try:
        async with client.send(
            match.operation.upstream, sending.method, sending.path, sending.headers, sending.body
        ) as answer:
            await answer.read(1000)
    finally:
        await client.close()
    return upstream.requests[-1]


async def test_tool_gets_what_was_decided_and_nothing_else() -> None:
    """I25, R19, P13: no inbound credential, steering header or nominated header arrives; the rest is known by name."""
    async with canned_upstream() as upstream:
        raw = await dispatch(upstream, body=b'{ "reason":  "late" }')
    request, _, body = raw.partition(b"\r\n\r\n")
    line, *headers = request.decode().split("\r\n")
    assert line == "POST /base/orders/A%201/refund HTTP/1.1"
    assert b"inbound-canary" not in raw
    assert body == b'{ "reason":  "late" }'
    assert sorted(header for header in headers if not header.startswith("Host:")) == sorted([
        "accept: application/json",
        "x-tag: kept",
        "accept-encoding: identity",
        "content-type: application/json",
        f"traceparent: {TRACE}",
        "idempotency-key: key-1",
        f"authorization: Bearer {SECRET}",
        "Content-Length: 21",
    ])  # fmt: skip


async def test_query_is_sent_in_one_spelling() -> None:
    """S05: the query that arrives is written from the arguments that were decided on."""
    async with canned_upstream() as upstream:
        raw = await dispatch(upstream, query="&notify=a+b%2fc&")
    assert raw.startswith(b"POST /base/orders/A%201/refund?notify=a%20b%2Fc HTTP/1.1\r\n")


def test_derived_key_replaces_the_agents() -> None:
    """A journaled call carries the derived idempotency key and not the agent's as well."""
    inbound = head(headers=INBOUND)
    match = tools.find("payments", "POST", "/orders/A1/refund")
    call = tool_read(match, inbound, b"", JsonLimits())
    sending = tool_request(match, call, inbound, traceparent="", idempotency_key="derived")
    assert [value for name, value in sending.headers if name == "idempotency-key"] == ["derived"]
    assert "traceparent" not in dict(sending.headers)


def test_own_credential_has_its_own_header() -> None:
    """Without `auth` a tool gets no credential at all, least of all the agent's."""
    for built, expected in ((tools, [f"Bearer {SECRET}"]), (build(auth=None), [])):
        match = built.find("payments", "GET", "/orders/A1")
        sending = tool_request(
            match, tool_read(match, head(headers=INBOUND), b"", JsonLimits()), head(headers=INBOUND), traceparent=""
        )
        assert [value for name, value in sending.headers if name == "authorization"] == expected


def test_answer_headers_that_pass_back() -> None:
    """R11: a tool's answer keeps what describes it; cookies, challenges, framing and the gateway's words stay out."""
    given = [
        ("Content-Type", "application/json"), ("ETag", '"1"'), ("X-Request-Id", "up-1"), ("Retry-After", "3"),
        ("Set-Cookie", "a=b"), ("WWW-Authenticate", "Basic"), ("Gateway-Refusal", "x"), ("X-Should-Retry", "true"),
        ("Transfer-Encoding", "chunked"), ("Connection", "close"), ("Access-Control-Allow-Origin", "*"),
        ("Content-Encoding", "gzip"), ("Content-Length", "5"), ("Alt-Svc", "h3"), ("Server", "nginx"),
    ]  # fmt: skip
    assert tool_answer_headers(given) == [
        ("content-type", "application/json"), ("etag", '"1"'), ("x-request-id", "up-1"), ("retry-after", "3"),
    ]  # fmt: skip


@pytest.mark.parametrize("status", [200, 201, 400, 404, 409, 422])
def test_answers_of_the_tool_pass(status: int) -> None:
    """What a tool says about the request itself is its own answer."""
    assert tool_judge(tools.find("payments", "POST", "/charge").operation, status, None, b"{}") is None


def test_failed_effect_is_never_advised_to_repeat() -> None:
    """After a 503 an operation with `repeat: never` may have acted: no header and no sentence says to try again."""
    never = tool_judge(tools.find("payments", "POST", "/charge").operation, 503, "5", b"down")
    safe = tool_judge(tools.find("payments", "GET", "/orders/A1").operation, 503, "5", b"down")
    assert never is not None
    assert safe is not None
    assert (never.refusal.repeat, never.refusal.headers, never.elsewhere) == (Repeat.USELESS, (), False)
    assert "again" not in never.refusal.sentence
    assert safe.refusal.headers == (("retry-after", "5"),)


def test_refused_credential_is_redacted() -> None:
    """S18: a tool that refuses our credential gives 502 and an alert; the log's copy of its body is redacted."""
    operation = tools.find("payments", "POST", "/charge").operation
    found = tool_judge(operation, 401, None, json.dumps({"error": f"bad token {SECRET}"}).encode())
    assert found is not None
    assert (found.refusal.code, found.refusal.status, found.alert) == ("upstream_credential", 502, True)
    assert found.refusal.detail == '{"error": "bad token [credential]"}'
    assert SECRET not in str(found.refusal)


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_tool_without_a_credential_of_ours_speaks_to_the_agent(status: int) -> None:
    """Where the gateway adds no credential, such an answer is about the request, and passes as it came."""
    operation = build(auth=None).find("payments", "POST", "/charge").operation
    assert tool_judge(operation, status, None, b"not for you") is None
