"""Small requests at a fixed rate, from a process of its own: whoever measures meanwhile shares no interpreter with it.

Reads one header line per request from standard input, sends them in turn for as long as it is told, and prints how
many answers of each status came.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

_CONNECTIONS = 32
_PATIENCE = 30.0


class Flood:
    """The flood while this is entered; `answers` afterwards: how many of each status came."""

    def __init__(self, port: int, headers: Iterable[str], rate: float, seconds: float) -> None:
        self._asked = "\n".join(headers).encode()
        self._arguments = [str(port), str(rate), str(seconds)]
        self.answers: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.simulator.flood", *self._arguments],
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(self._asked)
        self._process.stdin.close()
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"begins\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process as process:
            assert process.stdout is not None
            if kind is not None:
                process.kill()
            else:
                self.answers = Counter(json.loads(process.stdout.read()))
            process.wait(_PATIENCE)


async def _send(
    port: int, headers: Iterator[str], due: float, every: float, until: float, answers: Counter[str]
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while due < until:
        await asyncio.sleep(due - time.monotonic())
        due += every
        writer.write(f"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n{next(headers)}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(line for line in lines if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        answers[head[9:12].decode()] += 1
    writer.close()


async def _flood(port: int, rate: float, seconds: float, headers: list[str]) -> Counter[str]:
    answers: Counter[str] = Counter()
    turns = itertools.cycle(headers)
    now = time.monotonic()
    print("begins", flush=True)
    await asyncio.gather(  # one after the other: a rate, not bursts of one request from each
        *(_send(port, turns, now + n / rate, _CONNECTIONS / rate, now + seconds, answers) for n in range(_CONNECTIONS))
    )
    return answers


if __name__ == "__main__":
    os.nice(10)  # what it costs to send must not count as what it costs to be served
    where, how_fast, how_long = sys.argv[1:]
    lines = sys.stdin.read().splitlines()
    print(json.dumps(asyncio.run(_flood(int(where), float(how_fast), float(how_long), lines))))
