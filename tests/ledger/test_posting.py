"""The frames of a recovery file: cut anywhere, damaged anywhere, what is whole is read and nothing else."""

from __future__ import annotations

import struct
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.core.row import COLUMNS, LedgerRow
from gateway.ledger.posting import MARK, Damage, Posting, frame, scan
from tests.simulator.rows import PLAIN, delta, row

TEXT = [name for name in COLUMNS if isinstance(getattr(PLAIN, name), str)]
NUMBERS = [name for name in COLUMNS if type(getattr(PLAIN, name)) is int]

THREE = [Posting((row("a"),)), Posting((row("b"), row("b", attempt=2)), delta()), Posting((row("c"),))]
FRAMES = [frame(posting) for posting in THREE]


def test_every_column_survives_the_file() -> None:
    """A posting comes back exactly as it was, its run's delta included."""
    assert list(scan(b"".join(FRAMES))) == THREE


@given(
    st.fixed_dictionaries({name: st.text(st.characters(exclude_categories=["Cs"])) for name in TEXT}),
    st.fixed_dictionaries({name: st.integers(-(1 << 63), (1 << 63) - 1) for name in NUMBERS}),
    st.booleans(),
)
def test_any_row_survives_the_file(texts: dict[str, str], numbers: dict[str, int], estimated: bool) -> None:  # noqa: FBT001 - hypothesis passes it
    """Any text and any 64-bit number in any column come back as they were."""
    written: LedgerRow = replace(PLAIN, **texts, **numbers, estimated=estimated)
    assert list(scan(frame(Posting((written,))))) == [Posting((written,))]


def test_a_file_cut_at_any_byte_gives_its_whole_frames_and_no_damage() -> None:
    """A process killed while writing leaves a torn end: the frames before it are read, the torn one is silence."""
    data = b"".join(FRAMES)
    ends = [len(FRAMES[0]), len(FRAMES[0]) + len(FRAMES[1]), len(data)]
    for cut in range(len(data) + 1):
        whole = sum(end <= cut for end in ends)
        assert list(scan(data[:cut])) == THREE[:whole], cut


@given(st.integers(0, len(FRAMES[1]) - 1), st.integers(1, 255))
def test_a_damaged_frame_in_the_middle_is_told_and_the_others_are_read(position: int, flip: int) -> None:
    """One flipped byte anywhere in a frame costs this frame alone, and is reported with its place."""
    broken = bytearray(FRAMES[1])
    broken[position] ^= flip
    start = len(FRAMES[0])
    found = list(scan(FRAMES[0] + broken + FRAMES[2]))
    assert found == [THREE[0], Damage(start, len(broken)), THREE[2]]


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_rubbish_between_frames_is_skipped(before: bytes, between: bytes) -> None:
    """Whatever bytes a broken disk puts in, frames that are whole are found, in order."""
    found = [each for each in scan(before + FRAMES[0] + between + FRAMES[2]) if isinstance(each, Posting)]
    assert found == [THREE[0], THREE[2]]


@given(st.binary(max_size=400))
def test_rubbish_alone_is_no_posting(data: bytes) -> None:
    """No posting is ever read from what is none."""
    assert not [each for each in scan(MARK + data) if isinstance(each, Posting)]


def test_no_text_holds_a_mark() -> None:
    """An agent cannot write a frame into a name: the mark is no UTF-8, and all texts of a row are."""
    with pytest.raises(UnicodeDecodeError):
        MARK.decode("utf-8")


def test_a_lone_surrogate_costs_a_character_not_the_row() -> None:
    """A header that was no UTF-8 reaches a row as a lone surrogate; the row is kept, the character is not."""
    (kept,) = scan(frame(Posting((row("a", upstream_request_id="x\udcff"),))))
    assert isinstance(kept, Posting)
    assert kept.rows[0].upstream_request_id == "x?"


def test_a_number_beyond_what_a_frame_can_hold_is_a_value_error() -> None:
    """An impossible number is the caller's mistake, told before anything is written."""
    with pytest.raises(ValueError, match="beyond 64 bits"):
        frame(Posting((row("a", input_tokens=1 << 70),)))


def test_rows_of_another_release_are_read() -> None:
    """A column that this release does not know is dropped, one that the writer did not know has its default."""
    columns = {name: getattr(PLAIN, name) for name in COLUMNS if name not in ("duration_us", "status")}
    payload = msgspec.msgpack.encode([[{**columns, "invented_later": "x"}], None])
    data = struct.pack(">4sII", MARK, len(payload), zlib.crc32(payload)) + payload
    assert list(scan(data)) == [Posting((replace(PLAIN, duration_us=0, status=0),))]
