"""Processes of the benchmark: started on cores of their own, read through /proc, stopped at the end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
START_LIMIT = 60.0  # seconds until a server must listen
STOP_LIMIT = 20.0  # seconds until a server that was asked to stop is killed


@dataclass(frozen=True, slots=True)
class Reading:
    """What one process had used at one moment."""

    pid: int
    cpu: float  # seconds of user and system time of all its threads
    memory: int  # resident bytes


@dataclass(frozen=True, slots=True)
class Places:
    """Which cores do what; with two of them load and upstream share one, with one all of them."""

    under_test: set[int]
    loading: set[int]
    beyond: set[int]  # the upstream

    @classmethod
    def here(cls) -> Self:
        """Share out the cores that this process may use."""
        cores = sorted(os.sched_getaffinity(0))
        return cls({cores[0]}, {cores[1 % len(cores)]}, {cores[min(2, len(cores) - 1)]})


class Server:
    """A server process with its children, pinned to some cores, listening on a loopback port."""

    def __init__(self, name: str, port: int, command: list[str], cores: set[int], log: Path) -> None:
        self.name, self.port, self._log = name, port, log
        with log.open("wb") as output, pinned(cores):  # children inherit the cores, from their first instruction on
            self._process = subprocess.Popen([sys.executable, *command], stdout=output, stderr=output)

    def wait(self) -> None:
        """Return once the port is open; raises RuntimeError with the end of its log when it does not come up."""
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} does not listen on port {self.port}; the end of its log:\n{self.tail()}")

    def tail(self) -> str:
        """Give the end of what it printed."""
        return self._log.read_text(errors="replace")[-3000:]

    def readings(self) -> list[Reading]:
        """Read the process itself and, after it, all its descendants."""
        return list(_family(self._process.pid))

    def stop(self) -> None:
        """Ask it to end; kill it when it does not."""
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """Give a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Keep this process on some cores for a while."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _family(root: int) -> Iterator[Reading]:
    """Read the root, then its descendants; a process that ended while we looked is left out."""
    children: dict[int, list[Reading]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            memory = int((entry / "statm").read_text().split()[1]) * _PAGE
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = stat[stat.rindex(")") + 2 :].split()  # proc(5): behind the name, which may hold anything
        parent, cpu = int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS  # utime + stime
        reading = Reading(int(entry.name), cpu, memory)
        children.setdefault(parent, []).append(reading)
        if reading.pid == root:
            yield reading
    parents = [root]
    while parents:
        below = children.get(parents.pop(), [])
        yield from below
        parents.extend(reading.pid for reading in below)
