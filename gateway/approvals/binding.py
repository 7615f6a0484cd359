"""What an approval is bound to: who calls, for whom, in which run, what, and with which arguments.

1. Two calls have the same key only if they mean the same: the arguments are compared as one canonical text (RFC 8785,
   but that numbers keep the spelling of their type: `1` and `1.0` are two), a body that is not read by its SHA-256.
2. What approvers are shown is the text that was compared.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

from gateway.core.approval import ApprovalAsk, ApprovalKey
from gateway.core.call import Call
from gateway.core.decision import Decision
from gateway.core.principal import Principal
from gateway.core.run import RunRef

MOST_ARGUMENTS: Final = 256 * 1024
"""Bytes of canonical arguments that are kept to be shown; of longer ones only the digest is."""


def canonical_arguments(call: Call) -> bytes:
    """The arguments of a call in the one spelling that they have, UTF-8.

    A body that became no arguments (`body: raw`) is named by its media type, length and SHA-256.
    """
    args = call.args
    if call.raw:
        body = {"content_type": call.content_type, "bytes": len(call.body), "sha256": _sha256(call.body)}
        args = {"arguments": args, "body": body}
    text = json.dumps(args, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def approval_key(principal: Principal, call: Call, run: RunRef | None) -> ApprovalKey:
    """What identifies this very call, whoever must approve it."""
    return _key(principal, call, run, canonical_arguments(call))


def approval_ask(
    principal: Principal,
    call: Call,
    run: RunRef | None,
    decision: Decision,
    *,
    decision_id: str,
    request_id: str,
    now: float,
) -> ApprovalAsk:
    """The call as it is held by a decision that has an `approval`; `now` is epoch seconds."""
    need = decision.approval
    if need is None:
        raise ValueError("a decision that holds a call says who must approve it")
    args = canonical_arguments(call)
    agent, root = principal.agent, principal.root
    return ApprovalAsk(
        key=_key(principal, call, run, args),
        agent=agent.id,
        owner=agent.owner,
        team=agent.team,
        parents=tuple(dict.fromkeys((*principal.chain, *((root[1],) if root else ())))),
        args=args if len(args) <= MOST_ARGUMENTS else b"",
        approvers=tuple(sorted({tuple(sorted(set(group))) for group in need.approvers})),
        expires=now + need.expires,
        rules=need.rules,
        policy_hash=decision.policy_hash,
        decision_id=decision_id,
        request_id=request_id,
        uses=decision.uses,
    )


def _key(principal: Principal, call: Call, run: RunRef | None, args: bytes) -> ApprovalKey:
    if call.kind == "tool":
        operation = f"tool {call.tool}"
    else:
        operation = f"{call.kind} {call.dialect} {call.operation} {call.model}"
    return ApprovalKey(*principal.owner, principal.on_behalf_of, _run(principal, run), operation, _sha256(args))


def _run(principal: Principal, run: RunRef | None) -> str:
    """The run's id, with its owner's subject where that is another: a child may have a run of its own of this id."""
    if run is None:
        return ""
    key = run.key
    return key.id if (key.iss, key.subject) == principal.owner else f"{key.subject}/{key.id}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
