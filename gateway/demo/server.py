"""The demo upstream's socket: a thin aiohttp server over `chat` and `effects`.

Below its origin: `/v1/…` the OpenAI dialect, `/tools/{server}/…` the tools, `/demo/record` what it counted.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from gateway.demo.chat import ChatError, Completion, Knobs, complete, wants_usage
from gateway.demo.effects import OPERATIONS, DemoOperation, Effects, ToolError

_MAX_BODY: Final = 64 * 1024 * 1024
_MODELS: Final = ("demo-small", "sim-gpt", "sim-slow")


@dataclass(slots=True)
class _Demo:
    effects: Effects
    api_key: str | None
    latency: float
    pace: float
    calls: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    serial: int = 0

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST /v1/chat/completions`."""
        self.calls["chat"] += 1
        self.serial += 1
        asked = await _json(request)
        try:
            self._authenticate(request)
            completion = complete(asked, serial=self.serial, created=int(time.time()))
        except ChatError as error:
            self.calls["chat_errors"] += 1
            headers = {"x-request-id": f"req_demo{self.serial:08x}"}
            if error.status in {429, 503}:
                headers["retry-after"] = "1"
            return web.json_response(error.body, status=error.status, headers=headers)
        assert isinstance(asked, Mapping)  # noqa: S101 -- complete() refused everything else; for the type checker
        knobs = Knobs.of(completion.model)
        await asyncio.sleep(self.latency if knobs.latency is None else knobs.latency / 1000)
        headers = {"x-request-id": f"req_demo{self.serial:08x}", "openai-version": "demo"}
        if asked.get("stream") is True:
            return await self._stream(request, completion, knobs, headers, usage=wants_usage(asked))
        self._bill(completion)
        return web.json_response(completion.body(), headers=headers)

    async def _stream(
        self, request: web.Request, completion: Completion, knobs: Knobs, headers: dict[str, str], *, usage: bool
    ) -> web.StreamResponse:
        self.calls["streams"] += 1
        pace = self.pace if knobs.pace is None else knobs.pace / 1000
        response = web.StreamResponse(headers=headers | {"content-type": "text/event-stream; charset=utf-8"})
        try:
            await response.prepare(request)
            for number, frame in enumerate(completion.frames(usage=usage)):
                if number == knobs.cut:
                    self.calls["cut"] += 1
                    if request.transport is not None:
                        request.transport.close()  # what was written still arrives; the end of the chunks does not
                    return response
                if number and pace:
                    await asyncio.sleep(pace)
                await response.write(b"data: " + json.dumps(frame, separators=(",", ":")).encode() + b"\n\n")
            await response.write(b"data: [DONE]\n\n")
            self._bill(completion)
            await response.write_eof()
        except ConnectionError:
            self.calls["aborted"] += 1
        return response

    def _authenticate(self, request: web.Request) -> None:
        if self.api_key is None:
            return
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(errors="replace"), f"Bearer {self.api_key}".encode()):
            raise ChatError("Incorrect API key provided.", status=401, code="invalid_api_key")

    def _bill(self, completion: Completion) -> None:
        self.tokens["prompt"] += _count(completion.usage["prompt_tokens"])
        self.tokens["completion"] += _count(completion.usage["completion_tokens"])

    async def models(self, _request: web.Request) -> web.Response:
        """Answer `GET /v1/models`."""
        return web.json_response({"object": "list", "data": [_model(name) for name in _MODELS]})

    async def model(self, request: web.Request) -> web.Response:
        """Answer `GET /v1/models/{id}`: any name is a model."""
        return web.json_response(_model(request.match_info["id"]))

    def tool(self, operation: DemoOperation) -> Any:  # noqa: ANN401 -- aiohttp's handler type is long
        """Make the handler of one tool operation."""

        async def handle(request: web.Request) -> web.Response:
            self.calls[operation.tool] += 1
            asked = await _json(request) if request.can_read_body else {}
            try:
                answer = self.effects.call(
                    operation,
                    {**_members(asked), **request.query, **request.match_info},
                    key=request.headers.get("Idempotency-Key", ""),
                    now=datetime.now(UTC).isoformat(timespec="microseconds"),
                )
            except ToolError as error:
                return _problem(error)
            return web.json_response(answer)

        return handle

    async def order(self, request: web.Request) -> web.Response:
        """Answer `GET /tools/payments/orders/{order_id}`."""
        self.calls["payments.order"] += 1
        try:
            return web.json_response(self.effects.order(request.match_info["order_id"]))
        except ToolError as error:
            return _problem(error)

    async def record(self, _request: web.Request) -> web.Response:
        """Answer `GET /demo/record`: calls by kind, tokens billed, effects done."""
        return web.json_response(
            {"calls": dict(self.calls), "tokens": dict(self.tokens), "effects": self.effects.count}
        )


class DemoServer:
    """A running demo upstream."""

    def __init__(self, url: str, runner: web.AppRunner, effects: Effects) -> None:
        """Take what `start` has started; `url` is the origin, without a trailing slash."""
        self.url = url
        self._runner = runner
        self._effects = effects

    @classmethod
    async def start(
        cls,
        effects: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        latency: float = 0.02,
        pace: float = 0.005,
    ) -> DemoServer:
        """Start the demo on a port of its own (0: the system chooses).

        `effects` is the file that effects are appended to. With an `api_key` the chat address wants it as
        bearer credential. `latency` (before the first byte) and `pace` (between frames) are seconds, for
        models whose names say nothing of them. Raises `OSError` for a port or a file that cannot be had.
        """
        demo = _Demo(Effects(effects), api_key, latency, pace)
        runner = web.AppRunner(_application(demo), access_log=None, shutdown_timeout=1.0)
        try:
            await runner.setup()
            await web.TCPSite(runner, host, port).start()
        except BaseException:
            await runner.cleanup()
            demo.effects.close()
            raise
        bound = runner.addresses[0]
        origin = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        return cls(f"http://{origin}:{bound[1]}", runner, demo.effects)

    async def stop(self) -> None:
        """Close the socket and all connections."""
        await self._runner.cleanup()
        self._effects.close()


def _application(demo: _Demo) -> web.Application:
    app = web.Application(client_max_size=_MAX_BODY)
    app.router.add_post("/v1/chat/completions", demo.chat)
    app.router.add_get("/v1/models", demo.models)
    app.router.add_get("/v1/models/{id}", demo.model)
    app.router.add_get("/tools/payments/orders/{order_id}", demo.order)
    app.router.add_get("/demo/record", demo.record)
    for operation in OPERATIONS:
        app.router.add_route(operation.method, f"/tools{operation.path}", demo.tool(operation))
    return app


async def _json(request: web.Request) -> object:
    try:
        return json.loads(await request.read())
    except (ValueError, RecursionError):
        return None


def _members(asked: object) -> Mapping[str, Any]:
    if not isinstance(asked, Mapping):
        raise ToolError(400, "the body must be a JSON object")
    return asked


def _problem(error: ToolError) -> web.Response:
    return web.json_response(error.body, status=error.status, content_type="application/problem+json")


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 1_767_225_600, "owned_by": "demo"}


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
