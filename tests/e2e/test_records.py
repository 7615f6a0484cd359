"""Recorded traffic of real providers, replayed through the whole gateway: bytes stay, tokens are counted.

What is expected is reckoned here, from the records alone: nothing of the gateway's own dialect,
metering or prices is imported.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

import pytest

from tests.simulator.gateway import ALLOW_ALL, ROOT, Gateway, Reply
from tests.simulator.records import Record, load, oddly, parameters, restream
from tests.simulator.replay import Replay, random_places
from tests.simulator.upstream import Received

WAYS: Final = ("plain", "odd", "floats")
"""As recorded; in other key order, with stray whitespace and `\\u` escapes; the same with `12.0` for 12."""
BOOK: Final = json.loads((ROOT / "gateway" / "metering" / "prices.json").read_text())
HOSTS: Final = {host: name for name, provider in BOOK["providers"].items() for host in provider["hosts"]}
COLUMNS: Final = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_tokens",
    "image_tokens",
)

USAGE: Final = {
    "prompt_tokens": 2200,
    "completion_tokens": 300,
    "total_tokens": 2500,
    "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 7},
    "completion_tokens_details": {"reasoning_tokens": 128, "audio_tokens": 5},
}
HIDDEN_USAGE: Final = {"prompt_tokens": 40, "completion_tokens": 10, "total_tokens": 350}
"""Reasoning that only the total tells of."""
PLAIN_USAGE: Final = {"prompt_tokens": 2200, "completion_tokens": 300, "total_tokens": 2500}
SAID: Final = "Grüße 👋 \u2028 </script>"

HOSTED: Final = ("web_search", "openrouter:web_search", "openrouter:advisor")
"""What some of the recorded requests have their provider run."""
POLICIES: Final = {
    "all.yaml": ALLOW_ALL,
    "hosted.yaml": json.dumps(
        {
            "version": 1,
            "policy": "hosted",
            "rules": [{"id": "hosted", "effect": "allow", "match": {"hosted_tools": HOSTED}}],
        }
    ),
}


# -- what a test expects, reckoned from the record


@dataclass(frozen=True)
class Case:
    """One request and the answer that its upstream gives."""

    name: str
    record: Record
    way: str
    sent: bytes
    asked: str  # the model's name as the agent asks for it
    answer: bytes
    cuts: int | None = None

    @property
    def usage_was_asked(self) -> bool:
        """Whether the agent wants to see the usage of a stream."""
        return bool((self.record.request.get("stream_options") or {}).get("include_usage"))

    @property
    def expected(self) -> bytes:
        """What the agent gets: the answer's bytes, without the usage frame that it had not asked for."""
        if not self.record.streamed or self.usage_was_asked:
            return self.answer
        return b"".join(frame for frame in _frames(self.answer) if not _usage_only(frame))


@dataclass(frozen=True)
class Replayed:
    """What came of a case."""

    reply: Reply
    row: dict[str, Any]
    upstream: Received


def _frames(stream: bytes) -> list[bytes]:
    return [frame for frame in re.split(rb"(?<=\n\n)|(?<=\r\n\r\n)", stream) if frame]


def _payload(frame: bytes) -> dict[str, Any] | None:
    data = b"\n".join(line[5:].strip(b" ") for line in re.split(rb"\r?\n", frame) if line.startswith(b"data:"))
    payload: dict[str, Any] | None = json.loads(data) if data.startswith(b"{") else None
    return payload


def _usage_only(frame: bytes) -> bool:
    payload = _payload(frame)
    return payload is not None and payload.get("choices") == [] and bool(payload.get("usage"))


def _said(record: Record) -> tuple[Any, str, bool]:
    """(usage, model, whether it is an error) that an answer names, read as its provider documents it."""
    if record.text is None:
        body = record.body if isinstance(record.body, dict) else {}
        return body.get("usage"), body.get("model") or "", bool(body.get("error"))
    usage, model, failed = None, "", False
    for payload in map(_payload, _frames(record.text.encode()) if record.streamed else []):
        if payload is not None:
            usage = payload.get("usage") or (payload.get("x_groq") or {}).get("usage") or usage
            model = model or payload.get("model") or ""
            failed = failed or bool(payload.get("error"))
    return usage, model, failed


def _tokens(usage: dict[str, Any]) -> dict[str, int]:
    """The ledger's columns: `input` with the cached ones, `output` with the reasoning."""
    prompt, completion = (usage.get(f"{side}_tokens_details") or {} for side in ("prompt", "completion"))
    made, reasoning = usage["completion_tokens"], completion.get("reasoning_tokens") or 0
    # Google and xAI count reasoning in the total alone.
    made = max(made, usage["total_tokens"] - usage["prompt_tokens"])
    return {
        "input_tokens": usage["prompt_tokens"],
        "cached_input_tokens": prompt.get("cached_tokens") or usage.get("num_cached_tokens") or 0,
        "cache_write_tokens": prompt.get("cache_write_tokens") or 0,
        "output_tokens": made,
        "reasoning_tokens": reasoning,
        "audio_tokens": (prompt.get("audio_tokens") or 0) + (completion.get("audio_tokens") or 0),
        "image_tokens": (prompt.get("image_tokens") or 0) + (completion.get("image_tokens") or 0),
    }


def _prices(host: str, *models: str) -> dict[str, str] | None:
    """The book's undated prices of a model; an exact name is better than a pattern, a long one than a short one."""
    listed = BOOK["providers"].get(HOSTS.get(host, ""), {"models": {}})["models"].values()
    for model in models:
        best: tuple[int, dict[str, str]] | None = None
        for entry in listed:
            if any(_matches(name, model) for name in entry.get("except", ())):
                continue
            for name in entry["names"]:
                weight = 1000 if name == model else len(name.strip("*"))
                if _matches(name, model) and (best is None or weight > best[0]):
                    best = weight, entry["prices"][-1]
        if best is not None:
            return best[1]
    return None


def _matches(name: str, model: str) -> bool:
    pattern = re.escape(name).replace(r"\*", ".*").replace(r"\#", "[0-9]")
    return re.fullmatch(pattern, model, re.IGNORECASE) is not None


def _cost(prices: dict[str, str], tokens: dict[str, int]) -> int:
    """Nano-USD by the book; only for calls without audio, images and long-context tiers."""
    rate = {kind: Decimal(price) for kind, price in prices.items() if kind not in {"from", "hours"}}
    cached, written, reasoning = (tokens[name] for name in COLUMNS[1:3] + COLUMNS[4:5])
    micro_usd = (
        (tokens["input_tokens"] - cached - written) * rate["input"]
        + cached * rate.get("cached_input", rate["input"])
        + written * rate.get("cache_write", rate["input"])
        + (tokens["output_tokens"] - reasoning) * rate["output"]
        + reasoning * rate.get("reasoning", rate["output"])
    )
    return int((micro_usd * 1000).quantize(Decimal(1), ROUND_HALF_EVEN))


# -- the cases, and one gateway for all of them


def _by_hand() -> list[Record]:
    """Records as anybody could have made them, so that the way is walked without the recorded ones too."""
    messages = [{"role": "user", "content": SAID}]
    whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini-2024-07-18"}
    choice = {"index": 0, "message": {"role": "assistant", "content": SAID}, "finish_reason": "stop"}
    chunked = {**whole, "object": "chat.completion.chunk"}
    parts: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": part}, "finish_reason": None}]} for part in (SAID, "!")
    ]
    parts += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": PLAIN_USAGE}]
    frames = [f"data: {json.dumps({**chunked, **part}, ensure_ascii=False)}\n\n" for part in parts]
    error = {"error": {"message": "overloaded", "type": "server_error", "code": "overloaded"}}
    stream = {"model": "gpt-4o-mini", "messages": messages, "stream": True}
    plain = {"model": "gpt-4o-mini", "messages": messages, "seed": 7}
    openai, path = "api.openai.com", "/v1/chat/completions"
    sse = "text/event-stream"

    def record(name: str, request: dict[str, Any], status: int, kind: str, **said: Any) -> Record:  # noqa: ANN401
        return Record(f"by-hand/{name}", openai, path, request, status, kind, **said)

    json_, whole_text = "application/json", "".join(frames) + "data: [DONE]\n\n"
    return [
        record("whole", plain, 200, json_, body={**whole, "choices": [choice], "usage": PLAIN_USAGE}),
        record("details", plain, 200, json_, body={**whole, "choices": [choice], "usage": USAGE}),
        record("hidden", plain, 200, json_, body={**whole, "choices": [choice], "usage": HIDDEN_USAGE}),
        record("unpriced", {**plain, "model": "house-model"}, 200, json_, body={**whole, "model": "house-model-1",
               "choices": [choice], "usage": PLAIN_USAGE}),
        record("no-usage", plain, 200, json_, body={**whole, "choices": [choice]}),
        record("error-in-200", plain, 200, json_, body=error),
        record("bad-request", plain, 400, json_, body=error),
        record("unknown-there", plain, 404, json_, body=error),
        record("no-json", plain, 200, "text/plain", text="It is not JSON."),
        record("stream", stream, 200, sse, text=whole_text),
        record("stream-with-usage", {**stream, "stream_options": {"include_usage": True}}, 200, sse, text=whole_text),
        record("stream-with-error", stream, 200, sse, text=frames[0] + f"data: {json.dumps(error)}\n\n"),
        record("stream-charset", stream, 200, f"{sse}; charset=utf-8", text=": hi\n\n" + whole_text),
    ]  # fmt: skip


RECORDS: Final = _by_hand() + load("openai-chat")
_MODELS: Final = Counter(model for model, _ in {(one.request["model"], one.host) for one in RECORDS})


def _asked(record: Record) -> str:
    """The model as the agent names it: as the provider does, where only one provider does."""
    model = record.request["model"]
    return model if _MODELS[model] == 1 else f"{record.host}/{model}"


def _case(number: int, way: str) -> Case:
    record = RECORDS[number]
    asked = _asked(record)
    request = {**record.request, "model": asked}
    seed = number * 10 + WAYS.index(way)
    if way == "plain":
        return Case(f"{number}-{way}", record, way, json.dumps(request).encode(), asked, record.answer_bytes())
    floats = way == "floats"
    sent = oddly(request, seed, floats=floats)
    if record.streamed:
        assert record.text is not None
        answer = restream(record.text.encode(), seed, floats=floats, line_end=b"\r\n" if floats else b"\n")
    else:
        answer = record.answer_bytes() if record.text is not None else oddly(record.body, seed, floats=floats)
    return Case(f"{number}-{way}", record, way, sent, asked, answer, cuts=seed)


def _config(url: str) -> dict[str, Any]:
    hosts = {record.host for record in RECORDS}
    providers = {
        _provider(host): {
            "dialects": ["openai"],
            "base_url": f"{url}/{host}",
            "price_book": HOSTS.get(host, "none"),
            "allow_internal": True,
        }
        for host in hosts
    }
    models = {
        _asked(record): {
            "targets": [{"provider": _provider(record.host), "model": record.request["model"]}],
            "hosted_tools": dict.fromkeys(HOSTED, "allow"),
        }
        for record in RECORDS
    }
    return {"providers": providers, "models": models, "prices": None}


def _provider(host: str) -> str:
    return host.replace(".", "-")


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Replayed]]:
    """All cases, carried once through one gateway."""
    cases = [_case(number, way) for number in range(len(RECORDS)) for way in WAYS]
    with Replay() as upstream:
        for case in cases:
            places = None if case.cuts is None else random_places(case.answer, case.cuts)
            if case.record.streamed and places is None:
                places = []
            upstream.answers(case.name, case.record.status, case.record.content_type, case.answer, places)
        with Gateway(tmp_path_factory.mktemp("records"), _config(upstream.url), POLICIES) as gateway:
            token = gateway.token()
            replies = {
                case.name: gateway.call("POST", f"/v1/chat/completions?case={case.name}", case.sent, token=token)
                for case in cases
            }
            rows = {row["request_id"]: row for row in gateway.wait_for_rows(len(cases))}
        yield {
            name: Replayed(reply, rows[reply.headers["gateway-request-id"]], upstream.asked(name))
            for name, reply in replies.items()
        }


def _check(case: Case, came: Replayed) -> None:
    record, reply, row = case.record, came.reply, came.row
    # Towards the agent: the bytes.
    assert reply.status == record.status, reply.body
    assert reply.body == case.expected
    assert reply.headers["content-type"] == record.content_type
    assert not reply.refusal
    # Towards the provider: the agent's own bytes where nothing had to change, and only the listed edits elsewhere.
    assert came.upstream.line == f"POST /{record.host}/chat/completions?case={case.name} HTTP/1.1"
    wanted = dict(record.request)
    if record.request.get("stream"):
        wanted["stream_options"] = {**(record.request.get("stream_options") or {}), "include_usage": True}
    assert json.loads(came.upstream.body) == wanted
    if wanted == json.loads(case.sent):
        assert came.upstream.body == case.sent
    # On the ledger: every figure.
    usage, model, failed = _said(record)
    assert row["outcome"] == ("failed" if failed or record.status != 200 else "complete")
    assert row["status"] == record.status
    assert (row["provider"], row["model"]) == (_provider(record.host), record.request["model"])
    if record.status != 200:
        assert [row[name] for name in COLUMNS] == [0] * len(COLUMNS)
        assert row["cost_nano_usd"] == 0
        return
    assert row["served_model"] == model
    assert row["estimated"] == (usage is None)
    prices = _prices(record.host, record.request["model"], model)
    assert row["price_version"] == (f"book-{BOOK['version']}" if prices is not None else "")
    if usage is None:
        return
    tokens = _tokens(usage)
    assert {name: row[name] for name in COLUMNS} == tokens
    if prices is None:
        assert row["cost_nano_usd"] == 0
    elif not (tokens["audio_tokens"] or tokens["image_tokens"] or "tiers" in prices):
        assert row["cost_nano_usd"] == row["list_cost_nano_usd"] == _cost(prices, tokens)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", range(len(_by_hand())), ids=[one.name.rpartition("/")[2] for one in _by_hand()])
def test_a_fixture_passes_untouched_and_is_metered(replayed: dict[str, Replayed], number: int, way: str) -> None:
    """Status and body come out as they went in, however they are written and cut, and the ledger has every token."""
    case = _case(number, way)
    _check(case, replayed[case.name])


@pytest.mark.parametrize("record", parameters("openai-chat"))
def test_a_record_passes_untouched_and_is_metered(replayed: dict[str, Replayed], record: Record) -> None:
    """Each record of a real provider, as recorded and written oddly: the same bytes, the recorded usage."""
    for way in WAYS:
        case = _case(RECORDS.index(record), way)
        _check(case, replayed[case.name])


def test_the_cases_are_what_they_claim(replayed: dict[str, Replayed]) -> None:
    """Among the cases are dropped usage frames, known and unknown prices, failures and reasoning."""
    assert replayed
    cases = [_case(number, "plain") for number in range(len(RECORDS))]
    assert any(case.expected != case.answer for case in cases)
    found = {bool(_prices(one.host, one.request["model"], _said(one)[1])) for one in RECORDS}
    assert found == {True, False}
