"""The upstream of the benchmarks: a fixed chat completion, or a paced stream of frames, straight from a protocol.

It reads no more of a request than it needs, so it answers several times faster than any proxy in front of it can ask.
It needs nothing that is not installed anyway. nginx would do for whole answers, but it cannot send frames one by one,
and frames that arrive in one piece would make a stream look cheaper than it is. `stream: true` asks for a stream of
`seed` frames, `FRAME_GAP` seconds apart.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import cast

import uvloop

ANSWER_BYTES = 600
FRAME_GAP = 0.005  # far enough apart that each frame is a packet, a read and a write of its own

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream": *true')
_FRAMES = re.compile(rb'"seed": *(\d+)')


def _answer() -> bytes:
    usage = {"prompt_tokens": 62, "completion_tokens": 40, "total_tokens": 102}
    message = {"role": "assistant", "content": ""}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    head = {"id": "chatcmpl-bench", "object": "chat.completion", "created": 1767225600, "model": "gpt-4o-mini"}
    completion = {**head, "choices": [choice], "usage": usage, "system_fingerprint": "fp_bench"}
    message["content"] = "All is well. ".ljust(ANSWER_BYTES - len(json.dumps(completion)), ".")
    return json.dumps(completion).encode()


def _frame(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _event({"choices": [choice]})


def _event(members: dict[str, object]) -> bytes:
    head = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1767225600, "model": "gpt-4o-mini"}
    return _chunk(b"data: " + json.dumps({**head, "system_fingerprint": "fp_bench", **members}).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


BODY = _answer()
WHOLE = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n".encode() + BODY
BEGIN = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
FIRST = BEGIN + _frame({"role": "assistant", "content": ""})
NEXT = _frame({"content": " well"})
FINISH = _frame({}, "stop")
USAGE = _event({"choices": [], "usage": {"prompt_tokens": 62, "completion_tokens": 40, "total_tokens": 102}})
DONE = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Upstream(asyncio.Protocol):
    """One connection of a proxy: request after request, never two at once."""

    def __init__(self) -> None:
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where answers go."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so

    def data_received(self, data: bytes) -> None:
        """Answer once the request is complete."""
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not separator or (length is not None and len(body) < int(length[1])):
            return
        self.buffer = b""
        if _STREAM.search(body) is None:
            self.transport.write(WHOLE)
            return
        frames = _FRAMES.search(body)
        self.transport.write(FIRST)
        self._later(
            int(frames[1]) if frames else 1, ending=FINISH + (USAGE if b"include_usage" in body else b"") + DONE
        )

    def _later(self, left: int, ending: bytes) -> None:
        asyncio.get_running_loop().call_later(FRAME_GAP, self._continue, left - 1, ending)

    def _continue(self, left: int, ending: bytes) -> None:
        if self.transport.is_closing():
            return
        if left <= 0:
            self.transport.write(ending)
            return
        self.transport.write(NEXT)
        self._later(left, ending)


async def serve(port: int) -> None:
    """Answer on the port until the process is stopped."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
