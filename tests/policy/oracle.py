"""What policies mean, said once more: slowly, from the rules as they are written, sharing nothing with the engine.

Conditions are not evaluated but looked up: each text that a made-up rule may have stands here beside what it means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, Final, NamedTuple

from gateway.core.attestation import Attestation
from gateway.policy.files import AttestationEntry, RequirementEntry, RuleEntry
from gateway.policy.situation import Situation


class NoValue(Exception):
    """A condition that has no value for a call."""


def _arg(name: str) -> Callable[[Situation], Any]:
    def read(situation: Situation) -> Any:  # noqa: ANN401 -- JSON
        if name not in situation.call.args:
            raise NoValue
        return situation.call.args[name]

    return read


def _at_most(limit: int) -> Callable[[Situation], Any]:
    amount_of = _arg("amount")

    def compare(situation: Situation) -> Any:  # noqa: ANN401 -- a truth
        amount = amount_of(situation)
        if isinstance(amount, bool) or not isinstance(amount, int | float):
            raise NoValue
        return amount <= limit

    return compare


def _tokens(situation: Situation) -> bool:
    if situation.run is None:
        raise NoValue
    return situation.run.tokens < 1000


def _either(situation: Situation) -> Any:  # noqa: ANN401 -- a truth
    if situation.call.method == "POST":
        return True
    return _at_most(100)(situation)


CONDITIONS: Final[dict[str, Callable[[Situation], Any]]] = {
    "": lambda _: True,
    "true": lambda _: True,
    "false": lambda _: False,
    "args.amount <= 100": _at_most(100),
    "args.amount <= 50": _at_most(50),
    'call.method == "POST" || args.amount <= 100': _either,
    'args.currency == "EUR"': lambda one: _arg("currency")(one) == "EUR",
    "has(args.amount)": lambda one: "amount" in one.call.args,
    "run.tokens < 1000": _tokens,
    "args.flag": _arg("flag"),
    'agent.team == "finance"': lambda one: one.principal.agent.team == "finance",
}
"""Texts of conditions; only `True` is true, and what is no boolean has no value."""

BINDINGS: Final[dict[str, Callable[[Situation], Any]]] = {
    "args.order": _arg("order"),
    "args.amount": _arg("amount"),
    "agent.id": lambda one: one.principal.agent.id,
    '"fixed"': lambda _: "fixed",
}
"""Texts of bindings; what is no string, integer or boolean cannot be bound."""


class Way(NamedTuple):
    """One way in which requirements hold."""

    rests_on: tuple[Attestation, ...] = ()
    uses: tuple[tuple[str, str], ...] = ()


class Answer(NamedTuple):
    """What policies say of a call."""

    effect: str
    code: str = ""
    uses: frozenset[tuple[str, str]] = frozenset()
    approvers: frozenset[tuple[str, ...]] = frozenset()


class Word(NamedTuple):
    """What one rule says: `says` is true where a deny rule denies, an allow rule grants, a require rule holds."""

    rule: RuleEntry
    says: bool
    way: Way = Way()
    asks: bool = False
    attestations_missing: bool = False


def truth(text: str, situation: Situation) -> bool | None:
    """Whether a condition is true, false, or has no value."""
    try:
        value = CONDITIONS[text](situation)
    except NoValue:
        return None
    return value if isinstance(value, bool) else None


def matches(rule: RuleEntry, situation: Situation, provider: str | None) -> bool:
    """Whether a rule is about this call."""
    match, call, agent = rule.match, situation.call, situation.principal.agent

    def fits(entries: Sequence[str], value: str) -> bool:
        return any(e in ("any", value) or (e.endswith("*") and value.startswith(e[:-1])) for e in entries)

    wanted: list[bool] = []
    if match.agents:
        wanted.append(fits(match.agents, agent.id))
    if match.teams:
        wanted.append(fits(match.teams, agent.team))
    if match.kinds:
        wanted.append(fits(match.kinds, call.kind))
    if match.models:
        wanted.append(call.kind == "llm" and fits(match.models, call.model))
    if match.tools:
        wanted.append(call.kind == "tool" and fits(match.tools, call.tool))
    if match.hosted_tools:
        wanted.append(any(fits(match.hosted_tools, hosted) for hosted in call.hosted_tools))
    if match.providers:
        served = rule.effect != "allow" if provider is None else fits(match.providers, provider)
        wanted.append(call.kind == "llm" and (served or not {"any", "*"}.isdisjoint(match.providers)))
    return all(wanted)


def ways(entry: RequirementEntry, rule: str, situation: Situation) -> Iterator[Way]:
    """Every way in which a requirement holds, in the order in which they are tried."""
    if entry.attestation is not None:
        found = way_of(entry.attestation, rule, situation)
        if found is not None:
            yield found
    elif entry.any_:
        for one in entry.any_:
            best = cheapest(ways(one, rule, situation))
            if best is not None:
                yield best
    else:
        yield from all_of(entry.all_, rule, situation)


def all_of(entries: Sequence[RequirementEntry], rule: str, situation: Situation) -> Iterator[Way]:
    """Every way in which all of several hold."""
    for several in product(*(list(ways(one, rule, situation)) for one in entries)):
        yield Way(
            tuple(one for way in several for one in way.rests_on), tuple(one for way in several for one in way.uses)
        )


def cheapest(found: Iterator[Way]) -> Way | None:
    """The first that uses up least."""
    best: Way | None = None
    for way in found:
        if best is None or len(way.uses) < len(best.uses):
            best = way
    return best


def equal(one: object, other: object) -> bool:
    """Of one type, and equal."""
    return type(one) is type(other) and one == other


def way_of(entry: AttestationEntry, rule: str, situation: Situation) -> Way | None:
    """The attestation that an entry asks for, where it is there and nothing has taken it back."""
    bound: dict[str, Any] = {}
    for name, text in entry.bind.items():
        try:
            bound[name] = BINDINGS[text](situation)
        except NoValue:
            return None
        if type(bound[name]) not in (str, int, bool):
            return None
    if situation.run is None:
        return None
    now = round((situation.now if situation.held_at is None else situation.held_at) * 1_000_000)
    caller = situation.principal

    def here(one: Attestation) -> bool:
        mine = one.agent in (caller.subject, caller.agent.id) if one.owner is None else one.owner == caller.owner
        return situation.run is not None and one.run == situation.run.id and mine

    good = [
        (one.at, order, one)
        for order, one in enumerate(situation.attested)
        if one.step == entry.step
        and here(one)
        and one.agent in (caller.subject, caller.agent.id)
        and (not entry.attested_by or one.by in entry.attested_by)
        and all(name in one.subject and equal(one.subject[name], value) for name, value in bound.items())
        and one.outcome == entry.outcome
        and one.at <= round(situation.now * 1_000_000) + 600_000_000
        and (one.expires == 0 or now < one.expires)
        and (entry.max_age == 0 or now - one.at <= round(entry.max_age * 1_000_000))
    ]
    if not good:
        return None
    _, _, chosen = max(good, key=lambda one: one[:2])
    for other in situation.attested:
        if other.step != entry.step or other.outcome == entry.outcome or other.at < chosen.at:
            continue
        if any(name in other.subject and not equal(other.subject[name], value) for name, value in bound.items()):
            continue
        shares = not bound or any(name in other.subject for name in bound)
        if here(other) or (entry.void_across_runs and shares):
            return None
    uses: tuple[tuple[str, str], ...] = ()
    if entry.consume == "once":
        uses = (("once", f"{chosen.by}/{chosen.id}"),)
    elif entry.consume == "per_subject":
        counted = sorted((name, value) for name, value in bound.items() if not entry.per or name in entry.per)
        uses = ((rule, f"{entry.step} {counted}"),)
    return Way((chosen,), uses)


def word_of(policy: str, rule: RuleEntry, situation: Situation) -> Word:
    """What one rule that matches says."""
    when = truth(rule.when, situation)
    if rule.effect == "deny":
        return Word(rule, says=when is not False)
    asks = truth(rule.approve.when, situation) if rule.approve is not None else False
    held = cheapest(all_of(rule.requires, f"{policy}/{rule.id}", situation))
    if when is True and asks is not None:
        return Word(rule, held is not None, held or Way(), asks, attestations_missing=held is None)
    return Word(rule, says=False)


def together(words: Sequence[Word], situation: Situation, *, lenient: bool) -> Answer:
    """What rules say together."""
    call = situation.call
    denying = [one for one in words if one.rule.effect == "deny" and one.says]
    failing = [one for one in words if one.rule.effect == "require" and not one.says]
    holding = [one for one in words if one.rule.effect == "require" and one.says]
    wanted = [] if call.kind == "own" else [call.model or call.tool, *(f"hosted {one}" for one in call.hosted_tools)]

    def grants(rule: RuleEntry, want: str) -> bool:
        if rule.effect != "allow":
            return False
        if not want.startswith("hosted "):
            return bool(rule.match.models or rule.match.tools)
        name = want.removeprefix("hosted ")
        return any(e in ("any", name) or (e.endswith("*") and name.startswith(e[:-1])) for e in rule.match.hosted_tools)

    lacking = [want for want in wanted if not any(one.says and grants(one.rule, want) for one in words)]
    if lenient:
        lacking = []
    if denying:
        return Answer("deny", "policy_denied")
    if failing or lacking:
        attestable = all(one.attestations_missing for one in failing) and all(
            any(one.attestations_missing and grants(one.rule, want) for one in words) for want in lacking
        )
        if attestable:
            return Answer("deny", "attestation_required")
        hosted = not failing and all(want.startswith("hosted ") for want in lacking)
        return Answer("deny", "hosted_tool_refused" if hosted else "policy_denied")
    paying = list(holding)
    for want in wanted:
        able = [one for one in words if one.says and grants(one.rule, want)]
        able.sort(key=lambda one: (one.asks, len(one.way.uses) > 0, one.rule.id))
        paying += able[:1]
    only = [
        set(one.rule.obligations.route.only)
        for one in words
        if one.says and one.rule.obligations is not None and one.rule.obligations.route is not None
    ]
    if only and call.kind == "llm" and not set.intersection(*only):
        return Answer("deny", "policy_denied")
    uses = frozenset(use for one in paying for use in one.way.uses)
    asked = frozenset(tuple(sorted(one.rule.approve.approvers)) for one in paying if one.asks and one.rule.approve)
    return Answer("hold" if asked else "allow", "", uses, asked)


def answer(
    policy: str, rules: Sequence[RuleEntry], situation: Situation, provider: str | None, *, lenient: bool
) -> tuple[Answer, str]:
    """What policies say, and the effect if every rule were enforced."""
    words = [word_of(policy, rule, situation) for rule in rules if matches(rule, situation, provider)]
    enforced = [one for one in words if (one.rule.mode or ("shadow" if lenient else "enforce")) == "enforce"]
    return together(enforced, situation, lenient=lenient), together(words, situation, lenient=False).effect
