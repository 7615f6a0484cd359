"""Agents that call without a pause over plain sockets, and keep a book of what each of them got in full.

They run in a thread of their own, so that a test can meanwhile kill, reload and look on.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self

_PATIENCE = 60.0
_PAUSE_AFTER_TROUBLE = 0.02


class Call(NamedTuple):
    """What an agent asks for: a run (or none), and whether as a stream."""

    run: str | None
    stream: bool


PLAIN = Call(None, stream=False)


@dataclass(frozen=True)
class Got:
    """An answer as far as it came. `whole` says that HTTP ended it in order."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool

    @property
    def request_id(self) -> str:
        """The gateway's id of the call."""
        return self.headers.get("gateway-request-id", "")

    @property
    def complete(self) -> bool:
        """Whether an agent would take it for the answer: a 200 in full, a stream with its terminal frame."""
        streamed = self.headers.get("content-type", "").startswith("text/event-stream")
        return self.whole and self.status == 200 and (not streamed or self.body.endswith(b"data: [DONE]\n\n"))


@dataclass
class Client:
    """One kept-alive connection."""

    port: int
    token: str
    model: str = "sim-latency-5-pace-1-words-20"
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def chat(self, call: Call = PLAIN) -> Got:
        """One chat completion."""
        prefix = f"/r/{call.run}" if call.run else ""
        question = {"role": "user", "content": "What is load?"}
        asked = {"model": self.model, "messages": [question], "stream": call.stream}
        return await self.request("POST", f"{prefix}/v1/chat/completions", json.dumps(asked).encode())

    async def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {}) -> Got:
        """One request on the kept connection, or on a new one; raises `OSError` where no head comes back."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.token}\r\n{more}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            writer.write(head.encode() + body)
            got = await _answer(reader)
        except (OSError, asyncio.IncompleteReadError) as error:
            await self.close()
            raise ConnectionError(str(error)) from error
        if not got.whole or got.headers.get("connection") == "close":
            await self.close()
        return got

    async def closed_by_peer(self) -> None:
        """Return once the other side has closed the connection that is kept."""
        assert self._streams is not None
        await self._streams[0].read()

    async def close(self) -> None:
        """Let go of the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _answer(reader: asyncio.StreamReader) -> Got:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *lines = head[:-4].split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (text.partition(":") for text in lines)}
    body = bytearray()
    whole = True
    try:
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        else:
            body += await reader.readexactly(int(headers.get("content-length", "0")))
    except (OSError, asyncio.IncompleteReadError):
        whole = False
    return Got(int(line.split(" ")[1]), headers, bytes(body), whole)


@dataclass
class Load:
    """Agents at work while this is entered; `full` has the request id of each answer that came in full."""

    port: int
    token: str
    agents: int = 8
    calls: Sequence[Call] = (Call(None, stream=False), Call(None, stream=True))
    model: str = "sim-latency-5-pace-1-words-20"
    full: list[str] = field(default_factory=list)
    refused: list[Got] = field(default_factory=list)  # answered in full with another status
    broken: list[str] = field(default_factory=list)  # connections that were refused or ended, streams that were cut
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        assert self._thread is not None
        self._thread.join(_PATIENCE)
        assert not self._thread.is_alive(), "an agent waits for ever"

    async def _work(self) -> None:
        await asyncio.gather(*(self._agent(number) for number in range(self.agents)))

    async def _agent(self, number: int) -> None:
        client = Client(self.port, self.token, self.model)
        turns = itertools.islice(itertools.cycle(self.calls), number, None)
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(_PATIENCE):
                    got = await client.chat(next(turns))
            except OSError as error:
                self.broken.append(repr(error))
                await asyncio.sleep(_PAUSE_AFTER_TROUBLE)
                continue
            if got.complete:
                self.full.append(got.request_id)
            elif got.whole and got.status != 200:
                self.refused.append(got)
                await asyncio.sleep(_PAUSE_AFTER_TROUBLE)
            else:
                self.broken.append(f"{got.request_id}: {got.body[-200:]!r}")
        await client.close()
