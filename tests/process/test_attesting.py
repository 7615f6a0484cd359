"""The book of attestations: durable before it is answered, read by all workers alike, and used up once."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.core.attestation import GATEWAY, Attestation, Use
from gateway.core.errors import Refusal
from gateway.core.run import RunKey
from gateway.ledger import Batch, Poster, Posting
from gateway.process.attesting import Attesting
from gateway.process.messages import (
    Consume,
    Gather,
    Gathered,
    Present,
    Recorded,
    Release,
)
from gateway.state import Store
from gateway.state.attestations import record
from gateway.telemetry.logs import Log
from gateway.telemetry.metrics import Registry
from tests.simulator.clock import SetClock
from tests.simulator.rows import row

RUN = RunKey("https://issuer.example", "agent/buyer", "r1")
NAMES = ("agent/buyer", "buyer")
ORDER = Use("payments/fraud-check", "fraud-check A1")
ONCE = Use("once", "fraud-service/a1")
CONSUMED = "attestation_required: consumed"


def attestation(name: str = "a1", **changes: Any) -> Attestation:  # noqa: ANN401 - members of any type
    """One that the buyer presented, unless told otherwise."""
    written: dict[str, Any] = {
        "by": "fraud-service",
        "id": name,
        "step": "fraud-check",
        "outcome": "passed",
        "subject": {"order_id": "A1"},
        "agent": "agent/buyer",
        "run": RUN.id,
        "at": 1_800_000_000_000_000,
        "owner": RUN[:2],
        "request_id": "req_1",
    }
    return Attestation(**{**written, **changes})


@dataclass
class Desk:
    """The supervisor's part, and what it has counted and said."""

    folder: Path
    store: Store
    clock: SetClock = field(default_factory=SetClock)
    registry: Registry = field(default_factory=lambda: Registry(1000))
    attesting: Attesting = field(init=False)

    def __post_init__(self) -> None:
        log = Log("supervisor", fd=os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        self.attesting = Attesting(self.store, self.registry, lambda: log, self.clock)

    async def gathers(self, *presented: Attestation, across: tuple[str, ...] = (), run: RunKey = RUN) -> Gathered:
        """What a worker is told of a run."""
        steps = tuple((step, 0) for step in across)
        answer = await self.attesting.handle(Gather(run, NAMES, steps, presented))
        assert isinstance(answer, Gathered)
        return answer

    async def presents(self, *attestations: Attestation) -> tuple[bool, ...]:
        """For each whether it was new."""
        answer = await self.attesting.handle(Present(attestations))
        assert isinstance(answer, Recorded)
        return answer.new

    async def consumes(self, holder: str, *uses: Use, seen: int | None = None, steps: tuple[str, ...] = ()) -> str:
        """Why it was refused; nothing where it was not."""
        last = (await self.gathers()).seen if seen is None else seen
        try:
            await self.attesting.handle(Consume(holder, uses, RUN, NAMES, steps or ("fraud-check",), last))
        except Refusal as refusal:
            return f"{refusal.code}: {refusal.fields['reason']}"
        return ""

    async def uses(self) -> dict[str, str]:
        """Who holds what."""
        return dict(
            await self.store.read(lambda conn: conn.execute("SELECT key, holder FROM uses ORDER BY key").fetchall())
        )

    def counted(self) -> dict[str, float]:
        """The samples of the metric."""
        lines = self.registry.render().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if line.startswith("passgate_attestations_total{"))
        return {name.removeprefix("passgate_attestations_total"): float(value) for name, _, value in samples}

    def said(self, event: str) -> list[dict[str, Any]]:
        """The lines of the log with this event."""
        lines = [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]
        return [line for line in lines if line["event"] == event]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    store = await Store.open(tmp_path / "passgate.db")
    try:
        yield Desk(tmp_path, store)
    finally:
        await store.close()


async def test_what_is_presented_is_gathered(desk: Desk) -> None:
    """W13, W15: what was presented once is there from then on, whether the next call carries it or not."""
    first = await desk.gathers(attestation())
    assert first.attestations == (attestation(),)
    assert first.seen > 0
    assert (await desk.gathers()) == first
    again = await desk.gathers(attestation(request_id="req_2"), attestation("a2"))
    assert [one.id for one in again.attestations] == ["a1", "a2"]
    assert again.seen > first.seen
    assert desk.counted() == {'{outcome="passed",source="presented",step="fraud-check"}': 2.0}


async def test_presented_by_two_calls_at_once(desk: Desk) -> None:
    """W15: what another call records while this one looks is found by both: neither is told that it is not there."""
    one = attestation()

    def meanwhile(query: str) -> None:
        if "WHERE attester" in query:  # is it recorded?
            desk.store.submit(lambda conn: record(conn, (one,), 1)).result(20)

    await desk.store.read(lambda conn: conn.set_trace_callback(meanwhile))
    assert (await desk.gathers(one)).attestations == (one,)


async def test_it_is_on_disk_before_it_is_answered(desk: Desk) -> None:
    """W13: after a crash the next gateway knows what any worker was told."""
    await desk.presents(attestation(outcome="failed"))
    await desk.gathers(attestation("a2"))
    copy = desk.folder / "copy"
    copy.mkdir()
    for file in desk.folder.glob("passgate.db*"):  # as the disk has it now, without an orderly end
        if not file.name.endswith((".lock", "-shm")):
            (copy / file.name).write_bytes(file.read_bytes())
    store = await Store.open(copy / "passgate.db")
    try:
        found = await Desk(copy, store).gathers()
        assert [(one.id, one.outcome) for one in found.attestations] == [("a1", "failed"), ("a2", "passed")]
    finally:
        await store.close()


async def test_it_is_written_down(desk: Desk) -> None:
    """Whatever is recorded is in the log, once, with who said what of which step; the subject is not."""
    await desk.presents(attestation(), attestation("p", owner=None, source="posted", outcome="failed"))
    await desk.presents(attestation())
    lines = desk.said("attestation_recorded")
    assert [(line["id"], line["attester"], line["outcome"], line["source"]) for line in lines] == [
        ("a1", "fraud-service", "passed", "presented"),
        ("p", "fraud-service", "failed", "posted"),
    ]
    assert "A1" not in json.dumps(lines)


async def test_all_or_none_is_recorded(desk: Desk) -> None:
    """Where one of them cannot be recorded, none of the others is."""
    await desk.presents(attestation())
    with pytest.raises(Refusal, match="an id of its own"):
        await desk.presents(attestation("a2"), attestation(outcome="failed"))
    with pytest.raises(Refusal, match="an id of its own"):
        await desk.gathers(attestation("a2"), attestation(outcome="failed"))
    assert [one.id for one in (await desk.gathers()).attestations] == ["a1"]


async def test_fifty_at_once(desk: Desk) -> None:
    """W11: of fifty calls that rest on the same, whichever way it is counted, exactly one goes on."""
    for use in (ONCE, ORDER):
        reasons = await asyncio.gather(*(desk.consumes(f"req_{number}", use) for number in range(50)))
        assert sorted(reasons) == ["", *[CONSUMED] * 49]
    holders = set((await desk.uses()).values())
    assert len(holders) <= 2


async def test_fifty_at_once_with_other_things(desk: Desk) -> None:
    """W11: calls that share a part of what they use up get all of it or none, and two that share nothing both go on."""
    shared = [(ORDER,), (ONCE,), (ORDER, ONCE)]
    reasons = await asyncio.gather(
        *(desk.consumes(f"req_{number}", Use("once", f"own/{number}"), *shared[number % 3]) for number in range(50))
    )
    winners = [number for number, reason in enumerate(reasons) if not reason]
    held = await desk.uses()
    assert 1 <= len(winners) <= 2
    assert set(held.values()) == {f"req_{number}" for number in winners}
    assert sorted(key for key in held if key.startswith("own/")) == sorted(f"own/{number}" for number in winners)


async def test_the_same_holder_again(desk: Desk) -> None:
    """An answer that was lost on its way is asked for again, and finds what it took."""
    assert await desk.consumes("req_1", ONCE, ORDER) == ""
    assert await desk.consumes("req_1", ONCE, ORDER) == ""
    assert await desk.consumes("req_2", ORDER) == CONSUMED


async def test_given_back(desk: Desk) -> None:
    """W12: what was certainly not sent is given back, and the next call takes it."""
    assert await desk.consumes("req_1", ONCE, ORDER) == ""
    await desk.attesting.handle(Release("req_2"))
    assert await desk.consumes("req_3", ORDER) == CONSUMED
    await desk.attesting.handle(Release("req_1"))
    assert await desk.uses() == {}
    assert await desk.consumes("req_3", ORDER) == ""


async def test_given_back_right_after(desk: Desk) -> None:
    """W12: a release that follows at once finds what was taken, also where nobody waited for that."""
    taking = asyncio.create_task(desk.consumes("req_1", ONCE, seen=0))
    await asyncio.sleep(0)
    await asyncio.gather(taking, desk.attesting.handle(Release("req_1")))
    assert await desk.uses() == {}


async def test_a_failure_that_comes_between(desk: Desk) -> None:
    """W13: what did not pass after the worker looked stops the call, and nothing is used up."""
    seen = (await desk.gathers(attestation())).seen
    await desk.presents(attestation("f", outcome="failed", owner=None, source="posted"))
    assert await desk.consumes("req_1", ONCE, seen=seen) == "attestation_required: superseded"
    assert await desk.uses() == {}
    assert await desk.consumes("req_1", ONCE, seen=seen, steps=("audit",)) == ""


async def test_calls_of_one_run_do_not_disturb_each_other(desk: Desk) -> None:
    """Two orders of one run are checked and paid for at the same time: what passed for one is nothing to the other."""
    seen = (await desk.gathers(attestation())).seen
    await desk.gathers(attestation("a2", subject={"order_id": "A2"}))
    assert await desk.consumes("req_1", ONCE, seen=seen) == ""


async def test_what_failed_elsewhere(desk: Desk) -> None:
    """W13: only for the steps that a rule asks about in all runs is what failed in another one told."""
    await desk.presents(attestation("f", run="r9", outcome="failed"))
    assert [one.id for one in (await desk.gathers(attestation())).attestations] == ["a1"]
    assert {one.id for one in (await desk.gathers(across=("fraud-check",))).attestations} == {"a1", "f"}


async def test_without_a_store(desk: Desk) -> None:
    """W14: nothing is attested and nothing used up while the store takes no writes, and the refusal says why."""
    await desk.presents(attestation())
    await desk.store.close()
    seen, uses = 1, (ONCE,)
    for asked in (
        Gather(RUN, NAMES, (), ()),
        Gather(RUN, NAMES, (), (attestation("a2"),)),
        Present((attestation("a2"),)),
        Consume("req_1", uses, RUN, NAMES, ("fraud-check",), seen),
    ):
        with pytest.raises(Refusal) as caught:
            await desk.attesting.handle(asked)
        assert (caught.value.code, caught.value.status) == ("store_unavailable", 503)
        assert caught.value.fields == {"reason": "attestation_store_unavailable"}
    await desk.attesting.handle(Release("req_1"))
    assert [line["holder"] for line in desk.said("uses_not_given_back")] == ["req_1"]


async def test_what_was_observed_comes_with_its_row(desk: Desk) -> None:
    """An observed attestation is there once its ledger row is, however often it is posted, and is counted once."""
    seen = attestation("o1", by=GATEWAY, source="observed", outcome="failed")
    poster = Poster(desk.store)
    batch = Batch((Posting((row("req_1", attempt=1),), attestations=(seen,)),))
    for expected in ((seen,), ()):
        posted = await poster.post(batch)
        assert posted.attestations == expected
        desk.attesting.observed(posted.attestations)
    assert (await desk.gathers()).attestations == (seen,)
    assert desk.counted() == {'{outcome="failed",source="observed",step="fraud-check"}': 1.0}


async def test_what_a_slow_call_showed(desk: Desk) -> None:
    """W13: what was observed counts from when the upstream answered, however long before its call had come."""
    passed = attestation()
    await desk.presents(passed)
    began = passed.at - 1800 * 1_000_000
    failed = attestation("o1", by=GATEWAY, source="observed", outcome="failed", run="r9", at=passed.at + 1)
    await Poster(desk.store).post(Batch((Posting((row("req_1", time=began),), attestations=(failed,)),)))
    assert {one.id for one in (await desk.gathers(across=("fraud-check",))).attestations} == {"a1", "o1"}


async def test_a_row_that_is_rejected_attests_nothing(desk: Desk) -> None:
    """What cannot be put on the ledger did not happen as far as anybody knows; the rest of the batch did."""
    bad = Posting((row("bad", input_tokens=1 << 63),), attestations=(attestation("o1", by=GATEWAY),))
    good = Posting((row("good"),), attestations=(attestation("o2", by=GATEWAY),))
    posted = await Poster(desk.store).post(Batch((bad, good)))
    assert [one.id for one in posted.attestations] == ["o2"]
    assert [one.id for one in (await desk.gathers()).attestations] == ["o2"]
