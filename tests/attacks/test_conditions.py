"""Rules with conditions, at a real listener: what errs never lets a call go on, and what costs too much ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.attacks.stage import Stage
from tests.attacks.till import why
from tests.simulator.gateway import Gateway, Reply
from tests.simulator.provider import ScriptedProvider
from tests.simulator.upstream import answer

OPERATIONS = ("grant", "user", "deny", "hold", "loop", "match", "free", "quiet", "loud")
LOOP = "args.l.all(a, args.l.all(b, args.l.all(c, a + b + c > 0)))"
RULES = f"""version: 1
policy: ruled
rules:
  - {{id: open, effect: allow, match: {{tools: [bank.deny, bank.hold, bank.quiet, bank.loud]}}}}
  - {{id: grant, effect: allow, match: {{tools: [bank.grant]}}, when: 'args.amount < 100 && args.to.startsWith("AT")'}}
  - {{id: user, effect: allow, match: {{tools: [bank.user]}}, when: 'principal.on_behalf_of.startsWith("user/")'}}
  - {{id: deny, effect: deny, match: {{tools: [bank.deny]}}, when: 'args.amount >= 100 || !args.to.startsWith("AT")'}}
  - {{id: hold, effect: require, match: {{tools: [bank.hold]}}, when: 'args.amount < 100 && args.to.startsWith("AT")'}}
  - {{id: free, effect: allow, match: {{tools: [bank.free]}}, when: 'args.amount < 100'}}
  - {{id: match, effect: allow, match: {{tools: [bank.match]}}, when: '!args.to.matches("^(a+)+$")'}}
  - {{id: loop, effect: allow, match: {{tools: [bank.loop]}}, when: '{LOOP}'}}
  - {{id: dark, effect: deny, mode: shadow, match: {{tools: [bank.quiet]}}}}
  - {{id: broken, effect: deny, mode: shadow, match: {{tools: [bank.quiet]}}, when: 'args.missing > 1'}}
  - {{id: asks, effect: require, mode: shadow, match: {{tools: [bank.quiet]}},
     requires: [{{attestation: {{step: x}}}}]}}
  - {{id: loud, effect: deny, match: {{tools: [bank.loud]}}, when: 'args.amount >= 100'}}
"""


class Ruled(Stage):
    """The gateway with these rules, and the bank."""

    def ask(self, operation: str, args: object, run: str = "") -> Reply:
        """One call of the bank."""
        body = args if isinstance(args, bytes) else json.dumps(args).encode()
        return self.gateway.call("POST", f"{f'/r/{run}' if run else ''}/tools/bank/{operation}", body)

    def heard(self, operation: str) -> int:
        """How often the bank was asked for it."""
        return len(self.upstream.heard(f"/bank/{operation}"))

    def record(self, reply: Reply) -> dict[str, Any]:
        """What the decision log has of an answer."""
        (file,) = (self.gateway.folder / "var" / "audit").iterdir()
        records = (json.loads(line)["record"] for line in file.read_bytes().splitlines())
        return next(one for one in records if one["id"] == reply.headers["gateway-decision-id"])


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ruled]:
    folder = tmp_path_factory.mktemp("ruled")
    with ScriptedProvider() as bank:
        config: dict[str, Any] = {**bank.behind(), "workers": 2}
        operations = {name: {"method": "POST", "path": f"/{name}"} for name in OPERATIONS}
        config["tools"]["bank"]["operations"] = operations
        for name in OPERATIONS:
            bank.says(f"/bank/{name}", [answer(b"{}")])
        with Gateway(folder, config, {"ruled.yaml": RULES}) as gateway:
            yield Ruled(gateway, bank)


# -- P1, P2: what errs


GOOD = {"amount": 99, "to": "AT61"}
ERRING: dict[str, Any] = {
    "missing": {"amount": 99},
    "both missing": {},
    "null": {**GOOD, "to": None},
    "another type": {**GOOD, "to": 61},
    "a list": {**GOOD, "to": ["AT61"]},
    "an object": {**GOOD, "amount": {"amount": 1}},
    "text for a number": {**GOOD, "amount": "99"},
    "a truth value for a number": {**GOOD, "amount": True},
    "another spelling": {"amount": 99, "t\u043e": "AT61"},
    "deep inside": {"args": GOOD},
}


@pytest.mark.parametrize("name", ERRING)
@pytest.mark.parametrize("operation", ["grant", "deny", "hold"])
def test_what_errs_never_lets_a_call_go_on(ruled: Ruled, operation: str, name: str) -> None:
    """P1, P2: an argument that is missing or of another type: nothing is granted, it is denied, and nothing holds."""
    before = ruled.heard(operation)
    reply = ruled.ask(operation, ERRING[name])
    assert why(reply)[:2] == (403, "policy_denied")
    reasons = [(one["rule"], one["clause"], one["code"]) for one in reply.json()["gateway"]["reasons"]]
    assert reasons == [(f"ruled/{operation}", "when", "error")]
    assert ruled.record(reply)["reasons"] == [{"rule": f"ruled/{operation}", "clause": "when", "code": "error"}]
    assert ruled.heard(operation) == before
    assert ruled.ask(operation, GOOD).status == 200
    assert ruled.heard(operation) == before + 1


@pytest.mark.parametrize("operation", ["grant", "deny", "hold"])
def test_a_body_without_arguments(ruled: Ruled, operation: str) -> None:
    """P1, P2: a body that is a list, text or null is 400; without one there are no arguments, and rules refuse."""
    before = ruled.heard(operation)
    for body in (json.dumps([GOOD]).encode(), b'"AT61"', b"null", b"[]"):
        assert why(ruled.ask(operation, body))[:2] == (400, "request_malformed")
    for path in (f"/tools/bank/{operation}", f"/tools/bank/{operation}/"):
        assert ruled.gateway.call("POST", path, b"").status in {400, 403}
    assert ruled.heard(operation) == before


@pytest.mark.parametrize("operation", ["grant", "deny", "hold"])
def test_what_is_not_true_does_not_pass_either(ruled: Ruled, operation: str) -> None:
    """P1, P2: a condition that has a value is told apart from one that has none, and both refuse."""
    before = ruled.heard(operation)
    for bad in ({**GOOD, "amount": 100}, {**GOOD, "to": "DE61"}, {**GOOD, "to": "at61"}):
        reply = ruled.ask(operation, bad)
        assert why(reply)[:2] == (403, "policy_denied")
        assert [one["code"] for one in reply.json()["gateway"]["reasons"]] == [
            "denied" if operation == "deny" else "false"
        ]
    assert ruled.heard(operation) == before


def test_nobody_to_act_for(ruled: Ruled) -> None:
    """I19: where a rule wants a user that the agent acts for, an agent on its own is refused, whatever it claims."""
    agent = ruled.gateway.issuer.subject
    own = ruled.token()
    for token in (
        own,
        ruled.token(on_behalf_of="user/anna"),
        ruled.token(act={"sub": agent}),
        ruled.token(user="user/anna"),
    ):
        reply = ruled.gateway.call("POST", "/tools/bank/user", b"{}", token=token)
        assert reply.refusal in {"policy_denied", "agent_unknown"}
    assert not ruled.heard("user")
    reply = ruled.gateway.call(
        "POST", "/tools/bank/user", b"{}", token=ruled.token(sub="user/anna", act={"sub": agent})
    )
    assert (reply.status, ruled.heard("user")) == (200, 1)


# -- P3, P4, S19: what costs


def decided_within(ruled: Ruled, milliseconds: float, operation: str, args: object) -> bool:
    """Whether deciding on a call that is let through takes no longer: once of thirty times, since others run beside."""
    body = json.dumps(args).encode()
    return any(ruled.record(ruled.ask(operation, body))["latency_us"] < milliseconds * 1000 for _ in range(30))


def test_a_huge_argument_that_no_rule_reads(ruled: Ruled) -> None:
    """P3: 200,000 elements that the rule does not look at cost deciding nothing: it stays far below what they take."""
    args = {"amount": 1, "list": list(range(200_000))}
    assert decided_within(ruled, 20, "free", args)
    assert ruled.ask("free", args).status == 200
    assert why(ruled.ask("free", {**args, "amount": 100}))[:2] == (403, "policy_denied")


def test_loops_in_loops_over_what_an_agent_sends(ruled: Ruled) -> None:
    """P4: the budget ends them, the call is refused and says why, and somebody else is served."""
    before = ruled.heard("loop")
    for number in range(2, 4):
        assert ruled.ask("loop", {"l": list(range(1, number * 5))}).status == 200
    for items in (list(range(1, 1000)), list(range(1, 200_000)), [[1] * 10] * 1000):
        reply = ruled.ask("loop", {"l": items})
        assert why(reply)[:2] == (403, "policy_denied")
        assert [one["code"] for one in reply.json()["gateway"]["reasons"]] == ["error"]
        assert ruled.ask("free", {"amount": 1}).status == 200
    assert "more than 10000 items" in ruled.ask("loop", {"l": list(range(1, 999))}).json()["detail"]
    assert ruled.heard("loop") == before + 2


def test_a_text_made_for_a_pattern(ruled: Ruled) -> None:
    """P5, S19: a pattern that ruins other engines takes one look at each character here, and a budget ends that too."""
    assert ruled.ask("match", {"to": "a" * 50_000 + "!"}).status == 200
    assert why(ruled.ask("match", {"to": "a" * 50_000}))[:2] == (403, "policy_denied")
    reply = ruled.ask("match", {"to": "a" * 5_000_000 + "!"})
    assert why(reply)[:2] == (403, "policy_denied")
    assert reply.json()["gateway"]["reasons"][0]["code"] == "error"
    assert decided_within(ruled, 100, "match", {"to": "a" * 50_000 + "!"})


BOMBS = {
    "repeats of repeats": 'args.s.matches("((a{100}){100}){100}")',
    "a huge repeat": 'args.s.matches("a{2001}")',
    "many optional ones": f'args.s.matches("{"a?" * 600}")',
    "a pattern of the agent's": "args.s.matches(args.p)",
    "a back-reference": r'args.s.matches("(a)\\1")',
    "looking ahead": 'args.s.matches("(?=a)b")',
    "an open group": 'args.s.matches("(a")',
    "deep brackets": "(" * 500 + "true" + ")" * 500,
    "a long chain": " || ".join(["true"] * 5000),
    "no condition": "1 + 1",
    "an unknown fact": "agent.secret == 'x'",
    "no CEL": "__import__('os').system('x')",
}
FILES = {
    "ten million bytes": "version: 1\npolicy: large\nrules: []\n#" + "x" * 10_000_000,
    "deep": f"version: 1\npolicy: deep\nrules: {'[' * 5000}{']' * 5000}\n",
    "laughs": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "python": "version: 1\npolicy: !!python/object/apply:os.system [x]\n",
    "unknown key": "version: 1\npolicy: unknown\nrulez: []\n",
    "duplicate key": "version: 1\npolicy: one\npolicy: other\n",
    "twice, once": "version: 1\npolicy: twice-1\nrules: [{id: same, effect: allow, match: {models: [a]}}]\n",
    "twice, again": "version: 1\npolicy: twice-2\nrules: [{id: same, effect: deny, match: {models: [a]}}]\n",
}


def test_bombs_are_refused_when_they_are_loaded(ruled: Ruled) -> None:
    """P5, P7, P8, S19: `passgate check` names every one with its file, a reload takes none, and the old rules serve."""
    folder = ruled.gateway.folder / "bombs"
    folder.mkdir()
    names = {}
    for number, when in enumerate(BOMBS.values()):
        rule = f"{{id: bomb-{number}, effect: deny, match: {{tools: [bank.free]}}, when: {json.dumps(when)}}}"
        names[f"bomb-{number}.yaml"] = f"version: 1\npolicy: bomb-{number}\nrules: [{rule}]\n"
    names |= {f"file-{number}.yaml": text for number, text in enumerate(FILES.values())}
    for name, text in names.items():
        (folder / name).write_text(text)
    before = ruled.ask("free", {"amount": 1})
    ruled.gateway.config["policies"] = {"dir": "bombs"}
    ruled.gateway.write_config()
    try:
        checked = ruled.gateway.command("check", "--config", "config.yaml", check=False)
        assert checked.returncode == 2
        assert "Traceback" not in checked.stderr + checked.stdout
        problems = ruled.gateway.reload()
    finally:
        del ruled.gateway.config["policies"]
        ruled.gateway.write_config()
    for said in (checked.stdout + checked.stderr, "\n".join(problems)):
        missing = [name for name in names if f"{name}:" not in said]
        assert missing in ([], ["file-6.yaml"])  # of two that are the same the second one is
    assert not (ruled.gateway.folder / "x").exists()
    for _ in range(10):
        reply = ruled.ask("free", {"amount": 1})
        assert (reply.status, reply.headers["gateway-policy"]) == (200, before.headers["gateway-policy"])
    assert ruled.gateway.reload() == []


# -- P11: shadow rules


def decisions(ruled: Ruled, **labels: str) -> float:
    """How often a rule is counted."""
    return ruled.counted("policy_decisions_total", policy="ruled", **labels)


def test_a_shadow_rule_changes_nothing_and_is_counted(ruled: Ruled) -> None:
    """P11: the call goes through byte for byte; metric and decision log say which rules would have denied it."""
    counted = {
        name: decisions(ruled, rule=name, effect="would_deny", mode="shadow") for name in ("dark", "broken", "asks")
    }
    before = ruled.heard("quiet")
    body = b'{ "amount" : 1 }'
    reply = ruled.ask("quiet", body, run="p11")
    assert (reply.status, reply.refusal, ruled.heard("quiet")) == (200, "", before + 1)
    assert ruled.upstream.heard("/bank/quiet")[-1].body == body
    assert not [name for name in reply.headers if "shadow" in name or "would" in name]
    record = ruled.record(reply)
    assert (record["effect"], record["would"]) == ("allow", "deny")
    shadow = {one["rule"] for one in record["rules"] if one["mode"] == "shadow"}
    assert shadow == {"dark", "broken", "asks"}
    ruled.lines()
    for name, count in counted.items():
        assert decisions(ruled, rule=name, effect="would_deny", mode="shadow") == count + 1
    assert not decisions(ruled, rule="dark", effect="deny")
    plain = ruled.record(ruled.ask("loud", {"amount": 1}))
    assert "would" not in plain


def test_the_whole_set_in_shadow_mode(ruled: Ruled) -> None:
    """P11: with `policies.mode: shadow` what rules refuse passes and is counted, and it is said; nobody is let in."""
    ruled.gateway.config["policies"] = {"mode": "shadow"}
    ruled.gateway.write_config()
    assert ruled.gateway.reload() == []
    try:
        counted = ruled.counted("policy_decisions_total", policy="", effect="would_deny", mode="shadow")
        for operation, args in (("grant", {}), ("deny", {}), ("hold", {}), ("loud", {"amount": 100})):
            reply = ruled.ask(operation, args)
            assert reply.status == 200, reply.body
            record = ruled.record(reply)
            assert (record["effect"], record["would"], record["mode"]) == ("allow", "deny", "shadow")
        assert ruled.gateway.call("POST", "/tools/bank/grant", b"{}", token=None).refusal == "identity_missing"
        assert "shadow" in ruled.gateway.ready()[1]
        ruled.lines()
        assert ruled.counted("policy_decisions_total", effect="would_deny", mode="shadow") > counted
    finally:
        del ruled.gateway.config["policies"]
        ruled.gateway.write_config()
        assert ruled.gateway.reload() == []
    assert why(ruled.ask("grant", {}))[:2] == (403, "policy_denied")
    assert "shadow" not in ruled.gateway.ready()[1]
