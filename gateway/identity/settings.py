"""What can be set about identity: whose tokens count, and which agents there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from gateway.settings.types import NON_EMPTY, Later, Name, Text, duration

Algorithm = Literal[
    "EdDSA", "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"
]  # fmt: skip
Category = Literal["workflow", "bounded", "open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings:
    """Where an issuer's public keys come from."""

    NOT_BUILT: ClassVar[Mapping[str, str]] = {
        "url": "keys from a URL are not built yet: save the issuer's JWKS to a file and name it with `file`",
        "oidc": "keys by OIDC discovery are not built yet: save the issuer's JWKS to a file and name it with `file`",
    }

    file: Path
    """A JWK Set (RFC 7517) of public keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerSettings:
    """One issuer whose tokens count."""

    NOT_BUILT: ClassVar[Mapping[str, str]] = {
        "trust_domain": "SPIFFE trust domains are not built yet",
        "require_proof": "bound tokens (DPoP, mTLS) are not built yet",
    }

    name: Name
    """How agents and logs name this issuer."""
    iss: Text
    """The `iss` claim of its tokens, compared byte by byte."""
    kinds: Annotated[
        tuple[Annotated[Literal["jwt"], Later("jwt-svid", "at+jwt", "k8s", "txn-token")], ...], NON_EMPTY
    ] = ("jwt",)
    """Which rules its tokens follow."""
    algs: Annotated[tuple[Algorithm, ...], NON_EMPTY] = ("EdDSA", "ES256")
    """Which signature algorithms (RFC 7518, RFC 8037) it may use; none of them takes a shared secret."""
    typ: Annotated[tuple[Text, ...], NON_EMPTY] = ("at+jwt", "JWT")
    """Which `typ` headers its tokens may have."""
    max_lifetime: Annotated[float, duration("1s", "366d")] = 43200.0
    """How long its tokens may live at most."""
    keys: KeySettings
    """Its public keys."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """The name of the gateway's own tokens is taken."""
        if self.name == "gateway":
            yield "name", "`gateway` names the gateway's own tokens", "choose another name"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySettings:
    """Whose tokens count, and for whom they must be meant."""

    NOT_BUILT: ClassVar[Mapping[str, str]] = {"require_proof": "bound tokens (DPoP, mTLS) are not built yet"}

    audience: Text
    """What the `aud` claim of every token must name."""
    skew: Annotated[float, duration("0s", "10m")] = 30.0
    """How far clocks may disagree."""
    issuers: Annotated[tuple[IssuerSettings, ...], NON_EMPTY]
    """The issuers; a token of any other is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """One entry of the registry: which tokens are this agent's, and whose accounts it is charged to."""

    NOT_BUILT: ClassVar[Mapping[str, str]] = {"require_proof": "bound tokens (DPoP, mTLS) are not built yet"}

    id: Name
    """How policies, metrics and reports name the agent."""
    issuer: Name
    """The name of the issuer of its tokens."""
    subject: Text = ""
    """The agent's subject; a `*` may stand for the whole last segment, after `/` or `:`. Empty: `claims` decide."""
    claims: Mapping[Text, Text] = field(default_factory=dict)
    """Claims that must have these very values."""
    owner: Text = ""
    """Who answers for it: a mailbox or a group."""
    team: Text = ""
    """The team that it is charged to."""
    cost_center: Text = ""
    """The cost center that it is charged to."""
    category: Category | None = None
    """How freely it acts: a fixed `workflow`, `bounded` by its tools, or `open`."""
    tags: Mapping[Name, Text] = field(default_factory=dict)
    """Anything else that reports should carry."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """An agent is matched by something, and a wildcard never reaches over a segment."""
        if not self.subject and not self.claims:
            yield (
                "",
                "nothing says which tokens are this agent's",
                "name a `subject`, or `claims` such as {azp: my-app}",
            )
        if "*" in self.subject and not (self.subject.count("*") == 1 and self.subject.endswith(("/*", ":*"))):
            problem = f"{self.subject!r} has a `*` that is not the whole last segment"
            yield "subject", problem, "write it as the end, after / or :"
