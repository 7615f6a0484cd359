"""The statements about approvals on a real database: what the table of moves allows happens, and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from gateway.core.approval import MOVES, NOT_CARRIED_OUT, Approval, ApprovedOutcome, Stored, Vote
from gateway.core.attestation import Use
from gateway.core.errors import Refusal
from gateway.state import approvals as kept
from gateway.state.schema import migrate
from tests.approvals.held import FINANCE, NOW, PRINCIPAL, ask

AT = round(NOW * 1_000_000)
LEGAL = (("group:legal",),)
ANSWER = Stored(200, [("content-type", "application/json")], b'{"id": 7}')


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    with closing(database()) as opened:
        yield opened


def database() -> sqlite3.Connection:
    opened = sqlite3.connect(":memory:", isolation_level=None)
    migrate(opened, "memory")
    return opened


@contextmanager
def unit(conn: sqlite3.Connection) -> Iterator[None]:
    """A unit of work: committed, or undone with what it raised."""
    conn.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        conn.execute("ROLLBACK")
        raise
    conn.execute("COMMIT")


def hold(conn: sqlite3.Connection, name: str = "apr_1", now: float = NOW, **changes: Any) -> kept.Held:  # noqa: ANN401
    with unit(conn):
        return kept.hold(conn, ask(now=now, **changes), name, now)


def become(conn: sqlite3.Connection, name: str, *statuses: str) -> Approval:
    """Take an approval along the table."""
    found = kept.load(conn, name)
    assert found is not None
    for status in statuses:
        with unit(conn):
            found = kept.change(conn, found, replace(found, status=status, request_id="req_1"), NOW + 1)
    return found


def uses(conn: sqlite3.Connection) -> dict[tuple[str, str], str]:
    return {(scope, key): holder for scope, key, holder in conn.execute("SELECT scope, key, holder FROM uses")}


def test_what_is_held_reads_back_as_it_was(conn: sqlite3.Connection) -> None:
    """The ask with its arguments, when it was held, and that nobody has said anything yet."""
    asked = ask(uses=(Use("once", "fraud/1"),))
    with unit(conn):
        kept.hold(conn, asked, "apr_1", NOW + 0.123456)
    found = kept.load(conn, "apr_1")
    assert found == Approval(id="apr_1", status="pending", held_at=NOW + 0.123456, ask=asked, changed=NOW + 0.123456)


def test_identical_calls_have_one_approval(conn: sqlite3.Connection) -> None:
    """H10: the second identical call gets the approval of the first, and inserts nothing."""
    assert hold(conn).new
    again = hold(conn, "apr_2", NOW + 5)
    assert (again.new, again.approval.id, again.approval.held_at) == (False, "apr_1", NOW)
    assert kept.load(conn, "apr_2") is None


def test_another_call_waits_for_itself(conn: sqlite3.Connection) -> None:
    """H1: other arguments are another approval, and the approval of the first says nothing about it."""
    hold(conn)
    become(conn, "apr_1", "approved")
    other = hold(conn, "apr_2", args={"order_id": "B1", "amount": 100})
    assert (other.new, other.approval.status) == (True, "pending")
    found = kept.find(conn, ask(args={"order_id": "B1", "amount": 100}).key, NOW)
    assert found is not None
    assert found.id == "apr_2"


def test_one_that_expired_is_followed_by_a_new_one_that_says_so(conn: sqlite3.Connection) -> None:
    """H6: when its time is up an approval counts no more, approved or not; the next call opens one that knows why."""
    hold(conn)
    become(conn, "apr_1", "approved")
    assert kept.find(conn, ask().key, NOW + 1800) is None
    late = kept.claim(conn, "apr_1", "req_2", NOW + 1800)
    assert late is not None
    assert late.status == "approved"  # as it was: nobody carries it out
    later = hold(conn, "apr_2", NOW + 1800)
    assert (later.new, later.approval.previous) == (True, "approval_expired")
    assert [one.id for one in later.ended] == ["apr_1"]
    assert hold(conn, "apr_3", NOW + 1801).approval.previous == "approval_expired"


@pytest.mark.parametrize(
    ("moves", "stands"),
    [
        (["denied"], "denied"),
        (["approved", "executing", "consumed"], "consumed"),
        (["approved", "executing", "failed"], "failed"),
        (["approved", "executing"], "executing"),
        (["cancelled"], None),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_what_was_decided_stands_until_its_time_is_up(
    conn: sqlite3.Connection, moves: list[str], stands: str | None
) -> None:
    """H5: twins find what came of the first call; afterwards they are held anew, unless it is under way still."""
    hold(conn)
    become(conn, "apr_1", *moves)
    found = kept.find(conn, ask().key, NOW + 1799)
    assert (found.status if found else None) == stands
    after = hold(conn, "apr_2", NOW + 1800)
    assert after.new == (stands != "executing")
    assert after.approval.previous == ("step_in_doubt" if stands == "failed" else "")


def test_other_approvers_cancel_what_waits(conn: sqlite3.Connection) -> None:
    """H4: a policy that asks other people now makes an approval of the old ones worthless, and frees what it kept."""
    use = Use("pay/once", '{"order_id":"A1"}')
    hold(conn, uses=(use,))
    become(conn, "apr_1", "approved")
    other = hold(conn, "apr_2", approvers=LEGAL, uses=(use,))
    assert (other.new, [one.id for one in other.ended]) == (True, ["apr_1"])
    assert uses(conn) == {tuple(use): "apr_2"}
    old = kept.load(conn, "apr_1")
    assert old is not None
    assert old.status == "cancelled"


@pytest.mark.parametrize("status", ["executing", "consumed", "failed"])
def test_what_was_carried_out_stands_whoever_must_approve_now(conn: sqlite3.Connection, status: str) -> None:
    """H5: changing who must approve does not carry a call out twice; a denial by others binds nobody."""
    hold(conn)
    become(conn, "apr_1", "approved", "executing", *([status] if status != "executing" else []))
    assert hold(conn, "apr_2", approvers=LEGAL).approval.id == "apr_1"
    hold(conn, "apr_3", args={"order_id": "B1"})
    become(conn, "apr_3", "denied")
    assert hold(conn, "apr_4", args={"order_id": "B1"}, approvers=LEGAL).new
    assert hold(conn, "apr_5", args={"order_id": "B1"}, approvers=FINANCE).approval.status == "denied"


def test_what_a_held_call_uses_up_is_kept_for_it(conn: sqlite3.Connection) -> None:
    """A call that would use the same up is refused while the first waits, and nothing of it is written."""
    use = Use("pay/once", '{"order_id":"A1"}')
    hold(conn, uses=(use,))
    with pytest.raises(Refusal) as raised:
        hold(conn, "apr_2", args={"order_id": "A1", "note": "again"}, uses=(Use("once", "fraud/1"), use))
    assert (raised.value.code, raised.value.fields["reason"]) == ("attestation_required", "consumed")
    assert uses(conn) == {tuple(use): "apr_1"}
    assert kept.load(conn, "apr_2") is None


def test_what_ends_without_being_carried_out_gives_back(conn: sqlite3.Connection) -> None:
    """A denial and an expiry free what was kept, in the same transaction; what was or may have been sent does not."""
    for place, moves in enumerate((["denied"], ["approved", "executing", "consumed"], ["approved", "executing"])):
        hold(conn, f"apr_{place}", args={"place": place}, uses=(Use("once", f"fraud/{place}"),))
        become(conn, f"apr_{place}", *moves)
    hold(conn, "apr_9", args={"place": 9}, uses=(Use("once", "fraud/9"),))
    assert uses(conn) == {("once", "fraud/1"): "apr_1", ("once", "fraud/2"): "apr_2", ("once", "fraud/9"): "apr_9"}
    with unit(conn):
        assert [one.id for one in kept.expire(conn, NOW + 1800)] == ["apr_9"]
    assert set(uses(conn).values()) == {"apr_1", "apr_2"}


def test_one_owner_cannot_have_any_number_of_calls_waiting(conn: sqlite3.Connection) -> None:
    """H10: what people are asked has an end, for each owner alone; identical calls ask nothing new."""
    for place in range(kept.MOST_PENDING):
        hold(conn, f"apr_{place}", args={"place": place})
    with pytest.raises(Refusal, match="wait for approval already") as raised:
        hold(conn, "apr_more", args={"place": -1})
    assert raised.value.code == "rate_limited"
    assert not hold(conn, "apr_more", args={"place": 0}).new
    assert hold(conn, "apr_more", principal=replace(PRINCIPAL, subject="agent/other")).new
    become(conn, "apr_0", "denied")
    assert hold(conn, "apr_next", args={"place": -1}).new


def test_only_its_own_call_ends_what_is_carried_out(conn: sqlite3.Connection) -> None:
    """An outcome or a way back counts for the request that claimed it, and for no other."""
    hold(conn)
    become(conn, "apr_1", "approved")
    with unit(conn):
        claimed = kept.claim(conn, "apr_1", "req_a", NOW)
        twin = kept.claim(conn, "apr_1", "req_b", NOW)
    assert claimed is not None
    assert twin is not None
    assert (claimed.status, claimed.request_id, twin.request_id) == ("executing", "req_a", "req_a")
    done = ApprovedOutcome("apr_1", "consumed", ANSWER)
    assert kept.unclaim(conn, "apr_1", "req_b", NOW) is None
    assert kept.finish(conn, done, "req_b", AT) is None
    assert kept.finish(conn, ApprovedOutcome("apr_2", "consumed"), "req_a", AT) is None
    assert kept.finish(conn, done, "req_a", AT) is not None
    assert kept.finish(conn, ApprovedOutcome("apr_1", "failed"), "req_a", AT) is None
    found = kept.find(conn, ask().key, NOW)
    assert found is not None
    assert (found.status, found.outcome) == ("consumed", ANSWER)


def test_an_outcome_that_comes_late_ends_the_doubt(conn: sqlite3.Connection) -> None:
    """A call that was given up for lost, because its worker died, may have been answered: the ledger knows better."""
    hold(conn)
    become(conn, "apr_1", "approved", "executing")
    assert kept.doubt(conn, frozenset({"apr_1"}), NOW) == []
    assert [one.status for one in kept.doubt(conn, frozenset(), NOW)] == ["failed"]
    found = kept.finish(conn, ApprovedOutcome("apr_1", "consumed", ANSWER), "req_1", AT)
    assert found is not None
    assert found.status == "consumed"


def test_a_move_that_the_table_does_not_have_is_no_move(conn: sqlite3.Connection) -> None:
    """Whatever asks for it: an approval that is over stays over."""
    hold(conn)
    denied = become(conn, "apr_1", "denied")
    with pytest.raises(ValueError, match="is denied cannot become approved"):
        kept.change(conn, denied, replace(denied, status="approved"), NOW)


def test_lists(conn: sqlite3.Connection) -> None:
    """All of them latest first, without arguments; those that wait in the order in which their time is up."""
    for place, expires in enumerate((900.0, 300.0, 600.0)):
        hold(conn, f"apr_{place}", args={"place": place}, expires=expires)
    become(conn, "apr_2", "denied")
    assert [one.id for one in kept.page(conn, "", 10)] == ["apr_2", "apr_1", "apr_0"]
    assert [one.id for one in kept.page(conn, "pending", 10)] == ["apr_1", "apr_0"]
    assert [one.id for one in kept.page(conn, "denied", 10)] == ["apr_2"]
    assert len(kept.page(conn, "", 2)) == 2
    assert all(not one.ask.args for one in kept.page(conn, "", 10))


def test_what_the_webhook_has_to_hear(conn: sqlite3.Connection) -> None:
    """Each event until it is told: what waits, what was decided, not what came of it; nothing from long ago."""
    hold(conn)

    def due(since: float = NOW) -> list[tuple[str, str]]:
        return [(approval.id, what) for approval, what in kept.untold(conn, since, 10)]

    assert due() == [("apr_1", "pending")]
    kept.told(conn, "apr_1", "pending")
    assert due() == []
    become(conn, "apr_1", "approved", "executing", "consumed")
    assert due() == [("apr_1", "approved")]
    assert due(since=NOW + 2) == []
    kept.told(conn, "apr_1", "approved")
    assert due() == []
    hold(conn, "apr_2", args={})
    become(conn, "apr_2", "cancelled")
    assert due() == []


def test_what_is_long_over_is_forgotten(conn: sqlite3.Connection) -> None:
    """Approvals are deleted a while after their time was up, but for those that are not over."""
    for name in ("apr_1", "apr_2"):
        hold(conn, name, args={"name": name})
    become(conn, "apr_1", "denied")
    assert kept.forget(conn, NOW + 1800) == 0
    assert kept.forget(conn, NOW + 1801) == 1
    assert [one.id for one in kept.page(conn, "", 10)] == ["apr_2"]


CALLS = {name: {"order_id": name} for name in "AB"}
SUBJECT = {name: Use("pay/once", name) for name in "AB"}


class AgainstAModel(RuleBasedStateMachine):
    """Every order of holding, voting, carrying out and dying, beside a plain model of what may come of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conn = database()
        self.now = NOW
        self.number = 0
        self.status: dict[str, str] = {}  # by approval
        self.call: dict[str, str] = {}
        self.ends: dict[str, float] = {}
        self.approvers: dict[str, tuple[tuple[str, ...], ...]] = {}
        self.by: dict[str, str] = {}  # the request that carries it out
        self.sent: list[str] = []  # calls that were carried out, one entry each time

    def teardown(self) -> None:
        """After each order of rules."""
        self.conn.close()

    def move(self, name: str, status: str) -> None:
        """The model's own step along the table."""
        assert status in MOVES[self.status[name]]
        self.status[name] = status

    def pass_expiries(self) -> None:
        """What is up now, in the model."""
        for name, status in self.status.items():
            if status in ("pending", "approved") and self.ends[name] <= self.now:
                self.move(name, "expired")

    def some(self, *statuses: str) -> list[str]:
        """The approvals that have one of these statuses."""
        return sorted(name for name, status in self.status.items() if status in statuses)

    @rule(call=st.sampled_from("AB"), approvers=st.sampled_from([FINANCE, LEGAL]), expires=st.sampled_from([10, 60]))
    def hold(self, call: str, approvers: tuple[tuple[str, ...], ...], expires: int) -> None:
        """A call is held: the approval that stands, or a new one with what it uses up."""
        self.number += 1
        name, request = (
            f"apr_{self.number:04d}",
            {"args": CALLS[call], "approvers": approvers, "expires": float(expires)},
        )
        self.pass_expiries()
        mine = [one for one in self.status if self.call[one] == call]
        live = [one for one in mine if self.ends[one] > self.now or self.status[one] == "executing"]
        done = [one for one in live if self.status[one] in ("executing", "consumed", "failed")]
        same = [
            one
            for one in live
            if self.status[one] in ("pending", "approved", "denied") and self.approvers[one] == approvers
        ]
        taken = any(self.status[one] in ("consumed", "failed") for one in mine)
        if taken and not done and not same:
            with pytest.raises(Refusal, match="attestation_required"):
                hold(self.conn, name, self.now, uses=(SUBJECT[call],), **request)
            self.pass_back()
            return
        held = hold(self.conn, name, self.now, uses=(SUBJECT[call],), **request)
        if done or same:
            assert not held.new
            assert held.approval.id == (done[-1] if done else same[-1])
            return
        assert held.new
        for one in live:
            if self.status[one] in ("pending", "approved"):
                self.move(one, "cancelled")
        self.status[name], self.call[name], self.approvers[name] = "pending", call, approvers
        self.ends[name] = self.now + expires

    def pass_back(self) -> None:
        """A refused hold undoes its whole unit of work, the expiries that it came across too: write them down."""
        with unit(self.conn):
            kept.expire(self.conn, self.now)

    @rule(data=st.data(), status=st.sampled_from(["approved", "denied"]))
    def decide(self, data: st.DataObject, status: str) -> None:
        """Somebody decides what waits."""
        self.pass_expiries()
        self.pass_back()
        if waiting := self.some("pending"):
            name = data.draw(st.sampled_from(waiting))
            found = kept.load(self.conn, name)
            assert found is not None
            said = Vote(operator="desk", decision="x", at=self.now, counts=(0,))
            with unit(self.conn):
                kept.change(self.conn, found, replace(found, status=status, votes=(said,)), self.now)
            self.move(name, status)

    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        """A call begins to carry one out: only an approved one, in time, and only one call."""
        if self.status:
            name = data.draw(st.sampled_from(sorted(self.status)))
            self.number += 1
            request = f"req_{self.number}"
            with unit(self.conn):
                found = kept.claim(self.conn, name, request, self.now)
            assert found is not None
            mine = (found.status, found.request_id) == ("executing", request)
            assert mine == (self.status[name] == "approved" and self.ends[name] > self.now)
            if mine:
                self.move(name, "executing")
                self.by[name] = request

    @rule(data=st.data(), outcome=st.sampled_from(["consumed", "failed", "not sent"]), late=st.booleans())
    def end(self, data: st.DataObject, outcome: str, late: bool) -> None:  # noqa: FBT001 - drawn
        """A call that carries one out ends: answered, in doubt, or certainly not sent."""
        if under_way := self.some("executing", *(["failed"] if late else [])):
            name = data.draw(st.sampled_from(under_way))
            with unit(self.conn):
                if outcome == "not sent":
                    after = kept.unclaim(self.conn, name, self.by[name], self.now)
                    status = "approved"
                else:
                    after = kept.finish(
                        self.conn, ApprovedOutcome(name, outcome), self.by[name], round(self.now * 1_000_000)
                    )
                    status = outcome
            may = status in MOVES[self.status[name]]
            assert (after is not None) == may
            if may:
                self.move(name, status)
                if status == "consumed":
                    self.sent.append(self.call[name])

    @rule(alive=st.booleans())
    def worker_dies(self, alive: bool) -> None:  # noqa: FBT001 - drawn
        """What nobody carries out any more is in doubt."""
        under_way = self.some("executing")
        living = frozenset(under_way[:1] if alive else ())
        with unit(self.conn):
            assert sorted(one.id for one in kept.doubt(self.conn, living, self.now)) == sorted(set(under_way) - living)
        for name in set(under_way) - living:
            self.move(name, "failed")

    @rule(seconds=st.sampled_from([1.0, 9.0, 10.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        """Time goes by, and what is up is written down."""
        self.now += seconds
        due = [one for one in self.some("pending", "approved") if self.ends[one] <= self.now]
        assert kept.to_tend(self.conn, frozenset(self.some("executing")), self.now) == bool(due)
        with unit(self.conn):
            assert sorted(one.id for one in kept.expire(self.conn, self.now)) == due
        self.pass_expiries()

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        """Every approval has the model's status."""
        assert dict(self.conn.execute("SELECT id, status FROM approvals")) == self.status

    @invariant()
    def at_most_one_of_each_call_is_open(self) -> None:
        """H5, H10: of one call one waits, is approved or under way; nothing is carried out twice."""
        for call in CALLS:
            opened = [one for one in self.some("pending", "approved", "executing") if self.call[one] == call]
            assert len(opened) <= 1
            assert self.sent.count(call) <= 1

    @invariant()
    def what_is_used_is_what_is_held_or_sent(self) -> None:
        """A subject is kept by the one approval that was not ended without being carried out."""
        keeping = {self.call[one]: one for one in self.status if self.status[one] not in NOT_CARRIED_OUT}
        assert {key: holder for (_, key), holder in uses(self.conn).items()} == keeping


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("query", [kept._UNTOLD, kept._PENDING_OF])
def test_what_is_asked_again_and_again_reads_no_old_approvals(conn: sqlite3.Connection, query: str) -> None:
    """A month of approvals stays in the table: neither the webhook's look nor a new hold goes through all of them."""
    plan = [step for *_, step in conn.execute(f"EXPLAIN QUERY PLAN {query}", (1,) * query.count("?"))]
    assert [step for step in plan if "approvals" in step]
    assert all("approvals_by_call" not in step and not step.startswith("SCAN approvals") for step in plan)
