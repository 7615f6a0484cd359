"""A scripted LLM provider or tool for clients that block: it plays in a thread of its own.

What it says is chosen by what it is asked for, so that many tests can share it and the gateway before it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from tests.simulator.upstream import CHUNKED, LAST_CHUNK, Received, Script, ScriptedUpstream, answer, chunk

KEY = "sk-scripted-4f1d0c9be2a7"
"""A credential that tests give the gateway for such an upstream, and look for where it may not be."""

_PATIENCE = 30.0
_JSON = ("Content-Type", "application/json")


class ScriptedProvider:
    """Knows nothing until a test says what: then the first request for a name gets the first script, and so on.

    A name is the model that is asked for, or the path of a request without one; the last script repeats.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._scripts: dict[str, tuple[Script, ...]] = {}
        self._upstream = ScriptedUpstream([self._choose], tls=tls)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def says(self, name: str, *scripts: Script) -> None:
        """What is answered to requests for `name`."""
        self._scripts[name] = scripts

    def heard(self, name: str) -> list[Received]:
        """The requests for `name`, as they came."""
        return [received for received in list(self._upstream.requests) if _name(received) == name]

    def everything(self, since: int = 0) -> list[Received]:
        """All requests from this one on, in the order in which they came."""
        return self._upstream.requests[since:]

    def seen(self) -> bytes:
        """Every byte that came, joined: for canaries."""
        return b"\n".join(bytes(raw) for raw in list(self._upstream.raw))

    @property
    def url(self) -> str:
        """The origin, without a path."""
        return self._upstream.url

    def _choose(self, received: Received) -> Script:
        name = _name(received)
        scripts = self._scripts.get(name, (failure(404, f"nobody said what to answer for {name}"),))
        return scripts[min(len(self.heard(name)), len(scripts)) - 1]

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._upstream.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._upstream.__aexit__(kind, error, trace))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, object]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)

    def behind(self) -> dict[str, Any]:
        """The part of a configuration that sends every model and the tool `bank` here."""
        scripted = {"dialects": ["openai"], "base_url": f"{self.url}/v1", "allow_internal": True}
        pay = {"method": "POST", "path": "/pay", "repeat": "never"}
        bank = {"kind": "http", "base_url": f"{self.url}/bank", "allow_internal": True, "operations": {"pay": pay}}
        return {
            "providers": {"scripted": scripted},
            "models": {"scripted-*": {"targets": [{"provider": "scripted"}]}},
            "prices": {"scripted/*": [{"input": "1.00", "output": "2.00"}]},
            "tools": {"bank": bank},
        }


def _name(received: Received) -> str:
    try:
        return str(json.loads(received.body)["model"])
    except (ValueError, KeyError, TypeError):
        return received.line.split(" ")[1]


def completion(text: str) -> list[bytes]:
    """A whole chat completion that says `text`, for 10 tokens in and 5 out."""
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }
    return [answer(json.dumps(body).encode(), _JSON)]


def failure(
    status: int, message: str, *headers: tuple[str, str], code: str | None = None, type_: str = "some_error"
) -> list[bytes]:
    """An error as OpenAI words it."""
    body = {"error": {"message": message, "type": type_, "param": None, "code": code}}
    return [answer(json.dumps(body).encode(), _JSON, *headers, status=f"{status} Scripted")]


def streamed(*texts: str, done: bool = True) -> list[bytes]:
    """A chat stream of one frame for each text; without `done` its terminal frames are missing."""
    frames = [{"index": 0, "delta": {"content": text}, "finish_reason": None} for text in texts]
    steps = [CHUNKED, *(chunk(_frame([frame])) for frame in frames)]
    if done:
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        last = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
        steps += [chunk(_frame(last)), chunk(_frame([], usage)), chunk(b"data: [DONE]\n\n"), LAST_CHUNK]
    return steps


def _frame(choices: list[dict[str, Any]], usage: object = None) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
    return b"data: " + json.dumps({**head, "choices": choices, "usage": usage}).encode() + b"\n\n"
