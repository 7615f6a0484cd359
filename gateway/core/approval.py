"""Approvals: a person's answer to a call that policy holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from gateway.core.attestation import Use

MOVES: Final[Mapping[str, frozenset[str]]] = {
    "pending": frozenset({"approved", "denied", "expired", "cancelled"}),
    "approved": frozenset({"executing", "expired", "cancelled"}),
    "executing": frozenset({"approved", "consumed", "failed"}),  # back to approved: it was certainly not sent
    "failed": frozenset({"consumed"}),  # the outcome was found after all
    "consumed": frozenset(),
    "denied": frozenset(),
    "expired": frozenset(),
    "cancelled": frozenset(),
}
"""What becomes of an approval: from each status the ones that may follow.

`failed` is a call that was perhaps sent, and nobody knows whether it happened. `cancelled` is one of a call that now
needs other approvers, or none.
"""
NOT_CARRIED_OUT: Final = frozenset({"denied", "expired", "cancelled"})
"""Where a call ends that was never sent: what was kept for it is given back."""


class ApprovalKey(Struct, frozen=True):
    """What an approval is bound to: whoever repeats exactly this call means the same approval."""

    iss: str
    subject: str  # with `iss` the owner, see `Principal.owner`
    on_behalf_of: str  # the user, who may not approve either
    run: str  # the run's id; empty outside a run
    operation: str  # `tool payments.charge`, `llm openai chat gpt-4o-mini`
    digest: str  # SHA-256 (hex) of the canonical arguments


class ApprovalAsk(Struct, frozen=True, kw_only=True):
    """A call that is held: all that approvers are shown, and what is reserved for it meanwhile."""

    key: ApprovalKey
    agent: str
    owner: str  # the agent's, who may not approve
    team: str
    parents: tuple[str, ...]  # agents above a delegated one, who may not either
    args: bytes  # canonical JSON, at most 256 KiB are kept; beyond, empty
    approvers: tuple[tuple[str, ...], ...]
    expires: float  # epoch seconds
    rules: tuple[str, ...]
    policy_hash: str
    decision_id: str
    request_id: str
    uses: tuple[Use, ...] = ()


class Stored(Struct, frozen=True):
    """The answer of an approved call, for whoever repeats it later."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class ApprovedOutcome(Struct, frozen=True):
    """What became of an approved call; `stored` is `None` where the answer is too large to be kept."""

    approval: str  # the approval's id
    status: str  # consumed | failed: it was sent, and nobody knows whether it happened
    stored: Stored | None = None


class Standing(Struct, frozen=True, kw_only=True):
    """How an approval stands."""

    id: str
    status: str  # pending | approved | executing | consumed | denied | expired | cancelled | failed
    held_at: float  # epoch seconds
    expires: float
    by: tuple[str, ...] = ()  # the operators who decided
    reason: str = ""  # what the last of them wrote
    outcome: Stored | None = None  # of a consumed one, where it is kept
    previous: str = ""  # why an earlier one of this call does not count: approval_expired | step_in_doubt
    changed: float = 0.0  # since when it stands so, epoch seconds


class Vote(Struct, frozen=True, kw_only=True):
    """What one operator said of an approval."""

    operator: str  # the id
    decision: str  # approve | deny
    at: float  # epoch seconds
    reason: str = ""
    counts: tuple[int, ...] = ()  # the places of the groups of approvers that it speaks for


class Approval(Struct, frozen=True, kw_only=True):
    """One approval as it is kept: what was asked, who said what, and what became of it."""

    id: str
    status: str  # one of MOVES
    held_at: float  # epoch seconds
    ask: ApprovalAsk  # without `args` where many are listed
    votes: tuple[Vote, ...] = ()
    request_id: str = ""  # the call that carries it out
    changed: float = 0.0  # epoch seconds
    previous: str = ""  # see `Standing.previous`
    outcome: Stored | None = None  # read for the agent's call alone

    def over(self, now: float) -> bool:
        """Whether its time is up (epoch seconds, to the microsecond)."""
        return round(self.ask.expires * 1_000_000) <= round(now * 1_000_000)

    def status_at(self, now: float) -> str:
        """The status, where nobody has written down yet that its time is up."""
        return "expired" if self.status in ("pending", "approved") and self.over(now) else self.status

    def standing(self, now: float) -> Standing:
        """What a call that needs it has to know."""
        last = self.votes[-1] if self.votes else None
        return Standing(
            id=self.id,
            status=self.status_at(now),
            held_at=self.held_at,
            expires=self.ask.expires,
            by=tuple(vote.operator for vote in self.votes),
            reason=last.reason if last is not None else "",
            outcome=self.outcome,
            previous=self.previous,
            changed=self.changed,
        )
