"""A held call as tests need it: `ask` with what they change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from gateway.approvals import approval_ask
from gateway.core.approval import Approval, ApprovalAsk
from gateway.core.attestation import Use
from gateway.core.call import Call
from gateway.core.decision import ApprovalNeed, Decision
from gateway.core.principal import Agent, Principal
from gateway.core.run import RunKey, RunRef

NOW = 1_800_000_000.0
PRINCIPAL = Principal(
    Agent("procurement", owner="payments@acme.example", team="finance"),
    "dev",
    "https://issuer.example",
    "agent/procurement",
    "bearer",
    "k1",
    "t1",
    NOW + 3600,
    on_behalf_of="user/anna",
)
CHARGE = Call(
    kind="tool",
    dialect="http",
    operation="tool",
    method="POST",
    body=b'{"order_id":"A1","amount":100}',
    args={"order_id": "A1", "amount": 100},
    tool="payments.charge",
    content_type="application/json",
)
FINANCE = (("group:finance",),)


def run_of(principal: Principal, name: str = "order-17") -> RunRef:
    return RunRef(RunKey(*principal.owner, name), None, "header")


def ask(
    principal: Principal = PRINCIPAL,
    call: Call = CHARGE,
    *,
    approvers: tuple[tuple[str, ...], ...] = FINANCE,
    expires: float = 1800.0,
    now: float = NOW,
    uses: tuple[Use, ...] = (),
    args: dict[str, Any] | None = None,
) -> ApprovalAsk:
    """The held call; `args` replaces its arguments."""
    if args is not None:
        call = replace(call, args=args)
    need = ApprovalNeed(approvers, expires, ("payments/large",))
    decision = Decision("hold", "0" * 64, uses=uses, approval=need)
    return approval_ask(
        principal, call, run_of(principal), decision, decision_id="dec_1", request_id="req_held", now=now
    )


def pending(**changes: Any) -> Approval:  # noqa: ANN401 - any field of the ask
    """An approval that waits."""
    return Approval(id="apr_1", status="pending", held_at=changes.get("now", NOW), ask=ask(**changes), changed=NOW)


@dataclass(frozen=True)
class Operator:
    """Who votes."""

    id: str
    groups: frozenset[str] = field(default_factory=frozenset)
    subject: str = ""


DESK = Operator("desk", frozenset({"finance"}))
