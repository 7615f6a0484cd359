"""A chat request is read, and goes on byte for byte but for what the contract lets change."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.errors import Refusal
from gateway.dialects.json_body import JsonLimits, parse
from gateway.dialects.openai_chat import CONTROL_MEMBERS, OutputCap, prepare, read
from tests.simulator.records import Record, oddly, parameters

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine fails no property."""

LIMITS = JsonLimits()
MINIMAL: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


def request(**members: object) -> bytes:
    return json.dumps({**MINIMAL, **members}).encode()


def refused(body: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read(body, LIMITS)
    assert caught.value.code == "request_malformed"
    return caught.value


def test_a_request_becomes_a_call() -> None:
    """What policy and accounts need is read, and the body stays the object that came."""
    body = request(stream=True, tools=[])
    call = read(body, LIMITS)
    assert (call.kind, call.dialect, call.operation, call.model) == ("llm", "openai", "chat", "gpt-4o-mini")
    assert call.stream
    assert call.repeat == "safe"
    assert call.body is body
    assert call.args == json.loads(body)


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ({}, ()),
        ({"tools": [{"type": "function"}, {"type": "custom"}, {"function": {"name": "f"}}]}, ()),
        ({"tools": None, "web_search_options": None, "enable_search": False}, ()),
        ({"web_search_options": {}}, ("web_search",)),
        ({"search_parameters": {"mode": "auto"}}, ("web_search",)),
        ({"enable_search": True, "web_search_options": {}}, ("web_search",)),
        ({"tools": [{"type": "function"}, {"type": "code_interpreter"}]}, ("code_interpreter",)),
        ({"tools": [{"type": "mcp", "server_url": "https://User@Tools.Example:443/x"}]}, ("mcp/tools.example",)),
        ({"tools": [{"type": "mcp", "server_url": "https://[broken"}]}, ("mcp/unknown",)),
        ({"tools": [{"type": "mcp"}]}, ("mcp/unknown",)),
        ({"tools": [{}, "x", {"type": 7}, {"type": ""}]}, ("unknown",)),
        ({"plugins": [{"id": "web"}, {}]}, ("plugin/web", "plugin/unknown")),
    ],
)
def test_tools_that_the_provider_runs_are_recognised(members: dict[str, Any], found: tuple[str, ...]) -> None:
    """Whatever the agent does not run itself is named, once, as rules name it; what is odd has a name too."""
    assert read(request(**members), LIMITS).hosted_tools == found


def test_a_cap_of_rules_lowers_that_of_the_route() -> None:
    """The least cap counts, and it is the one that is injected where the caller names none."""
    assert OutputCap(1000, 4000).lowered(500) == OutputCap(500, 500)
    assert OutputCap(1000, 4000).lowered(2000) == OutputCap(1000, 2000)
    assert OutputCap(None, None).lowered(300) == OutputCap(None, 300)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"[]", ""),
        (b'"x"', ""),
        (b'{"messages":[]}', "/model"),
        (request(model=""), "/model"),
        (request(model=None), "/model"),
        (request(model=["a"]), "/model"),
        (request(model="m" * 257), "/model"),
        (request(model="a\nb"), "/model"),
        (request(model="a\x7fb"), "/model"),
        (b'{"model":"m"}', "/messages"),
        (request(messages={"role": "user"}), "/messages"),
        (request(stream="true"), "/stream"),
        (request(stream=1), "/stream"),
        (request(stream_options=[]), "/stream_options"),
        (request(stream_options={"include_usage": "yes"}), "/stream_options/include_usage"),
        (request(max_tokens=0), "/max_tokens"),
        (request(max_tokens=-1), "/max_tokens"),
        (request(max_tokens=True), "/max_tokens"),
        (request(max_tokens="100"), "/max_tokens"),
        (request(max_completion_tokens=1.5), "/max_completion_tokens"),
    ],
)
def test_what_is_wrong_is_pointed_at(body: bytes, pointer: str) -> None:
    """A request that the gateway cannot go by is 400 with a JSON pointer to the member."""
    assert refused(body).fields["pointer"] == pointer


@pytest.mark.parametrize("name", sorted(CONTROL_MEMBERS))
def test_control_members_are_refused_where_the_gateway_reads(name: str) -> None:
    """S07: what would steer a proxy is 400 at the top level and within stream_options."""
    assert refused(request(**{name: "http://169.254.169.254/"})).fields["pointer"] == f"/{name}"
    refusal = refused(request(stream=True, stream_options={"include_usage": True, name: {}}))
    assert refusal.fields["pointer"] == f"/stream_options/{name}"


def test_an_escaped_control_member_is_one() -> None:
    """S07: escapes in a member's name do not hide it."""
    assert refused(request()[:-1] + rb',"base\u005furl":"http://x"}').fields["pointer"] == "/base_url"


@pytest.mark.parametrize("name", sorted(CONTROL_MEMBERS))
def test_the_same_names_are_data_elsewhere(name: str) -> None:
    """S07: in messages, tool arguments and JSON schemas such names pass unchanged."""
    schema = {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}
    arguments = json.dumps({name: "http://169.254.169.254/"})
    body = request(
        messages=[
            {"role": "user", "content": "x", name: "y"},
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": arguments}}]},
        ],
        tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}],
        metadata={name: "x"},
    )
    assert prepare(read(body, LIMITS), "gpt-4o-mini", None).body is body


def test_nothing_changes_where_nothing_must() -> None:
    """The target's own name, no cap, no stream: the very object goes on."""
    body = b' {"messages":[ ] ,\n"model":"a/b", "n": 1.0, "x":"\\u0041"} '
    prepared = prepare(read(body, LIMITS), "a/b", OutputCap())
    assert prepared.body is body
    assert (prepared.drop_usage_frame, prepared.cap_note) == (False, "")


def test_a_model_is_renamed_in_its_place() -> None:
    """Only the text of the model's name differs; the same words elsewhere stay."""
    body = b'{"messages":[{"model":"sim"}], "\\u006dodel" :\t"sim" ,"user":"\\"model\\":\\"sim\\""}'
    prepared = prepare(read(body, LIMITS), 'gpt "4"', None)
    assert prepared.body == body.replace(b'\t"sim"', b'\t"gpt \\"4\\""')


@pytest.mark.parametrize(
    ("options", "drop"),
    [
        ({}, True),
        ({"stream_options": None}, True),
        ({"stream_options": {}}, True),
        ({"stream_options": {"include_usage": False}}, True),
        ({"stream_options": {"include_usage": None, "include_obfuscation": False}}, True),
        ({"stream_options": {"include_obfuscation": False}}, True),
        ({"stream_options": {"include_usage": True, "include_obfuscation": False}}, False),
    ],
)
def test_a_stream_is_asked_for_usage(options: dict[str, Any], drop: bool) -> None:  # noqa: FBT001  a case's expectation
    """A stream whose agent did not ask for usage is asked for it, and the extra frame is to be left out."""
    body = request(stream=True, **options)
    prepared = prepare(read(body, LIMITS), "gpt-4o-mini", None)
    assert prepared.drop_usage_frame is drop
    sent = json.loads(prepared.body)
    wanted = {**(options.get("stream_options") or {}), "include_usage": True}
    assert sent == {**json.loads(body), "stream_options": wanted}
    if not drop:
        assert prepared.body is body


def test_what_is_not_a_stream_is_not_asked() -> None:
    """Without `stream: true` nothing is injected."""
    for body in (request(), request(stream=False), request(stream=None)):
        assert prepare(read(body, LIMITS), "gpt-4o-mini", None).body is body


@pytest.mark.parametrize(
    ("given", "cap", "sent", "note"),
    [
        ({}, OutputCap(16_000, 64_000), {"max_completion_tokens": 16_000}, "16000; injected"),
        ({}, OutputCap(None, 4096), {"max_completion_tokens": 4096}, "4096; injected"),
        ({}, OutputCap(16_000, 4096), {"max_completion_tokens": 4096}, "4096; injected"),
        ({}, OutputCap(4096, None, "max_tokens"), {"max_tokens": 4096}, "4096; injected"),
        ({"max_completion_tokens": None}, OutputCap(4096), {"max_completion_tokens": 4096}, "4096; injected"),
        ({"max_tokens": None}, OutputCap(9), {"max_tokens": None, "max_completion_tokens": 9}, "9; injected"),
        ({"max_tokens": 10}, OutputCap(16, 64), {"max_tokens": 10}, ""),
        ({"max_tokens": 64}, OutputCap(16, 64), {"max_tokens": 64}, ""),
        ({"max_tokens": 65}, OutputCap(16, 64), {"max_tokens": 64}, "64; lowered"),
        ({"max_tokens": 65.0}, OutputCap(16, 64), {"max_tokens": 64}, "64; lowered"),
        ({"max_completion_tokens": 10**30}, OutputCap(16, 64), {"max_completion_tokens": 64}, "64; lowered"),
        ({"max_tokens": 1e308}, OutputCap(16, 64), {"max_tokens": 64}, "64; lowered"),
        (
            {"max_tokens": 99, "max_completion_tokens": 98},
            OutputCap(16, 64),
            {"max_tokens": 64, "max_completion_tokens": 64},
            "64; lowered",
        ),
        (
            {"max_tokens": 9, "max_completion_tokens": 98},
            OutputCap(16, 64),
            {"max_tokens": 9, "max_completion_tokens": 64},
            "64; lowered",
        ),
        ({"max_tokens": 99}, OutputCap(16, None), {"max_tokens": 99}, ""),
        ({}, OutputCap(), {}, ""),
    ],
)
def test_output_is_capped(given: dict[str, Any], cap: OutputCap, sent: dict[str, Any], note: str) -> None:
    """B05: a cap is injected where the caller gives none, lowered where it is over the route's, and noted."""
    prepared = prepare(read(request(**given), LIMITS), "gpt-4o-mini", cap)
    assert json.loads(prepared.body) == {**MINIMAL, **sent}
    assert prepared.cap_note == note


members = st.fixed_dictionaries(
    {"model": st.just("sim"), "messages": st.just([{"role": "user", "content": 'é \\ " {'}])},
    optional={
        "stream": st.booleans(),
        "stream_options": st.none() | st.dictionaries(st.sampled_from(["include_usage", "x"]), st.booleans()),
        "max_tokens": st.none() | st.integers(1, 200),
        "max_completion_tokens": st.none() | st.integers(1, 200),
        "temperature": st.floats(0, 2),
        "user": st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    },
)
caps = st.none() | st.builds(OutputCap, st.none() | st.integers(1, 99), st.none() | st.integers(1, 99))


@STEADY
@given(members, st.integers(0, 2**30), caps)
def test_only_the_listed_members_ever_change(value: dict[str, Any], seed: int, cap: OutputCap | None) -> None:
    """Whatever is prepared differs from what came in the listed members alone, and never exceeds the cap."""
    prepared = prepare(read(oddly(value, seed), LIMITS), "target", cap)
    sent = parse(prepared.body, LIMITS)
    assert isinstance(sent, dict)
    touched = {"model", "stream_options", "max_tokens", "max_completion_tokens"}
    assert {name: member for name, member in sent.items() if name not in touched} == {
        name: member for name, member in value.items() if name not in touched
    }
    assert sent["model"] == "target"
    if value.get("stream"):
        assert sent["stream_options"]["include_usage"] is True
    if cap is not None and cap.maximum is not None:
        stated = [sent[name] for name in ("max_tokens", "max_completion_tokens") if sent.get(name) is not None]
        assert stated
        assert max(stated) <= cap.maximum


@pytest.mark.parametrize("record", parameters("openai-chat"))
def test_recorded_requests_are_read_and_pass(record: Record) -> None:
    """Every recorded request is read however it is written, and passes untouched but for a stream's usage."""
    for body in (record.request_bytes(), oddly(record.request, 1), oddly(record.request, 2, floats=True)):
        call = read(body, LIMITS)
        assert call.args == record.request
        assert call.model == record.request["model"]
        assert call.stream == bool(record.request.get("stream"))
        prepared = prepare(call, call.model, None)
        if not prepared.drop_usage_frame:
            assert prepared.body is body
        else:
            assert json.loads(prepared.body) == {**record.request, "stream_options": {"include_usage": True}}
