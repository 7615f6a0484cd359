"""Who calls: the registered agent and the verified caller."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Agent:
    """An entry of the registry: a workload with an owner and the accounts it is charged to."""

    id: str
    owner: str = ""
    team: str = ""
    cost_center: str = ""
    category: str = ""  # workflow | bounded | open
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified caller: made by `identity/` alone, from a credential that passed every step.

    Ownership (runs, caches, objects) goes by `owner`, never by the registry entry that matched.
    """

    agent: Agent
    issuer: str  # the issuer's name in the config
    iss: str  # the issuer's own identifier
    subject: str  # the agent's subject at that issuer
    assurance: str  # key | bearer | bound | mtls
    key_id: str
    token_id: str  # jti, else the SHA-256 of the signing input
    expires: float  # epoch seconds
    on_behalf_of: str = ""
    chain: tuple[str, ...] = ()  # outermost actor first; history, never a ground for a decision
    run: str | None = None  # the run that the credential itself names
    incarnation: str | None = None
    parent_run: str | None = None
    scope: frozenset[str] | None = None
    limits: tuple[tuple[str, int], ...] = ()
    owner: tuple[str, str] = field(init=False)

    def __post_init__(self) -> None:
        """Derive the owner once: it is asked for on every call."""
        object.__setattr__(self, "owner", (self.iss, self.subject))
