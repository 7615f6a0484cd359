"""Issuers whose key servers turn hostile, at a real listener: the last good keys hold, and nobody inside is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import pytest

from tests.simulator.gateway import Gateway
from tests.simulator.issuer import Issuer
from tests.simulator.jwks import Endless, JwksServer, redirect, trouble
from tests.simulator.upstream import Script

METADATA_SERVICE: Final = "http://169.254.169.254/latest/meta-data/"
PAST: Final[dict[str, Callable[[bytes, str], Script]]] = {
    "error": lambda jwks, _: trouble(jwks)["an error with keys"],
    "page": lambda jwks, _: trouble(jwks)["a web page"],
    "announced": lambda jwks, _: trouble(jwks)["two gibibytes, announced"],
    "endless": lambda _, __: Endless(),
    "inside": lambda _, inside: redirect(inside),
    "metadata": lambda _, __: redirect(METADATA_SERVICE),
    "file": lambda _, __: redirect("file:///etc/passwd"),
}
"""What the server of each issuer says once the gateway has its keys."""


@dataclass
class Servers:
    """The gateway, an issuer and its server for each story, and a server inside that nobody should find."""

    gateway: Gateway
    issuers: dict[str, Issuer]
    servers: dict[str, JwksServer]
    inside: JwksServer


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with ExitStack() as stack:
        inside, *others = (stack.enter_context(JwksServer()) for _ in range(len(PAST) + 1))
        found = dict(zip(PAST, others, strict=True))
        issuers = {name: Issuer(name=name, iss=server.url, kid=f"{name}-1") for name, server in found.items()}
        for name, server in found.items():
            server.publishes(issuers[name].jwks())
        identity = {
            "audience": Issuer.audience,
            "issuers": [{"name": name, "iss": one.url, "keys": {"url": one.jwks_url}} for name, one in found.items()],
        }
        agents = [{"id": name, "issuer": name, "subject": Issuer.subject} for name in found]
        folder = tmp_path_factory.mktemp("servers")
        gateway = stack.enter_context(Gateway(folder, config={"identity": identity, "agents": agents}))
        yield Servers(gateway, issuers, found, inside)


@pytest.mark.parametrize("name", PAST)
def test_the_last_good_keys_hold(servers: Servers, name: str) -> None:
    """I21, S02: an error, a web page, gigabytes or a way inside instead of keys changes nothing for good tokens."""
    issuer, server = servers.issuers[name], servers.servers[name]
    thief = Issuer(name=name, iss=issuer.iss, kid=f"{name}-2")
    good, before = issuer.token(), server.fetches
    server.answers(PAST[name](thief.jwks(), servers.inside.jwks_url))
    servers.inside.publishes(thief.jwks())
    for _ in range(2):
        reply = servers.gateway.call("GET", "/v1/models", token=thief.token())
        assert (reply.status, reply.refusal) == (401, "identity_invalid")
        assert servers.gateway.call("GET", "/v1/models", token=good).status == 200
        assert servers.gateway.call("GET", "/v1/models", token=issuer.token(jti="unseen")).status == 200
    assert server.fetches == before + 1  # it was asked, once, and what it said is not what counts
    assert servers.inside.seen() == b""
