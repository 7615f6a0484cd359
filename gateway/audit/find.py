"""Reading decisions back: one by its id, or all of them. What is read here is not verified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from gateway.audit.chain import read_line
from gateway.audit.files import log_files, read_lines
from gateway.audit.record import DecisionRecord, read_record

_BLOCK: Final = 4 << 20


class Found(NamedTuple):
    """A decision, and where it stands."""

    file: Path
    seq: int
    record: DecisionRecord


def read_records(path: Path) -> Iterator[Found]:
    """All decisions of a folder or of one file, oldest first; what is no decision is passed over. Raises `OSError`."""
    for file in log_files(path) if path.is_dir() else [path]:
        with file.open("rb") as opened:
            for data in read_lines(opened):
                found = _decision(file, data)
                if found is not None:
                    yield found


def find_record(folder: Path, decision_id: str) -> Found | None:
    """The decision with this id: `dec_…`; the newest files are looked through first. Raises `OSError`."""
    wanted = b'"id":"%b"' % decision_id.encode("ascii", "replace")
    for file in reversed(log_files(folder)):
        for data in _lines_with(file, wanted):
            found = _decision(file, data)
            if found is not None and found.record.id == decision_id:
                return found
    return None


def _decision(file: Path, data: bytes) -> Found | None:
    line = read_line(data)
    try:
        record = read_record(line.record) if line is not None else None
    except ValueError:
        return None
    return Found(file, line.seq, record) if line is not None and record is not None else None


def _lines_with(file: Path, wanted: bytes) -> Iterator[bytes]:
    """The lines that hold these bytes; whole blocks without them are passed over."""
    with file.open("rb") as opened:
        rest = b""
        while block := opened.read(_BLOCK):
            whole, _, rest = (rest + block).rpartition(b"\n")
            if wanted in whole:
                yield from (line + b"\n" for line in whole.split(b"\n") if wanted in line)
