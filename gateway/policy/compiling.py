"""From what a policy file says to rules that decide: expressions are compiled, and what is wrong in them is said.

A mistake in an expression is told at the line where its text begins, with the words at which it is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Protocol, TypeAlias

from gateway.core.decision import NO_OBLIGATIONS, Obligations, RuleHit
from gateway.core.principal import ASSURANCE
from gateway.policy.cel import (
    BOOL,
    DYN,
    INT,
    STRING,
    CelMistake,
    CelType,
    Deferred,
    Environment,
    Program,
    compile_cel,
    map_of,
)
from gateway.policy.files import (
    AttestationEntry,
    MatchEntry,
    ObligationsEntry,
    ObserveEntry,
    RequirementEntry,
    RuleEntry,
)
from gateway.policy.observations import Observation
from gateway.policy.requirements import AllOf, AnyOf, Attested, Requirement
from gateway.policy.rules import Approval, Entries, Facts, Rule
from gateway.policy.situation import ENVIRONMENT, FACTS
from gateway.settings.binder import Steps

Paths: TypeAlias = tuple[tuple[str, ...], ...]
"""The paths of the facts that an expression reads."""
ANSWER: Final = Environment({"args": map_of(STRING, DYN), "result": DYN})
"""What observing may name."""
_SUBJECT: Final = (STRING, INT, BOOL, DYN)
_NAMES: Final = frozenset(fact.path.partition(".")[0] for fact in FACTS)
_WORDS: Final = 40  # characters of an expression that are shown around a mistake


class Complain(Protocol):
    """Takes a mistake by the path of its setting."""

    def __call__(self, path: Steps, problem: str, remedy: str) -> None:
        """Note it."""
        ...


class Compiler:
    """Compiles rules and observations; the same text is compiled once. What is wrong goes to `complain`.

    With `checked`, which has what each text reads, all of it was compiled before without a mistake: then an expression
    is compiled when it is first evaluated.
    """

    def __init__(self, checked: Mapping[str, Paths] | None = None) -> None:
        self._checked = checked
        self._programs: dict[tuple[str, CelType | None, Environment], Program] = {}

    @property
    def reads(self) -> dict[str, Paths]:
        """What each expression reads that was compiled here."""
        return {text: tuple(sorted(program.reads)) for (text, _, _), program in self._programs.items()}

    def rule(self, policy: str, entry: RuleEntry, mode: str, complain: Complain, path: Steps = ()) -> Rule:
        """A rule of a policy whose own mode, where the rule has none, is `mode`."""
        match = entry.match
        approve = entry.approve
        when = self._program(entry.when, BOOL, complain, (*path, "when")) if entry.when else None
        asked: Program | None = None
        if approve is not None and approve.when:
            asked = self._program(approve.when, BOOL, complain, (*path, "approve", "when"))
        requires = tuple(
            self._requirement(one, complain, (*path, "requires", n)) for n, one in enumerate(entry.requires)
        )
        _check_redact(entry.obligations, complain, path)
        bound = (program for one in requires for leaf in one.leaves() for _, program in leaf.bind)
        programs = [program for program in (when, asked, *bound) if program is not None]
        return Rule(
            hit=RuleHit(policy, entry.id, entry.effect, entry.mode or mode),
            message=entry.message,
            clauses=_clauses(match),
            providers=Entries.of(match.providers) if match.providers else None,
            hosted=(Entries.of(match.hosted_tools) or Entries(prefixes=("",))) if match.hosted_tools else None,
            grants=entry.effect == "allow" and bool(match.models or match.tools),
            requires=requires,
            when=when,
            approval=Approval(asked, approve.approvers, approve.expires) if approve is not None else None,
            obligations=_obligations(entry.obligations),
            reads=tuple(sorted({path for program in programs for path in program.reads})),
        )

    def observation(self, entry: ObserveEntry, complain: Complain, path: Steps = ()) -> Observation:
        """What may be attested from the answers of one tool."""
        outcome = self._program(entry.outcome, STRING, complain, (*path, "outcome"), ANSWER)
        subject = tuple(
            (name, self._value(text, complain, (*path, "subject", name), ANSWER))
            for name, text in entry.subject.items()
        )
        return Observation(entry.step, entry.tool, outcome, subject)

    def _requirement(self, entry: RequirementEntry, complain: Complain, path: Steps) -> Requirement:
        if entry.any_:
            return AnyOf(tuple(self._requirement(one, complain, (*path, "any", n)) for n, one in enumerate(entry.any_)))
        if entry.all_ or entry.attestation is None:
            return AllOf(tuple(self._requirement(one, complain, (*path, "all", n)) for n, one in enumerate(entry.all_)))
        return self._attested(entry.attestation, complain, (*path, "attestation"))

    def _attested(self, entry: AttestationEntry, complain: Complain, path: Steps) -> Attested:
        return Attested(
            step=entry.step,
            outcome=entry.outcome,
            by=frozenset(entry.attested_by),
            max_age=entry.max_age,
            bind=tuple(
                (name, self._value(text, complain, (*path, "bind", name), ENVIRONMENT))
                for name, text in entry.bind.items()
            ),
            consume=entry.consume,
            per=frozenset(entry.per),
            across=entry.void_across_runs,
        )

    def _value(self, text: str, complain: Complain, path: Steps, environment: Environment) -> Program:
        """An expression whose value a subject may have."""
        program = self._program(text, None, complain, path, environment)
        if program.type not in _SUBJECT:
            problem = f"this is a {program.type}, and attestations are about strings, integers and booleans"
            remedy = (
                "take amounts in minor units, or as decimal text" if program.type.name == "double" else "take a part"
            )
            complain(path, problem, remedy)
        return program

    def _program(
        self,
        text: str,
        expects: CelType | None,
        complain: Complain,
        path: Steps,
        environment: Environment = ENVIRONMENT,
    ) -> Program:
        key = (text, expects, environment)
        program = self._programs.get(key)
        if not text:  # a hole, of which is complained already
            return _NOTHING
        if program is None:
            try:
                if self._checked is not None:
                    program = Deferred(text, environment, expects=expects, reads=frozenset(self._checked[text]))
                else:
                    program = compile_cel(text, environment, expects=expects)
            except CelMistake as mistake:
                problem = f"{mistake.message}, at {_words(text, mistake.position)}"
                complain(path, problem, mistake.remedy or "correct the expression")
                return _NOTHING  # holds a place: with a complaint nothing is decided by it
            self._programs[key] = program
        return program


_NOTHING: Final = compile_cel('""', Environment({}))


def _words(text: str, position: int) -> str:
    """The place of a mistake: its character, counted from 1, and the words from there."""
    if position >= len(text.rstrip()):
        return "its end"
    rest = " ".join(text[position : position + _WORDS].split())
    return f"character {position + 1}: {rest}{'…' if position + _WORDS < len(text) else ''}"


def _check_redact(entry: ObligationsEntry | None, complain: Complain, path: Steps) -> None:
    for number, fact in enumerate(entry.redact if entry is not None else ()):
        if fact.partition(".")[0] not in _NAMES:
            problem = f"there is no fact {fact}"
            complain((*path, "obligations", "redact", number), problem, f"begin with {', '.join(sorted(_NAMES))}")


def _obligations(entry: ObligationsEntry | None) -> Obligations:
    if entry is None:
        return NO_OBLIGATIONS
    return Obligations(
        output_tokens=entry.output_tokens.max if entry.output_tokens is not None else None,
        cache=entry.cache or "",
        only=frozenset(entry.route.only) if entry.route is not None else None,
        redact=frozenset(entry.redact),
    )


def _clauses(match: MatchEntry) -> tuple[tuple[int, Entries], ...]:
    """What a rule asks of the facts it matches by."""

    def found() -> Iterator[tuple[str, Entries]]:
        yield "kind", Entries(match.kinds_matched())
        yield "assurance", Entries(frozenset(ASSURANCE[ASSURANCE.index(match.min_assurance) :]))
        for fact, texts in (
            ("agent", match.agents),
            ("team", match.teams),
            ("category", match.categories),
            ("issuer", match.issuers),
            ("model", match.models),
            ("tool", match.tools),
            ("dialect", match.dialects),
        ):
            entries = Entries.of(texts) if texts else None
            if entries is not None:
                yield fact, entries

    return tuple((Facts._fields.index(fact), entries) for fact, entries in found())
