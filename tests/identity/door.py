"""A real `Identity` over simulated issuers, with one word for each thing that a test asks of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from gateway.core.call import Address, Head
from gateway.core.errors import Refusal
from gateway.core.principal import Principal
from gateway.core.sources import KeptSources
from gateway.identity import Authority, Identity
from gateway.identity.settings import AgentSettings, IdentitySettings, IssuerSettings, KeySettings
from gateway.identity.tokens import SENTENCE
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer

CHAT = Address("openai", "chat", "/v1/chat/completions")
PUBLIC_URL = "https://gateway.example"


def mcp(server: str) -> Address:
    """The address of one MCP server."""
    return Address("mcp", "mcp", f"/mcp/{server}", {"server": server})


def issuer_settings(issuer: Issuer, **changes: Any) -> IssuerSettings:  # noqa: ANN401 - settings of any type
    """What an operator writes about this issuer."""
    written: dict[str, Any] = {
        "name": issuer.name,
        "iss": issuer.iss,
        "kinds": (issuer.kind,),
        "algs": tuple(dict.fromkeys(("EdDSA", "ES256", issuer.alg))),
        "trust_domain": "acme.example" if issuer.kind == "jwt-svid" else None,
        "keys": KeySettings(file=_file(issuer)),
    }
    return IssuerSettings(**{**written, **changes})


def head(*headers: tuple[str, str], query: str = "") -> Head:
    """The head of a request with these headers."""
    carried: Any = CIMultiDict(headers)  # multidict overloads what `core.call.Headers` says in one line
    return Head("POST", "/v1/chat/completions", query, carried, "127.0.0.1")


class Alone:
    """An authority that fetches nothing and remembers proofs by itself."""

    def __init__(self) -> None:
        """Nothing was seen."""
        self.asked: list[str] = []
        self._seen: set[bytes] = set()

    async def fetch_keys(self, issuer: str) -> None:
        """Note that it was asked for."""
        self.asked.append(issuer)

    async def first_use(self, proof: bytes, until: float) -> bool:
        """Whether it was not seen before."""
        assert until > 0
        new = proof not in self._seen
        self._seen.add(proof)
        return new


def identify(
    identity: Identity, request: Head, address: Address = CHAT, authority: Authority | None = None
) -> Principal:
    """Identify on an event loop of its own."""
    return asyncio.run(identity.identify(request, address, authority or Alone()))


class Door:
    """Issuers, a registry and a clock, and the identity part built from them."""

    def __init__(
        self,
        *issuers: Issuer,
        clock: SetClock,
        agents: Sequence[AgentSettings] | None = None,
        settings: Sequence[IssuerSettings] | None = None,
        audience: str = "https://gateway.example",
    ) -> None:
        """Register `procurement` at the first issuer, unless told other agents."""
        self.clock = clock
        first = issuers[0]
        self.identity = Identity.build(
            IdentitySettings(audience=audience, issuers=tuple(settings or map(issuer_settings, issuers))),
            agents or [AgentSettings(id="procurement", issuer=first.name, subject=first.subject, team="finance")],
            KeptSources({str(_file(issuer)): issuer.jwks() for issuer in issuers}, {}, {}),
            clock,
            PUBLIC_URL,
        )

    def admits(self, token: str, address: Address = CHAT) -> Principal:
        """Who the bearer of this token is."""
        return identify(self.identity, head(("Authorization", f"Bearer {token}")), address)

    def refuses(self, token: str, address: Address = CHAT, *, code: str = "identity_invalid") -> Refusal:
        """The refusal of this token; one that is invalid never says publicly why."""
        with pytest.raises(Refusal) as caught:
            self.admits(token, address)
        refusal = caught.value
        assert refusal.code == code, refusal.detail
        if code == "identity_invalid":
            assert (refusal.status, refusal.sentence, refusal.fields) == (401, SENTENCE, {})
            assert refusal.detail
        return refusal


def _file(issuer: Issuer) -> Path:
    return Path("keys", f"{issuer.name}.json")
