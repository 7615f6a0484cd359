"""Where connections may go (R13)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gateway.outbound import AddressRefused, Outbound, Upstream
from gateway.outbound.destination import is_internal, literal
from tests.simulator.names import Names
from tests.simulator.upstream import ScriptedUpstream, answer


@dataclass(frozen=True)
class Limits:
    """Deadlines for tests."""

    connect: float = 2.0
    first_byte: float = 2.0
    idle: float = 2.0
    total: float = 5.0


INTERNAL = [
    "127.0.0.1",
    "127.255.255.254",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.100.100.200",
    "0.0.0.0",
    "0.1.2.3",
    "192.0.0.1",
    "192.88.99.1",
    "198.18.0.1",
    "192.0.2.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "168.63.129.16",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2001:0:7f00:1::",
    "2001:db8::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "ff02::1",
    "not an address",
]


@pytest.mark.parametrize("address", INTERNAL)
def test_every_kind_of_internal_address_is_known(address: str) -> None:
    """R13: loopback, private, link-local, CGNAT, ULA, mapped, NAT64, 6to4, Teredo, multicast, metadata."""
    assert is_internal(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "104.18.6.192", "2606:4700::6812:7c0", "2a00:1450:4001:80b::200a"])
def test_public_addresses_are_not_internal(address: str) -> None:
    """The check does not stand in the way of real providers."""
    assert not is_internal(address)


@pytest.mark.parametrize("address", [one for one in INTERNAL if "not" not in one and "%" not in one])
async def test_a_name_that_leads_inside_is_refused_at_connect(address: str) -> None:
    """R13: whatever a public name resolves to, no socket is opened to an internal address."""
    client = Outbound(resolver=Names([address]))
    target = Upstream("api", "http://api.provider.example", timeouts=Limits())
    with pytest.raises(AddressRefused, match="allow_internal"):
        async with client.send(target, "POST", "/", [("Authorization", "Bearer s3cret")], b"{}"):
            pass
    await client.close()


async def test_a_name_with_several_internal_addresses_is_refused() -> None:
    """R13: the race of several addresses changes nothing."""
    client = Outbound(resolver=Names(["127.0.0.1", "::1", "10.0.0.1"]))
    with pytest.raises(AddressRefused):
        async with client.send(Upstream("api", "http://api.example", timeouts=Limits()), "GET", "/", []):
            pass
    await client.close()


async def test_a_real_listener_behind_a_rebound_name_gets_no_byte() -> None:
    """R13: a name that was harmless when the config was read and leads to loopback now reaches nobody."""
    async with ScriptedUpstream([[answer(b"inside")]]) as inside:
        client = Outbound(resolver=Names(["127.0.0.1"]))
        target = Upstream("api", f"http://api.example:{inside.port}", timeouts=Limits())
        with pytest.raises(AddressRefused):
            async with client.send(target, "POST", "/", [], b"{}"):
                pass
        assert inside.raw == []
        allowed = Upstream("api", f"http://api.example:{inside.port}", timeouts=Limits(), allow_internal=True)
        async with client.send(allowed, "POST", "/", [], b"{}") as got:
            assert await got.read(10) == b"inside"
        # What was allowed for one upstream is not allowed for the other with the same name.
        with pytest.raises(AddressRefused):
            async with client.send(target, "POST", "/", [], b"{}"):
                pass
        await client.close()


async def test_localhost_may_be_loopback_and_nothing_else() -> None:
    """R13: the config says localhost, so loopback is meant; a resolver that says otherwise is not believed."""
    async with ScriptedUpstream([[answer(b"ok")]]) as upstream:
        client = Outbound(resolver=Names(["127.0.0.1"], ["10.0.0.1"]))
        async with client.send(
            Upstream("sim", f"http://localhost:{upstream.port}", timeouts=Limits()), "GET", "/", []
        ) as got:
            assert await got.read(10) == b"ok"
        with pytest.raises(AddressRefused):
            async with client.send(Upstream("other", "http://localhost:1", timeouts=Limits()), "GET", "/", []):
                pass
        await client.close()


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "127.1",
        "0x7f.1",
        "0x7f000001",
        "0177.0.0.1",
        "127.0.0.1.",
        "127\u30020\u30020\u30021",
        "1.2.3.4.5",
        "\uff11\uff12\uff17.0.0.1",
        "a b",
        "a_b/..",
        "",
        "api.example:80",
        "fe80::1%eth0",
        "a..b",
    ],
)
def test_addresses_in_disguise_are_no_hosts(host: str) -> None:
    """R13: decimal, octal, hexadecimal, short, full-width and ideographic-dot forms are refused."""
    with pytest.raises(ValueError, match="neither a host name nor an IP address"):
        literal(host)


@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433/",
        "http://127.1/",
        "http://127\u30020\u30020\u30021/",
        "http://0x7f.1/",
        "ftp://a/",
        "a/b",
        "http://user:pw@a.example/",
        "http://a.example/?q",
        "http://a.example/#f",
        "http://",
        "http://a.example:99999/",
        "http://a.example:0/",
        "http://[::1",
        "http://a.example\\@b.example/",
        "http://a\r\nb/",
        "http://a.example:x/",
    ],
)
def test_base_urls_that_could_be_read_twice_are_refused(url: str) -> None:
    """R13: an upstream's URL has one reading or is a mistake of the configuration."""
    with pytest.raises(ValueError, match=r"URL|host name|credentials"):
        Upstream("api", url, timeouts=Limits())


def test_an_upstream_is_taken_apart_once() -> None:
    """Scheme, authority and base path of the URL are what is sent later."""
    upstream = Upstream("api", "https://API.example:8443/v1/", timeouts=Limits())
    assert (upstream.tls, upstream.host, upstream.authority, upstream.path) == (
        True,
        "api.example",
        "api.example:8443",
        "/v1",
    )
    assert Upstream("api", "http://[::1]:80", timeouts=Limits()).authority == "[::1]"
