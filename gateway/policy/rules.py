"""Rules as the engine sees them: what a call is, what a rule matches.

1. A rule matches when every key of its `match` does; a key does when one of its entries does.
2. A key that is not there does not narrow. An entry is exact, ends in `*`, or is `any`.
3. Names compare by code point: `payments.Charge`, `payments%2Echarge` and a look-alike in another
   script are other names.
4. `models`, `providers` and `hosted_tools` speak of LLM calls alone, `tools` of tool calls alone.
5. A fact that is missing grants nothing and is held against the call: an allow rule on it does not
   match, a deny or require rule does.
6. `hosted_tools` matches a call of which one hosted tool matches; of a call without any it matches nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.core.call import Call
from gateway.core.decision import NO_OBLIGATIONS, Obligations, Reason, RuleHit
from gateway.core.principal import Principal
from gateway.policy.cel import Program
from gateway.policy.requirements import REASONS, Attested, Requirement


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
    hosted_tools: tuple[str, ...] = ()  # what the provider would run itself

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
            call.hosted_tools,
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


@dataclass(frozen=True, slots=True)
class Approval:
    """That a person must approve what a rule lets go on; `when` says for which calls, `None` for all."""

    when: Program | None
    approvers: tuple[str, ...]
    expires: float  # seconds


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Rule:
    """One rule, compiled: `clauses` pairs the position of a fact with the entries it must match."""

    hit: RuleHit
    message: str
    clauses: tuple[tuple[int, Entries], ...]
    providers: Entries | None = None
    hosted: Entries | None = None  # of the hosted tools that a call asks for one must match
    grants: bool = False  # an allow rule that grants the model or tool itself, not only hosted tools
    requires: tuple[Requirement, ...] = ()
    when: Program | None = None
    approval: Approval | None = None
    obligations: Obligations = NO_OBLIGATIONS
    reads: tuple[tuple[str, ...], ...] = ()  # the paths of the facts that it asks for
    # What follows from the rest, and is asked for on every call.
    effect: str = field(init=False)  # allow | deny | require
    enforced: bool = field(init=False)  # it counts; a shadow rule is only counted
    conditional: bool = field(init=False)  # what it says depends on more than what it matches by
    untrue: Reason = field(init=False)  # why it does not hold where its condition is false

    def __post_init__(self) -> None:
        """Derive."""
        conditional = self.when is not None or bool(self.requires) or self.approval is not None
        object.__setattr__(self, "effect", self.hit.effect)
        object.__setattr__(self, "enforced", self.hit.mode == "enforce")
        object.__setattr__(self, "conditional", conditional)
        # Which facts are asked for is told, but not the words of the condition, which tell where the limits are.
        paths = sorted(".".join(path) for path in self.when.reads) if self.when is not None else ()
        said = REASONS["false"] + (f"; it asks for {', '.join(paths)}" if paths else "")
        object.__setattr__(self, "untrue", Reason(self.hit.name, "when", "false", said))

    @property
    def attested(self) -> Iterator[Attested]:
        """The attestations that it asks for."""
        return (leaf for one in self.requires for leaf in one.leaves())

    def entries(self, fact: str) -> Entries | None:
        """What the rule asks of one fact, `None` when it does not narrow it."""
        if fact == "hosted_tools":
            return self.hosted
        position = Facts._fields.index(fact)
        return next((entries for at, entries in self.clauses if at == position), None)

    def matches(self, facts: Facts, provider: str | None) -> bool:
        """Whether the rule concerns this call; `provider` is `None` while it is not chosen."""
        for position, entries in self.clauses:
            value = facts[position]
            if value not in entries.exact and not value.startswith(entries.prefixes):  # type: ignore[union-attr]
                return False
        if self.hosted is not None and not any(map(self.hosted.match, facts.hosted_tools)):
            return False
        if self.providers is None:
            return True
        return self.effect != "allow" if provider is None else self.providers.match(provider)
