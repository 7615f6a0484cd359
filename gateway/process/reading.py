"""Reading a configuration beside the calls: in a thread, or, where there are many rules, in a process of its own.

Checking ten thousand rules takes seconds of pure computing, and all workers wait for the supervisor now and then. So
what is large is read and checked by a process that ends with it: it gives back the record of the files, and the image
of the rules. Nothing else is learnt from it, and what it says is wrong is told like any mistake.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from gateway.build import prepare
from gateway.config import Config, ConfigMistakes, load
from gateway.core.sources import DiskSources, Listed
from gateway.policy.loading import policy_files
from gateway.settings import Complaint

_LARGE: Final = 256 * 1024
"""Bytes of policy files beyond which they are read in a process of its own, which costs half a second to start."""
_NICE: Final = 10
"""By how much calls come before it where they share a core."""
_PATIENCE: Final = 300.0
"""Seconds that it may take."""


class Read(NamedTuple):
    """A configuration that workers will be able to build: the image of its rules, and their revision."""

    config: Config
    policies: bytes
    revision: int


class _Told(Struct, array_like=True):
    """What the other process gives back."""

    mistakes: list[Complaint]
    files: dict[str, bytes] = {}
    dirs: dict[str, Listed] = {}
    variables: dict[str, str | None] = {}
    policies: bytes = b""
    revision: int = 0


class ReadingError(Exception):
    """The process that was to read has failed; the words are for operators."""


async def read(path: Path, sources: DiskSources) -> Read:
    """Read all of a configuration; `sources` has the record of it afterwards.

    Raises `ConfigMistakes`, and `ReadingError`.
    """
    config = await asyncio.to_thread(load, path, DiskSources())
    if await asyncio.to_thread(_size, config) <= _LARGE:
        return await asyncio.to_thread(_whole, path, sources)
    told = await _elsewhere(path)
    if told.mistakes:
        raise ConfigMistakes(told.mistakes)
    sources.files |= told.files
    sources.dirs |= told.dirs
    sources.variables |= told.variables
    return Read(await asyncio.to_thread(load, path, sources), told.policies, told.revision)


async def read_again(path: Path, sources: DiskSources, before: Read) -> Read:
    """Read the configuration of `sources`, whose policies are those of `before`; raises `ConfigMistakes`."""

    def work() -> Read:
        config = load(path, sources)
        prepare(config, sources, policies=before.policies)
        return Read(config, before.policies, before.revision)

    return await asyncio.to_thread(work)


def _whole(path: Path, sources: DiskSources) -> Read:
    config = load(path, sources)
    policy = prepare(config, sources).policy
    return Read(config, policy.image, policy.revision)


def _size(config: Config) -> int:
    """Bytes of the policy files; what cannot be listed is complained of by whoever reads it."""
    try:
        return sum(file.stat().st_size for file in policy_files(config.settings.policies.dir, DiskSources()))
    except OSError:
        return 0


async def _elsewhere(path: Path) -> _Told:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.process.reading", str(path)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            told, _ = await process.communicate()
        return await asyncio.to_thread(msgspec.msgpack.decode, told, type=_Told)
    except TimeoutError:
        raise ReadingError(f"the policies could not be read within {_PATIENCE:g} s") from None
    except msgspec.MsgspecError:
        raise ReadingError(f"the process that reads the policies failed ({process.returncode})") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def main() -> None:
    """Read the configuration that is named, and write to standard output what there is to tell of it."""
    os.nice(_NICE)
    path, sources = Path(sys.argv[1]), DiskSources()
    try:
        config, policies, revision = _whole(path, sources)
        rules = {str(file) for file in policy_files(config.settings.policies.dir, sources)}
        files = {name: data for name, data in sources.files.items() if name not in rules}
        told = _Told([], files, sources.dirs, sources.variables, policies, revision)
    except ConfigMistakes as mistakes:
        told = _Told(mistakes.complaints)
    sys.stdout.buffer.write(msgspec.msgpack.encode(told))


if __name__ == "__main__":
    main()
