"""The hash chain of the decision log: pure functions from records to lines and back.

A line is `{"seq":N,"prev":"HEX","record":{…},"hash":"HEX"}`, and:
1. `seq` counts from 1 without a gap over all files.
2. `hash` is the SHA-256 of `passgate-audit-line-1`, a line feed, and all bytes of the line before `,"hash"`.
3. `prev` is the `hash` of the line before; that of the first line is 64 zeros.

So every byte of a line is either fixed, hashed, or the hash. What is checked are the bytes as they stand in the file:
nothing is ever written anew to be compared. Whoever wants to check the chain without Passgate needs a SHA-256 alone.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, NamedTuple

LONGEST: Final = 4 << 20
"""Bytes of a line, at most."""
_DOMAIN: Final = b"passgate-audit-line-1\n"
_LINE: Final = re.compile(
    rb'(\{"seq":([1-9][0-9]{0,17}),"prev":"([0-9a-f]{64})","record":(\{.*\})),"hash":"([0-9a-f]{64})"\}\n'
)


class Link(NamedTuple):
    """The end of the chain after a line: the next one follows on it."""

    seq: int
    hash: bytes  # 64 hex digits


START: Final = Link(0, b"0" * 64)
"""The end of a chain without lines."""


class Line(NamedTuple):
    """A line as it claims to be; see `follow`."""

    seq: int
    prev: bytes
    record: bytes
    hash: bytes
    hashed: bytes  # what `hash` should be made of

    @property
    def link(self) -> Link:
        """What the line says that the next one follows on."""
        return Link(self.seq, self.hash)


def linked(before: Link, *records: bytes) -> tuple[bytes, Link]:
    """The lines of some records (JSON objects without line feeds), and the end of the chain after them."""
    (seq, digest), lines = before, list[bytes]()
    for record in records:
        seq += 1
        hashed = b'{"seq":%d,"prev":"%b","record":%b' % (seq, digest, record)
        digest = _hash(hashed)
        lines += (hashed, b',"hash":"', digest, b'"}\n')
    return b"".join(lines), Link(seq, digest)


def read_line(data: bytes) -> Line | None:
    """One line with its line feed; `None` where it is none of this log."""
    found = _LINE.fullmatch(data)
    if found is None:
        return None
    hashed, seq, prev, record, digest = found.groups()
    return Line(int(seq), prev, record, digest, hashed)


def follow(before: Link, line: Line) -> tuple[str, Link]:
    """What is wrong with a line where it stands behind `before` (empty where it belongs there), and what comes next.

    What comes next follows on the line, or, where it has no place there, as if it was not there.
    """
    if _hash(line.hashed) != line.hash:
        return "it is not what its hash was made of: it was edited", Link(before.seq + 1, line.hash)
    if line.seq <= before.seq:
        return f"it has number {line.seq} where {before.seq + 1} is due: it was put in or moved", before
    if line.seq > before.seq + 1:
        return f"{missing(before.seq + 1, line.seq - 1)} before it", line.link
    if line.prev != before.hash:
        return "it does not follow on the line before it: one of the two was replaced", line.link
    return "", line.link


def torn(tail: bytes, before: Link) -> bool:
    """Whether bytes without a line feed at the very end are what a crash leaves of the line that was due."""
    due = b'{"seq":%d,"prev":"%b","record":{' % (before.seq + 1, before.hash)
    return due.startswith(tail[: len(due)]) and b"\n" not in tail


def missing(first: int, last: int) -> str:
    """Half a sentence about lines that are not there."""
    return f"line {first} is missing" if first == last else f"lines {first} to {last} are missing"


def _hash(hashed: bytes) -> bytes:
    return hashlib.sha256(_DOMAIN + hashed).hexdigest().encode()
