"""The registry of agents: which verified subject is which agent.

An entry names its agent by issuer and subject, by issuer and claims, or by all three. A subject is
compared character by character; `*` as its whole last segment, after `/` or `:`, stands for one
non-empty segment. A token that two entries claim is nobody's: which one is meant would otherwise
hang on their order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gateway.core.errors import Refusal
from gateway.core.principal import Agent


class Entry(NamedTuple):
    """One line of the registry."""

    agent: Agent
    issuer: str  # the issuer's name in the config
    subject: str  # exact, or ending in `/*` or `:*`; empty: the claims alone decide
    claims: Mapping[str, str]  # each must be there with exactly this text


class Registry:
    """All agents, found by what a token says."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._found: defaultdict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in entries:
            self._found[entry.issuer, entry.subject].append(entry)

    def find(self, issuer: str, subject: str, claims: Mapping[str, object]) -> Agent:
        """The one agent that a verified token names; raises `Refusal` where there is none or more than one."""
        matching = [
            entry.agent
            for pattern in {subject, one_segment(subject), ""}
            for entry in self._found.get((issuer, pattern), ())
            if all(claims.get(name) == value for name, value in entry.claims.items())
        ]
        if not matching:
            raise Refusal(
                "agent_unknown",
                f"the token is valid, but no agent is registered for subject {subject!r} of issuer {issuer!r}; "
                "ask an operator to add it under `agents:` with this issuer and subject",
                fields={"issuer": issuer, "subject": subject},
            )
        if len(matching) > 1:
            raise Refusal(
                "agent_ambiguous",
                f"more than one registered agent matches subject {subject!r} of issuer {issuer!r}; "
                "ask an operator to make the entries under `agents:` disjoint",
                detail=f"matching agents: {', '.join(agent.id for agent in matching)}",
                fields={"issuer": issuer, "subject": subject},
            )
        return matching[0]


def one_segment(subject: str) -> str:
    """The only pattern with `*` that a subject can match: its last segment, after `/` or `:`, replaced.

    A subject without a segment before or with an empty last one gives text that no pattern can be.
    """
    cut = max(subject.rfind("/"), subject.rfind(":")) + 1
    return f"{subject[:cut]}*" if 0 < cut < len(subject) else ""
