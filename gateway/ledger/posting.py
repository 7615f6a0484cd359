"""What is posted, and the frames in which a recovery file keeps it.

A frame is a mark, the length and the CRC-32 of its payload (big-endian), and the payload: one
`Posting` as MessagePack. Rows travel with their column names, so that another release can read
them: a column it does not know is dropped, one that is missing has its default.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.core.approval import ApprovedOutcome
from gateway.core.attestation import Attestation
from gateway.core.row import COLUMNS, LedgerRow
from gateway.core.run import RunDelta

MARK: Final = b"\xffrow"
"""Where a frame may begin. The byte 0xFF stands in no UTF-8 text, so that nothing an agent wrote can look like one."""

_HEAD: Final = struct.Struct(">4sII")
_LONGEST: Final = 4 << 20


class Posting(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Rows that are committed together, and what they add to their run; applied once however often it is sent."""

    rows: tuple[LedgerRow, ...]
    delta: RunDelta | None = None
    attestations: tuple[Attestation, ...] = ()  # what was observed in this call
    outcome: ApprovedOutcome | None = None


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """What a worker sends at once."""

    postings: tuple[Posting, ...]


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a recovery file that no posting could be read from."""

    offset: int
    length: int


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Posting).decode


def frame(posting: Posting) -> bytes:
    """A posting as one frame; raises `ValueError` for a number that no ledger column can hold."""
    try:
        payload = _encode(posting)
    except UnicodeEncodeError:
        payload = _encode(_clean(posting))
    except OverflowError:
        raise ValueError("a ledger row has a number beyond 64 bits") from None
    return _HEAD.pack(MARK, len(payload), zlib.crc32(payload)) + payload


def scan(data: bytes) -> Iterator[Posting | Damage]:
    """The postings of a recovery file in order.

    What cannot be read in the middle is told as `Damage` and skipped; an unfinished frame at the
    end is what a killed process leaves behind, and no posting that was acknowledged.
    """
    position = 0
    while position < len(data):
        found = _read(data, position)
        if found is not None:
            posting, position = found
            yield posting
            continue
        start = position
        while found is None:
            position = data.find(MARK, position + 1)
            if position < 0:
                return
            found = _read(data, position)
        yield Damage(start, position - start)


def _read(data: bytes, position: int) -> tuple[Posting, int] | None:
    if len(data) - position < _HEAD.size:
        return None
    mark, length, checksum = _HEAD.unpack_from(data, position)
    start = position + _HEAD.size
    end = start + length
    if mark != MARK or length > _LONGEST or end > len(data):
        return None
    payload = data[start:end]
    if zlib.crc32(payload) != checksum:
        return None
    try:
        return _decode(payload), end
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _clean(posting: Posting) -> Posting:
    """The same posting without lone surrogates, which an undecodable header can bring and no column takes."""
    rows = []
    for row in posting.rows:
        texts: dict[str, Any] = {
            name: value.encode("utf-8", "replace").decode()
            for name in COLUMNS
            if isinstance(value := getattr(row, name), str)
        }
        rows.append(msgspec.structs.replace(row, **texts))
    return Posting(tuple(rows), posting.delta, posting.attestations, posting.outcome)
