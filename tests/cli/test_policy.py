"""`passgate policy`, as the security team sees it: in a terminal, in a program, beside the lines of a pull request."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import json as encoding

from gateway.audit import DecisionRecord
from gateway.audit.chain import START, linked
from gateway.audit.record import FailedClause
from gateway.cli import main
from gateway.cli.policy_report import Finding, github

CONFIG = """
identity:
  audience: https://gateway.example
  issuers: [{name: dev, iss: "https://issuer.example", keys: {file: keys.json}}]
agents:
  - {id: buyer, issuer: dev, subject: "agent:buyer", team: desk}
  - {id: care, issuer: dev, subject: "agent:care"}
tools:
  pay: {kind: http, base_url: "https://pay.example", auth: {value: "Bearer ${env:NOBODY_SET_THIS}"},
        operations: {charge: {method: POST, path: /charge}, refund: {method: POST, path: /refund}}}
operators: [{id: boss, token_sha256: "0000000000000000000000000000000000000000000000000000000000000000",
             roles: [approver], groups: [desk]}]
telemetry: {audit: log, redact: [authorization, pin]}
"""
POLICY = """version: 1
policy: p
rules:
  - id: pays
    effect: allow
    match: {agents: [buyer], tools: [pay.charge]}
    when: 'args.amount <= 100 && args.currency == "EUR"'
  - id: no-refunds
    effect: deny
    match: {tools: [pay.refund]}
tests:
  - name: small amounts are paid
    given: {agent: buyer, tool: pay.charge, args: {amount: 10, currency: EUR}}
    expect: allow
"""

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    """Run `passgate policy …` in a folder with a configuration and a policy: exit code, output, errors."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/p.yaml").write_text(POLICY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PASSGATE_CONFIG", raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        try:
            code = main(["policy", *words])
        except SystemExit as end:  # argparse leaves so
            code = int(end.code or 0)
        found = capsys.readouterr()
        return code, found.out, found.err

    return run


def test_the_github_format_cannot_be_broken_out_of() -> None:
    """A file's name, a test's name and a message may hold what ends a property, a line or a command."""
    odd = Finding("error", "a,b:c%.yaml", 3, "x: y, z%\n::warning::", "50% of a, b: c\r\n::error::no")
    assert github(odd) == (
        "::error file=a%2Cb%3Ac%25.yaml,line=3,title=x%3A y%2C z%25%0A%3A%3Awarning%3A%3A"
        "::50%25 of a, b: c%0D%0A::error::no"
    )


def test_the_github_format_names_files_as_the_repository_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to where the workflow runs; a file elsewhere keeps its name, and what is empty is left out."""
    monkeypatch.chdir(tmp_path)
    assert github(Finding("notice", str(tmp_path / "deep/a.yaml"), 1, "", "b")) == "::notice file=deep/a.yaml,line=1::b"
    assert github(Finding("warning", "/else/a.yaml", 1, "", "b")) == "::warning file=/else/a.yaml,line=1::b"


# -- lint


def test_lint_of_good_policies(said: Said) -> None:
    """It needs no secret, and says how much it looked at."""
    assert said("lint") == (0, "policies: 2 rules, no mistakes, no warnings\n", "")


def test_lint_tells_what_is_wrong_and_what_is_odd(said: Said) -> None:
    """Mistakes, errors of rules that load, warnings, and mistakes in tests: each with its place and what to do."""
    Path("policies/q.yaml").write_text(
        "version: 1\npolicy: q\nrules:\n  - {id: q, effect: allow, match: {agents: [byer], tools: [pay.charge]}}\n"
    )
    Path("policies/q_test.yaml").write_text(
        "version: 1\ntests:\n  - {name: t, given: {agent: buyer, tool: pay.chrage}, expect: deny}\n"
    )
    code, out, _ = said("lint")
    lines = out.splitlines()
    assert code == 1
    assert lines[0].startswith("policies/q_test.yaml:3: tests[0].given.tool: the configuration has no tool pay.chrage;")
    assert lines[1].startswith("warning: policies/q.yaml:4: rules[0].match.agents[0]: ")
    assert lines[1].endswith("did you mean buyer?")
    assert lines[-1] == "policies: 3 rules, 1 mistake, 1 warning"


def test_lint_strict(said: Said) -> None:
    """A warning is no mistake, unless somebody wants it to be."""
    Path("policies/p.yaml").write_text(POLICY.replace("agents: [buyer]", "agents: [buyer, byer]"))
    assert said("lint")[0] == 0
    code, out, _ = said("lint", "--strict", "--format", "json")
    found = json.loads(out)
    assert (code, found["mistakes"], found["warnings"]) == (1, 0, 1)
    assert found["findings"][0]["severity"] == "warning"
    assert (found["findings"][0]["file"], found["findings"][0]["line"]) == ("policies/p.yaml", 6)
    code, out, _ = said("lint", "--format", "github")
    assert (code, out.split(",line=6,title=rules[0].match.agents[1]::")[0]) == (0, "::warning file=policies/p.yaml")


def test_lint_of_what_does_not_load(said: Said) -> None:
    """Every mistake in its line; nothing else is said of such files."""
    Path("policies/p.yaml").write_text(
        POLICY.replace("args.amount <= 100", "agrs.amount <= 100").replace("deny", "dney")
    )
    code, out, _ = said("lint")
    assert code == 1
    assert [line.split(": ")[:2] for line in out.splitlines()[:2]] == [
        ["policies/p.yaml:7", "rules[0].when"],
        ["policies/p.yaml:9", "rules[1].effect"],
    ]


def test_what_to_look_at(said: Said) -> None:
    """A file of the policies, to hear of it alone; another folder in place of them; one without a configuration."""
    Path("policies/q.yaml").write_text("version: 1\npolicy: q\nrules: []\n")
    Path("drafts").mkdir()
    Path("drafts/d.yaml").write_text(POLICY)
    assert said("lint")[0] == 1
    assert said("lint", "policies/p.yaml")[0] == 0
    assert said("lint", "policies/q.yaml")[0] == 1
    assert said("lint", ".")[1] == said("lint", "policies")[1] == said("lint")[1]
    for words in (["drafts"], ["--policies", "drafts"]):
        assert said("lint", *words) == (0, "drafts: 2 rules, no mistakes, no warnings\n", "")
    Path("config.yaml").unlink()
    assert said("lint", "drafts")[0] == 0
    code, out, err = said("lint")
    assert (code, out) == (2, "")
    assert err.startswith("passgate: there is no config.yaml; name the folder of the policies")


@pytest.mark.parametrize(
    ("words", "err"),
    [
        (["lint", "nowhere"], "passgate: nowhere: there is no such file or folder."),
        (["lint", "--policies", "config.yaml"], "passgate: config.yaml is no folder; name the folder of the policies."),
        (["lint", "--config", "gone.yaml"], "gone.yaml:1: the configuration cannot be read: No such file"),
        (["coverage", "--min", "80"], "passgate: --min: '80' is not a percentage; write a share of at most 100%"),
        (
            ["explain", "gone.yaml"],
            "passgate: gone.yaml: No such file or directory; name a decision (dec_…), or a file",
        ),
        (["explain", "dec_1"], "passgate: log: No such file or directory; the decision log is not there."),
        (["replay", "gone"], "passgate: gone: No such file or directory."),
        (["replay", "policies"], "passgate: policies has no decision; name the folder of a decision log"),
        (["diff", "policies", "gone"], "passgate: gone is no folder; name two folders of policies."),
        (["verify", "gone", "--keys", "keys.json"], "passgate: gone is no folder; name the folder of the policies."),
        (["verify", "policies", "--keys", "keys.json"], "passgate: keys.json is no file; name the public keys"),
        (["sign", "policies", "--key", "gone", "--revision", "1"], "passgate: gone: No such file or directory."),
    ],
)
def test_wrong_use_is_a_sentence(words: list[str], err: str, said: Said) -> None:
    """Exit code 2, and what to do instead."""
    code, out, found = said(*words)
    assert (code, out) == (2, "")
    assert found.startswith(err)


# -- test


def test_tests_that_pass(said: Said) -> None:
    """One line."""
    assert said("test") == (0, "1 test, none failed\n", "")


def test_a_test_that_fails_says_why(said: Said) -> None:
    """What was expected, what came, which rules match, which clause does not hold, and of which values."""
    Path("policies/p_test.yaml").write_text(
        "version: 1\ntests:\n  - name: large ones too\n    given: {agent: buyer, tool: pay.charge, "
        "args: {amount: 101, currency: EUR}}\n    expect: allow\n"
    )
    code, out, _ = said("test")
    assert code == 1
    assert out.splitlines() == [
        "policies/p_test.yaml:3: test 'large ones too': expected allow, got deny (policy_denied)",
        "  p/pays does not grant",
        '    no    when: args.amount <= 100 && args.currency == "EUR"',
        "          no    args.amount <= 100   (args.amount = 101)",
        "          yes   args.currency == \"EUR\"   (args.currency = 'EUR')",
        "2 tests, 1 failed",
    ]
    code, out, _ = said("test", "--format", "json")
    found = json.loads(out)
    assert (code, found["tests"], found["failed"], found["findings"][0]["line"]) == (1, 2, 1, 3)
    code, out, _ = said("test", "--format", "github")
    assert out.startswith(
        "::error file=policies/p_test.yaml,line=3,title=test 'large ones too'::"
        "expected allow, got deny (policy_denied)%0A  p/pays does not grant%0A"
    )
    assert said("test", "policies/p.yaml")[:2] == (0, "1 test, none failed\n")


def test_tests_may_lie_elsewhere(said: Said) -> None:
    """A file of tests that is named runs against the policies of the configuration, and alone."""
    Path("else").mkdir()
    Path("else/a_test.yaml").write_text(
        "version: 1\ntests:\n  - {name: t, given: {agent: care, tool: pay.charge}, expect: allow}\n"
    )
    code, out, _ = said("test", "else/a_test.yaml")
    assert (code, out.splitlines()[0].split(": ")[0]) == (1, "else/a_test.yaml:3")
    assert out.endswith("1 test, 1 failed\n")
    assert said("test", "else/a_test.yaml", "policies")[1].endswith("2 tests, 1 failed\n")


def test_a_mistake_in_a_test_ends_it(said: Said) -> None:
    """No test is run where one is not what its author meant."""
    Path("policies/p_test.yaml").write_text(
        "version: 1\ntests:\n  - {name: t, given: {agent: nobody, tool: pay.charge}, expect: deny}\n"
    )
    code, out, _ = said("test")
    assert code == 2
    assert out.startswith("policies/p_test.yaml:3: tests[0].given.agent: the configuration has no agent nobody;")
    assert out.endswith("1 mistake, so no test was run\n")


def test_policies_with_mistakes_are_not_tested(said: Said) -> None:
    """All of the mistakes are said."""
    Path("policies/p.yaml").write_text(POLICY.replace("effect: deny", "effect: dney"))
    code, out, err = said("test")
    assert (code, out) == (2, "")
    assert err.startswith("policies/p.yaml:9: rules[1].effect: 'dney' is not among the choices")


def test_without_tests_it_says_how_to_write_one(said: Said) -> None:
    """What is printed is a file of a test."""
    Path("policies/p.yaml").write_text(POLICY.partition("tests:")[0])
    code, out, _ = said("test")
    assert code == 1
    head, _, example = out.partition("\n\n")
    assert head.endswith("such as policies/first_test.yaml:")
    Path("policies/first_test.yaml").write_text(
        example.replace("AGENT", "care").replace("SERVER.OPERATION", "pay.charge")
    )
    assert said("test") == (0, "1 test, none failed\n", "")


# -- coverage


def test_coverage_says_what_no_test_has_seen(said: Said) -> None:
    """By rule and condition, with its line; below the threshold it fails."""
    code, out, _ = said("coverage")
    assert code == 0
    assert out.splitlines() == [
        "warning: policies/p.yaml:7: p/pays: no test has seen when false; add a test in which it does not hold",
        "warning: policies/p.yaml:8: p/no-refunds: no test has a call that this rule matches",
        "2 of 4 seen by 1 test: 50.0%",
    ]
    assert said("coverage", "--min", "50%")[0] == 0
    code, out, _ = said("coverage", "--min", "50.1%")
    assert code == 1
    assert out.startswith("policies/p.yaml:7: p/pays: ")
    assert out.endswith("2 of 4 seen by 1 test: 50.0%, where --min asks for 50.1%\n")
    found = json.loads(said("coverage", "--format", "json")[1])
    assert (found["seen"], found["points"], found["tests"]) == (2, 4, 1)


def test_coverage_of_everything(said: Said) -> None:
    """With the tests that were missing there is nothing to say."""
    Path("policies/more_test.yaml").write_text(
        "version: 1\ntests:\n"
        "  - {name: a, given: {agent: buyer, tool: pay.charge}, expect: deny}\n"
        "  - {name: b, given: {agent: buyer, tool: pay.refund}, expect: deny}\n"
    )
    assert said("coverage", "--min", "100%") == (0, "4 of 4 seen by 3 tests: 100.0%\n", "")


# -- explain


def test_explain_a_call_in_a_file(said: Said) -> None:
    """Which rules match, each clause with its verdict, the values it read, and what the agent would be told."""
    Path("call.yaml").write_text("{agent: buyer, tool: pay.charge, args: {amount: 101, currency: EUR}}")
    code, out, _ = said("explain", "call.yaml")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("decided   deny (policy_denied), policies ")
    assert lines[1].startswith("told      rule p/pays does not let agent buyer call tool pay.charge")
    assert lines[3:] == [
        "p/pays (allow) does not grant  policies/p.yaml:4",
        '  no    when: args.amount <= 100 && args.currency == "EUR"',
        "        no    args.amount <= 100   (args.amount = 101)",
        "        yes   args.currency == \"EUR\"   (args.currency = 'EUR')",
    ]
    Path("call.json").write_text('{"agent": "care", "tool": "pay.charge"}')
    assert said("explain", "call.json")[1].endswith("\nNo rule matches this call.\n")
    found = json.loads(said("explain", "call.yaml", "--format", "json")[1])
    assert found["decision"]["deciding"] == ["p/pays"]
    assert found["rules"][0]["clauses"][0]["operands"][0] == {
        "text": "args.amount <= 100", "value": False, "error": "", "read": {"args.amount": "101"},
    }  # fmt: skip


def test_explain_never_shows_what_is_redacted(said: Said) -> None:
    """Neither what the configuration hides by its name, nor what an obligation hides, nor an error that holds it."""
    Path("policies/p.yaml").write_text(
        "version: 1\npolicy: p\nrules:\n  - {id: r, effect: allow, match: {tools: [pay.charge]}, "
        "obligations: {redact: [args.card]}, "
        'when: \'args.pin == "1" && args.card != "" && {"a": true}[args.card] && args.other == 1\'}\n'
    )
    Path("call.yaml").write_text(
        '{agent: buyer, tool: pay.charge, args: {pin: "S3CRET-1", card: "S3CRET-2", other: shown}}'
    )
    for form in ("text", "json"):
        code, out, _ = said("explain", "call.yaml", "--format", form)
        assert code == 0
        assert "S3CRET" not in out
        assert "[redacted]" in out
        assert "'shown'" in out


def test_explain_a_call_with_mistakes(said: Said) -> None:
    """They are those that a test would have."""
    Path("call.yaml").write_text("{agent: buyer, tol: pay.charge}")
    code, _, err = said("explain", "call.yaml")
    assert code == 2
    assert err.startswith("call.yaml:1: tol: unknown key; did you mean `tool`?")


def record(number: int, **changes: object) -> DecisionRecord:
    """A decision about 10 EUR of agent buyer, allowed, by policies that are not those of today."""
    given: dict[str, object] = {
        "time": f"2026-11-20T10:00:{number:02}.000000Z", "id": f"dec_{number}", "request_id": f"req_{number}",
        "agent": "buyer", "issuer": "dev", "subject": "agent:buyer", "assurance": "bearer", "token_id": "t",
        "team": "desk", "kind": "tool", "operation": "charge", "method": "POST", "dialect": "http",
        "tool": "pay.charge", "call_digest": "sha256:0", "effect": "allow", "policy_hash": "0" * 64,
        "mode": "enforce", "read": {"args.amount": 10, "args.currency": "EUR"}, "latency_us": 1,
    }  # fmt: skip
    return DecisionRecord(**(given | changes))  # type: ignore[arg-type] # fields of the record


def log(*records: DecisionRecord) -> None:
    """Write a decision log."""
    link, lines = START, b""
    for one in records:
        line, link = linked(link, encoding.encode(one))
        lines += line
    Path("log").mkdir(exist_ok=True)
    Path("log/audit-000001.ndjson").write_bytes(lines)


def test_explain_a_decision_of_the_log(said: Said) -> None:
    """What the log says of it, and what the rules of today make of what it holds; what it lacks is named."""
    log(record(1), record(2, read={"args.amount": 101}, effect="deny", code="policy_denied"))
    code, out, _ = said("explain", "dec_2")
    assert code == 0
    lines = out.splitlines()
    assert lines[:3] == [
        "dec_2  2026-11-20T10:00:02.000000Z",
        "call      agent buyer: tool pay.charge",
        "decided   deny (policy_denied), policies 000000000000",
    ]
    assert "The policies have changed since. By those of today: deny." in lines
    assert "        no    args.amount <= 100   (args.amount = 101)" in lines
    assert "The log does not have: args.currency. Where a rule reads it, what is said here is no proof." in lines
    found = json.loads(said("explain", "dec_2", "--format", "json")[1])
    assert (found["record"]["id"], found["now"]["effect"], found["not_in_the_log"]) == (
        "dec_2",
        "deny",
        ["args.currency"],
    )
    assert said("explain", "dec_3")[2] == "passgate: log has no decision dec_3.\n"


def test_explain_says_where_the_log_is_silent(said: Said) -> None:
    """Of a refused call the log has why, and not what was attested: what the rules make of that is marked."""
    Path("policies/p.yaml").write_text(
        "version: 1\npolicy: p\nrules:\n"
        "  - {id: r, effect: allow, match: {tools: [any]}, requires: [{attestation: {step: check, max_age: 5m}}]}\n"
    )
    reasons = (FailedClause("p/r", "requires[0]", "too_old", "check"),)
    log(record(1, effect="deny", code="attestation_required", run="r1", step=2, reasons=reasons))
    out = said("explain", "dec_1")[1]
    assert "reason    p/r requires[0]: step check: too_old: the attestation is older than the rule allows\n" in out
    assert "The log does not have: attestations of check." in out
    assert "By those of today: cannot be told without attestations of check." in out


def test_explain_tells_what_it_cannot_tell_from_what_failed(said: Said) -> None:
    """A value that the log hides is not missing: a clause is as the record says, or unknown, never the reverse."""
    Path("policies/p.yaml").write_text(
        "version: 1\npolicy: p\nrules:\n  - {id: pays, effect: allow, match: {tools: [pay.charge]}}\n"
        "  - {id: r, effect: require, match: {tools: [pay.charge]}, "
        "when: 'args.amount < 100 && (!has(args.pin) || args.pin != \"4111\")'}\n"
    )
    Path("call.json").write_text('{"agent": "care", "tool": "pay.charge", "args": {"amount": 10}}')
    same = json.loads(said("explain", "call.json", "--format", "json")[1])["decision"]["policy_hash"]
    read = {"args.amount": 10, "args.pin": "[redacted]"}
    failed = (FailedClause("p/r", "when", "false", ""),)
    denied = record(1, policy_hash=same, read=read, effect="deny", code="policy_denied", reasons=failed)
    log(denied, record(2, policy_hash=same, read=read), record(3, read=read))

    refused, allowed, before = (said("explain", f"dec_{number}")[1] for number in (1, 2, 3))
    assert "p/r (require) does not hold  " in refused
    assert "  no    when: args.amount < 100" in refused
    assert "p/r (require) holds  " in allowed
    assert "p/r (require) cannot be told  " in before
    for out in (allowed, before):
        assert "  ?     when: args.amount < 100" in out
        assert "        yes   args.amount < 100   (args.amount = 10)" in out
        assert '        ?     (!has(args.pin) || args.pin != "4111")   (args.pin = [redacted])' in out


def test_explain_cannot_steer_a_terminal(said: Said) -> None:
    """Names in the log come from agents."""
    log(record(1, tool="pay.\x1b[2Jcharge"))
    out = said("explain", "dec_1")[1]
    assert "\x1b" not in out
    assert "pay.\N{REPLACEMENT CHARACTER}[2Jcharge" in out


# -- replay and diff


def test_replay_without_a_difference(said: Said) -> None:
    """What comes out as it did is only counted."""
    log(record(1), record(2, agent="care", effect="deny", read={}))
    assert said("replay", "log") == (0, "2 calls: 2 decided as before, 0 otherwise, 0 cannot be told\n", "")


def test_replay_lists_what_comes_out_otherwise(said: Said) -> None:
    """By rule and agent, with how often, the newest first; what the log does not hold comes last."""
    log(
        record(1, read={"args.amount": 200, "args.currency": "EUR"}),
        record(2, tool="pay.refund"),
        record(3, read={"args.amount": 300, "args.currency": "EUR"}),
        record(4, read={"args.amount": 10}),
        record(5),
    )
    code, out, _ = said("replay", "log/audit-000001.ndjson")
    assert code == 1
    lines = [line.split("; the newest is ") for line in out.splitlines()]
    assert lines == [
        [
            "policies/p.yaml:4: p/pays: 2 calls of agent buyer: allow before, deny now",
            "dec_3 of 2026-11-20T10:00:03.000000Z, pay.charge",
        ],
        [
            "policies/p.yaml:8: p/no-refunds: 1 call of agent buyer: allow before, deny now",
            "dec_2 of 2026-11-20T10:00:02.000000Z, pay.refund",
        ],
        [
            "notice: policies:1: 1 call of agent buyer: cannot be told, the log does not have args.currency",
            "dec_4 of 2026-11-20T10:00:04.000000Z, pay.charge",
        ],
        ["5 calls: 1 decided as before, 3 otherwise, 1 cannot be told"],
    ]
    found = json.loads(said("replay", "log", "--format", "json")[1])
    assert (found["same"], found["otherwise"], found["untold"], len(found["findings"])) == (1, 3, 1, 3)


def test_replay_of_a_call_that_nothing_allows_now(said: Said) -> None:
    """It is told apart from one that a rule refuses."""
    log(record(1, agent="care"))
    assert "policies:1: no rule allows it: 1 call of agent care: allow before, deny now" in said("replay", "log")[1]


def test_an_approved_call_that_would_be_held_is_the_same(said: Said) -> None:
    """A person said yes; that a person would be asked again changes nothing."""
    Path("policies/p.yaml").write_text(
        POLICY.partition("tests:")[0].replace(
            "match: {agents", 'approve: {approvers: ["group:desk"]}\n    match: {agents'
        )
    )
    log(record(1, approval="apr_1"), record(2))
    code, out, _ = said("replay", "log")
    assert code == 1
    assert "1 call of agent buyer: allow before, hold now; the newest is dec_2" in out


def test_replay_by_drafts(said: Said) -> None:
    """Other policies than those of the configuration, before they are those."""
    Path("drafts").mkdir()
    Path("drafts/p.yaml").write_text(POLICY.replace("<= 100", "<= 5"))
    log(record(1))
    assert said("replay", "log")[0] == 0
    assert said("replay", "log", "--policies", "drafts")[0] == 1


def test_diff(said: Said) -> None:
    """Rules by what they mean; with a log, decisions too."""
    Path("drafts").mkdir()
    Path("drafts/other.yaml").write_text("# moved\n" + POLICY.replace("args.amount <= 100", "args.amount<=100"))
    assert said("diff", "policies", "drafts") == (0, "no differences\n", "")
    Path("drafts/other.yaml").write_text(POLICY.replace("<= 100", "<= 5").replace("no-refunds", "refunds"))
    log(record(1), record(2, read={"args.amount": 1, "args.currency": "EUR"}))
    code, out, _ = said("diff", "policies", "drafts", "--log", "log")
    assert code == 1
    assert [line.partition("; the newest is ")[0] for line in out.splitlines()] == [
        "notice: policies/p.yaml:8: p/no-refunds: removed",
        "notice: drafts/other.yaml:4: p/pays: changed: when",
        "notice: drafts/other.yaml:8: p/refunds: added",
        "drafts/other.yaml:4: p/pays: 1 call of agent buyer: allow before, deny now",
        "3 differences; 2 calls: 1 decided as before, 1 otherwise, 0 cannot be told",
    ]


# -- sign and verify


def test_sign_and_verify(said: Said) -> None:
    """From a key to a bundle, and from a changed file to a refusal; the tests of policies are none of its business."""
    assert main(["keys", "new", "--file", "sign.json"]) == 0
    said("lint")  # forgets what was said
    sign = ("sign", "policies", "--key", "sign.private.json", "--revision")
    code, out, _ = said(*sign, "7")
    assert (code, out.split(", signed by key ")[0]) == (0, "policies/bundle.json: revision 7, 1 file")
    Path("policies/p_test.yaml").write_text("version: 1\n")
    verify = ("verify", "policies", "--keys", "sign.json")
    assert said(*verify) == (0, "policies/bundle.json: revision 7, 1 file as signed\n", "")
    assert said(*verify, "--min-revision", "8")[0] == 1
    Path("policies/p.yaml").write_text(POLICY + "# a comment\n")
    code, out, _ = said(*verify)
    assert code == 1
    assert out.startswith("policies/p.yaml:1: is not the file that was signed in bundle.json; put the signed file back")
    code, _, err = said(*sign, "7")
    assert code == 2
    assert "policies/bundle.json has revision 7" in err
    assert "--revision 8 or higher" in err
    assert said(*sign, "8")[0] == 0
    assert said(*verify)[0] == 0


def test_what_nobody_could_load_is_not_signed(said: Said) -> None:
    """Policies with mistakes, no policies, a key that others can read, a key of something else."""
    assert main(["keys", "new", "--file", "sign.json"]) == 0
    said("lint")
    sign = ("sign", "policies", "--revision", "1", "--key")
    Path("policies/p.yaml").write_text(POLICY.replace("effect: deny", "effect: dney"))
    code, _, err = said(*sign, "sign.private.json")
    assert code == 2
    assert err.endswith("passgate: nothing was signed.\n")
    Path("policies/p.yaml").unlink()
    assert "policies has no policy files" in said(*sign, "sign.private.json")[2]
    Path("policies/p.yaml").write_text(POLICY)
    Path("sign.private.json").chmod(0o644)
    assert "can be read by others" in said(*sign, "sign.private.json")[2]
    Path("sign.json").chmod(0o600)
    assert "not a private key" in said(*sign, "sign.json")[2]
    assert "a whole number from 1 on" in said("sign", "policies", "--key", "k", "--revision", "0")[2]
    assert not Path("policies/bundle.json").exists()


def test_policies_are_written_before_they_are_signed(said: Said) -> None:
    """Where the configuration takes signed ones only, its author still lints, tests and explains what is not signed."""
    Path("config.yaml").write_text(CONFIG + "policies: {bundle: {keys: sign.json}}\n")
    Path("call.yaml").write_text("{agent: buyer, tool: pay.refund}")
    for words in (["lint"], ["test"], ["coverage"], ["explain", "call.yaml"], ["diff", "policies", "policies"]):
        assert said(*words)[0] == 0
