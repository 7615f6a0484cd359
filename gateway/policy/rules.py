"""Rules as the engine sees them: what a call is, what a rule matches.

1. A rule matches when every key of its `match` does; a key does when one of its entries does.
2. A key that is not there does not narrow. An entry is exact, ends in `*`, or is `any`.
3. Names compare by code point: `payments.Charge`, `payments%2Echarge` and a look-alike in another
   script are other names.
4. `models` and `providers` speak of LLM calls alone, `tools` of tool calls alone.
5. A fact that is missing grants nothing and is held against the call: an allow rule on it does not
   match, a deny rule does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gateway.core.call import Call
from gateway.core.decision import RuleHit
from gateway.core.principal import Principal


class Facts(NamedTuple):
    """What the rules may know of a call: a tuple, since one is made and hashed on every call."""

    agent: str
    team: str
    category: str
    issuer: str
    assurance: str
    kind: str  # llm | tool | mcp | own
    model: str  # as the agent asked for it; empty unless kind is llm
    tool: str  # server.operation; empty unless kind is tool or mcp
    dialect: str

    @classmethod
    def of(cls, principal: Principal, call: Call) -> Facts:
        """The facts of one call by one verified caller."""
        agent = principal.agent
        return cls(
            agent.id,
            agent.team,
            agent.category,
            principal.vouched_by,
            principal.assurance,
            call.kind,
            call.model,
            call.tool,
            call.dialect,
        )


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries of one key: matches a value that is one of `exact` or starts with one of `prefixes`."""

    exact: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    @classmethod
    def of(cls, texts: tuple[str, ...]) -> Entries | None:
        """Read entries as they are written; `None` when one of them matches all."""
        if "any" in texts or "*" in texts:
            return None
        return cls(
            frozenset(text for text in texts if not text.endswith("*")),
            tuple(sorted({text[:-1] for text in texts if text.endswith("*")})),
        )

    def match(self, value: str) -> bool:
        """Whether one entry matches."""
        return value in self.exact or value.startswith(self.prefixes)


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One rule, compiled: `clauses` pairs the position of a fact with the entries it must match."""

    hit: RuleHit
    message: str
    clauses: tuple[tuple[int, Entries], ...]
    providers: Entries | None = None

    @property
    def denies(self) -> bool:
        """Whether this is a deny rule."""
        return self.hit.effect == "deny"

    def entries(self, fact: str) -> Entries | None:
        """What the rule asks of one fact, `None` when it does not narrow it."""
        position = Facts._fields.index(fact)
        return next((entries for at, entries in self.clauses if at == position), None)

    def matches(self, facts: Facts, provider: str | None) -> bool:
        """Whether the rule concerns this call; `provider` is `None` while it is not chosen."""
        for position, entries in self.clauses:
            value = facts[position]
            if value not in entries.exact and not value.startswith(entries.prefixes):
                return False
        if self.providers is None:
            return True
        return self.denies if provider is None else self.providers.match(provider)
