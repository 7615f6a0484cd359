"""The demo upstream over a real socket, driven by the real SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import ClientSession
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from gateway.demo import DemoServer

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What does a gateway do?"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
async def demo(tmp_path: Path) -> AsyncIterator[DemoServer]:
    server = await DemoServer.start(tmp_path / "effects.ndjson", latency=0, pace=0)
    yield server
    await server.stop()


@pytest.fixture
async def client(demo: DemoServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{demo.url}/v1", api_key="unused", max_retries=0) as it:
        yield it


async def record(demo: DemoServer) -> Any:  # noqa: ANN401 -- JSON
    async with ClientSession() as session, session.get(f"{demo.url}/demo/record") as response:
        return await response.json()


async def test_answer_and_usage(demo: DemoServer, client: openai.AsyncOpenAI) -> None:
    """The SDK gets an answer that echoes the topic, with usage, a request id, and the demo's record of it."""
    raw = await client.chat.completions.with_raw_response.create(model="demo-small", messages=ASK)
    answer = raw.parse()
    assert "gateway" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert raw.headers["x-request-id"].startswith("req_demo")
    assert (await record(demo))["tokens"] == {
        "prompt": answer.usage.prompt_tokens,
        "completion": answer.usage.completion_tokens,
    }


async def test_stream_joins_to_the_answer(client: openai.AsyncOpenAI) -> None:
    """A stream holds the same words in several frames, and usage only where it is asked for."""
    whole = await client.chat.completions.create(model="demo-small", messages=ASK)
    for options in ({}, {"stream_options": {"include_usage": True}}):
        chunks = [
            chunk async for chunk in await client.chat.completions.create(
                model="demo-small", messages=ASK, stream=True, **options,  # type: ignore[call-overload]
            )
        ]  # fmt: skip
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert len(chunks) > 5
        assert (chunks[-1].usage == whole.usage) is bool(options)


async def test_tool_call_round(client: openai.AsyncOpenAI) -> None:
    """A mentioned tool is called with arguments from the question, whole and streamed, and its result is cited."""
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Use get_weather: how is it in Paris?"}]
    answer = await client.chat.completions.create(model="demo-small", messages=messages, tools=[WEATHER])
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Paris"}

    async with client.chat.completions.stream(model="demo-small", messages=messages, tools=[WEATHER]) as stream:
        streamed = (await stream.get_final_completion()).choices[0].message.tool_calls or []
    assert [one.function.arguments for one in streamed] == [call.function.arguments]

    messages += [
        {"role": "assistant", "tool_calls": [call.to_dict()]},  # type: ignore[list-item] # what the SDK sends
        {"role": "tool", "tool_call_id": call.id, "content": "rain, 9 degrees"},
    ]
    answer = await client.chat.completions.create(model="demo-small", messages=messages, tools=[WEATHER])
    assert "rain, 9 degrees" in (answer.choices[0].message.content or "")


async def test_json_modes(client: openai.AsyncOpenAI) -> None:
    """JSON mode answers with an object, a JSON schema with one that the SDK can parse into its type."""

    class Payment(BaseModel):
        order_id: str
        amount: int
        notes: list[str]

    loose = await client.chat.completions.create(
        model="demo-small", messages=ASK, response_format={"type": "json_object"}
    )
    assert isinstance(json.loads(loose.choices[0].message.content or ""), dict)
    strict = await client.chat.completions.parse(
        model="demo-small", messages=[{"role": "user", "content": "order B7, 30 EUR"}], response_format=Payment
    )
    parsed = strict.choices[0].message.parsed
    assert parsed is not None
    assert (parsed.order_id, parsed.amount) == ("B7", 30)


def _sync(url: str) -> tuple[str, list[str]]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        text = client.chat.completions.create(model="demo-small", messages=ASK).choices[0].message.content or ""
        return text, [model.id for model in client.models.list()]


async def test_sync_client_and_models(demo: DemoServer) -> None:
    """The synchronous SDK works as well, and lists the models."""
    text, models = await asyncio.to_thread(_sync, demo.url)
    assert "gateway" in text
    assert "demo-small" in models


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("sim-fail-400", openai.BadRequestError),
        ("sim-fail-404", openai.NotFoundError),
        ("sim-quota", openai.RateLimitError),
        ("sim-fail-503", openai.InternalServerError),
    ],
)
async def test_failing_models_raise_the_sdks_errors(
    client: openai.AsyncOpenAI, model: str, error: type[openai.APIStatusError]
) -> None:
    """Errors have the dialect's shape, so that the SDK maps them to its classes."""
    with pytest.raises(error):
        await client.chat.completions.create(model=model, messages=ASK)


async def test_cut_stream_breaks(demo: DemoServer, client: openai.AsyncOpenAI) -> None:
    """R10: a model named for it breaks its stream without a terminal frame, and bills nothing."""
    stream = await client.chat.completions.create(model="sim-cut-3", messages=ASK, stream=True)
    got: list[object] = []

    async def read_on() -> None:
        async for chunk in stream:
            got.append(chunk)  # noqa: PERF401 -- what came before the break counts

    with pytest.raises(openai.APIConnectionError):
        await read_on()
    assert len(got) == 3
    seen = await record(demo)
    assert (seen["calls"]["cut"], seen["tokens"]) == (1, {})


async def test_configured_key_is_wanted(tmp_path: Path) -> None:
    """A demo with a key takes no other."""
    server = await DemoServer.start(tmp_path / "effects.ndjson", api_key="right", latency=0, pace=0)
    try:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.chat.completions.create(model="demo-small", messages=ASK)
            await client.with_options(api_key="right").chat.completions.create(model="demo-small", messages=ASK)
    finally:
        await server.stop()


async def test_tools_over_http(demo: DemoServer, tmp_path: Path) -> None:
    """Tools answer JSON, leave their effects in the file, refuse with problem+json, and are counted."""
    async with ClientSession(f"{demo.url}/tools/") as session:
        payment = {"order_id": "A1", "amount": 100, "currency": "EUR"}
        async with session.post("fraud/check", json=payment) as response:
            assert (await response.json())["verdict"] == "pass"
        for _ in range(2):
            async with session.post("payments/charge", json=payment, headers={"Idempotency-Key": "k"}) as response:
                assert (await response.json())["status"] == "charged"
        async with session.post("payments/orders/A1/refund", params={"notify": "yes"}) as response:
            assert (await response.json())["status"] == "refunded"
        async with session.get("payments/orders/A1") as response:
            assert (await response.json()) == {"order_id": "A1", "charged": 100}
        async with session.post("payments/charge", data=b"nonsense") as response:
            assert (response.status, response.content_type) == (400, "application/problem+json")
    effects = [json.loads(line) for line in (tmp_path / "effects.ndjson").read_text().splitlines()]
    assert [line["tool"] for line in effects] == ["payments.charge", "payments.refund"]
    assert effects[1]["arguments"] == {"notify": "yes", "order_id": "A1"}
    seen = await record(demo)
    assert (seen["effects"], seen["calls"]["payments.charge"], seen["calls"]["fraud.check"]) == (2, 3, 1)


async def test_taken_port_is_an_error(demo: DemoServer, tmp_path: Path) -> None:
    """A port that is taken is an `OSError`, and nothing stays open."""
    port = int(demo.url.rpartition(":")[2])
    with pytest.raises(OSError, match="address already in use"):
        await DemoServer.start(tmp_path / "other.ndjson", port=port)
