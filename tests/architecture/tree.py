"""The tree as git sees it, for the tests of its shape."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.txt", "requirements-build.txt", "requirements-dev.txt")


def tracked(*, new: bool) -> list[Path]:
    """Every file that git tracks and that is there, relative to the root; with `new` also those it would add."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached"]
    if new:
        command += ["--others", "--exclude-standard"]
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout: clone the repository to run the tests of its shape")
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return sorted({Path(name) for name in names.split("\0") if name and (ROOT / name).is_file()})


def modules(*folders: str) -> Iterator[tuple[Path, ast.Module, str]]:
    """Every Python file below these folders: its path, its syntax tree and its text."""
    for path in tracked(new=True):
        if path.suffix == ".py" and path.parts[0] in folders:
            text = (ROOT / path).read_text()
            yield path, ast.parse(text, str(path)), text
