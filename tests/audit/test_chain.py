"""The chain itself: how a line is made, so that others can check it too."""

from __future__ import annotations

import hashlib
import json

from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.chain import START, Link, follow, linked, read_line, torn

TEXTS = st.dictionaries(st.text(max_size=20), st.text(max_size=60) | st.integers() | st.none(), max_size=5)


def test_the_format_of_a_line() -> None:
    """As the handbook says: whoever has SHA-256 can check a line without Passgate."""
    line, link = linked(START, b'{"id":"dec_1"}')
    hashed, _, rest = line.decode().rpartition(',"hash":"')
    assert hashed == '{"seq":1,"prev":"' + "0" * 64 + '","record":{"id":"dec_1"}'
    assert rest == hashlib.sha256(f"passgate-audit-line-1\n{hashed}".encode()).hexdigest() + '"}\n'
    assert link == (1, rest[:64].encode())
    assert json.loads(line) == {"seq": 1, "prev": "0" * 64, "record": {"id": "dec_1"}, "hash": rest[:64]}


@given(st.lists(TEXTS, max_size=8))
def test_what_was_linked_follows(values: list[dict[str, object]]) -> None:
    """Every record comes back as it was written, and each line belongs behind the one before it."""
    before = START
    for number, value in enumerate(values, 1):
        record = json.dumps(value).encode()
        data, after = linked(before, record)
        line = read_line(data)
        assert line is not None
        assert (line.seq, line.record, line.link) == (number, record, after)
        assert follow(before, line) == ("", after)
        assert all(torn(data[:size], before) for size in (1, 50, len(data) - 1))
        before = after


def test_a_record_that_looks_like_a_line_stays_a_record() -> None:
    """P14: what an agent has put into its names ends no line and begins no other one."""
    inner = json.dumps({"a": '"},"hash":"' + "0" * 64 + '"}\n{"seq":2'}).encode()
    data, _ = linked(START, inner)
    line = read_line(data)
    assert line is not None
    assert line.record == inner
    nested = b'{"record":{"a":1},"hash":"' + b"1" * 64 + b'"}'
    data, link = linked(START, nested)
    line = read_line(data)
    assert line is not None
    assert (line.record, line.link) == (nested, link)


def test_the_same_record_has_another_hash_elsewhere() -> None:
    """Number and predecessor are part of the hash."""
    hashes = {linked(link, b"{}")[1].hash for link in (START, Link(1, START.hash), Link(0, b"1" * 64))}
    assert len(hashes) == 3
