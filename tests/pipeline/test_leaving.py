"""Cancelled at every suspension point, and left by the agent at every write: nothing leaks, nothing is unrecorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.stage import ADMITTED, Door, Stage, cancelled_at, on_stage, serves

CALLS: dict[str, Callable[[Stage], Door]] = {
    **ADMITTED,
    "own run": lambda stage: stage.door("/gateway/v1/runs/r1", method="GET"),
    "refused": lambda stage: stage.chat(model="unknown"),
    "stranger": lambda stage: stage.door("/v1/chat/completions", authorization="Bearer x"),
}


async def _settled(stage: Stage, served: int, before: int) -> list[dict[str, object]]:
    """What must hold whenever a call is over: nothing is held, and what the upstream served has its one row."""
    rows = (await stage.rows())[before:]
    assert stage.idle()
    assert stage.reserved == 0
    attempts = [row for row in rows if row["attempt"]]
    assert len(attempts) == len({(row["request_id"], row["attempt"]) for row in attempts})
    assert len(attempts) >= served, "the upstream served what no row tells of"
    assert len(attempts) <= 1
    return rows


@pytest.mark.parametrize("name", CALLS)
async def test_cancelled_at_every_suspension_point(tmp_path: Path, name: str) -> None:
    """B04: wherever a call is cancelled, no step stays reserved and what was served is on the ledger, once."""
    async with on_stage(tmp_path, serves) as stage:
        for point in range(1, 100):
            before, asked = len(await stage.rows()), len(stage.upstream.requests)
            door = CALLS[name](stage)
            came = await cancelled_at(stage.pipeline.handle(door), point)
            await asyncio.sleep(0.002)
            await _settled(stage, len(stage.upstream.requests) - asked, before)
            if not came:
                assert point > 1
                assert door.ended  # this time nothing disturbed it
                return
        pytest.fail("a hundred suspension points and no end")


@pytest.mark.parametrize("name", [name for name in CALLS if name not in {"stranger", "refused"}])
async def test_left_at_every_write(tmp_path: Path, name: str) -> None:
    """R02: whenever an agent hangs up, its call is settled as if it had stayed, or as cancelled, once."""
    async with on_stage(tmp_path, serves) as stage:
        write = 0
        while True:
            write += 1
            before, asked = len(await stage.rows()), len(stage.upstream.requests)
            door = CALLS[name](stage)
            door.leaves_at = write
            await stage.pipeline.handle(door)
            rows = await _settled(stage, len(stage.upstream.requests) - asked, before)
            if door.ended:
                break
            for row in (row for row in rows if row["attempt"]):
                settled = row["outcome"] == "complete" or (row["outcome"] == "cancelled" and "stream" in name)
                assert settled
                if row["run"]:  # inside a run the upstream is read to its end, and what it said of itself counts
                    assert row["estimated"] == 0
        assert write > 1
        assert door.status == 200 or name == "own run"


async def test_a_run_counts_what_was_settled(tmp_path: Path) -> None:
    """After calls that were left and cancelled, the run's counters are the sum of its rows."""
    async with on_stage(tmp_path, serves) as stage:
        for number in range(1, 12):
            door = stage.chat(run="r1", stream=True)
            door.leaves_at = number
            await stage.pipeline.handle(door)
            await cancelled_at(stage.pipeline.handle(stage.chat(run="r1")), number)
        rows = [row for row in await stage.rows() if row["run"] == "r1" and row["attempt"]]
        assert stage.reserved == 0
        key = next(iter(stage.register._runs))
        facts = await stage.register.facts(key)
        assert facts is not None
        assert facts.steps == len(rows)
        assert facts.tokens == sum(row["input_tokens"] + row["output_tokens"] for row in rows)
        assert facts.cost_nano_usd == sum(row["cost_nano_usd"] for row in rows)
