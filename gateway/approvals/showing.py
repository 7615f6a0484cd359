"""How an approval is shown: to the agent that waits for it, to the operators who decide, to their webhook.

1. The agent sees how it stands and what to do next, and nothing that it did not say itself but who decided and why.
2. What an agent wrote is shown to operators inert: whatever could hide, reorder, overlap or be taken for markup is
   escaped as JSON escapes it, so that what is read is what is compared, and the digest beside it proves it.
3. A webhook gets no arguments: only their digest.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from gateway.approvals.voting import missing
from gateway.core.approval import Approval
from gateway.core.clock import rfc3339

NEXT: Final = {
    "pending": "retry", "approved": "retry", "executing": "retry", "expired": "request", "cancelled": "request",
}  # fmt: skip
"""What the agent can do: send the same call again, ask anew by it, else nothing."""
_MARKUP: Final = frozenset("<>&")
_RIGHT_TO_LEFT: Final = frozenset({"R", "AL", "AN"})
# Letters and symbols that are drawn as nothing: Hangul fillers, Khmer inherent vowels, the empty Braille pattern.
_BLANK: Final = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")


def inert(text: str) -> str:
    """A text in which every character shows as what it is; a JSON text stays one of the same value."""
    return "".join(map(_inert, text))


def _inert(char: str) -> str:
    if " " <= char <= "~":
        return char if char not in _MARKUP else f"\\u{ord(char):04x}"
    plain = (
        char.isprintable()
        and char not in _BLANK
        and unicodedata.category(char) not in ("Mn", "Me")
        and unicodedata.bidirectional(char) not in _RIGHT_TO_LEFT
    )
    if plain:
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def to_owner(approval: Approval, now: float) -> dict[str, object]:
    """What `GET /gateway/v1/approvals/{id}` tells."""
    standing = approval.standing(now)
    status = standing.status
    told: dict[str, object] = {
        "id": approval.id,
        "status": status,
        "reason": standing.previous or "approval_required" if status == "pending" else f"approval_{status}",
        "next_action": NEXT.get(status, "none"),
        "held_at": rfc3339(standing.held_at),
        "expires_at": rfc3339(standing.expires),
        "operation": approval.ask.key.operation,
        "run": approval.ask.key.run,
        "rules": list(approval.ask.rules),
    }
    if standing.by:
        told |= {"by": list(standing.by), "message": standing.reason}
    return told


def brief(approval: Approval, now: float) -> dict[str, object]:
    """One line of the operators' list."""
    ask, key = approval.ask, approval.ask.key
    status = approval.status_at(now)
    return {
        "id": approval.id,
        "status": status,
        "agent": inert(ask.agent),
        "team": inert(ask.team),
        "on_behalf_of": inert(key.on_behalf_of),
        "run": inert(key.run),
        "operation": inert(key.operation),
        "args_sha256": key.digest,
        "rules": list(ask.rules),
        "approvers": [list(group) for group in ask.approvers],
        "waits_for": missing(approval) if status == "pending" else [],
        "held_at": rfc3339(approval.held_at),
        "expires_at": rfc3339(ask.expires),
        "changed_at": rfc3339(approval.changed),
        "previous": approval.previous,
        "votes": [
            {"operator": one.operator, "decision": one.decision, "at": rfc3339(one.at), "reason": one.reason}
            for one in approval.votes
        ],
    }


def whole(approval: Approval, now: float) -> dict[str, object]:
    """All that operators may see; `args` is JSON text, `None` where it was too long to be kept."""
    ask, key = approval.ask, approval.ask.key
    return {
        **brief(approval, now),
        "args": inert(ask.args.decode("utf-8", "surrogatepass")) if ask.args else None,
        "issuer": inert(key.iss),
        "subject": inert(key.subject),
        "owner": inert(ask.owner),
        "parents": [inert(name) for name in ask.parents],
        "policy_hash": ask.policy_hash,
        "decision_id": ask.decision_id,
        "request_id": ask.request_id,
        "carried_out_by": approval.request_id,
    }


def event(approval: Approval, what: str) -> dict[str, object]:
    """What a webhook is told of an approval that is pending, approved, denied or expired (`what`)."""
    ask, key = approval.ask, approval.ask.key
    agent, operation = inert(ask.agent), inert(key.operation)
    waits = f"agent {agent} asks to call {operation}"
    last = approval.votes[-1] if approval.votes else None
    return {
        "id": approval.id,
        "status": what,
        "summary": waits if what == "pending" else f"{waits}: {what}{f' by {last.operator}' if last else ''}",
        "agent": agent,
        "team": inert(ask.team),
        "on_behalf_of": inert(key.on_behalf_of),
        "run": inert(key.run),
        "operation": operation,
        "args_sha256": key.digest,
        "rules": list(ask.rules),
        "approvers": [list(group) for group in ask.approvers],
        "held_at": rfc3339(approval.held_at),
        "expires_at": rfc3339(ask.expires),
        "decided_by": [one.operator for one in approval.votes] if what != "pending" else [],
    }


def happened(approval: Approval, what: str) -> float:
    """When the event that `event` tells of happened, epoch seconds."""
    if what == "pending":
        return approval.held_at
    return approval.ask.expires if what == "expired" or not approval.votes else approval.votes[-1].at
