"""The files that a configuration is made of: read from disk once, then handed on as they were.

The supervisor loads through `DiskSources`, which remembers every byte it gave out; each worker
loads the same configuration through `KeptSources` from that record. All processes therefore run
the same state, whatever happens to the files in between.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

MAX_FILE_BYTES: Final = 10 * 1024 * 1024


Wanted = Callable[[str], bool]
Listed = list[tuple[str, str]]
"""Path and real path of each file below a directory, by path."""


class Sources(Protocol):
    """Where configuration is read from."""

    def read(self, path: Path) -> bytes:
        """The file's content; raises `OSError` (`FileNotFoundError`, …) with a cause worth printing."""
        ...

    def listdir(self, path: Path, wanted: Wanted) -> list[Path]:
        """The regular files below a directory whose names are `wanted`, sorted, each real file once; raises `OSError`.

        Names and folders that start with a dot are left out. A link counts as the file that it leads to
        only after its own name was judged, so that no unwanted name can hide a wanted one; one that leads
        nowhere is listed, and cannot be read.
        """
        ...

    def environment(self, name: str) -> str | None:
        """A variable of the environment, `None` when unset."""
        ...


class DiskSources:
    """The real files and environment; keeps a record of all it gave out."""

    def __init__(self) -> None:
        """Start with an empty record."""
        self.files: dict[str, bytes] = {}
        self.dirs: dict[str, Listed] = {}
        self.variables: dict[str, str | None] = {}

    def read(self, path: Path) -> bytes:
        """See `Sources`; refuses what is over 10 MiB."""
        key = str(path)
        if key not in self.files:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                raise OSError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
            self.files[key] = data
        return self.files[key]

    def listdir(self, path: Path, wanted: Wanted) -> list[Path]:
        """See `Sources`."""
        key = str(path)
        if key not in self.dirs:
            if not path.is_dir():
                raise NotADirectoryError(f"{path} is not a directory")
            self.dirs[key] = sorted((str(file), os.path.realpath(file)) for file in _walk(path))
        return _chosen(self.dirs[key], wanted)

    def environment(self, name: str) -> str | None:
        """See `Sources`."""
        if name not in self.variables:
            self.variables[name] = os.environ.get(name)
        return self.variables[name]


class WithoutSecrets(DiskSources):
    """For who needs the settings and no secret: an unset variable is no mistake and switches nothing off.

    A report of spend runs in the shell of somebody who has no provider's key, and should not have one.
    """

    def environment(self, name: str) -> str | None:
        """See `Sources`; where a variable is unset, its name stands for it."""
        return super().environment(name) or f"({name})"


class KeptSources:
    """A record made by `DiskSources`, read again."""

    def __init__(self, files: dict[str, bytes], dirs: dict[str, Listed], variables: dict[str, str | None]) -> None:
        """Take the three records."""
        self._files, self._dirs, self._variables = files, dirs, variables

    def read(self, path: Path) -> bytes:
        """See `Sources`."""
        try:
            return self._files[str(path)]
        except KeyError:
            raise FileNotFoundError(f"{path} was not there when this configuration was read") from None

    def listdir(self, path: Path, wanted: Wanted) -> list[Path]:
        """See `Sources`."""
        try:
            return _chosen(self._dirs[str(path)], wanted)
        except KeyError:
            raise NotADirectoryError(f"{path} was not there when this configuration was read") from None

    def environment(self, name: str) -> str | None:
        """See `Sources`."""
        return self._variables.get(name)


def _walk(folder: Path) -> Iterator[Path]:
    for below, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(below, name)
            # A link that leads nowhere may be a rule that denies: whoever reads it is told.
            if not name.startswith(".") and (file.is_file() or (file.is_symlink() and not file.exists())):
                yield file


def _chosen(listed: Listed, wanted: Wanted) -> list[Path]:
    once: dict[str, str] = {}
    for path, real in listed:
        if wanted(Path(path).name):
            once.setdefault(real, path)
    return [Path(path) for path in once.values()]
