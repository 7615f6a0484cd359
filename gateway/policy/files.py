"""The grammar of a policy file, as far as it is built; what is not built is a mistake that says so."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

from gateway.settings.types import NON_EMPTY, Later, Misfit, Name, Pattern, Text, shortened
from gateway.settings.yaml import ScalarNode

_NAME: Final = r"[^*\x00-\x1f\x7f]"
_LONGEST: Final = 256


class ToolEntry:
    """A tool as a rule names it: `server.operation`, a beginning with `*`, or `any`."""

    example: Final = 'SERVER.OPERATION, "SERVER.*" or any'
    hole: Final = ""
    _FORM: Final = rf"any|{_NAME}*\*|(?!\.){_NAME}+?\.{_NAME}+"

    def read(self, scalar: ScalarNode) -> str:
        """The text itself; the first dot splits, so a server alone would match nothing."""
        text = scalar.text
        if scalar.kind == "text" and len(text) <= _LONGEST:
            if re.fullmatch(self._FORM, text):
                return text
            if text and not set(text) & set("*."):
                remedy = f'write "{text}.*" for all its operations, or {text}.NAME for one'
                raise Misfit(f"{shortened(text)} alone matches no tool", remedy)
        raise Misfit(f"{shortened(text)} is not a tool", f"write {self.example}")

    def schema(self) -> dict[str, object]:
        """A string with a dot, or with a `*` at its end."""
        return {"type": "string", "maxLength": _LONGEST, "pattern": f"^(?:{self._FORM})$"}


class GrammarVersion:
    """The version of the grammar: there is one."""

    example: Final = "1"
    hole: Final = 1

    def read(self, scalar: ScalarNode) -> int:
        """The number 1."""
        if (scalar.kind, scalar.text) != ("int", "1"):
            raise Misfit(f"version {shortened(scalar.text)} is not known", "write version: 1")
        return 1

    def schema(self) -> dict[str, object]:
        """The number 1."""
        return {"const": 1}


Entry = Annotated[
    str,
    Pattern("an entry", rf"(?!$){_NAME}{{0,{_LONGEST - 1}}}\*?", 'an exact name, a beginning that ends in "*", or any'),
]
"""Exact, or ending in `*`; `any` matches all."""

Entries = Annotated[tuple[Entry, ...], NON_EMPTY]
Tools = Annotated[tuple[Annotated[str, ToolEntry()], ...], NON_EMPTY]
Kinds = Annotated[tuple[Literal["llm", "tool", "mcp", "own", "any"], ...], NON_EMPTY]
Dialects = Annotated[tuple[Literal["openai", "anthropic", "gemini", "http", "mcp", "own", "any"], ...], NON_EMPTY]
Categories = Annotated[tuple[Literal["workflow", "bounded", "open", "any"], ...], NON_EMPTY]

_KINDS_OF: Final[Mapping[str, frozenset[str]]] = {
    "models": frozenset({"llm"}),
    "providers": frozenset({"llm"}),
    "tools": frozenset({"tool", "mcp"}),
}
"""Which kinds of call a key speaks of; the other keys speak of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchEntry:
    """Which calls a rule is about: all keys must match, and one entry of each; a missing key does not narrow.

    Nothing here may be null, so that a key without a value is a mistake and not a key that is missing.
    """

    NOT_BUILT: ClassVar[Mapping[str, str]] = {"hosted_tools": "matching hosted tools is not built yet"}

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
            yield given[0], problem, "models and providers are of llm calls, tools of tool and mcp calls"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleEntry:
    """One rule: what it says of the calls that it matches."""

    NOT_BUILT: ClassVar[Mapping[str, str]] = {
        "requires": "conditions on attestations are not built yet",
        "when": "conditions are not built yet",
        "obligations": "obligations are not built yet",
        "approve": "approvals are not built yet",
    }

    id: Name
    """Unique over all policy files; stands in refusals, metrics and the audit."""
    effect: Annotated[Literal["allow", "deny"], Later("require")]
    """`allow` grants; `deny` refuses, whatever is granted elsewhere."""
    match: MatchEntry
    """Which calls it is about."""
    mode: Annotated[Literal["enforce"], Later("shadow")] = "enforce"
    """`enforce`: the rule counts."""
    message: Text = ""
    """What an agent reads when the rule denies its call: why, and what to do instead."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """An allow rule says what it allows, so that a forgotten line does not allow everything."""
        match = self.match
        if self.effect == "allow" and not match.models and not match.tools and set(match.kinds) != {"own"}:
            yield "match", "an allow rule must name models, tools or kinds: [own]", "add what it allows; [any] is all"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """One document of a policy file."""

    NOT_BUILT: ClassVar[Mapping[str, str]] = {
        "observe": "attesting what the gateway saw is not built yet",
        "tests": "policy tests are not built yet",
    }

    version: Annotated[int, GrammarVersion()]
    """The version of this grammar."""
    policy: Name
    """Unique over all policy files."""
    rules: Annotated[tuple[RuleEntry, ...], NON_EMPTY]
    """In any order: it does not matter."""
    mode: Annotated[Literal["enforce"], Later("shadow")] = "enforce"
    """`enforce`: the rules count."""
