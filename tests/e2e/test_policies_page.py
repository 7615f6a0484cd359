"""docs/policies.md, followed line by line in an empty folder: each step prints what the page says it prints."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from gateway.cli import main
from tests.simulator.gateway import ROOT, eventually

PATIENCE: Final = 30.0
END: Final = "<end of the block>"
SECTION: Final = "## From an empty folder to a tested set\n"


class Shell:
    """A person's shell: what one block defines the next one has. Errors are shown where they appear."""

    def __init__(self, folder: Path, path: Path) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env={"PATH": f"{path}:/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def paste(self, block: str) -> str:
        """What it prints for some lines."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{block}\necho; echo '{END}'\n")
        self._bash.stdin.flush()
        lines = iter(self._bash.stdout.readline, f"{END}\n")
        return "".join(lines)

    def finds(self, block: str) -> bool:
        """Whether it prints anything."""
        return bool(self.paste(block).strip())

    def close(self) -> None:
        """Leave it, and all that it has started."""
        self.paste("kill $(jobs -p); wait")
        self._bash.communicate(timeout=PATIENCE)


@pytest.fixture
def ports() -> dict[str, str]:
    """The ports of the page, each with one that is free."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        free = [str(one.getsockname()[1]) for one in sockets]
    return dict(zip(("8080", "9464", "9901"), free, strict=True))


@pytest.fixture
def shell(tmp_path: Path, ports: dict[str, str]) -> Iterator[Shell]:
    """A shell as `make run` has it prepared, in a folder with what the repository has."""
    shutil.copytree(ROOT / "schemas", tmp_path / "schemas")
    config = (ROOT / "config.example.yaml").read_text()
    (tmp_path / "config.example.yaml").write_text(here(config, ports))
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "passgate").write_text(f'#!/bin/sh\nexec {sys.executable} -m gateway "$@"\n')
    (programs / "passgate").chmod(0o755)
    running = Shell(tmp_path, programs)
    running.paste("passgate keys new --config config.example.yaml")
    yield running
    running.close()


def here(text: str, ports: dict[str, str]) -> str:
    """A text of the page with ports that are free."""
    return re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda found: ports[found[0]], text)


def blocks() -> list[tuple[str, str]]:
    """The fenced blocks of the way through: language and text."""
    text = (ROOT / "docs" / "policies.md").read_text().partition(SECTION)[2].partition("\n## ")[0]
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def as_announced(printed: str, announced: str) -> bool:
    """Whether it is what the page shows: `…` stands for anything, alone on a line for any lines."""
    lines = [line.rstrip() for line in announced.splitlines() if line.strip()]
    pattern = "\n".join(re.escape(line).replace("…", ".*") for line in lines)
    pattern = pattern.replace("\n\\ \\ .*\n", "\n.*\n").replace("\n.*\n", "\n(?:.*\n)*")
    return bool(re.fullmatch(pattern, "\n".join(line.rstrip() for line in printed.splitlines() if line.strip())))


def test_the_way_through_the_policies_page_is_as_it_says(
    shell: Shell, tmp_path: Path, ports: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """From the empty folder to the signed bundle: files as they stand there, commands as they stand there."""

    def typed(line: str) -> str:
        """What a line prints; commands that need no shell spare the start of a process."""
        if not line.startswith("passgate ") or set("$|") & set(line):
            return shell.paste(line)
        with contextlib.chdir(tmp_path):
            main(shlex.split(line, comments=True)[1:])
        said = capsys.readouterr()
        return said.err + said.out

    def prints(text: str, announced: str) -> None:
        """Type it all, and hold what comes against what the page shows, if it shows something."""
        printed = "".join(map(typed, here(text, ports).replace(" && ", "\n").splitlines()))
        difference = f"{text}\n--- prints\n{printed}\n--- and should\n{announced}"
        assert not announced or as_announced(printed, announced), difference

    shown = 0
    for (language, text), (following, output) in pairwise([*blocks(), ("", "")]):
        announced = output if language == "sh" and not following else ""
        if language == "yaml" and text.startswith("# mine/"):
            (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text)
        elif text == "passgate serve\n":
            shell.paste("touch served.out; passgate serve >> served.out 2> served.log &")
            eventually(
                lambda: "Passgate is ready." in (tmp_path / "served.out").read_text(),
                f"it does not start: {tmp_path}/served.log",
            )
        elif "| grep would_" in text:
            eventually(partial(shell.finds, here(text, ports)), "it is not counted")
            prints(text, announced)
        elif language == "sh":
            prints(text, announced)
        shown += bool(announced)
    assert shown == 12
