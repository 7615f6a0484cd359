"""Who calls, from what was verified: one `Principal` for each kind of credential, and nowhere else one is made.

What a delegated agent's token says beyond that is added beside its rules, in `delegation.py`.
"""

from __future__ import annotations

import functools

from gateway.core.principal import Agent, Binding, Principal, StopKey, assured
from gateway.identity import api_keys
from gateway.identity.certificates import Svid, Svids
from gateway.identity.kinds import MAX_TIME
from gateway.identity.tokens import ValidClaims


def of_token(valid: ValidClaims, agent: Agent) -> Principal:
    """Who comes with a signed token."""
    return Principal(
        agent=agent,
        issuer=valid.issuer.name,
        iss=valid.issuer.iss,
        subject=valid.subject,
        assurance=assured(valid.binding),
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
        binding=valid.binding,
        context=valid.context,
        stops=_stops(agent, valid.issuer.name, valid.token_id),
    )


def of_svid(svid: Svid, svids: Svids, agent: Agent) -> Principal:
    """Who comes with an X.509-SVID and nothing else."""
    certificate = svid.certificate
    binding = Binding("x5t#S256", certificate.thumbprint)
    return Principal(
        agent=agent,
        issuer=svids.issuer,
        iss=svids.identifier,
        subject=svid.subject,
        assurance=assured(binding),
        key_id=certificate.key_id,
        token_id=certificate.thumbprint,
        expires=certificate.ends,
        binding=binding,
        stops=_stops(agent, svids.issuer, certificate.thumbprint),
    )


def of_api_key(digest: str, agent: Agent) -> Principal:
    """Who comes with an API key; `digest` is its SHA-256 in hex."""
    return Principal(
        agent=agent,
        issuer=api_keys.ISSUER,
        iss=api_keys.IDENTIFIER,
        subject=agent.id,
        assurance="key",
        key_id=digest[:16],
        token_id=digest,
        expires=float(MAX_TIME),
        stops=_stops(agent, api_keys.ISSUER, digest),
    )


def _stops(agent: Agent, issuer: str, token_id: str) -> frozenset[StopKey]:
    """What an operator may stop to stop this caller."""
    return frozenset((*_lasting(agent.id, issuer), StopKey("token", token_id)))


@functools.lru_cache(4096)
def _lasting(agent: str, issuer: str) -> tuple[StopKey, StopKey]:
    """What all tokens of an agent have in common: made once, since an agent comes with many."""
    return StopKey("agent", agent), StopKey("issuer", issuer)
