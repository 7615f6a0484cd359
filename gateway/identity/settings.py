"""What can be set about identity: whose tokens count, and which agents there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from gateway.identity.api_keys import ISSUER
from gateway.identity.kinds import media_type
from gateway.outbound.destination import is_localhost, is_loopback
from gateway.settings.types import NON_EMPTY, Name, Pattern, Text, Url, duration

Algorithm = Literal[
    "EdDSA", "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"
]  # fmt: skip
Category = Literal["workflow", "bounded", "open"]
Kind = Literal["jwt", "jwt-svid", "x509-svid", "at+jwt", "k8s", "txn-token"]

SPIFFE_KINDS: Final = frozenset({"jwt-svid", "x509-svid"})
_TAKEN: Final = {"gateway": "the gateway's own tokens", ISSUER: "the holders of API keys"}
_UNTYPED: Final = frozenset({"jwt", "jwt-svid", "k8s"})  # their `typ` is JWT, or none


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings:
    """Where an issuer's public keys come from: one of `file`, `url` and `oidc`."""

    file: Path | None = None
    """A JWK Set (RFC 7517) or SPIFFE bundle on disk; a change of it is taken over by itself."""
    url: Annotated[str, Url()] | None = None
    """The address of a JWK Set or SPIFFE bundle, fetched in the background."""
    oidc: Annotated[str, Url()] | None = None
    """An OpenID provider: its discovery document (`/.well-known/openid-configuration`) names the JWK Set."""
    refresh: Annotated[float, duration("10s", "1d")] = 300.0
    """How often they are fetched; a SPIFFE bundle's own hint comes first."""
    stale: Annotated[float, duration("0s", "30d")] = 86400.0
    """For how long the last good keys hold while no new ones can be fetched."""
    allow_internal: bool = False
    """Whether they may be fetched from an internal address."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """There is one place that keys come from."""
        named = [name for name in ("file", "url", "oidc") if getattr(self, name) is not None]
        if len(named) != 1:
            problem = f"names {' and '.join(named)}" if named else "names no place that keys come from"
            yield "", problem, "name one of `file`, `url` and `oidc`"
        for name in ("url", "oidc"):
            address = urlsplit(getattr(self, name) or "")
            host = address.hostname or ""
            if address.scheme == "http" and not (self.allow_internal or is_loopback(host) or is_localhost(host)):
                problem = "keys that are fetched without TLS can be exchanged on their way"
                yield name, problem, "write https://, or allow_internal: true in a network of your own"


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerSettings:
    """One issuer whose tokens count."""

    name: Name
    """How agents and logs name this issuer."""
    iss: Text = ""
    """The `iss` claim of its tokens, compared byte by byte; SPIFFE issuers may go without, their SVIDs need none."""
    kinds: Annotated[tuple[Kind, ...], NON_EMPTY] = ("jwt",)
    """Which kinds of credential it gives out; each has its own rules."""
    algs: Annotated[tuple[Algorithm, ...], NON_EMPTY] = ("EdDSA", "ES256")
    """Which signature algorithms (RFC 7518, RFC 8037) it may use; none of them takes a shared secret."""
    typ: Annotated[tuple[Text, ...], NON_EMPTY] = ("at+jwt", "JWT")
    """Which `typ` headers tokens of kind `jwt` may have; the other kinds say so themselves."""
    trust_domain: (
        Annotated[
            str, Pattern("a SPIFFE trust domain", "[a-z0-9._-]{1,255}", "its lower-case name, such as acme.example")
        ]
        | None
    ) = None
    """The SPIFFE trust domain that it speaks for; needed for `jwt-svid` and `x509-svid`."""
    max_lifetime: Annotated[float, duration("1s", "366d")] = 43200.0
    """How long its tokens may live at most."""
    require_proof: bool = False
    """Whether its tokens must be bound to a key (DPoP, mTLS), so that a stolen one is worthless."""
    keys: KeySettings | None = None
    """Its public keys; an issuer of `x509-svid` alone has none, `listen.agents.tls.client_ca` vouches for those."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """Two names are the gateway's own; kinds that a token cannot tell apart exclude each other."""
        if taken := _TAKEN.get(self.name):
            yield "name", f"`{self.name}` names {taken}", "choose another name"
        kinds = set(self.kinds)
        if len(alike := [kind for kind in self.kinds if kind in _UNTYPED]) > 1:
            yield "kinds", f"{' and '.join(alike)} cannot be told apart by their tokens", "make an issuer of each"
        if "jwt-svid" in kinds and kinds - SPIFFE_KINDS:
            yield "kinds", "a trust domain's keys sign JWT-SVIDs and no other tokens", "make an issuer of each"
        if "txntoken+jwt" in map(media_type, self.typ):
            yield "typ", "a transaction token is read by rules of its own", "add txn-token to `kinds` instead"
        spiffe = kinds & SPIFFE_KINDS
        if spiffe and self.trust_domain is None:
            yield "trust_domain", f"{' and '.join(sorted(spiffe))} need a trust domain", "name it: acme.example"
        if not spiffe and self.trust_domain is not None:
            yield "trust_domain", "only kinds jwt-svid and x509-svid have a trust domain", "remove it, or add the kind"
        if not self.iss and kinds - SPIFFE_KINDS:
            yield "iss", "tokens are told apart by their issuer", "name the `iss` claim of its tokens"
        if kinds != {"x509-svid"} and self.keys is None:
            yield "keys", "its tokens cannot be verified without public keys", "name them: {file: ...}, {url: ...}"
        if kinds == {"x509-svid"} and self.keys is not None:
            yield "keys", "x509-svid alone uses no keys", "remove them: listen.agents.tls.client_ca vouches for those"

    @property
    def fetched(self) -> bool:
        """Whether its keys are fetched, and not read from a file."""
        return self.keys is not None and self.keys.file is None

    @property
    def identifier(self) -> str:
        """Who it is to the rest of the world: `iss`, else its trust domain's SPIFFE ID."""
        return self.iss or f"spiffe://{self.trust_domain}"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySettings:
    """Whose tokens count, and for whom they must be meant."""

    audience: Text
    """What the `aud` claim of every token must name."""
    skew: Annotated[float, duration("0s", "10m")] = 30.0
    """How far clocks may disagree."""
    issuers: Annotated[tuple[IssuerSettings, ...], NON_EMPTY]
    """The issuers; a token of any other is refused."""
    require_proof: bool = False
    """Whether every token must be bound to a key (DPoP, mTLS)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """One entry of the registry: which tokens are this agent's, and whose accounts it is charged to."""

    id: Name
    """How policies, metrics and reports name the agent."""
    issuer: Name = ""
    """The name of the issuer of its tokens; not needed for an agent that has API keys alone."""
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
    require_proof: bool = False
    """Whether its tokens must be bound to a key (DPoP, mTLS)."""
    key_sha256: tuple[
        Annotated[str, Pattern("a SHA-256", "[0-9a-f]{64}", "64 hex digits, as `passgate keys api` prints them")], ...
    ] = ()
    """The SHA-256 of API keys that are this agent's, in hex; for development: whoever has such a key is the agent."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """An agent is matched by something, and a wildcard never reaches over a segment."""
        if not self.issuer and (self.subject or self.claims or not self.key_sha256):
            yield "issuer", "nothing says who issues this agent's tokens", "name one of `identity.issuers`"
        if self.issuer and not self.subject and not self.claims:
            yield (
                "",
                "nothing says which tokens are this agent's",
                "name a `subject`, or `claims` such as {azp: my-app}",
            )
        if self.key_sha256 and self.require_proof:
            yield "require_proof", "an API key can never be proven, so that this agent's would not count", "remove one"
        if "*" in self.subject and not (self.subject.count("*") == 1 and self.subject.endswith(("/*", ":*"))):
            problem = f"{self.subject!r} has a `*` that is not the whole last segment"
            yield "subject", problem, "write it as the end, after / or :"
