"""`make run` in a copy of what a fresh clone holds, on free ports and without the install."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.simulator.gateway import ROOT

_PATIENCE = 45.0
_COPIED = ("Makefile", "pyproject.toml", "requirements.txt", "requirements-build.txt", "policies", "schemas")
_LAST_LINE = "Ctrl-C stops the gateway"
# What pip writes for the console script of pyproject.toml.
_PASSGATE = f"#!{sys.executable}\nimport sys\nfrom gateway.cli import main\nsys.exit(main())\n"


@dataclass
class Example:
    """The example configuration as `make run` serves it; use it in `with`.

    `output` is what a person sees in the terminal, the log in `folder/log` left out.
    """

    folder: Path
    output: str = ""
    process: subprocess.Popen[bytes] = field(init=False)

    def write(self) -> None:
        """Copy what `make run` needs; only where it listens is changed, so that nothing is in the way."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in _COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, self.folder / name)
        config = (ROOT / "config.example.yaml").read_text()
        self.config.write_text(re.sub(r"(bind: 127\.0\.0\.1):\d+", r"\1:0", config))
        programs = self.folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        (programs / "python").symlink_to(sys.executable)
        (programs / "passgate").write_text(_PASSGATE)
        (programs / "passgate").chmod(0o755)
        (programs.parent / ".installed").touch()  # after all that it depends on

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / "config.example.yaml"

    @property
    def environment(self) -> dict[str, str]:
        """A shell's, without what a `make` above it would pass down."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        ours.pop("CONFIG", None)
        return ours | {"PYTHONPATH": str(ROOT)}

    def start(self) -> None:
        """`make run`, and wait for the end of its welcome."""
        with (self.folder / "out").open("wb") as out, (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["make", "run"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C reaches all of it, as in a terminal
            )
        until = time.monotonic() + _PATIENCE
        while _LAST_LINE not in (output := (self.folder / "out").read_text()):
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"no welcome:\n{output}\n{(self.folder / 'log').read_text()[-4000:]}")
            time.sleep(0.02)
        self.output = output

    def interrupt(self) -> int:
        """Ctrl-C, and wait for the end; gives make's exit code."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        try:
            return self.process.wait(_PATIENCE)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def __enter__(self) -> Self:
        self.write()
        try:
            self.start()
        except BaseException:
            if hasattr(self, "process") and self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.interrupt()

    # -- what a person does next

    def printed(self, pattern: str) -> str:
        """The one line of the output that matches, without its indentation; fails when there is not exactly one."""
        (found,) = [line.strip() for line in self.output.splitlines() if re.search(pattern, line)]
        return found

    def paste(self, line: str) -> subprocess.CompletedProcess[str]:
        """What a shell in the same folder makes of a line."""
        return subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )

    def variable(self, name: str) -> str:
        """The value of an `export NAME=…` line."""
        return self.printed(rf"^\s*export {name}=").partition("=")[2]

    @property
    def url(self) -> str:
        """Where agents reach it, without a path."""
        return self.variable("OPENAI_BASE_URL").removesuffix("/v1")
