"""A decision counts once it is written down: before that nothing is sent, and nobody is told of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.pipeline.stage import Door, Stage, on_stage, serves
from tests.simulator.attester import AGENT


async def done(stage: Stage, door: Door) -> Door:
    """A call from its beginning to its end."""
    await stage.pipeline.handle(door)
    return door


def unchecked(stage: Stage, order: str) -> Door:
    """A guarded call without what it needs."""
    return stage.door(f"/r/r1/tools/bank/wire/{order}", {"amount": 1})


def told(*doors: Door) -> list[str | None]:
    """The decisions that the agents were told of."""
    return [door.headers.get("gateway-decision-id") for door in doors]


def written(stage: Stage) -> list[str]:
    """The decisions in the log."""
    return [json.loads(record)["id"] for record in stage.supervising.log]


async def test_what_cannot_be_written_down_is_not_sent(tmp_path: Path) -> None:
    """While the log takes nothing an allowed call is refused, and names no decision; afterwards it goes through."""
    async with on_stage(tmp_path, serves) as stage:
        stage.supervising.full = True
        refused = await done(stage, stage.pay())
        assert (refused.status, refused.headers["gateway-refusal"]) == (503, "store_unavailable")
        assert (stage.upstream.requests, told(refused)) == ([], [None])
        stage.supervising.full = False
        allowed = await done(stage, stage.pay())
        assert allowed.status == 200
        assert told(allowed) == written(stage)


async def test_a_refusal_that_was_not_written_down_is_not_remembered(tmp_path: Path) -> None:
    """Who repeats it later is told of a decision that is in the log; only then further ones need no line."""
    async with on_stage(tmp_path, serves) as stage:
        stage.supervising.full = True
        lost = await done(stage, unchecked(stage, "A1"))
        assert (lost.headers["gateway-refusal"], told(lost)) == ("store_unavailable", [None])
        stage.supervising.full = False
        first, again = await done(stage, unchecked(stage, "A1")), await done(stage, unchecked(stage, "A1"))
        assert {first.headers["gateway-refusal"], again.headers["gateway-refusal"]} == {"attestation_required"}
        assert told(first, again) == written(stage) * 2
        assert len(written(stage)) == 1


async def test_a_refusal_for_another_user_is_another_one(tmp_path: Path) -> None:
    """Whoever reads the log finds each user on whose behalf a call was refused, though the agent is the same."""
    async with on_stage(tmp_path, serves) as stage:
        for user in ("user/anna", "user/bert", "user/anna"):
            token = stage.gateway.token(sub=user, act={"sub": AGENT})
            door = stage.door("/r/r1/tools/bank/wire/A1", {"amount": 1}, authorization=f"Bearer {token}")
            assert (await done(stage, door)).headers["gateway-refusal"] == "attestation_required"
        users = [json.loads(record)["on_behalf_of"] for record in stage.supervising.log]
        assert users == ["user/anna", "user/bert"]


async def test_refusals_at_the_same_time_are_all_in_the_log(tmp_path: Path) -> None:
    """None of them is told of a decision that is still on its way there."""
    async with on_stage(tmp_path, serves) as stage:
        doors = await asyncio.gather(*(done(stage, unchecked(stage, "A1")) for _ in range(5)))
        assert {door.status for door in doors} == {403}
        assert set(told(*doors)) == set(written(stage))
        assert len(set(written(stage))) == len(written(stage))
