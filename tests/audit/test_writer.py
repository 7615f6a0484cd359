"""The writer: it goes on where the log ends, whole batch or none, and never on from what was tampered with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.audit.chain import Link, linked, read_line
from gateway.audit.writer import AuditRefused, Chain
from tests.audit.specimen import Specimen, record, rows
from tests.simulator.clock import SetClock

FIRST, SECOND, LAST, NEXT = (f"audit-00000{number}.ndjson" for number in (1, 2, 3, 4))


@pytest.fixture
def log(tmp_path: Path) -> Specimen:
    return Specimen(tmp_path / "audit")


def opened(log: Specimen, *, signed: bool = True) -> Chain:
    """The log, opened once more."""
    return Chain.open(log.folder, log.last if signed else None, SetClock(), file_size=log.file_size)


def descriptors() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def first_record(log: Specimen, name: str) -> dict[str, str]:
    """The record of a file's first line."""
    line = read_line(rows((log.folder / name).read_bytes())[0])
    assert line is not None
    return dict(json.loads(line.record))


def test_a_new_log_is_nobody_elses_to_read(tmp_path: Path) -> None:
    """Folder and files are the gateway's own; nothing is made before something is written."""
    folder = tmp_path / "var" / "audit"
    chain = Chain.open(folder, None, SetClock())
    assert list(folder.iterdir()) == []
    chain.append([record(1)])
    chain.close()
    assert (folder.stat().st_mode & 0o777, (folder / FIRST).stat().st_mode & 0o777) == (0o700, 0o600)


def test_it_goes_on_where_it_ended(log: Specimen) -> None:
    """A restart appends to the last file; the chain and the numbers go on."""
    for number in (14, 15):
        chain = opened(log)
        assert (chain.tip.seq, chain.said) == (number - 1, [])
        chain.append([record(number)])
        chain.close()
    assert sorted(log.now()) == [FIRST, SECOND, LAST, NEXT]  # the third one was full with the first
    verdict = log.verdict()
    assert (verdict.findings, verdict.last) == ([], 15)


def test_a_batch_is_one_write(log: Specimen) -> None:
    """A batch stays together, also where it fills a file; an empty one writes nothing."""
    chain = opened(log)
    chain.append([])
    assert log.now() == log.files
    chain.append([record(number) for number in range(14, 34)])
    chain.append([record(34)])
    chain.close()
    assert [len(rows(data)) for data in log.now().values()] == [4, 4, 5, 20, 1]
    assert log.verdict().findings == []


@pytest.mark.parametrize("bad", [b'{"a":"\n"}', b'{"a":"' + b"x" * (4 << 20) + b'"}'])
def test_what_is_no_line_is_not_written(log: Specimen, bad: bytes) -> None:
    """A record that would end its line, or that no reader would read to its end, is refused with its batch."""
    chain = opened(log)
    with pytest.raises(ValueError, match="more than one line, or too long"):
        chain.append([record(14), bad])
    chain.append([record(14)])
    chain.close()
    assert (log.verdict().findings, log.verdict().last) == ([], 14)


def test_one_gateway_writes(log: Specimen) -> None:
    """A second one is refused with what to do; after the first is gone it may."""
    chain = opened(log)
    with pytest.raises(AuditRefused, match=r"another gateway writes its decision log .*telemetry\.audit"):
        opened(log)
    chain.close()
    opened(log).close()


async def test_full_files_are_closed_once_they_are_synced(tmp_path: Path) -> None:
    """`sync` gives how far the log is safe, and lets go of the files that get no more lines."""
    chain = Chain.open(tmp_path / "audit", None, SetClock(), file_size=1)
    before = descriptors()
    for number in range(1, 6):
        chain.append([record(number)])
    assert descriptors() == before + 5
    assert await chain.sync() == chain.tip
    assert descriptors() == before + 1
    chain.append([record(6)])
    chain.close()


# -- crashes


@pytest.mark.parametrize("size", [1, 60, 120, 200])
def test_a_torn_line_is_cut_off_and_said(log: Specimen, size: int) -> None:
    """What a crash left of a line is removed at the next start; a note in the log says how much it was."""
    line, _ = linked(log.last, record(14))
    (log.folder / LAST).write_bytes(log.files[LAST] + line[:size])
    chain = opened(log)
    ((kind, detail),) = chain.said
    assert (kind, detail.startswith(f"{size} bytes")) == ("torn", True)
    chain.append([record(15)])
    chain.close()
    assert (log.folder / LAST).read_bytes() == log.files[LAST]
    assert first_record(log, NEXT) == {"note": "torn", "time": "2027-01-15T08:00:00.000000Z", "detail": detail}
    assert (log.verdict().findings, log.verdict().last) == ([], 15)


@pytest.mark.parametrize("left", [b"", b'{"seq":14,"pr'])
def test_a_crash_at_the_begin_of_a_file_is_none_of_an_attack(log: Specimen, left: bytes) -> None:
    """A file that was made and has no whole line yet is gone on with."""
    (log.folder / NEXT).write_bytes(left)
    chain = opened(log)
    assert [kind for kind, _ in chain.said] == (["torn"] if left else [])
    chain.append([record(14)])
    chain.close()
    assert sorted(log.now()) == [FIRST, SECOND, LAST, NEXT]
    assert log.verdict().findings == []


def test_a_writer_that_is_killed_loses_nothing_that_it_told(tmp_path: Path) -> None:
    """SIGKILL in the middle of writing: every number that was told stands in the log, and the next one goes on."""
    folder, told = tmp_path / "audit", 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.simulator.audit_writer", str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with process, process.stdout as out:
            for line in out:
                told = int(line)
                if told % 200 == 0:
                    process.kill()
        log = Specimen(folder, batches=(0,))
        verdict = log.verdict([])
        assert verdict.findings == []
        assert verdict.last >= told > 0


def test_a_full_disk_takes_whole_batches_or_none(tmp_path: Path) -> None:
    """A disk that is full in the middle of a batch: nothing of it stays, and the log goes on once there is room."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulator.audit_writer", str(tmp_path / "audit"), "full"],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    log = Specimen(tmp_path / "audit", batches=())
    assert (log.verdict([]).findings, log.verdict([]).torn) == ([], "")
    found = [int(json.loads(line)["record"].get("number", 0)) for data in log.files.values() for line in rows(data)]
    assert [number for number in found if number] == [int(word) for word in done.stdout.split()]
    assert 0 in found, "the note about it is missing"


# -- tampering


def edited(log: Specimen) -> None:
    path = log.folder / LAST
    path.write_bytes(path.read_bytes().replace(b'"dec_12"', b'"dec_99"'))


def cut(log: Specimen) -> None:
    (log.folder / LAST).write_bytes(b"".join(rows(log.files[LAST])[:-1]))


def another_end(log: Specimen) -> None:
    kept = rows(log.files[LAST])[:-1]
    before = read_line(kept[-1])
    assert before is not None
    (log.folder / LAST).write_bytes(b"".join(kept) + linked(before.link, record(99))[0])


def garbage(log: Specimen) -> None:
    (log.folder / LAST).write_bytes(log.files[LAST] + b"garbage")


def garbage_line(log: Specimen) -> None:
    (log.folder / LAST).write_bytes(log.files[LAST] + b"garbage\n")


def last_file_gone(log: Specimen) -> None:
    (log.folder / LAST).unlink()


def gone(log: Specimen) -> None:
    log.put({})


def far_ahead(log: Specimen) -> None:
    line, _ = linked(Link(10**17, b"0" * 64), record(1))
    (log.folder / LAST).write_bytes(log.files[LAST] + line)


@pytest.mark.parametrize(
    "tamper",
    [edited, cut, another_end, garbage, garbage_line, last_file_gone, gone, far_ahead],
    ids=lambda f: f.__name__,
)
def test_what_was_tampered_with_is_not_gone_on_with(log: Specimen, tamper: Callable[[Specimen], None]) -> None:
    """P15: the damaged file stays as it is; a new one goes on from the checkpoint, and its first line says why."""
    tamper(log)
    found = log.verdict().first_bad_line
    assert found
    before = log.now()
    chain = opened(log)
    ((kind, detail),) = chain.said
    assert (kind, "the log goes on behind line 13 in a new file" in detail) == ("damaged", True)
    (new,) = log.now().keys() - before.keys()
    assert {name: data for name, data in log.now().items() if name != new} == before
    assert first_record(log, new)["note"] == "damaged"
    assert first_record(log, new)["detail"] == detail
    chain.append([record(15)])
    chain.close()
    assert log.verdict().first_bad_line in {found, f"{new}:1"}, "the next start must not cover it up"
    opened(log).close()
    assert len(log.now()) == len(before) + 1, "one new file is enough"


def test_without_a_checkpoint_the_chain_alone_tells(log: Specimen) -> None:
    """Before the first checkpoint an edited line is found all the same, and the log goes on behind its last one."""
    edited(log)
    chain = opened(log, signed=False)
    assert [kind for kind, _ in chain.said] == ["damaged"]
    assert chain.tip.seq == 14  # the note
    chain.close()


@pytest.mark.parametrize("how", ["removed", "replaced", "longer", "shorter"])
def test_a_file_that_changes_under_the_writer_is_noticed(log: Specimen, how: str) -> None:
    """Somebody who touches the file while the gateway runs is found out, and the next line begins another file."""
    chain = opened(log)
    chain.append([record(14)])
    chain.look()
    assert chain.said == []
    path = log.folder / NEXT
    data = path.read_bytes()
    if how == "removed":
        path.unlink()
    elif how == "replaced":
        path.rename(log.folder / "elsewhere")
        path.write_bytes(data)
    else:
        path.write_bytes(data + b"x" if how == "longer" else data[:-1])
    chain.look()
    ((kind, detail),) = chain.said
    assert (kind, NEXT in detail) == ("damaged", True)
    chain.look()
    assert len(chain.said) == 1, "it is said once"
    chain.append([record(16)])
    chain.close()
    assert first_record(log, "audit-000005.ndjson")["note"] == "damaged"
    if how != "replaced":
        assert log.verdict().first_bad_line
    else:
        assert log.verdict().findings == [], "what stands there now is what was written"
