"""Answers flow untouched, are metered to the token, and are complete only when they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict

from gateway.core.errors import Refusal
from gateway.dialects import openai_chat_answer
from gateway.dialects.openai_chat_answer import End, StreamReader, read_answer
from gateway.metering.usage import normalise
from tests.simulator.records import Record, cut_at, oddly, parameters, restream

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine fails no property."""

USAGE = {
    "prompt_tokens": 13,
    "completion_tokens": 11,
    "total_tokens": 24,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 5},
}


def chunk(content: str | None = None, finish: str | None = None, index: int = 0, **members: object) -> bytes:
    """One frame with one choice."""
    delta = {"content": content} if content is not None else {}
    frame = {
        "id": "c-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m-2026",
        "choices": [{"index": index, "delta": delta, "finish_reason": finish}],
        **members,
    }
    return b"data: " + json.dumps(frame).encode() + b"\n\n"


def bare(**members: object) -> bytes:
    """One frame without choices."""
    return b"data: " + json.dumps({"id": "c-1", "model": "m-2026", "choices": [], **members}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
PLAIN = chunk("Hé", usage=None) + chunk("llo", usage=None) + chunk(finish="stop", usage=None) + DONE
WITH_USAGE = PLAIN.removesuffix(DONE) + bare(usage=USAGE, obfuscation="x") + DONE
COMMENTED = b": PROCESSING\n\n" * 3 + chunk("a") + b": still\n" + chunk("b", "stop", usage=USAGE) + DONE
TWO_CHOICES = chunk("a", index=0) + chunk("b", index=1) + chunk(finish="stop", index=1) + chunk(finish="length") + DONE
GROQ = chunk("a") + chunk(finish="stop", x_groq={"id": "r", "usage": USAGE}) + DONE
BROKEN_BY_ERROR = chunk("a") + b'event: error\ndata: {"error":{"message":"no","code":"tool_use_failed"}}\n\n'
ERROR_IN_FRAME = chunk("a") + bare(error={"message": "overloaded", "code": 502}) + DONE
STREAMS = [PLAIN, WITH_USAGE, COMMENTED, TWO_CHOICES, GROQ]


def run(chunks: list[bytes], *, drop: bool = False) -> tuple[bytes, End]:
    """Everything that was sent on before the end, and the end."""
    reader = StreamReader(drop_usage_frame=drop)
    sent = b"".join([reader.feed(piece) for piece in chunks])
    return sent, reader.close()


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
def test_a_whole_stream_passes_and_is_complete(stream: bytes, ends: bytes) -> None:
    """Every frame passes untouched, the terminal one is held back, whatever the line ends."""
    stream = stream.replace(b"\n", ends)
    sent, end = run([stream])
    assert sent + end.last == stream
    assert end.last == DONE.replace(b"\n", ends)
    assert end.tally.complete
    assert not end.tally.failed
    assert end.tally.served_model == "m-2026"


@pytest.mark.parametrize("stream", [*STREAMS, BROKEN_BY_ERROR, ERROR_IN_FRAME])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
def test_every_cut_is_incomplete(stream: bytes, ends: bytes) -> None:
    """R09, R10: at no byte before its last is a stream complete, and what was sent on ends at a frame's end."""
    stream = stream.replace(b"\n", ends)
    reader = StreamReader()
    sent = b""
    # A CR alone ends a line; the LF that may follow it adds nothing (WHATWG HTML §9.2.5).
    whole = len(stream) - (1 if ends == b"\r\n" else 0)
    for at in range(len(stream)):
        end = reader.close()
        assert not end.tally.complete or at >= whole
        assert not sent or sent.endswith((b"\n", b"\r"))
        assert not end.last or reader.ended
        sent += reader.feed(stream[at : at + 1])
    end = reader.close()
    assert sent + end.last == stream
    assert end.tally.complete == (stream.replace(ends, b"\n") in STREAMS)


@STEADY
@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 2000), max_size=12), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_where_chunks_end_does_not_matter(stream: bytes, places: list[int], ends: bytes) -> None:
    """Chunks cut anywhere, also within a character or a line end, give the same bytes and the same tally."""
    stream = stream.replace(b"\n", ends)
    sent, end = run(cut_at(stream, places))
    whole_sent, whole_end = run([stream])
    assert (sent, end.last) == (whole_sent, whole_end.last)
    assert end.tally == whole_end.tally


def test_the_usage_frame_is_left_out_only_when_told() -> None:
    """The frame that the agent had not asked for is left out, and still counted; nothing else is missing."""
    sent, end = run([WITH_USAGE], drop=True)
    assert sent + end.last == PLAIN
    assert end.tally.usage == USAGE
    assert run([WITH_USAGE])[0] + DONE == WITH_USAGE
    for size in (1, 7, 100):
        pieces = [WITH_USAGE[at : at + size] for at in range(0, len(WITH_USAGE), size)]
        sent, end = run(pieces, drop=True)
        assert sent + end.last == PLAIN


@pytest.mark.parametrize(
    "frame",
    [
        chunk("x", usage=USAGE),
        bare(usage=None),
        bare(),
        bare(usage=USAGE, moderation={"flagged": False}),
        bare(usage=USAGE, choices=None),
        b'data: {"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n',
        bare(prompt_filter_results=[]),
        b": comment\n\n",
        b"event: ping\n\n",
        b"data:\n\n",
        b"\n\n",
    ],
)
def test_no_other_frame_is_left_out(frame: bytes) -> None:
    """A frame with choices, without usage or with anything else to say stays, even where usage is left out."""
    stream = chunk("a", "stop") + frame + DONE
    sent, end = run([stream], drop=True)
    assert sent + end.last == stream
    assert end.tally.complete


def test_a_usage_frame_is_found_however_it_is_written() -> None:
    """J16: escapes, key order, stray whitespace, several data lines and `12.0` do not hide a usage frame."""
    frame = bare(usage=USAGE)
    for seed in range(60):
        stream = chunk("a", "stop") + restream(frame, seed, floats=True) + DONE
        sent, end = run([stream], drop=True)
        assert b"24" not in sent, stream
        assert normalise(end.tally.usage) == normalise(USAGE)
        assert end.tally.complete


def test_the_last_usage_counts() -> None:
    """Usage may grow from frame to frame; a null does not take it back."""
    first, last = {"prompt_tokens": 1, "completion_tokens": 1}, {"prompt_tokens": 1, "completion_tokens": 9}
    stream = chunk("a", usage=first) + chunk("b", usage=last) + chunk(finish="stop", usage=None) + DONE
    assert run([stream])[1].tally.usage == last
    assert run([GROQ])[1].tally.usage == USAGE


def test_usage_after_the_end_is_not_read() -> None:
    """What follows the terminal frame is the provider's, held back and untouched, and changes no figure."""
    after = chunk("late", usage={"prompt_tokens": 99, "completion_tokens": 99}) + b"partial"
    sent, end = run([WITH_USAGE + after])
    assert sent + end.last == WITH_USAGE + after
    assert end.tally.usage == USAGE


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        DONE,
        chunk("a") + DONE,
        chunk("a", finish="") + DONE,
        chunk("a", "stop"),
        chunk("a", "stop") + b"data: [DONE]",
        chunk("a", "stop") + b"data: [DONE]\n",
        chunk("a", "stop") + b"event: done\n\n",
        chunk("a", "stop") + b'event: error\ndata: {"error":{"message":"no"}}\n\n' + DONE,
        chunk("a", "stop") + bare(error={"message": "no"}) + DONE,
        chunk("a", "stop", index=0) + chunk("b", index=1) + DONE,
        chunk("a", "stop") + b'data: {"id":\n\n' + DONE,
        chunk("a", "stop") + b'data: {"a":"\xff\xff"}\n\ndata: nonsense\n\n' + DONE,
        PLAIN.replace(b"[DONE]", b"[done]"),
    ],
)
def test_a_stream_without_its_end_is_not_complete(stream: bytes) -> None:
    """R09, R10: no terminal frame, half of one, no finish reason or a garbled frame: never complete."""
    _, end = run([stream])
    assert not end.tally.complete


@pytest.mark.parametrize("stream", [BROKEN_BY_ERROR, ERROR_IN_FRAME, chunk("a") + b"event: error\ndata: oops\n\n"])
def test_an_error_within_a_stream_ends_it(stream: bytes) -> None:
    """R10: an error event after 200 is a failure; it is held back with what follows, and passes untouched."""
    sent, end = run([stream])
    assert sent == chunk("a")
    assert sent + end.last == stream
    assert end.tally.failed
    assert not end.tally.complete


def test_a_null_error_is_none() -> None:
    """`error: null` on a frame is no error."""
    assert run([chunk("a", "stop", error=None) + DONE])[1].tally.complete


@pytest.mark.parametrize("done", [b"data:[DONE]\n\n", b"data: [DONE] \n\n", b"event: message\ndata: [DONE]\nid: 7\n\n"])
def test_the_terminal_frame_is_found_however_it_is_written(done: bytes) -> None:
    """With or without a space and other fields, the terminal frame is the terminal frame."""
    sent, end = run([chunk("a", "stop") + done])
    assert sent == chunk("a", "stop")
    assert end.last == done
    assert end.tally.complete


def test_a_byte_order_mark_and_nested_line_ends_are_read() -> None:
    """WHATWG HTML §9.2: a leading byte order mark is skipped, data lines are joined, mixed line ends are read."""
    stream = b'\xef\xbb\xbfdata: {"choices":[{"finish_reason":\r\ndata: "stop"}],\rdata:"usage":{"x":1}}\n\r\n' + DONE
    sent, end = run([stream])
    assert sent + end.last == stream
    assert end.tally.complete
    assert end.tally.usage == {"x": 1}


@pytest.mark.parametrize(
    "frame",
    [
        {"choices": [{"index": 0.0, "delta": {"content": [{"type": "thinking"}]}, "finish_reason": "stop"}]},
        {"choices": [{"index": "0", "delta": "text", "finish_reason": "stop"}], "model": 7},
        {"choices": [7, {"finish_reason": "stop"}], "x_groq": "no"},
        {"choices": [{"finish_reason": "stop"}], "x_groq": {"usage": USAGE}, "model": None},
    ],
)
def test_odd_types_are_read_as_far_as_they_go(frame: dict[str, Any]) -> None:
    """A provider whose members have other types is passed on and read, not refused."""
    stream = b"data: " + json.dumps(frame).encode() + b"\n\n" + b"data: 1\n\n" + DONE
    sent, end = run([stream])
    assert sent + end.last == stream
    assert end.tally.complete


def test_output_is_counted_in_bytes() -> None:
    """Where a provider gives no usage, what was generated is known in bytes of text and calls."""
    assert run([PLAIN])[1].tally.output_bytes == len("Héllo".encode())
    call = {"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {"arguments": "{}" * 50}}]}}]}
    assert run([b"data: " + json.dumps(call).encode() + b"\n\n"])[1].tally.output_bytes >= 100


def test_a_frame_without_end_is_cut_off() -> None:
    """R08: a frame beyond 16 MiB is refused, in one piece or in many, and so is an endless tail."""
    piece = b"data: " + b"x" * (1 << 20)
    for start in (b"", DONE):
        reader = StreamReader()
        reader.feed(start)
        for _ in range(15):
            assert reader.feed(piece) == b""
        with pytest.raises(Refusal) as refused:
            reader.feed(piece)
        assert refused.value.code == "upstream_failed"
    with pytest.raises(Refusal):
        StreamReader().feed(b"x" * (openai_chat_answer.MAX_FRAME + 1))


def test_a_long_frame_in_small_pieces_is_put_together() -> None:
    """R08: a frame of megabytes that comes in small pieces arrives whole."""
    stream = chunk("x" * 3_000_000, "stop") + DONE
    sent, end = run([stream[at : at + 8192] for at in range(0, len(stream), 8192)])
    assert sent + end.last == stream
    assert end.tally.complete


@STEADY
@given(st.lists(st.binary(max_size=40), max_size=8))
def test_arbitrary_bytes_pass_or_wait(pieces: list[bytes]) -> None:
    """Whatever an upstream sends, bytes come out in order and none is made up."""
    sent, end = run(pieces)
    assert b"".join(pieces).startswith(sent + end.last)


@STEADY
@given(
    st.lists(
        st.sampled_from([chunk("a"), chunk(finish="stop"), bare(usage=USAGE), DONE, b": c\n\n", b"\n", b"data: x\n\n"]),
        max_size=8,
    ),
    st.lists(st.integers(0, 2000), max_size=6),
)
def test_frames_in_any_order_pass_in_that_order(frames: list[bytes], places: list[int]) -> None:
    """Whatever the order of frames, what is sent on and held back is what came, and complete needs both ends."""
    stream = b"".join(frames)
    sent, end = run(cut_at(stream, places))
    assert stream.startswith(sent + end.last)
    if end.tally.complete:
        assert sent + end.last == stream
        assert DONE in frames
        assert chunk(finish="stop") in frames


@pytest.mark.parametrize(
    ("body", "complete", "failed"),
    [
        (json.dumps({"model": "m", "choices": [{"message": {"content": "x"}}], "usage": USAGE}).encode(), True, False),
        (b'{"contentType":"application/json"}', True, False),
        (b'{"choices":"odd","usage":{"prompt_tokens":1}}', True, False),
        (b'{"error":{"message":"no"}}', False, True),
        (b'{"choices":"odd","error":{"message":"no"}}', False, True),
        (b'{"error":null,"choices":[]}', True, False),
        (b'{"choices":[{"message":{"content":"x"', False, False),
        (b"", False, False),
        (b"[1]", False, False),
        (b"method=POST", False, False),
        (b'{"model":"\xff"}', False, False),
        (b"[" * 5000, False, False),
    ],
)
def test_a_whole_answer_is_complete_if_it_is_json(body: bytes, complete: bool, failed: bool) -> None:  # noqa: FBT001  a case's expectations
    """R09: an answer is complete as one JSON object without an error; half of one is not."""
    tally = read_answer(body)
    assert (tally.complete, tally.failed) == (complete, failed)


def expected_usage(raw: dict[str, Any] | None) -> dict[str, int] | None:
    """The recorded figures by the ledger's names, read here in the plainest way."""
    if raw is None:
        return None
    prompt = raw.get("prompt_tokens_details") or {}
    completion = raw.get("completion_tokens_details") or {}
    return {
        "input_tokens": raw["prompt_tokens"],
        "cached_input_tokens": prompt.get("cached_tokens", raw.get("num_cached_tokens", 0)),
        "cache_write_tokens": prompt.get("cache_write_tokens", 0),
        # Google has hidden reasoning in the total alone.
        "output_tokens": max(raw["completion_tokens"], raw["total_tokens"] - raw["prompt_tokens"]),
        "reasoning_tokens": completion.get("reasoning_tokens", 0),
        "input_audio_tokens": prompt.get("audio_tokens", 0),
        "output_audio_tokens": completion.get("audio_tokens", 0),
        "input_image_tokens": prompt.get("image_tokens", 0),
        "output_image_tokens": completion.get("image_tokens", 0),
    }


def recorded_usage(record: Record) -> dict[str, Any] | None:
    """The usage of a record: of its body, or the last one of its stream."""
    if record.text is None:
        found = record.body.get("usage")
        return found if isinstance(found, dict) else None
    last = None
    for line in record.text.splitlines():
        if line.startswith("data: {"):
            frame = json.loads(line[6:])
            last = frame.get("usage") or (frame.get("x_groq") or {}).get("usage") or last
    return last


def metered(usage: object) -> dict[str, int] | None:
    read, _ = normalise(usage)
    if read is None:
        return None
    figures = asdict(read)
    assert figures.pop("estimated") is False
    return figures


@pytest.mark.parametrize("record", parameters("openai-chat"))
def test_recorded_answers_are_metered_to_the_token(record: Record) -> None:
    """Every recorded answer, written plainly or oddly, gives the recorded usage in every field."""
    wanted = expected_usage(recorded_usage(record))
    if not record.streamed:
        variants = [record.answer_bytes()]
        if record.text is None:
            variants += [oddly(record.body, 3), oddly(record.body, 4, floats=True)]
        for body in variants:
            tally = read_answer(body)
            assert metered(tally.usage) == wanted
            assert tally.complete == (record.status == 200 and record.text is None)
            assert tally.served_model == ((record.body or {}).get("model") or "")
        return
    for stream in (record.answer_bytes(), *(restream(record.answer_bytes(), seed, floats=True) for seed in range(3))):
        sent, end = run([stream])
        assert sent + end.last == stream
        assert metered(end.tally.usage) == wanted
        assert end.tally.complete == (b"[DONE]" in stream)
        assert end.tally.failed != end.tally.complete


@pytest.mark.parametrize("record", parameters("openai-chat", streamed=True))
@settings(STEADY, max_examples=15)
@given(data=st.data())
def test_recorded_streams_pass_however_they_are_cut(record: Record, data: st.DataObject) -> None:
    """A recorded stream, re-cut at random places, passes byte for byte with the same tally."""
    stream = record.answer_bytes()
    sent, end = run(cut_at(stream, data.draw(st.lists(st.integers(1, len(stream)), max_size=40))))
    assert sent + end.last == stream
    assert end.tally == run([stream])[1].tally


@pytest.mark.parametrize("record", parameters("openai-chat", streamed=True))
def test_recorded_streams_cut_short_are_incomplete(record: Record) -> None:
    """R09: a recorded stream that breaks off at any byte is not complete."""
    stream = record.answer_bytes()
    reader = StreamReader()
    for at in range(len(stream)):
        assert not reader.close().tally.complete
        reader.feed(stream[at : at + 1])
    assert reader.close().tally.complete == stream.endswith(DONE)
