"""Policy tests: what is written down is decided as a call would be, and a test with a wrong name does not pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.principal import Agent
from gateway.core.sources import DiskSources
from gateway.policy import Known, load
from gateway.policy.settings import PoliciesSettings
from gateway.policy.testing import Caller, Operation, Outcome, Surroundings, read_tests, run_test
from gateway.settings.complaints import Complaints

POLICY = """version: 1
policy: p
rules:
  - {id: pays, effect: allow, match: {agents: [buyer], tools: [pay.charge]}, when: 'args.amount <= 100'}
  - id: checked
    effect: require
    match: {tools: [pay.charge]}
    requires: [{attestation: {step: check, max_age: 10m, bind: {order: args.order}}}]
    approve: {when: 'args.amount > 50', approvers: ["group:desk"]}
  - {id: thinks, effect: allow, match: {models: ["small-*"], providers: [eu]}}
  - {id: eu-only, effect: require, match: {models: [any]}, when: 'call.region == "eu" && call.stream == false'}
  - {id: reads, effect: allow, match: {tools: [pay.read]}, when: 'call.method == "GET" && call.repeat == "safe"'}
  - {id: for-anna, effect: allow, match: {tools: [mail.send], issuers: [corp], min_assurance: bound},
     when: 'principal.on_behalf_of == "anna" && principal.depth == 1 && agent.tags["env"] == "prod"'}
  - {id: in-hours, effect: allow, match: {tools: [clock.ring]}, when: 'now == timestamp("2026-01-01T00:00:00Z")'}
  - {id: cheap, effect: allow, match: {tools: [run.go]},
     when: 'run.spend_usd < decimal("1.50") && run.tokens == 7 && run.step == 3 && run.source == "claim"'}
"""
CALL = "agent: buyer, tool: pay.charge, run: {id: r}, args: {order: A, amount: 10}"
CHECKED = "attestations: [{step: check, age: 5m, subject: {order: A}}]"
ANNA = "on_behalf_of: anna, depth: 1, assurance: mtls"
AROUND = Surroundings(
    callers={"buyer": Caller(Agent("buyer", team="desk", tags=(("env", "prod"),)), "corp", "spiffe://x/buyer")},
    operations={
        "pay.charge": Operation("POST", "never", "eu"),
        "pay.read": Operation("GET", "safe", ""),
        **{name: Operation("POST", "never", "") for name in ("mail.send", "clock.ring", "run.go")},
    },
    attesters=frozenset({"bureau"}),
    models=frozenset({"small-*"}),
    providers={"eu": "eu", "us": ""},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the policy."""
    (tmp_path / "p.yaml").write_text(POLICY)
    return tmp_path


def run(folder: Path, text: str, around: Surroundings = AROUND) -> tuple[list[Outcome], list[str]]:
    """What came of the tests of a file, and what is wrong with it."""
    (folder / "t_test.yaml").write_text(f"version: 1\ntests:\n{text}")
    said, sources = Complaints(), DiskSources()
    policies = load(PoliciesSettings(dir=folder), sources, Known(), said)
    assert said.found == []
    tests = list(read_tests(folder, sources, around, said))
    found = [str(one).replace(f"{folder}/", "") for one in said.found]
    return [run_test(one, policies, around) for one in tests], found


def came(folder: Path, given: str, expect: str, around: Surroundings = AROUND) -> list[str]:
    """How one test differs from what it expects; nothing where it passes."""
    outcomes, mistakes = run(folder, f"  - {{name: t, given: {{{given}}}, {expect}}}\n", around)
    assert mistakes == []
    (outcome,) = outcomes
    return list(outcome.differences)


@pytest.mark.parametrize(
    ("given", "expect"),
    [
        (f"{CALL}, {CHECKED}", "expect: allow, rule: pays"),
        (f"{CALL}, {CHECKED}", "expect: allow, rule: p/checked"),
        (CALL, "expect: deny, code: attestation_required, rule: checked"),
        (f"{CALL}, {CHECKED}".replace("5m", "11m"), "expect: deny, code: attestation_required"),
        (f"{CALL}, {CHECKED}".replace("5m", "11m") + ", held: 2m", "expect: allow"),
        (f"{CALL}, {CHECKED}".replace("5m", "5m, lifetime: 4m"), "expect: deny, code: attestation_required"),
        (f"{CALL}, {CHECKED}".replace("5m", "5m, run: other"), "expect: deny, code: attestation_required"),
        (f"{CALL}, {CHECKED}".replace("5m", "5m, agent: other"), "expect: deny, code: attestation_required"),
        (f"{CALL}, {CHECKED}".replace("5m", "5m, outcome: failed"), "expect: deny, code: attestation_required"),
        (f"{CALL}, {CHECKED}".replace("amount: 10", "amount: 60"), "expect: hold, rule: checked"),
        (f"{CALL}, {CHECKED}".replace("amount: 10", "amount: 60"), "expect: hold, code: approval_required"),
        (f"{CALL}, {CHECKED}".replace("amount: 10", "amount: 101"), "expect: deny, code: policy_denied, rule: pays"),
        ("agent: buyer, tool: pay.read", "expect: allow"),
        ("agent: buyer, tool: pay.read, method: POST", "expect: deny"),
        ("agent: buyer, model: small-1, provider: eu", "expect: allow"),
        ("agent: buyer, model: small-1, provider: eu, stream: true", "expect: deny, rule: eu-only"),
        ("agent: buyer, model: small-1, provider: us", "expect: deny"),
        ("agent: buyer, model: small-1", "expect: deny"),
        ("agent: buyer, model: small-1, provider: eu, hosted_tools: [web]", "expect: deny, code: hosted_tool_refused"),
        ("agent: buyer, kind: own", "expect: allow"),
        (
            f"agent: buyer, tool: mail.send, principal: {{{ANNA}}}",
            "expect: allow, rule: for-anna",
        ),
        ("agent: buyer, tool: mail.send, principal: {on_behalf_of: anna, depth: 1}", "expect: deny"),
        (
            f"agent: buyer, tool: mail.send, principal: {{{ANNA}, issuer: else}}",
            "expect: deny",
        ),
        (
            f"agent: {{id: x, tags: {{env: t}}}}, tool: mail.send, principal: {{{ANNA}, issuer: corp}}",
            "expect: deny, rule: for-anna",
        ),
        ("agent: buyer, tool: clock.ring", "expect: allow"),
        ('agent: buyer, tool: clock.ring, now: "2026-01-01T01:00:00+01:00"', "expect: allow"),
        ('agent: buyer, tool: clock.ring, now: "2026-11-20T10:00:00Z"', "expect: deny"),
        ('agent: buyer, tool: run.go, run: {id: r, step: 3, tokens: 7, spend_usd: "1.499"}', "expect: allow"),
        ('agent: buyer, tool: run.go, run: {id: r, step: 3, tokens: 7, spend_usd: "1.50"}', "expect: deny"),
        ("agent: buyer, tool: run.go", "expect: deny"),
    ],
)
def test_what_is_written_down_is_decided(folder: Path, given: str, expect: str) -> None:
    """Caller, call, run, time and attestations reach the rules as those of a call would; each test here passes."""
    assert came(folder, given, expect) == []


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ("expect: deny", "expected deny, got allow"),
        ("expect: hold", "expected hold, got allow"),
        ("expect: allow, rule: thinks", "expected that rule thinks decides, but p/checked and p/pays did"),
        ("expect: allow, rule: other/pays", "expected that rule other/pays decides, but p/checked and p/pays did"),
    ],
)
def test_what_comes_otherwise_is_said(folder: Path, expect: str, said: str) -> None:
    """A test that fails says what was expected and what came."""
    assert came(folder, f"{CALL}, {CHECKED}", expect) == [said]


def test_the_code_counts(folder: Path) -> None:
    """A refusal for another reason is not the one that was expected."""
    assert came(folder, CALL, "expect: deny, code: policy_denied") == [
        "expected the code policy_denied, got attestation_required"
    ]
    assert came(folder, CALL, "expect: allow") == ["expected allow, got deny (attestation_required)"]


@pytest.mark.parametrize(
    ("test", "said"),
    [
        (
            f"given: {{{CALL}}}, expect: allow".replace("pay.charge", "pay.chrage"),
            "tests[0].given.tool: the configuration has no tool pay.chrage; did you mean pay.charge?",
        ),
        (
            f"given: {{{CALL}}}, expect: allow".replace("buyer", "byer"),
            "tests[0].given.agent: the configuration has no agent byer; name one of it, or write {id: byer, team: ...}",
        ),
        (
            f"given: {{{CALL}, attestations: [{{step: check, by: fraud}}]}}, expect: allow",
            "tests[0].given.attestations[0].by: the configuration has no attester fraud",
        ),
        (
            "given: {agent: buyer, model: big}, expect: allow",
            "tests[0].given.model: the configuration has no model big",
        ),
        (
            "given: {agent: buyer, model: small-1, provider: asia}, expect: allow",
            "tests[0].given.provider: the configuration has no provider asia",
        ),
        (f"given: {{{CALL}}}, expect: allowed", "tests[0].expect: 'allowed' is not among the choices"),
        (f"given: {{{CALL}}}, expect: deny, code: nope", "tests[0].code: no policy refuses with 'nope'"),
        (f"given: {{{CALL}}}, expect: allow, code: policy_denied", "tests[0].code: a call that is allowed has no code"),
        ("given: {agent: buyer}, expect: allow", "tests[0].given: nothing is called; name a `tool` or a `model`"),
        ("given: {agent: buyer, tool: a.b, model: c}, expect: deny", "tests[0].given.tool: no call has both"),
        ("given: {agent: buyer, tool: a.b, kind: llm}, expect: deny", "tests[0].given.kind: no call of kind llm has a"),
        (
            "given: {agent: buyer, model: c, kind: tool}, expect: deny",
            "tests[0].given.kind: no call of kind tool has a",
        ),
        (
            "given: {agent: buyer, tool: pay.read, attestations: [{step: check}]}, expect: deny",
            "tests[0].given.attestations.0: the call has no run, so it is of none either; add run: {id: r1}",
        ),
        (
            f"given: {{{CALL}, attestations: [{{step: check, subject: {{amount: 1.5}}}}]}}, expect: deny",
            "tests[0].given.attestations[0].subject.amount: is neither a string nor an integer nor a boolean",
        ),
        (f"given: {{{CALL}, now: 2026-11-20}}, expect: deny", "tests[0].given.now: '2026-11-20' is not a time"),
        (f"given: {{{CALL}, now: '2026-13-20T10:00:00Z'}}, expect: deny", "tests[0].given.now: "),
        (
            f"given: {{{CALL}}}, expect: allow".replace("{id: r}", "{id: r, spend_usd: 1e3}"),
            "tests[0].given.run.spend_usd:",
        ),
        (f"given: {{{CALL}, held: 5}}, expect: deny", "tests[0].given.held: '5' is not a duration"),
        (f"given: {{{CALL}, colour: red}}, expect: deny", "tests[0].given.colour: unknown key"),
    ],
)
def test_a_mistake_in_a_test_is_told(folder: Path, test: str, said: str) -> None:
    """With its file, its line and what to do; such a test is not run, so that it cannot pass."""
    outcomes, mistakes = run(folder, f"  - {{name: t, {test}}}\n")
    assert outcomes == []
    (mistake,) = mistakes
    assert mistake.startswith(f"t_test.yaml:3: {said}")
    assert "; " in mistake


def test_without_a_configuration_no_name_is_wrong(folder: Path) -> None:
    """Where nothing is known of tools and agents, tests may name any; an agent is then just its name."""
    given = CALL.replace("buyer, tool", "buyer, principal: {subject: b}, tool")
    assert came(folder, f"{given}, {CHECKED}", "expect: allow", Surroundings()) == []
    assert came(folder, "agent: x, tool: some.thing, kind: mcp", "expect: deny", Surroundings()) == []


def test_tests_stand_in_policy_files_too(folder: Path) -> None:
    """Each says where it stands; those of a policy file that is wrong are not run twice or at all."""
    (folder / "q.yaml").write_text(
        "version: 1\npolicy: q\nrules: [{id: q, effect: deny, match: {tools: [q.q]}}]\ntests:\n"
        f"  - name: within\n    given: {{{CALL}}}\n    expect: deny\n"
    )
    outcomes, mistakes = run(folder, f"  - {{name: t, given: {{{CALL}}}, expect: deny}}\n")
    assert mistakes == []
    assert [(Path(one.placed.place.file).name, one.placed.place.line) for one in outcomes] == [
        ("q.yaml", 5),
        ("t_test.yaml", 3),
    ]


def test_numbers_are_those_of_json(folder: Path) -> None:
    """A decimal of YAML is what the same text is in a JSON body: a double, with which nothing exact is compared."""
    (folder / "p.yaml").write_text(
        "version: 1\npolicy: p\nrules: [{id: r, effect: allow, match: {tools: [a.b]}, "
        "when: 'args.price == 1.5 && args.deep[0].n == 2 && type(args.deep[0].n) == int'}]\n"
    )
    given = "agent: a, tool: a.b, args: {price: 1.5, deep: [{n: 2}]}"
    assert came(folder, given, "expect: allow", Surroundings()) == []
