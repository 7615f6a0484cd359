"""The public sentence of a call that policy refuses: which rule, why, and what to do.

Whatever an agent may have made up is cut and made printable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from gateway.core.decision import Decision, Reason
from gateway.policy.rules import Facts

_SHOWN_NAME: Final = 100  # characters of a name in a sentence
_SHOWN_TEXT: Final = 400  # characters of a reason
_MOST: Final = 3  # rules, and reasons, that are named
_EXPLAINED: Final = frozenset({"denied", "no_provider"})  # codes that say no more than the sentence around them


def explain_refusal(decision: Decision, facts: Facts) -> str:
    """The public sentence of a denied call: which rules denied it or did not hold and why, or which rule it lacks."""
    denying = [hit.name for hit in decision.hits if hit.effect == "deny"]
    failing = list(dict.fromkeys(reason.rule for reason in decision.reasons))
    security = "the security team can change it in the policy files"
    if denying:
        verb = "denies" if len(denying) == 1 else "deny"
        return f"{_rules(denying)} {verb} {_who(facts)} to {deed(facts)}: {decision.message or security}"
    if decision.code == "hosted_tool_refused" or not failing:
        return f"{decision.message}; the security team can allow it in the policy files, by {_lacking(decision, facts)}"
    if decision.reasons[0].code in _EXPLAINED:
        return f"{_rules(failing)} let {_who(facts)} {deed(facts)} nowhere: {decision.reasons[0].detail}; {security}"
    verb = "does" if len(failing) == 1 else "do"
    why = _why(decision.reasons)
    ending = f": {decision.message}" if decision.message else ""
    return f"{_rules(failing)} {verb} not let {_who(facts)} {deed(facts)}: {why}{ending}"


def default_denial(facts: Facts, provider: str | None) -> str:
    """That no rule allows a call; `provider` where that makes a difference."""
    at = f" at provider {shown(provider)}" if provider is not None else ""
    return f"no rule allows {_who(facts)} to {deed(facts)}{at}"


def hosted_denial(facts: Facts, hosted: Sequence[str]) -> str:
    """That no rule allows some of the tools that the provider would run."""
    names = _and(shown(name) for name in hosted[:_MOST])
    more = f" and {len(hosted) - _MOST} more" if len(hosted) > _MOST else ""
    return f"no rule allows {_who(facts)} to {deed(facts)} with hosted tool {names}{more}"


def deed(facts: Facts) -> str:
    """What a call does."""
    if facts.kind == "llm":
        return f"use model {shown(facts.model)}"
    if facts.kind == "own":
        return "read what the gateway keeps of its calls"
    return f"call tool {shown(facts.tool)}"


def shown(name: str) -> str:
    """A name as a sentence may carry it."""
    return _cut(name, _SHOWN_NAME)


def _who(facts: Facts) -> str:
    return f"agent {shown(facts.agent)}"


def _lacking(decision: Decision, facts: Facts) -> str:
    """The rule that would allow a call."""
    if decision.code == "hosted_tool_refused":
        rule = f"an allow rule that matches agents: [{shown(facts.agent)}] and names it in hosted_tools"
        return f"{rule}; without it the call may go on"
    lacks = f"models: [{shown(facts.model)}]" if facts.kind == "llm" else f"tools: [{shown(facts.tool)}]"
    return f"an allow rule that matches agents: [{shown(facts.agent)}] and {lacks}"


def _rules(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return f"rule{'s' if len(names) > 1 else ''} {_and(names[:_MOST])}{more}"


def _why(reasons: Iterable[Reason]) -> str:
    details = list(dict.fromkeys(reason.detail for reason in reasons))
    more = f"; and {len(details) - _MOST} more reasons" if len(details) > _MOST else ""
    return "; ".join(_cut(detail, _SHOWN_TEXT) for detail in details[:_MOST]) + more


def _and(names: Iterable[str]) -> str:
    return " and ".join(names)


def _cut(text: str, most: int) -> str:
    cut = text if len(text) <= most else text[:most] + "…"
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut)
