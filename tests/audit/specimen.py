"""A decision log to tamper with: written by the real writer, in several files, and signed by a real key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.audit.chain import Link
from gateway.audit.checkpoint import public_keys, sign
from gateway.audit.verify import Verdict, verify
from gateway.audit.writer import Chain
from gateway.identity.issue import PrivateKey
from gateway.state.checkpoints import Checkpoint
from tests.simulator.clock import SetClock

KEY: Final = PrivateKey.new("EdDSA")


def record(number: int) -> bytes:
    """What stands for the record of a decision."""
    return b'{"id":"dec_%d","agent":"procurement","effect":"allow"}' % number


@dataclass
class Specimen:
    """A log of `len(batches)` batches; after each a checkpoint is signed."""

    folder: Path
    batches: Sequence[int] = (3, 1, 4, 2, 3)
    file_size: int = 800  # bytes: four lines
    checkpoints: list[Checkpoint] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)  # as they were written

    def __post_init__(self) -> None:
        clock = SetClock()
        chain = Chain.open(self.folder, None, clock, file_size=self.file_size)
        for size in self.batches:
            chain.append([record(chain.tip.seq + 1 + number) for number in range(size)])
            self.checkpoints.append(sign(KEY, chain.tip, clock.now()))
            clock.pass_(10)
        chain.close()
        self.files = self.now()

    def now(self) -> dict[str, bytes]:
        """The files as they are."""
        return {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}

    def put(self, files: dict[str, bytes]) -> None:
        """Have the folder hold these files and no others."""
        for path in self.folder.iterdir():
            path.unlink()
        for name, data in files.items():
            (self.folder / name).write_bytes(data)

    @property
    def last(self) -> Link:
        """Where the log was signed last."""
        return Link(self.checkpoints[-1].seq, self.checkpoints[-1].hash.encode())

    def verdict(self, checkpoints: Sequence[Checkpoint] | None = None) -> Verdict:
        """What the verification says now."""
        return verify(self.folder, self.checkpoints if checkpoints is None else checkpoints, public_keys(KEY))


def rows(data: bytes) -> list[bytes]:
    """The lines of a file, with their line feeds."""
    return data.splitlines(keepends=True)
