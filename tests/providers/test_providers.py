"""LLM providers: what they get, what of their answers passes back, and what their errors mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from multidict import CIMultiDict

from gateway.core.call import Head
from gateway.core.errors import Refusal
from gateway.outbound.client import Outbound
from gateway.outbound.settings import TimeoutOverrides, TimeoutSettings
from gateway.providers import Provider, Providers, mistakes
from gateway.providers.settings import ProviderSettings
from gateway.settings.types import Secret
from tests.simulator.canned import canned_upstream

KEY = "sk-provider-canary-0001"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def provider(**settings: Any) -> Provider:  # noqa: ANN401 -- any setting
    """The provider `openai`, with other settings where a test names them."""
    standard: dict[str, Any] = {
        "dialects": ("openai",), "base_url": "https://api.openai.example/v1", "api_key": Secret(KEY),
    }  # fmt: skip
    built = Providers.build(
        {"openai": ProviderSettings(**standard | settings)},
        timeouts=TimeoutSettings(),
        demo_url="http://127.0.0.1:9",
    )
    return built.get("openai")


def head(headers: Mapping[str, str]) -> Head:
    carried: Any = CIMultiDict(headers)  # overloads what `Headers` says in one line
    return Head("POST", "/v1/chat/completions", "", carried, "127.0.0.1")


async def test_provider_gets_its_own_credential_only() -> None:
    """I25: over a real socket nothing of the agent's credentials, accounts, cookies or steering arrives."""
    inbound = head({
        "Authorization": "Bearer inbound-canary", "X-Api-Key": "inbound-canary", "X-Goog-Api-Key": "inbound-canary",
        "Cookie": "a=inbound-canary", "Gateway-Run": "inbound-canary", "Workflow-Attestation": "inbound-canary",
        "OpenAI-Organization": "inbound-canary", "OpenAI-Project": "inbound-canary", "Prefer": "inbound-canary",
        "X-Goog-User-Project": "inbound-canary", "Anthropic-Workspace-Id": "inbound-canary",
        "X-Portkey-Custom-Host": "inbound-canary", "X-Stainless-OS": "inbound-canary", "User-Agent": "inbound-canary",
        "Accept-Encoding": "gzip", "Traceparent": "inbound-canary", "Connection": "OpenAI-Beta",
        "OpenAI-Beta": "nominated-inbound-canary", "Accept": "application/json", "Idempotency-Key": "key-1",
    })  # fmt: skip
    async with canned_upstream() as upstream:
        one = provider(base_url=f"{upstream.url}/v1")
        headers = one.request_headers(inbound, "openai", content_type="application/json", traceparent=TRACE)
        client = Outbound()
        async with client.send(one.upstream, "POST", one.path("openai", "chat"), headers, b"{}") as answer:
            await answer.read(1000)
        await client.close()
        raw = upstream.seen()
    assert b"inbound-canary" not in raw
    line, *lines = raw.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    assert line == "POST /v1/chat/completions HTTP/1.1"
    assert sorted(line for line in lines if not line.startswith("Host:")) == sorted([
        "accept: application/json", "idempotency-key: key-1", "accept-encoding: identity",
        "content-type: application/json", f"traceparent: {TRACE}", f"authorization: Bearer {KEY}", "Content-Length: 2",
    ])  # fmt: skip


def test_beta_header_passes() -> None:
    """What a dialect's clients use to choose a version of the API reaches the provider."""
    sent = provider().request_headers(head({"OpenAI-Beta": "x=v1"}), "openai", content_type="", traceparent="")
    assert ("openai-beta", "x=v1") in sent
    assert {"content-type", "traceparent"}.isdisjoint(dict(sent))


def test_provider_without_key_gets_none() -> None:
    """A provider that wants no key, such as the demo, gets no credential header."""
    sent = provider(api_key=None).request_headers(
        head({"Authorization": "x"}), "openai", content_type="", traceparent=""
    )
    assert "authorization" not in dict(sent)


def test_base_url_is_written_as_the_sdk_writes_it() -> None:
    """The dialect's path is appended to the path of `base_url`, and the agent's query follows."""
    one = provider()
    assert one.upstream.path + one.path("openai", "chat", "api-version=1") == "/v1/chat/completions?api-version=1"


def test_demo_address_is_filled_in() -> None:
    """`builtin:demo` becomes the running demo's address."""
    upstream = provider(base_url="builtin:demo").upstream
    assert (upstream.authority, upstream.path) == ("127.0.0.1:9", "/v1")


def test_timeouts_are_inherited() -> None:
    """A provider's deadlines stand over the general ones."""
    timeouts = provider(timeouts=TimeoutOverrides(idle=1.0)).upstream.timeouts
    assert (timeouts.idle, timeouts.total) == (1.0, TimeoutSettings().total)


ANSWER = [
    ("Content-Type", "text/event-stream"), ("X-Request-Id", "req_1"), ("OpenAI-Processing-Ms", "5"),
    ("X-RateLimit-Remaining-Tokens", "100"), ("OpenAI-Organization", "our-org"), ("OpenAI-Project", "our-project"),
    ("Set-Cookie", "a=b"), ("X-Should-Retry", "true"), ("WWW-Authenticate", "x"), ("Gateway-Replayed", "true"),
    ("Transfer-Encoding", "chunked"),
]  # fmt: skip


def test_answer_headers_that_pass_back() -> None:
    """R11: request ids pass; our account, cookies, challenges and the upstream's own `gateway-*` do not."""
    passed = provider().answer_headers(ANSWER, "openai")
    assert [name for name, _ in passed] == ["content-type", "x-request-id", "openai-processing-ms"]


def test_rate_limits_pass_where_the_config_says_so() -> None:
    """Rate-limit headers describe the shared key and pass with `expose_limits` alone."""
    assert "x-ratelimit-remaining-tokens" in dict(provider(expose_limits=True).answer_headers(ANSWER, "openai"))
    assert "x-ratelimit-remaining-tokens" not in dict(provider().answer_headers(ANSWER, "openai"))


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (200, {}, None),
        (400, {"code": "insufficient_quota"}, None),
        (401, {}, "upstream_credential"),
        (402, {}, "upstream_credential"),
        (403, {}, "upstream_credential"),
        (404, {}, None),
        (422, {}, None),
        (429, {"code": "insufficient_quota"}, "upstream_credential"),
        (429, {"type": "insufficient_quota", "code": None}, "upstream_credential"),
        (429, {"code": "rate_limit_exceeded"}, "upstream_unavailable"),
        (429, {"message": "insufficient_quota is what this is not"}, "upstream_unavailable"),
        (500, {}, "upstream_failed"),
        (302, {}, "upstream_failed"),
    ],
)
def test_errors_are_judged(status: int, error: Mapping[str, object], code: str | None) -> None:
    """Errors about the request pass, a spent quota is ours, trouble keeps its status, redirects fail (R12)."""
    found = provider().judge(status, None, json.dumps({"error": error}).encode(), "openai")
    assert (found.refusal.code if found else None) == code


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"insufficient_quota"', b'{"error": "x"}', b"\xff", b"[" * 50_000])
def test_error_body_of_any_kind_is_judged(body: bytes) -> None:
    """An error body that is not what the dialect promises is still an error of its status."""
    found = provider().judge(429, "7", body, "openai")
    assert found is not None
    assert (found.refusal.code, found.refusal.status) == ("upstream_unavailable", 429)


def test_quota_code_beside_the_error_object_counts() -> None:
    """Providers that put `code` at the top of the body are understood as well."""
    found = provider().judge(429, None, b'{"code": "insufficient_quota", "error": "no money"}', "openai")
    assert found is not None
    assert found.alert


def test_log_copy_is_redacted() -> None:
    """S18: the body that the log keeps of a refused key holds neither the key nor its masked form."""
    for quoted in (KEY, "sk-provi***0001"):
        found = provider().judge(401, None, f'{{"error": "Incorrect API key: {quoted}"}}'.encode(), "openai")
        assert found is not None
        assert found.refusal.detail is not None
        assert "sk-pro" not in found.refusal.detail
        assert "Incorrect API key" in found.refusal.detail
        assert "Incorrect" not in found.refusal.sentence


def test_switched_off_provider_says_why() -> None:
    """A provider whose key is unset is refused with the reason; one that is not there, with where to look."""
    providers = Providers({}, {"openai": "provider openai is off: OPENAI_API_KEY unset"})
    with pytest.raises(Refusal, match="model_unknown: provider openai is off: OPENAI_API_KEY unset"):
        providers.get("openai")
    with pytest.raises(Refusal, match="model_unknown: there is no provider"):
        providers.get("other")
    assert "openai" not in providers


def test_key_shows_nowhere() -> None:
    """S18: the repr of a provider does not contain its key."""
    assert KEY not in repr(provider())


def test_key_of_two_lines_is_a_mistake() -> None:
    """A key file with more than a key in it is a mistake at load, named without the key."""
    settings = ProviderSettings(dialects=("openai",), base_url="https://x.example", api_key=Secret(f"{KEY}\nmore"))
    found = list(mistakes({"openai": settings}))
    assert [place for place, _, _ in found] == ["openai.api_key"]
    assert KEY not in str(found)
