"""What it costs to decide: ten thousand rules, of which five concern a call, with conditions and an attestation.

Times are CPU time. A decision is timed with the search for its rules: each is about a tool that was not called
before. Rounds are repeated, and of each decision the quietest one counts: the limits are about this code
and not about its neighbours. Run as a module it prints its figures as JSON.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.limits import Limit
from benchmarks.processes import pinned
from gateway.core.attestation import Attestation, Scalar
from gateway.core.call import Call
from gateway.core.principal import Agent, Principal
from gateway.policy import Facts, PolicySet, RunView, Situation
from gateway.policy.compiling import Compiler
from gateway.policy.files import AttestationEntry, MatchEntry, RequirementEntry, RuleEntry
from gateway.policy.rules import Rule

P99_MICROSECONDS, SIMPLE_MICROSECONDS, UNTOUCHED_RATIO = 100.0, 15.0, 1.1  # what is promised
APPLICABLE: Final = 5  # rules that concern a call
_NOW: Final = 1_800_000_000.0
_LARGE: Final = 1_000_000  # characters
_AGENTS: Final = 100


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    rules: int
    rounds: int  # of a decision about each tool


FULL = Sizes(rules=10_000, rounds=9)
QUICK = Sizes(rules=10_000, rounds=3)


@dataclass(slots=True)
class Figures:
    """What was measured, in microseconds."""

    rules: int = 0
    remembered: float = 0.0  # rules without conditions, facts that were seen before
    first: float = 0.0  # rules without conditions, facts that were not
    simple: float = 0.0  # one allow rule with a condition of two clauses
    p50: float = 0.0  # five rules: conditions, an attestation that is bound to the call
    p99: float = 0.0
    large_p50: float = 0.0  # the same, with an argument of a million characters that no rule reads
    large_p99: float = 0.0


def rules(count: int) -> Iterator[RuleEntry]:
    """So many rules, five for each tool."""
    bind = {"order_id": "args.order_id", "amount": "args.amount", "currency": "args.currency"}
    asked = AttestationEntry(step="check", attested_by=("gateway",), max_age=900.0, bind=bind, consume="per_subject")
    euro, dear = 'args.currency == "EUR" && args.amount <= 1000000', "has(args.amount) && args.amount > 5000000"
    for number in range(count // APPLICABLE):
        agent, team = (f"agent-{number % _AGENTS}",), (f"team-{number % _AGENTS}",)
        tools = (f"server-{number // 50}.operation-{number % 50}",)
        needs = (RequirementEntry(attestation=asked),)
        name = f"r{number}"
        yield RuleEntry(id=f"{name}-a", effect="allow", match=MatchEntry(agents=agent, tools=tools), when=euro)
        yield RuleEntry(id=f"{name}-b", effect="allow", match=MatchEntry(teams=team, tools=tools), when="call.stream")
        yield RuleEntry(id=f"{name}-c", effect="require", match=MatchEntry(tools=tools), requires=needs)
        yield RuleEntry(id=f"{name}-d", effect="require", match=MatchEntry(tools=tools), when="run.tokens < 2000000")
        yield RuleEntry(id=f"{name}-e", effect="deny", match=MatchEntry(tools=tools), when=dear)


def _compiled(entries: Iterable[RuleEntry]) -> list[Rule]:
    compiler = Compiler()

    def complain(path: object, problem: str, remedy: str) -> None:
        raise ValueError(f"{path}: {problem}; {remedy}")

    return [compiler.rule("bench", entry, "enforce", complain) for entry in entries]


def situation(number: int, memo: str = "") -> Situation:
    """A call of one tool by the agent that may, with what is attested in its run."""
    args = {"order_id": f"A{number}", "amount": 1200, "currency": "EUR", "memo": memo}
    name = f"agent-{number % _AGENTS}"
    agent = Agent(name, team=f"team-{number % _AGENTS}", category="bounded")
    caller = Principal(agent, "bench", "https://issuer.example", name, "bearer", "k", "t", _NOW + 60)
    tool = f"server-{number // 50}.operation-{number % 50}"
    subject: dict[str, Scalar] = {"order_id": f"A{number}", "amount": 1200, "currency": "EUR"}
    attested = tuple(
        Attestation(
            by="gateway",
            id=f"{step}-{number}",
            step=step,
            outcome="passed",
            subject=subject,
            agent=name,
            run="r",
            at=round((_NOW - 60) * 1e6),
            owner=caller.owner,
        )
        for step in ("plan", "check", "seal")
    )
    call = Call("tool", "http", "operation", "POST", args=args, tool=tool, repeat="never")
    return Situation(caller, call, _NOW, run=RunView("r", "url", 3, 1_000_000, 5000), attested=attested)


def measure(sizes: Sizes) -> Figures:
    """Fill in the figures."""
    figures, rounds = Figures(rules=sizes.rules), range(sizes.rounds)
    tools = sizes.rules // APPLICABLE
    plain = _compiled(_without_conditions(sizes.rules))
    asked = [Facts.of(one.principal, one.call) for one in map(situation, range(tools))]
    figures.first = min(_mean(asked, PolicySet(plain, "hash").find) for _ in rounds)
    known = PolicySet(plain, "hash")
    figures.remembered = min(_mean(asked[:1] * 1000, known.find) for _ in range(10 * sizes.rounds))
    simple = PolicySet(_compiled([next(rules(APPLICABLE))]), "hash")
    calls = [situation(0)] * 1000
    figures.simple = min(_mean(calls, lambda one: _decide(simple, one)) for _ in range(10 * sizes.rounds))
    every = _compiled(rules(sizes.rules))
    small = [situation(number) for number in range(tools)]
    large = [situation(number, "x" * _LARGE) for number in range(tools)]
    quiet, beside = [math.inf] * tools, [math.inf] * tools
    for _ in rounds:
        quiet = list(map(min, quiet, _round(every, small)))
        beside = list(map(min, beside, _round(every, large)))
    figures.p50, figures.p99 = _percentiles(quiet)
    figures.large_p50, figures.large_p99 = _percentiles(beside)
    return figures


def _without_conditions(count: int) -> Iterator[RuleEntry]:
    for number, entry in enumerate(rules(count)):
        yield RuleEntry(id=f"p{number}", effect="allow", match=entry.match)


def _decide(policies: PolicySet, one: Situation) -> None:
    matching = policies.find(Facts.of(one.principal, one.call))
    decision = matching.settled or matching.decide(one)
    if not decision.allowed:
        raise RuntimeError(f"a call was not allowed: {decision.reasons}")


def _mean(asked: Sequence[Any], ask: Callable[[Any], object]) -> float:
    begun = time.thread_time_ns()
    for one in asked:
        ask(one)
    return (time.thread_time_ns() - begun) / len(asked) / 1e3


def _round(every: list[Rule], calls: list[Situation]) -> Iterator[float]:
    """What each decision takes, by a set that has seen no call."""
    policies = PolicySet(every, "hash")
    for one in calls:
        begun = time.thread_time_ns()
        _decide(policies, one)
        yield (time.thread_time_ns() - begun) / 1e3


def _percentiles(times: list[float]) -> tuple[float, float]:
    ordered = sorted(times)
    return ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]


def run(cores: set[int], sizes: Sizes, say: Callable[[str], None]) -> Figures:
    """Measure in a process of its own on these cores; raises RuntimeError with its words where that fails."""
    say(f"policy: {sizes.rules:,} rules, {sizes.rounds} rounds")
    command = [sys.executable, "-m", "benchmarks.policy", json.dumps(asdict(sizes))]
    with pinned(cores):
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"policy could not be measured; the end of what it said:\n{done.stderr[-3000:]}")
    return Figures(**json.loads(done.stdout))


def table(figures: Figures) -> list[str]:
    """Lay the figures out, one row each."""

    def row(label: str, value: str) -> str:
        return f"{label:<44}{'µs':>8}{value:>20}"

    return [
        f"May it, with {figures.rules:,} rules of which {APPLICABLE} concern a call",
        row("rules without conditions, seen before", f"{figures.remembered:.1f}"),
        row("rules without conditions, the first time", f"{figures.first:.1f}"),
        row("one condition", f"{figures.simple:.1f}"),
        row("conditions and an attestation p50 / p99", f"{figures.p50:.1f} / {figures.p99:.1f}"),
        row("the same beside 1 MB that no rule reads", f"{figures.large_p50:.1f} / {figures.large_p99:.1f}"),
    ]


def limits(figures: Figures) -> list[Limit]:
    """Hold the figures against what is promised of them."""
    return [
        Limit("a decision of one condition, µs", figures.simple, SIMPLE_MICROSECONDS),
        Limit("a decision of five rules and an attestation, p99, µs", figures.p99, P99_MICROSECONDS),
        Limit(
            "a decision beside 1 MB that no rule reads, times one without",
            figures.large_p50 / figures.p50,
            UNTOUCHED_RATIO,
        ),
    ]


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Sizes(**json.loads(sys.argv[1]))))))
