"""OpenAI chat completions: what comes back, as one JSON text or as a stream of server-sent events.

1. Bytes leave as they came, whole frames at a time; a partial frame waits for its end.
2. The terminal frame (`data: [DONE]`, or an in-band error) and everything after it is held back until
   the caller has settled the call.
3. A stream is complete when `[DONE]` arrived as a whole frame, every choice that was begun has a
   finish reason, at least one has, and no frame was garbled. Nothing is made up for one that is not.
4. Usage is taken wherever a provider puts it (`usage` on any frame, `x_groq.usage`); the last one counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import Raw, Struct

from gateway.core.errors import Refusal

MAX_FRAME: Final = 16 * 1024 * 1024
"""A frame, or what follows the terminal one, is not longer than this."""


class Tally(Struct, frozen=True):
    """What an answer said of itself."""

    usage: object  # the provider's own figures for `metering.usage.normalise`; None when it gave none
    served_model: str
    output_bytes: int  # of generated text and calls, where the provider gave no usage
    complete: bool
    failed: bool  # the provider reported an error within the answer


@dataclass(frozen=True, slots=True)
class End:
    """What `StreamReader.close` says: the bytes held back, and the tally.

    `last` is to be sent only once the call is settled. It is empty where the stream is truncated: what
    then remained was no whole frame, and the caller ends the stream with an error event of its own.
    """

    last: bytes
    tally: Tally


class _Delta(Struct):
    content: object = None
    refusal: object = None
    reasoning: object = None
    reasoning_content: object = None
    tool_calls: Raw = Raw()
    function_call: Raw = Raw()
    audio: Raw = Raw()


class _Choice(Struct):
    index: int = 0
    finish_reason: object = None
    delta: _Delta | None = None


class _Groq(Struct):
    usage: object = None


class _Frame(Struct):
    choices: list[_Choice] | None = None
    usage: object = None
    model: object = None
    error: object = None
    x_groq: _Groq | None = None


class _WholeChoice(Struct):
    message: Raw = Raw()


class _Whole(Struct):
    choices: list[_WholeChoice] | None = None
    usage: object = None
    model: object = None
    error: object = None


_read_frame = msgspec.json.Decoder(_Frame).decode
_read_whole = msgspec.json.Decoder(_Whole).decode
_read_any = msgspec.json.Decoder().decode
_members = msgspec.json.Decoder(dict[str, Raw]).decode

# WHATWG HTML §9.2.5: a line ends in CR LF, LF or CR; an empty line dispatches the event. The possessive
# `?+` keeps one CR LF from being read as two line ends.
_FRAME_END: Final = re.compile(rb"(?:\n|\r\n?+)(?:\n|\r\n?+)")
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"
_ENVELOPE: Final = frozenset(
    {
        "id",
        "object",
        "created",
        "model",
        "provider",
        "service_tier",
        "system_fingerprint",
        "choices",
        "usage",
        "obfuscation",
        "x_groq",
        "usage_breakdown",
        "time_info",
    }
)
"""What a usage-only frame may consist of; one that brings anything else is not left out."""

_PASS, _DROP, _END = range(3)


def read_answer(body: bytes) -> Tally:
    """What a whole (not streamed) answer said of itself; complete if it is one JSON object."""
    try:
        answer = _read_whole(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _odd_answer(body)
    size = sum(len(choice.message) for choice in answer.choices or ())
    failed = bool(answer.error)
    return Tally(answer.usage, _text(answer.model), size, not failed, failed)


def _odd_answer(body: bytes) -> Tally:
    """An answer whose members are not of the types that OpenAI's are, or that is no JSON."""
    try:
        answer = _read_any(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        return Tally(None, "", len(body), complete=False, failed=False)
    failed = bool(answer.get("error"))
    return Tally(answer.get("usage"), _text(answer.get("model")), len(body), not failed, failed)


class StreamReader:
    """Follows one stream: `feed` chunks as they come and send on what it returns, then `close`.

    `ended` turns true with the terminal frame; the caller may then stop waiting for more, but reads on
    while more comes at once: what follows belongs to the answer's bytes.
    """

    __slots__ = (
        "_begun",
        "_drop",
        "_failed",
        "_finished",
        "_garbled",
        "_held",
        "_held_size",
        "_model",
        "_pending",
        "_size",
        "_usage",
        "ended",
        "frames",
    )

    def __init__(self, *, drop_usage_frame: bool = False) -> None:
        self.ended = False
        self.frames = 0  # that carried data
        self._drop = drop_usage_frame
        self._pending = bytearray()
        self._held: list[bytes] = []
        self._held_size = 0
        self._begun: set[int] = set()
        self._finished: set[int] = set()
        self._usage: object = None
        self._model = ""
        self._size = 0
        self._failed = self._garbled = False

    def feed(self, chunk: bytes) -> bytes:
        """Take what came, give back what may be sent on now: whole frames, in order, untouched.

        Raises `Refusal` `upstream_failed` for a frame beyond 16 MiB.
        """
        if self.ended:
            return self._hold(chunk)
        data = self._whole_frames(chunk) if self._pending else chunk
        start = kept = 0
        out: list[bytes] = []
        only_lf = b"\r" not in data
        while True:
            if only_lf:
                stop = data.find(b"\n\n", start) + 2
            else:
                found = _FRAME_END.search(data, start)
                stop = found.end() if found else 1
            if stop == 1:
                break
            what = self._frame(data[start:stop])
            if what is not _PASS:
                out.append(data[kept:start])
                kept = stop
                if what is _END:
                    self.ended = True
                    self._hold(data[start:])
                    return b"".join(out)
            start = stop
        if start < len(data):
            self._limit(len(data) - start)
            self._pending += data[start:]
        last = data[kept:start]
        return b"".join((*out, last)) if out else last

    def _whole_frames(self, chunk: bytes) -> bytes:
        """What waited and what came, once a frame's end is among it; nothing before that."""
        pending = self._pending
        at = max(0, len(pending) - 3)
        pending += chunk
        if _FRAME_END.search(pending, at) is None:
            self._limit(len(pending))
            return b""
        data = bytes(pending)
        pending.clear()
        return data

    def close(self) -> End:
        """The stream is over, whoever ended it: what it was, and what was held back."""
        complete = (
            self.ended
            and not self._failed
            and not self._garbled
            and bool(self._finished)
            and self._begun <= self._finished
        )
        tally = Tally(self._usage, self._model, self._size, complete, self._failed)
        return End(b"".join(self._held), tally)

    def _hold(self, data: bytes) -> bytes:
        self._held_size += len(data)
        self._limit(self._held_size)
        self._held.append(data)
        return b""

    @staticmethod
    def _limit(size: int) -> None:
        if size > MAX_FRAME:
            raise Refusal(
                "upstream_failed", f"the provider sent a stream event of more than {MAX_FRAME >> 20} MiB; ask for less"
            )

    def _frame(self, frame: bytes) -> int:
        """Note what one frame says, and whether it passes, is left out or ends the stream."""
        event = b""
        if frame.startswith(b"data: {") and frame.find(b"\n") == len(frame) - 2:
            payload = frame[6:-2]
        elif frame.startswith(b"data: {") and frame.find(b"\r\n") == len(frame) - 4:
            payload = frame[6:-4]
        else:
            event, payload = _fields(frame)
            if not payload:
                return _PASS  # comments, and events without data, which dispatch nothing
            if payload.strip() == b"[DONE]":
                return _END
        self.frames += 1
        try:
            read = _read_frame(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            odd = _odd_frame(payload)
            if odd is None:
                self._garbled = True
                self._failed = event == b"error"
                return _END if self._failed else _PASS
            read = odd
        if read.error or event == b"error":
            self._failed = True
        self._note(read)
        if self._failed:
            return _END
        if self._drop and read.usage is not None and read.choices == [] and _only_usage(payload):
            return _DROP
        return _PASS

    def _note(self, frame: _Frame) -> None:
        if not self._model:
            self._model = _text(frame.model)
        if frame.usage is not None:
            self._usage = frame.usage
        elif frame.x_groq is not None and frame.x_groq.usage is not None:
            self._usage = frame.x_groq.usage
        for choice in frame.choices or ():
            self._begun.add(choice.index)
            if choice.finish_reason:
                self._finished.add(choice.index)
            if choice.delta is not None:
                self._size += _size(choice.delta)


def _fields(frame: bytes) -> tuple[bytes, bytes]:
    """The event's name and its data, as WHATWG HTML §9.2.6 reads the lines of one event."""
    event = b""
    data: list[bytes] = []
    for line in _LINE_END.split(frame.removeprefix(_BOM)):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            event = value
    return event, b"\n".join(data)


def _odd_frame(payload: bytes) -> _Frame | None:
    """A frame whose members are not of the types that OpenAI's are; `None` if it is not JSON at all."""
    try:
        frame = _read_any(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(frame, dict):
        return _Frame()
    choices: list[_Choice] = []
    listed = frame.get("choices")
    for choice in listed if isinstance(listed, list) else ():
        if isinstance(choice, dict):
            index = choice.get("index")
            choices.append(
                _Choice(
                    index=int(index) if isinstance(index, int | float) else 0,
                    finish_reason=choice.get("finish_reason"),
                    delta=_Delta(content=choice.get("delta")),
                )
            )
    groq = frame.get("x_groq")
    return _Frame(
        choices=choices if choices or listed == [] else None,
        usage=frame.get("usage"),
        model=frame.get("model"),
        error=frame.get("error"),
        x_groq=_Groq(groq.get("usage")) if isinstance(groq, dict) else None,
    )


def _only_usage(payload: bytes) -> bool:
    return all(name in _ENVELOPE or bytes(value) == b"null" for name, value in _members(payload).items())


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _size(delta: _Delta) -> int:
    size = 0
    for part in (delta.content, delta.refusal, delta.reasoning, delta.reasoning_content):
        if type(part) is str:
            size += len(part) if part.isascii() else len(part.encode())
        elif part is not None:
            size += len(msgspec.json.encode(part))
    for raw in (delta.tool_calls, delta.function_call, delta.audio):
        if raw:
            size += len(raw)
    return size
