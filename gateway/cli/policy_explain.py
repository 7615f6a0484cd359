"""`passgate policy explain`: why a call was decided as it was, or would be: every rule that matches, by clause."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import to_builtins

from gateway.audit import DecisionRecord, find_record
from gateway.audit.record import FailedClause
from gateway.cli import DONE, WrongUse
from gateway.cli.policy_past import past_of
from gateway.cli.policy_report import clause_lines
from gateway.cli.policy_sources import Workplace
from gateway.core.decision import Decision
from gateway.core.sources import DiskSources
from gateway.policy import Facts, PolicySet, explain_refusal
from gateway.policy.cases import Given
from gateway.policy.documents import rule_places
from gateway.policy.replay import Recollection, decide_again, knows_step
from gateway.policy.requirements import REASONS
from gateway.policy.rules import Rule
from gateway.policy.testing import Decided, decide_given, deciding
from gateway.policy.trace import ClauseTrace, RuleTrace, trace
from gateway.settings import Complaints, bind, document
from gateway.settings.complaints import Place

Report = Mapping[str, object]


def explain(given: argparse.Namespace) -> int:
    """Print it for a decision of the log, or for a call in a file."""
    place = Workplace.of(given)
    sources = DiskSources()
    policies = place.usable(sources)
    names = place.config.settings.telemetry.redact if place.config is not None else ()
    hidden = frozenset(name.lower() for name in names)
    if given.what.startswith("dec_") and not Path(given.what).exists():
        record = _record(place, given.what)
        told, lines = _of_record(record, policies, hidden, rule_places(place.settings.dir, sources))
    else:
        decided = decide_given(_given(given.what), policies, place.surroundings, hidden)
        told = {"decision": _decision(decided.decision), "rules": [_rule(one) for one in decided.traces]}
        lines = [*_decided(decided), "", *_rules(decided.traces, rule_places(place.settings.dir, sources))]
    if given.format == "json":
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        print("\n".join(map(_printable, lines)))
    return DONE


def _record(place: Workplace, decision_id: str) -> DecisionRecord:
    if place.config is None:
        raise WrongUse("passgate: a decision is found by the configuration's decision log; name one with --config.")
    folder = place.config.settings.audit_dir
    try:
        found = find_record(folder, decision_id)
    except OSError as error:
        raise WrongUse(f"passgate: {error.filename}: {error.strerror}; the decision log is not there.") from None
    if found is None:
        raise WrongUse(f"passgate: {folder} has no decision {decision_id}.")
    return found.record


def _given(name: str) -> Given:
    """The call in a file; raises `WrongUse`."""
    complaints = Complaints()
    try:
        node = document(Path(name).read_bytes(), name, complaints)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WrongUse(f"passgate: {name}: {reason}; name a decision (dec_…), or a file with a call.") from None
    found = bind(node, Given, complaints) if node is not None else None
    if found is None or complaints.total:
        raise WrongUse("\n".join(map(str, sorted(complaints.found))))
    return found


def _of_record(
    record: DecisionRecord, policies: PolicySet, hidden: frozenset[str], places: Mapping[str, Place]
) -> tuple[Report, list[str]]:
    """What the log says, and what the policies of today make of it."""
    past = past_of(record)
    again = decide_again(past, policies)
    matching = policies.find(Facts.of(past.principal, past.call), next(iter(record.providers), None))
    memory = Recollection(past, matching.rules)
    traces = trace(matching.rules, memory.view, hidden)
    steps = {leaf.step for rule in matching.rules for leaf in rule.attested if not knows_step(past, leaf.step)}
    missed = sorted(memory.missed | {f"attestations of {step}" for step in steps})
    then = record if again is None else None
    traces = tuple(_remembered(rule, one, missed, then) for rule, one in zip(matching.rules, traces, strict=True))
    told: dict[str, object] = {
        "record": to_builtins(record),
        "same_policies": again is None,
        "rules": [_rule(one) for one in traces],
        "not_in_the_log": missed,
    }
    lines = [*_recorded(record), ""]
    if again is None:
        lines.append("The policies are those of then.")
    else:
        told["now"] = {**_decision(again.decision), "unknown": list(again.unknown)}
        now = f"cannot be told without {', '.join(again.unknown)}" if again.unknown else again.decision.effect
        lines.append(f"The policies have changed since. By those of today: {now}.")
    if missed:
        lines.append(
            f"The log does not have: {', '.join(missed)}. Where a rule reads it, what is said here is no proof."
        )
    return told, [*lines, "", *_rules(traces, places)]


def _remembered(rule: Rule, found: RuleTrace, missed: Collection[str], then: DecisionRecord | None) -> RuleTrace:
    """What a rule said, as far as the log tells; `then` is the record where the policies are still those of then.

    A clause that reads what the log does not have cannot be told, unless the record says that it failed.
    """
    failed = [one for one in then.reasons if one.rule == found.hit.name] if then is not None else []
    clauses = tuple(_recalled(one, _lacking(rule, one.clause, missed), failed) for one in found.clauses)
    acts: bool | None = found.acts
    if any(one.clause != "match" for one in failed):
        acts = rule.effect == "deny"
    elif any(one.unknown for one in clauses) and not any(map(_fails, clauses)):
        acts = None
        if then is not None and then.effect != "deny" and rule.effect != "allow" and found.hit.mode == "enforce":
            acts = rule.effect == "require"
    return found._replace(acts=acts, clauses=clauses)


def _fails(one: ClauseTrace) -> bool:
    """A clause that certainly keeps its rule from acting."""
    return not one.unknown and one.value is not True and one.clause != "approve.when"


def _recalled(one: ClauseTrace, lacking: tuple[str, ...], failed: Iterable[FailedClause]) -> ClauseTrace:
    """A clause; where its facts are lacking with the reason that is on record, if there is one."""
    if not lacking:
        return one
    known = next((reason for reason in failed if f"{reason.clause}.".startswith(f"{one.clause}.")), None)
    if known is None:
        return one._replace(value=None, said="", unknown=lacking)
    return one._replace(value=False, said=f"{known.code}: {REASONS.get(known.code, '')}", operands=())


def _lacking(rule: Rule, clause: str, missed: Collection[str]) -> tuple[str, ...]:
    """What a clause reads and the log does not have."""
    if clause.startswith("requires["):
        leaves = list(rule.requires[int(clause[9:-1])].leaves())
        reads = {path for leaf in leaves for _, program in leaf.bind for path in program.reads}
        asked = {f"attestations of {leaf.step}" for leaf in leaves}
    else:
        approval = rule.approval.when if rule.approval is not None else None
        program = rule.when if clause == "when" else approval
        reads, asked = set(program.reads) if program is not None else set(), set[str]()
    asked |= {".".join(path) for path in reads}
    return tuple(name for name in missed if name in asked or any(name.startswith(f"{one}.") for one in asked))


def _recorded(record: DecisionRecord) -> Iterator[str]:
    what = record.tool or record.model or record.operation
    run = f", run {record.run} step {record.step}" if record.run else ""
    for_whom = f" for {record.on_behalf_of}" if record.on_behalf_of else ""
    yield f"{record.id}  {record.time}"
    yield f"call      agent {record.agent}{for_whom}: {record.kind} {what}{run}"
    yield f"decided   {record.effect}{f' ({record.code})' if record.code else ''}, policies {record.policy_hash[:12]}"
    for hit in record.rules:
        shadow = " (shadow)" if hit.mode == "shadow" else ""
        yield f"rule      {hit.name}  {hit.effect}{shadow}"
    for reason in record.reasons:
        step = f" step {reason.step}:" if reason.step else ""
        where = f"{reason.rule} {reason.clause}".strip()
        yield f"reason    {where}:{step} {reason.code}: {REASONS.get(reason.code, '')}".rstrip(": ")
    for one in record.attestations:
        yield f"rests on  {one.step} {one.outcome} by {one.by} at {one.at} about {json.dumps(one.subject)}"
    if record.approval:
        yield f"approval  {record.approval}"
    if record.would:
        yield f"would be  {record.would}, were every rule enforced"


def _decided(decided: Decided) -> Iterator[str]:
    decision = decided.decision
    code = f" ({decision.code})" if decision.effect == "deny" else ""
    yield f"decided   {decision.effect}{code}, policies {decision.policy_hash[:12]}"
    if decision.effect == "deny":
        yield f"told      {explain_refusal(decision, decided.facts)}"
    elif decision.approval is not None:
        groups = " and one of ".join(" or ".join(group) for group in decision.approval.approvers)
        yield f"waits     for one of {groups}; {' and '.join(decision.approval.rules)} asks for it"
    if decision.would:
        yield f"would be  {decision.would}, were every rule enforced"


def _rules(traces: Iterable[RuleTrace], places: Mapping[str, Place]) -> Iterator[str]:
    nothing = True
    for one in traces:
        nothing = False
        shadow = ", but it is a shadow rule and changes nothing" if one.hit.mode == "shadow" else ""
        place = places.get(one.hit.name)
        where = f"  {place.file}:{place.line}" if place is not None else ""
        yield f"{one.hit.name} ({one.hit.effect}) {one.says}{shadow}{where}"
        for clause in one.clauses:
            yield from (f"  {line}" for line in clause_lines(clause))
    if nothing:
        yield "No rule matches this call."


def _decision(decision: Decision) -> dict[str, object]:
    return {
        "effect": decision.effect,
        "code": decision.code if decision.effect == "deny" else "",
        "policy_hash": decision.policy_hash,
        "deciding": list(deciding(decision)),
        "would": decision.would,
        "reasons": [
            {"rule": one.rule, "clause": one.clause, "code": one.code, "detail": one.detail} for one in decision.reasons
        ],
    }


def _rule(one: RuleTrace) -> dict[str, object]:
    return {
        "rule": one.hit.name,
        "effect": one.hit.effect,
        "mode": one.hit.mode,
        "says": one.says,
        "clauses": [
            {
                **clause._asdict(),
                "operands": [{**operand._asdict(), "read": dict(operand.read)} for operand in clause.operands],
            }
            for clause in one.clauses
        ],
    }


def _printable(line: str) -> str:
    """A line that cannot steer a terminal: names in it come from agents."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
