"""What a guarded call uses up, and what is left of it wherever the call ends."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
import uuid
from contextlib import closing
from pathlib import Path

import pytest

from gateway.core.attestation import Attestation
from gateway.core.clock import SystemClock
from gateway.core.decision import Decision
from gateway.core.errors import Refusal
from gateway.core.principal import StopKey
from gateway.core.stop import Stop
from gateway.permit import Evidence, Permit
from gateway.web.admin import Operator
from tests.pipeline.stage import GUARD, Door, Stage, cancelled_at, disturbed_at, on_stage, serves

POINTS = 100
DESK = Operator("desk", frozenset({"approver", "viewer"}), frozenset({"finance"}))


def column(stage: Stage, query: str, *values: object) -> list[object]:
    """The first column of what the store has."""
    with closing(sqlite3.connect(stage.store.path)) as conn:
        return [found for (found, *_) in conn.execute(query, values)]


def used_up(stage: Stage, order: str) -> bool:
    """Whether this order can be wired no more."""
    return bool(column(stage, "SELECT 1 FROM uses WHERE key LIKE ?", f"%{order}%"))


async def done(stage: Stage, door: Door) -> Door:
    """A call from its beginning to its end."""
    await stage.pipeline.handle(door)
    return door


async def quiet(stage: Stage) -> None:
    """Everything that was told is done."""
    for _ in range(3):
        await asyncio.sleep(0.002)
        await stage.rows()


async def test_a_guarded_call_goes_through_once(tmp_path: Path) -> None:
    """The first one is sent and attests what it did; a second one is refused before anything is sent."""
    async with on_stage(tmp_path, serves) as stage:
        first = await done(stage, stage.wire("A1"))
        assert first.status == 200
        assert column(stage, "SELECT step FROM attestations ORDER BY seq") == ["fraud-check", "wired"]
        again = await done(stage, stage.wire("A1"))
        assert (again.status, again.headers["gateway-refusal"]) == (403, "attestation_required")
        assert json.loads(again.got)["gateway"]["reason"] == "consumed"
        assert len(stage.upstream.requests) == 1
        await stage.rows()
        assert column(stage, "SELECT code FROM ledger ORDER BY seq") == ["", "attestation_required"]


@pytest.mark.parametrize("disturbance", ["cancelled", "stopped"])
async def test_given_back_exactly_where_it_was_not_sent(tmp_path: Path, disturbance: str) -> None:
    """W12: wherever a guarded call ends, its order is used up if the tool heard of it, and free if it did not."""
    async with on_stage(tmp_path, serves) as stage:
        seen = set[bool]()
        for point in range(1, POINTS):
            asked, order = len(stage.upstream.requests), uuid.uuid4().hex
            door = stage.wire(order)
            if disturbance == "cancelled":
                came = await cancelled_at(stage.pipeline.handle(door), point)
            else:
                came = await disturbed_at(stage.pipeline.handle(door), point, lambda: stop(stage))
                start(stage)
            await quiet(stage)
            sent = len(stage.upstream.requests) > asked
            assert used_up(stage, order) is sent
            seen.add(sent)
            if not came:
                assert seen == {False, True}
                return
        pytest.fail("a hundred suspension points and no end")


async def test_an_approved_call_is_carried_out_once_wherever_it_was_disturbed(tmp_path: Path) -> None:
    """H5: cancelled anywhere, an approved call was sent and is not sent again, or can be sent; never both."""
    async with on_stage(tmp_path, serves) as stage:
        for point in range(1, POINTS):
            asked, order = len(stage.upstream.requests), uuid.uuid4().hex
            held = await done(stage, stage.wire(order, amount=500))
            assert held.headers["gateway-refusal"] == "approval_required"
            approval = json.loads(held.got)["gateway"]["approval"]["id"]
            await stage.supervising.approving.decide(approval, DESK, "approve", "known")
            came = await cancelled_at(stage.pipeline.handle(stage.wire(order, amount=500)), point)
            await quiet(stage)
            sent = len(stage.upstream.requests) - asked
            (status,) = column(stage, "SELECT status FROM approvals WHERE id = ?", approval)
            assert (status in {"consumed", "failed"}) is bool(sent), (status, sent, point)
            again = await done(stage, stage.wire(order, amount=500))
            assert again.status == {"consumed": 200, "failed": 424, "approved": 200}[str(status)]
            assert len(stage.upstream.requests) - asked == 1
            if not came:
                assert again.headers["gateway-replayed"].startswith("true; age=")
                return
        pytest.fail("a hundred suspension points and no end")


@pytest.mark.parametrize(("mode", "status"), [("enforce", 503), ("shadow", 200)])
async def test_only_a_rule_that_binds_needs_the_store(tmp_path: Path, mode: str, status: int) -> None:
    """P11, W14: without the store a guarded call is refused, and one that a shadow rule looks at goes on."""
    async with on_stage(tmp_path, serves, guard=GUARD.replace("version: 1", f"version: 1\nmode: {mode}")) as stage:

        async def down(*_: object) -> tuple[tuple[Attestation, ...], int]:
            raise Refusal("store_unavailable", "the store is down")

        stage.supervising.gather = down  # type: ignore[assignment, method-assign] # the desk as it answers without a store
        door = await done(stage, stage.door("/tools/bank/wire/A1", {"amount": 1}, **{"gateway-run": "r1"}))
        assert door.status == status
        assert len(stage.upstream.requests) == int(status == 200)


FIRST_STEP = """version: 1
policy: guard
rules:
  - id: fraud-check-first
    effect: require
    match: {tools: [bank.wire]}
    requires: [{attestation: {step: fraud-check, max_age: 5m, bind: {order: args.order}}}]
    approve: {when: run.step == 1, approvers: ["group:finance"]}
"""


class Ahead(SystemClock):
    """A clock that is ten minutes ahead."""

    @staticmethod
    def now() -> float:
        """See `Clock`."""
        return time.time() + 600


async def test_to_have_been_held_keeps_nothing_fresh(tmp_path: Path) -> None:
    """W10: ages count from when a call was held only where it needs its approval; else they count from now."""
    async with on_stage(tmp_path, serves, guard=FIRST_STEP) as stage:
        held = await done(stage, stage.wire("A1"))
        assert held.headers["gateway-refusal"] == "approval_required"
        assert (await done(stage, stage.pay(run="r1"))).status == 200  # the first step: nobody is asked any more
        stage.world.clock = Ahead()
        later = await done(stage, stage.wire("A1"))
        assert (later.status, later.headers["gateway-refusal"]) == (403, "attestation_required")
        assert json.loads(later.got)["gateway"]["reason"] == "expired"
        assert not [asked for asked in stage.upstream.requests if "wire" in asked.line]


async def test_an_approved_call_that_ends_without_an_outcome_is_in_doubt(tmp_path: Path) -> None:
    """H5: it was sent, and nothing was posted of it: the approval is not carried out for ever, nor once more."""
    async with on_stage(tmp_path, serves) as stage:
        held = await done(stage, stage.wire("A1", amount=500))
        approval = json.loads(held.got)["gateway"]["approval"]["id"]
        await stage.supervising.approving.decide(approval, DESK, "approve", "known")
        claimed = await stage.supervising.claim(approval, "req_1")
        assert claimed is not None
        permit = Permit(stage.supervising, "req_1", Decision("allow", "h"), (), Evidence())
        permit.approve(claimed)
        tending = asyncio.create_task(stage.supervising.approving.tend())
        try:
            async with permit:
                permit.sent = True
            async with asyncio.timeout(10):
                while column(stage, "SELECT status FROM approvals") != ["failed"]:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.01)
        finally:
            tending.cancel()
        again = await done(stage, stage.wire("A1", amount=500))
        assert (again.status, again.headers["gateway-refusal"]) == (424, "step_in_doubt")
        assert not stage.upstream.requests


async def test_rule_and_route_must_both_let_a_hosted_tool(tmp_path: Path) -> None:
    """A provider runs nothing itself unless an allow rule and the model's route both name it; else nothing is sent."""
    rule = "version: 1\npolicy: g\nrules:\n  - {id: r, effect: allow, match: {hosted_tools: [%s]}}\n"
    for allowed, model, said in (("web_search", "m", "the route of model m"), ("other", "searching", "no rule allows")):
        folder = tmp_path / model
        folder.mkdir()
        async with on_stage(folder, serves, guard=rule % allowed) as stage:
            asked = {"model": model, "messages": [], "web_search_options": {}}
            refused = await done(stage, stage.door("/v1/chat/completions", asked))
            assert (refused.status, refused.headers["gateway-refusal"]) == (403, "hosted_tool_refused")
            assert said in json.loads(refused.got)["error"]["message"]
            assert not stage.upstream.requests
    async with on_stage(tmp_path, serves, guard=rule % "web_search") as stage:
        asked = {"model": "searching", "messages": [], "web_search_options": {}}
        assert (await done(stage, stage.door("/v1/chat/completions", asked))).status == 200


async def test_twins_of_an_approved_call_make_one_execution(tmp_path: Path) -> None:
    """H5: while one is carried out its twin gets 409 with a time to come back, and then the same answer, free."""
    async with on_stage(tmp_path, serves) as stage:
        held = await done(stage, stage.wire("A1", amount=500))
        approval = json.loads(held.got)["gateway"]["approval"]["id"]
        await stage.supervising.approving.decide(approval, DESK, "approve", "known")
        twins = [stage.wire("A1", amount=500) for _ in range(5)]
        await asyncio.gather(*map(stage.pipeline.handle, twins))
        first, *others = sorted(twins, key=lambda door: door.status)
        assert first.status == 200
        assert {(door.status, door.headers["gateway-refusal"]) for door in others} == {(409, "step_in_progress")}
        assert all(1 <= int(door.headers["retry-after"]) <= 30 for door in others)
        again = await done(stage, stage.wire("A1", amount=500))
        assert (again.status, bytes(again.got)) == (200, bytes(first.got))
        assert again.headers["gateway-replayed"].startswith("true; age=")
        assert len(stage.upstream.requests) == 1
        replayed = [row for row in await stage.rows() if row["outcome"] == "replayed"]
        assert [(row["cost_nano_usd"], row["avoided_nano_usd"]) for row in replayed] == [(0, 10_000_000)]


async def test_a_held_connection_goes_on_once_it_is_approved(tmp_path: Path) -> None:
    """`Prefer: wait` holds the call until a person has decided, and it is carried out there and then."""
    async with on_stage(tmp_path, serves) as stage:
        door = stage.wire("A1", amount=500, prefer="wait=20")
        waiting = asyncio.create_task(stage.pipeline.handle(door))
        while not (found := column(stage, "SELECT id FROM approvals")):  # noqa: ASYNC110 - the store sets no event
            await asyncio.sleep(0.005)
        assert not stage.upstream.requests
        await stage.supervising.approving.decide(str(found[0]), DESK, "approve", "known")
        await waiting
        assert door.status == 200
        assert len(stage.upstream.requests) == 1


async def test_whoever_does_not_wait_is_told_where_to_ask(tmp_path: Path) -> None:
    """H12: plain clients get 403; 202 with `Location` is for those alone that asked for it."""
    async with on_stage(tmp_path, serves) as stage:
        plain = await done(stage, stage.wire("A1", amount=500))
        assert (plain.status, plain.headers["x-should-retry"]) == (403, "false")
        asked = await done(stage, stage.wire("A1", amount=500, prefer="respond-async"))
        assert asked.status == 202
        assert asked.headers["preference-applied"] == "respond-async"
        (name,) = column(stage, "SELECT id FROM approvals")
        assert asked.headers["location"].endswith(f"/gateway/v1/approvals/{name}")
        shown = await done(stage, stage.door(f"/gateway/v1/approvals/{name}", method="GET"))
        assert json.loads(shown.got)["status"] == "pending"
        assert not stage.upstream.requests


def stop(stage: Stage) -> None:
    """The agent is stopped."""
    flights = stage.pipeline.flights
    key = StopKey("agent", "procurement")
    flights.change(2, float("inf"), [Stop(key, 0.0, "desk", "test")], [])


def start(stage: Stage) -> None:
    """And started again."""
    stage.pipeline.flights.change(3, float("inf"), [], [StopKey("agent", "procurement")])
