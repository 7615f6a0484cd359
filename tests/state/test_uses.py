"""What is used up is used up once, by one holder, and given back as a whole."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.core.attestation import Use, subject_text
from gateway.core.errors import Refusal
from gateway.state.schema import migrate
from gateway.state.uses import release, take

ONCE = Use("once", "fraud-service/a1")
ORDER = Use("payments/fraud-check", subject_text({"order_id": "A1"}))


def opened() -> sqlite3.Connection:
    """The tables, in memory."""
    conn = sqlite3.connect(":memory:", isolation_level=None)
    migrate(conn, ":memory:")
    return conn


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    with_tables = opened()
    yield with_tables
    with_tables.close()


def unit(conn: sqlite3.Connection, work: Callable[[sqlite3.Connection], None]) -> None:
    """A unit of work, as the store runs it: what fails is undone."""
    conn.execute("SAVEPOINT unit")
    try:
        work(conn)
    except Refusal:
        conn.execute("ROLLBACK TO unit")
        raise
    finally:
        conn.execute("RELEASE unit")


def held(conn: sqlite3.Connection) -> dict[Use, str]:
    return {Use(scope, key): holder for scope, key, holder in conn.execute("SELECT scope, key, holder FROM uses")}


def test_it_is_taken_once(conn: sqlite3.Connection) -> None:
    """W11: who comes second hears what was taken; who has it may take it again."""
    take(conn, "req_1", [ONCE, ORDER], 1)
    take(conn, "req_1", [ORDER, ONCE], 2)
    for use, named in ((ONCE, {"attestation": ONCE.key}), (ORDER, {"rule": ORDER.scope, "subject": ORDER.key})):
        with pytest.raises(Refusal) as caught:
            take(conn, "req_2", [use], 3)
        assert (caught.value.code, caught.value.fields) == ("attestation_required", {"reason": "consumed", **named})
    assert held(conn) == {ONCE: "req_1", ORDER: "req_1"}


def test_all_or_nothing(conn: sqlite3.Connection) -> None:
    """W11: where one of them is taken, none of the others is."""
    take(conn, "req_1", [ORDER], 1)
    with pytest.raises(Refusal):
        unit(conn, lambda conn: take(conn, "req_2", [ONCE, ORDER], 2))
    assert held(conn) == {ORDER: "req_1"}
    unit(conn, lambda conn: take(conn, "req_2", [ONCE], 3))
    assert held(conn) == {ORDER: "req_1", ONCE: "req_2"}


def test_it_is_given_back(conn: sqlite3.Connection) -> None:
    """W12: what was certainly not sent leaves all that it took to the next one, and nothing of anybody else."""
    take(conn, "req_1", [ONCE, ORDER], 1)
    take(conn, "req_2", [Use("once", "fraud-service/a2")], 1)
    release(conn, "req_1")
    release(conn, "req_1")
    assert held(conn) == {Use("once", "fraud-service/a2"): "req_2"}
    take(conn, "req_3", [ONCE, ORDER], 2)


def test_names_do_not_run_together(conn: sqlite3.Connection) -> None:
    """W11: scope and key are two columns, so that no name of one use spells another."""
    take(conn, "a", [Use("p/r", "x")], 1)
    for other in (
        Use("p", "r/x"),
        Use("p/rx", ""),
        Use("p/r", "X"),
        Use("", "p/rx"),
        Use("p/r'", "x"),
        Use("p/r", "x "),
    ):
        take(conn, "b", [other], 1)


USES = st.sampled_from([Use(scope, key) for scope in ("once", "p/r") for key in ("x", "y", "z")])


class Taking(RuleBasedStateMachine):
    """Any sequence of takes and releases does what a dictionary would."""

    def __init__(self) -> None:
        super().__init__()
        self.conn = opened()
        self.model: dict[Use, str] = {}

    def teardown(self) -> None:
        """Close the tables."""
        self.conn.close()

    @rule(holder=st.sampled_from(["a", "b", "c"]), uses=st.lists(USES, max_size=4))
    def takes(self, holder: str, uses: list[Use]) -> None:
        """All of it, or none where somebody else has one."""
        possible = all(self.model.get(use, holder) == holder for use in uses)
        with suppress(Refusal):
            unit(self.conn, lambda conn: take(conn, holder, uses, 1))
            assert possible
            self.model |= dict.fromkeys(uses, holder)
            return
        assert not possible

    @rule(holder=st.sampled_from(["a", "b", "c"]))
    def releases(self, holder: str) -> None:
        """All that is its."""
        unit(self.conn, lambda conn: release(conn, holder))
        self.model = {use: other for use, other in self.model.items() if other != holder}

    @invariant()
    def agrees(self) -> None:
        """Each use has the holder that the model says."""
        assert held(self.conn) == self.model


Taking.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestTaking = Taking.TestCase


def test_it_outlives_the_process(tmp_path: Path) -> None:
    """W11: what was used up is used up after a restart."""
    file = tmp_path / "db"
    for attempt in range(2):
        conn = sqlite3.connect(file, isolation_level=None)
        migrate(conn, str(file))
        if attempt:
            with pytest.raises(Refusal):
                take(conn, "req_2", [ORDER], 2)
        else:
            take(conn, "req_1", [ORDER], 1)
        conn.close()
