"""What can be set about HTTP tools: upstreams, their credentials, and the operations that exist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from gateway.outbound.settings import TimeoutOverrides
from gateway.settings.types import NON_EMPTY, HeaderName, Later, NanoUsd, Pattern, Secret, Text, Url, size
from gateway.tools.template import VARIABLE

PATH_SEGMENT: Final = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]+|\{[A-Za-z_][A-Za-z0-9_]{0,63}\})"

OperationName = Annotated[
    str, Pattern("an operation's name", r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "letters, digits, dashes and underscores")
]
ToolName = Annotated[
    str, Pattern("a tool's name", r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "letters, digits, dashes and underscores, no dot")
]
PathTemplate = Annotated[
    str,
    Pattern(
        "a path template", rf"/|(?:/{PATH_SEGMENT})+/?", "a path whose variables are whole segments: /orders/{order_id}"
    ),
]
QueryName = Annotated[str, Pattern("a query parameter's name", r"[A-Za-z0-9._~-]{1,64}", "letters, digits, . _ ~ -")]
MediaType = Annotated[
    str, Pattern("a media type", r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+", "type and subtype: application/json")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """The credential that the gateway puts on calls to a tool."""

    header: HeaderName = "Authorization"
    """Which header carries it."""
    value: Secret
    """The header's whole value, such as `Bearer ${env:TOKEN}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationSettings:
    """One thing that a tool can do; what is not listed does not exist."""

    NOT_BUILT: ClassVar[Mapping[str, str]] = {"effect_key": "effect keys are not built yet"}

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    """The method that agents use and the tool gets."""
    path: PathTemplate
    """Below the tool's `base_url`; `{name}` stands for one segment and becomes an argument."""
    query: tuple[QueryName, ...] = ()
    """Query parameters that may be given; each becomes an argument."""
    repeat: Annotated[Literal["never", "with_key", "safe"], Later("after_check")] = "never"
    """Whether the call may be sent twice: never, with an idempotency key, or always (reads)."""
    arguments: Path | None = None
    """A JSON Schema of all arguments together: path variables, query parameters, members of the JSON body."""
    cost: NanoUsd | None = None
    """What one call costs."""
    forward_headers: tuple[HeaderName, ...] = ()
    """Headers of the agent that the tool gets, beside accept, content-type and traceparent."""
    media_type: MediaType = "application/json"
    """The media type of the body."""
    body: Literal["json", "raw"] = "json"
    """`json`: parsed, so that rules can look into it; `raw`: passed as it is."""
    max_answer: Annotated[int, size("1KiB", "1 GiB")] = 8 * 1024 * 1024
    """The largest answer that is passed on."""
    timeouts: TimeoutOverrides = field(default_factory=TimeoutOverrides)
    """Its own deadlines, over those of its tool."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """Every argument has one place, and a path can be matched; what needs the files is in `tools.mistakes`."""
        variables = VARIABLE.findall(self.path)
        for name in sorted({name for name in variables if variables.count(name) > 1}):
            yield "path", f"the variable {{{name}}} stands twice", "give each its own name"
        for name in sorted(set(variables) & set(self.query)):
            yield "query", f"{name!r} is a path variable already", "give the parameter or the variable another name"
        if {"/.", "/.."} & {f"/{segment}" for segment in self.path.split("/")}:
            yield "path", "dot segments never match", "write the path that the tool really has"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSettings:
    """One HTTP tool."""

    SWITCHABLE: ClassVar[str] = "tool"
    NOT_BUILT: ClassVar[Mapping[str, str]] = {
        "url": "MCP servers are not built yet",
        "pins": "MCP servers are not built yet",
        "command": "MCP servers are not built yet",
        "env": "MCP servers are not built yet",
    }

    kind: Annotated[Literal["http"], Later("mcp")]
    """What it speaks."""
    base_url: Annotated[str, Url(demo=True)]
    """What operations' paths are appended to, or `builtin:demo`."""
    auth: AuthSettings | None = None
    """The credential that the gateway puts on calls."""
    operations: Annotated[Mapping[OperationName, OperationSettings], NON_EMPTY]
    """What it can do; each is the tool `NAME.OPERATION` in policies."""
    allow_internal: bool = False
    """Whether it may have a private or loopback address."""
    region: Text = ""
    """Where it keeps its data, in words of your own such as `eu`; conditions read it as `call.region`."""
    timeouts: TimeoutOverrides = field(default_factory=TimeoutOverrides)
    """Its own deadlines."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """No request can mean two operations of the same shape."""
        seen: dict[tuple[str, str], str] = {}
        for name, operation in self.operations.items():
            shape = (operation.method, VARIABLE.sub("{}", operation.path.rstrip("/")))
            other = seen.setdefault(shape, name)
            if other != name:
                yield f"operations.{name}", f"answers the same requests as {other!r}", "change its method or path"
