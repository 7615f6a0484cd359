"""The official OpenAI SDK for Python, unchanged: a base URL and a key, nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

import openai
import pytest
from openai import AsyncOpenAI, Omit, OpenAI, omit
from openai.types.chat import (
    ChatCompletionChunk,
    ChatCompletionMessageParam,
    ChatCompletionStreamOptionsParam,
    ChatCompletionToolParam,
)
from pydantic import BaseModel

from tests.simulator.example import Example
from tests.simulator.gateway import Gateway

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What does a harbour pilot do?"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Please get weather for Lisbon."}]


class Ship(BaseModel):
    """What a structured answer is parsed into."""

    name: str
    tonnage: int


def asynchronous(gateway: Gateway) -> AsyncOpenAI:
    """The other client, for `async with`."""
    return AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.token())


def text_of(chunks: Iterable[ChatCompletionChunk]) -> str:
    """What a stream said."""
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


# -- answers


def test_an_answer_is_what_the_provider_said_and_what_is_booked(client: OpenAI, gateway: Gateway) -> None:
    """`chat.completions.create` gives a typed completion; its usage is the ledger's."""
    said = client.chat.completions.create(model="sim-small", messages=QUESTION, user="one")
    assert said.choices[0].message.content
    assert said.choices[0].finish_reason == "stop"
    assert said.usage is not None
    assert said._request_id is not None
    (row,) = gateway.wait_for_rows(1, "upstream_request_id = ?", said._request_id)
    assert (row["input_tokens"], row["output_tokens"]) == (said.usage.prompt_tokens, said.usage.completion_tokens)


async def test_the_asynchronous_client_gets_the_same(client: OpenAI, gateway: Gateway) -> None:
    """`AsyncOpenAI` is answered as `OpenAI` is."""
    async with asynchronous(gateway) as other:
        said = await other.chat.completions.create(model="sim-small", messages=QUESTION)
    same = client.chat.completions.create(model="sim-small", messages=QUESTION)
    assert said.choices == same.choices
    assert said.usage == same.usage


USAGE = pytest.mark.parametrize(
    ("options", "wanted"),
    [(omit, False), ({"include_usage": False}, False), ({"include_usage": True}, True)],
    ids=["unasked", "declined", "asked"],
)


@USAGE
def test_a_stream_says_the_same_and_gives_usage_only_where_asked(
    client: OpenAI, gateway: Gateway, options: ChatCompletionStreamOptionsParam | Omit, *, wanted: bool
) -> None:
    """Frames join to the whole answer; the usage frame stays here unless asked for, and is metered in any case."""
    whole = client.chat.completions.create(model="sim-small", messages=QUESTION)
    with client.chat.completions.create(
        model="sim-small", messages=QUESTION, stream=True, stream_options=options
    ) as stream:
        chunks = list(stream)
        request_id = stream.response.headers["gateway-request-id"]
    assert text_of(chunks) == whole.choices[0].message.content
    assert [chunk.usage for chunk in chunks if chunk.usage] == ([whole.usage] if wanted else [])
    assert all(chunk.choices for chunk in chunks[: -1 if wanted else None])
    (row,) = gateway.wait_for_rows(1, "request_id = ?", request_id)
    assert whole.usage is not None
    assert (row["output_tokens"], row["estimated"]) == (whole.usage.completion_tokens, 0)


@USAGE
async def test_an_asynchronous_stream_does_so_too(
    gateway: Gateway, options: ChatCompletionStreamOptionsParam | Omit, *, wanted: bool
) -> None:
    """`async for` sees the same frames."""
    async with asynchronous(gateway) as client:
        whole = await client.chat.completions.create(model="sim-small", messages=QUESTION)
        stream = await client.chat.completions.create(
            model="sim-small", messages=QUESTION, stream=True, stream_options=options
        )
        chunks = [chunk async for chunk in stream]
    assert text_of(chunks) == whole.choices[0].message.content
    assert [chunk.usage for chunk in chunks if chunk.usage] == ([whole.usage] if wanted else [])


def test_several_answers_to_one_question(client: OpenAI) -> None:
    """`n` gives as many choices, whole and streamed."""
    said = client.chat.completions.create(model="sim-small", messages=QUESTION, n=3)
    assert [choice.index for choice in said.choices] == [0, 1, 2]
    stream = client.chat.completions.create(model="sim-small", messages=QUESTION, n=3, stream=True)
    texts = ["", "", ""]
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in said.choices]


# -- tools and structure


def test_a_tool_is_called_and_its_result_is_answered(client: OpenAI) -> None:
    """The round trip of function calling: the model's call, the agent's result, the model's words."""
    first = client.chat.completions.create(model="sim-small", messages=ASKED, tools=[WEATHER])
    (call,) = first.choices[0].message.tool_calls or []
    assert (first.choices[0].finish_reason, call.type) == ("tool_calls", "function")
    assert call.type == "function"
    assert (call.function.name, list(json.loads(call.function.arguments))) == ("get_weather", ["city"])
    messages: list[ChatCompletionMessageParam] = [
        *ASKED,
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }
            ],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "21 degrees and windy"},
    ]
    second = client.chat.completions.create(model="sim-small", messages=messages, tools=[WEATHER])
    assert second.choices[0].finish_reason == "stop"
    assert "21 degrees and windy" in (second.choices[0].message.content or "")


def test_a_streamed_tool_call_is_put_together_by_the_sdk(client: OpenAI) -> None:
    """The SDK's own accumulator finds the same call in the stream as in the whole answer."""
    whole = client.chat.completions.create(model="sim-small", messages=ASKED, tools=[WEATHER])
    with client.chat.completions.stream(model="sim-small", messages=ASKED, tools=[WEATHER]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    (streamed,), (expected,) = (one.choices[0].message.tool_calls or [] for one in (final, whole))
    assert streamed.type == expected.type == "function"
    assert (streamed.id, streamed.function.name) == (expected.id, expected.function.name)
    assert streamed.function.arguments == expected.function.arguments


def test_json_mode(client: OpenAI) -> None:
    """`response_format: json_object` gives a JSON object."""
    said = client.chat.completions.create(model="sim-small", messages=QUESTION, response_format={"type": "json_object"})
    assert isinstance(json.loads(said.choices[0].message.content or ""), dict)


def test_a_schema_is_kept_to_and_parsed(client: OpenAI) -> None:
    """`parse` with a pydantic model sends its JSON Schema and reads the answer into it."""
    said = client.chat.completions.parse(model="sim-small", messages=QUESTION, response_format=Ship)
    assert isinstance(said.choices[0].message.parsed, Ship)


# -- what is around an answer


def test_a_raw_response_shows_what_the_gateway_says(client: OpenAI) -> None:
    """`with_raw_response` has the gateway's headers and still parses."""
    raw = client.chat.completions.with_raw_response.create(model="sim-small", messages=QUESTION)
    usage = raw.parse().usage
    assert usage is not None
    assert (raw.headers["gateway-provider"], raw.headers["gateway-model"]) == ("demo", "sim-small")
    assert (raw.headers["gateway-attempts"], raw.retries_taken) == ("1", 0)
    cost = usage.prompt_tokens * 1_000 + usage.completion_tokens * 2_000
    assert round(float(raw.headers["gateway-cost-usd"]) * 1e9) == cost


def test_a_streamed_response_has_its_head_before_its_body(client: OpenAI) -> None:
    """`with_streaming_response` gives the headers first and then the lines."""
    with client.chat.completions.with_streaming_response.create(
        model="sim-small", messages=QUESTION, stream=True
    ) as response:
        assert response.headers["gateway-request-id"].startswith("req_")
        assert response.headers["x-accel-buffering"] == "no"
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


def test_models_are_those_that_this_agent_may_use(client: OpenAI) -> None:
    """`models.list` and `models.retrieve` know what can be asked for, and nothing that a rule forbids."""
    names = [model.id for model in client.models.list()]
    assert names == ["sim-small"]
    assert client.models.retrieve("sim-small").id == "sim-small"
    for name in ("forbidden", "gpt-nobody"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve(name)
        assert caught.value.code == "model_unknown"


# -- runs, and leaving early


def test_a_run_travels_in_the_base_url_or_in_a_header(gateway: Gateway) -> None:
    """Both ways name the same run, and its steps count on."""
    key = gateway.token()
    with (
        OpenAI(base_url=f"{gateway.url}/r/sdk-run/v1/", api_key=key) as by_url,
        OpenAI(base_url=f"{gateway.url}/v1", api_key=key, default_headers={"Gateway-Run": "sdk-run"}) as by_header,
    ):
        for step, client in enumerate((by_url, by_header), 1):
            raw = client.chat.completions.with_raw_response.create(model="sim-small", messages=QUESTION)
            assert (raw.headers["gateway-run"], raw.headers["gateway-step"]) == ("sdk-run", str(step))
    run = gateway.call("GET", "/gateway/v1/runs/sdk-run").json()
    assert run["steps"] == 2


def test_a_stream_that_the_client_leaves_is_cancelled(client: OpenAI, gateway: Gateway) -> None:
    """Outside a run the provider is hung up on, and what it had said until then is booked as an estimate."""
    with client.chat.completions.create(model="sim-pace-20-words-900", messages=QUESTION, stream=True) as stream:
        next(stream)
        request_id = stream.response.headers["gateway-request-id"]
    (row,) = gateway.wait_for_rows(1, "request_id = ?", request_id)
    assert (row["outcome"], row["estimated"]) == ("cancelled", 1)
    assert row["output_tokens"] < 900
    assert row["cost_nano_usd"] > 0


def test_in_a_run_it_is_read_to_its_end(client: OpenAI, gateway: Gateway) -> None:
    """Inside a run the provider is heard out: the row has the usage of the whole answer."""
    by_run = client.with_options(default_headers={"Gateway-Run": "left-early"})
    with by_run.chat.completions.create(model="sim-pace-2-words-200", messages=QUESTION, stream=True) as stream:
        next(stream)
        request_id = stream.response.headers["gateway-request-id"]
    (row,) = gateway.wait_for_rows(1, "request_id = ?", request_id)
    assert (row["outcome"], row["estimated"]) == ("cancelled", 0)
    assert row["output_tokens"] >= 200


# -- nothing but the environment

AGENT = """
from openai import OpenAI
with OpenAI() as client:
    raw = client.chat.completions.with_raw_response.create(
        model="demo-small", messages=[{"role": "user", "content": "hello"}]
    )
print(raw.headers["gateway-run"], raw.parse().choices[0].finish_reason)
"""


def test_the_environment_alone_is_enough(example: Example) -> None:
    """`passgate exec` sets OPENAI_BASE_URL and OPENAI_API_KEY, and an agent that names neither is answered."""
    (example.folder / "agent.py").write_text(AGENT)
    # The example listens on whatever port was free, which only its welcome tells.
    public = example.config.read_text().replace(
        "agents: {bind: 127.0.0.1:0}", f"agents: {{bind: 127.0.0.1:0, public_url: {example.url}}}"
    )
    (example.folder / "public.yaml").write_text(public)
    done = example.paste(
        f".venv/bin/passgate exec --agent procurement --run by-exec --config public.yaml -- {sys.executable} agent.py"
    )
    assert done.stdout.split() == ["by-exec", "stop"], done.stderr
