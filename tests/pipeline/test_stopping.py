"""Stopped in flight: nothing new is sent, what is settled stays, an effect ends in order, the agent hears of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.core.principal import Agent, Principal, StopKey
from gateway.core.run import RunKey
from gateway.core.stop import Stop, run_key
from gateway.flights import Flight, Flights
from gateway.identity.stops import StopList
from gateway.outbound import Aborted
from tests.pipeline.stage import ADMITTED, PAID, Door, Stage, disturbed_at, on_stage, serves
from tests.simulator.clock import SetClock
from tests.simulator.provider import completion, failure, streamed
from tests.simulator.upstream import Do

AGENT = StopKey("agent", "procurement")
PRINCIPAL = Principal(
    Agent("procurement"), "dev", "https://issuer.example", "a", "bearer", "k", "t-1", math.inf, stops=frozenset([AGENT])
)


def stop(stage: Stage, key: StopKey = AGENT) -> None:
    """What a worker does when its supervisor says so."""
    flights = stage.pipeline.flights
    flights.change(flights.stops.version + 1, math.inf, [Stop(key, 1_800_000_000.0, "ada", "a secret reason")], [])


def start(stage: Stage, key: StopKey = AGENT) -> None:
    flights = stage.pipeline.flights
    flights.change(flights.stops.version + 1, math.inf, [], [key])


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - what is waited for happens in other processes' stead
            await asyncio.sleep(0.001)


def refused(door: Door) -> bool:
    """Whether the agent was told that it is stopped, whole or at the end of what it has."""
    return b"agent_stopped" in door.got and (door.status == 403 or b"[DONE]" not in door.got)


@pytest.mark.parametrize("name", ADMITTED)
async def test_stopped_at_every_suspension_point(tmp_path: Path, name: str) -> None:
    """Wherever a stop finds a call: the agent gets no whole answer any more, and what was sent has its one true row."""
    async with on_stage(tmp_path, serves) as stage:
        for point in range(1, 100):
            before, asked = len(await stage.rows()), len(stage.upstream.requests)
            door = ADMITTED[name](stage)
            let_go: list[bool] = []
            door.last = lambda _, let_go=let_go: let_go.append(stage.pipeline.flights.stops.find([AGENT]) is None)
            came = await disturbed_at(stage.pipeline.handle(door), point, lambda: stop(stage))
            await asyncio.sleep(0.002)
            rows = (await stage.rows())[before:]
            served = len(stage.upstream.requests) - asked
            assert stage.idle()
            assert stage.reserved == 0
            assert refused(door) or let_go[0]
            assert len(rows) == (name != "model list" or refused(door))
            for row in rows:
                if "tool" in name:
                    assert row["outcome"] == ("complete" if served else "refused")
                    assert row["cost_nano_usd"] == (10_000_000 if served else 0)
                else:
                    assert row["outcome"] in {"complete", "cancelled", "refused"}
                if row["outcome"] != "complete":
                    assert row["code"] == "agent_stopped"
            if not came:
                assert point > 1
                assert not refused(door)
                return
            start(stage)
        pytest.fail("a hundred suspension points and no end")


async def test_a_stopped_agent_does_not_get_in(tmp_path: Path) -> None:
    """It is told what is stopped and since when; why it was stopped is not for it. Started again it is served."""
    async with on_stage(tmp_path, serves) as stage:
        stop(stage)
        door = stage.chat()
        await stage.pipeline.handle(door)
        assert (door.status, door.headers["gateway-refusal"]) == (403, "agent_stopped")
        assert b"agent procurement was stopped at 2027-01-15T08:00:00.000000Z; an operator can start" in door.got
        assert b"secret reason" not in door.got
        assert stage.upstream.requests == []
        start(stage)
        door = stage.chat()
        await stage.pipeline.handle(door)
        assert door.status == 200


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (StopKey("issuer", "dev"), b"issuer dev, which vouches for agent procurement, was stopped"),
        (StopKey("token", "t-1"), b"this token of agent procurement, or one that it was derived from, was stopped"),
        (run_key("r1"), b"run r1 was stopped"),
        (run_key("r1", "procurement"), b"run r1 was stopped"),
    ],
    ids=["issuer", "token", "run", "run of the agent"],
)
async def test_whatever_it_rests_on_can_be_stopped(tmp_path: Path, key: StopKey, words: bytes) -> None:
    """The issuer, the token, the run: each refuses what rests on it, with a word for it, and nothing else."""
    others = [StopKey("issuer", "other"), StopKey("token", "t-2"), run_key("r2"), run_key("r1", "other")]
    async with on_stage(tmp_path, serves) as stage:
        for other in others:
            stop(stage, other)
        door = stage.chat(run="r1")
        await stage.pipeline.handle(door)
        assert door.status == 200
        stop(stage, key)
        door = stage.chat(run="r1")
        await stage.pipeline.handle(door)
        assert door.status == 403
        assert words in door.got
        assert stage.reserved == 0
        assert len(stage.upstream.requests) == 1


async def test_a_run_that_is_stopped_stops_its_child_runs(tmp_path: Path) -> None:
    """A call of a grandchild that is under way is broken off, and the next one does not begin; other runs go on."""
    async with on_stage(tmp_path, [Do.HANG]) as stage:

        def chat(run: str, parent: str | None) -> Door:
            door = stage.chat()
            claims: dict[str, Any] = {"run": run, **({"parent_run": parent} if parent else {})}
            door.head.headers["authorization"] = f"Bearer {stage.gateway.token(**claims)}"  # type: ignore[index]
            return door

        calls = []
        for number, (run, parent) in enumerate([("a", None), ("b", "a"), ("c", "b"), ("x", None)], 1):
            door = chat(run, parent)
            calls.append((door, asyncio.create_task(stage.pipeline.handle(door))))
            await until(lambda number=number: len(stage.upstream.requests) == number)  # type: ignore[misc]
        stop(stage, run_key("b", "procurement"))
        await asyncio.wait([calls[1][1], calls[2][1]])
        assert [door.status for door, _ in calls] == [0, 403, 403, 0]
        late = chat("c", "b")
        await stage.pipeline.handle(late)
        assert refused(late)
        assert len(stage.upstream.requests) == 4
        stop(stage)
        await asyncio.wait([task for _, task in calls])


async def test_a_model_is_not_waited_for(tmp_path: Path) -> None:
    """Its provider is left at once, nobody else is asked instead, and the row says `cancelled`, estimated."""
    async with on_stage(tmp_path, [Do.HANG]) as stage:
        door = stage.chat(model="pair")
        call = asyncio.create_task(stage.pipeline.handle(door))
        await until(lambda: stage.upstream.requests)
        stop(stage)
        await call
        assert (door.status, door.headers["gateway-refusal"]) == (403, "agent_stopped")
        await until(lambda: stage.upstream.left)
        (row,) = await stage.rows()
        assert (row["outcome"], row["code"], row["estimated"]) == ("cancelled", "agent_stopped", 1)
        assert len(stage.upstream.requests) == 1


async def test_a_stream_ends_with_the_error_event(tmp_path: Path) -> None:
    """What had come is passed on and billed; the end is the dialect's error event, no made-up finish."""
    async with on_stage(tmp_path, [*streamed("one", "two", done=False), Do.HANG]) as stage:
        door = stage.chat(stream=True, run="r1")
        call = asyncio.create_task(stage.pipeline.handle(door))
        await until(lambda: b"two" in door.got)
        stop(stage)
        await call
        last = bytes(door.got).rstrip().rpartition(b"data: ")[2]
        assert b'"code":"agent_stopped"' in last
        assert b"[DONE]" not in door.got
        (row,) = await stage.rows()
        assert (row["outcome"], row["code"], row["estimated"]) == ("cancelled", "agent_stopped", 1)
        assert row["output_tokens"] > 0


async def test_no_other_target_after_a_stop(tmp_path: Path) -> None:
    """A first target that fails while the agent is stopped is the last one; the step is counted in its run."""
    async with on_stage(tmp_path, [0.02, *failure(503, "overloaded")], completion("ok")) as stage:
        door = stage.chat(model="pair", run="r1")
        call = asyncio.create_task(stage.pipeline.handle(door))
        await until(lambda: stage.upstream.requests)
        stop(stage)
        await call
        assert refused(door)
        assert len(stage.upstream.requests) == 1
        assert stage.reserved == 0
        (row,) = await stage.rows()
        facts = await stage.register.facts(RunKey(stage.gateway.issuer.iss, stage.gateway.issuer.subject, "r1"))
        assert facts is not None
        assert (facts.steps, facts.tokens) == (1, row["input_tokens"])
        assert facts.tokens > 0


async def test_an_effect_under_way_ends_and_is_recorded(tmp_path: Path) -> None:
    """The tool has the request: its answer is waited for and billed once, and the agent gets 403 instead of it."""
    async with on_stage(tmp_path, [0.1, PAID]) as stage:
        door = stage.pay(run="r1")
        call = asyncio.create_task(stage.pipeline.handle(door))
        await until(lambda: stage.upstream.requests)
        stop(stage)
        await call
        assert (door.status, door.headers["gateway-refusal"]) == (403, "agent_stopped")
        assert b"paid" not in door.got
        (row,) = await stage.rows()
        assert (row["outcome"], row["cost_nano_usd"], row["status"]) == ("complete", 10_000_000, 200)
        assert stage.upstream.left == []


async def test_an_effect_in_doubt_stays_one_on_the_ledger(tmp_path: Path) -> None:
    """A tool that breaks off after the stop: what happened to it is written down, not what the agent is told."""
    async with on_stage(tmp_path, [0.05, Do.RESET]) as stage:
        door = stage.pay()
        call = asyncio.create_task(stage.pipeline.handle(door))
        await until(lambda: stage.upstream.requests)
        stop(stage)
        await call
        (row,) = await stage.rows()
        assert (row["outcome"], row["code"]) == ("failed", "upstream_failed")


async def test_what_a_tool_does_not_have_yet_it_never_gets(tmp_path: Path) -> None:
    """A stop that comes while a connection is made keeps the request of a tool too from being sent."""
    async with on_stage(tmp_path, [PAID]) as stage:
        upstream = stage.world.tools.find("bank", "POST", "/pay/A1").operation.upstream
        out = stage.world.outbound.send(upstream, "POST", "/pay", [], b"{}")
        async with Flight(stage.pipeline.flights, PRINCIPAL, stage.pay()) as flight:
            flight.sends(out, finishes=True)
            stop(stage)
            with pytest.raises(Aborted) as caught:
                async with out:
                    pass
        assert not caught.value.sent
        assert stage.upstream.raw == []


@pytest.mark.parametrize("name", ["chat", "tool"])
async def test_what_waits_for_its_body_is_refused_at_the_next_step(tmp_path: Path, name: str) -> None:
    """A stop that comes while the agent still sends keeps the call from every upstream."""
    async with on_stage(tmp_path, serves) as stage:
        door = ADMITTED[name](stage)
        sent = asyncio.Event()

        class Slow(Door):
            async def body(self, most: int | None = None) -> bytes:  # noqa: ARG002 - it keeps to its bounds
                await sent.wait()
                return self.sent

        slow = Slow(door.head, door.sent)
        call = asyncio.create_task(stage.pipeline.handle(slow))
        await until(lambda: stage.pipeline.flights.under_way)
        stop(stage)
        sent.set()
        await call
        assert refused(slow)
        assert stage.upstream.requests == []


async def test_a_list_that_is_too_old_is_waited_for_a_moment(tmp_path: Path) -> None:
    """News that come soon let the call in, unless they stop it; an assurance from long ago is none."""
    async with on_stage(tmp_path, serves) as stage:
        clock = SetClock()

        def too_old() -> Flights:
            flights = stage.pipeline.flights = Flights(StopList(clock))
            flights.adopt(1, clock.monotonic() - 5, [])
            return flights

        flights, door = too_old(), stage.chat()
        call = asyncio.create_task(stage.pipeline.handle(door))
        await asyncio.sleep(0.01)
        flights.heard(1, clock.monotonic() - 2)
        await asyncio.sleep(0.01)
        assert not call.done()
        flights.heard(1, clock.monotonic())
        await call
        assert door.status == 200
        flights, door = too_old(), stage.chat()
        call = asyncio.create_task(stage.pipeline.handle(door))
        await asyncio.sleep(0.01)
        flights.change(2, clock.monotonic(), [Stop(AGENT, 1.0, "ada", "")], [])
        await call
        assert refused(door)
        flights, door = too_old(), stage.chat()
        await stage.pipeline.handle(door)
        assert (door.status, door.headers["gateway-refusal"]) == (503, "store_unavailable")
        door = stage.door("/.well-known/jwks.json", method="GET")
        await stage.pipeline.handle(door)
        assert door.status == 200
