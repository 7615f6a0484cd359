"""What is shipped is what is in git: nothing more, nothing less, nothing that runs by itself."""

from __future__ import annotations

import zipfile
from email import message_from_bytes
from pathlib import Path

import gateway
from tests.architecture.tree import ROOT, tracked


def test_the_wheel_is_the_git_tree(wheel: Path) -> None:
    """S20: the package in the wheel has the files that git tracks, byte for byte; add or delete what differs."""
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    kept = {str(path): (ROOT / path).read_bytes() for path in tracked(new=False) if path.parts[0] == "gateway"}
    assert sorted(shipped) == sorted(kept)
    assert [name for name, content in kept.items() if shipped[name] != content] == []


def test_nothing_in_the_wheel_runs_by_itself(wheel: Path) -> None:
    """S20: the wheel holds no `.pth` file, no `.data` folder, no compiled code, and one command."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (commands,) = [archive.read(name).decode() for name in names if name.endswith("/entry_points.txt")]
    assert [name for name in names if name.endswith((".pth", ".so", ".pyc")) or ".data/" in name] == []
    assert commands.split() == ["[console_scripts]", "passgate", "=", "gateway.cli:main"]


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    """Name, version, licence and Python version of the wheel are those of the source."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [archive.read(name) for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    said = message_from_bytes(metadata)
    assert (said["Name"], said["Version"]) == ("passgate", gateway.__version__)
    assert (said["License-Expression"], said["Requires-Python"]) == ("Apache-2.0", ">=3.11")
