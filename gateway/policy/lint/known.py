"""What the configuration has that policies speak of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Arguments(NamedTuple):
    """What is known of the arguments of an operation."""

    required: frozenset[str]  # every call has them
    names: frozenset[str]  # those that are declared
    closed: bool  # there can be no others


class Registered(NamedTuple):
    """What an agent's entry in the registry says."""

    team: str
    category: str
    tags: frozenset[str]  # their names


@dataclass(frozen=True, slots=True)
class Known:
    """The names that the configuration has; what is `None` is not known, and nothing is checked against it.

    Models may end in `*`, as routes do.
    """

    agents: frozenset[str] | None = None
    teams: frozenset[str] | None = None
    issuers: frozenset[str] | None = None
    models: frozenset[str] | None = None
    tools: frozenset[str] | None = None
    providers: frozenset[str] | None = None
    approvers: frozenset[str] | None = None  # `group:NAME`, and ids of operators with the role approver
    attesters: Mapping[str, frozenset[str]] | None = None  # the steps that each may attest
    arguments: Mapping[str, Arguments] | None = None  # by `server.operation`
    registry: Mapping[str, Registered] | None = None  # by the agent's id


def meets(entry: str, name: str) -> bool:
    """Whether some value fits both, where either may end in `*`, or be `any`."""
    if entry in {"any", "*"} or name in {"any", "*"}:
        return True
    if entry.endswith("*"):
        start = entry[:-1]
        return name.startswith(start) or (name.endswith("*") and start.startswith(name[:-1]))
    return entry == name or (name.endswith("*") and entry.startswith(name[:-1]))
