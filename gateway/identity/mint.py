"""Mint a token for a registered agent or an operator, for development: what its issuer would say in production."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from gateway.core.ids import RUN_ID, new_id
from gateway.identity.issue import IssueError, PrivateKey, key_file, load_key, private_file
from gateway.identity.keys import KeyMistakes, read_jwks
from gateway.identity.kinds import AT_JWT
from gateway.identity.registry import one_segment
from gateway.identity.settings import AgentSettings, IdentitySettings, IssuerSettings


class Minted(NamedTuple):
    """A token and what it says."""

    token: str
    subject: str
    expires: int  # epoch seconds


def mint(
    identity: IdentitySettings,
    agents: Sequence[AgentSettings],
    agent_id: str,
    *,
    ttl: float,
    now: float,
    subject: str | None = None,
    on_behalf_of: str | None = None,
    run: str | None = None,
    incarnation: str | None = None,
    parent_run: str | None = None,
    key_file: Path | None = None,
) -> Minted:
    """Sign a token that this configuration accepts for `agent_id`; `ttl` in seconds, `now` in epoch seconds.

    Raises `IssueError` where it could not be accepted, and `OSError` where a file cannot be read.
    """
    agent = _agent(agents, agent_id)
    if not agent.issuer:
        raise IssueError(f"agent {agent_id} has API keys and no tokens: use one (`passgate keys api` makes them)")
    ids = {"run": run, "inc": incarnation, "parent_run": parent_run}
    for name, value in ids.items():
        if value is not None and not RUN_ID.fullmatch(value):
            raise IssueError(f"{name} {value!r} is not 1 to 128 letters, digits and ._~:@+=-")
    subject = _subject(agent, subject)
    named = {name: value for name, value in ids.items() if value is not None}
    claims: dict[str, object] = {**agent.claims, "sub": subject, **named}
    if on_behalf_of is not None:  # RFC 8693 §4.1: the user is the subject, the agent acts
        claims |= {"sub": on_behalf_of, "act": {"sub": subject}}
    return mint_for(identity, agent.issuer, subject, claims, ttl=ttl, now=now, key_file=key_file)


def mint_for(
    identity: IdentitySettings,
    issuer_name: str,
    subject: str,
    claims: Mapping[str, object] = MappingProxyType({}),
    *,
    ttl: float,
    now: float,
    key_file: Path | None = None,
) -> Minted:
    """Sign a token of this issuer for whoever has the subject, such as an operator; else as `mint`."""
    issuer = next((one for one in identity.issuers if one.name == issuer_name), None)
    if issuer is None:
        raise IssueError(f"issuer {issuer_name} is not configured")
    if not 1 <= ttl <= issuer.max_lifetime:
        raise IssueError(
            f"a token of issuer {issuer.name} may live for 1 s to {issuer.max_lifetime:g} s (max_lifetime)"
        )
    start, key = int(now), _key(issuer, key_file)
    times = {"iat": start, "exp": start + int(ttl)}
    whole = {
        "sub": subject,
        **claims,
        "iss": issuer.identifier,
        "aud": identity.audience,
        "jti": new_id("tok"),
        **times,
    }
    typ = AT_JWT if AT_JWT in issuer.typ else issuer.typ[0]
    token = key.sign({"typ": typ}, whole)
    return Minted(token, subject, times["exp"])


def _agent(agents: Sequence[AgentSettings], agent_id: str) -> AgentSettings:
    for agent in agents:
        if agent.id == agent_id:
            return agent
    known = ", ".join(agent.id for agent in agents[:20])
    raise IssueError(f"there is no agent {agent_id!r}: add it under `agents:`, or use one of {known or 'none'}")


def _subject(agent: AgentSettings, asked: str | None) -> str:
    """The subject to put into the token, which must be this agent's."""
    if not agent.subject:  # its claims alone decide
        return asked or agent.id
    if agent.subject.endswith("*"):
        if asked is None or one_segment(asked) != agent.subject:
            raise IssueError(f"agent {agent.id} has many subjects: choose one of {agent.subject} with --subject")
        return asked
    if asked not in {None, agent.subject}:
        raise IssueError(f"agent {agent.id} has the subject {agent.subject} and no other")
    return agent.subject


def _key(issuer: IssuerSettings, file: Path | None) -> PrivateKey:
    """The private key that signs, once it is sure that the gateway accepts it."""
    public_file = key_file(issuer)
    secret_file = file or private_file(public_file)
    try:
        key = load_key(secret_file)
    except FileNotFoundError:
        raise IssueError(f"{secret_file} is missing: run `passgate keys new --issuer {issuer.name}`") from None
    if key.alg not in issuer.algs:
        raise IssueError(f"{secret_file} is an {key.alg} key: add {key.alg} to `algs` of issuer {issuer.name}")
    try:
        public = read_jwks(public_file.read_bytes()).find(key.kid, key.alg)
    except FileNotFoundError:
        public = None
    except KeyMistakes as error:
        raise IssueError(f"{public_file}: {error}") from None
    if public is None:
        raise IssueError(
            f"{public_file} does not hold the public key to {secret_file}: "
            f"run `passgate keys new --issuer {issuer.name} --rotate`"
        )
    return key
