"""Deciding calls of the past anew: what is said of them is true, or it is said that it cannot be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from gateway.core.decision import Decision
from gateway.core.principal import Agent
from gateway.policy import PolicySet, Situation
from gateway.policy.replay import Again, Failed, Past, decide_again
from gateway.telemetry.redact import HIDDEN
from tests.policy.scene import AGENT, attested, call, decided, moment, policies

ALLOW = "{id: pays, effect: allow, match: {tools: [any]}"
OLD = policies(ALLOW + ", when: 'args.amount <= 100'}")


def past(decision: Decision, situation: Situation, **changes: object) -> Past:
    """What a record holds of a decision: no whole arguments, no tags, what conditions read."""
    agent = Agent(AGENT.id, team=AGENT.team, category=AGENT.category)
    run = situation.run
    made = Past(
        principal=changed(situation.principal, agent=agent),
        call=changed(situation.call, args={}, stream=False, repeat="safe"),
        at=situation.now,
        run=run.id if run is not None else "",
        step=run.step if run is not None else 0,
        read=decision.read,
        attested=decision.rests_on,
        failed=tuple(Failed(one.rule, one.code, one.step) for one in decision.reasons),
        effect=decision.effect,
        policy_hash=decision.policy_hash,
        mode="enforce",
    )
    return replace(made, **changes)  # type: ignore[arg-type] # fields of Past


def again(old: PolicySet, new: PolicySet, situation: Situation, **changes: object) -> Again:
    """What the new policies say of what the old ones decided."""
    found = decide_again(past(decided(old, situation), situation, **changes), new)
    assert found is not None
    return found


def test_the_same_policies_say_the_same() -> None:
    """Nothing is decided anew, whatever the record lacks; in another mode it is."""
    record = past(decided(OLD, moment()), moment())
    assert decide_again(record, OLD) is None
    assert decide_again(replace(record, mode="shadow"), OLD) is not None


@pytest.mark.parametrize(
    ("rules", "effect"),
    [
        (ALLOW + ", when: 'args.amount < 100'}", "deny"),
        (ALLOW + ", when: 'args.amount < 101'}", "allow"),
        (ALLOW + "}", "allow"),
        (ALLOW + ", approve: {approvers: [boss]}}", "hold"),
        ("{id: no, effect: deny, match: {agents: [procurement], tools: [any]}}", "deny"),
        (ALLOW + ', when: \'agent.team == "finance" && call.tool == "payments.charge" && run.id == "r1"\'}', "allow"),
        (ALLOW + ", when: 'run.step == 3 && principal.subject == \"spiffe://acme/procurement\"'}", "allow"),
        (ALLOW + ", when: 'now > timestamp(\"2030-01-01T00:00:00Z\")'}", "deny"),
    ],
)
def test_what_the_record_tells(rules: str, effect: str) -> None:
    """What was read then, and what every record holds, is enough."""
    assert again(OLD, policies(rules), moment()) == again(OLD, policies(rules), moment())._replace(unknown=())
    assert again(OLD, policies(rules), moment()).decision.effect == effect


@pytest.mark.parametrize(
    ("rules", "unknown"),
    [
        (ALLOW + ", when: 'args.currency == \"EUR\"'}", ("args.currency",)),
        (ALLOW + ", when: 'args.amount < 101 && args.order_id != \"\"'}", ("args.order_id",)),
        (ALLOW + ", when: 'has(args.memo)'}", ("args.memo",)),
        (ALLOW + ", when: '\"memo\" in args'}", ("args", "args.memo")),
        (ALLOW + ", when: 'size(args) > 2'}", ("args",)),
        (ALLOW + ', when: \'agent.tags["env"] == "prod"\'}', ("agent.tags",)),
        (ALLOW + ", when: 'agent.owner == \"x\"'}", ("agent.owner",)),
        (ALLOW + ", when: 'run.spend_usd < decimal(\"5\")'}", ("run.spend_usd",)),
        (ALLOW + ", when: 'call.stream'}", ("call.stream",)),
        (ALLOW + ", when: 'attestations.exists(a, a.step == \"check\")'}", ("attestations",)),
        (ALLOW + ", requires: [{attestation: {step: check}}]}", ("attestations of check",)),
    ],
)
def test_what_the_record_does_not_tell_is_named(rules: str, unknown: tuple[str, ...]) -> None:
    """A fact that nobody read then is not there now; it is not taken for missing, or for empty."""
    assert again(OLD, policies(rules), moment(None, attested())).unknown == unknown


@pytest.mark.parametrize(
    ("rules", "effect"),
    [
        (ALLOW + ", when: 'args.amount > 100 && args.currency == \"EUR\"'}", "deny"),
        (ALLOW + ", when: 'args.amount <= 100 || args.currency == \"EUR\"'}", "allow"),
        (
            ALLOW + "}\n{id: never, effect: deny, match: {tools: [any]}, when: 'args.amount == 100 || args.memo == 1'}",
            "deny",
        ),
        (ALLOW + "}\n{id: two, effect: allow, match: {tools: [any]}, when: 'args.memo == 1'}", "allow"),
        ("{id: two, effect: deny, match: {tools: [any]}, when: 'args.memo == 1'}", "deny"),
    ],
)
def test_what_makes_no_difference_need_not_be_known(rules: str, effect: str) -> None:
    """Where the outcome is the same whatever a fact is, it can be told without it."""
    found = again(OLD, policies(rules), moment())
    assert (found.decision.effect, found.unknown) == (effect, ())


def test_a_map_is_never_known_as_a_whole() -> None:
    """What a record holds of the arguments is not their number, nor all of their names."""
    for when in ("size(args) > 2", "args == {}", 'args.all(name, name != \\"memo\\")', "call == call"):
        new = policies(ALLOW + f', when: "{when}"}}')
        assert again(policies(ALLOW + "}"), new, moment(call({}))).unknown


def test_a_value_that_was_missing_is_known_to_be_missing() -> None:
    """A record tells what was not there from what was not asked; that null is not missing it does not tell."""
    old = policies(ALLOW + ", when: 'has(args.memo) || args.amount == 100'}")
    asks, errs = (policies(ALLOW + f", when: '{when}'}}") for when in ("!has(args.memo)", "args.memo == 1"))
    gone, null = moment(call({"amount": 100})), moment(call({"amount": 100, "memo": None}))
    assert again(old, errs, gone).decision.effect == "deny"
    assert again(old, errs, gone).unknown == ()
    for situation in (gone, null):
        assert again(old, asks, situation).unknown == ("args.memo",)


def test_a_value_that_was_redacted_is_not_known() -> None:
    """What the log hides cannot be compared with anything."""
    found = again(OLD, policies(ALLOW + ", when: 'args.amount < 101'}"), moment(), read={"args.amount": HIDDEN})
    assert found.unknown == ("args.amount",)


def test_attestations_that_it_rested_on_are_known() -> None:
    """P: a shorter age, another outcome or another attester is told; of another step nothing is."""

    def asks(more: str, step: str = "check") -> PolicySet:
        return policies(
            ALLOW + f", requires: [{{attestation: {{step: {step}{more}, bind: {{amount: args.amount}}}}}}]}}"
        )

    old, situation = asks(""), moment(None, attested(age=300))
    for more, effect in ((", max_age: 6m", "allow"), (", max_age: 4m", "deny"), (", attested_by: [bureau]", "deny")):
        found = again(old, asks(more), situation)
        assert (found.decision.effect, found.unknown) == (effect, ())
    assert again(old, asks("", "other"), situation).unknown == ("attestations of other",)


def test_what_was_not_attested_is_still_not() -> None:
    """A step that was not attested at all fails every rule that asks for it; one that was too old may not."""
    old = policies(ALLOW + ", requires: [{attestation: {step: check, max_age: 5m}}]}")
    new = policies(ALLOW + ", requires: [{attestation: {step: check, max_age: 15m}}]}")
    found = again(old, new, moment())
    assert (found.decision.effect, found.unknown) == ("deny", ())
    assert again(old, new, moment(None, attested(age=600))).unknown == ("attestations of check",)
    assert again(OLD, new, moment(run=None)).unknown == ()


def test_the_provider_must_be_known() -> None:
    """Rules that name providers are asked for each that the call might go to, which nobody knows of a refused one."""
    old = policies("{id: m, effect: allow, match: {models: [any]}}")
    new = policies("{id: m, effect: allow, match: {models: [any], providers: [eu]}}")
    situation = moment(call({}, model="small"))
    for providers, effect, unknown in (
        (("us", "eu"), "allow", ()),
        (("us",), "deny", ()),
        ((), "deny", ("provider",)),
    ):
        found = again(old, new, situation, providers=providers)
        assert (found.decision.effect, found.unknown) == (effect, unknown)
    assert again(old, new, moment(), providers=()).unknown == ()


_VALUES = st.sampled_from([0, 1, 100, 101, "EUR", "", True, None, 1.5, [1], {"a": 1}])
_ARGS = st.dictionaries(st.sampled_from(["amount", "currency", "memo"]), _VALUES, max_size=3)
_TESTS = (
    "args.amount <= 100", "args.amount > 100", 'args.currency == "EUR"', "has(args.memo)", "!has(args.memo)",
    "args.memo == args.amount", '"memo" in args', "size(args) > 1", "args.memo[0] == 1", "args.memo.a == 1",
    'agent.tags["env"] == "prod"', "run.step == 3", "run.tokens > 1", 'run.spend_usd == decimal("1.5")',
    "type(args.amount) == int", "args == {}",
)  # fmt: skip
_CONDITIONS = st.lists(st.sampled_from(_TESTS), min_size=1, max_size=3).flatmap(
    lambda tests: st.sampled_from(["&&", "||"]).map(lambda sign: f" {sign} ".join(tests))
)
_EFFECTS = st.sampled_from(["allow", "deny", "require"])
_RULES = st.lists(st.tuples(_EFFECTS, _CONDITIONS), min_size=1, max_size=3)


def _set(rules: list[tuple[str, str]]) -> PolicySet:
    return policies(
        "\n".join(
            f"{{id: r{number}, effect: {effect}, match: {{tools: [any]}}, when: '{when}'}}"
            for number, (effect, when) in enumerate(rules)
        )
    )


@given(old=_RULES, new=_RULES, args=_ARGS, in_run=st.booleans())
def test_what_is_told_is_true(
    old: list[tuple[str, str]], new: list[tuple[str, str]], args: Mapping[str, object], *, in_run: bool
) -> None:
    """Whatever the rules and the call: an outcome that is told is the one that the whole call has."""
    situation = moment(call(args)) if in_run else moment(call(args), run=None)
    before, after = _set(old), _set(new)
    found = decide_again(past(decided(before, situation), situation), after)
    if found is not None and not found.unknown:
        assert found.decision.effect == decided(after, situation).effect
