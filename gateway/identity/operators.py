"""Signed tokens of operators: who asks the admin listener, by the word of a configured issuer.

1. A token passes the steps of an agent's (`tokens.py`), with the keys of its issuer that hold now. Only issuers that
   some operator is of are listened to; the gateway itself, which signs for agents alone, is none of them.
2. It says of one person that he asks, and nothing else: nobody acts for another in it (I19), it is no one
   transaction's, and it is not for an MCP server behind this gateway (I7).
3. It is bound to no key. The admin listener asks for no proof, and without one such a token is a stolen one (I15).
4. It is no agent's: whatever the registry lets in as an agent stays one, whoever is its subject.
5. Issuer and subject are those of an operator, character by character (I12), and neither the issuer nor the token
   is stopped.

All causes share one public sentence, but for a token that was right and has expired, and for keys that cannot be had.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from gateway.core.clock import Clock
from gateway.core.errors import Refusal
from gateway.core.principal import StopKey
from gateway.core.sources import Sources
from gateway.core.stop import Stop
from gateway.identity import issuer_keys, registered
from gateway.identity.keys import read_jwks
from gateway.identity.registry import Registry
from gateway.identity.settings import AgentSettings, IdentitySettings
from gateway.identity.tokens import Issuer, KeyUnknown, ValidClaims, Verifier

SENTENCE: Final = (
    "this is not an operator's token; send one of `operators`, or the admin token; "
    "what is wrong with a signed one stands in the gateway's log"
)


class Subject(NamedTuple):
    """Who an operator is at an issuer."""

    issuer: str  # its name in the configuration
    name: str  # the `sub` of its tokens


def no_operator(detail: str) -> Refusal:
    """The one refusal for every cause (401); `detail` goes to the log."""
    return Refusal("identity_invalid", SENTENCE, detail=detail)


class OperatorTokens:
    """Verifies the tokens of operators, for as long as one configuration is in force."""

    def __init__(
        self,
        operators: Iterable[Subject],
        settings: IdentitySettings,
        agents: Sequence[AgentSettings],
        sources: Sources,
        clock: Clock,
        *,
        keys: Callable[[], Mapping[str, bytes | None]],
        fetch: Callable[[str], Awaitable[None]],
        stopped: Callable[[Iterable[StopKey]], Stop | None],
    ) -> None:
        """Read the key files of the issuers of `operators`; raises `IdentityMistakes`.

        `keys` gives the fetched keys that hold now (a JWK set by issuer name, `None` for none), `fetch` has those of
        one issuer fetched again, `stopped` finds what an operator has stopped.
        """
        self._operators = frozenset(operators)
        names = {operator.issuer for operator in self._operators}
        issuers = [Issuer.of(one, issuer_keys(one, sources)) for one in settings.issuers if one.name in names]
        self._verifier = Verifier(issuers, audience=settings.audience, public_url=None, skew=settings.skew, clock=clock)
        self._fetched = [issuer for issuer in issuers if issuer.fetched]
        self._adopted: dict[str, bytes | None] = {}
        self._registry = Registry(registered(agent) for agent in agents if agent.issuer in names)
        self._keys = keys
        self._fetch = fetch
        self._stopped = stopped

    async def verify(self, token: str) -> Subject:
        """Whose token this is; raises `Refusal` (`identity_invalid`, `identity_expired`, `…_source_unavailable`)."""
        try:
            valid = await self._valid(token)
        except Refusal as refusal:
            raise _for_operators(refusal) from None
        operator = Subject(valid.issuer.name, valid.subject)
        if "act" in valid.claims or valid.kind.user:
            raise no_operator("somebody acts for somebody else in the token, and operators speak for themselves")
        if valid.binding is not None:
            raise no_operator("the token is bound to a key (cnf), of which the admin listener takes no proof")
        if agents := self._registry.named(*operator, valid.claims):
            raise no_operator(f"the token is that of agent {agents[0].id}")
        if operator not in self._operators:
            raise no_operator(f"no operator has the subject {operator.name!r} of issuer {operator.issuer}")
        if stop := self._stopped((StopKey("issuer", operator.issuer), StopKey("token", valid.token_id))):
            raise no_operator(f"{stop.key.kind} {stop.key.id} was stopped by operator {stop.by}")
        return operator

    async def _valid(self, token: str) -> ValidClaims:
        self._adopt()
        try:
            return self._verifier.verify(token)
        except KeyUnknown as unknown:
            if not unknown.issuer.fetched:
                raise
            await self._fetch(unknown.issuer.name)
        self._adopt()
        return self._verifier.verify(token)

    def _adopt(self) -> None:
        """Go by the fetched keys that hold at this moment."""
        held = self._keys()
        for issuer in self._fetched:
            data = held.get(issuer.name)
            if data != self._adopted.get(issuer.name):
                issuer.keys = read_jwks(data, issuer.uses) if data is not None else None
                self._adopted[issuer.name] = data


def _for_operators(refusal: Refusal) -> Refusal:
    """What the steps say to agents, in the words of the admin listener."""
    if refusal.code == "identity_invalid":
        return no_operator(refusal.detail or refusal.sentence)
    if refusal.code == "identity_expired":
        sentence = f"the token expired at {refusal.fields['expired_at']}; get a new one from its issuer"
        return Refusal(refusal.code, sentence, detail=refusal.detail, fields=refusal.fields)
    return refusal
