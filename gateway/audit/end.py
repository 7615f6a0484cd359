"""Where the decision log ends, found by reading its last file; what stands before that is for `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from gateway.audit.chain import LONGEST, START, Link, follow, missing, read_line, torn
from gateway.audit.files import log_files, read_lines

_MOST_LINES: Final = 10**15
"""A line that claims to be beyond this one is forged; nothing goes on from there."""


class End(NamedTuple):
    """The end of a log."""

    link: Link  # what the next line follows on
    file: Path | None  # the last one; `None` where there is none
    size: int  # bytes of its whole lines
    torn: int  # bytes behind them: a line that a crash has cut short
    problem: str  # why nothing may be added to this file: a sentence about it, empty where all is well


def find_end(folder: Path, checkpoint: Link | None) -> End:
    """The end of the log in `folder`, which must be what it was at its last `checkpoint`, or go on from there.

    Raises `OSError`.
    """
    files = log_files(folder)
    link, size, tail, problem = START, 0, b"", ""
    for path in reversed(files):  # of the last ones there may be some without a whole line
        part = _read(path, checkpoint)
        if path == files[-1]:
            size, tail = part.size, part.tail
        problem = problem or part.problem
        if part.link is not None:
            link = part.link
            break
    if not problem and checkpoint is not None and checkpoint.seq > link.seq:
        problem = f"{missing(link.seq + 1, checkpoint.seq)} at its end: the last checkpoint has them"
    if not problem and tail and not torn(tail, link):
        problem = f"{files[-1].name} ends in what is no line of this log"
    if problem and checkpoint is not None and checkpoint.seq >= link.seq:
        link = checkpoint
    return End(link, files[-1] if files else None, size, len(tail), problem)


class _Part(NamedTuple):
    """What one file says."""

    link: Link | None  # of its last line, as that claims
    size: int
    tail: bytes
    problem: str


def _read(path: Path, checkpoint: Link | None) -> _Part:
    link: Link | None = None
    size, problem = 0, ""
    with path.open("rb") as file:
        for number, data in enumerate(read_lines(file), 1):
            if not data.endswith(b"\n"):
                return _Part(
                    link,
                    size,
                    data,
                    problem or (f"{path.name}:{number}: it is too long" if len(data) >= LONGEST else ""),
                )
            size += len(data)
            line = read_line(data)
            if line is None or line.seq > _MOST_LINES:
                wrong = "it is no line of this log"
            else:
                wrong, link = follow(link or Link(line.seq - 1, line.prev), line)
                if checkpoint is not None and link.seq == checkpoint.seq and link != checkpoint:
                    wrong = wrong or "it is not what the last checkpoint was made of"
            if wrong and not problem:
                problem = f"{path.name}:{number}: {wrong}"
    return _Part(link, size, b"", problem)
