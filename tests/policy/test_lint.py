"""Lint: rules that can be used and do not do what they say, or probably mean something else."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from gateway.policy import Known
from gateway.policy.lint import Arguments, Registered
from gateway.settings.complaints import Complaint
from tests.policy.scene import policies

PAYMENT = Arguments(
    frozenset({"order_id", "amount", "currency"}), frozenset({"order_id", "amount", "currency"}), closed=True
)
POSTING = Arguments(frozenset({"account", "amount"}), frozenset({"account", "amount", "text"}), closed=True)
OPEN = Arguments(frozenset({"order_id"}), frozenset({"order_id"}), closed=False)
KNOWN = Known(
    agents=frozenset({"procurement", "support"}),
    providers=frozenset({"openai"}),
    tools=frozenset({"payments.charge", "payments.refund", "fraud.check", "ledger.post"}),
    approvers=frozenset({"boss", "group:finance"}),
    attesters={"fraud-service": frozenset({"fraud-check"})},
    arguments={"payments.charge": PAYMENT, "payments.refund": OPEN, "fraud.check": PAYMENT, "ledger.post": POSTING},
    registry={
        "procurement": Registered("finance", "bounded", frozenset({"env"})),
        "support": Registered("care", "bounded", frozenset()),
    },
)
PAY = "match: {tools: [payments.charge]}"
PROCUREMENT = "match: {agents: [procurement]}"
BOUND = "attested_by: [fraud-service], max_age: 15m, bind: {order_id: args.order_id}"
CHECKED = f"requires: [{{attestation: {{step: fraud-check, {BOUND}}}}}]"


def said(rules: str, more: str = "", known: Known = KNOWN) -> tuple[list[str], list[str]]:
    """Errors and warnings, each with its line and its place."""
    loaded = policies(rules, more, known=known)

    def lines(complaints: Iterable[Complaint]) -> list[str]:
        return [f"{one.line} {one.path}: {one.problem}" for one in complaints]

    return lines(loaded.errors), lines(loaded.warnings)


def errors(rules: str, known: Known = KNOWN) -> list[str]:
    """The errors alone."""
    return said(rules, known=known)[0]


def warnings(rules: str, more: str = "", known: Known = KNOWN) -> list[str]:
    """The warnings alone; there must be no error."""
    found = said(rules, more, known)
    assert found[0] == []
    return found[1]


MAY = f"{{id: may, effect: allow, {PAY}}}"


def test_a_good_policy_has_nothing_to_be_said_of() -> None:
    """A rule that binds, a guard in a require rule, a deny rule that looks before it reads."""
    limit = 'args.amount > 5 && args.currency == "EUR"'
    looked = f"has(args.amount) && has(args.currency) && {limit}"
    rules = f"""{MAY}
        {{id: a, effect: require, match: {{tools: ["payments.*"]}}, {CHECKED}}}
        {{id: b, effect: deny, match: {{tools: ["payments.*"]}}, when: '{looked}'}}
        {{id: c, effect: deny, {PAY}, when: '{limit}'}}
        {{id: d, effect: deny, {PROCUREMENT}, when: 'has(run.id) && run.tokens > 5 && agent.tags.env == "x"'}}
        {{id: e, effect: deny, {PAY}, when: 'call.stream || agent.team == "x" || principal.depth > 3'}}
        {{id: f, effect: deny, match: {{}}, when: '"order_id" in args && args.order_id == "A1"'}}
        {{id: g, effect: require, {PAY}, approve: {{approvers: [boss, "group:finance"]}}}}"""
    assert said(rules) == ([], [])


@pytest.mark.parametrize("guard", [CHECKED, "when: 'args.order_id != \"\"'", "approve: {approvers: [boss]}"])
@pytest.mark.parametrize(
    "plain", ["tools: [payments.charge]", "tools: ['payments.*']", "tools: [any], teams: [finance]"]
)
def test_a_guard_that_another_rule_opens_is_an_error(guard: str, plain: str) -> None:
    """Conditions in one allow rule guard nothing that another one grants without; in a require rule they do."""
    guarded = f"{{id: guarded, effect: allow, {PAY}, {guard}}}"
    open_rule = f"{{id: open, effect: allow, match: {{{plain}}}}}"
    (error,) = errors(f"{guarded}\n{open_rule}")
    assert error.startswith("5 rules[1].match: this allows payments.charge without a condition, which rule p/guarded ")
    assert errors(f"{guarded.replace('allow', 'require', 1)}\n{open_rule}") == []


@pytest.mark.parametrize(
    "plain",
    [
        "{id: open, effect: allow, match: {tools: [payments.refund]}}",
        "{id: open, effect: allow, match: {tools: [payments.charge], agents: [support]}}",
        "{id: open, effect: allow, match: {tools: [payments.charge], teams: [care]}}",
        "{id: open, effect: allow, match: {tools: [payments.charge], kinds: [mcp]}}",
        "{id: open, effect: allow, match: {tools: [payments.charge]}, mode: shadow}",
        "{id: open, effect: allow, match: {tools: [payments.charge]}, when: 'args.order_id == \"A1\"'}",
    ],
)
def test_a_guard_stands_where_no_call_passes_it_by(plain: str) -> None:
    """Other calls, other agents, rules that are not enforced or have conditions of their own."""
    match = "match: {tools: [payments.charge], agents: [procurement], kinds: [tool]}"
    assert errors(f"{{id: guarded, effect: allow, {match}, {CHECKED}}}\n{plain}") == []


def test_guards_of_models_and_hosted_tools_are_looked_at_too() -> None:
    """It is no matter what is guarded."""
    for key, entry in (("models", "gpt"), ("hosted_tools", "web_search")):
        rules = f"{{id: a, effect: allow, match: {{{key}: [{entry}]}}, when: 'args.n == 1'}}\n"
        assert len(errors(f"{rules}{{id: b, effect: allow, match: {{{key}: ['{entry[:2]}*']}}}}")) == 1


@pytest.mark.parametrize(
    ("match", "when", "lacks"),
    [
        ("{tools: [payments.charge]}", 'args.note == "x"', "a call of payments.charge, which has no args.note"),
        ("{tools: ['payments.*']}", "args.amount > 5", "a call of payments.refund, which has no args.amount"),
        ("{tools: [payments.charge]}", "args.amount.value > 5", ""),
        ("{agents: [support]}", 'args.order_id == "x"', "a call of kind llm, which has no args.order_id"),
        ("{models: [any]}", "args.temperature > 1.0", "a call of kind llm, which has no args.temperature"),
        ("{tools: [payments.charge]}", "run.tokens > 5", "a call outside a run, which has no run.tokens"),
        ("{tools: [any]}", 'agent.tags.env == "x"', "agent support, which has no agent.tags.env"),
        ("{tools: [any], agents: [procurement]}", 'agent.tags.env == "x"', ""),
        ("{tools: [any]}", "size(args) > 5", ""),
        ("{tools: [any]}", "has(args.amount) && size(args.amount) > 5", ""),
    ],
)
def test_a_deny_rule_that_reads_what_not_every_call_has_is_an_error(match: str, when: str, lacks: str) -> None:
    """An error denies: a rule against large amounts would deny whatever has none."""
    found = errors(f"{{id: d, effect: deny, match: {match}, when: '{when}'}}")
    assert found == ([f"4 rules[0].when: this denies {lacks}"] if lacks else [])
    assert errors(f"{{id: d, effect: require, match: {match}, when: '{when}'}}") == []


def test_a_deny_rule_by_attestations_is_an_error() -> None:
    """W13: an agent does not bring what speaks against it, so that nothing is denied by it."""
    (error,) = errors(f"{{id: d, effect: deny, {PAY}, when: 'attestations.exists(a, a.outcome == \"failed\")'}}")
    assert "an agent need not show what speaks against it" in error


@pytest.mark.parametrize(
    ("rule", "count"),
    [
        (f"{{id: r, effect: require, {PAY}, when: 'args.amount < 5'}}", 1),
        (f"{{id: r, effect: require, {PAY}, when: 'args.amount < 5 && args.currency == \"EUR\"'}}", 0),
        (f"{{id: r, effect: require, {PAY}, approve: {{approvers: [boss], when: 'args.amount > 5'}}}}", 1),
        (f"{{id: r, effect: require, {PAY}, {CHECKED.replace('order_id', 'amount')}}}", 1),
        (f"{{id: r, effect: require, {PAY}, when: 'args.order_id == \"5\"'}}", 0),
        ("{id: r, effect: require, match: {tools: [ledger.post]}, when: 'args.amount < 5'}", 0),
        ("{id: r, effect: require, match: {tools: [payments.refund]}, when: 'args.total_amount < 5'}", 1),
    ],
)
def test_an_amount_without_its_currency_is_warned_of(rule: str, count: int) -> None:
    """W3: 100 of one currency are not 100 of another; where a tool knows no currency there is none to compare."""
    assert len([line for line in warnings(rule) if "currency" in line]) == count


def test_names_that_nothing_has_are_warned_of() -> None:
    """Attesters, steps, approvers, providers and observed tools that the configuration does not have."""

    def asking(name: str, step: str, by: str = "") -> str:
        bound = f"{{step: {step}, {by and f'attested_by: [{by}], '}bind: {{order_id: args.order_id}}}}"
        return f"{{id: {name}, effect: require, {PAY}, requires: [{{attestation: {bound}}}]}}"

    rules = [
        MAY,
        asking("a", "fraud-check", "fraud-servce"),
        asking("b", "sign-off", "fraud-service"),
        asking("c", "sign-off"),
        asking("d", "fraud-check", "gateway"),
        asking("e", "seen", "gateway"),
        f"{{id: f, effect: require, {PAY}, approve: {{approvers: [bos, 'group:sales']}}}}",
        "{id: g, effect: allow, match: {models: [m]}, obligations: {route: {only: [openi]}}}",
    ]
    seen = "observe:\n  - {step: seen, tool: fraud.chek, outcome: '\"passed\"'}\n"
    assert warnings("\n".join(rules), seen) == [
        "7 rules[1].requires[0].attestation.attested_by[0]: the configuration has no attester fraud-servce",
        "8 rules[2].requires[0].attestation.attested_by[0]: fraud-service may not attest sign-off",
        "9 rules[3].requires[0].attestation.step: nobody can attest sign-off",
        "10 rules[4].requires[0].attestation.attested_by[0]: gateway may not attest fraud-check",
        "12 rules[6].approve.approvers[0]: nothing in the configuration's approvers is called bos",
        "12 rules[6].approve.approvers[1]: nothing in the configuration's approvers is called group:sales",
        "13 rules[7].obligations.route.only[0]: nothing in the configuration's providers is called openi",
        "4 observe[0].tool: nothing in the configuration's tools is called fraud.chek",
    ]


def test_habits_that_go_wrong_are_warned_of() -> None:
    """An attestation that is bound to nothing, one that is used up but never too old, and a rule that never decides."""
    once = "{attestation: {step: fraud-check, consume: once}}"
    loose = f"{{id: a, effect: require, {PAY}, requires: [{{any: [{once}]}}]}}"
    never = "{id: b, effect: deny, match: {tools: ['payments.*'], agents: [any]}}"
    unbound = "any fraud-check of the run lets every call of it through, whatever it was about"
    assert warnings(f"{MAY}\n{loose}\n{never}") == [
        f"5 rules[1].requires[0].any[0].attestation: {unbound}",
        "5 rules[1].requires[0].any[0].attestation.consume: what is used up but never too old can be kept for later",
        "4 rules[0].id: rule p/b denies all that this allows",
    ]


@pytest.mark.parametrize(
    "deny",
    [
        "{tools: [payments.charge], agents: [support]}",
        "{tools: [payments.charge], min_assurance: bound}",
        "{tools: [payments.refund]}",
        "{tools: [payments.charge], kinds: [mcp]}",
        "{tools: [payments.charge]}, when: 'args.order_id == \"A1\"'",
        "{tools: [payments.charge]}, mode: shadow",
        "{hosted_tools: [web_search]}",
    ],
)
def test_a_rule_that_a_deny_rule_beats_sometimes_is_not_warned_of(deny: str) -> None:
    """Only what can never be allowed is told."""
    assert [line for line in said(f"{MAY}\n{{id: d, effect: deny, match: {deny}}}")[1] if "denies all" in line] == []


@pytest.mark.parametrize(
    ("tool", "reads", "count"),
    [
        ("fraud.check", "args.order_id", 0),
        ("fraud.check", "args.note", 1),
        ("fraud.check", "result.order_id", 0),
        ("payments.refund", "args.order_id", 1),
        ("payments.refund", "args.amount", 1),
    ],
)
def test_observing_what_an_agent_may_leave_out_is_warned_of(tool: str, reads: str, count: int) -> None:
    """What is attested about must be certain: required by the operation, which takes nothing else."""
    seen = f"observe:\n  - {{step: s, tool: {tool}, outcome: 'result.x', subject: {{a: {reads}}}}}\n"
    assert len([line for line in warnings(MAY, seen) if "observe[0].subject.a" in line]) == count


def test_what_is_not_known_is_not_checked() -> None:
    """Without a configuration nothing is called wrong for a name, an argument or an agent."""
    rules = [
        MAY,
        f"{{id: d, effect: deny, {PAY}, when: 'args.note == agent.tags.env'}}",
        f"{{id: q, effect: require, {PAY}, {CHECKED}}}",
    ]
    assert said("\n".join(rules), "observe:\n  - {step: s, tool: x.y, outcome: args.x}\n", Known()) == ([], [])
