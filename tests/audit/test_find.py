"""Finding a decision again: by its id, in whichever file, and all of them in order."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from gateway.audit import DecisionRecord, find_record, read_records
from gateway.audit.writer import Chain
from tests.simulator.clock import SetClock

PLAIN = DecisionRecord(
    time="2026-11-20T10:00:00.000000Z",
    id="dec_0",
    request_id="req_0",
    agent="procurement",
    issuer="dev",
    subject="agent/procurement",
    assurance="bearer",
    token_id="jti",
    kind="llm",
    operation="chat",
    method="POST",
    dialect="openai",
    call_digest="sha256:0",
    effect="allow",
    policy_hash="f",
    mode="enforce",
    latency_us=1,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty decisions in some files, with a note among them; the subject of each names the id of another one."""
    chain = Chain.open(tmp_path / "audit", None, SetClock(), file_size=2000)
    for number in range(30):
        if number == 10:
            chain.note("unwritable", 'the disk: "id":"dec_11"')
        record = msgspec.structs.replace(PLAIN, id=f"dec_{number}", subject=f'"id":"dec_{number + 1}"')
        chain.append([msgspec.json.encode(record)])
    chain.close()
    return tmp_path / "audit"


@pytest.mark.parametrize("number", [0, 9, 10, 11, 29])
def test_a_decision_is_found_by_its_id(folder: Path, number: int) -> None:
    """The one with this id and no other, with where it stands."""
    found = find_record(folder, f"dec_{number}")
    assert found is not None
    assert found.record.id == f"dec_{number}"
    line = next(data for data in found.file.read_bytes().splitlines() if json.loads(data)["seq"] == found.seq)
    assert json.loads(line)["record"]["id"] == f"dec_{number}"


@pytest.mark.parametrize("name", ["dec_30", "dec_", "", "dec_1.", 'dec_1","', "dec_ü", "dec_1\n"])
def test_what_is_not_there_is_not_found(folder: Path, name: str) -> None:
    """No part of an id, and nothing that only looks like one."""
    assert find_record(folder, name) is None


def test_all_decisions_come_in_order(folder: Path) -> None:
    """Of a folder or of one of its files; notes and what is damaged are passed over."""
    assert [found.record.id for found in read_records(folder)] == [f"dec_{number}" for number in range(30)]
    files = sorted(folder.iterdir())
    assert len(files) > 3
    files[1].write_bytes(b"garbage\n{}\n" + files[1].read_bytes() + b'{"seq":1')
    assert [found.record.id for found in read_records(folder)] == [f"dec_{number}" for number in range(30)]
    (first, *_), file = list(read_records(files[1])), files[1]
    assert (first.file, first.seq) == (file, json.loads(file.read_bytes().splitlines()[2])["seq"])


def test_a_line_over_the_edge_of_a_block_is_found(tmp_path: Path) -> None:
    """Files are read in blocks; what stands in two of them is found too."""
    chain = Chain.open(tmp_path / "audit", None, SetClock())
    padding = "x" * 3_000_000
    for number in range(5):
        record = msgspec.structs.replace(PLAIN, id=f"dec_{number}", subject=padding)
        chain.append([msgspec.json.encode(record)])
    chain.close()
    assert [find_record(tmp_path / "audit", f"dec_{number}") is not None for number in range(6)] == [True] * 5 + [False]
