"""Through an outbound proxy."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gateway.outbound import NotSent, Outbound, Upstream
from tests.simulator.upstream import ScriptedUpstream, answer


@dataclass(frozen=True)
class Limits:
    """Deadlines for tests."""

    connect: float = 2.0
    first_byte: float = 2.0
    idle: float = 2.0
    total: float = 5.0


async def test_plain_http_goes_through_the_proxy_in_absolute_form() -> None:
    """The proxy gets the whole URL and its own credentials, twice over one connection."""
    async with ScriptedUpstream([[answer(b"via")]]) as proxy:
        client = Outbound(proxy=f"http://user:pw@127.0.0.1:{proxy.port}")
        target = Upstream("api", "http://api.provider.example/v1", timeouts=Limits())
        for _ in range(2):
            async with client.send(target, "POST", "/x?y=1", [("X-A", "b")], b"{}") as got:
                assert await got.read(10) == b"via"
        await client.close()
        assert {request.line for request in proxy.requests} == {"POST http://api.provider.example/v1/x?y=1 HTTP/1.1"}
        assert {request.header("host") for request in proxy.requests} == {"api.provider.example"}
        assert {request.header("proxy-authorization") for request in proxy.requests} == {"Basic dXNlcjpwdw=="}
        assert len(proxy.raw) == 1


async def test_a_tunnel_that_is_refused_was_not_sent() -> None:
    """For https the proxy sees CONNECT only; when it says no, nothing of the request has left."""
    async with ScriptedUpstream([[answer(b"", status="403 Forbidden")]]) as proxy:
        client = Outbound(proxy=f"http://127.0.0.1:{proxy.port}")
        target = Upstream("api", "https://api.provider.example/v1", timeouts=Limits())
        with pytest.raises(NotSent, match="403"):
            async with client.send(target, "POST", "/x", [("Authorization", "Bearer s3cret")], b"{}"):
                pass
        await client.close()
        assert [request.line for request in proxy.requests] == ["CONNECT api.provider.example:443 HTTP/1.1"]
        assert b"s3cret" not in bytes(proxy.raw[0])


async def test_loopback_needs_no_proxy() -> None:
    """What is on this machine, such as the built-in demo, is asked directly."""
    async with ScriptedUpstream([[answer(b"direct")]]) as upstream, ScriptedUpstream([[answer(b"via")]]) as proxy:
        client = Outbound(proxy=proxy.url)
        async with client.send(Upstream("demo", upstream.url, timeouts=Limits()), "GET", "/", []) as got:
            assert await got.read(10) == b"direct"
        await client.close()
        assert proxy.raw == []
