"""The approvals desk on a real store: one record, one execution, one answer for everybody, through restarts."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec.structs import replace

from gateway.config import load
from gateway.core.approval import ApprovalAsk, ApprovedOutcome, Standing, Stored
from gateway.core.attestation import Use
from gateway.core.errors import Refusal
from gateway.core.principal import Agent
from gateway.core.row import LedgerRow
from gateway.core.sources import DiskSources
from gateway.ledger import Batch, Poster
from gateway.ledger.posting import Posting
from gateway.process.approving import Approving
from gateway.process.channel import ChannelError
from gateway.process.in_force import InForce
from gateway.process.messages import (
    AnyMessage,
    AwaitApproval,
    Claim,
    Done,
    FindApproval,
    Flush,
    Hold,
    ShowApproval,
    Stands,
    Unclaim,
)
from gateway.process.reading import Read
from gateway.state import Store
from gateway.state import approvals as kept
from gateway.telemetry.logs import Log
from gateway.telemetry.metrics import Registry
from gateway.web.admin import ROLES, AdminCall, Operator
from tests.approvals.held import NOW, PRINCIPAL, ask
from tests.simulator.clock import SetClock

OWNER = PRINCIPAL.owner
ANSWER = Stored(200, [("content-type", "application/json")], b'{"id": 7}')
DESK = Operator("desk", ROLES["approver"], frozenset({"finance"}))
LAWYER = Operator("lawyer", ROLES["approver"], frozenset({"legal"}))
CONFIG: Final = {
    "state": {"durable": "sqlite:var/passgate.db"},
    "identity": {"audience": "gw", "issuers": [{"name": "dev", "iss": "i", "keys": {"file": "k.json"}}]},
    "operators": [
        {"id": one.id, "token_sha256": hashlib.sha256(one.id.encode()).hexdigest(), "roles": ["approver"],
         "groups": sorted(one.groups)}
        for one in (DESK, LAWYER)
    ],
    "log": {"level": "info"},
}  # fmt: skip


@dataclass
class Desk:
    """The supervisor's part, and the worker that asks."""

    folder: Path
    store: Store
    clock: SetClock = field(default_factory=lambda: SetClock(NOW))
    registry: Registry = field(default_factory=lambda: Registry(100))
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    approving: Approving = field(init=False)
    poster: Poster = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """As after a restart of the gateway: the same disk, and nothing in memory."""
        (self.folder / "config.yaml").write_text(json.dumps(CONFIG))
        now = InForce(Read(load(self.folder / "config.yaml", DiskSources()), b"", 0), DiskSources(), self.clock)
        now.log = Log("supervisor", fd=os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        self.approving = Approving(self.store, self.registry, now, self.clock)
        self.poster = Poster(self.store)

    async def asks(self, message: AnyMessage, worker: str = "worker-1") -> Standing | None:
        """A worker's question that is answered by how an approval stands."""
        answer = await self.approving.handle(message, worker, self.gone)
        assert isinstance(answer, Stands)
        return answer.standing

    async def hold(self, asked: ApprovalAsk | None = None) -> Standing:
        """A call is held."""
        standing = await self.asks(Hold(asked or ask(now=self.clock.time)))
        assert standing is not None
        return standing

    async def claim(self, name: str, request_id: str, worker: str = "worker-1") -> Standing:
        """A call begins to carry it out."""
        standing = await self.asks(Claim(name, request_id), worker)
        assert standing is not None
        return standing

    async def status(self, name: str) -> str:
        """What the store says."""
        found = await self.store.read(lambda conn: kept.load(conn, name))
        assert found is not None
        return found.status

    async def approve(self, name: str, by: Operator = DESK) -> dict[str, object]:
        """An operator says yes."""
        return await self.approving.decide(name, by, "approve", "checked")

    async def post(self, request_id: str, outcome: ApprovedOutcome) -> None:
        """The ledger row of the call that carried it out."""
        row = LedgerRow(time=round(self.clock.time * 1_000_000), request_id=request_id)
        posted = await self.poster.post(Batch((Posting((row,), outcome=outcome),)))
        self.approving.posted(posted.outcomes)

    async def look(self) -> None:
        """What the desk does by itself twice a second, now."""
        await self.approving._look()

    async def admin(
        self, method: str, path: str, by: Operator = DESK, body: object = None, query: dict[str, str] | None = None
    ) -> Any:  # noqa: ANN401 - JSON
        """One call of the admin API, past the door."""
        for route in self.approving.routes():
            parts, asked = route.path.split("/"), path.split("/")
            if route.method == method and len(parts) == len(asked):
                pairs = list(zip(parts, asked, strict=True))
                if all(one.startswith("{") or one == other for one, other in pairs):
                    assert route.role in by.may
                    variables = {one[1:-1]: other for one, other in pairs if one.startswith("{")}
                    return await route.handler(AdminCall(by, method, path, variables, query or {}, body or {}))  # type: ignore[arg-type]
        raise AssertionError(f"no route {method} {path}")

    def said(self) -> list[dict[str, Any]]:
        """The lines of the log about approvals."""
        self.approving._now.log.flush()
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    store = await Store.open(tmp_path / "var" / "passgate.db")
    try:
        yield Desk(tmp_path, store)
    finally:
        await store.close()


async def test_a_held_call_is_approved_and_carried_out_once(desk: Desk) -> None:
    """H5: held, approved, claimed, answered: whoever repeats it gets the very answer; each change is logged once."""
    held = await desk.hold()
    assert (held.status, held.held_at, held.expires) == ("pending", NOW, NOW + 1800)
    assert (await desk.approve(held.id))["status"] == "approved"
    claimed = await desk.claim(held.id, "req_1")
    assert claimed.status == "executing"
    await desk.post("req_1", ApprovedOutcome(held.id, "consumed", ANSWER))
    again = await desk.hold()
    assert (again.id, again.status, again.outcome, again.by) == (held.id, "consumed", ANSWER, ("desk",))
    assert (await desk.claim(held.id, "req_2")).outcome == ANSWER
    assert await desk.asks(FindApproval(ask().key)) == again
    lines = [(line["event"], line["status"], line.get("operator")) for line in desk.said()]
    assert lines == [
        ("approval", "pending", None),
        ("approval", "approved", "desk"),
        ("approval", "executing", None),
        ("approval", "consumed", None),
    ]
    metrics = desk.registry.render().decode()
    for status in ("pending", "approved", "consumed"):
        assert f'passgate_approvals_total{{status="{status}"}} 1.0' in metrics


async def test_a_thousand_identical_calls_make_one_record(desk: Desk) -> None:
    """H10: however many workers ask at once, one approval is asked for, and all of them are told of it."""
    standings = await asyncio.gather(*(desk.hold() for _ in range(1000)))
    assert len({standing.id for standing in standings}) == 1
    assert len(await desk.store.read(lambda conn: kept.page(conn, "", 10))) == 1
    assert len(desk.said()) == 1


async def test_of_fifty_claims_one_carries_it_out(desk: Desk) -> None:
    """H5: of fifty calls at once one executes, the others are told that it is under way, with a time to wait."""
    held = await desk.hold()
    await desk.approve(held.id)
    results = await asyncio.gather(
        *(desk.claim(held.id, f"req_{number}", f"worker-{number % 4}") for number in range(50)), return_exceptions=True
    )
    told = Counter(one.status if isinstance(one, Standing) else type(one).__name__ for one in results)
    assert told == {"executing": 1, "Refusal": 49}
    refusals = [one for one in results if isinstance(one, Refusal)]
    assert {(one.code, one.status, one.retry_after) for one in refusals} == {("step_in_progress", 409, 2)}


@pytest.mark.parametrize(
    ("outcome", "code", "status"),
    [("failed", "step_in_doubt", 424), ("consumed", "step_expired", 410)],
)
async def test_what_cannot_be_told_again_is_not_done_again(desk: Desk, outcome: str, code: str, status: int) -> None:
    """Twins of a call in doubt get 424, twins of one whose answer was too large 410; nobody sends it a second time."""
    held = await desk.hold()
    await desk.approve(held.id)
    await desk.claim(held.id, "req_1")
    await desk.post("req_1", ApprovedOutcome(held.id, outcome))
    with pytest.raises(Refusal) as raised:
        await desk.claim(held.id, "req_2")
    assert (raised.value.code, raised.value.status) == (code, status)


async def test_what_was_certainly_not_sent_may_be_sent(desk: Desk) -> None:
    """Given back by the call that claimed it, an approval stands as before, and the next call carries it out."""
    held = await desk.hold()
    await desk.approve(held.id)
    await desk.claim(held.id, "req_1")
    assert await desk.approving.handle(Unclaim(held.id, "req_other"), "worker-1", desk.gone) is None
    assert await desk.status(held.id) == "executing"
    await desk.approving.handle(Unclaim(held.id, "req_1"), "worker-1", desk.gone)
    assert (await desk.claim(held.id, "req_2")).status == "executing"


@pytest.mark.parametrize("status", ["pending", "denied", "expired"])
async def test_only_what_is_approved_is_carried_out(desk: Desk, status: str) -> None:
    """H6: an approval that does not stand any more when the call is sent refuses it, by whatever it was overtaken."""
    held = await desk.hold()
    if status == "denied":
        await desk.approving.decide(held.id, DESK, "deny", "")
    if status == "expired":
        await desk.approve(held.id)
        desk.clock.pass_(1800)
    with pytest.raises(Refusal) as raised:
        await desk.claim(held.id, "req_1")
    assert raised.value.status == 403
    told = raised.value.fields["approval"]
    assert isinstance(told, dict)
    reason = "approval_required" if status == "pending" else f"approval_{status}"
    assert (told["id"], told["status"], told["reason"]) == (held.id, status, reason)
    with pytest.raises(Refusal, match="no such approval"):
        await desk.claim("apr_unknown", "req_1")


async def test_a_worker_that_dies_leaves_doubt_and_no_second_execution(desk: Desk) -> None:
    """Its calls are given up for lost, those of other workers go on; what the ledger knew of it after all counts."""
    held = [await desk.hold(ask(args={"n": number})) for number in range(3)]
    for number, one in enumerate(held):
        await desk.approve(one.id)
        await desk.claim(one.id, f"req_{number}", "worker-2" if number == 2 else "worker-1")
    await desk.post("req_0", ApprovedOutcome(held[0].id, "consumed", ANSWER))
    await desk.approving.worker_died("worker-1")
    assert [await desk.status(one.id) for one in held] == ["consumed", "failed", "executing"]
    with pytest.raises(Refusal, match="step_in_doubt"):
        await desk.claim(held[1].id, "req_9")
    await desk.post("req_1", ApprovedOutcome(held[1].id, "consumed", ANSWER))
    assert (await desk.claim(held[1].id, "req_9")).outcome == ANSWER


async def test_a_restart_changes_nothing_for_who_waits(desk: Desk) -> None:
    """H11: what waits, waits on; what was approved may be carried out; what was under way is in doubt."""
    waits, approved, running = [await desk.hold(ask(args={"n": number})) for number in range(3)]
    for one in (approved, running):
        await desk.approve(one.id)
    await desk.claim(running.id, "req_1")
    desk.restart()
    await desk.look()
    assert await desk.hold(ask(args={"n": 0})) == waits
    assert (await desk.claim(approved.id, "req_2")).status == "executing"
    assert (await desk.hold(ask(args={"n": 2}))).status == "failed"


async def test_what_nobody_decides_ends_by_itself(desk: Desk) -> None:
    """H6: when its time is up it is expired in the store, what it kept is free, and the next call opens another one."""
    use = Use("pay/once", "A1")
    held = await desk.hold(ask(uses=(use,)))
    desk.clock.pass_(1799)
    await desk.look()
    assert await desk.status(held.id) == "pending"
    desk.clock.pass_(1)
    assert await desk.asks(FindApproval(ask().key)) is None
    await desk.look()
    assert await desk.status(held.id) == "expired"
    assert await desk.store.read(lambda conn: conn.execute("SELECT count(*) FROM uses").fetchone()) == (0,)
    later = await desk.hold(ask(now=desk.clock.time, uses=(use,)))
    assert (later.status, later.previous) == ("pending", "approval_expired")


SOON: Final = 10.0
"""Seconds in which who waits for a decision hears of it, where it would wait for twenty otherwise."""


async def waiting(desk: Desk, name: str) -> asyncio.Task[Standing | None]:
    """A call that waits for the decision, and does so now."""
    before = sum(desk.approving._waiters.values())
    task = asyncio.create_task(desk.asks(AwaitApproval(name, 20.0)))
    async with asyncio.timeout(SOON):
        while sum(desk.approving._waiters.values()) == before:  # noqa: ASYNC110 - nobody tells when it waits
            await asyncio.sleep(0.001)
    return task


@pytest.mark.parametrize(("verdict", "status"), [("approve", "approved"), ("deny", "denied")])
async def test_who_waits_is_woken_by_the_decision(desk: Desk, verdict: Any, status: str) -> None:  # noqa: ANN401
    """Every call that waits hears of it at once, whichever way it went."""
    held = await desk.hold()
    tasks = [await waiting(desk, held.id) for _ in range(3)]
    assert not any(task.done() for task in tasks)
    await desk.approving.decide(held.id, DESK, verdict, "said so")
    async with asyncio.timeout(SOON):
        standings = await asyncio.gather(*tasks)
    for standing in standings:
        assert standing is not None
        assert (standing.status, standing.by, standing.reason) == (status, ("desk",), "said so")
    assert not desk.approving._waiting
    assert not desk.approving._waiters


async def test_who_waits_is_woken_when_time_is_up(desk: Desk) -> None:
    """An approval that ends undecided ends the waiting; where it is decided already nobody waits at all."""
    held = await desk.hold()
    task = await waiting(desk, held.id)
    tending = asyncio.create_task(desk.approving.tend())
    desk.clock.pass_(1800)
    async with asyncio.timeout(SOON):
        standing = await task
    tending.cancel()
    await asyncio.wait([tending])
    assert standing is not None
    assert standing.status == "expired"
    assert (await desk.asks(AwaitApproval(held.id, 20.0))) == standing
    assert await desk.asks(AwaitApproval("apr_unknown", 20.0)) is None


async def test_waiting_ends(desk: Desk) -> None:
    """After the seconds that were asked for it is told how it stands; a worker that died keeps no place."""
    held = await desk.hold()
    standing = await desk.asks(AwaitApproval(held.id, 0.01))
    assert standing is not None
    assert standing.status == "pending"
    task = await waiting(desk, held.id)
    desk.gone.set()
    async with asyncio.timeout(SOON):
        await task
    assert not desk.approving._waiters


async def test_one_agent_does_not_wait_in_any_number_of_calls(desk: Desk) -> None:
    """The fifty-first call of an agent is told at once how it stands; another agent's waits."""
    held = await desk.hold()
    tasks = [await waiting(desk, held.id) for _ in range(50)]
    async with asyncio.timeout(SOON):
        more = await desk.asks(AwaitApproval(held.id, 20.0))
    assert more is not None
    assert more.status == "pending"
    other = await desk.hold(ask(replace(PRINCIPAL, agent=Agent("other"), subject="agent/other")))
    task = await waiting(desk, other.id)
    assert not task.done()
    desk.gone.set()
    await asyncio.gather(*tasks, task)


async def test_only_the_owner_is_shown_an_approval(desk: Desk) -> None:
    """H2, I24: another agent's approval and one that does not exist are told of in the same way: not at all."""
    held = await desk.hold()

    async def shown(name: str, owner: tuple[str, str]) -> object:
        answer = await desk.approving.handle(ShowApproval(name, *owner), "worker-1", desk.gone)
        assert isinstance(answer, Done)
        return answer.value

    mine = await shown(held.id, OWNER)
    assert isinstance(mine, dict)
    assert (mine["id"], mine["status"], mine["next_action"]) == (held.id, "pending", "retry")
    assert await shown(held.id, (OWNER[0], "agent/other")) is None
    assert await shown(held.id, ("https://other.example", OWNER[1])) is None
    assert await shown("apr_unknown", OWNER) is None


async def test_a_message_that_is_not_the_desks_is_refused(desk: Desk) -> None:
    """What the supervisor does not answer it says so."""
    with pytest.raises(ChannelError, match="does not answer Flush"):
        await desk.approving.handle(Flush(), "worker-1", desk.gone)


async def test_operators_see_and_decide(desk: Desk) -> None:
    """The list, one of it with its arguments and who may decide, a vote, the same vote again, and one too late."""
    held = await desk.hold(ask(approvers=(("group:finance",), ("group:legal",))))
    listed = await desk.admin("GET", "/admin/v1/approvals", query={"status": "pending"})
    assert [one["id"] for one in listed["approvals"]] == [held.id]
    assert listed["more"] is False
    shown = await desk.admin("GET", f"/admin/v1/approvals/{held.id}")
    assert (shown["args"], shown["may_decide"]) == ('{"amount":100,"order_id":"A1"}', ["desk", "lawyer"])
    path = f"/admin/v1/approvals/{held.id}/approve"
    first = await desk.admin("POST", path, LAWYER, {"reason": "fine"})
    assert (first["status"], first["changed"], first["waits_for"]) == ("pending", True, [["group:finance"]])
    assert (await desk.admin("POST", path, LAWYER))["changed"] is False
    assert (await desk.admin("POST", path))["status"] == "approved"
    with pytest.raises(Refusal, match="nothing is left to decide: this approval is approved") as raised:
        await desk.admin("POST", f"/admin/v1/approvals/{held.id}/deny", Operator("late", DESK.may, DESK.groups))
    assert raised.value.code == "request_malformed"
    assert [line["operator"] for line in desk.said() if "operator" in line] == ["lawyer", "desk", "late"]


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "code"),
    [
        ("GET", "/admin/v1/approvals", {"status": "open"}, {}, "request_malformed"),
        ("GET", "/admin/v1/approvals/apr_unknown", {}, {}, "object_unknown"),
        ("POST", "/admin/v1/approvals/apr_unknown/approve", {}, {}, "object_unknown"),
        ("POST", "/admin/v1/approvals/apr_unknown/deny", {}, {"why": "x"}, "request_malformed"),
        ("POST", "/admin/v1/approvals/apr_unknown/deny", {}, {"reason": "two\nlines"}, "request_malformed"),
        ("POST", "/admin/v1/approvals/apr_unknown/deny", {}, {"reason": ["x"]}, "request_malformed"),
        ("POST", "/admin/v1/approvals/apr_unknown/deny", {}, {"reason": "a\u202eb"}, "request_malformed"),
    ],
)
async def test_what_operators_may_not_send(
    desk: Desk, method: str, path: str, query: dict[str, str], body: object, code: str
) -> None:
    """A status, an id, a member or a reason that there is not: refused, with what to send."""
    with pytest.raises(Refusal) as raised:
        await desk.admin(method, path, body=body, query=query)
    assert raised.value.code == code


async def test_a_long_list_says_that_there_is_more(desk: Desk) -> None:
    """What is listed has an end, and the answer says so."""
    for owner in range(6):
        principal = replace(PRINCIPAL, subject=f"agent/{owner}")
        await asyncio.gather(*(desk.hold(ask(principal, args={"n": number})) for number in range(90)))
    listed = await desk.admin("GET", "/admin/v1/approvals")
    assert (len(listed["approvals"]), listed["more"]) == (500, True)


async def test_without_a_store_nothing_is_approved(desk: Desk) -> None:
    """A store that is gone refuses every question; what is to be given back is given back when it works again."""
    held = await desk.hold()
    await desk.store.close()
    for message in (FindApproval(ask().key), Hold(ask()), Claim(held.id, "req_1"), AwaitApproval(held.id, 1.0)):
        with pytest.raises(Refusal, match="store_unavailable"):
            await desk.asks(message)
    assert await desk.approving.handle(Unclaim(held.id, "req_1"), "worker-1", desk.gone) is None
    assert not desk.approving._claims
    with pytest.raises(Refusal, match="store_unavailable"):
        await desk.approve(held.id)
