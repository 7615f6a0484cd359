"""Names that nothing has, and attestations that nobody can make: rules that never do anything, or never let go on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from gateway.core.attestation import GATEWAY
from gateway.core.principal import ASSURANCE
from gateway.policy.files import MatchEntry
from gateway.policy.lint.findings import Linted, PlacedPolicy, PlacedRule
from gateway.policy.lint.known import Known, meets
from gateway.settings.binder import Binder, Steps


def check_names(policies: Sequence[PlacedPolicy], known: Known, found: Linted) -> None:
    """Warn of all of it."""
    observed = frozenset(one.step for policy in policies for one in policy.entry.observe)
    for policy in policies:
        for placed in policy.placed:
            _check_match(placed, known, found)
            _check_attestations(placed, observed, known, found)
            entry, binder, path = placed.entry, placed.binder, placed.path
            route = entry.obligations.route if entry.obligations is not None else None
            if route is not None:
                _check(route.only, known.providers, "providers", binder, (*path, "obligations", "route", "only"), found)
            if entry.approve is not None:
                where = (*path, "approve", "approvers")
                _check(entry.approve.approvers, known.approvers, "approvers", binder, where, found)
        for number, seen in enumerate(policy.entry.observe):
            if known.tools is not None and seen.tool not in known.tools:
                problem = f"nothing in the configuration's tools is called {seen.tool}"
                found.warn(policy.binder, ("observe", number, "tool"), problem, _near(seen.tool, known.tools))


def _check_match(placed: PlacedRule, known: Known, found: Linted) -> None:
    entry, binder = placed.entry, placed.binder
    match, path = entry.match, (*placed.path, "match")
    for key in ("agents", "teams", "issuers", "models", "tools", "providers"):
        _check(getattr(match, key), getattr(known, key), key, binder, (*path, key), found)
    if entry.effect == "deny" and match.min_assurance != ASSURANCE[0]:
        problem = "this denies those who prove their identity best"
        found.warn(binder, (*path, "min_assurance"), problem, "ask for it in the allow rules instead")
    if entry.effect == "deny" and match == MatchEntry() and not entry.when:
        found.warn(binder, path, "this denies every call", "name what it denies, unless that is meant")


def _check(
    entries: Iterable[str], names: frozenset[str] | None, kind: str, binder: Binder, path: Steps, found: Linted
) -> None:
    """Warn of entries that nothing in the configuration meets."""
    if names is None:
        return
    for position, entry in enumerate(entries):
        if entry not in names and not any(meets(entry, name) for name in names) and entry != "any":
            problem = f"nothing in the configuration's {kind} is called {entry}"
            found.warn(binder, (*path, position), problem, _near(entry, names))


def _check_attestations(placed: PlacedRule, observed: frozenset[str], known: Known, found: Linted) -> None:
    for path, asked in placed.attestations:
        binder, step = placed.binder, asked.step
        if not asked.bind:
            problem = f"any {step} of the run lets every call of it through, whatever it was about"
            found.warn(binder, path, problem, "add bind, such as {order_id: args.order_id}")
        if asked.consume != "never" and not asked.max_age:
            problem = "what is used up but never too old can be kept for later"
            found.warn(binder, (*path, "consume"), problem, "add max_age")
        if known.attesters is None:
            continue
        able = {GATEWAY: observed, **known.attesters}
        for position, name in enumerate(asked.attested_by):
            where = (*path, "attested_by", position)
            if name not in able:
                found.warn(binder, where, f"the configuration has no attester {name}", _near(name, frozenset(able)))
            elif step not in able[name]:
                found.warn(binder, where, f"{name} may not attest {step}", _permission(name, step))
        if not asked.attested_by and not any(step in steps for steps in able.values()):
            remedy = "add an observe entry for it, or an attester whose may_attest names it"
            found.warn(binder, (*path, "step"), f"nobody can attest {step}", remedy)


def _permission(attester: str, step: str) -> str:
    """What lets an attester attest a step."""
    if attester == GATEWAY:
        return f"add an observe entry for {step}, or remove gateway"
    return f"add it to attester {attester}'s may_attest in the configuration"


def _near(name: str, names: frozenset[str]) -> str:
    near = difflib.get_close_matches(name, sorted(names), 1)
    return f"did you mean {near[0]}?" if near else f"the configuration has {_some(names)}"


def _some(names: frozenset[str]) -> str:
    shown = sorted(names)[:5]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "") if shown else "none"
