"""When an agent was last seen, to the minute, and who called in its name."""

from __future__ import annotations

from pathlib import Path

from gateway.ledger import Batch, Poster, Posting
from gateway.ledger.seen import callers, last_seen
from gateway.state import Store
from tests.simulator.rows import NOON, row

MINUTE = 60_000_000


async def test_an_agent_is_seen_to_the_minute(tmp_path: Path) -> None:
    """A row within a minute of the last note changes nothing, a later one does; a late comer never takes it back."""
    store = await Store.open(tmp_path / "passgate.db")
    poster = Poster(store)
    times = []
    for number, time in enumerate((NOON, NOON + MINUTE - 1, NOON + MINUTE, NOON - MINUTE)):
        await poster.post(Batch((Posting((row(f"a{number}", time=time),)),)))
        times.append((await store.read(last_seen))["procurement"])
    assert times == [NOON, NOON, NOON + MINUTE, NOON + MINUTE]
    again = Poster(store)  # after a restart nothing is known of what was noted
    await again.post(Batch((Posting((row("b", time=NOON),)), Posting((row("c", agent="other", time=NOON + 5),)))))
    assert await store.read(last_seen) == {"procurement": NOON + MINUTE, "other": NOON + 5}
    await store.close()


async def test_callers_are_told_latest_first(tmp_path: Path) -> None:
    """One line for each subject, key and assurance, with how often and when; other agents' are not among them."""
    store = await Store.open(tmp_path / "passgate.db")
    rows = [
        row("a", time=NOON),
        row("b", time=NOON + 1),
        row("c", time=NOON + 2, key_id="k2"),
        row("d", time=NOON + 3, issuer="gateway", subject="spiffe://acme.example/agent/procurement/reader"),
        row("e", time=NOON + 4, agent="other"),
    ]
    await Poster(store).post(Batch(tuple(Posting((one,)) for one in rows)))
    found = await store.read(lambda conn: callers(conn, "procurement"))
    assert [(one["issuer"], one["key_id"], one["calls"]) for one in found] == [
        ("gateway", "k1", 1),
        ("dev", "k2", 1),
        ("dev", "k1", 2),
    ]
    assert found[2]["last_seen"] == "2026-11-20T12:00:00.000001Z"
    assert len(await store.read(lambda conn: callers(conn, "procurement", 2))) == 2
    await store.close()
