"""What can be set about the three listeners, the operators, and what a request may cost the gateway."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from gateway.identity.registry import one_segment
from gateway.identity.settings import AgentSettings, IdentitySettings
from gateway.settings.types import (
    NON_EMPTY,
    Bind,
    BindAddress,
    Name,
    Pattern,
    Text,
    Url,
    count,
    size,
)

_AGENTS: Final = Bind("127.0.0.1", 8080)
_METRICS: Final = Bind("127.0.0.1", 9464)
_ADMIN: Final = Bind("127.0.0.1", 9901)

HostName = Annotated[
    str,
    Pattern("a host", r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", "a name such as gateway.example"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """The certificate of a listener; changed contents of these files are taken over without a restart."""

    cert: Path
    """The certificate chain as PEM."""
    key: Path
    """Its private key as PEM."""
    client_ca: Path | None = None
    """The authorities (PEM) of client certificates: on `agents` a client may show one, elsewhere it must."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorSettings:
    """One listener."""

    bind: Annotated[Bind, BindAddress()]
    """IP and port."""
    hosts: Annotated[tuple[HostName, ...], NON_EMPTY] = ()
    """Which `Host` headers are answered; without it the bound address and localhost."""
    tls: TlsSettings | None = None
    """Serve TLS with this certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentsDoorSettings(DoorSettings):
    """The listener for agents."""

    bind: Annotated[Bind, BindAddress()] = _AGENTS
    """IP and port."""
    public_url: Annotated[str, Url()] | None = None
    """How agents reach it, where that is not the bound address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsDoorSettings(DoorSettings):
    """The listener for metrics and health."""

    bind: Annotated[Bind, BindAddress()] = _METRICS
    """IP and port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminDoorSettings(DoorSettings):
    """The listener for operators."""

    bind: Annotated[Bind, BindAddress()] = _ADMIN
    """IP and port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenSettings:
    """The three listeners."""

    agents: AgentsDoorSettings = field(default_factory=AgentsDoorSettings)
    """For agents."""
    metrics: MetricsDoorSettings = field(default_factory=MetricsDoorSettings)
    """For metrics and health."""
    admin: AdminDoorSettings = field(default_factory=AdminDoorSettings)
    """For operators."""

    @property
    def doors(self) -> dict[str, DoorSettings]:
        """All three by name."""
        return {"agents": self.agents, "metrics": self.metrics, "admin": self.admin}


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """A person or a program that may use the admin listener."""

    id: Name
    """How logs name the operator."""
    issuer: Name = ""
    """The name of the issuer of the operator's tokens."""
    subject: Text = ""
    """The subject of these tokens, character by character."""
    token_sha256: Annotated[
        str, Pattern("a SHA-256", "[0-9a-f]{64}", '64 hex digits: printf %s "$TOKEN" | sha256sum')
    ] = ""
    """In place of both: the SHA-256 of a token of the operator's own, in hex."""
    roles: Annotated[tuple[Literal["viewer", "finance", "approver", "operator"], ...], NON_EMPTY]
    """What the operator may do."""
    groups: tuple[Text, ...] = ()
    """Which groups of approvers the operator belongs to."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """There is one way to know the operator, and a person is never a pattern."""
        if self.token_sha256 and (self.issuer or self.subject):
            yield "token_sha256", "the operator has tokens of an issuer too", "keep one of both"
        elif not self.token_sha256 and not self.issuer:
            yield "", "nothing says whose tokens are this operator's", "name `issuer` and `subject`, or `token_sha256`"
        elif self.issuer and not self.subject:
            yield "subject", "nothing says whom the issuer vouches for", "name the `sub` claim of the operator's tokens"
        if self.subject.endswith(("/*", ":*")):
            yield "subject", f"{self.subject!r} would be many people", "name one, and make an entry of each"


def operator_mistakes(
    operators: Sequence[OperatorSettings], identity: IdentitySettings, agents: Sequence[AgentSettings]
) -> Iterator[tuple[tuple[int, str], str, str]]:
    """What is wrong with operators beside issuers and agents: (index, key), problem, remedy of each.

    An agent that could have an operator's token could approve of itself; one with `claims` is told apart by them.
    """
    issuers = {issuer.name: issuer for issuer in identity.issuers}
    anybody = {(agent.issuer, agent.subject): agent.id for agent in agents if not agent.claims}
    seen: dict[tuple[str, str], str] = {}
    for index, operator in enumerate(operators):
        if not (operator.issuer and operator.subject):
            continue
        issuer = issuers.get(operator.issuer)
        if issuer is None:
            problem = f"there is no issuer {operator.issuer}"
            yield (index, "issuer"), problem, f"identity.issuers has {', '.join(sorted(issuers)) or 'none'}"
        elif set(issuer.kinds) == {"x509-svid"}:
            yield (index, "issuer"), f"issuer {issuer.name} signs no tokens", "name another one, or use token_sha256"
        elif identity.require_proof or issuer.require_proof:
            problem = f"tokens of issuer {issuer.name} must be bound to a key, and the admin listener takes no proof"
            yield (index, "issuer"), problem, "name an issuer without `require_proof`, or use token_sha256"
        place = operator.issuer, operator.subject
        agent = anybody.get(place) or anybody.get((operator.issuer, one_segment(operator.subject)))
        if agent is not None:
            problem = f"agent {agent} has tokens with this subject, and no agent may act as an operator"
            yield (index, "subject"), problem, "give the operator a subject of its own, or tell the agent by `claims`"
        if place in seen:
            problem = f"operator {seen[place]} has the same issuer and subject"
            yield (index, "subject"), problem, "make one entry of both: its `roles` and `groups` are lists"
        seen.setdefault(place, operator.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsSettings:
    """What requests may cost the gateway."""

    NOT_BUILT: ClassVar[Mapping[str, str]] = {"per_agent": "limits per agent are not built yet"}

    body: Annotated[int, size("1KiB", "1 GiB")] = 32 * 1024 * 1024
    """The largest request body."""
    buffered: Annotated[int, size("1MiB", "1 TiB")] = 512 * 1024 * 1024
    """All request bodies together that one worker holds."""
    json_depth: Annotated[int, count("1", "500")] = 64
    """How deep JSON may nest."""
    json_keys: Annotated[int, count("1", "10M")] = 100_000
    """How many object members a body may have."""
    json_elements: Annotated[int, count("1", "100M")] = 2_000_000
    """How many values a body may have."""
    concurrency: Annotated[int, count("1", "1M")] = 2000
    """How many calls one worker serves at once."""
