"""What the demo model says, without a socket."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.demo.chat import ChatError, Completion, complete, pieces_of
from gateway.demo.example import Hints, example

CHARGE = {
    "type": "function",
    "function": {
        "name": "charge_order",
        "parameters": {
            "type": "object",
            "properties": {
                "order_id": {"type": "string"}, "amount": {"type": "integer"}, "currency": {"enum": ["USD", "EUR"]},
            },
            "required": ["order_id", "amount", "currency"],
        },
    },
}  # fmt: skip


def ask(text: str = "What does a gateway do?", *, serial: int = 1, **more: Any) -> Completion:  # noqa: ANN401 -- any member
    request = {"model": "sim-test", "messages": [{"role": "user", "content": text}]} | more
    return complete(request, serial=serial, created=1)


def said(completion: Completion) -> str:
    return completion.choices[0].text or ""


def test_same_question_same_words() -> None:
    """The answer depends on the input and nothing else; its id tells two answers apart."""
    first, second = ask(serial=1), ask(serial=2)
    assert said(first) == said(second)
    assert first.id != second.id
    assert "gateway" in said(first)
    assert said(ask("Who pays for invoices?")) != said(first)


def test_usage_counts_what_was_said() -> None:
    """The completion's tokens are the pieces of its text, and cached and reasoning tokens follow the model's name."""
    completion = ask(model="sim-cached-50-reasoning-7")
    usage: Any = completion.usage
    assert usage["completion_tokens"] == len(pieces_of(said(completion))) + 7
    assert usage["prompt_tokens"] == 3 + 4 + len(pieces_of("What does a gateway do?"))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] // 2
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 7


@pytest.mark.parametrize("member", ["max_tokens", "max_completion_tokens"])
def test_output_cap_is_honoured(member: str) -> None:
    """A capped answer is the beginning of the uncapped one and ends with `length`."""
    more: dict[str, Any] = {member: 5}
    capped = ask(**more)
    assert capped.choices[0].finish_reason == "length"
    assert capped.usage["completion_tokens"] == 5
    assert said(ask()).startswith(said(capped))


def test_words_knob_makes_it_talk() -> None:
    """A model named for many words speaks at least as many tokens."""
    assert int(str(ask(model="sim-words-500").usage["completion_tokens"])) >= 500


def test_n_answers() -> None:
    """`n` answers are counted together and differ from each other."""
    completion = ask(n=3)
    assert len({choice.text for choice in completion.choices}) > 1
    assert completion.usage["completion_tokens"] == sum(len(choice.pieces) for choice in completion.choices)


def test_stop_ends_the_text() -> None:
    """A stop sequence ends the text before itself."""
    assert "." not in said(ask(stop=["."]))


def test_mentioned_tool_is_called_with_what_was_said() -> None:
    """A tool named in the question is called, with the question's own order, amount and currency."""
    (call,) = ask("Please charge order A17, 1200 EUR", tools=[CHARGE]).choices[0].tool_calls
    assert json.loads(call["function"]["arguments"]) == {"order_id": "A17", "amount": 1200, "currency": "EUR"}


@pytest.mark.parametrize(
    ("text", "choice", "called"),
    [
        ("hello", "auto", False),
        ("hello", "required", True),
        ("hello", {"type": "function", "function": {"name": "charge_order"}}, True),
        ("charge_order now", "none", False),
        ("charge.order now", "auto", True),
        ("surcharge orders now", "auto", False),
    ],
)
def test_tool_choice_is_honoured(text: str, choice: object, called: bool) -> None:  # noqa: FBT001 -- a case
    """`tool_choice` decides whether a tool is called."""
    reply = ask(text, tools=[CHARGE], tool_choice=choice).choices[0]
    assert (reply.finish_reason == "tool_calls") is called
    assert (reply.text is None) is called


def test_tool_result_is_cited() -> None:
    """After a tool's answer the model speaks about it instead of calling again."""
    messages = [
        {"role": "user", "content": "charge order A1"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "tool_call_id": "x", "content": "receipt 99"},
    ]
    assert "receipt 99" in said(complete({"model": "m", "messages": messages, "tools": [CHARGE]}, serial=1, created=1))


def test_frames_join_to_the_body() -> None:
    """A stream's frames hold what the whole answer holds, in the shape of the dialect."""
    completion = ask(n=2)
    frames: list[Any] = list(completion.frames(usage=True))
    for index in range(2):
        mine = [frame["choices"][0] for frame in frames if frame["choices"] and frame["choices"][0]["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant"
        assert "".join(choice["delta"].get("content") or "" for choice in mine) == completion.choices[index].text
        assert [choice["finish_reason"] for choice in mine if choice["finish_reason"]] == ["stop"]
    assert frames[-1]["usage"] == completion.usage
    assert all(frame["usage"] is None for frame in frames[:-1])
    assert all("usage" not in frame for frame in completion.frames(usage=False))


@pytest.mark.parametrize(
    "request_",
    [
        None, [], {}, {"model": "m"}, {"model": "", "messages": [{}]}, {"model": "m", "messages": []},
        {"model": "m", "messages": ["x"]}, {"model": "m", "messages": [{}], "n": 0},
        {"model": "m", "messages": [{}], "max_tokens": "x"}, {"model": "m", "messages": [{}], "n": True},
    ],
)  # fmt: skip
def test_bad_requests_are_refused(request_: object) -> None:
    """What the provider would refuse is refused in its own words."""
    with pytest.raises(ChatError) as caught:
        complete(request_, serial=1, created=1)
    assert caught.value.status == 400


@pytest.mark.parametrize(("model", "status"), [("sim-fail-503", 503), ("sim-fail-7", 500), ("sim-quota", 429)])
def test_failing_models(model: str, status: int) -> None:
    """A model named for failure fails with that status."""
    with pytest.raises(ChatError) as caught:
        ask(model=model)
    assert caught.value.status == status


def test_schema_that_multiplies_is_cut_short() -> None:
    """A schema of arrays in arrays cannot make the demo write forever."""
    schema: dict[str, object] = {"type": "string"}
    for _ in range(6):
        schema = {"type": "array", "minItems": 100, "items": schema}
    assert len(json.dumps(example(schema, Hints("")))) < 1_000_000


_LEAVES = st.sampled_from([
    {"type": "string"}, {"type": "string", "minLength": 30}, {"type": "string", "maxLength": 2}, {"type": "null"},
    {"type": "integer", "minimum": 50}, {"type": "number", "exclusiveMaximum": 0}, {"type": "boolean"}, {"const": [1]},
    {"enum": ["a", 1]}, {"type": ["null", "integer"]}, {"$ref": "#/$defs/node"}, True,
    {"type": "string", "format": "date"},
])  # fmt: skip
_SCHEMAS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["order_id", "to", "city", "x"]), inner, max_size=3).map(
            lambda them: {"type": "object", "properties": them, "required": [*them], "additionalProperties": False}
        ),
        inner.map(lambda one: {"type": "array", "items": one, "minItems": 2}),
        inner.map(lambda one: {"anyOf": [one, {"type": "null"}]}),
    ),
    max_leaves=5,
)
_NODE = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}, "v": {"type": "string"}},
}


@settings(max_examples=60, deadline=None)
@given(inner=_SCHEMAS, text=st.sampled_from(["", "charge A1, 12.50 EUR in Paris", "-3 and 10^6 for a@b.example"]))
def test_structured_output_satisfies_its_schema(inner: object, text: str) -> None:
    """Whatever schema is asked for in the usual keywords, the value satisfies it."""
    schema = {"$defs": {"node": _NODE}, "type": "object", "properties": {"value": inner}, "required": ["value"]}
    value = example(schema, Hints(text))
    assert jsonschema_rs.Draft202012Validator(schema).is_valid(value), (schema, value)


_JSON: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from([
            "type", "function", "name", "parameters", "properties", "enum", "content", "role", "json_schema", "schema",
            "items", "minItems", "minimum", "anyOf", "$ref", "required", "text", "image_url",
        ]),
        inner, max_size=4,
    ),
    max_leaves=10,
)  # fmt: skip
_MEMBERS = ["tools", "tool_choice", "response_format", "stop", "n", "max_tokens", "seed", "stream_options"]


_TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "tool"]), "content": _JSON}, optional={"tool_calls": _JSON}
)
_FUNCTION = st.fixed_dictionaries({"name": _JSON | st.just("a"), "parameters": _JSON})
_MORE = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(_MEMBERS, _JSON)
    | {"tools": st.lists(st.fixed_dictionaries({"function": _FUNCTION | _JSON})) | _JSON}
    | {"tool_choice": st.just("required") | _JSON},
)


@settings(max_examples=60, deadline=None)
@given(messages=st.lists(_TURN, min_size=1, max_size=2), more=_MORE)
def test_any_json_is_answered_or_refused(messages: list[dict[str, object]], more: dict[str, object]) -> None:
    """Whatever an agent sends, the demo answers it or refuses it as the provider would; it never breaks."""
    with contextlib.suppress(ChatError):
        completion = complete({"model": "m", "messages": messages} | more, serial=1, created=1)
        assert completion.body() == json.loads(json.dumps(completion.body()))
