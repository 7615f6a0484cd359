"""Tampering: whatever is done to the files or the checkpoints of a decision log is found, and at its first line."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.chain import START, linked, read_line
from gateway.audit.checkpoint import sign
from gateway.identity.issue import PrivateKey
from tests.audit.specimen import KEY, Specimen, rows

FILES = ["audit-000001.ndjson", "audit-000002.ndjson", "audit-000003.ndjson"]
LAST = FILES[-1]


@pytest.fixture
def log(tmp_path: Path) -> Specimen:
    return Specimen(tmp_path / "audit")


@pytest.fixture(scope="module")
def shared() -> Iterator[Specimen]:
    """One that many examples tamper with, each from the start."""
    with tempfile.TemporaryDirectory() as folder:
        yield Specimen(Path(folder) / "audit")


def test_a_log_as_it_was_written_is_whole(log: Specimen) -> None:
    """Nothing is found in it, over several files, and the last checkpoint vouches for its end."""
    verdict = log.verdict()
    assert sorted(log.files) == FILES
    assert verdict.findings == []
    assert (verdict.files, verdict.lines, verdict.first, verdict.last) == (3, 13, 1, 13)
    assert (verdict.checkpoints, verdict.last_checkpoint, verdict.torn) == (5, log.checkpoints[-1], "")


def test_an_empty_log_is_whole(tmp_path: Path) -> None:
    """Before the first decision there is nothing to find, whether or not there is a folder."""
    empty = Specimen(tmp_path / "audit", batches=())
    assert empty.verdict().findings == []
    empty.folder.rmdir()
    verdict = empty.verdict()
    assert (verdict.findings, verdict.lines) == ([], 0)


@pytest.mark.parametrize("name", FILES)
def test_every_byte_counts(log: Specimen, name: str) -> None:
    """P15: a changed byte is found wherever it stands, and the line that is named is its own."""
    data = log.files[name]
    for offset in range(0, len(data), 7):
        row = data[:offset].count(b"\n") + 1
        for other in (data[offset] ^ 0x01, 0x0A):
            if other == data[offset]:
                continue
            (log.folder / name).write_bytes(data[:offset] + bytes([other]) + data[offset + 1 :])
            assert log.verdict().first_bad_line == f"{name}:{row}"
        (log.folder / name).write_bytes(data)


# -- whatever is done to the bytes

SPOT = st.tuples(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True))
LINE = st.integers(0, 12)
TAMPERING: st.SearchStrategy[tuple[Any, ...]] = st.one_of(
    st.tuples(st.just("edit"), SPOT, st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("insert"), SPOT, st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("delete"), SPOT, st.integers(1, 400)),
    st.tuples(st.just("truncate"), SPOT),
    st.tuples(st.just("remove"), st.sets(st.sampled_from(FILES), min_size=1)),
    st.tuples(st.just("drop"), st.sets(LINE, min_size=1)),
    st.tuples(st.just("swap"), LINE, LINE),
    st.tuples(st.just("repeat"), LINE, LINE),
    st.tuples(st.just("move"), LINE, LINE),
    st.tuples(st.just("rechain"), LINE),
)


def tampered(files: dict[str, bytes], doing: tuple[Any, ...]) -> dict[str, bytes]:
    """The files after something was done to them."""
    match doing:
        case ("remove", names):
            return {name: data for name, data in files.items() if name not in names}
        case ("edit" | "insert" | "delete" | "truncate" as what, (name, where), *more):
            data = files[name]
            at = int(where * len(data))
            match what, *more:
                case "edit", new:
                    data = data[:at] + new + data[at + len(new) :]
                case "insert", new:
                    data = data[:at] + new + data[at:]
                case "delete", count:
                    data = data[:at] + data[at + count :]
                case _:
                    data = data[:at]
            return files | {name: data}
    return by_lines(files, doing)


def by_lines(files: dict[str, bytes], doing: tuple[Any, ...]) -> dict[str, bytes]:
    """The files after something was done to whole lines, which stay in the files where they end up."""
    homes = [name for name, data in files.items() for _ in rows(data)]
    lines = [line for data in files.values() for line in rows(data)]
    match doing:
        case ("drop", numbers):
            homes = [home for number, home in enumerate(homes) if number not in numbers]
            lines = [line for number, line in enumerate(lines) if number not in numbers]
        case ("swap", one, other):
            lines[one], lines[other] = lines[other], lines[one]
        case ("repeat", one, other):
            lines.insert(other, lines[one])
            homes.insert(other, homes[other])
        case ("move", one, other):
            lines.insert(other, lines.pop(one))
        case ("rechain", first):  # what somebody does who knows how the hashes are made, but has no key
            link = START
            for number, line in enumerate(lines):
                known = read_line(line)
                assert known is not None
                content = known.record.replace(b"allow", b"deny") if number == first else known.record
                lines[number], link = linked(link, content)
    return {name: b"".join(lines[i] for i, home in enumerate(homes) if home == name) for name in files}


@given(doing=TAMPERING)
def test_whatever_is_done_to_the_files_is_found(shared: Specimen, doing: tuple[Any, ...]) -> None:
    """P15: edits, insertions, deletions, swaps, cuts and new hash chains are found; a crash is told from them."""
    now = tampered(shared.files, doing)
    shared.put(now)
    verdict = shared.verdict()
    if now == shared.files:
        assert verdict.findings == []
    elif not verdict.findings:  # only something behind the last line that looks like a crash is none
        assert verdict.torn == f"{LAST}:{len(rows(shared.files[LAST])) + 1}"
        assert now[LAST].startswith(shared.files[LAST])
        assert {name: data for name, data in now.items() if name != LAST} == {
            name: data for name, data in shared.files.items() if name != LAST
        }
    else:
        assert verdict.first_bad_line


# -- where it is, and what is said of it


def test_an_edited_line_is_named(log: Specimen) -> None:
    """P15: another word in one line, which is the one that is named."""
    path = log.folder / FILES[1]
    path.write_bytes(path.read_bytes().replace(b'"dec_6","agent":"procurement"', b'"dec_6","agent":"support"'))
    (finding,) = log.verdict().findings
    assert finding.where == f"{FILES[1]}:2"
    assert "edited" in finding.problem


def test_a_line_that_is_missing_is_named(log: Specimen) -> None:
    """P15: the line that stands in its place is named, with the number of the one that is not there."""
    path = log.folder / FILES[0]
    path.write_bytes(b"".join(rows(log.files[FILES[0]])[:1] + rows(log.files[FILES[0]])[2:]))
    (finding,) = log.verdict().findings
    assert (finding.where, finding.problem) == (f"{FILES[0]}:2", "line 2 is missing before it")


def test_a_line_that_was_put_in_is_named(log: Specimen) -> None:
    """P15: a line that stands there once more is said to be one too many, and those behind it are as they were."""
    data = rows(log.files[FILES[1]])
    (log.folder / FILES[1]).write_bytes(b"".join([*data[:3], data[0], *data[3:]]))
    (finding,) = log.verdict().findings
    assert finding.where == f"{FILES[1]}:4"
    assert finding.problem == "it has number 5 where 8 is due: it was put in or moved"


def test_a_file_that_is_missing_is_named(log: Specimen) -> None:
    """A whole file that was taken away is missed at the first line of the next one."""
    (log.folder / FILES[1]).unlink()
    (finding,) = log.verdict().findings
    assert finding.where == f"{LAST}:1"
    assert finding.problem.endswith(f"are missing before it ({FILES[1]} is not there)")


def test_a_log_that_is_gone_is_missed(log: Specimen) -> None:
    """Without any file the checkpoints tell how many lines there were."""
    log.put({})
    (finding,) = log.verdict().findings
    assert (finding.where, finding.problem.partition(" (")[0]) == (
        f"{FILES[0]}:1",
        "lines 1 to 13 are missing at the end of the log: it was cut off",
    )


def test_a_log_that_was_cut_off_is_found_down_to_its_last_checkpoint(log: Specimen) -> None:
    """A line less than was signed is found; what came after the last checkpoint nobody has vouched for."""
    kept = rows(log.files[LAST])
    (log.folder / LAST).write_bytes(b"".join(kept[:-1]))
    (finding,) = log.verdict().findings
    assert finding.where == f"{LAST}:{len(kept)}"
    assert finding.problem.startswith("line 13 is missing at the end of the log")
    assert log.verdict(log.checkpoints[:-1]).findings == []


def test_a_line_with_a_new_hash_does_not_fit_its_neighbour(log: Specimen) -> None:
    """Whoever edits a line and mends its hash has broken the next one's `prev`."""
    data = rows(log.files[FILES[0]])
    known = read_line(data[1])
    assert known is not None
    before = read_line(data[0])
    assert before is not None
    data[1], _ = linked(before.link, known.record.replace(b"allow", b"deny"))
    (log.folder / FILES[0]).write_bytes(b"".join(data))
    (finding,) = log.verdict([]).findings
    assert (finding.where, "replaced" in finding.problem) == (f"{FILES[0]}:3", True)


def test_a_log_that_was_written_anew_contradicts_its_checkpoints(log: Specimen) -> None:
    """With every hash mended the first checkpoint behind the edit tells, and between which lines it happened."""
    log.put(by_lines(log.files, ("rechain", 3)))
    verdict = log.verdict()
    assert verdict.findings[0].where == f"{FILES[0]}:4"
    assert "behind line 3 was written anew" in verdict.findings[0].problem
    assert verdict.last_checkpoint == log.checkpoints[0]


@pytest.mark.parametrize("size", [1, 20, 90, 100, 170])
def test_a_torn_last_line_is_a_crash(log: Specimen, size: int) -> None:
    """What a kill leaves of the line that was due is said, and is no finding."""
    line, _ = linked(log.last, b'{"id":"dec_14","agent":"procurement"}')
    (log.folder / LAST).write_bytes(log.files[LAST] + line[:size])
    verdict = log.verdict()
    assert (verdict.findings, verdict.torn) == ([], f"{LAST}:{len(rows(log.files[LAST])) + 1}")
    assert verdict.last == 13


@pytest.mark.parametrize("tail", [b"x", b'{"seq":15', b'{"seq":14,"prev":"' + b"0" * 64, b"\x00" * 10])
def test_what_no_crash_leaves_is_tampering(log: Specimen, tail: bytes) -> None:
    """Bytes behind the last line that begin otherwise than the line that was due were put there."""
    (log.folder / LAST).write_bytes(log.files[LAST] + tail)
    (finding,) = log.verdict().findings
    assert (finding.where, log.verdict().torn) == (f"{LAST}:{len(rows(log.files[LAST])) + 1}", "")


def test_a_crash_tears_the_last_file_alone(log: Specimen) -> None:
    """A line without its end in the middle of the log is no crash."""
    (log.folder / FILES[0]).write_bytes(log.files[FILES[0]][:-30])
    assert log.verdict().first_bad_line == f"{FILES[0]}:{len(rows(log.files[FILES[0]]))}"


def test_a_signed_line_is_no_crash(log: Specimen) -> None:
    """A last line that was signed was whole once: without its end it is missing."""
    (log.folder / LAST).write_bytes(log.files[LAST][:-1])
    verdict = log.verdict()
    assert [finding.where for finding in verdict.findings] == [f"{LAST}:{len(rows(log.files[LAST]))}"]


# -- checkpoints


@pytest.mark.parametrize("changed", [{"seq": 7}, {"hash": "0" * 64}, {"time": 5}])
def test_a_checkpoint_that_says_otherwise_than_it_signs_is_found(log: Specimen, changed: dict[str, Any]) -> None:
    """Each column of the row is compared with what was signed."""
    checkpoints = [log.checkpoints[0], log.checkpoints[1]._replace(**changed), *log.checkpoints[2:]]
    findings = log.verdict(sorted(checkpoints)).findings
    assert [finding.where for finding in findings] == [f"checkpoint {checkpoints[1].seq}"]
    assert "edited" in findings[0].problem


def test_a_checkpoint_of_another_key_is_found(log: Specimen) -> None:
    """Somebody who writes the log anew cannot sign it: neither with another key nor in the name of ours."""
    other = PrivateKey.new("EdDSA")
    log.put(by_lines(log.files, ("rechain", 0)))
    last = read_line(rows(log.now()[LAST])[-1])
    assert last is not None
    named = PrivateKey(KEY.kid, "EdDSA", other.key)
    for key, said in ((other, "another key"), (named, "forged")):
        (finding,) = log.verdict([sign(key, last.link, 1_800_000_000)]).findings
        assert (finding.where, said in finding.problem) == ("checkpoint 13", True)


def test_a_token_is_no_checkpoint(log: Specimen) -> None:
    """Something else that the key signed, or something that is no JWS at all, vouches for nothing."""
    claims = {"seq": 13, "hash": log.last.hash.decode(), "iat": 1_800_000_000}
    for text in (KEY.sign({"typ": "at+jwt"}, claims), KEY.sign({}, claims), "a.b.c", "", "a.b"):
        (finding,) = log.verdict([log.checkpoints[-1]._replace(signed=text)]).findings
        assert (finding.where, finding.problem) == ("checkpoint 13", "is no checkpoint")


def test_only_so_many_findings_are_told(tmp_path: Path) -> None:
    """A log that was replaced is wrong at every line; the first hundred are told, the others counted."""
    log = Specimen(tmp_path / "audit", batches=(130,), file_size=1 << 20)
    path = log.folder / FILES[0]
    path.write_bytes(path.read_bytes().replace(b"allow", b"alloW"))
    verdict = log.verdict()
    assert (len(verdict.findings), verdict.more, verdict.lines) == (100, 30, 130)
