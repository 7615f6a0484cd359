"""Which headers cross the gateway."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.core.call import Headers
from gateway.core.headers import header_lines, never_upstream, to_agent, to_upstream


def inbound(*pairs: tuple[str, str]) -> Headers:
    carried: Any = CIMultiDict(pairs)  # overloads what `Headers` says in one line
    return cast("Headers", carried)


def test_only_listed_headers_go_on() -> None:
    """What the allow-list does not name stays behind, whatever it is called."""
    headers = inbound(("Accept", "text/html"), ("X-Portkey-Custom-Host", "http://evil.example"), ("X-Tag", "a"))
    assert to_upstream(headers, ("accept", "x-tag", "x-missing")) == [("accept", "text/html"), ("x-tag", "a")]


def test_repeated_header_goes_on_repeated() -> None:
    """A header that came twice is sent twice, in order."""
    headers = inbound(("X-Tag", "a"), ("x-tag", "b"))
    assert to_upstream(headers, ("x-tag",)) == [("x-tag", "a"), ("x-tag", "b")]


def test_connection_nominated_header_stays() -> None:
    """R19: what the `Connection` header nominates belongs to the client's hop, even when it is allow-listed."""
    headers = inbound(("Connection", "keep-alive, X-Agent-Id"), ("X-Agent-Id", "root"), ("X-Tag", "a"))
    assert to_upstream(headers, ("x-agent-id", "x-tag")) == [("x-tag", "a")]
    twice = inbound(("Connection", "close"), ("connection", "x-agent-id"), ("X-Agent-Id", "root"))
    assert to_upstream(twice, ("x-agent-id",)) == []


def test_lone_surrogate_stays() -> None:
    """A header value with bytes that are no UTF-8 is not sent on, since it could not be written the same."""
    assert to_upstream(inbound(("X-Tag", "a\udcff"), ("x-tag", "grün")), ("x-tag",)) == [("x-tag", "grün")]


@pytest.mark.parametrize(
    "name",
    [
        "authorization", "cookie", "gateway-run", "workflow-attestation", "prefer", "openai-organization",
        "openai-project", "x-goog-user-project", "anthropic-workspace-id", "connection", "transfer-encoding", "host",
        "x-http-method-override", "x-forwarded-for", "x-original-url", "content-length", "dpop", "x-api-key",
        "client-cert", "client-cert-chain", "x-forwarded-client-cert", "x-client-cert", "x-client-cert-chain",
        "x-ssl-client-cert", "x-ssl-cert", "ssl-client-cert", "x-arr-clientcert",
    ],
)  # fmt: skip
def test_some_headers_never_go_on(name: str) -> None:
    """I17, I25, P13: credentials, accounts, framing and method overrides are on no allow-list, by no config."""
    assert never_upstream(name)


def test_ordinary_headers_may_be_listed() -> None:
    """A config may forward headers that only mean something to the tool."""
    assert not never_upstream("x-request-tag")
    assert not never_upstream("if-match")


def test_answer_headers_that_could_split_are_dropped() -> None:
    """R11: a value with CR, LF or NUL does not pass back."""
    pairs = [("ETag", "a\r\nSet-Cookie: b"), ("X-Request-Id", "x\0y"), ("Content-Type", "text/plain")]
    allowed = frozenset({"etag", "x-request-id", "content-type"})
    assert to_agent(pairs, allowed) == [("content-type", "text/plain")]


def test_thousand_answer_headers_are_cut() -> None:
    """R11: however many headers an upstream sends, a bounded number passes, one of each name."""
    allowed = frozenset({"link", "etag"})
    assert len(to_agent([("link", f"<{n}>") for n in range(1000)], allowed)) == 64
    assert to_agent([("etag", str(n)) for n in range(1000)], allowed) == [("etag", "0")]


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=12)), max_size=5))
def test_header_lines_never_hold_more_lines_than_headers(headers: list[tuple[str, str]]) -> None:
    """R11: whatever names and values are, each is one line or a `ValueError`."""
    try:
        lines = header_lines(headers)
    except ValueError:
        return
    assert lines.count("\r\n") == lines.count("\n") == lines.count("\r") == len(headers)
    assert "\0" not in lines


@pytest.mark.parametrize("value", ["tab\tis fine", "caf\u00e9", "\u00a0", "\ud83d\ude00", ""])
def test_harmless_values_pass(value: str) -> None:
    """Tabs and text beyond ASCII are not mistaken for control characters."""
    assert header_lines([("X-A", value)]) == f"X-A: {value}\r\n"
