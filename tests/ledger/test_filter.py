"""`--where`: which rows a report or an export is about."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from contextlib import closing
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.row import LedgerRow
from gateway.ledger import Batch, Poster, Posting
from gateway.ledger.export import export_ndjson
from gateway.ledger.filter import DIMENSIONS, Filter, read_filter
from gateway.ledger.period import Period
from gateway.ledger.report import as_json, as_text, spend_report
from gateway.state import Store, read_only
from tests.simulator.rows import NOON, row

ALWAYS = Period()
CHARGED = {"tool": "payments.charge", "model": "", "provider": "payments"}
TEXTS = st.text(st.sampled_from("aAä*%_[?'\"; -"), max_size=4)


async def passing(store: Store, rows: list[LedgerRow], *words: str) -> list[str]:
    """The request ids of the rows that pass."""
    await Poster(store).post(Batch(tuple(Posting((each,)) for each in rows)))
    out = StringIO()
    where = read_filter(words)
    with closing(read_only(store.path)) as conn:
        count = export_ndjson(conn, ALWAYS, out, where)
        report = spend_report(conn, ["request_id"], ALWAYS, where)
    ids = sorted(key for (key,), _ in report.lines)
    assert count == report.total.calls == len(ids)
    assert all(f'"request_id":"{name}"' in out.getvalue() for name in ids)
    return ids


PAID = [
    row("a", **CHARGED, agent="procurement", on_behalf_of="user/alice"),
    row("b", **CHARGED, agent="treasury", subject="spiffe://acme.example/agent/treasury", chain="spiffe://x/root"),
    row("c", **(CHARGED | {"tool": "payments.refund"}), agent="procurement", outcome="refused", code="policy_denied"),
    row("d", agent="procurement", on_behalf_of="user/alice"),
]


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ([], "abcd"),
        (["tool=payments.*"], "abc"),
        (["tool=payments.charge"], "ab"),
        (["tool=payments"], ""),
        (["tool=Payments.*"], ""),
        (["tool=payments.*", "agent=procurement"], "ac"),
        (["agent=procurement", "agent=treasury", "tool=payments.charge"], "ab"),
        (["on_behalf_of="], "bc"),
        (["on_behalf_of=user/*"], "ad"),
        (["subject=spiffe://acme.example/agent/t*"], "b"),
        (["chain=spiffe://x/root"], "b"),
        (["code=policy_denied"], "c"),
        (["day=2026-11-20"], "abcd"),
        (["day=2026-11-21"], ""),
        (["month=2026-1*"], "abcd"),
        (["tool=*"], "abcd"),
    ],
)
async def test_columns_are_anded_and_texts_are_ored(store: Store, words: list[str], ids: str) -> None:
    """Every column that is named counts, of several texts for one of them any; a last `*` is the beginning of more."""
    assert await passing(store, PAID, *words) == list(ids)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.fixed_dictionaries({"agent": TEXTS, "tool": TEXTS}), max_size=6),
    st.dictionaries(st.sampled_from(["agent", "tool"]), st.lists(TEXTS, min_size=1, max_size=3)),
)
def test_whatever_the_texts_are_they_are_compared_as_they_stand(
    rows: list[dict[str, str]], asked: Mapping[str, list[str]]
) -> None:
    """S06: no quote, pattern or letter case in a text means anything to the database but itself."""

    def meant(values: Mapping[str, str]) -> bool:
        return all(
            any(values[name].startswith(t[:-1]) if t.endswith("*") else values[name] == t for t in texts)
            for name, texts in asked.items()
        )

    async def story() -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            store = await Store.open(Path(folder) / "passgate.db")
            posted = [row(f"r{number}", **values) for number, values in enumerate(rows)]
            words = [f"{name}={text}" for name, texts in asked.items() for text in texts]
            found = await passing(store, posted, *words)
            await store.close()
            return found

    assert asyncio.run(story()) == [f"r{number}" for number, values in enumerate(rows) if meant(values)]


async def test_every_dimension_can_be_asked_for(store: Store) -> None:
    """What a report can be broken down by it can be narrowed to, each line by its own value."""
    await Poster(store).post(Batch(tuple(Posting((each,)) for each in PAID)))
    with closing(read_only(store.path)) as conn:
        for name in DIMENSIONS:
            lines = spend_report(conn, [name], ALWAYS).lines
            for (value,), _ in lines:  # a run of two owners has two lines
                narrowed = spend_report(conn, ["agent"], ALWAYS, Filter({name: (value,)})).total
                assert narrowed.calls == sum(sums.calls for key, sums in lines if key == (value,)), (name, value)


async def test_a_filter_and_a_period_hold_together(store: Store) -> None:
    """Rows outside the period never pass, whatever is asked for."""
    await Poster(store).post(Batch((Posting((row("a", agent="x"), row("b", agent="x", time=NOON + 2))),)))
    with closing(read_only(store.path)) as conn:
        report = spend_report(conn, ["agent"], Period(NOON, NOON + 1), Filter({"agent": ("x", "y")}))
    assert report.total.calls == 1


async def test_a_report_says_what_it_was_narrowed_to(store: Store) -> None:
    """Whoever reads the figures sees which rows they are about; what was typed is shown, not obeyed."""
    await Poster(store).post(Batch((Posting((row("a", agent="x"),)),)))
    with closing(read_only(store.path)) as conn:
        report = spend_report(conn, ["agent"], ALWAYS, read_filter(["agent=x", "agent=\x1b[2J*"]))
        empty = spend_report(conn, ["agent"], ALWAYS, read_filter(["agent=nobody"]))
    assert as_text(report).startswith("Spend from the beginning to now (UTC) where agent=x, agent=\\x1b[2J*\n")
    assert as_text(empty).startswith("No calls from the beginning to now (UTC) where agent=nobody.\n")
    assert '"where": {\n    "agent": [\n      "x",' in as_json(report)


@pytest.mark.parametrize(
    "word", ["", "agent", "=x", "weather=fine", "agent or 1=1", "time=0", "Agent=x", "agent =x", "agent=\udcff"]
)
def test_what_is_no_column_is_a_sentence(word: str) -> None:
    """S06: a column is looked up in a fixed table; anything else names the columns there are."""
    with pytest.raises(ValueError, match="--where"):
        read_filter([word])
