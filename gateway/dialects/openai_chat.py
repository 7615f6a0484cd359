"""OpenAI chat completions: reading a request and preparing what is sent upstream.

The agent's bytes pass untouched, but for the few edits that users are told of: the model's name at the target, the
output cap, and the request for usage in a stream. `openai_chat_answer` reads what comes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

import msgspec

from gateway.core.call import Call
from gateway.core.errors import Refusal
from gateway.dialects import json_body
from gateway.dialects.json_body import JsonLimits

CONTROL_MEMBERS: Final = frozenset(
    {
        "api_base",
        "api_key",
        "api_version",
        "base_url",
        "custom_host",
        "custom_llm_provider",
        "endpoint",
        "extra_body",
        "extra_headers",
        "extra_query",
        "headers",
        "litellm_params",
        "proxy",
        "user_config",
    }
)
"""Members that elsewhere steer a proxy or an SDK; where *this* gateway interprets an object, they are refused.

Within messages, tool arguments and JSON schemas such names are data and pass.
"""

_MAX_MODEL: Final = 256
_CAPS: Final = ("max_tokens", "max_completion_tokens")
_OWN_TOOLS: Final = frozenset({"function", "custom"})
"""The types of tools that the agent runs itself; whatever else stands in `tools` is the provider's."""
_SEARCHES: Final = ("web_search_options", "search_parameters", "enable_search", "web_search")
"""Members by which one or another provider is told to search the web."""


@dataclass(frozen=True, slots=True)
class OutputCap:
    """A route's cap on output tokens: `default` where the caller names none, `maximum` at most; `None` is no rule.

    `field` is the member in which a cap is injected; some providers know only `max_tokens`.
    """

    default: int | None = None
    maximum: int | None = None
    field: str = "max_completion_tokens"

    def lowered(self, most: int) -> OutputCap:
        """The same rule, with `most` as the maximum where that is less."""
        default = None if self.default is None else min(self.default, most)
        return replace(self, default=default, maximum=most if self.maximum is None else min(self.maximum, most))


class Prepared(msgspec.Struct, frozen=True):
    """What is sent to one target."""

    body: bytes  # the agent's own object where nothing had to change
    drop_usage_frame: bool = False  # the usage-only frame was asked for by the gateway, not by the agent
    cap_note: str = ""  # the value of `gateway-output-cap`; empty when the caller's cap stands


def read(body: bytes, limits: JsonLimits, *, checked: bool = False) -> Call:
    """A chat request as a `Call`; raises `Refusal` `request_malformed` with a JSON pointer to what is wrong.

    Only members that the gateway itself goes by are looked at; everything else is the provider's to
    judge. `checked` is `json_body.parse`'s.
    """
    request = json_body.parse(body, limits, checked=checked)
    if type(request) is not dict:
        raise _wrong("", "the body is not a JSON object; send a chat completion request")
    if not CONTROL_MEMBERS.isdisjoint(request):
        raise _steering("", request)
    model = request.get("model")
    if type(model) is not str or not model:
        raise _wrong("/model", "the member model is missing or no text; name one of the models of GET /v1/models")
    if len(model) > _MAX_MODEL or not model.isprintable():
        raise _wrong(
            "/model", f"the member model is no printable name of at most {_MAX_MODEL} characters; see GET /v1/models"
        )
    if type(request.get("messages")) is not list:
        raise _wrong("/messages", "the member messages is missing or no array; send the conversation in it")
    stream = request.get("stream")
    if stream is not None and type(stream) is not bool:
        raise _wrong("/stream", "the member stream is neither true nor false; send one of them or leave it out")
    options = request.get("stream_options")
    if options is not None:
        _check_options(options)
    for name in _CAPS:
        if name in request:
            _check_cap(name, request[name])
    return Call(
        kind="llm",
        dialect="openai",
        operation="chat",
        method="POST",
        body=body,
        args=request,
        model=model,
        stream=stream is True,
        content_type="application/json",
        hosted_tools=_hosted_tools(request),
    )


def _hosted_tools(request: Mapping[str, object]) -> tuple[str, ...]:
    """The tools that the provider would run itself, each once.

    What stands in `tools` and is not the agent's own (a remote MCP server as `mcp/{host}`), plug-ins as
    `plugin/{id}`, and the members that switch searching on.
    """
    found = ["web_search" for name in _SEARCHES if request.get(name) not in (None, False)]
    for member, read in (("tools", _hosted_tool), ("plugins", _plugin)):
        entries = request.get(member)
        if isinstance(entries, list):
            found += filter(None, map(read, entries))
    return tuple(dict.fromkeys(found)) if found else ()


def _hosted_tool(tool: object) -> str:
    kind = tool.get("type", "function" if "function" in tool else None) if isinstance(tool, dict) else None
    if kind in _OWN_TOOLS:
        return ""
    if kind == "mcp" and isinstance(tool, dict):
        try:
            return (
                f"mcp/{urlsplit(str(tool.get('server_url') or tool.get('connector_id') or '')).hostname or 'unknown'}"
            )
        except ValueError:
            return "mcp/unknown"
    return kind[:_MAX_MODEL] if isinstance(kind, str) and kind else "unknown"


def _plugin(plugin: object) -> str:
    name = plugin.get("id") if isinstance(plugin, dict) else None
    return f"plugin/{name[:_MAX_MODEL]}" if isinstance(name, str) and name else "plugin/unknown"


def prepare(call: Call, model: str, cap: OutputCap | None) -> Prepared:
    """The body for one target: `model` is the name the target knows, `cap` the route's rule for output.

    Where nothing has to change, the body is the very object that the agent sent.
    """
    request = call.args
    changes: dict[str, bytes] = {}
    additions: dict[str, bytes] = {}
    if model != call.model:
        changes["model"] = msgspec.json.encode(model)
    note = _cap(request, cap, changes, additions) if cap is not None else ""
    drop = False
    if call.stream:
        options = request.get("stream_options")
        drop = not isinstance(options, Mapping) or options.get("include_usage") is not True
        if drop and "stream_options" not in request:
            additions["stream_options"] = b'{"include_usage":true}'
        elif drop:
            changes["stream_options"] = _with_usage(call.body)
    body = json_body.replace(call.body, changes) if changes else call.body
    if additions:
        body = json_body.insert(body, additions)
    return Prepared(body, drop, note)


def _with_usage(body: bytes) -> bytes:
    start, end = json_body.member_spans(body)["stream_options"]
    options = body[start:end]
    return json_body.edit(options if options != b"null" else b"{}", {"include_usage": b"true"})


def _cap(request: Mapping[str, object], cap: OutputCap, changes: dict[str, bytes], additions: dict[str, bytes]) -> str:
    """Lower what the caller gave, else inject; the note says which."""
    given = [name for name in _CAPS if request.get(name) is not None]
    if given:
        if cap.maximum is None:
            return ""
        over = [name for name in given if _number(request[name]) > cap.maximum]
        for name in over:
            changes[name] = b"%d" % cap.maximum
        return f"{cap.maximum}; lowered" if over else ""
    limits = [limit for limit in (cap.default, cap.maximum) if limit is not None]
    if not limits:
        return ""
    (changes if cap.field in request else additions)[cap.field] = b"%d" % min(limits)
    return f"{min(limits)}; injected"


def _number(value: object) -> int:
    """A cap that `read` has accepted."""
    return int(value) if isinstance(value, int | float) else 0


def _check_cap(name: str, value: object) -> None:
    if value is None:
        return
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or value < 1:
        raise _wrong(f"/{name}", f"the member {name} is not a whole number above zero; send a cap or leave it out")


def _check_options(options: object) -> None:
    if type(options) is not dict:
        raise _wrong("/stream_options", "the member stream_options is not an object; send one or leave it out")
    if not CONTROL_MEMBERS.isdisjoint(options):
        raise _steering("/stream_options", options)
    usage = options.get("include_usage")
    if usage is not None and type(usage) is not bool:
        raise _wrong("/stream_options/include_usage", "the member include_usage is neither true nor false; send one")


def _wrong(pointer: str, sentence: str) -> Refusal:
    return Refusal("request_malformed", sentence, fields={"pointer": pointer})


def _steering(parent: str, members: Mapping[str, object]) -> Refusal:
    name = min(CONTROL_MEMBERS.intersection(members))
    return _wrong(
        f"{parent}/{name}",
        f"the member {name} is not part of a chat request; where calls go and with which headers and keys "
        "is set in the gateway's configuration alone",
    )
