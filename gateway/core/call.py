"""A call: one request of an agent as a neutral view over its untouched bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import Struct


class Headers(Protocol):
    """Case-insensitive headers that may repeat (multidict's `CIMultiDict` is one)."""

    def get(self, name: str, /) -> str | None:
        """The first value, `None` without one."""
        ...

    def getall(self, name: str, default: list[str], /) -> list[str]:
        """All values in order."""
        ...

    def __contains__(self, name: object, /) -> bool:
        """Whether there is one."""
        ...


class Head(Struct, frozen=True):
    """What is known of a request before its body is read."""

    method: str
    path: str  # the raw path as it came, without the query
    query: str  # the raw query, without the question mark
    headers: Headers
    peer: str  # the client's address, after trusted proxies
    certificate: bytes | None = None  # what the client proved in TLS to hold the key of (DER); never from a header


@dataclass(frozen=True, slots=True)
class Address:
    """What a raw path names: which dialect, which operation, and whose run."""

    dialect: str  # openai | anthropic | gemini | http | mcp | own | oauth | well_known: how a refusal looks
    operation: str  # chat | models | model | tool | own_run | own_call | … ; "" is unknown
    path: str  # the path without the run prefix and a trailing slash
    variables: Mapping[str, str] = field(default_factory=dict)
    run: str | None = None
    incarnation: str | None = None
    hint: str = ""  # for an unknown path: the base URL that would have worked


class Call(Struct, frozen=True):
    """One LLM or tool call, or one request for an own object, as policy and accounts see it.

    `body` is what the agent sent and stays as it came. `args` is the parsed view on which rules
    decide: for an LLM call the request, for a tool path variables + query + JSON body.
    """

    kind: str  # llm | tool | own
    dialect: str
    operation: str
    method: str
    body: bytes = b""
    args: Mapping[str, object] = {}
    model: str = ""
    tool: str = ""  # server.operation
    stream: bool = False
    repeat: str = "safe"  # safe | with_key | after_check | never
    content_type: str = ""
    raw: bool = False  # the body became no arguments
    hosted_tools: tuple[str, ...] = ()  # tools that the provider runs itself, as rules name them: web_search
    region: str = ""  # where the tool keeps its data, as the config says; a model's depends on its target


@dataclass(frozen=True, slots=True)
class Target:
    """One place a call may be sent to, in the order of the plan."""

    provider: str  # the provider's or the tool server's name in the config
    model: str = ""  # the name that the provider knows; empty for tools


class Exchange(Protocol):
    """One request and its one reply, as a door hands it to the pipeline.

    A reply is either whole (`reply`) or begun (`begin`), continued (`send`) and ended (`end`).
    `send` waits while the client reads slowly and raises `ClientGone` once it left.
    """

    head: Head
    begun: bool  # the status line is out: what fails now can only end the stream

    async def body(self, most: int | None = None) -> bytes:
        """The whole body, within the size limit (or `most` bytes) and the minimum rate; raises `Refusal`."""
        ...

    async def reply(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Send a whole reply."""
        ...

    async def begin(self, status: int, headers: list[tuple[str, str]]) -> None:
        """Send status and headers of a reply whose length is not known yet."""
        ...

    async def send(self, data: bytes) -> None:
        """Send a part of a reply that was begun; flushed at once."""
        ...

    async def end(self, data: bytes = b"") -> None:
        """Send the last part and end the reply."""
        ...

    def cut(self, after: float = 0.0) -> None:
        """Break the connection, so that the client cannot take a part for the whole.

        With `after` (seconds) only a reply that has begun and not left as a whole by then; it is the connection's last.
        """
        ...


class ClientGone(Exception):
    """The agent left before its reply was complete."""
