"""The shapes of APIs on the wire: addresses, bodies, streams and refusals. Pure: bytes in, values and bytes out.

A `Dialect` is one shape: how its request is read and prepared for a target, how its answer is read
whole and as a stream. Adding one is a line in `DIALECTS` and a module beside `openai_chat`.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

from gateway.core.call import Call
from gateway.dialects import openai_chat, openai_chat_answer
from gateway.dialects.json_body import JsonLimits
from gateway.dialects.openai_chat import OutputCap, Prepared
from gateway.dialects.openai_chat_answer import End, StreamReader, Tally


class ReadRequest(Protocol):
    """Reads a request's body into a call; raises `Refusal` (`request_malformed`)."""

    def __call__(self, body: bytes, limits: JsonLimits, *, checked: bool = False) -> Call: ...


class Dialect(NamedTuple):
    """One API's shape, as pure functions over bytes."""

    read: ReadRequest
    prepare: Callable[[Call, str, OutputCap | None], Prepared]  # call, the target's model, the route's cap
    answer: Callable[[bytes], Tally]  # a whole 2xx answer
    stream: Callable[[bool], StreamReader]  # whether the usage-only frame is left out


DIALECTS: Final[Mapping[str, Dialect]] = {
    "chat": Dialect(
        openai_chat.read,
        openai_chat.prepare,
        openai_chat_answer.read_answer,
        lambda drop: StreamReader(drop_usage_frame=drop),
    ),
}
"""By the operation that an address names."""

__all__ = ["DIALECTS", "Dialect", "End", "JsonLimits", "OutputCap", "Prepared", "StreamReader", "Tally"]
