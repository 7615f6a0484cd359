"""A call that is held, and one that a held call stands in the way of, are decisions like all others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gateway.web.admin import Operator
from tests.pipeline.stage import Door, Stage, on_stage, serves

DESK = Operator("desk", frozenset({"approver", "viewer"}), frozenset({"finance"}))


async def held(stage: Stage, order: str, amount: int = 500) -> Door:
    """A checked payment that is so large that a person is asked."""
    door = stage.wire(order, amount=amount)
    await stage.pipeline.handle(door)
    return door


def log(stage: Stage) -> list[dict[str, Any]]:
    """The decision log."""
    return [json.loads(record) for record in stage.supervising.log]


async def test_who_asks_again_while_a_call_is_held_is_told_the_same_decision(tmp_path: Path) -> None:
    """An agent that polls a held call fills no log; another call, another approval and another word have ids."""
    async with on_stage(tmp_path, serves) as stage:
        first, again, other = await held(stage, "A1"), await held(stage, "A1"), await held(stage, "A2")
        ids = [door.headers["gateway-decision-id"] for door in (first, again, other)]
        assert ids[0] == ids[1] != ids[2]
        assert [line["id"] for line in log(stage)] == [ids[0], ids[2]]
        asked = json.loads(first.got)["gateway"]["approval"]["id"]
        assert (log(stage)[0]["effect"], log(stage)[0]["approval"]) == ("hold", asked)
        await stage.supervising.approving.decide(asked, DESK, "deny", "a duplicate")
        denied = await held(stage, "A1")
        assert denied.headers["gateway-refusal"] == "policy_denied"
        assert denied.headers["gateway-decision-id"] not in ids


async def test_what_is_reserved_for_a_held_call_is_refused_on_record(tmp_path: Path) -> None:
    """Another call about the same order is refused by a decision that the agent, the ledger and the log name."""
    async with on_stage(tmp_path, serves) as stage:
        await held(stage, "A1")
        clash = await held(stage, "A1", amount=600)
        assert (clash.status, clash.headers["gateway-refusal"]) == (403, "attestation_required")
        told = json.loads(clash.got)
        assert (told["gateway"]["step"], told["gateway"]["reason"]) == ("fraud-check", "consumed")
        assert "waits for a person" in told["detail"]
        line = log(stage)[-1]
        assert line["id"] == told["gateway"]["decision_id"] == clash.headers["gateway-decision-id"]
        assert (line["effect"], line["code"]) == ("deny", "attestation_required")
        assert line["reasons"][0]["rule"] == "guard/fraud-check-first"
        rows = await stage.rows()
        assert [row["decision_id"] for row in rows][-1] == line["id"]
        assert not stage.upstream.requests
