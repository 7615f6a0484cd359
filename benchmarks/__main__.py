"""`make bench`: measure the bare proxy and the gateway in turns, print a table, write JSON, keep the limits."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import uvloop

from benchmarks import identity, load, policy, reload, systems, upstream
from benchmarks.limits import Limit
from benchmarks.processes import Places, Reading, Server, pinned

CROWD = 32  # connections at which CPU, rate and streams are measured
CPU_RATIO, FRAME_MICROSECONDS, WORKER_MEGABYTES = 1.6, 40.0, 90.0  # what `--assert` keeps


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    rounds: int  # turns that each system gets, so that a slow minute of the machine meets all of them
    calls: int  # calls a turn, over 32 connections
    latency_calls: dict[int, int]  # connections -> calls
    first_events: int  # streams, one after the other, of which the time to the first event is taken
    streams: int  # streams over each of 32 connections, of which the cost of a frame is taken


FULL = Sizes(rounds=5, calls=20_000, latency_calls={1: 3_000, 256: 20_000}, first_events=300, streams=4)
QUICK = Sizes(rounds=2, calls=3_000, latency_calls={1: 500, 256: 3_000}, first_events=50, streams=1)
SHORT, LONG = 10, 210  # frames of the two kinds of stream whose difference is the cost of 200 frames


@dataclass(slots=True)
class Figures:
    """What was measured of one system; times in microseconds, memory in megabytes (10^6 bytes)."""

    cpu_per_call: list[float] = field(default_factory=list)  # a figure a turn, all processes together
    cpu_per_call_first: list[float] = field(default_factory=list)  # of the first process: the gateway's supervisor
    calls_per_second: list[float] = field(default_factory=list)
    latency: dict[int, tuple[float, float]] = field(default_factory=dict)  # connections -> p50, p99
    first_event: tuple[float, float] = (0.0, 0.0)  # p50, p99
    cpu_per_frame: float = 0.0
    memory_at_rest: list[float] = field(default_factory=list)  # by process, the first one first
    memory_after: list[float] = field(default_factory=list)
    calls: int = 0


class Subject:
    """One system under measurement: where it listens, what it is asked, and what came out."""

    def __init__(self, name: str, port: int, token: str, server: Server | None) -> None:
        self.name, self.port, self.token, self.server = name, port, token, server
        self.figures = Figures()

    def readings(self) -> list[Reading]:
        """Read its processes; nothing where there is no system in between."""
        return self.server.readings() if self.server else []

    async def ask(self, connections: int, calls: int, *, frames: int = 0) -> tuple[load.Load, list[float]]:
        """Load it; give what the calls took, and the CPU seconds that each of its processes spent meanwhile."""
        asked = load.request(self.token, frames=frames)
        before = {reading.pid: reading.cpu for reading in self.readings()}
        done = await load.drive(self.port, asked, connections=connections, calls=calls)
        self.figures.calls += calls
        return done, [reading.cpu - before.get(reading.pid, 0.0) for reading in self.readings()]


async def measure(subjects: list[Subject], sizes: Sizes, say: Callable[[str], None]) -> None:
    """Fill in every subject's figures, the subjects taking turns."""
    for subject in subjects:
        await subject.ask(CROWD, CROWD)  # the first answers may wait for connections and caches
        subject.figures.memory_at_rest = [reading.memory / 1e6 for reading in subject.readings()]
        await subject.ask(CROWD, sizes.calls // 10)
    for turn in range(sizes.rounds):
        say(f"turn {turn + 1} of {sizes.rounds}: {sizes.calls:,} calls over {CROWD} connections each")
        for subject in subjects:
            done, cpu = await subject.ask(CROWD, sizes.calls)
            figures = subject.figures
            figures.cpu_per_call.append(sum(cpu) / sizes.calls * 1e6)
            figures.cpu_per_call_first.append(sum(cpu[:1]) / sizes.calls * 1e6)
            figures.calls_per_second.append(sizes.calls / done.elapsed)
            figures.latency[CROWD] = _percentiles(done.latencies)
    for subject in subjects:
        subject.figures.memory_after = [reading.memory / 1e6 for reading in subject.readings()]
    for connections, calls in sizes.latency_calls.items():
        say(f"latency: {calls:,} calls each, connections: {connections}")
        for subject in subjects:
            done, _ = await subject.ask(connections, calls)
            subject.figures.latency[connections] = _percentiles(done.latencies)
    streams = CROWD * sizes.streams
    say(f"streams: {streams} of {SHORT} frames, {streams} of {LONG}, {upstream.FRAME_GAP * 1e3:g} ms apart, each")
    for subject in subjects:
        begun, _ = await subject.ask(1, sizes.first_events, frames=1)
        subject.figures.first_event = _percentiles(begun.firsts)
        _, cpu_short = await subject.ask(CROWD, streams, frames=SHORT)
        _, cpu_long = await subject.ask(CROWD, streams, frames=LONG)
        subject.figures.cpu_per_frame = (sum(cpu_long) - sum(cpu_short)) / (streams * (LONG - SHORT)) * 1e6


def _percentiles(seconds: array[float]) -> tuple[float, float]:
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2] * 1e6, ordered[len(ordered) * 99 // 100] * 1e6


def table(direct: Figures, proxies: dict[str, Figures]) -> list[str]:
    """Lay the figures out, one row each, one column a system."""
    columns = list(proxies.values())

    def row(label: str, unit: str, of: Callable[[Figures], str]) -> str:
        return f"{label:<44}{unit:>8}" + "".join(f"{of(figures):>20}" for figures in columns)

    def pair(value: tuple[float, float], less: tuple[float, float]) -> str:
        return f"{value[0] - less[0]:,.0f} / {value[1] - less[1]:,.0f}"

    def added(connections: int) -> Callable[[Figures], str]:
        return lambda f: pair(f.latency[connections], direct.latency[connections])

    lines = [
        " " * 52 + "".join(f"{name:>20}" for name in proxies),
        row("CPU per call", "µs", lambda f: f"{statistics.median(f.cpu_per_call):.1f}"),
        row("  of it in the supervisor", "µs", _supervisor),
        row("calls per second on one core", "1/s", lambda f: f"{statistics.median(f.calls_per_second):,.0f}"),
    ]
    lines += [row(f"added latency p50 / p99, connections: {n}", "µs", added(n)) for n in sorted(direct.latency)]
    lines += [
        row("added time to first event p50 / p99", "µs", lambda f: pair(f.first_event, direct.first_event)),
        row("CPU per streamed frame", "µs", lambda f: f"{f.cpu_per_frame:.1f}"),
        row("memory of a worker at rest", "MB", lambda f: f"{f.memory_at_rest[-1]:.1f}"),
        row("memory of a worker after the turns", "MB", lambda f: f"{f.memory_after[-1]:.1f}"),
        row("memory of the supervisor after the turns", "MB", _supervisor_memory),
    ]
    return lines


def _supervisor(figures: Figures) -> str:
    return f"{statistics.median(figures.cpu_per_call_first):.1f}" if len(figures.memory_after) > 1 else "-"


def _supervisor_memory(figures: Figures) -> str:
    return f"{figures.memory_after[0]:.1f}" if len(figures.memory_after) > 1 else "-"


def limits(bare: Figures, gateway: Figures) -> list[Limit]:
    """Hold the figures against what is promised of them."""
    ratios = [ours / theirs for ours, theirs in zip(gateway.cpu_per_call, bare.cpu_per_call, strict=True)]
    return [
        Limit("CPU per call, times the bare proxy's in the same turn (median)", statistics.median(ratios), CPU_RATIO),
        Limit("CPU per streamed frame, µs", gateway.cpu_per_frame, FRAME_MICROSECONDS),
        Limit("memory of a worker, MB", max(gateway.memory_after[1:]), WORKER_MEGABYTES),
    ]


def compare(chosen: argparse.Namespace, places: Places, say: Callable[[str], None]) -> list[Subject]:
    """Measure the systems beside each other; nothing in between comes first, then the bare proxy, then the gateway.

    Raises RuntimeError and OSError where one does not start or a load breaks.
    """
    sizes = QUICK if chosen.quick else FULL
    with tempfile.TemporaryDirectory(prefix="passgate-bench-") as name, pinned(places.loading):
        folder, servers = Path(name), []
        try:
            servers.append(provider := systems.upstream(places.beyond, folder))
            servers.append(bare := systems.baseline(places.under_test, folder, provider.port))
            subjects = [Subject("direct", provider.port, "none", None)]
            subjects.append(Subject(bare.name, bare.port, "none", bare))
            if not chosen.bare:
                passgate, token = systems.gateway(places.under_test, folder, provider.port)
                servers.append(passgate)
                subjects[1:] = [Subject(bare.name, bare.port, token, bare)]  # the very same request for both
                subjects.append(Subject(passgate.name, passgate.port, token, passgate))
            for server in servers:
                server.wait()
            uvloop.run(measure(subjects, sizes, say))
        finally:
            for server in reversed(servers):
                server.stop()
    return subjects


def main() -> int:
    """Run the benchmark; give 2 when it could not, 1 when a limit is broken under `--assert`, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute's worth: for a first look, not for a claim")
    parser.add_argument("--assert", action="store_true", dest="strict", help="exit 1 when a limit is broken")
    parser.add_argument("--json", type=Path, default=Path("var/bench.json"), help="where the figures go (%(default)s)")
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--bare", action="store_true", help="measure the bare proxy alone")
    alone.add_argument("--identity", action="store_true", help="measure identification alone")
    alone.add_argument("--policy", action="store_true", help="measure decisions and reloads alone")
    chosen = parser.parse_args()

    def say(line: str) -> None:
        print(f"bench: {line}", file=sys.stderr, flush=True)

    places = Places.here()
    under_test, loading, beyond = map(min, (places.under_test, places.loading, places.beyond))
    say(f"measured on core {under_test}, load on {loading}, upstream on {beyond}")
    if under_test == loading:
        say("there is one core only: the load shares it, so rates and latencies mean little")
    subjects, known, decided, reloaded = list[Subject](), None, None, None
    try:
        if not chosen.bare and not chosen.policy:
            known = identity.run(
                places.under_test, places.loading, identity.QUICK if chosen.quick else identity.FULL, say
            )
        if not chosen.bare and not chosen.identity:
            decided = policy.run(places.under_test, policy.QUICK if chosen.quick else policy.FULL, say)
            reloaded = reload.run(places, reload.QUICK if chosen.quick else reload.FULL, say)
        if not chosen.identity and not chosen.policy:
            subjects = compare(chosen, places, say)
    except (RuntimeError, OSError) as error:  # TimeoutError is an OSError
        say(str(error) or "a load took too long")
        return 2
    report(subjects, known, decided, reloaded, chosen.json)
    kept = [
        *(limits(subjects[1].figures, subjects[2].figures) if len(subjects) > 2 else ()),
        *(identity.limits(known) if known is not None else ()),
        *(policy.limits(decided) if decided is not None else ()),
        *(reload.limits(reloaded) if reloaded is not None else ()),
    ]
    print("", *kept, sep="\n")
    return int(chosen.strict and any(limit.value > limit.most for limit in kept))


def report(
    subjects: list[Subject],
    known: identity.Figures | None,
    decided: policy.Figures | None,
    reloaded: reload.Figures | None,
    path: Path,
) -> None:
    """Print the tables and write the figures as JSON."""
    machine = {
        "python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count(),
        "aiohttp": version("aiohttp"), "uvloop": version("uvloop"), "cryptography": version("cryptography"),
    }  # fmt: skip
    if subjects:
        direct, *proxies = subjects
        print("", *table(direct.figures, {subject.name: subject.figures for subject in proxies}), sep="\n")
        print(
            f"\nTurns of calls over {CROWD} connections, body of {load.REQUEST_BYTES} bytes, answer of "
            f"{upstream.ANSWER_BYTES}; medians. Added: less what the upstream takes alone "
            f"({statistics.median(direct.figures.calls_per_second):,.0f} calls/s)."
        )
    if known is not None:
        print("", *identity.table(known), sep="\n")
    if decided is not None:
        print("", *policy.table(decided), sep="\n")
    if reloaded is not None:
        print("", *reload.table(reloaded), sep="\n")
    print("\n" + ", ".join(f"{name} {said}" for name, said in machine.items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    figures: dict[str, object] = {subject.name: asdict(subject.figures) for subject in subjects}
    if known is not None:
        figures["identity"] = asdict(known)
    if decided is not None:
        figures["policy"] = asdict(decided)
    if reloaded is not None:
        figures["reload"] = asdict(reloaded)
    path.write_text(json.dumps({"machine": machine, "figures": figures}, indent=2, ensure_ascii=False) + "\n")
    print(f"All figures: {path}")


if __name__ == "__main__":
    sys.exit(main())
