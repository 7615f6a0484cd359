"""The files of the decision log: `audit-000001.ndjson` and on, the chain goes on from each to the next."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from gateway.audit.chain import LONGEST

_NAME: Final = re.compile(r"audit-([0-9]{6})\.ndjson")


def log_files(folder: Path) -> list[Path]:
    """All of them, oldest first; raises `OSError`. Other names are no part of the log."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def file_number(path: Path) -> int:
    """Which one it is, counted from 1."""
    return int(path.stem.removeprefix("audit-"))


def file_name(number: int) -> str:
    """What the file with this number is called."""
    return f"audit-{number:06d}.ndjson"


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Its lines with their line feeds; the last one may have none. One that is too long comes in pieces."""
    while line := file.readline(LONGEST):
        yield line
