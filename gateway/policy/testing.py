"""Policy tests: read them, decide each call as the gateway would at that moment, and say what came out otherwise.

1. A test is decided by all policies together, as a call is.
2. Nothing is asked of a clock, a network or a store: what a test does not say has a fixed value.
3. A test of something that the configuration does not have (a tool, an agent, an attester) is a mistake, so that no
   test passes for a name that is misspelled.

What it refuses to know: where the configuration comes from, and how outcomes are shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple, cast

from gateway.core.attestation import GATEWAY, Attestation, Scalar
from gateway.core.call import Call
from gateway.core.decision import Decision
from gateway.core.principal import Agent, Principal
from gateway.core.sources import Sources
from gateway.policy.cases import Given, PolicyTest, PolicyTests
from gateway.policy.decide import PolicySet
from gateway.policy.documents import read_policies
from gateway.policy.rules import Facts
from gateway.policy.situation import RunView, Situation
from gateway.policy.trace import RuleTrace, trace, view_of
from gateway.settings.binder import Binder, Steps, path_text
from gateway.settings.complaints import Complaints, Place
from gateway.settings.yaml import documents

_MICRO: Final = 1_000_000
_DIALECTS: Final = {"llm": "openai", "tool": "http", "mcp": "mcp", "own": "own"}


class Caller(NamedTuple):
    """An agent of the registry, and how its tokens name it."""

    agent: Agent
    issuer: str = ""
    subject: str = ""


class Operation(NamedTuple):
    """What the configuration says of a tool's operation."""

    method: str
    repeat: str
    region: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the configuration has beside the policies; `None` is not known, and nothing is checked against it."""

    callers: Mapping[str, Caller] | None = None
    operations: Mapping[str, Operation] | None = None
    attesters: frozenset[str] | None = None
    models: frozenset[str] | None = None  # exact, or ending in `*`
    providers: Mapping[str, str] | None = None  # with their regions


class _At(NamedTuple):
    """A place that is no node: a file that cannot be read."""

    file: str
    line: int = 1
    column: int = 1


class Placed(NamedTuple):
    """A test and where it stands."""

    test: PolicyTest
    place: Place


class Decided(NamedTuple):
    """A decision, how the rules that match come to it, and what they match by."""

    decision: Decision
    traces: tuple[RuleTrace, ...]
    facts: Facts


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a test: the decision, and how it differs from what is expected; nothing where it passed."""

    placed: Placed
    decided: Decided
    differences: tuple[str, ...]


def read_tests(
    folder: Path, sources: Sources, surroundings: Surroundings, complaints: Complaints, more: Iterable[Path] = ()
) -> Iterator[Placed]:
    """The tests below a folder, in policy files and in `*_test.yaml`, and those in `more` files of tests.

    All their mistakes go to `complaints`. A policy file that cannot be read has no tests: whoever loads the policies
    complains about it. Raises `OSError` where the folder cannot be listed.
    """
    for policy, binder in read_policies(folder, sources):
        yield from _placed(policy.tests, binder, surroundings, complaints)
    for path in (*sources.listdir(folder, is_test), *more):
        try:
            found = documents(sources.read(path), str(path), complaints)
        except OSError as error:
            complaints.add(_At(str(path)), "", f"cannot be read: {error.strerror or error}", "check the file")
            continue
        for node in found:
            binder, before = Binder(complaints), complaints.total
            tests = binder.bind(node, PolicyTests).tests
            if complaints.total == before:
                yield from _placed(tests, binder, surroundings, complaints)


def _placed(
    tests: tuple[PolicyTest, ...], binder: Binder, surroundings: Surroundings, complaints: Complaints
) -> Iterator[Placed]:
    """The tests of one document, those with names that nothing has as complaints only."""
    for number, test in enumerate(tests):
        path, before = ("tests", number), complaints.total
        for below, problem, remedy in _unknown(test.given, surroundings):
            place = (*path, "given", *below)
            complaints.add(binder.place(place), path_text(place), problem, remedy)
        if complaints.total == before:
            yield Placed(test, binder.place((*path, "name")))


def is_test(name: str) -> bool:
    """Whether a file of this name holds tests alone."""
    return name.endswith("_test.yaml")


def run_test(placed: Placed, policies: PolicySet, surroundings: Surroundings) -> Outcome:
    """Decide the call of a test, and hold what comes against what is expected."""
    decided = decide_given(placed.test.given, policies, surroundings)
    return Outcome(placed, decided, tuple(_differences(placed.test, decided.decision)))


def decide_given(
    given: Given, policies: PolicySet, surroundings: Surroundings, hidden: Collection[str] = ()
) -> Decided:
    """What the policies say of a call that is written down; `hidden` as `trace` has it."""
    situation = situation_of(given, surroundings)
    facts = Facts.of(situation.principal, situation.call)
    matching = policies.find(facts, given.provider or None)
    traces = trace(matching.rules, view_of(matching.rules, situation), hidden)
    return Decided(matching.settled or matching.decide(situation), traces, facts)


def deciding(decision: Decision) -> tuple[str, ...]:
    """The rules, POLICY/RULE, that made a decision what it is."""
    if decision.effect == "hold" and decision.approval is not None:
        return decision.approval.rules
    if decision.effect == "deny":
        denying = [hit.name for hit in decision.hits if hit.effect == "deny"]
        return tuple(dict.fromkeys([*denying, *(reason.rule for reason in decision.reasons)]))
    return tuple(hit.name for hit in decision.hits)


def situation_of(given: Given, surroundings: Surroundings) -> Situation:
    """The moment at which a call that is written down would be decided."""
    call = _call(given, surroundings)
    principal = _principal(given, surroundings)
    run = given.run
    view = RunView(run.id, run.source, run.step, run.spend_usd, run.tokens) if run is not None else None
    return Situation(
        principal,
        call,
        given.now,
        run=view,
        region=given.region or (surroundings.providers or {}).get(given.provider) or call.region,
        attested=tuple(_attestations(given, principal)),
        held_at=given.now - given.held if given.held is not None else None,
    )


def _unknown(given: Given, known: Surroundings) -> Iterator[tuple[Steps, str, str]]:
    """What the configuration does not have: where below `given`, what is wrong, what to do."""
    if isinstance(given.agent, str) and known.callers is not None and given.agent not in known.callers:
        remedy = f"name one of it, or write {{id: {given.agent}, team: ...}} for one of the test's own"
        yield ("agent",), f"the configuration has no agent {given.agent}", remedy
    if given.tool and known.operations is not None and given.kind != "mcp" and given.tool not in known.operations:
        yield ("tool",), f"the configuration has no tool {given.tool}", _near(given.tool, known.operations)
    if given.model and known.models is not None and not _routed(given.model, known.models):
        yield ("model",), f"the configuration has no model {given.model}", _near(given.model, known.models)
    if given.provider and known.providers is not None and given.provider not in known.providers:
        yield (
            ("provider",),
            f"the configuration has no provider {given.provider}",
            _near(given.provider, known.providers),
        )
    attesters = {GATEWAY, *(known.attesters or ())}
    for number, one in enumerate(given.attestations):
        if known.attesters is not None and one.by not in attesters:
            problem = f"the configuration has no attester {one.by}, so that nothing of it ever counts"
            yield ("attestations", number, "by"), problem, _near(one.by, attesters)


def _near(name: str, names: Iterable[str]) -> str:
    known = sorted(names)
    close = difflib.get_close_matches(name, known, 1)
    return (
        f"did you mean {close[0]}?" if close else f"write one of {', '.join(known[:5]) or 'its own, once it has any'}"
    )


def _call(given: Given, known: Surroundings) -> Call:
    kind = given.kind or ("tool" if given.tool else "llm")
    operation = (known.operations or {}).get(given.tool, Operation("POST", "never", ""))
    if kind != "tool":
        operation = Operation("GET" if kind == "own" else "POST", "safe", "")
    return Call(
        kind=kind,
        dialect=given.dialect or _DIALECTS[kind],
        operation=given.tool.partition(".")[2] if given.tool else "",
        method=given.method or operation.method,
        args={name: _as_json(value) for name, value in given.args.items()},
        model=given.model,
        tool=given.tool,
        stream=given.stream,
        repeat=given.repeat or operation.repeat,
        hosted_tools=given.hosted_tools,
        region=operation.region,
    )


def _principal(given: Given, known: Surroundings) -> Principal:
    agent, extra = given.agent, given.principal
    if isinstance(agent, str):
        caller = (known.callers or {}).get(agent, Caller(Agent(agent)))
    else:
        tags = tuple(agent.tags.items())
        caller = Caller(Agent(agent.id, agent.owner, agent.team, category=agent.category, tags=tags))
    issuer, subject = extra.issuer or caller.issuer, extra.subject or caller.subject or caller.agent.id
    return Principal(
        agent=caller.agent,
        issuer=issuer,
        iss=issuer,
        subject=subject,
        assurance=extra.assurance,
        key_id="",
        token_id="",
        expires=given.now,
        on_behalf_of=extra.on_behalf_of,
        depth=extra.depth,
    )


def _attestations(given: Given, principal: Principal) -> Iterator[Attestation]:
    """Oldest first, as the gateway has them."""
    run = given.run.id if given.run is not None else ""
    for number, one in sorted(enumerate(given.attestations), key=lambda pair: -pair[1].age):
        at = round((given.now - one.age) * _MICRO)
        yield Attestation(
            by=one.by,
            id=f"attestations[{number}]",
            step=one.step,
            outcome=one.outcome,
            subject=cast("dict[str, Scalar]", dict(one.subject)),
            agent=one.agent or principal.subject,
            run=one.run or run,
            at=at,
            expires=at + round(one.lifetime * _MICRO) if one.lifetime is not None else 0,
            source="observed" if one.by == GATEWAY else "presented",
            owner=principal.owner,
        )


def _differences(test: PolicyTest, decision: Decision) -> Iterator[str]:
    """What was expected and what came."""
    if decision.effect != test.expect:
        code = f" ({decision.code})" if decision.effect == "deny" else ""
        yield f"expected {test.expect}, got {decision.effect}{code}"
        return
    code = "approval_required" if decision.effect == "hold" else decision.code
    if test.code and test.code != code:
        yield f"expected the code {test.code}, got {code}"
    rules = deciding(decision)
    if test.rule and not any(test.rule in {rule, rule.rpartition("/")[2]} for rule in rules):
        yield f"expected that rule {test.rule} decides, but {' and '.join(rules) or 'no rule'} did"


def _routed(model: str, patterns: frozenset[str]) -> bool:
    """Whether some route takes a model of this name."""
    return any(model == one or (one.endswith("*") and model.startswith(one[:-1])) for one in patterns)


def _as_json(value: object) -> object:
    """A value of YAML as it comes in a JSON body: with doubles for decimals."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return {name: _as_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    return value
