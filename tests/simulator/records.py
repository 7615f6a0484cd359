"""Recorded provider traffic, found beside the repository when it is there, and ways to serve it oddly.

The records are real answers of real providers. They are not part of the repository: tests that replay
them are skipped without them, and say how many cases that leaves out. What this module also offers,
writing the same value as different bytes, works on any fixture.
"""

from __future__ import annotations

import gzip
import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

FOLDER: Final = Path(__file__).resolve().parents[2].parent / "shared" / "wire"
CASES: Final = {"openai-chat": 101}
STREAMS: Final = {"openai-chat": 9}
"""How many records there are of each dialect that is replayed, and how many of them are streams."""


@dataclass(frozen=True)
class Record:
    """One request and its answer: `text` is a stream or what was no JSON, else `body` is the parsed answer."""

    name: str
    host: str
    path: str
    request: dict[str, Any]
    status: int
    content_type: str
    body: Any = None
    text: str | None = None

    @property
    def streamed(self) -> bool:
        """Whether the answer is a stream of server-sent events."""
        return self.content_type.startswith("text/event-stream")

    def request_bytes(self) -> bytes:
        """The request as a plain client would write it."""
        return json.dumps(self.request).encode()

    def answer_bytes(self) -> bytes:
        """The answer: a stream as it was, JSON as a plain server would write it."""
        return self.text.encode() if self.text is not None else json.dumps(self.body).encode()


def load(dialect: str) -> list[Record]:
    """All records of a dialect, none when they are not there."""
    file = FOLDER / f"{dialect}.ndjson.gz"
    if not file.is_file():
        return []
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [_record(json.loads(line)) for line in lines]


def _record(line: dict[str, Any]) -> Record:
    del line["dialect"]
    return Record(**line)


def parameters(dialect: str, *, streamed: bool = False) -> list[Any]:
    """The records (or only the streams) as test parameters; without them one that is skipped and says so."""
    found = [record for record in load(dialect) if record.streamed or not streamed]
    if not found:
        count = STREAMS[dialect] if streamed else CASES[dialect]
        reason = f"recorded traffic not found beside the repository: {count} cases of {dialect} left out"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="records")]
    return [pytest.param(record, id=f"{at}-{record.name.rpartition('/')[2]}") for at, record in enumerate(found)]


def oddly(value: object, seed: int, *, floats: bool = False, newlines: bool = True) -> bytes:
    """The same JSON value in bytes that hardly anybody writes.

    Other key order, stray whitespace, escapes for arbitrary characters; with `floats` integers
    as `12.0`; without `newlines` on one line, as a frame of a stream needs it.
    """
    return _odd(value, random.Random(seed), " \t\r\n" if newlines else " \t", floats=floats).encode()  # noqa: S311  not a secret


def _odd(value: object, rng: random.Random, blanks: str, *, floats: bool) -> str:
    def gap() -> str:
        return "".join(rng.choices(blanks, k=rng.choice((0, 0, 1, 3))))

    if isinstance(value, dict):
        members = list(value.items())
        rng.shuffle(members)
        inner = ",".join(
            f"{gap()}{_odd_text(name, rng)}{gap()}:{gap()}{_odd(member, rng, blanks, floats=floats)}{gap()}"
            for name, member in members
        )
        return f"{{{inner or gap()}}}"
    if isinstance(value, list):
        inner = ",".join(f"{gap()}{_odd(member, rng, blanks, floats=floats)}{gap()}" for member in value)
        return f"[{inner or gap()}]"
    if isinstance(value, str):
        return _odd_text(value, rng)
    if floats and type(value) is int and abs(value) < 2**53:
        return f"{value}.0"
    return json.dumps(value)


def _odd_text(text: str, rng: random.Random) -> str:
    return '"' + "".join(_odd_character(character, rng) for character in text) + '"'


def _odd_character(character: str, rng: random.Random) -> str:
    if rng.random() < 0.2:
        units = character.encode("utf-16-be")
        return "".join(f"\\u{units[at]:02x}{units[at + 1]:02X}" for at in range(0, len(units), 2))
    return json.dumps(character, ensure_ascii=False)[1:-1]


def cut_at(data: bytes, places: list[int]) -> list[bytes]:
    """The same bytes in chunks that end at these places."""
    bounds = sorted({0, len(data), *(place for place in places if 0 < place < len(data))})
    return [data[start:stop] for start, stop in itertools.pairwise(bounds)]


def restream(data: bytes, seed: int, *, line_end: bytes = b"\n", floats: bool = False) -> bytes:
    """The same events with every JSON frame written oddly: line ends, comments, multi-line data."""
    rng = random.Random(seed)  # noqa: S311  not a secret
    frames: list[bytes] = []
    for frame in data.split(b"\n\n"):
        lines: list[bytes] = []
        for line in frame.split(b"\n"):
            if line.startswith(b"data: {"):
                text = oddly(json.loads(line[6:]), rng.randrange(1 << 30), floats=floats)
                text = text.replace(b"\r", b" ")
                prefix = rng.choice((b"data:", b"data: "))
                # A leading space would be taken for the separator's; it carries no meaning in JSON.
                lines += [prefix + part for part in text.split(b"\n")]
            else:
                lines.append(line)
        if rng.random() < 0.1:
            lines.insert(0, b": still here")
        frames.append(line_end.join(lines))
    return (line_end * 2).join(frames)
