"""Rules with conditions: what grants, denies and must hold, what is asked of a person, and what shadow rules count."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.attestation import Use
from gateway.core.decision import NO_OBLIGATIONS, Obligations
from gateway.policy import Facts, RunView, explain_refusal
from tests.policy.scene import CALLER, ORDER, attested, call, decided, moment, policies, read

MATCH = "match: {tools: [payments.charge]}"
MAY = f"{{id: may, effect: allow, {MATCH}}}"
NEEDS = "requires: [{attestation: {step: check, bind: {order_id: args.order_id}}}]"


def rule(effect: str, said: str = "", name: str = "r", match: str = MATCH) -> str:
    """One rule about payments.charge."""
    return f"{{id: {name}, effect: {effect}, {match}{', ' if said else ''}{said}}}"


def effect_of(rules: str, args: dict[str, object] | None = None, **changes: Any) -> str:  # noqa: ANN401 -- a situation's
    """What comes of a call of payments.charge."""
    return decided(policies(rules), moment(call(args), **changes)).effect


TRUE, FALSE = "when: 'args.amount == 100'", "when: 'args.amount == 101'"
MISSING, MISTYPED = "when: 'args.amont == 100'", "when: 'args.order_id < 5'"
NEITHER, BROKEN = "when: 'args.order_id'", "when: '1 / (args.amount - 100) > 0'"


@pytest.mark.parametrize(
    ("when", "allow", "deny", "require"),
    [
        (TRUE, "allow", "deny", "allow"),
        (FALSE, "deny", "allow", "deny"),
        (MISSING, "deny", "deny", "deny"),
        (MISTYPED, "deny", "deny", "deny"),
        (NEITHER, "deny", "deny", "deny"),
        (BROKEN, "deny", "deny", "deny"),
    ],
)
def test_a_condition_without_a_value_never_lets_a_call_go_on(when: str, allow: str, deny: str, require: str) -> None:
    """P1, P2: what errs does not grant, denies, and does not hold."""
    assert effect_of(rule("allow", when)) == allow
    assert effect_of(f"{MAY}\n{rule('deny', when)}") == deny
    assert effect_of(f"{MAY}\n{rule('require', when)}") == require


def test_a_rule_may_ask_for_every_fact() -> None:
    """Each fact that the page names has a value, of the type that it says, in a call that has it."""
    asked = [
        'agent.id == "procurement" && agent.team == "finance" && agent.category == "bounded"',
        'agent.owner == "payments@acme.example" && agent.tags.env == "prod" && !has(agent.tags.other)',
        'principal.issuer == "dev" && principal.subject.startsWith("spiffe://") && principal.assurance == "bearer"',
        'principal.on_behalf_of == "" && principal.depth == 0',
        'run.id == "r1" && run.source == "url" && run.step == 3 && run.tokens == 4000',
        'run.spend_usd == decimal("1.5") && run.spend_usd < decimal("1.500000001")',
        'call.kind == "tool" && call.model == "" && call.tool == "payments.charge" && call.method == "POST"',
        'call.repeat == "never" && call.dialect == "http" && !call.stream && call.hosted_tools == []',
        'call.region == "eu" && args.amount == 100 && "order_id" in args && !("card" in args)',
        'attestations.exists(a, a.step == "check" && a.outcome == "passed" && a.by == "gateway")',
        'attestations[0].subject.order_id == "A1" && attestations[0].age == duration("60s")',
        'size(attestations) == 1 && attestations[0].at == now - duration("1m") && now.getFullYear() == 2027',
    ]
    rules = "\n".join(f"{{id: r{n}, effect: require, {MATCH}, when: '{text}'}}" for n, text in enumerate(asked))
    theirs = (attested(run="r2"), attested(agent="x"), attested(owner=("x", "y")))
    decision = decided(policies(f"{MAY}\n{rules}"), moment(None, attested(), *theirs, region="eu"))
    assert (decision.reasons, decision.effect) == ((), "allow")


def test_outside_a_run_its_facts_are_missing() -> None:
    """A rule can ask whether there is a run; what reads a fact of none errs."""
    assert effect_of(rule("allow", "when: '!has(run.id)'"), run=None) == "allow"
    assert effect_of(rule("allow", "when: 'run.tokens < 5000'"), run=None) == "deny"
    assert effect_of(f"{MAY}\n{rule('deny', 'when: run.tokens > 5000')}", run=None) == "deny"
    assert effect_of(rule("allow", "when: 'run.tokens < 5000'")) == "allow"


def test_every_require_rule_must_hold_and_grants_nothing() -> None:
    """A rule that must hold lets nothing go on by itself, and one that does not hold refuses what is allowed."""
    assert effect_of(rule("require", TRUE)) == "deny"
    assert effect_of(f"{MAY}\n{rule('require', TRUE, 'a')}\n{rule('require', TRUE, 'b')}") == "allow"
    assert effect_of(f"{MAY}\n{rule('require', TRUE, 'a')}\n{rule('require', FALSE, 'b')}") == "deny"
    other = "match: {tools: [mail.send]}"
    assert effect_of(f"{MAY}\n{rule('require', FALSE, 'b', other)}") == "allow", "it says nothing of other calls"


def test_own_addresses_need_no_allow_rule_and_can_be_closed() -> None:
    """Deny and require rules bind what an agent reads of its own, too."""
    own = call({}, kind="own", dialect="own", operation="own_run", method="GET", tool="", repeat="safe")
    always, here = "match: {kinds: [own]}", rule("require", "when: 'agent.team == \"sales\"'", match="match: {}")
    assert decided(policies(MAY), moment(own)).effect == "allow"
    assert decided(policies(f"{MAY}\n{here}"), moment(own)).effect == "deny"
    assert (
        decided(policies(f"{MAY}\n{rule('deny', 'when: principal.depth == 0', match=always)}"), moment(own)).effect
        == "deny"
    )


@pytest.mark.parametrize(
    ("rules", "code", "clauses"),
    [
        (rule("allow", NEEDS), "attestation_required", ["requires[0]"]),
        (f"{MAY}\n{rule('require', NEEDS)}", "attestation_required", ["requires[0]"]),
        (f"{MAY}\n{rule('require', f'{NEEDS}, {TRUE}')}", "attestation_required", ["requires[0]"]),
        (f"{MAY}\n{rule('require', f'{NEEDS}, {FALSE}')}", "policy_denied", ["when", "requires[0]"]),
        (
            f"{MAY}\n{rule('require', NEEDS, 'a')}\n{rule('require', FALSE, 'b')}",
            "policy_denied",
            ["requires[0]", "when"],
        ),
        (f"{MAY}\n{rule('require', NEEDS, 'a')}\n{rule('deny', '', 'b')}", "policy_denied", ["match"]),
        (f"{rule('allow', NEEDS, 'a')}\n{rule('allow', FALSE, 'b')}", "attestation_required", ["requires[0]", "when"]),
        (f"{rule('allow', NEEDS, 'a')}\n{rule('require', FALSE, 'b')}", "policy_denied", ["when", "requires[0]"]),
        (rule("require", NEEDS), "policy_denied", ["requires[0]"]),
        (rule("allow", FALSE), "policy_denied", ["when"]),
        (rule("allow", MISSING), "policy_denied", ["when"]),
        (f"{MAY}\n{rule('deny', MISSING)}", "policy_denied", ["when"]),
        (rule("allow", match="match: {tools: [mail.send]}"), "policy_denied", []),
        (
            rule("allow", "approve: {approvers: [a], when: args.x}"),
            "policy_denied",
            ["approve.when"],
        ),
    ],
)
def test_the_code_says_whether_attestations_alone_would_help(rules: str, code: str, clauses: list[str]) -> None:
    """Every clause that failed is told, and the code is `attestation_required` where nothing else is wrong."""
    decision = decided(policies(rules), moment())
    assert (decision.effect, decision.code) == ("deny", code)
    assert [reason.clause for reason in decision.reasons] == clauses


# -- what grants, and what that costs


def test_one_granting_rule_is_charged_the_cheapest() -> None:
    """Of rules that grant the same: no approval before any, nothing used up before something, then the first by id."""
    once = "requires: [{attestation: {step: check, consume: once}}]"
    asks, free = "approve: {approvers: [boss]}", rule("allow", TRUE, "z")
    loaded = policies(f"{rule('allow', once, 'b')}\n{rule('allow', asks, 'a')}\n{free}")
    assert decided(loaded, moment(None, attested())).uses == ()
    loaded = policies(f"{rule('allow', once, 'b')}\n{rule('allow', asks, 'a')}")
    decision = decided(loaded, moment(None, attested()))
    assert (decision.effect, decision.uses) == ("allow", (Use("once", "gateway/check-passed-60.0"),))
    assert [hit.rule for hit in decision.hits] == ["a", "b"], "both grant"
    assert decided(loaded, moment()).effect == "hold", "without the attestation only the one that asks is left"
    seal = once.replace("check", "seal")
    loaded = policies(f"{rule('allow', once, 'b')}\n{rule('allow', seal, 'c')}")
    seen = attested("seal"), attested()
    assert decided(loaded, moment(None, *seen)).rests_on == (seen[1],), "the first by id"


def test_an_approval_is_asked_where_a_rule_must_hold_or_all_that_grant_ask() -> None:
    """The call is held: by whom it may be approved, until when, and for which rules."""
    asks = "approve: {approvers: ['group:finance', boss], expires: 2h}"
    decision = decided(policies(f"{MAY}\n{rule('require', asks)}"), moment())
    assert decision.effect == "hold"
    assert not decision.allowed
    assert decision.approval is not None
    assert decision.approval.approvers == (("boss", "group:finance"),)
    assert (decision.approval.expires, decision.approval.rules) == (7200.0, ("p/r",))
    assert effect_of(f"{MAY}\n{rule('allow', asks)}") == "allow", "one that grants does not ask"
    other = rule("allow", "approve: {approvers: [cfo]}", "q")
    decision = decided(policies(f"{rule('require', asks)}\n{other}"), moment())
    assert decision.approval is not None
    assert decision.approval.approvers == (("boss", "group:finance"), ("cfo",)), "one of each"
    assert (decision.approval.expires, decision.approval.rules) == (1800.0, ("p/r", "p/q"))


def test_an_approval_may_be_asked_for_some_calls_only() -> None:
    """`approve.when` says for which; what errs there does not hold, and does not grant."""
    above = "approve: {{approvers: [boss], when: 'args.amount > {}'}}"
    for effect, also in (("require", MAY), ("allow", "")):
        assert effect_of(f"{also}\n{rule(effect, above.format(99))}") == "hold"
        assert effect_of(f"{also}\n{rule(effect, above.format(100))}") == "allow"
        assert effect_of(f"{also}\n{rule(effect, above.format(1))}", {}) == "deny"


def test_what_must_be_known_is_asked_for_and_nothing_else() -> None:
    """Only rules that match make the gateway gather attestations, look into other runs, or look for an approval."""
    facts = Facts.of(CALLER, call())
    across = "requires: [{attestation: {step: check, max_age: 1h, void_across_runs: true}}]"
    assert policies(MAY).find(facts).needs == (False, False, (), False)
    assert policies(rule("allow", TRUE)).find(facts).needs == (False, False, (), False)
    assert policies(rule("allow", NEEDS)).find(facts).needs == (True, True, (), False)
    assert policies(rule("allow", "when: 'attestations.size() > 0'")).find(facts).needs == (True, True, (), False)
    assert policies(rule("allow", across)).find(facts).needs == (True, True, (("check", 3600.0),), False)
    assert policies(rule("allow", f"{NEEDS}, mode: shadow")).find(facts).needs == (True, False, (), False)
    asks = "approve: {approvers: [a]}"
    assert policies(rule("allow", asks)).find(facts).needs == (False, False, (), True)
    assert policies(rule("allow", f"{asks}, mode: shadow")).find(facts).needs == (False, False, (), False)
    ((_, age),) = policies(rule("allow", f"{across}, {asks}")).find(facts).needs.across
    assert age > 30 * 86400, "an attestation may have waited as long as its call"
    assert policies(rule("allow", NEEDS, match="match: {tools: [mail.send]}")).find(facts).needs == (
        False,
        False,
        (),
        False,
    )


# -- obligations


def llm(*hosted: str) -> Any:  # noqa: ANN401 -- a call
    """A call of a model, with hosted tools."""
    return call({"model": "m"}, model="m", hosted_tools=hosted)


MODEL = "match: {models: [m]}"


def test_obligations_of_all_that_grant_and_must_hold_are_joined() -> None:
    """The least cap, what all routes name, `never` before anything; a rule that does not grant obliges to nothing."""
    rules = [
        rule("allow", "obligations: {output_tokens: {max: 500}, route: {only: [a, b]}}", "one", MODEL),
        rule("require", "obligations: {output_tokens: {max: 300}, route: {only: [b, c]}, cache: never}", "two", MODEL),
        rule("allow", "obligations: {output_tokens: {max: 1}}, when: 'false'", "three", MODEL),
        rule("require", "obligations: {output_tokens: {max: 2}}, mode: shadow", "four", MODEL),
    ]
    decision = decided(policies("\n".join(rules)), moment(llm()))
    assert decision.obligations == Obligations(output_tokens=300, cache="never", only=frozenset({"b"}))
    assert decided(policies(MAY), moment()).obligations is NO_OBLIGATIONS


def test_routes_that_have_nothing_in_common_are_a_refusal() -> None:
    """Where two rules leave no provider, the call is denied and both are named."""
    rules = [rule("allow", f"obligations: {{route: {{only: [{name}]}}}}", name, MODEL) for name in ("a", "b")]
    loaded = policies("\n".join(rules))
    decision = decided(loaded, moment(llm()))
    assert (decision.effect, decision.code) == ("deny", "policy_denied")
    assert [(reason.rule, reason.code) for reason in decision.reasons] == [
        ("p/a", "no_provider"),
        ("p/b", "no_provider"),
    ]
    assert explain_refusal(decision, Facts.of(CALLER, llm())).startswith(
        "rules p/a and p/b let agent procurement use model m nowhere: "
    )


def test_caps_and_routes_are_of_models() -> None:
    """A rule about all calls obliges tools to what means something for them."""
    said = "obligations: {output_tokens: {max: 5}, route: {only: [eu]}, cache: never}"
    decision = decided(policies(f"{MAY}\n{rule('require', said, match='match: {}')}"), moment())
    assert decision.obligations == Obligations(cache="never")


def test_what_a_matching_rule_redacts_is_redacted_whatever_comes_of_the_call() -> None:
    """A refused call is written down too, and so is what a rule read that did not grant."""
    rules = f"{rule('allow', f'{FALSE}, obligations: {{redact: [args.card]}}')}"
    assert decided(policies(rules), moment()).obligations == Obligations(redact=frozenset({"args.card"}))
    assert decided(policies(f"{MAY}\n{rules}"), moment()).obligations == Obligations(redact=frozenset({"args.card"}))


# -- hosted tools


@pytest.mark.parametrize(
    ("rules", "hosted", "effect", "code"),
    [
        (["{models: [m]}"], (), "allow", ""),
        (["{models: [m]}"], ("web_search",), "deny", "hosted_tool_refused"),
        (["{hosted_tools: [web_search]}"], ("web_search",), "deny", "policy_denied"),
        (["{hosted_tools: [any]}"], (), "deny", "policy_denied"),
        (["{models: [m]}", "{hosted_tools: [web_search]}"], ("web_search",), "allow", ""),
        (["{models: [m]}", "{hosted_tools: ['web*']}"], ("web_search",), "allow", ""),
        (["{models: [m]}", "{hosted_tools: [any]}"], ("web_search", "mcp/x.example"), "allow", ""),
        (["{models: [m]}", "{hosted_tools: [web_search]}"], ("web_search", "code"), "deny", "hosted_tool_refused"),
        (["{models: [m], hosted_tools: [web_search]}"], ("web_search",), "allow", ""),
        (["{models: [m], hosted_tools: [web_search]}"], (), "deny", "policy_denied"),
        (["{models: [m], hosted_tools: [web_search]}"], ("web_search", "code"), "deny", "hosted_tool_refused"),
        (["{models: [m]}", "{hosted_tools: [mcp/a.example]}"], ("mcp/b.example",), "deny", "hosted_tool_refused"),
        (["{models: [m]}", "{hosted_tools: ['mcp/*']}"], ("mcp/b.example",), "allow", ""),
        (["{models: [m]}", "{models: [n], hosted_tools: [any]}"], ("code",), "deny", "hosted_tool_refused"),
        (["{models: [m]}", "{agents: [x], hosted_tools: [any]}"], ("code",), "deny", "hosted_tool_refused"),
    ],
)
def test_each_hosted_tool_needs_a_rule_that_names_it(
    rules: list[str], hosted: tuple[str, ...], effect: str, code: str
) -> None:
    """A model that is allowed is not allowed everything that its provider can do."""
    loaded = policies("\n".join(f"{{id: r{n}, effect: allow, match: {match}}}" for n, match in enumerate(rules)))
    decision = decided(loaded, moment(llm(*hosted)))
    assert (decision.effect, decision.code if decision.effect == "deny" else "") == (effect, code)


def test_a_rule_on_hosted_tools_concerns_calls_that_ask_for_one() -> None:
    """Deny and require rules match where one of the call's hosted tools does, `any` where there is one."""
    both = "{id: m, effect: allow, match: {models: [m]}}\n{id: h, effect: allow, match: {hosted_tools: [any]}}"
    for effect, said in (("deny", ""), ("require", ", when: 'false'")):
        for entry, denied in (("web_search", True), ("code", False), ("any", True)):
            loaded = policies(f"{both}\n{{id: d, effect: {effect}, match: {{hosted_tools: [{entry}]}}{said}}}")
            assert (decided(loaded, moment(llm("x", "web_search"))).effect == "deny") is denied
            assert decided(loaded, moment(llm())).effect == "allow"


def test_the_refusal_names_the_hosted_tools_that_nothing_allows() -> None:
    """The agent reads which tool to leave out."""
    loaded = policies(
        "{id: m, effect: allow, match: {models: [m]}}\n{id: h, effect: allow, match: {hosted_tools: [a]}}"
    )
    asked = llm("a", "web_search", "mcp/x.example")
    sentence = explain_refusal(decided(loaded, moment(asked)), Facts.of(CALLER, asked))
    assert sentence.startswith(
        "no rule allows agent procurement to use model m with hosted tool web_search and mcp/x.example; "
    )
    assert sentence.endswith("without it the call may go on")


def test_a_hosted_tool_that_lacks_an_attestation_says_so() -> None:
    """Where attestations alone would let the hosted tool run, the code says that."""
    checked = "requires: [{attestation: {step: check}}]"
    rules = f"{rule('allow', '', 'm', MODEL)}\n{rule('allow', checked, 'h', 'match: {hosted_tools: [a]}')}"
    assert decided(policies(rules), moment(llm("a"))).code == "attestation_required"
    assert decided(policies(rules), moment(llm("a"), attested())).rests_on == (attested(),)


# -- shadow


@pytest.mark.parametrize(
    ("rules", "effect", "would", "shadow"),
    [
        (f"{MAY}\n{rule('deny', 'mode: shadow')}", "allow", "deny", ["r"]),
        (f"{MAY}\n{rule('deny', f'{FALSE}, mode: shadow')}", "allow", "", []),
        (f"{MAY}\n{rule('deny', f'{MISSING}, mode: shadow')}", "allow", "deny", ["r"]),
        (f"{MAY}\n{rule('require', f'{FALSE}, mode: shadow')}", "allow", "deny", ["r"]),
        (f"{MAY}\n{rule('require', f'{TRUE}, mode: shadow')}", "allow", "", []),
        (f"{MAY}\n{rule('require', f'{NEEDS}, mode: shadow')}", "allow", "deny", ["r"]),
        (f"{MAY}\n{rule('require', 'approve: {approvers: [a]}, mode: shadow')}", "allow", "hold", []),
        (rule("allow", "mode: shadow"), "deny", "allow", ["r"]),
        (rule("allow", f"{FALSE}, mode: shadow"), "deny", "", []),
        (f"{rule('allow', 'mode: shadow')}\n{rule('deny', '', 'd')}", "deny", "", ["r"]),
    ],
)
def test_a_shadow_rule_changes_nothing_and_says_what_it_would_have_done(
    rules: str, effect: str, would: str, shadow: list[str]
) -> None:
    """P11: traffic is as without it; what it would have made of the call is told apart."""
    decision = decided(policies(rules), moment())
    assert (decision.effect, decision.would, [hit.rule for hit in decision.shadow]) == (effect, would, shadow)
    assert all(hit.mode == "enforce" for hit in decision.hits)
    assert not [reason for reason in decision.reasons if reason.rule == "p/r"]


def test_the_mode_is_the_rules_then_the_policys_then_the_configurations() -> None:
    """The nearest word on the mode counts."""
    for own, policy, config, expected in (
        ("", "", "enforce", "enforce"),
        ("", "", "shadow", "shadow"),
        ("", "mode: shadow\n", "enforce", "shadow"),
        ("", "mode: enforce\n", "shadow", "enforce"),
        ("mode: enforce", "mode: shadow\n", "shadow", "enforce"),
        ("mode: shadow", "mode: enforce\n", "enforce", "shadow"),
    ):
        (made,) = policies(rule("deny", own), policy, mode=config).rules
        assert made.hit.mode == expected


def test_in_shadow_what_nothing_allows_passes() -> None:
    """P11: with `policies.mode: shadow` nothing is refused but by rules that say themselves that they are enforced."""
    mail = call({}, tool="mail.send")
    loaded = policies(f"{MAY}\n{rule('deny', '', 'd')}\n{rule('require', FALSE, 'q')}", mode="shadow")
    assert loaded.mode == "shadow"
    passed = decided(loaded, moment(mail))
    assert (passed.effect, passed.hits, passed.would) == ("allow", (), "deny")
    passed = decided(loaded, moment())
    assert (passed.effect, passed.hits, passed.would) == ("allow", (), "deny")
    assert [(hit.rule, hit.effect) for hit in passed.shadow] == [("d", "deny"), ("q", "require"), ("may", "allow")]
    for effect, said in (("deny", "mode: enforce"), ("require", f"{FALSE}, mode: enforce")):
        bound = decided(policies(f"{MAY}\n{rule(effect, said)}", mode="shadow"), moment())
        assert (bound.effect, bound.would) == ("deny", ""), "what is enforced binds"
    held = policies(f"{MAY}\n{rule('require', 'approve: {approvers: [a]}, mode: enforce')}", mode="shadow")
    assert decided(held, moment()).effect == "hold"
    assert decided(policies(MAY, mode="shadow"), moment(llm("web_search"))).effect == "allow"
    assert "is shadow: what no rule allows passes" in {warning.problem for warning in loaded.warnings}


# -- what is told


def test_a_rule_that_does_not_hold_is_named_with_its_reason_and_its_message() -> None:
    """The sentence says which rule, what is missing, what would satisfy it, and what the author wrote."""
    said = f"{NEEDS}, message: Run fraud.check for this order first."
    decision = decided(policies(f"{MAY}\n{rule('require', said)}"), moment())
    assert explain_refusal(decision, Facts.of(CALLER, call())) == (
        "rule p/r does not let agent procurement call tool payments.charge: the step is not attested in this run; "
        "needed is step check passed, for the same order_id: Run fraud.check for this order first."
    )


def test_a_condition_is_told_by_what_it_asks_for_not_by_its_limits() -> None:
    """An agent reads which facts decided, and nothing that would tell it how far it could go."""
    decision = decided(policies(rule("allow", "when: 'args.amount < 77'")), moment())
    (reason,) = decision.reasons
    assert "args.amount" in reason.detail
    assert "77" not in explain_refusal(decision, Facts.of(CALLER, call()))
    (reason,) = decided(policies(rule("allow", MISSING)), moment()).reasons
    assert (reason.code, "amont" in reason.detail) == ("error", True)


def test_what_was_read_is_told_for_the_audit() -> None:
    """The scalar facts that conditions and bindings ask for, each by its path, none that is long or no scalar."""
    rules = f"{MAY}\n{rule('require', f'{NEEDS}, {TRUE}')}"
    more = rule(
        "require", "when: 'run.spend_usd >= decimal(\"0\") && size(args.list) >= 0 || args.long == args.none'", "s"
    )
    args = {**ORDER, "list": [1], "long": "x" * 201, "none": None}
    told = decided(policies(f"{rules}\n{more}"), moment(call(args))).read
    assert told == {"args.amount": 100, "args.order_id": "A1", "run.spend_usd": "1.5", "args.none": None}


def test_a_decision_at_best_is_for_lists_of_models() -> None:
    """Before a call is made every condition may come true: what some call could be allowed is listed."""
    facts = Facts.of(CALLER, call())
    for rules, possible in (
        (rule("allow", FALSE), True),
        (rule("allow", NEEDS), True),
        (rule("allow", "approve: {approvers: [a]}"), True),
        (f"{MAY}\n{rule('deny', TRUE)}", True),
        (f"{MAY}\n{rule('require', NEEDS)}", True),
        (f"{MAY}\n{rule('deny')}", False),
        (rule("require", NEEDS), False),
    ):
        assert policies(rules).decide(facts).allowed is possible


def test_a_rule_that_reads_the_region_is_decided_for_each_target() -> None:
    """Where the data would go differs by target, as the provider does."""
    assert policies(rule("allow", "when: 'call.region == \"eu\"'")).per_target
    assert not policies(rule("allow", "when: 'call.method == \"POST\"'")).per_target
    loaded = policies(rule("allow", "when: 'call.region == \"eu\"'"))
    assert [decided(loaded, moment(region=region)).effect for region in ("eu", "us", "")] == ["allow", "deny", "deny"]


def test_nothing_is_made_that_no_rule_reads() -> None:
    """P3: arguments of any size cost nothing where no condition asks for them."""

    class Untouchable(dict[str, object]):
        def __getitem__(self, name: str) -> object:
            assert name == "amount", name
            return super().__getitem__(name)

        def __iter__(self) -> Any:  # noqa: ANN401 -- never
            raise AssertionError

    args = Untouchable(amount=100, huge=["x"] * 200_000)
    assert effect_of(f"{MAY}\n{rule('require', TRUE)}", args) == "allow"


def test_a_condition_over_a_list_of_the_agents_ends_in_a_refusal() -> None:
    """P4: nested loops over what an agent sends run out of their budget, and the call is refused."""
    slow = "when: 'args.l.all(a, args.l.all(b, args.l.all(c, a + b + c > 0)))'"
    args: dict[str, object] = {"l": list(range(1, 1000))}
    assert effect_of(rule("allow", slow), args) == "deny"
    assert effect_of(f"{MAY}\n{rule('deny', slow)}", args) == "deny"


def test_the_order_of_rules_does_not_matter() -> None:
    """The same rules the other way round decide the same in every part."""
    lines = [MAY, rule("require", NEEDS, "a"), rule("require", TRUE, "b"), rule("allow", NEEDS, "c")]
    one, other = (policies("\n".join(order)) for order in (lines, lines[::-1]))
    for seen in ((), (attested(),)):
        first, second = (decided(loaded, moment(None, *seen)) for loaded in (one, other))
        assert [getattr(first, name) for name in first.__struct_fields__ if name != "policy_hash"] == [
            getattr(second, name) for name in second.__struct_fields__ if name != "policy_hash"
        ]


CONTRACT = """version: 1
policy: procurement-payments
mode: enforce
rules:
  - id: procurement-may-pay
    effect: allow
    match: {agents: [procurement], tools: [payments.charge]}
    obligations: {cache: never}
  - id: fraud-check-before-payment
    effect: require
    match: {tools: ["payments.*"]}
    requires:
      - attestation: {step: check, outcome: passed, attested_by: [gateway, fraud-service], max_age: 15m,
                      consume: per_subject,
                      bind: {order_id: args.order_id, amount: args.amount, currency: args.currency}}
    when: 'args.currency == "EUR" && args.amount <= 1000000'
    approve: {when: 'args.amount > 250000', approvers: ["group:finance"], expires: 30m}
    message: Run fraud.check for this order first, then retry.
observe:
  - {step: check, tool: fraud.check, outcome: 'result.verdict == "pass" ? "passed" : "failed"',
     subject: {order_id: args.order_id, amount: args.amount, currency: args.currency}}
"""


def test_a_policy_as_it_is_meant_to_be_written() -> None:
    """A payment wants a check of this very order, is held above a limit, and goes through once for each order."""
    loaded = read(CONTRACT)
    dear = {**ORDER, "amount": 300_000}
    (observation,) = loaded.observations("fraud.check")
    assert observation.attest(dear, {"verdict": "pass"}) == ("passed", dear)
    assert decided(loaded, moment()).code == "attestation_required"
    paid = decided(loaded, moment(None, attested()))
    assert (paid.effect, paid.obligations.cache) == ("allow", "never")
    assert [use.scope for use in paid.uses] == ["procurement-payments/fraud-check-before-payment"]
    assert decided(loaded, moment(call(dear), attested(subject=dear))).effect == "hold"
    assert decided(loaded, moment(call({**ORDER, "currency": "JPY"}), attested())).code == "policy_denied"


def test_the_run_may_be_asked_about() -> None:
    """A limit on what a run has cost is exact to the nano-dollar."""
    text = rule("allow", "when: 'run.spend_usd < decimal(\"2.000000001\")'")
    for spent, effect in ((2_000_000_000, "allow"), (2_000_000_001, "deny")):
        assert effect_of(text, run=RunView("r1", "url", 1, spent, 0)) == effect
