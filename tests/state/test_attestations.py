"""What was attested is kept once, and found again by its run; what did not pass also from elsewhere."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.core.attestation import GATEWAY, Attestation
from gateway.core.errors import Refusal
from gateway.core.run import RunKey
from gateway.state import attestations as kept
from gateway.state.schema import migrate

RUN = RunKey("https://issuer.example", "agent/buyer", "r1")
NAMES = ("agent/buyer", "buyer")
MINUTE = 60_000_000
NOW = 1_800_000_000_000_000


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    opened = sqlite3.connect(":memory:", isolation_level=None)
    migrate(opened, ":memory:")
    yield opened
    opened.close()


def attestation(name: str = "a1", **changes: Any) -> Attestation:  # noqa: ANN401 - members of any type
    """One that the buyer presented, unless told otherwise."""
    written: dict[str, Any] = {
        "by": "fraud-service",
        "id": name,
        "step": "fraud-check",
        "outcome": "passed",
        "subject": {"order_id": "A1", "amount": 100, "gift": True},
        "agent": "agent/buyer",
        "run": RUN.id,
        "at": NOW,
        "expires": NOW + MINUTE,
        "owner": RUN[:2],
        "key": "k",
        "digest": "d",
        "request_id": "req_1",
    }
    return Attestation(**{**written, **changes})


def found(conn: sqlite3.Connection, run: RunKey = RUN, names: tuple[str, ...] = NAMES, *across: str) -> list[str]:
    """The ids of what is attested in a run."""
    return [one.id for one in kept.gathered(conn, run, names, [(step, 0) for step in across])]


def test_it_comes_back_as_it_was(conn: sqlite3.Connection) -> None:
    """Every member survives, with its type."""
    whole = attestation(evidence_hash="e", prev="p", source="presented")
    assert kept.record(conn, [whole], NOW) == (True,)
    (back,) = kept.gathered(conn, RUN, NAMES, ())
    assert back == whole
    assert [type(value) for value in back.subject.values()] == [str, int, bool]


def test_recording_again_changes_nothing(conn: sqlite3.Connection) -> None:
    """The same attestation is one, whoever brings it, in which call, and under which of its attester's keys."""
    first = attestation()
    again = replace(first, request_id="req_2", source="posted", owner=None, key="other", digest="other")
    assert kept.record(conn, [first, first, again], NOW) == (True, False, False)
    assert kept.missing(conn, [first, again, attestation("a2")]) == [attestation("a2")]
    assert kept.gathered(conn, RUN, NAMES, ()) == (first,)


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "failed"},
        {"step": "audit"},
        {"subject": {"order_id": "A1", "amount": "100", "gift": True}},
        {"subject": {"order_id": "A1", "amount": 100, "gift": 1}},
        {"agent": "buyer"},
        {"run": "r2"},
        {"at": NOW - 1},
        {"expires": NOW + 2 * MINUTE},
        {"evidence_hash": "x"},
        {"prev": "x"},
    ],
)
def test_an_id_has_one_content(changes: dict[str, Any], conn: sqlite3.Connection) -> None:
    """W2: an attester that uses an id twice for different things is refused, so that nothing is attested by mistake."""
    kept.record(conn, [attestation()], NOW)
    changed = attestation(**changes)
    assert kept.missing(conn, [changed]) == [changed]
    with pytest.raises(Refusal) as caught:
        kept.record(conn, [changed], NOW)
    assert (caught.value.code, caught.value.fields["reason"]) == ("request_malformed", "replayed")


def test_two_attesters_may_use_one_id(conn: sqlite3.Connection) -> None:
    """An id is its attester's own."""
    assert kept.record(conn, [attestation(), attestation(by="auditor")], NOW) == (True, True)


def test_whose_run_it_is(conn: sqlite3.Connection) -> None:
    """W1, S08: the run of the same id of another owner is another run, and what is attested there is not found here."""
    kept.record(conn, [attestation(), attestation("a2", run="r2")], NOW)
    assert found(conn) == ["a1"]
    for other in (
        RunKey(RUN.iss, "agent/seller", "r1"),
        RunKey("https://other.example", RUN.subject, "r1"),
        RunKey(RUN.iss, RUN.subject, "r3"),
        RunKey("", RUN.subject, "r1"),
    ):
        assert found(conn, other, ("agent/seller",)) == []


def test_what_was_posted(conn: sqlite3.Connection) -> None:
    """What its attester posted is found by the run's id and the agent's name, whoever owns the run."""
    posted = {"owner": None, "source": "posted"}
    for name, agent, run in (("p1", "agent/buyer", "r1"), ("p2", "buyer", "r1"), ("p3", "buyer", "r2")):
        kept.record(conn, [attestation(name, agent=agent, run=run, **posted)], NOW)
    assert found(conn) == ["p1", "p2"]
    assert found(conn, RUN, ("agent/buyer",)) == ["p1"]
    assert found(conn, RUN, ("seller",)) == []


def test_what_did_not_pass_anywhere(conn: sqlite3.Connection) -> None:
    """W13: with `across` a failure in any run counts that came after what passed here; what passed there does not."""
    elsewhere: dict[str, Any] = {"owner": ("https://other.example", "agent/x"), "run": "r9", "outcome": "failed"}
    sent: dict[str, dict[str, Any]] = {
        "passed": {"at": NOW},
        "later": {**elsewhere, "at": NOW + MINUTE},
        "same-time": {**elsewhere, "at": NOW},
        "passed-there": {**elsewhere, "at": NOW + MINUTE, "outcome": "passed"},
        "other-step": {**elsewhere, "at": NOW + MINUTE, "step": "audit"},
        "long-before": {**elsewhere, "at": NOW - 60 * MINUTE},
    }
    for name, changes in sent.items():
        one = attestation(name, **changes)
        kept.record(conn, [one], one.at)
    assert found(conn) == ["passed"]
    assert found(conn, RUN, NAMES, "fraud-check") == ["passed", "later", "same-time"]
    assert found(conn, RUN, NAMES, "audit") == ["passed"]
    assert found(conn, RUN._replace(id="r9"), NAMES, "fraud-check") == []
    late = kept.gathered(conn, RUN, NAMES, [("fraud-check", NOW + 20 * MINUTE)])
    assert [one.id for one in late] == ["passed"]


def test_a_failure_that_was_received_early(conn: sqlite3.Connection) -> None:
    """W13: an attester's clock may be ahead: what it attests for later is found though it came before."""
    kept.record(conn, [attestation()], NOW)
    kept.record(conn, [attestation("f", run="r9", outcome="failed", at=NOW + MINUTE)], NOW - 9 * MINUTE)
    assert found(conn, RUN, NAMES, "fraud-check") == ["a1", "f"]


def test_a_run_has_an_end(conn: sqlite3.Connection) -> None:
    """A run holds a thousand of what is presented; what was posted for it, and what was observed in it, is beside."""
    kept.record(conn, [attestation(f"a{number}") for number in range(kept.MOST_IN_RUN)], NOW)
    with pytest.raises(Refusal) as caught:
        kept.record(conn, [attestation("more")], NOW)
    assert (caught.value.code, caught.value.fields["limit"]) == ("request_malformed", 1000)
    assert kept.record(conn, [attestation("a0")], NOW) == (False,)
    assert kept.record(conn, [attestation("p", owner=None, source="posted", outcome="failed")], NOW) == (True,)
    assert kept.add(conn, attestation("o", by=GATEWAY, source="observed", outcome="failed"), NOW)
    assert kept.record(conn, [attestation("b", run="r2")], NOW) == (True,)
    assert len(found(conn)) == 1002


def test_too_much_to_judge_by(conn: sqlite3.Connection) -> None:
    """W13: a run in which too much was observed lets nothing through, rather than overlook what failed."""
    for number in range(kept.MOST_READ):
        kept.add(conn, attestation(f"o{number}", by=GATEWAY, source="observed"), NOW)
    assert len(found(conn)) == kept.MOST_READ
    kept.add(conn, attestation("last", by=GATEWAY, source="observed"), NOW)
    with pytest.raises(Refusal, match=r"attestation_required: .*begin another run"):
        found(conn)


def test_what_was_withdrawn_since(conn: sqlite3.Connection) -> None:
    """W13: what did not pass after a worker looked is seen; what passed, and what is of another run or step, is not."""
    kept.record(conn, [attestation("early", outcome="failed")], NOW)
    seen = kept.newest(conn)
    assert kept.withdrawn(conn, RUN, NAMES, ["fraud-check"], seen) is None
    kept.record(conn, [attestation("passed"), attestation("r", run="r2", outcome="failed")], NOW)
    kept.record(conn, [attestation("s", step="audit", outcome="failed")], NOW)
    kept.record(conn, [attestation("x", owner=None, agent="seller", outcome="failed")], NOW)
    assert kept.withdrawn(conn, RUN, NAMES, ["fraud-check"], seen) is None
    assert kept.withdrawn(conn, RUN, NAMES, ["fraud-check", "audit"], seen) == "audit"
    kept.record(conn, [attestation("p", owner=None, agent="buyer", outcome="error")], NOW)
    assert kept.withdrawn(conn, RUN, NAMES, ["fraud-check"], seen) == "fraud-check"
    assert kept.withdrawn(conn, RUN, NAMES, ["fraud-check"], kept.newest(conn)) is None
    assert kept.withdrawn(conn, RUN, NAMES, [], seen) is None


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS, TEXTS), max_size=8))
def test_texts_are_data(written: list[tuple[str, str, str, str]]) -> None:
    """S06: whatever agents and attesters call things is a parameter of every statement, and comes back as it was."""
    conn = sqlite3.connect(":memory:", isolation_level=None)
    migrate(conn, ":memory:")
    sent = {
        (by, name): attestation(name, by=by, step=step, subject={word: word}, owner=(word or "i", by), run=step)
        for by, name, step, word in written
    }
    for one in sent.values():
        assert kept.add(conn, one, NOW)
        assert not kept.add(conn, one, NOW)
    for one in sent.values():
        assert one.owner is not None
        assert one in kept.gathered(conn, RunKey(*one.owner, one.run), (one.agent,), [(one.step, 0)])
        assert kept.missing(conn, [one]) == []
    conn.close()
