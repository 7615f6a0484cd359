"""The registry of agents: which verified subject is which agent, and whose an API key is.

An entry names its agent by issuer and subject, by issuer and claims, or by all three. A subject is
compared character by character; `*` as its whole last segment, after `/` or `:`, stands for one
non-empty segment. A token that two entries claim is nobody's: which one is meant would otherwise
hang on their order.

However many agents there are, a lookup costs the same. A subject can meet three patterns alone (itself, its
wildcard, none); among the entries of one pattern those with claims are filed under the rarest of their claims,
so that a thousand agents that differ in `azp` and agree in `env` are a thousand places and not one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from gateway.core.errors import Refusal
from gateway.core.principal import Agent


class Entry(NamedTuple):
    """One line of the registry."""

    agent: Agent
    issuer: str  # the issuer's name in the config; empty: the agent has API keys alone
    subject: str  # exact, or ending in `/*` or `:*`; empty: the claims alone decide
    claims: Mapping[str, str]  # each must be there with exactly this text
    keys: tuple[str, ...] = ()  # the SHA-256 of its API keys, in hex


class Registry:
    """All agents, found by what a token says or by the digest of an API key."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        alike: defaultdict[tuple[str, str], list[Entry]] = defaultdict(list)
        self._holders: dict[str, Agent] = {}
        for entry in entries:
            if entry.issuer:
                alike[entry.issuer, entry.subject].append(entry)
            for digest in entry.keys:
                self._holders[digest] = entry.agent
        self._found = {place: _Shelf(found) for place, found in alike.items()}

    def holder(self, digest: str) -> Agent | None:
        """Whose API key this is, by the SHA-256 of the key (hex); `None`: nobody's.

        A plain lookup gives nothing away: what it compares is a digest, and whoever tries keys cannot steer
        how much of the digest of a guess agrees with one that is stored. Of the 256 random bits of a key the
        time it takes says nothing that would make the next guess better.
        """
        return self._holders.get(digest)

    def find(self, issuer: str, subject: str, claims: Mapping[str, object]) -> Agent:
        """The one agent that a verified token names; raises `Refusal` where there is none or more than one."""
        matching = self.named(issuer, subject, claims)
        if not matching:
            raise Refusal(
                "agent_unknown",
                f"the token is valid, but no agent is registered for subject {subject!r} of issuer {issuer!r}; "
                "ask an operator to add it under `agents:` with this issuer and subject",
                detail=f"no agent is registered for subject {subject!r} of issuer {issuer!r}",
                fields={"issuer": issuer, "subject": subject},
            )
        if len(matching) > 1:
            raise Refusal(
                "agent_ambiguous",
                f"more than one registered agent matches subject {subject!r} of issuer {issuer!r}; "
                "ask an operator to make the entries under `agents:` disjoint",
                detail=f"matching agents: {', '.join(sorted(agent.id for agent in matching))}",
                fields={"issuer": issuer, "subject": subject},
            )
        return matching[0]

    def named(self, issuer: str, subject: str, claims: Mapping[str, object]) -> list[Agent]:
        """Every agent that a verified token names."""
        found: list[Agent] = []
        for pattern in {subject, one_segment(subject), ""}:
            shelf = self._found.get((issuer, pattern))
            if shelf is not None:
                found += shelf.matching(claims)
        return found


class _Shelf:
    """The entries of one issuer with one subject, filed by their claims."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        entries = list(entries)
        frequent = Counter(claim for entry in entries for claim in entry.claims.items())
        self._plain = [entry.agent for entry in entries if not entry.claims]
        self._by_claim: defaultdict[str, defaultdict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
        for entry in entries:
            if entry.claims:
                name, value = min(entry.claims.items(), key=lambda claim: (frequent[claim], claim))
                self._by_claim[name][value].append(entry)

    def matching(self, claims: Mapping[str, object]) -> Iterator[Agent]:
        """The agents whose entries want nothing that these claims do not say."""
        yield from self._plain
        for name, filed in self._by_claim.items():
            value = claims.get(name)
            if isinstance(value, str):
                for entry in filed.get(value, ()):
                    if all(claims.get(wanted) == text for wanted, text in entry.claims.items()):
                        yield entry.agent


def one_segment(subject: str) -> str:
    """The only pattern with `*` that a subject can match: its last segment, after `/` or `:`, replaced.

    A subject without a segment before or with an empty last one gives text that no pattern can be.
    """
    cut = max(subject.rfind("/"), subject.rfind(":")) + 1
    return f"{subject[:cut]}*" if 0 < cut < len(subject) else ""
