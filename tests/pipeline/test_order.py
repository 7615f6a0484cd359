"""The order of the steps: decided before anything is sent, settled before the last byte, denied when a part breaks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Never

import pytest

from gateway.core.errors import Refusal
from gateway.core.run import RunRef
from gateway.policy import PolicySet
from gateway.runs import Entered
from tests.pipeline.stage import Door, Stage, on_stage
from tests.simulator.provider import completion, failure, streamed
from tests.simulator.upstream import CHUNKED, LAST_CHUNK, Do, Received, Script, answer, chunk

ENDS: dict[str, Script] = {
    "complete": completion("ok"),
    "failed": failure(500, "no"),
    "refused there": failure(400, "no"),
    "broken": [Do.CLOSE],
    "credential": failure(401, "no"),
}
STREAMS: dict[str, Script] = {
    "complete": streamed("a", "b"),
    "truncated": [*streamed("a", "b", done=False), LAST_CHUNK],
    "reset": [*streamed("a", "b", done=False), 0.02, Do.RESET],
    "failed": [CHUNKED, chunk(b'data: {"error": {"message": "no"}}\n\n'), LAST_CHUNK],
    "not a stream": completion("ok"),
}


def _last(stage: Stage, told: list[str]) -> Callable[[Door], None]:
    def check(door: Door) -> None:
        request_id = door.headers["gateway-request-id"]
        durable = "gateway-run" in door.headers
        assert stage.committed(request_id) if durable else stage.written_down(request_id), "the last byte was first"
        told.append(request_id)

    return check


@pytest.mark.parametrize("run", ["", "r1"])
@pytest.mark.parametrize(
    ("stream", "name"), [(False, name) for name in ENDS] + [(True, name) for name in STREAMS]
)  # fmt: skip
async def test_the_row_is_there_before_the_last_byte(tmp_path: Path, run: str, name: str, *, stream: bool) -> None:
    """When the last part leaves, its row is in the recovery file; in a run it is committed. However it ended."""
    async with on_stage(tmp_path, (STREAMS if stream else ENDS)[name]) as stage:
        told: list[str] = []
        door = stage.chat(stream=stream, run=run)
        door.last = _last(stage, told)
        await stage.pipeline.handle(door)
        assert told == [door.request_id]
        (row,) = await stage.rows()
        assert (row["request_id"], row["run"]) == (door.request_id, run)
        assert stage.reserved == 0


async def test_the_end_is_withheld_where_it_cannot_be_settled(tmp_path: Path) -> None:
    """X02: a store that takes nothing: an answer in a run is 503, an effect is 424 in doubt, a stream has no end."""

    def script(received: Received) -> Script:
        if "/bank/" in received.line:
            return [answer(b'{"paid": "canary"}')]
        return streamed("a", "canary") if b'"stream": true' in received.body else completion("canary")

    async with on_stage(tmp_path, script) as stage:
        await stage.pipeline.handle(stage.chat(run="r1"))  # opens the run while that works
        await stage.rows()
        await stage.store.close()
        whole, streamed_, effect = stage.chat(run="r1"), stage.chat(run="r1", stream=True), stage.pay(run="r1")
        for door in (whole, streamed_, effect):
            stage.book._submit_trouble = None  # as if the trouble began after the call was let in
            await stage.pipeline.handle(door)
        assert (whole.status, whole.headers["gateway-refusal"]) == (503, "store_unavailable")
        assert b"canary" not in whole.got
        assert (effect.status, effect.headers["gateway-refusal"]) == (424, "step_in_doubt")
        assert b"canary" not in effect.got
        assert b"[DONE]" not in streamed_.got
        assert b"store_unavailable" in streamed_.got
        later = stage.chat()
        await stage.pipeline.handle(later)
        assert (later.status, later.headers["gateway-refusal"]) == (503, "store_unavailable")
        assert len(stage.upstream.requests) == 4  # the last call was not let in


class _Broken:
    """A part that is not there: whatever is asked of it raises."""

    def __getattr__(self, name: str) -> Never:
        raise RuntimeError(f"{name} is broken, and says canary-detail")


class _BrokenRules(PolicySet):
    def find(self, *_: object) -> Never:
        raise RuntimeError("a rule is broken, and says canary-detail")


class _NoRegister:
    """The supervisor's side cannot be reached."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def enter(self, _run: RunRef, _kind: str) -> Entered:
        raise self._error

    def leave(self, ticket: int) -> None:
        raise AssertionError(f"nothing was entered: {ticket}")

    async def decided(self, _record: bytes) -> None:
        raise self._error

    async def show_run(self, _key: object) -> Mapping[str, object] | None:
        raise self._error

    async def show_call(self, _request_id: str, _owner: tuple[str, str]) -> Mapping[str, object] | None:
        raise self._error


BREAKS: dict[str, dict[str, Any]] = {
    "identity": {"identity": _Broken()},
    "router": {"router": _Broken()},
    "policy": {"policy": _BrokenRules([], "0" * 64)},
    "no policy at all": {"policy": PolicySet([], "0" * 64)},
    "runs settings": {"runs": _Broken()},
    "json limits": {"json_limits": _Broken()},
    "providers": {"providers": _Broken()},
    "outbound": {"outbound": _Broken()},
}


@pytest.mark.parametrize("part", BREAKS)
async def test_a_part_that_breaks_lets_nothing_pass(tmp_path: Path, part: str) -> None:
    """S09: whichever part fails, the call is refused, nothing is sent, nothing stays held, no detail is told."""
    async with on_stage(tmp_path, completion("ok")) as stage:
        stage.pipeline.adopt(dataclasses.replace(stage.world, **BREAKS[part]), stage.pipeline.log)
        for run in ("", "r1"):
            door = stage.chat(run=run)
            await stage.pipeline.handle(door)
            expected = (403, "policy_denied") if part == "no policy at all" else (500, "internal_error")
            assert (door.status, door.headers["gateway-refusal"]) == expected
            assert b"canary" not in door.got
            assert stage.pipeline.inflight == stage.pipeline.world.calls == 0
            assert stage.reserved == 0
        assert not stage.upstream.requests
        rows = await stage.rows()
        assert {row["outcome"] for row in rows} <= {"failed" if part == "outbound" else "refused"}
        assert len(rows) == (0 if part == "identity" else 2)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Refusal("store_unavailable", "retry shortly."), (503, "store_unavailable")),
        (OSError("the channel is gone"), (500, "internal_error")),
    ],
)
async def test_a_supervisor_that_is_gone(tmp_path: Path, error: Exception, expected: tuple[int, str]) -> None:
    """Without the shared state no call enters a run, and nobody is told that an own object does not exist."""
    async with on_stage(tmp_path, completion("ok")) as stage:
        broken: Any = _NoRegister(error)
        stage.pipeline._supervisor = broken
        own = [stage.door(f"/gateway/v1/{path}", method="GET") for path in ("runs/r1", "calls/req_1")]
        for door in (stage.chat(run="r1"), stage.pay(run="r1"), *own):
            await stage.pipeline.handle(door)
            assert (door.status, door.headers["gateway-refusal"]) == expected
        assert not stage.upstream.requests
        assert stage.idle()


async def test_a_book_that_cannot_write_lets_nobody_in(tmp_path: Path) -> None:
    """X02: while what a call costs cannot be written down no call is let in; what is free is answered."""
    async with on_stage(tmp_path, completion("ok")) as stage:
        stage.book.store_healthy = False
        for door in (stage.chat(), stage.chat(run="r1"), stage.chat(stream=True), stage.pay()):
            await stage.pipeline.handle(door)
            assert (door.status, door.headers["gateway-refusal"]) == (503, "store_unavailable")
        models = stage.door("/v1/models", method="GET")
        await stage.pipeline.handle(models)
        assert models.status == 200
        assert not stage.upstream.requests
        assert stage.reserved == 0
        stage.book.store_healthy = True
        door = stage.chat()
        await stage.pipeline.handle(door)
        assert door.status == 200


async def test_a_step_is_decided_before_it_is_sent(tmp_path: Path) -> None:
    """A denied call in a run gives its step back: the next one has its number, and the run counts nothing."""
    async with on_stage(tmp_path, completion("ok")) as stage:
        allowed = stage.world.policy
        stage.pipeline.adopt(dataclasses.replace(stage.world, policy=PolicySet([], "0" * 64)), stage.pipeline.log)
        denied = stage.chat(run="r1")
        await stage.pipeline.handle(denied)
        assert denied.headers["gateway-refusal"] == "policy_denied"
        stage.pipeline.adopt(dataclasses.replace(stage.world, policy=allowed), stage.pipeline.log)
        door = stage.chat(run="r1")
        await stage.pipeline.handle(door)
        assert door.headers["gateway-step"] == "1"
        refused, served = await stage.rows()
        assert (refused["outcome"], refused["code"], served["outcome"]) == ("refused", "policy_denied", "complete")
        assert len(stage.upstream.requests) == 1


class _BrokenPricing:
    def charge(self, *_: object) -> Never:
        raise RuntimeError("the price book is broken, and says canary-detail")


async def test_what_was_served_is_recorded_although_it_cannot_be_priced(tmp_path: Path) -> None:
    """When our own reckoning breaks, the answer is withheld, and the attempt is on the ledger without a price."""
    async with on_stage(tmp_path, completion("canary")) as stage:
        broken: Any = _BrokenPricing()
        stage.pipeline.adopt(dataclasses.replace(stage.world, pricing=broken), stage.pipeline.log)
        door = stage.chat()
        await stage.pipeline.handle(door)
        assert (door.status, door.headers["gateway-refusal"]) == (500, "internal_error")
        assert b"canary" not in door.got
        (row,) = await stage.rows()
        assert (row["outcome"], row["attempt"], row["price_version"]) == ("failed", 1, "")
