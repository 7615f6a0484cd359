"""What policy said of a call."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from gateway.core.attestation import Attestation, Scalar, Use


class RuleHit(Struct, frozen=True):
    """One rule that took part in a decision."""

    policy: str
    rule: str
    effect: str  # allow | deny | require
    mode: str  # enforce | shadow

    @property
    def name(self) -> str:
        """The rule's whole name."""
        return f"{self.policy}/{self.rule}"


class Reason(Struct, frozen=True, omit_defaults=True):
    """Why one clause of a rule did not hold; all of it may be told to the agent."""

    rule: str  # POLICY/RULE
    clause: str  # match | when | requires[0] | requires[1].any[0] | approve
    code: str  # none | other_run | outcome | subject_mismatch | too_old | … : `policy.requirements.REASONS`
    detail: str  # what is so, and what would satisfy it
    step: str = ""  # the step that has to be attested
    subject: Mapping[str, Scalar] | None = None  # about what


class Obligations(Struct, frozen=True, omit_defaults=True):
    """What must be kept where the call goes on; those of all granting and required rules are joined."""

    output_tokens: int | None = None  # the cap at most
    cache: str = ""  # `never`, or nothing
    only: frozenset[str] | None = None  # the providers that may serve it
    redact: frozenset[str] = frozenset()  # facts, such as args.card, whose values no log and no audit shows

    def joined(self, other: Obligations) -> Obligations:
        """Both: the least cap, what both allow, `never` before anything else."""
        if self == NO_OBLIGATIONS:
            return other
        caps = [cap for cap in (self.output_tokens, other.output_tokens) if cap is not None]
        only = self.only if other.only is None else other.only if self.only is None else self.only & other.only
        return Obligations(
            output_tokens=min(caps, default=None),
            cache=self.cache or other.cache,
            only=only,
            redact=self.redact | other.redact,
        )


NO_OBLIGATIONS: Final = Obligations()


class ApprovalNeed(Struct, frozen=True):
    """Who must say yes: one of each group of `approvers`, one group for each rule that asks."""

    approvers: tuple[tuple[str, ...], ...]  # `group:finance` or an operator's id
    expires: float  # seconds from the hold
    rules: tuple[str, ...]  # POLICY/RULE


class Decision(Struct, frozen=True):
    """The outcome for one call (and, where rules name providers, for one target).

    `policy_hash` names the exact set of policy files; `hits` are the enforced rules that took part, deny
    first; `shadow` those that only count. A deny without hits is the default deny: no rule allows it.
    """

    effect: str  # allow | deny | hold
    policy_hash: str
    hits: tuple[RuleHit, ...] = ()
    message: str = ""
    code: str = "policy_denied"  # the refusal's, where it is denied
    reasons: tuple[Reason, ...] = ()
    obligations: Obligations = NO_OBLIGATIONS
    uses: tuple[Use, ...] = ()  # what the call uses up when it is sent
    rests_on: tuple[Attestation, ...] = ()
    approval: ApprovalNeed | None = None
    shadow: tuple[RuleHit, ...] = ()
    would: str = ""  # what it would have been were every rule enforced; empty where that is the same
    read: Mapping[str, object] = MappingProxyType({})  # facts that conditions asked for, for the audit

    @property
    def allowed(self) -> bool:
        """Whether the call may go on."""
        return self.effect == "allow"
