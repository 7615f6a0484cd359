"""Identity: who asks, and on whose behalf. No call gets further without a verified, registered agent.

`Identity.identify` is the door: from a request's head to a `Principal`, or a refusal. The credential
is found by `credential.py`, verified by `tokens.py` with the keys that `keys.py` read, and matched to
an agent by `registry.py`. A reload builds a whole new `Identity`, so nothing outlives its keys.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.core.call import Address, Head
from gateway.core.clock import Clock
from gateway.core.principal import Agent, Principal
from gateway.core.sources import Sources
from gateway.identity.credential import credential
from gateway.identity.keys import KeyMistakes, KeySet, read_jwks
from gateway.identity.registry import Entry, Registry
from gateway.identity.settings import AgentSettings, IdentitySettings, IssuerSettings
from gateway.identity.tokens import Issuer, ValidClaims, Verifier, invalid, media_type
from gateway.settings.complaints import Complaint

REMEMBERED: Final = 10_000
"""How many verified tokens are remembered at most."""
REMEMBERED_SECONDS: Final = 60.0
"""For how long at most; a reload forgets all of them at once."""


class IdentityMistakes(Exception):
    """Identity cannot be built from its settings; `complaints` lists every reason."""

    def __init__(self, complaints: Sequence[Complaint]) -> None:
        super().__init__("\n".join(str(complaint) for complaint in complaints))
        self.complaints = tuple(complaints)


class _Known(NamedTuple):
    """A token that was verified a moment ago."""

    principal: Principal
    mcp_server: str | None
    until: float  # epoch seconds


class Identity:
    """The registered agents and the issuers that vouch for them."""

    def __init__(
        self, verifier: Verifier, registry: Registry, *, skew: float, clock: Clock, remembered: int = REMEMBERED
    ) -> None:
        self._verifier = verifier
        self._registry = registry
        self._skew = skew
        self._clock = clock
        self._remembered = remembered
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    @classmethod
    def build(
        cls,
        settings: IdentitySettings,
        agents: Sequence[AgentSettings],
        sources: Sources,
        clock: Clock,
        public_url: str | None,
    ) -> Identity:
        """Read all key files and register all agents; raises `IdentityMistakes`.

        `public_url` is how agents reach this gateway, where tokens for one MCP server name it.
        """
        issuers: list[Issuer] = []
        complaints: list[Complaint] = []
        for one in settings.issuers:
            try:
                keys = _keys(one, sources)
            except IdentityMistakes as mistakes:
                complaints += mistakes.complaints
                continue
            types = frozenset(media_type(typ) for typ in one.typ)
            issuers.append(Issuer(one.name, one.iss, frozenset(one.algs), types, one.max_lifetime, keys))
        if complaints:
            raise IdentityMistakes(complaints)
        verifier = Verifier(issuers, audience=settings.audience, public_url=public_url, skew=settings.skew, clock=clock)
        return cls(verifier, Registry(_entry(agent) for agent in agents), skew=settings.skew, clock=clock)

    def identify(self, head: Head, address: Address) -> Principal:
        """Who sent this request; raises `Refusal` (`identity_*`, `agent_unknown`, `agent_ambiguous`).

        Whether a token has expired is judged here, when the head has arrived. A token that passed
        is remembered by the SHA-256 of all of it, for a minute at most and never past its end;
        one that failed is not.
        """
        token = credential(head, address)
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(digest)
        if known is None or self._clock.now() >= known.until:
            known = self._verify(token)
            self._known[digest] = known
            self._known.move_to_end(digest)
            if len(self._known) > self._remembered:
                self._known.popitem(last=False)
        if known.mcp_server is not None and not (
            address.dialect == "mcp" and address.variables.get("server") == known.mcp_server
        ):
            raise invalid("the token's audience is one MCP server, and this address is not that server's")
        return known.principal

    def _verify(self, token: str) -> _Known:
        valid = self._verifier.verify(token)
        agent = self._registry.find(valid.issuer.name, valid.subject, valid.claims)
        until = min(valid.expires + self._skew, self._clock.now() + REMEMBERED_SECONDS)
        return _Known(_principal(valid, agent), valid.mcp_server, until)


def _keys(issuer: IssuerSettings, sources: Sources) -> KeySet:
    file = issuer.keys.file
    try:
        return read_jwks(sources.read(file))
    except OSError as error:
        remedy = f"name a JWK set, or make one for development: passgate keys new --issuer {issuer.name}"
        problem = f"the keys of issuer {issuer.name} cannot be read: {error.strerror or error}"
        raise IdentityMistakes([Complaint(str(file), 1, 1, "", problem, remedy)]) from None
    except KeyMistakes as error:
        raise IdentityMistakes([Complaint(str(file), 1, 1, *mistake) for mistake in error.mistakes]) from None


def _entry(agent: AgentSettings) -> Entry:
    registered = Agent(
        id=agent.id,
        owner=agent.owner,
        team=agent.team,
        cost_center=agent.cost_center,
        category=agent.category or "",
        tags=tuple(sorted(agent.tags.items())),
    )
    return Entry(registered, agent.issuer, agent.subject, agent.claims)


def _principal(valid: ValidClaims, agent: Agent) -> Principal:
    return Principal(
        agent=agent,
        issuer=valid.issuer.name,
        iss=valid.issuer.iss,
        subject=valid.subject,
        assurance="bearer",
        key_id=valid.key.id,
        token_id=valid.token_id,
        expires=float(valid.expires),
        on_behalf_of=valid.on_behalf_of,
        chain=valid.chain,
        run=valid.run,
        incarnation=valid.incarnation,
        parent_run=valid.parent_run,
        scope=valid.scope,
        limits=valid.limits,
    )
