"""Deciding: a set of rules, the one hash of the files it was read from, and the sentence of a refusal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.core.decision import Decision
from gateway.policy.index import Index
from gateway.policy.rules import Facts, Rule
from gateway.settings.complaints import Complaint

_MEMO_ENTRIES: Final = 4096
_MEMO_NAME: Final = 200  # characters: a name that an agent makes up shall not fill the memory
_SHOWN_NAME: Final = 100  # characters of a name in a sentence
_SHOWN_RULES: Final = 3


class PolicySet:
    """The rules of all policy files, ready to decide.

    A call is allowed when no deny rule matches it and at least one allow rule does; own addresses
    (kind `own`) need no allow rule. The order of files and rules does not matter. `hash` is the
    SHA-256 of the files' contents (hex). `names_providers` is true when a rule asks which provider
    serves a call: then the call is decided for each target, else once. `warnings` tell of rules that
    stand but probably mean something else.
    """

    def __init__(self, rules: Iterable[Rule], policy_hash: str, warnings: tuple[Complaint, ...] = ()) -> None:
        """Take compiled rules; deny rules come first in what is decided, then by policy and id."""
        ordered = sorted(rules, key=lambda rule: (not rule.denies, rule.hit.policy, rule.hit.rule))
        self.hash = policy_hash
        self.warnings = warnings
        self.size = len(ordered)
        self.names_providers = any(rule.providers is not None for rule in ordered)
        self._index = Index(ordered)
        self._memo: dict[tuple[Facts, str | None], Decision] = {}

    def decide(self, facts: Facts, provider: str | None = None) -> Decision:
        """What the rules say of a call; the same facts always get the same decision.

        `provider` is the one that would serve the call. Without it a rule that names providers
        grants nothing, and denies.
        """
        key = (facts, provider)
        known = self._memo.get(key)
        if known is not None:
            return known
        decision = self._decide(facts, provider)
        if len(facts.model) <= _MEMO_NAME and len(facts.tool) <= _MEMO_NAME:
            if len(self._memo) >= _MEMO_ENTRIES:
                self._memo.clear()  # cheaper than keeping an order, and as good while agents repeat themselves
            self._memo[key] = decision
        return decision

    def _decide(self, facts: Facts, provider: str | None) -> Decision:
        matching = [rule for rule in self._index.candidates(facts) if rule.matches(facts, provider)]
        hits = tuple(rule.hit for rule in matching)
        if matching and matching[0].denies:
            messages = dict.fromkeys(rule.message for rule in matching if rule.denies and rule.message)
            return Decision("deny", self.hash, hits, " ".join(messages))
        if matching or facts.kind == "own":
            return Decision("allow", self.hash, hits)
        told = facts.kind == "llm" and provider is not None and self.names_providers
        at = f" at provider {_shown(provider or '')}" if told else ""
        return Decision("deny", self.hash, (), f"no rule allows agent {_shown(facts.agent)} to {_deed(facts)}{at}")


def explain_refusal(decision: Decision, facts: Facts) -> str:
    """The public sentence of a denied call: which rule denied it and why, or which rule it lacks."""
    denying = [f"{hit.policy}/{hit.rule}" for hit in decision.hits if hit.effect == "deny"]
    if not denying:
        lacks = f"models: [{_shown(facts.model)}]" if facts.kind == "llm" else f"tools: [{_shown(facts.tool)}]"
        return (
            f"{decision.message}; the security team can allow it in the policy files, "
            f"by an allow rule that matches agents: [{_shown(facts.agent)}] and {lacks}"
        )
    names = " and ".join(denying[:_SHOWN_RULES])
    if len(denying) > _SHOWN_RULES:
        names += f" and {len(denying) - _SHOWN_RULES} more"
    verb, noun = ("denies", "rule") if len(denying) == 1 else ("deny", "rules")
    reason = decision.message or "the security team can change it in the policy files"
    return f"{noun} {names} {verb} agent {_shown(facts.agent)} to {_deed(facts)}: {reason}"


def _deed(facts: Facts) -> str:
    if facts.kind == "llm":
        return f"use model {_shown(facts.model)}"
    if facts.kind == "own":
        return "read what the gateway keeps of its calls"
    return f"call tool {_shown(facts.tool)}"


def _shown(name: str) -> str:
    """A name as a sentence may carry it: an agent may have made it up, so it is cut and made printable."""
    cut = name if len(name) <= _SHOWN_NAME else name[:_SHOWN_NAME] + "…"
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut)
