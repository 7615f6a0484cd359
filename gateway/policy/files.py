"""The grammar of a policy file; that of its tests is in `cases`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from gateway.policy.cases import PolicyTest
from gateway.policy.forms import Approver, Entry, Expression, FactPath, GrammarVersion, OneTool, ToolEntry
from gateway.settings.types import NON_EMPTY, NOT_NULL, Name, PositiveCount, StepName, Text, duration

Entries = Annotated[tuple[Entry, ...], NON_EMPTY]
Tools = Annotated[tuple[Annotated[str, ToolEntry()], ...], NON_EMPTY]
Kinds = Annotated[tuple[Literal["llm", "tool", "mcp", "own", "any"], ...], NON_EMPTY]
Dialects = Annotated[tuple[Literal["openai", "anthropic", "gemini", "http", "mcp", "own", "any"], ...], NON_EMPTY]
Categories = Annotated[tuple[Literal["workflow", "bounded", "open", "any"], ...], NON_EMPTY]
Cel = Annotated[str, Expression()]
Mode = Annotated[Literal["enforce", "shadow"] | None, NOT_NULL]

_KINDS_OF: Final[Mapping[str, frozenset[str]]] = {
    "models": frozenset({"llm"}),
    "providers": frozenset({"llm"}),
    "hosted_tools": frozenset({"llm"}),
    "tools": frozenset({"tool", "mcp"}),
}
"""Which kinds of call a key speaks of; the other keys speak of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchEntry:
    """Which calls a rule is about: all keys must match, and one entry of each; a missing key does not narrow.

    Nothing here may be null, so that a key without a value is a mistake and not a key that is missing.
    """

    agents: Entries = ()
    """Ids of the registry."""
    teams: Entries = ()
    """The agent's team."""
    categories: Categories = ()
    """The agent's category."""
    issuers: Entries = ()
    """The name, in the config, of the issuer of the agent's token."""
    min_assurance: Literal["key", "bearer", "bound", "mtls"] = "key"
    """How well the caller's identity is proven at least: `key` < `bearer` < `bound` < `mtls`."""
    kinds: Kinds = ()
    """What is called: `llm`, `tool`, `mcp`, or `own` for what the gateway keeps of the agent's calls."""
    models: Entries = ()
    """Models as agents ask for them; matches LLM calls alone."""
    tools: Tools = ()
    """`server.operation`; matches tool calls alone."""
    hosted_tools: Entries = ()
    """Tools that the provider runs itself, such as `web_search` or `mcp/HOST`; matches LLM calls that ask for one."""
    dialects: Dialects = ()
    """The shape of the API that is called."""
    providers: Entries = ()
    """Who would serve the call; matches LLM calls alone."""

    def kinds_matched(self) -> frozenset[str]:
        """The kinds of call that this can match; empty when its keys exclude each other."""
        found = frozenset({"llm", "tool", "mcp", "own"})
        if self.kinds and "any" not in self.kinds:
            found &= frozenset(self.kinds)
        for key, kinds in _KINDS_OF.items():
            if getattr(self, key):
                found &= kinds
        return found

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """Keys that exclude each other would make a rule that never matches."""
        if self.models and self.tools:
            yield "tools", "no call has both a model and a tool", "make two rules: one with models, one with tools"
        elif not self.kinds_matched():
            given = [key for key in ("kinds", *_KINDS_OF) if getattr(self, key)]
            problem = f"no call matches {' and '.join(given)} together"
            remedy = "models, providers and hosted tools are of llm calls, tools of tool and mcp calls"
            yield given[0], problem, remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationEntry:
    """A step of this run that must be attested, for this agent and about what this call is about."""

    step: StepName
    """What must have been done."""
    outcome: Literal["passed", "failed", "error", "skipped"] = "passed"
    """How it must have ended. A newer attestation about the same that says otherwise voids this one."""
    attested_by: Annotated[tuple[Name, ...], NON_EMPTY] = ()
    """Whose word counts: attesters of the config, `gateway` for what the gateway saw; without it whoever may attest."""
    max_age: Annotated[float, duration("1s")] = 0.0
    """How old it may be; without it as old as it is valid."""
    bind: Annotated[Mapping[Name, Cel], NON_EMPTY] = field(default_factory=dict)
    """What it must be about: for each name of its subject the value that this call has there, same type, same value."""
    consume: Literal["never", "once", "per_subject"] = "never"
    """`once`: it lets one call through. `per_subject`: the rule lets one call through for each subject, in any run."""
    per: Annotated[tuple[Name, ...], NON_EMPTY] = ()
    """Which names of `bind` make the subject that `per_subject` counts by; without it all."""
    void_across_runs: bool = False
    """Whether a newer one about the same that says otherwise counts in whichever run it was made."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """A subject is what is bound, and only `per_subject` counts by it."""
        if self.consume == "per_subject" and not self.bind:
            problem = "without `bind` all calls have the same subject, and the rule would let one through, ever"
            yield "consume", problem, "bind what one call is to be let through for, such as {order_id: args.order_id}"
        if self.per and self.consume != "per_subject":
            yield "per", "it says by what `per_subject` counts, and this consumes otherwise", "remove it"
        for position, name in enumerate(self.per):
            if name not in self.bind:
                yield (
                    f"per.{position}",
                    f"{name} is not in `bind`",
                    f"write one of {', '.join(self.bind) or 'its names'}",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequirementEntry:
    """One thing that must be so: an attestation, one of several requirements, or all of several."""

    attestation: Annotated[AttestationEntry | None, NOT_NULL] = None
    """A step that must be attested."""
    any_: Annotated[tuple[RequirementEntry, ...], NON_EMPTY] = ()
    """Of these one must hold."""
    all_: Annotated[tuple[RequirementEntry, ...], NON_EMPTY] = ()
    """Of these all must hold."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """One key says what it is."""
        if sum((self.attestation is not None, bool(self.any_), bool(self.all_))) != 1:
            yield "", "a requirement is one of attestation, any, all", "write each as an item of its own, with its `- `"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputTokensEntry:
    """A cap on what a model may answer."""

    max: PositiveCount
    """Tokens at most; the request is lowered to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteEntry:
    """Where a model may be."""

    only: Annotated[tuple[Name, ...], NON_EMPTY]
    """The providers that may serve the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObligationsEntry:
    """What must be kept where a call goes on; those of all rules that let it go on are joined."""

    output_tokens: Annotated[OutputTokensEntry | None, NOT_NULL] = None
    """The least cap counts."""
    cache: Annotated[Literal["never"] | None, NOT_NULL] = None
    """`never`: neither answered from a cache nor put into one."""
    route: Annotated[RouteEntry | None, NOT_NULL] = None
    """What all rules name counts; where nothing is left the call is refused."""
    redact: Annotated[tuple[Annotated[str, FactPath()], ...], NON_EMPTY] = ()
    """Facts, such as `args.card`, whose values stand in no log and no audit record."""

    @property
    def of_models(self) -> bool:
        """Whether some of it means something for LLM calls alone."""
        return self.output_tokens is not None or self.route is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproveEntry:
    """That a person must approve the call before it is sent."""

    when: Cel = ""
    """For which calls; without it for all that the rule matches."""
    approvers: Annotated[tuple[Annotated[str, Approver()], ...], NON_EMPTY]
    """Who may: `group:NAME`, or the id of an operator; one of them is enough."""
    expires: Annotated[float, duration("1m", "30d")] = 1800.0
    """How long the call waits for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleEntry:
    """One rule: what it says of the calls that it matches."""

    id: Name
    """Unique over all policy files; stands in refusals, metrics and the audit."""
    effect: Literal["allow", "deny", "require"]
    """`allow` grants; `deny` refuses, whatever is granted elsewhere; `require` grants nothing and must hold."""
    match: MatchEntry
    """Which calls it is about."""
    requires: Annotated[tuple[RequirementEntry, ...], NON_EMPTY] = ()
    """What must have been attested; all of it."""
    when: Cel = ""
    """What must be true of the call for an allow or require rule to hold; a deny rule denies unless it is false."""
    obligations: Annotated[ObligationsEntry | None, NOT_NULL] = None
    """What must be kept where the call goes on."""
    approve: Annotated[ApproveEntry | None, NOT_NULL] = None
    """Who must approve the call."""
    mode: Mode = None
    """`shadow`: the rule changes nothing, and what it would have done is counted. Without it as its policy says."""
    message: Text = ""
    """What an agent reads when the rule is why its call is refused: why, and what to do instead."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """What a rule of this effect cannot say, and what it must."""
        match = self.match
        if self.effect == "deny":
            for key in ("requires", "approve", "obligations"):
                if getattr(self, key):
                    yield key, f"a deny rule cannot have `{key}`: it never lets a call go on", "make it a require rule"
        names = match.models or match.tools or match.hosted_tools
        if self.effect == "allow" and not names and set(match.kinds) != {"own"}:
            problem = "an allow rule must name models, tools, hosted_tools or kinds: [own]"
            yield "match", problem, "add what it allows; [any] is all"
        if self.effect == "require" and not (self.requires or self.when or self.approve or self.obligations):
            problem = "a require rule without requires, when, approve or obligations asks for nothing"
            yield "effect", problem, "say what must hold, or write allow or deny"
        if self.effect != "deny" and self.approve is not None and match.kinds_matched() == {"own"}:
            problem = "what an agent asks of the gateway itself is never held, so this would not ask anybody"
            yield "approve", problem, "remove it; a condition or a deny rule can refuse such calls"
        if self.obligations is not None and self.obligations.of_models and "llm" not in match.kinds_matched():
            yield "obligations", "output_tokens and route are of LLM calls, and this matches none", "remove them"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveEntry:
    """What the gateway itself attests from an answer that it saw: whole, with status 2xx, in JSON, in a run."""

    step: StepName
    """What is attested."""
    tool: Annotated[str, OneTool()]
    """Whose answer says it: `server.operation`."""
    outcome: Cel
    """CEL over `args` and `result`: passed, failed, error or skipped; anything else is error."""
    subject: Mapping[Name, Cel] = field(default_factory=dict)
    """What it is about: for each name CEL over `args` and `result`, a string, an integer or a boolean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """One document of a policy file."""

    version: Annotated[int, GrammarVersion()]
    """The version of this grammar."""
    policy: Name
    """Unique over all policy files."""
    rules: Annotated[tuple[RuleEntry, ...], NON_EMPTY]
    """In any order: it does not matter."""
    mode: Mode = None
    """`shadow`: its rules change nothing, but for those that say otherwise. Without it as the config says."""
    observe: Annotated[tuple[ObserveEntry, ...], NON_EMPTY] = ()
    """What the gateway may attest from what it saw itself."""
    tests: Annotated[tuple[PolicyTest, ...], NON_EMPTY] = ()
    """What the rules are to decide; `passgate policy test` runs them."""
