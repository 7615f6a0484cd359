"""Decisions of the past, as the decision log has them, for the policies of today."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from gateway.audit import DecisionRecord
from gateway.core.attestation import Attestation
from gateway.core.call import Call
from gateway.core.principal import Agent, Principal
from gateway.policy.replay import Failed, Past

_MICRO: Final = 1_000_000


def past_of(record: DecisionRecord) -> Past:
    """What a record holds, as a call to decide."""
    at = _seconds(record.time)
    principal = Principal(
        agent=Agent(record.agent, team=record.team, category=record.category),
        issuer=record.issuer,
        iss=record.issuer,
        subject=record.subject,
        assurance=record.assurance,
        key_id="",
        token_id=record.token_id,
        expires=at,
        on_behalf_of=record.on_behalf_of,
        chain=record.chain,
        vouched_by=record.vouched_by,
    )
    call = Call(
        kind=record.kind,
        dialect=record.dialect,
        operation=record.operation,
        method=record.method,
        model=record.model,
        tool=record.tool,
        hosted_tools=record.hosted_tools,
        region=record.region,
    )
    attested = (
        Attestation(
            by=one.by,
            id=one.id,
            step=one.step,
            outcome=one.outcome,
            subject=one.subject,
            agent=record.subject,
            run=record.run,
            at=round(_seconds(one.at) * _MICRO),
            owner=principal.owner,
        )
        for one in record.attestations
    )
    return Past(
        principal=principal,
        call=call,
        at=at,
        run=record.run,
        step=record.step,
        providers=record.providers,
        read=record.read,
        attested=tuple(attested),
        failed=tuple(Failed(one.rule, one.code, one.step) for one in record.reasons),
        effect=record.effect,
        approved=bool(record.approval) and record.effect == "allow",
        policy_hash=record.policy_hash,
        mode=record.mode,
    )


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
