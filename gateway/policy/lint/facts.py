"""Facts that not every call has: in a deny rule they deny what was not meant, in an observation they are made up.

A condition is taken to look before it reads where `has()` or `in` names the fact in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from gateway.policy.cel import Program
from gateway.policy.lint.findings import Linted, PlacedPolicy, PlacedRule
from gateway.policy.lint.known import Known, meets
from gateway.policy.situation import ENVIRONMENT

_Path: TypeAlias = tuple[str, ...]
_AMOUNT: Final = re.compile(r"(?:.*_)?(?:amount|total|price)", re.IGNORECASE)


def check_facts(policies: Sequence[PlacedPolicy], known: Known, found: Linted) -> None:
    """Errors of deny rules whose facts can be missing, and warnings of amounts whose currency nobody looks at."""
    for policy in policies:
        for placed in policy.placed:
            if placed.entry.effect == "deny" and placed.rule.when is not None:
                _check_deny(placed, placed.rule.when, known, found)
            _check_currency(placed, known, found)


def check_observations(policies: Sequence[PlacedPolicy], known: Known, found: Linted) -> None:
    """Warn of arguments that a call may lack, or that its tool does not know: an agent could say what it likes."""
    if known.arguments is None:
        return
    for policy in policies:
        for number, observation in enumerate(policy.observations):
            declared = known.arguments.get(observation.tool)
            programs = [("outcome", observation.outcome), *observation.subject]
            for name, program in programs:
                path = ("observe", number, name) if name == "outcome" else ("observe", number, "subject", name)
                for argument in sorted({read[1] for read in program.reads if read[0] == "args" and len(read) > 1}):
                    if declared is None or argument not in declared.required or not declared.closed:
                        problem = f"{observation.tool} does not declare its arguments so that {argument} is certain"
                        remedy = f"give the operation a schema that requires {argument} and allows no other properties"
                        found.warn(policy.binder, path, problem, remedy)


def _check_deny(placed: PlacedRule, when: Program, known: Known, found: Linted) -> None:
    where = (*placed.path, "when")
    for path in sorted(when.reads):
        name = ".".join(path)
        if path[0] == "attestations":
            problem = "this denies by what is attested, and an agent need not show what speaks against it"
            found.error(placed.binder, where, problem, "make it a require rule that asks for what must be attested")
        elif not ENVIRONMENT.certain(path) and not _guarded(when.text, path):
            lacking = _lacking(placed, path, known)
            if lacking:
                problem = f"this denies {lacking}, which has no {name}"
                remedy = f"write has({name}) && … where it is not meant, or match only calls that have it"
                found.error(placed.binder, where, problem, remedy)


def _lacking(placed: PlacedRule, path: _Path, known: Known) -> str:
    """Some call that the rule matches and that may lack the fact; nothing where every call has it."""
    match = placed.entry.match
    if path[0] == "run":
        return "a call outside a run"
    if path[:2] == ("agent", "tags"):
        if known.registry is None:
            return ""
        untagged = (name for name, one in sorted(known.registry.items()) if not one.tags.issuperset(path[2:3]))
        named = match.agents or ("any",)
        return next((f"agent {name}" for name in untagged if any(meets(entry, name) for entry in named)), "")
    if path[0] != "args":
        return "a call"
    others = match.kinds_matched() - {"tool", "mcp"}
    if others:
        return f"a call of kind {min(others)}"
    if known.arguments is None:
        return ""
    tools = (name for name in sorted(known.arguments) if any(meets(entry, name) for entry in match.tools or ("any",)))
    return next((f"a call of {name}" for name in tools if path[1] not in known.arguments[name].required), "")


def _guarded(text: str, path: _Path) -> bool:
    """Whether an expression asks for the fact, or for what it is a part of, before it reads it."""
    if path[0] == "run" and re.search(r"\bhas\(\s*run\.", text):
        return True
    for end in range(2, len(path) + 1):
        name, last, outer = ".".join(path[:end]), path[end - 1], ".".join(path[: end - 1])
        asked = rf"\bhas\(\s*{re.escape(name)}\s*\)|[\"']{re.escape(last)}[\"']\s+in\s+{re.escape(outer)}\b"
        if re.search(asked, text):
            return True
    return False


def _check_currency(placed: PlacedRule, known: Known, found: Linted) -> None:
    """An amount means nothing without its currency, where the call has one."""
    reads = frozenset(placed.rule.reads)
    for where, program in _conditions(placed):
        for path in sorted(program.reads):
            alone = path[0] == "args" and _AMOUNT.fullmatch(path[-1]) and len(path) > 1
            if alone and not any("currency" in other[-1].lower() for other in reads) and _has_currency(placed, known):
                problem = f"{'.'.join(path)} is compared, and its currency is not: 100 JPY is not 100 EUR"
                found.warn(placed.binder, where, problem, "compare or bind the currency too")


def _conditions(placed: PlacedRule) -> Iterator[tuple[tuple[str | int, ...], Program]]:
    rule, path = placed.rule, placed.path
    if rule.when is not None:
        yield (*path, "when"), rule.when
    if rule.approval is not None and rule.approval.when is not None:
        yield (*path, "approve", "when"), rule.approval.when
    for leaf in rule.attested:
        for _, program in leaf.bind:
            yield (*path, "requires"), program


def _has_currency(placed: PlacedRule, known: Known) -> bool:
    """Whether some call that the rule matches may name a currency."""
    if known.arguments is None:
        return True
    declared = [
        arguments
        for name, arguments in known.arguments.items()
        if any(meets(entry, name) for entry in placed.entry.match.tools or ("any",))
    ]
    return not declared or any(
        not arguments.closed or any("currency" in name.lower() for name in arguments.names) for arguments in declared
    )
