"""What is told of a call that its approval does not let go on."""

from __future__ import annotations

from gateway.approvals.showing import NEXT
from gateway.core.approval import Standing
from gateway.core.clock import rfc3339
from gateway.core.errors import Refusal


def not_carried_out(approval: Standing, where: str = "", *, at_once: bool = False) -> Refusal:
    """The refusal for every standing but `approved`; `where` is the address at which its owner can ask.

    `at_once`: the client asked for 202 (`Prefer: respond-async`, RFC 7240 §4.1) where others get 403.
    """
    status = approval.status
    shown: dict[str, object] = {"id": approval.id, "status": status, "expires_at": rfc3339(approval.expires)}
    if where:
        shown["status_url"] = where
    if status == "pending":
        shown |= {"reason": approval.previous or "approval_required", "next_action": "retry"}
        sentence = f"a person must approve this call (approval {approval.id}); send it again unchanged once it is"
        headers = (("location", where), *((("preference-applied", "respond-async"),) if at_once else ()))
        fields: dict[str, object] = {"approval": shown}
        return Refusal("approval_required", sentence, fields=fields, status=202 if at_once else None, headers=headers)
    shown |= {"reason": f"approval_{status}", "next_action": NEXT.get(status, "none")}
    if approval.by:
        shown |= {"by": list(approval.by), "message": approval.reason}  # as at the status URL
    fields = {"approval": shown}
    if status == "executing":
        sentence = "the same call is being carried out by its approval; ask again for what came of it"
        return Refusal("step_in_progress", sentence, fields=fields, retry_after=2)
    if status == "consumed":
        sentence = "the approved call was carried out, and its answer is not kept; look at what it did"
        return Refusal("step_expired", sentence, fields=fields)
    if status == "failed":
        sentence = "the approved call was sent, and nobody knows whether it happened; look before you ask again"
        return Refusal("step_in_doubt", sentence, fields=fields)
    if status in ("expired", "cancelled"):
        sentence = f"the approval of this call is {status}; send the call again to ask for another"
        return Refusal("approval_required", sentence, fields=fields)
    sentence = f"approval {approval.id} of this call was {status}; ask the approvers before you send it again"
    return Refusal("policy_denied", sentence, fields=fields)
