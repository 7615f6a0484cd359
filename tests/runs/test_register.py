"""The register of runs: what counts, when, and for whom."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.core.errors import Refusal
from gateway.core.run import RunDelta, RunFacts, RunKey, RunLimits, RunRef
from gateway.runs import Entered, Register


class MemoryStore:
    """A run store that keeps what it was told, as the durable one does."""

    def __init__(self) -> None:
        self.runs: dict[RunKey, RunFacts] = {}
        self.agents: set[str] = set()
        self.opened = 0

    async def load_run(self, key: RunKey) -> tuple[RunFacts, int] | None:
        """A run's counters and last step."""
        await asyncio.sleep(0)
        return (self.runs[key], self.runs[key].steps) if key in self.runs else None

    async def open_run(self, facts: RunFacts) -> None:
        """Insert a run and count it as a child."""
        await asyncio.sleep(0)
        self.opened += 1
        self.runs[facts.key] = facts
        if facts.parent is not None:
            parent = RunKey(facts.key.iss, facts.key.subject, facts.parent)
            self.runs[parent] = replace(self.runs[parent], children=self.runs[parent].children + 1)

    async def add_child(self, key: RunKey, child: str, most: int | None) -> bool | None:
        """Count an agent once; see `state.runs.add_child`, which tests/process/test_granting.py is about."""
        await asyncio.sleep(0)
        facts = self.runs[key]
        if child in self.agents:
            return False
        if most is not None and facts.children >= most:
            return None
        self.agents.add(child)
        self.runs[key] = replace(facts, children=facts.children + 1)
        return True


class StillClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        """Where it stands."""
        return self.time

    def monotonic(self) -> float:
        """Where it stands."""
        return self.time


KEY = RunKey("https://issuer.example", "agent/a", "r1")


def at(key: RunKey, parent: str | None = None, **limits: int) -> RunRef:
    return RunRef(key, None, "url", parent, tuple(limits.items()))


def register(**limits: int) -> tuple[Register, MemoryStore, StillClock]:
    store, clock = MemoryStore(), StillClock()
    allowed = RunLimits(**limits)
    return Register(store, lambda: allowed, clock), store, clock


def settle(
    runs: Register, entered: Entered, *, key: RunKey = KEY, tools: int = 0, tokens: int = 10, cost: int = 7
) -> None:
    runs.settled(RunDelta(key, entered.ticket, entered.step, tools, tokens, cost))


async def test_steps_are_numbered_and_counted_when_settled() -> None:
    """A run counts what was settled: steps, tokens, money."""
    runs, _, _ = register()
    for number in (1, 2, 3):
        entered = await runs.enter("w", at(KEY), "llm")
        assert entered.step == number
        settle(runs, entered)
    facts = await runs.facts(KEY)
    assert facts is not None
    assert (facts.steps, facts.tokens, facts.cost_nano_usd) == (3, 30, 21)


async def test_a_refused_call_counts_for_nothing() -> None:
    """Reservation and number go back when a call leaves without being settled."""
    runs, _, _ = register(steps=1)
    for _ in range(5):
        entered = await runs.enter("w", at(KEY), "llm")
        assert entered.step == 1
        runs.leave(entered.ticket)
    facts = await runs.facts(KEY)
    assert facts is not None
    assert facts.steps == 0


async def test_concurrent_calls_cannot_slip_past_a_limit() -> None:
    """What is under way counts: of ten at once three enter a run of three steps."""
    runs, _, _ = register(steps=3)
    outcomes = await asyncio.gather(*(runs.enter("w", at(KEY), "llm") for _ in range(10)), return_exceptions=True)
    refusals = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    assert len(refusals) == 7
    assert {refusal.code for refusal in refusals} == {"run_limit"}
    assert {refusal.fields["limit"] for refusal in refusals} == {"steps"}


async def test_concurrent_first_calls_open_one_run() -> None:
    """The first use opens a run once, however many calls arrive at the same time."""
    runs, store, _ = register()
    entered = await asyncio.gather(*(runs.enter("w", at(KEY), "llm") for _ in range(10)))
    assert store.opened == 1
    assert sorted(one.step for one in entered) == list(range(1, 11))


@pytest.mark.parametrize(
    ("limits", "kind", "limit"), [({"tool_calls": 1}, "tool", "tool_calls"), ({"tokens": 10}, "llm", "tokens")]
)
async def test_tool_calls_and_tokens_are_limited(limits: dict[str, int], kind: str, limit: str) -> None:
    """A run that used up its tool calls or tokens is refused, and told which limit it was."""
    runs, _, _ = register(**limits)
    settle(runs, await runs.enter("w", at(KEY), kind), tools=1)
    with pytest.raises(Refusal) as refused:
        await runs.enter("w", at(KEY), kind)
    assert refused.value.fields["limit"] == limit


async def test_a_run_ends_with_its_duration() -> None:
    """Duration counts from the opening."""
    runs, _, clock = register(duration=60)
    settle(runs, await runs.enter("w", at(KEY), "llm"))
    clock.time += 60
    with pytest.raises(Refusal) as refused:
        await runs.enter("w", at(KEY), "llm")
    assert refused.value.fields["limit"] == "duration"


async def test_the_same_id_of_two_owners_is_two_runs() -> None:
    """S08, J09: nothing of one agent's run is seen or used up by another's."""
    runs, _, _ = register(steps=1)
    other = RunKey(KEY.iss, "agent/b", KEY.id)
    settle(runs, await runs.enter("w", at(KEY), "llm"))
    entered = await runs.enter("w", at(other), "llm")
    assert entered.facts.steps == 0


async def test_children_and_depth_are_limited() -> None:
    """A parent's limits bind what is opened below it."""
    runs, _, _ = register(children=1, depth=1)
    settle(runs, await runs.enter("w", at(KEY), "llm"))
    child, second, grandchild = (RunKey(KEY.iss, KEY.subject, name) for name in ("c1", "c2", "g1"))
    entered = await runs.enter("w", at(child, "r1"), "llm")
    assert entered.facts.depth == 1
    with pytest.raises(Refusal) as refused:
        await runs.enter("w", at(second, "r1"), "llm")
    assert refused.value.fields["limit"] == "children"
    with pytest.raises(Refusal) as refused:
        await runs.enter("w", at(grandchild, "c1"), "llm")
    assert refused.value.fields["limit"] == "depth"


async def test_a_parent_that_was_never_opened_is_unknown() -> None:
    """A run cannot hang itself below a run that its owner does not have."""
    runs, _, _ = register()
    with pytest.raises(Refusal) as refused:
        await runs.enter("w", at(KEY, "nobody"), "llm")
    assert refused.value.code == "run_unknown"


async def test_a_dead_worker_gives_its_reservations_back() -> None:
    """What a worker had under way when it died does not count against the run for ever."""
    runs, _, _ = register(steps=2)
    await runs.enter("dead", at(KEY), "llm")
    alive = await runs.enter("alive", at(KEY), "llm")
    runs.worker_died("dead")
    settle(runs, alive)
    entered = await runs.enter("alive", at(KEY), "llm")
    assert entered.facts.steps == 1


async def test_a_token_narrows_the_limits_and_never_widens_them() -> None:
    """What the issuer wrote into `limits` binds where it is lower than the configuration, and only there."""
    runs, _, _ = register(steps=2)
    settle(runs, await runs.enter("w", at(KEY, steps=100), "llm"))
    with pytest.raises(Refusal) as refused:
        await runs.enter("w", at(KEY, steps=1), "llm")
    assert refused.value.fields == {"limit": "steps", "allowed": 1, "used": 1}
    settle(runs, await runs.enter("w", at(KEY, steps=100), "llm"))
    with pytest.raises(Refusal) as refused:
        await runs.enter("w", at(KEY, steps=100), "llm")
    assert refused.value.fields["allowed"] == 2


async def test_settlements_of_an_earlier_register_touch_no_reservation() -> None:
    """What a worker of a killed supervisor had settled counts in its run, and gives back no step of the next one."""
    before, store, _ = register(steps=2)
    old = await before.enter("orphan", at(KEY), "llm")
    clock = StillClock()
    clock.time += 1
    after = Register(store, lambda: RunLimits(steps=2), clock)
    await after.enter("worker", at(KEY), "llm")
    after.settled(RunDelta(KEY, old.ticket, old.step, 0, 1, 1))
    with pytest.raises(Refusal, match="run_limit"):
        await after.enter("worker", at(KEY), "llm")


async def test_a_call_knows_the_line_of_its_run() -> None:
    """The run's id and its parents', nearest first: in memory, and read from the store by another register."""
    runs, store, clock = register()
    keys = [RunKey(KEY.iss, KEY.subject, name) for name in ("a", "b", "c")]
    lines = [
        (await runs.enter("w", at(key, parent), "llm")).line for key, parent in zip(keys, (None, "a", "b"), strict=True)
    ]
    assert lines == [("a",), ("b", "a"), ("c", "b", "a")]
    later = Register(store, RunLimits, clock)
    assert (await later.enter("w", at(keys[2]), "llm")).line == ("c", "b", "a")
    assert (await later.enter("w", at(keys[0]), "llm")).line == ("a",)
    own_parent = RunKey(KEY.iss, KEY.subject, "loop")
    assert (await runs.enter("w", at(own_parent, "loop"), "llm")).line == ("loop",)


@pytest.mark.parametrize("limits", [{}, {"depth": 1000}], ids=["unlimited", "far"])
async def test_runs_nest_only_so_deep(limits: dict[str, int]) -> None:
    """Without a near limit of depth there still is one, since every parent is looked at when a run is stopped."""
    runs, _, _ = register(**limits)
    lines = []

    async def nest(depth: int) -> None:
        parent = f"r{depth - 1}" if depth else None
        entered = await runs.enter("w", at(RunKey(KEY.iss, KEY.subject, f"r{depth}"), parent), "llm")
        lines.append(entered.line)

    for depth in range(101):
        await nest(depth)
    with pytest.raises(Refusal) as caught:
        await nest(101)
    assert caught.value.fields == {"limit": "depth", "allowed": 100, "used": 100}
    assert len(lines[-1]) == 101
