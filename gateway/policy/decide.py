"""Deciding: a set of rules, those of them that concern a call, and what they say together.

1. A call is allowed where no deny rule denies, every require rule that matches holds, and what is asked for is
   granted: the model or tool by an allow rule that names models or tools, and each hosted tool by one that names it.
   Own addresses (kind `own`) need no allow rule.
2. It is held where it is allowed and a require rule asks for an approval, or every rule does that grants something.
3. Of the rules that grant the same thing one is charged: the one that asks for no approval, then the one that uses
   up nothing, then the first by id. Obligations of all that grant and of all require rules are joined. What an
   obligation redacts is redacted wherever its rule matches.
4. A shadow rule changes nothing. `Decision.shadow` has those that would have changed something: deny rules that
   deny, require rules that do not hold, allow rules that grant; `Decision.would` what that would have made of it.
   With `policies.mode: shadow` what is not granted passes; enforced deny and require rules bind.
5. The code of a denial is `attestation_required` where attestations alone would let the call go on, and
   `hosted_tool_refused` where it would go on without its hosted tools; else `policy_denied`.
6. The order of files and rules does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from gateway.core.attestation import Attestation
from gateway.core.decision import NO_OBLIGATIONS, ApprovalNeed, Decision, Obligations, Reason, RuleHit
from gateway.policy.cel import Decimal, Duration, Timestamp
from gateway.policy.cel.conversions import string_from_decimal
from gateway.policy.cel.times import write_duration, write_timestamp
from gateway.policy.index import Index
from gateway.policy.needs import NO_NEEDS, needs_of
from gateway.policy.observations import Observation
from gateway.policy.requirements import REASONS
from gateway.policy.rules import Facts, Rule
from gateway.policy.sentences import default_denial, hosted_denial
from gateway.policy.situation import Situation, View
from gateway.policy.verdicts import Verdict, judge, unconditional
from gateway.settings.complaints import Complaint

_PIECE: Final = 500
"""Parts that are freed at once."""
_MEMO_ENTRIES: Final = 4096
_MEMO_NAME: Final = 200  # characters: a name that an agent makes up shall not fill the memory
_MOST_READ: Final = 32
_LONGEST_READ: Final = 200  # characters
_LARGEST_READ: Final = 2**63
_MOST_REASONS: Final = 32
_RANK: Final = {"deny": 0, "require": 1, "allow": 2}
_ITSELF: Final = ""  # what is asked for, beside hosted tools: the model or the tool
_WRITTEN: Final[Mapping[type, Callable[[Any], str]]] = {
    Timestamp: write_timestamp,
    Duration: write_duration,
    Decimal: string_from_decimal,
}
"""How what JSON does not have is written, as `string()` in a condition does."""
_NOTHING_READ: Final[Mapping[str, object]] = MappingProxyType({})


class Terms(NamedTuple):
    """What holds of all decisions of a set."""

    hash: str
    lenient: bool = False  # what nothing grants passes
    per_target: bool = False
    standing: Mapping[Rule, Verdict] = MappingProxyType({})  # what each rule says where its conditions are in favour


class Matching:
    """The rules that concern a call, deny rules first. `settled` is their decision where none has a condition."""

    __slots__ = ("_facts", "_possible", "_provider", "_reads", "_redact", "_terms", "needs", "rules", "settled")

    def __init__(self, rules: Sequence[Rule], facts: Facts, provider: str | None, terms: Terms) -> None:
        self.rules = rules
        self._facts = facts
        self._provider = provider
        self._terms = terms
        self._possible: Decision | None = None
        self._redact = _redacted(rules)
        conditional = [rule for rule in rules if rule.conditional]
        self._reads = dict.fromkeys([path for rule in conditional for path in rule.reads])
        self.needs = needs_of(rules) if conditional else NO_NEEDS
        self.settled = None if conditional else self.possible

    @property
    def possible(self) -> Decision:
        """The decision if every condition were in the call's favour."""
        if self._possible is None:
            self._possible = self._decided([self._terms.standing[rule] for rule in self.rules], _NOTHING_READ)
        return self._possible

    def decide(self, situation: Situation) -> Decision:
        """What the rules say of a call at this moment."""
        if self.settled is not None:
            return self.settled
        view = View(situation, self._redact)
        verdicts = [judge(rule, view) for rule in self.rules]
        return self._decided(verdicts, _read(self._reads, view.facts))

    def weigh(self, verdicts: Sequence[Verdict]) -> Decision:
        """What the rules say together, were these what each of them says."""
        return self._decided(verdicts, _NOTHING_READ)

    def _decided(self, verdicts: Sequence[Verdict], read: Mapping[str, object]) -> Decision:
        terms = self._terms
        enforced = [verdict for verdict in verdicts if verdict.rule.enforced]
        decision = self._together(enforced, read, lenient=terms.lenient)
        if len(enforced) == len(verdicts) and not terms.lenient:
            return decision
        would = self._together(verdicts, read, lenient=False).effect
        shadow = tuple(
            verdict.rule.hit
            for verdict in verdicts
            if not verdict.rule.enforced and verdict.held == (verdict.rule.effect != "require")
        )
        return replace(decision, shadow=shadow, would=would if would != decision.effect else "")

    def _together(self, verdicts: Sequence[Verdict], read: Mapping[str, object], *, lenient: bool) -> Decision:
        denying: list[Verdict] = []
        failing: list[Verdict] = []
        charged: list[Verdict] = []  # what they use up is used up: rules that must hold, and those that pay for a grant
        granting: list[Verdict] = []
        for one in verdicts:
            effect = one.rule.effect
            if effect == "allow":
                if one.held:
                    granting.append(one)
            elif one.held:
                (denying if effect == "deny" else charged).append(one)
            elif effect == "require":
                failing.append(one)
        obliging = [*charged, *granting]
        lacking = _charge(granting, _wanted(self._facts), charged)
        if lenient:
            lacking.clear()
        if denying or failing or lacking:
            return self._denied(verdicts, denying, failing, lacking, read)
        obligations = self._obligations(obliging)
        if obligations.only is not None and not obligations.only:
            return self._nowhere(verdicts, obligations, read)
        asking = list(dict.fromkeys([one.rule for one in charged if one.asks]))
        return Decision(
            "hold" if asking else "allow",
            self._terms.hash,
            _hits(verdicts),
            obligations=obligations,
            uses=tuple(dict.fromkeys([use for one in charged for use in one.uses])),
            rests_on=_unrepeated([attestation for one in charged for attestation in one.rests_on]),
            approval=_approval(asking) if asking else None,
            read=read,
        )

    def _denied(
        self,
        verdicts: Sequence[Verdict],
        denying: Sequence[Verdict],
        failing: Sequence[Verdict],
        lacking: Sequence[str],
        read: Mapping[str, object],
    ) -> Decision:
        """Why a call is refused: what denies it, else what does not hold, else that nothing grants it."""
        short = [
            one
            for one in verdicts
            if not one.held and one.rule.effect == "allow" and any(_grants(one.rule, want) for want in lacking)
        ]
        decisive = denying or [*failing, *short]
        message = " ".join(dict.fromkeys(one.rule.message for one in decisive if one.rule.message))
        code = "policy_denied"
        attestable = all(
            any(one.lacks_only_attestations and _grants(one.rule, want) for one in short) for want in lacking
        )
        if not denying and attestable and all(one.lacks_only_attestations for one in failing):
            code = "attestation_required"
        elif not denying and not failing and _ITSELF not in lacking:
            code = "hosted_tool_refused"
            message = hosted_denial(self._facts, lacking)
        elif not decisive:
            told = self._facts.kind == "llm" and self._terms.per_target
            message = default_denial(self._facts, self._provider if told else None)
        return Decision(
            "deny",
            self._terms.hash,
            _hits(verdicts),
            message,
            code,
            tuple(reason for one in decisive for reason in one.reasons)[:_MOST_REASONS],
            self._hidden,
            read=read,
        )

    def _nowhere(self, verdicts: Sequence[Verdict], obligations: Obligations, read: Mapping[str, object]) -> Decision:
        """No provider is left that all rules name."""
        reasons = tuple(
            Reason(one.rule.hit.name, "obligations.route.only", "no_provider", REASONS["no_provider"])
            for one in verdicts
            if one.held and one.rule.obligations.only is not None
        )
        hits = _hits(verdicts)
        return Decision("deny", self._terms.hash, hits, reasons=reasons, obligations=obligations, read=read)

    @property
    def _hidden(self) -> Obligations:
        return Obligations(redact=self._redact) if self._redact else NO_OBLIGATIONS

    def _obligations(self, obliging: Iterable[Verdict]) -> Obligations:
        """Those of the rules that let the call go on, joined; caps and routes are of LLM calls."""
        joined = NO_OBLIGATIONS
        for one in obliging:
            if one.rule.obligations is not NO_OBLIGATIONS:
                joined = joined.joined(one.rule.obligations)
        if joined is NO_OBLIGATIONS and not self._redact:
            return joined
        if self._facts.kind != "llm":
            return Obligations(cache=joined.cache, redact=self._redact)
        return replace(joined, redact=self._redact)


class PolicySet:
    """The rules of all policy files, ready to decide.

    `hash` is the SHA-256 of the files' contents (hex), `mode` that of the configuration. `per_target` is true when a
    rule asks which provider serves a call, or where its data goes: then a call is decided for each target, else once.
    `warnings` tell of rules that stand but probably mean something else, `errors` of those that certainly do:
    `passgate check` and `policy lint` take them for mistakes, a gateway that starts for warnings. `revision` is that
    of the bundle that they are signed in, 0 without one; of `image` another process makes the same set.
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        policy_hash: str,
        *,
        mode: str = "enforce",
        observations: Iterable[Observation] = (),
        warnings: tuple[Complaint, ...] = (),
        errors: tuple[Complaint, ...] = (),
        revision: int = 0,
        image: bytes = b"",
    ) -> None:
        """Take compiled rules, in any order."""
        ordered = sorted(rules, key=lambda rule: (_RANK[rule.effect], rule.hit.policy, rule.hit.rule))
        self.hash = policy_hash
        self.mode = mode
        self.warnings = warnings
        self.errors = errors
        self.revision = revision
        self.image = image
        self.size = len(ordered)
        self.per_target = any(_by_target(rule) for rule in ordered)
        self.rules = tuple(ordered)
        standing = {rule: unconditional(rule) for rule in ordered}
        self._terms = Terms(policy_hash, mode == "shadow", self.per_target, standing)
        self._index = Index(ordered)
        self._memo: dict[tuple[Facts, str | None], Matching] = {}
        self._observations: dict[str, tuple[Observation, ...]] = {}
        for observation in observations:
            self._observations[observation.tool] = (*self.observations(observation.tool), observation)

    def find(self, facts: Facts, provider: str | None = None) -> Matching:
        """The rules that concern a call; the same facts always get the same.

        `provider` is the one that would serve the call. Without it a rule that names providers grants nothing; it
        denies, and it must hold.
        """
        key = (facts, provider)
        known = self._memo.get(key)
        if known is not None:
            return known
        rules = [rule for rule in self._index.candidates(facts) if rule.matches(facts, provider)]
        matching = Matching(rules, facts, provider, self._terms)
        if len(facts.model) + len(facts.tool) + len("".join(facts.hosted_tools)) <= _MEMO_NAME:
            if len(self._memo) >= _MEMO_ENTRIES:
                self._memo.clear()  # cheaper than keeping an order, and as good while agents repeat themselves
            self._memo[key] = matching
        return matching

    def decide(self, facts: Facts, provider: str | None = None) -> Decision:
        """What the rules say at best, before a call is made: each condition is taken to be in its favour."""
        return self.find(facts, provider).possible

    def let_go(self) -> Iterator[None]:
        """Free the set piece by piece, once nothing is decided by it: all at once it would hold up what goes on.

        From the first piece on it allows nothing.
        """
        left: list[object] = [*self.rules, *self._terms.standing.values(), *self._index.parts()]
        self.__init__((), self.hash)  # type: ignore[misc] # it becomes an empty set
        while left:
            del left[-_PIECE:]
            yield

    def observations(self, tool: str) -> tuple[Observation, ...]:
        """What may be attested from the answers of a tool, `server.operation`."""
        return self._observations.get(tool, ())


_NONE: Final = frozenset[str]()


def _by_target(rule: Rule) -> bool:
    return rule.providers is not None or any(path in {("call",), ("call", "region")} for path in rule.reads)


def _redacted(rules: Iterable[Rule]) -> frozenset[str]:
    found = [rule.obligations.redact for rule in rules if rule.obligations is not NO_OBLIGATIONS]
    return frozenset().union(*found) if found else _NONE


def _wanted(facts: Facts) -> Sequence[str]:
    """What must be granted."""
    if facts.kind == "own":
        return ()
    return (_ITSELF, *facts.hosted_tools) if facts.hosted_tools else (_ITSELF,)


def _grants(rule: Rule, want: str) -> bool:
    if want == _ITSELF:
        return rule.grants
    return rule.effect == "allow" and rule.hosted is not None and rule.hosted.match(want)


def _charge(granting: Sequence[Verdict], wanted: Iterable[str], charged: list[Verdict]) -> list[str]:
    """Put the rule that pays for each thing wanted among those charged; gives what nothing grants."""
    lacking = []
    for want in wanted:
        found = [one for one in granting if (one.rule.grants if want == _ITSELF else _grants(one.rule, want))]
        if not found:
            lacking.append(want)
        else:
            charged.append(found[0] if len(found) == 1 else min(found, key=_preferred))
    return lacking


def _preferred(verdict: Verdict) -> tuple[bool, bool, str]:
    return verdict.asks, bool(verdict.uses), verdict.rule.hit.rule


def _hits(verdicts: Iterable[Verdict]) -> tuple[RuleHit, ...]:
    """The rules that took part: those that deny, those that must hold, those that grant."""
    return tuple([one.rule.hit for one in verdicts if one.held or one.rule.effect == "require"])


def _unrepeated(attestations: Sequence[Attestation]) -> tuple[Attestation, ...]:
    return tuple({(one.by, one.id): one for one in attestations}.values()) if attestations else ()


def _approval(asking: Sequence[Rule]) -> ApprovalNeed:
    """Whom to ask: one of each rule's approvers, until the first of them expires."""
    approvals = [rule.approval for rule in asking if rule.approval is not None]
    return ApprovalNeed(
        tuple(dict.fromkeys(tuple(sorted(one.approvers)) for one in approvals)),
        min(one.expires for one in approvals),
        tuple(rule.hit.name for rule in asking),
    )


def _read(paths: Iterable[tuple[str, ...]], facts: Mapping[str, object]) -> Mapping[str, object]:
    """The scalar facts that conditions and bindings ask for, by path, `None` for one that is missing; no long ones."""
    found: dict[str, object] = {}
    for path in paths:
        value = facts[path[0]]
        for step in path[1:]:
            value = value.get(step) if isinstance(value, dict) else None
        write = _WRITTEN.get(type(value))
        if write is not None:
            value = write(value)
        if _is_short(value) and len(found) < _MOST_READ:
            found[".".join(path)] = value
    return found


def _is_short(value: object) -> bool:
    """Whether it is a scalar that a record may hold; `None` says that there is none."""
    if isinstance(value, str):
        return len(value) <= _LONGEST_READ
    if isinstance(value, int):
        return -_LARGEST_READ <= value <= _LARGEST_READ
    return value is None or isinstance(value, float)
