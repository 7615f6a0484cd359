"""What the demo model says: pure, from a chat request to a completion.

The same request gets the same words; only `id` and `created` differ. Everything that can be tried out is in
the model's name, since any name is a model here. Words and numbers between dashes are its knobs:

    sim-latency-250     wait 250 ms before the first byte          sim-slow       the same with 2000
    sim-pace-20         wait 20 ms between the frames of a stream
    sim-words-500       speak at least 500 tokens
    sim-cached-80       report 80% of the prompt's tokens as cached
    sim-reasoning-40    report 40 reasoning tokens on top
    sim-fail-503        answer with that status                    sim-quota      429, code insufficient_quota
    sim-cut-3           break a stream after 3 frames

They can be combined: `sim-latency-100-words-50`. Tokens are counted by a rule that anybody can repeat: up to
six letters or digits, or one other sign, are a token; a message costs four more, a request three.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from gateway.demo.example import Hints, example

_PIECE: Final = re.compile(r"\s*(?:\w{1,6}|[^\w\s])")
_COUNTED_EXACTLY: Final = 256 * 1024
_WORD: Final = re.compile(r"[^\W\d_][\w'-]*")
_DULL: Final = frozenset(
    ["a", "about", "an", "and", "are", "can", "do", "does", "for", "how", "in", "is", "it", "me", "of", "on", "or",
     "please", "say", "tell", "that", "the", "this", "to", "what", "which", "who", "why", "with", "write", "you"]
)  # fmt: skip
_OPENINGS: Final = (
    "Here is what a demo model makes of {topic}.", "You asked about {topic}, so let us look at it.",
    "In short, {topic} comes down to three things.", "A few plain words about {topic}.",
)  # fmt: skip
_SENTENCES: Final = (
    "First, it costs something, and somebody should know what.", "It works best when each step can be told apart.",
    "What was agreed on should be written down before it is done.", "A small example often says more than a rule.",
    "Whoever depends on it will want to see what happened.", "Doing it twice is rarely the same as doing it once.",
    "Most surprises come from what nobody had thought to check.", "It is easier to add a limit than to win one back.",
)  # fmt: skip
_CLOSINGS: Final = ("Ask me again, and I will say the same.", "That is all a demo can say.", "I hope that helps.")

_SENTENCE_TOKENS: Final = {sentence: len(_PIECE.findall(sentence)) for sentence in _SENTENCES}
_READ: Final = 4_000  # characters of a conversation that are looked at for what to say
_MAX_CHOICES: Final = 16
_MAX_WORDS: Final = 20_000
_IMAGE_TOKENS: Final = 85


class ChatError(Exception):
    """A request that the demo model refuses, in the provider's own words."""

    def __init__(
        self, message: str, *, status: int = 400, type_: str = "invalid_request_error", param: str = "", code: str = ""
    ) -> None:
        """`param` names the member at fault, `code` is the provider's code; both may be empty."""
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": type_, "param": param or None, "code": code or None}}


@dataclass(frozen=True, slots=True)
class Knobs:
    """What a model's name asks for; times in milliseconds, `None` where it does not say."""

    latency: int | None = None
    pace: int | None = None
    words: int = 0
    cached: int = 0
    reasoning: int = 0
    fail: int = 0
    cut: int | None = None
    quota: bool = False

    @classmethod
    def of(cls, model: str) -> Knobs:
        """Read a model's name; what is no knob is just a name."""
        parts = model.split("-")
        said = {
            name: int(value)
            for name, value in pairwise(parts)
            if name in _NUMBERED and value.isdecimal() and len(value) <= 6  # noqa: PLR2004 -- digits
        }
        if "slow" in parts:
            said.setdefault("latency", 2000)
        return cls(quota="quota" in parts, **said)


_NUMBERED: Final = frozenset({"latency", "pace", "words", "cached", "reasoning", "fail", "cut"})


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers to a request."""

    pieces: tuple[str, ...]
    tool_calls: tuple[dict[str, Any], ...]
    finish_reason: str

    @property
    def text(self) -> str | None:
        """The content, `None` beside tool calls."""
        return None if self.tool_calls else "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer; `body` and `frames` are its two shapes on the wire."""

    id: str
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: Mapping[str, object]

    def body(self) -> dict[str, object]:
        """As one JSON object."""
        return self._object("chat.completion") | {
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": choice.text, "refusal": None}
                    | ({"tool_calls": list(choice.tool_calls)} if choice.tool_calls else {}),
                    "logprobs": None,
                    "finish_reason": choice.finish_reason,
                }
                for index, choice in enumerate(self.choices)
            ],
            "usage": self.usage,
        }

    def frames(self, *, usage: bool) -> Iterator[dict[str, object]]:
        """As the chunks of a stream: role, content, finish; with `usage` one more chunk without choices."""
        for index, choice in enumerate(self.choices):
            yield self._frame(index, {"role": "assistant", "content": None if choice.tool_calls else ""}, None, usage)
            for delta in _deltas(choice):
                yield self._frame(index, delta, None, usage)
            yield self._frame(index, {}, choice.finish_reason, usage)
        if usage:
            yield self._object("chat.completion.chunk") | {"choices": [], "usage": self.usage}

    def _object(self, kind: str) -> dict[str, object]:
        return {
            "id": self.id, "object": kind, "created": self.created, "model": self.model,
            "system_fingerprint": "fp_demo", "service_tier": "default",
        }  # fmt: skip

    def _frame(self, index: int, delta: object, finish_reason: str | None, usage: bool) -> dict[str, object]:  # noqa: FBT001 -- private
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._object("chat.completion.chunk") | {"choices": [choice]} | ({"usage": None} if usage else {})


def complete(request: object, *, serial: int, created: int) -> Completion:
    """Answer a chat request; raises `ChatError` for one that the provider would refuse.

    `serial` makes the answer's id unlike every other, `created` is its time in epoch seconds.
    """
    if not isinstance(request, Mapping):
        raise ChatError("the request is not a JSON object")
    model, messages = request.get("model"), request.get("messages")
    if not isinstance(model, str) or not model:
        raise ChatError("you must provide a model parameter", param="model")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, Mapping) for one in messages):
        raise ChatError("messages must be an array of at least one object", param="messages")
    try:
        return _complete(request, model, messages, serial, created)
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        # A provider names the member; here whatever cannot be read is refused as a whole.
        raise ChatError("a member of the request has a value that does not belong there") from error


def _complete(
    request: Mapping[str, Any], model: str, messages: Sequence[Mapping[str, Any]], serial: int, created: int
) -> Completion:
    knobs = Knobs.of(model)
    if knobs.quota:
        raise ChatError(
            "You exceeded your current quota.", status=429, type_="insufficient_quota", code="insufficient_quota"
        )
    if knobs.fail:
        kind = "server_error" if knobs.fail >= 500 else "invalid_request_error"  # noqa: PLR2004 -- HTTP
        raise ChatError(f"The demo was asked to fail with {knobs.fail}.", status=_status(knobs.fail), type_=kind)

    count = _whole(request, "n", 1, _MAX_CHOICES)
    cap = min(_whole(request, name, None, None) for name in ("max_completion_tokens", "max_tokens"))
    digest = hashlib.sha256(json.dumps([model, messages, request.get("seed")], sort_keys=True).encode()).digest()
    choices = tuple(_choice(request, messages, knobs, cap, digest[index:] + digest[:index]) for index in range(count))
    spoken = sum(len(choice.pieces) for choice in choices) + knobs.reasoning
    prompt = _prompt_tokens(request, messages)
    return Completion(
        id=f"chatcmpl-demo{digest.hex()[:12]}{serial:08x}",
        created=created,
        model=model,
        choices=choices,
        usage={
            "prompt_tokens": prompt,
            "completion_tokens": spoken,
            "total_tokens": prompt + spoken,
            "prompt_tokens_details": {"cached_tokens": prompt * min(knobs.cached, 100) // 100, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": knobs.reasoning, "audio_tokens": 0,
                "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
            },
        },
    )  # fmt: skip


def wants_usage(request: Mapping[str, Any]) -> bool:
    """Whether a streaming request asked for the usage chunk."""
    options = request.get("stream_options")
    return isinstance(options, Mapping) and options.get("include_usage") is True


def pieces_of(text: str) -> tuple[str, ...]:
    """The tokens of a text without trailing space; joined they are the text again."""
    return tuple(_PIECE.findall(text))


def _choice(
    request: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], knobs: Knobs, cap: float, digest: bytes
) -> Choice:
    calls = _tool_calls(request, messages, digest)
    if calls:
        pieces = pieces_of("".join(call["function"]["arguments"] for call in calls))
        return Choice(pieces, calls, "tool_calls")
    text = _structured(request, messages) or _prose(messages, knobs, digest)
    stops = request.get("stop")
    for stop in [stops] if isinstance(stops, str) else stops or []:
        text = text.partition(stop)[0].rstrip() if stop else text
    pieces = pieces_of(text)
    if len(pieces) > cap:
        return Choice(pieces[: int(cap)], (), "length")
    return Choice(pieces, (), "stop")


def _tool_calls(
    request: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], digest: bytes
) -> tuple[dict[str, Any], ...]:
    """Call what `tool_choice` demands, else the tools that the last message, if a user's, names."""
    functions = {
        tool["function"]["name"]: tool["function"]
        for tool in request.get("tools") or ()
        if isinstance(tool, Mapping) and isinstance(tool.get("function"), Mapping) and "name" in tool["function"]
    }
    choice = request.get("tool_choice", "auto")
    said = _text(messages[-1])[:_READ]
    mentioned = [name for name in functions if _mentions(said, name)] if messages[-1].get("role") == "user" else []
    if isinstance(choice, Mapping):
        wanted = [name for name in functions if name == (choice.get("function") or {}).get("name")]
    elif choice == "required":
        wanted = mentioned or list(functions)[:1]
    else:
        wanted = mentioned if choice == "auto" else []
    if request.get("parallel_tool_calls") is False:
        wanted = wanted[:1]
    return tuple(
        {
            "id": f"call_{digest.hex()[:20]}{index:02d}",
            "type": "function",
            "function": {
                "name": name,
                "arguments": json.dumps(
                    example(functions[name].get("parameters") or {"type": "object"}, Hints(_conversation(messages))),
                    ensure_ascii=False,
                ),
            },
        }
        for index, name in enumerate(wanted)
    )


def _structured(request: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> str:
    wanted = request.get("response_format")
    if not isinstance(wanted, Mapping):
        return ""
    if wanted.get("type") == "json_object":
        return json.dumps({"topic": _topic(messages), "answer": "a demo answer"}, ensure_ascii=False)
    if wanted.get("type") == "json_schema":
        schema = (wanted.get("json_schema") or {}).get("schema") or {}
        return json.dumps(example(schema, Hints(_conversation(messages))), ensure_ascii=False)
    return ""


def _prose(messages: Sequence[Mapping[str, Any]], knobs: Knobs, digest: bytes) -> str:
    if messages[-1].get("role") == "tool":
        return f"The tool answered: {_text(messages[-1])[:500]} That settles it."
    sentences = [_OPENINGS[digest[0] % len(_OPENINGS)].format(topic=_topic(messages))]
    start = digest[1]
    sentences += [_SENTENCES[(start + step) % len(_SENTENCES)] for step in range(2)]
    missing = min(knobs.words, _MAX_WORDS) - sum(len(pieces_of(one)) for one in sentences)
    while missing > 0:
        sentences.append(_SENTENCES[(start + len(sentences)) % len(_SENTENCES)])
        missing -= _SENTENCE_TOKENS[sentences[-1]]
    sentences.append(_CLOSINGS[digest[2] % len(_CLOSINGS)])
    return " ".join(sentences)


def _topic(messages: Sequence[Mapping[str, Any]]) -> str:
    """The first words of the last question that say something."""
    asked = next((_text(one) for one in reversed(messages) if one.get("role") == "user"), "")
    words = [word for word in _WORD.findall(asked[:_READ]) if word.lower() not in _DULL]
    return " ".join(words[:5]) or "nothing in particular"


def _deltas(choice: Choice) -> Iterator[dict[str, object]]:
    """Content in frames of two tokens; a tool call as its head and then its arguments in parts."""
    for index, call in enumerate(choice.tool_calls):
        arguments = call["function"]["arguments"]
        head = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
        yield {"tool_calls": [head]}
        for at in range(0, len(arguments), 16):
            yield {"tool_calls": [{"index": index, "function": {"arguments": arguments[at : at + 16]}}]}
    if not choice.tool_calls:
        for at in range(0, len(choice.pieces), 2):
            yield {"content": "".join(choice.pieces[at : at + 2])}


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, Mapping))
        return " ".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _conversation(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the user said, the latest first."""
    return "\n".join(_text(one) for one in reversed(messages) if one.get("role") == "user")[:_READ]


def _mentions(text: str, name: str) -> bool:
    """Whether a text names a tool, with spaces or dots for its underscores too."""
    words = [re.escape(word) for word in re.split(r"[_.\-\s]+", name) if word]
    return bool(words) and re.search(r"(?<!\w)" + r"[_.\-\s]+".join(words) + r"(?!\w)", text, re.IGNORECASE) is not None


def _prompt_tokens(request: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> int:
    total = 3
    for message in messages:
        calls = message.get("tool_calls")
        total += 4 + _tokens(_text(message)) + (_tokens(json.dumps(calls)) if calls else 0)
        parts = message.get("content")
        total += _IMAGE_TOKENS * str(parts).count("image_url'") if isinstance(parts, list) else 0
    return total + (_tokens(json.dumps(request["tools"])) if request.get("tools") else 0)


def _tokens(text: str) -> int:
    """By the rule above; of a very long text a quarter of its characters, to spare the loop."""
    return len(_PIECE.findall(text)) if len(text) <= _COUNTED_EXACTLY else len(text) // 4


def _whole(request: Mapping[str, Any], name: str, default: int | None, most: int | None) -> Any:  # noqa: ANN401 -- int or inf
    value = request.get(name, default)
    if value is None:
        return float("inf") if default is None else default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or (most is not None and value > most):
        raise ChatError(f"{name} must be a positive integer" + (f" of at most {most}" if most else ""), param=name)
    return value


def _status(asked: int) -> int:
    return asked if 300 <= asked <= 599 else 500  # noqa: PLR2004 -- HTTP's range of what is not a success
