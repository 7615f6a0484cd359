"""What a reload of ten thousand rules costs those who call meanwhile: the longest call, and how many failed.

Calls come at a steady pace over a few connections, first while nothing else happens, then while the gateway is told
(SIGHUP) to read everything again. All its processes share one core.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks import load, systems
from benchmarks.limits import Limit
from benchmarks.processes import Places, Server, pinned

LONGEST_MILLISECONDS = 50.0  # what is promised
CONNECTIONS = 8
PAUSE = 0.02  # seconds between an answer and the next call of a connection
PATIENCE = 120.0  # seconds for one reload


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    rules: int
    reloads: int


FULL = Sizes(rules=10_000, reloads=3)
QUICK = Sizes(rules=10_000, reloads=1)


@dataclass(slots=True)
class Figures:
    """What was measured, in milliseconds but for the counts; `took` is how long a reload takes until it is in force."""

    rules: int = 0
    quiet_p99: float = 0.0
    quiet_longest: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    took: float = 0.0
    calls: int = 0
    failed: int = 0


def run(places: Places, sizes: Sizes, say: Callable[[str], None]) -> Figures:
    """Measure on a gateway of its own; raises RuntimeError and OSError where it does not start or does not reload."""
    say(f"reload: {sizes.rules:,} rules, {sizes.reloads} times")
    with tempfile.TemporaryDirectory(prefix="passgate-bench-") as name, pinned(places.loading):
        folder, servers = Path(name), list[Server]()
        try:
            servers.append(provider := systems.upstream(places.beyond, folder))
            write_rules(folder / "policies", sizes.rules)
            passgate, token = systems.gateway(places.under_test, folder, provider.port)
            servers.append(passgate)
            for server in servers:
                server.wait()
            return uvloop.run(_measure(passgate, token, folder, sizes))
        finally:
            for server in reversed(servers):
                server.stop()


def write_rules(folder: Path, count: int) -> None:
    """So many rules, each with a condition, in ten files; none concerns the calls that are made."""
    folder.mkdir()
    for file in range(10):
        rules = [
            {
                "id": f"r{file}-{number}",
                "effect": "allow",
                "match": {"agents": [f"agent-{number}"], "tools": [f"server-{file}.operation-{number}"]},
                "when": f'args.amount <= {number} && args.currency == "EUR"',
            }
            for number in range(count // 10)
        ]
        policy = {"version": 1, "policy": f"p{file}", "rules": rules}
        (folder / f"p{file}.yaml").write_text(json.dumps(policy))  # JSON is YAML


async def _measure(passgate: Server, token: str, folder: Path, sizes: Sizes) -> Figures:
    figures = Figures(rules=sizes.rules)
    log = folder / "gateway.log"
    quiet, during, took = list[float](), list[float](), list[float]()
    asked = load.request(token)
    await _calls(passgate.port, asked, asyncio.sleep(1.0), [], figures)
    await _calls(passgate.port, asked, asyncio.sleep(5.0), quiet, figures)
    for _ in range(sizes.reloads):
        await _calls(passgate.port, asked, _reload(passgate, log, took), during, figures)
    figures.quiet_p99, figures.quiet_longest = _summary(quiet)
    figures.p99, figures.longest = _summary(during)
    figures.took = max(took) * 1e3
    figures.calls = len(quiet) + len(during)
    return figures


async def _reload(passgate: Server, log: Path, took: list[float]) -> None:
    """Have it read everything again, and wait until that is in force."""
    before, began = _reloads(log), time.perf_counter()
    os.kill(passgate.readings()[0].pid, signal.SIGHUP)
    async with asyncio.timeout(PATIENCE):
        while _reloads(log) == before:  # noqa: ASYNC110 - a file sets no event
            await asyncio.sleep(0.05)
    took.append(time.perf_counter() - began)
    await asyncio.sleep(1.0)  # what was in force before is let go


def _reloads(log: Path) -> int:
    return log.read_bytes().count(b'"reloaded"')


async def _calls(
    port: int, asked: bytes, event: Coroutine[None, None, None], times: list[float], figures: Figures
) -> None:
    """Make calls while something happens."""
    over = asyncio.Event()

    async def happen() -> None:
        try:
            await event
        finally:
            over.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(happen())
        for _ in range(CONNECTIONS):
            group.create_task(_connection(port, asked, over, times, figures))


async def _connection(port: int, asked: bytes, over: asyncio.Event, times: list[float], figures: Figures) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while not over.is_set():
        began = time.perf_counter()
        writer.write(asked)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        times.append(time.perf_counter() - began)
        figures.failed += not head.startswith(b"HTTP/1.1 200")
        await asyncio.sleep(PAUSE)
    writer.close()


def _summary(times: list[float]) -> tuple[float, float]:
    ordered = sorted(times)
    return ordered[len(ordered) * 99 // 100] * 1e3, ordered[-1] * 1e3


def table(figures: Figures) -> list[str]:
    """Lay the figures out, one row each."""

    def row(label: str, value: str, unit: str = "ms") -> str:
        return f"{label:<44}{unit:>8}{value:>20}"

    return [
        f"Reloading {figures.rules:,} rules with conditions under {figures.calls:,} calls, one core for all processes",
        row("a call p99 / longest, nothing else happens", f"{figures.quiet_p99:.1f} / {figures.quiet_longest:.1f}"),
        row("a call p99 / longest, during a reload", f"{figures.p99:.1f} / {figures.longest:.1f}"),
        row("a reload until it is in force", f"{figures.took:,.0f}"),
        row("calls that failed", f"{figures.failed}", ""),
    ]


def limits(figures: Figures) -> list[Limit]:
    """Hold the figures against what is promised of them."""
    return [
        Limit("the longest call during a reload, ms", figures.longest, LONGEST_MILLISECONDS),
        Limit("calls that failed during reloads", figures.failed, 0),
    ]
