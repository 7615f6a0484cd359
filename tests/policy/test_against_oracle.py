"""What the engine decides is what policies mean: rules, calls and attestations made up at random, by the thousand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final

import pytest
from msgspec.structs import replace

from gateway.core.attestation import Attestation, Scalar
from gateway.core.decision import Decision
from gateway.policy import Facts, PolicySet, RunView, Situation
from gateway.policy.compiling import Compiler
from gateway.policy.files import (
    ApproveEntry,
    AttestationEntry,
    MatchEntry,
    ObligationsEntry,
    RequirementEntry,
    RouteEntry,
    RuleEntry,
)
from gateway.settings.binder import Binder
from gateway.settings.complaints import Complaints
from tests.identity.mutants import SEED, Cases
from tests.policy.oracle import BINDINGS, CONDITIONS, Answer, answer
from tests.policy.scene import CALLER, NOW, attested, call

STEPS: Final = ("check", "seal")
VALUES: Final = ("A1", "A2", 100, 50, 1, True, "100", "procurement", "fixed")
ENTRIES: Final = {
    "agents": ("procurement", "support", "proc*", "any"),
    "teams": ("finance", "sales", "*"),
    "tools": ("pay.do", "pay.*", "mail.send", "any"),
    "models": ("m", "n", "m*", "any"),
    "hosted_tools": ("web_search", "web*", "code", "any"),
    "providers": ("p", "q", "any"),
    "kinds": ("llm", "tool", "own", "any"),
}
NAMES: Final = ("order", "amount", "who")


class Maker:
    """Makes up rules, calls and attestations; what is near to one another is likely, so that rules do hold."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.compiler = Compiler()
        self.calm = False  # most of what could be wrong is right, so that calls get far

    def some(self, values: Sequence[Any], most: int = 2, least: int = 1) -> tuple[Any, ...]:
        """A few of them."""
        return tuple(self.rng.sample(values, self.rng.randint(least, min(most, len(values)))))

    def chance(self, of: float) -> bool:
        """Whether something happens."""
        return self.rng.random() < of

    def wrong(self, of: float) -> bool:
        """Whether something is wrong."""
        return self.chance(of / 10 if self.calm else of)

    def match(self, effect: str, kind: str) -> MatchEntry:
        """What a rule is about: mostly calls of one kind."""
        what = {"llm": "models", "tool": "tools"}.get(kind)
        given: dict[str, Any] = {}
        if what and (effect == "allow" or self.chance(0.6)):
            given[what] = self.some(ENTRIES[what])
        if kind == "llm" and self.chance(0.4):
            given["hosted_tools"] = self.some(ENTRIES["hosted_tools"])
            if self.chance(0.5):
                given.pop("models", None)
        for key in ("agents", "teams"):
            if self.chance(0.25):
                given[key] = self.some(ENTRIES[key])
        if kind == "llm" and self.chance(0.15):
            given["providers"] = self.some(ENTRIES["providers"])
        if not given and self.chance(0.5):
            given["kinds"] = self.some(ENTRIES["kinds"])
        return MatchEntry(**given)

    def attestation(self) -> AttestationEntry:
        """What a rule asks to be attested."""
        names = self.some(NAMES, 3, 0)
        texts = {"order": "args.order", "amount": "args.amount", "who": self.rng.choice(["agent.id", '"fixed"'])}
        bind = {name: texts[name] if self.chance(0.9) else self.rng.choice(list(BINDINGS)) for name in names}
        consume: Any = self.rng.choice(["never", "never", "once", "per_subject"]) if bind else "never"
        return AttestationEntry(
            step=self.rng.choice(STEPS),
            outcome="passed" if self.chance(0.9) else "failed",
            attested_by=self.some(["gateway", "desk"]) if self.chance(0.3) else (),
            max_age=self.rng.choice([0.0, 0.0, 60.0, 300.0]),
            bind=bind,
            consume=consume,
            per=self.some(names) if consume == "per_subject" and self.chance(0.4) else (),
            void_across_runs=self.chance(0.3),
        )

    def requirement(self, depth: int = 0) -> RequirementEntry:
        """One of its three forms."""
        form = self.rng.random()
        if depth < 2 and form < 0.15:
            return RequirementEntry(any_=tuple(self.requirement(depth + 1) for _ in range(self.rng.randint(1, 3))))
        if depth < 2 and form < 0.25:
            return RequirementEntry(all_=tuple(self.requirement(depth + 1) for _ in range(self.rng.randint(1, 2))))
        return RequirementEntry(attestation=self.attestation())

    def rule(self, number: int, kind: str) -> RuleEntry:
        """A rule that could stand in a file."""
        effect: Any = self.rng.choice(["allow", "allow", "allow", "require", "require", "deny"])
        if self.calm and effect == "deny":
            effect = "allow"
        given: dict[str, Any] = {"when": self.rng.choice(list(CONDITIONS)) if self.chance(0.5) else ""}
        if effect == "deny":
            given["when"] = self.rng.choice(list(CONDITIONS)) if self.chance(0.8) else ""
        else:
            if self.chance(0.5):
                given["requires"] = tuple(self.requirement() for _ in range(self.rng.randint(1, 2)))
            if self.chance(0.2):
                asks = self.rng.choice(list(CONDITIONS))
                given["approve"] = ApproveEntry(when=asks, approvers=self.some(["boss", "cfo", "group:finance"]))
            if kind == "llm" and self.chance(0.15):
                only = RouteEntry(only=self.some(["p", "q"]))
                given["obligations"] = ObligationsEntry(route=only)
        mode: Any = self.rng.choice([None, None, None, "enforce", "shadow"])
        return RuleEntry(id=f"r{number}", effect=effect, match=self.match(effect, kind), mode=mode, **given)

    def args(self) -> dict[str, object]:
        """Arguments: present, missing or of the wrong type."""
        found: dict[str, object] = {"order": "A1", "amount": 100, "currency": "EUR", "flag": True}
        wrong = (None, 100.0, "100", True, 1, 50, ["A1"], {"a": 1}, "A2", "USD", False)
        for name in list(found):
            if self.wrong(0.1):
                del found[name]
            elif self.wrong(0.15):
                found[name] = self.rng.choice(wrong)
        return found

    def attested(self, args: dict[str, object]) -> Attestation:
        """What was attested: mostly about this very call."""
        subject: dict[str, Scalar] = {}
        for name, value in (("order", args.get("order")), ("amount", args.get("amount")), ("who", "procurement")):
            if isinstance(value, str | int) and not self.wrong(0.15):
                subject[name] = self.rng.choice(VALUES) if self.wrong(0.15) else value
        if "amount" in subject and subject["amount"] in (1, True) and self.chance(0.3):
            subject["amount"] = True if type(subject["amount"]) is int else 1  # equal to Python, and not the same
        age = self.rng.choice([59.0, 60.0, 61.0, 299.0, 400.0, -100.0, -700.0]) if self.wrong(0.7) else 30.0
        made = attested(
            self.rng.choice(STEPS),
            self.rng.choice(["failed", "error", "skipped"]) if self.wrong(0.25) else "passed",
            age=age,
            subject=subject,
            by="gateway" if self.chance(0.7) else "desk",
            id=f"j{self.rng.randrange(10**6)}",
        )
        if self.wrong(0.1):
            made = replace(made, run="r2")
        if self.wrong(0.1):
            made = replace(made, agent=self.rng.choice(["procurement", "support"]))
        if self.wrong(0.1):
            made = replace(made, owner=self.rng.choice([None, ("x", "y")]))
        if self.wrong(0.15):
            made = replace(made, expires=round((NOW + self.rng.choice([-50, 0, 50])) * 1_000_000))
        return made

    def situation(self, kind: str) -> Situation:
        """A call, its run, and what is attested."""
        args = self.args()
        method = self.rng.choice(["POST", "GET"])
        made = call(args, tool=self.rng.choice(["pay.do", "mail.send"]), method=method)
        if kind == "llm":
            hosted = self.some(["web_search", "code"], 2, 0) if self.chance(0.6) else ()
            made = call(args, model=self.rng.choice(["m", "n"]), hosted_tools=hosted, method=method)
        elif kind == "own":
            made = call(args, kind="own", tool="", dialect="own", method=method)
        return Situation(
            CALLER,
            made,
            NOW,
            run=None if self.wrong(0.05) else RunView("r1", "url", 1, 0, self.rng.choice([10, 5000])),
            attested=tuple(self.attested(args) for _ in range(self.rng.randint(0, 6))),
            held_at=NOW - self.rng.choice([0.0, 1.0, 250.0]) if self.chance(0.2) else None,
        )

    def compiled(self, rules: Sequence[RuleEntry], mode: str) -> PolicySet:
        """The set of some rules."""
        complaints = Complaints()
        complain = Binder(complaints).complain
        made = PolicySet([self.compiler.rule("p", rule, mode, complain) for rule in rules], "hash", mode=mode)
        assert not complaints.total
        return made


def as_answer(decision: Decision) -> Answer:
    """A decision in the words of the oracle; the subject of a use is compared by what it is used for alone."""
    uses = frozenset(
        (use.scope, use.key if use.scope == "once" else use.key.partition(" ")[0]) for use in decision.uses
    )
    asked = frozenset(decision.approval.approvers) if decision.approval is not None else frozenset[tuple[str, ...]]()
    return Answer(decision.effect, decision.code if decision.effect == "deny" else "", uses, asked)


def as_told(found: Answer) -> Answer:
    """The oracle's answer, its uses likewise."""
    uses = frozenset((scope, key if scope == "once" else key.partition(" ")[0]) for scope, key in found.uses)
    return found._replace(uses=uses)


@pytest.mark.soak
def test_the_engine_decides_what_the_rules_mean(capsys: pytest.CaptureFixture[str]) -> None:
    """P1, P2, P11: effect, code, what is used up, whom to ask and what shadow rules would do are as the oracle says."""
    cases = Cases("decisions against an oracle", short=12_000)
    maker = Maker(cases.rng)
    for number in cases:
        maker.calm = maker.chance(0.7)
        kind = cases.rng.choice(["tool", "tool", "llm", "llm", "own"])
        mode = "enforce" if maker.chance(0.85) else "shadow"
        rules = [maker.rule(n, "tool" if maker.wrong(0.1) else kind) for n in range(cases.rng.randint(1, 6))]
        loaded = maker.compiled(rules, mode)
        situation = maker.situation(kind)
        provider = cases.rng.choice([None, "p", "q"]) if kind == "llm" else None
        matching = loaded.find(Facts.of(situation.principal, situation.call), provider)
        decision = matching.settled or matching.decide(situation)
        expected, would = answer("p", rules, situation, provider, lenient=mode == "shadow")
        story = f"seed {SEED}, case {number}: {mode} {rules} {situation} {provider}"
        assert as_answer(decision) == as_told(expected), story
        assert decision.would == (would if would != expected.effect else ""), story
        cases.counts[f"{decision.effect} {decision.code if decision.effect == 'deny' else len(decision.uses)}"] += 1
        cases.counts["would differ"] += bool(decision.would)
    with capsys.disabled():
        print(cases)
    assert {"allow 0", "allow 1", "hold 0", "deny policy_denied", "deny attestation_required"} <= set(cases.counts)
    assert cases.counts["deny hosted_tool_refused"]
    assert cases.counts["would differ"]
