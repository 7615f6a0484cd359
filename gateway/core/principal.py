"""Who calls: the registered agent and the verified caller."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import force_setattr

ASSURANCE: Final = ("key", "bearer", "bound", "mtls")
"""How sure it is that a caller is who it says, weakest first."""
PROVABLE: Final = {"jkt": "bound", "x5t#S256": "mtls"}
"""The members of `cnf` that a request can prove (RFC 9449 §6.1, RFC 8705 §3.1), and the assurance that it gives."""


@dataclass(frozen=True, slots=True)
class Agent:
    """An entry of the registry: a workload with an owner and the accounts it is charged to."""

    id: str
    owner: str = ""
    team: str = ""
    cost_center: str = ""
    category: str = ""  # workflow | bounded | open
    tags: tuple[tuple[str, str], ...] = ()


class Binding(NamedTuple):
    """The key that a credential is bound to: whoever cannot prove to have it, has nothing (RFC 7800)."""

    method: str  # jkt (DPoP) | x5t#S256 (mutual TLS): the member of `cnf`
    thumbprint: str  # SHA-256 of the key's JWK (RFC 7638) or of the certificate, base64url


def assured(binding: Binding | None) -> str:
    """The assurance of a token with this binding, once it is proven."""
    return PROVABLE[binding.method] if binding is not None else "bearer"


class StopKey(NamedTuple):
    """Something that an operator can stop; whoever rests on it stops with it."""

    kind: str  # agent | issuer | token | run
    id: str


class Principal(Struct, frozen=True):
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
    binding: Binding | None = None
    context: Mapping[str, object] = MappingProxyType({})  # a transaction token's `tctx`
    # What delegation adds; a token from the agent's own issuer has depth 0.
    depth: int = 0
    vouched_by: str = ""  # the name of the issuer that the delegation began with; else `issuer`
    root: tuple[str, str] | None = None  # whose run a delegated token's claim `run` names
    tools: tuple[str, ...] | None = None  # what it may use at most, as policies write it; `None` does not narrow
    models: tuple[str, ...] | None = None
    stops: frozenset[StopKey] = frozenset()  # stopping one of these stops it
    owner: tuple[str, str] = ("", "")  # derived, like `vouched_by` where it is empty

    def __post_init__(self) -> None:
        """Derive once what is asked for on every call."""
        force_setattr(self, "owner", (self.iss + _within(self.root), self.subject))
        if not self.vouched_by:
            force_setattr(self, "vouched_by", self.issuer)


def _within(root: tuple[str, str] | None) -> str:
    """What keeps the children of different roots apart: their subjects may read alike."""
    return "#" + hashlib.sha256("\0".join(root).encode("utf-8", "surrogatepass")).hexdigest()[:32] if root else ""
