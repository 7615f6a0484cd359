"""What policy said of a call."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RuleHit:
    """One rule that took part in a decision."""

    policy: str
    rule: str
    effect: str  # allow | deny
    mode: str  # enforce


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome for one call (and, where rules name providers, for one target).

    `policy_hash` names the exact set of policy files; `hits` are the rules that matched, deny
    first. A deny without hits is the default deny: no rule allows it.
    """

    effect: str  # allow | deny
    policy_hash: str
    hits: tuple[RuleHit, ...] = ()
    message: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the call may go on."""
        return self.effect == "allow"
