"""Finding what was changed in a decision log: the chain from its first line to its last, and the checkpoints about it.

The steps, each with what it finds:
(1) every line is a line of this log: anything else that was put in;
(2) its hash is the hash of its bytes: an edited line;
(3) its number is the one that is due: lines or whole files that were removed, put in, moved or repeated;
(4) it names the hash of the line before it: a line that was replaced together with its hash;
(5) each checkpoint carries the signature of the gateway's key over what its row says: a forged or edited one;
(6) the line that it is about has the hash that was signed: a log that was written anew, all hashes included;
(7) that line is there: a log that was cut off at its end.
What came after the last checkpoint can be cut off unseen; a line without its end, which a crash leaves, is told apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from msgspec import Struct

from gateway.audit.chain import START, Link, follow, missing, read_line, torn
from gateway.audit.checkpoint import check
from gateway.audit.files import file_name, file_number, log_files, read_lines
from gateway.core.clock import rfc3339
from gateway.identity.keys import KeySet
from gateway.state.checkpoints import Checkpoint

MOST: Final = 100
"""Findings that are told; a log that was replaced has one for every checkpoint."""


class Finding(Struct, frozen=True):
    """Something that is wrong, and where."""

    where: str  # FILE:LINE, or `checkpoint SEQ`
    problem: str


class Verdict(Struct):
    """What was found."""

    files: int = 0
    lines: int = 0
    first: int = 0  # numbers of the first and the last line
    last: int = 0
    checkpoints: int = 0
    last_checkpoint: Checkpoint | None = None  # the last one whose signature and line are right
    torn: str = ""  # where a line has no end: a crash, or it is being written this moment
    findings: list[Finding] = []
    more: int = 0  # findings beyond those that are told

    @property
    def first_bad_line(self) -> str:
        """FILE:LINE, empty where no line is bad."""
        return next((one.where for one in self.findings if not one.where.startswith("checkpoint")), "")

    def add(self, where: str, problem: str) -> None:
        """One more finding."""
        if len(self.findings) < MOST:
            self.findings.append(Finding(where, problem))
        else:
            self.more += 1


def verify(folder: Path, checkpoints: Iterable[Checkpoint], keys: KeySet) -> Verdict:
    """Read the whole log, oldest line first, beside the checkpoints, which come in the order of their lines.

    `checkpoints` must be those of before this is called, where the gateway runs meanwhile. Raises `OSError`.
    """
    verdict = Verdict()
    signed = _Signed(checkpoints, keys, verdict)
    before, number, row = START, 0, 0
    files = log_files(folder) if folder.exists() else []
    for path in files:
        gap = f" ({file_name(number + 1)} is not there)" if file_number(path) != number + 1 else ""
        number, row = file_number(path), 0
        with path.open("rb") as file:
            for row, data in enumerate(read_lines(file), 1):
                line = read_line(data)
                if line is None:  # (1)
                    if path == files[-1] and not data.endswith(b"\n") and torn(data, before):
                        verdict.torn = f"{path.name}:{row}"
                    else:
                        verdict.add(f"{path.name}:{row}", "it is no line of this log: it was put in, or edited")
                    continue
                problem, link = follow(before, line)  # (2) to (4)
                if problem:
                    verdict.add(f"{path.name}:{row}", problem + gap * (link.seq > before.seq + 1))
                before = link
                verdict.lines += 1
                verdict.first = verdict.first or line.seq
                if link.seq >= signed.due:
                    signed.compare(link, f"{path.name}:{row}")  # (6)
    verdict.files, verdict.last = len(files), before.seq
    signed.end(before, verdict.torn or f"{file_name(number or 1)}:{row + 1}")  # (7)
    return verdict


class _Signed:
    """The checkpoints, each looked at once when its line comes."""

    def __init__(self, checkpoints: Iterable[Checkpoint], keys: KeySet, verdict: Verdict) -> None:
        self._keys = keys
        self._verdict = verdict
        self._rest = iter(checkpoints)
        self._next = self._genuine()

    @property
    def due(self) -> float:
        """The line of the next one."""
        return self._next.seq if self._next is not None else math.inf

    def compare(self, link: Link, where: str) -> None:
        """Hold the one of this line against it; those of lines that are missing have no more to say."""
        verdict = self._verdict
        while self._next is not None and self._next.seq <= link.seq:
            checkpoint, self._next = self._next, self._genuine()
            if checkpoint.seq == link.seq and checkpoint.hash.encode() == link.hash:
                verdict.last_checkpoint = checkpoint
            elif checkpoint.seq == link.seq:
                since = f" behind line {verdict.last_checkpoint.seq}" if verdict.last_checkpoint is not None else ""
                verdict.add(where, f"it is not the line that was signed: the log{since} was written anew up to here")

    def end(self, last: Link, where: str) -> None:
        """Those that are left are about lines that are missing at the end."""
        checkpoint = None
        while self._next is not None:
            checkpoint, self._next = self._next, self._genuine()
        if checkpoint is not None:
            problem = f"{missing(last.seq + 1, checkpoint.seq)} at the end of the log: it was cut off"
            self._verdict.add(where, f"{problem} (signed at {rfc3339(checkpoint.time)})")

    def _genuine(self) -> Checkpoint | None:
        """The next one whose row says what the gateway's key has signed: (5)."""
        for checkpoint in self._rest:
            self._verdict.checkpoints += 1
            try:
                check(checkpoint, self._keys)
            except ValueError as error:
                self._verdict.add(f"checkpoint {checkpoint.seq}", str(error))
            else:
                return checkpoint
        return None
