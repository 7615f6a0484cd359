"""What tools can do: the operations of the configuration, compiled at load, and how a request finds one.

Only configured operations exist. A request that names no operation, or a known path with another method,
never reaches a tool.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from gateway.core.credential import Injected
from gateway.core.errors import Refusal, method_not_allowed
from gateway.core.headers import FRAMING, is_header_value, never_upstream
from gateway.core.sources import Sources
from gateway.outbound.settings import TimeoutSettings
from gateway.outbound.upstream import Upstream
from gateway.settings.types import BUILTIN_DEMO
from gateway.tools.arguments import fold
from gateway.tools.schema import ArgumentSchema, SchemaError, compile_schema
from gateway.tools.settings import OperationSettings, ToolSettings
from gateway.tools.template import Template, TemplateError, compile_template, split

Mistake = tuple[str, str, str]
"""Where below `tools`, what is wrong, what to do: as settings' own `mistakes()` yields them."""

_ALWAYS: Final = ("accept", "idempotency-key")
_OWN_RULE: Final = frozenset({*_ALWAYS, "content-type", "traceparent"})
"""Headers that cross by a rule of their own, whatever `forward_headers` says."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that a tool can do."""

    tool: str  # server.operation, the name in policies
    upstream: Upstream
    credential: Injected | None
    method: str
    template: Template
    query: tuple[str, ...]
    declared: frozenset[str]  # the query parameters again
    placed: frozenset[str]  # folds of the names that stand in path or query
    repeat: str  # never | with_key | safe
    cost: int  # nano-USD per call
    media_type: str
    raw: bool  # the body is passed unparsed and has no arguments
    region: str  # where its tool keeps data
    max_answer: int  # bytes
    timeouts: TimeoutSettings
    headers: tuple[str, ...]  # the allow-list, lower case
    schema: ArgumentSchema | None


@dataclass(frozen=True, slots=True)
class Match:
    """A request's operation, its path variables, and the path to send below the tool's `base_url`."""

    operation: Operation
    variables: Mapping[str, object]
    path: str


class Tools:
    """All tools of a configuration."""

    def __init__(self, operations: Mapping[str, Sequence[Operation]], off: Mapping[str, str]) -> None:
        """Take the operations by tool, and for tools that are switched off the sentence that says why."""
        self._off = dict(off)
        self._shapes: dict[str, dict[int, tuple[Operation, ...]]] = {
            tool: {
                length: tuple(sorted((o for o in those if len(o.template.parts) == length), key=_rank))
                for length in {len(o.template.parts) for o in those}
            }
            for tool, those in operations.items()
        }
        # A path without variables outranks every other of its method: most requests end here.
        self._exact = {
            (tool, o.method, spelling): Match(o, {}, o.template.text)
            for tool, those in operations.items()
            for o in those
            if not o.template.variables
            for spelling in (o.template.text, o.template.text.rstrip("/"), o.template.text.rstrip("/") + "/")
        }
        self.names: tuple[str, ...] = tuple(sorted(o.tool for those in operations.values() for o in those))

    @classmethod
    def build(
        cls,
        settings: Mapping[str, ToolSettings],
        sources: Sources,
        *,
        timeouts: TimeoutSettings,
        demo_url: str | None = None,
        off: Mapping[str, str] | None = None,
    ) -> Tools:
        """Compile all operations; raises `ValueError` for what `mistakes` would have named.

        `demo_url` stands in for `builtin:demo`: the origin of the running demo upstream.
        """
        operations = {}
        for name, tool in settings.items():
            base_url = tool.base_url if tool.base_url != BUILTIN_DEMO else f"{demo_url}/tools/{name}"
            deadlines = timeouts.overridden(tool.timeouts)
            upstream = Upstream(name, base_url, timeouts=deadlines, allow_internal=tool.allow_internal)
            credential = Injected(tool.auth.header.lower(), tool.auth.value.reveal()) if tool.auth else None
            operations[name] = [
                _compile(
                    operation,
                    sources,
                    tool=f"{name}.{key}",
                    upstream=upstream,
                    timeouts=deadlines.overridden(operation.timeouts),
                    credential=credential,
                    region=tool.region,
                )
                for key, operation in tool.operations.items()
            ]
        return cls(operations, off or {})

    def find(self, tool: str, method: str, path: str) -> Match:
        """The operation that a raw path below `/tools/{tool}` names.

        Raises `Refusal`: `tool_unknown`, `method_not_allowed` (with `Allow`), or `request_malformed` for a
        path that could be read in two ways. Where two templates match, the one with the earlier literal
        segment counts.
        """
        exact = self._exact.get((tool, method, path))
        if exact is not None:
            return exact
        shapes = self._shapes.get(tool)
        if shapes is None:
            raise self._unknown(tool)
        segments = split(path)
        matching = [operation for operation in shapes.get(len(segments), ()) if operation.template.matches(segments)]
        chosen = next((operation for operation in matching if operation.method == method), None)
        if chosen is None:
            raise _not_there(tool, matching)
        variables = chosen.template.read(segments)
        if "%" in path:
            decoded = [unquote(segment) for segment in segments]
            same_method = (o for o in shapes[len(segments)] if o.method == method and o.template.matches(decoded))
            if next(same_method, None) is not chosen:
                raise Refusal(
                    "request_malformed",
                    "the path names another operation once it is percent-decoded; send plain characters unencoded",
                )
        return Match(chosen, variables, chosen.template.path(segments))

    def _unknown(self, tool: str) -> Refusal:
        if tool in self._off:
            return Refusal("tool_unknown", self._off[tool])
        return Refusal(
            "tool_unknown", f"there is no tool {tool[:64]!r}; the operator lists tools in the config's `tools`"
        )


def mistakes(settings: Mapping[str, ToolSettings], sources: Sources) -> Iterator[Mistake]:
    """What is wrong with tools beyond what the settings themselves can see: files, and names that clash."""
    for name, tool in settings.items():
        if tool.auth is not None:
            if tool.auth.header.lower() in FRAMING:
                yield f"{name}.auth.header", f"{tool.auth.header} belongs to the connection", "name a header of its own"
            if not is_header_value(tool.auth.value.reveal()):
                yield f"{name}.auth.value", "is not one line of text without space around it", "correct the secret"
        for key, operation in tool.operations.items():
            for place, problem, remedy in _operation_mistakes(tool, operation, sources):
                yield f"{name}.operations.{key}.{place}", problem, remedy


def _operation_mistakes(tool: ToolSettings, operation: OperationSettings, sources: Sources) -> Iterator[Mistake]:
    try:
        template = compile_template(operation.path)
    except TemplateError as error:
        yield "path", str(error), "write a path such as /orders/{order_id}"
        return
    names = [*template.variables, *operation.query]
    folds = [fold(name) for name in names]
    for place, name in enumerate(names):
        if folds[place] in folds[:place] and name not in names[:place]:
            where = "query" if place >= len(template.variables) else "path"
            yield where, f"{name!r} differs from another argument only by case", "give it another name"
    own = tool.auth.header.lower() if tool.auth else ""
    for name in operation.forward_headers:
        if never_upstream(name.lower()):
            yield "forward_headers", f"{name} never passes from an agent to a tool", "remove it"
        elif name.lower() == own:
            yield "forward_headers", f"{name} carries the tool's own credential", "remove it; `auth` sends it"
    if operation.arguments is not None:
        try:
            compile_schema(sources.read(operation.arguments))
        except OSError as error:
            yield "arguments", f"{operation.arguments} cannot be read: {error.strerror or error}", "correct the path"
        except SchemaError as error:
            yield "arguments", f"{operation.arguments}: {error}", "correct the schema (JSON Schema 2020-12)"


def _compile(
    operation: OperationSettings,
    sources: Sources,
    *,
    tool: str,
    upstream: Upstream,
    timeouts: TimeoutSettings,
    credential: Injected | None,
    region: str,
) -> Operation:
    template = compile_template(operation.path)
    headers = [name.lower() for name in operation.forward_headers]
    forbidden = [name for name in headers if never_upstream(name) or (credential and name == credential.name)]
    if forbidden:
        raise ValueError(f"{tool}: {forbidden[0]} never passes from an agent to a tool")
    return Operation(
        tool=tool,
        upstream=upstream,
        credential=credential,
        method=operation.method,
        template=template,
        query=operation.query,
        declared=frozenset(operation.query),
        placed=frozenset(map(fold, (*template.variables, *operation.query))),
        repeat=operation.repeat,
        cost=operation.cost or 0,
        media_type=operation.media_type,
        raw=operation.body == "raw",
        region=region,
        max_answer=operation.max_answer,
        timeouts=timeouts,
        headers=(*_ALWAYS, *(name for name in dict.fromkeys(headers) if name not in _OWN_RULE)),
        schema=compile_schema(sources.read(operation.arguments)) if operation.arguments else None,
    )


def _rank(operation: Operation) -> tuple[bool, ...]:
    return operation.template.rank()


def _not_there(tool: str, matching: Sequence[Operation]) -> Refusal:
    if not matching:
        return Refusal(
            "tool_unknown",
            f"tool {tool} has no operation at this path; paths are compared as they are written, case and all",
        )
    return method_not_allowed(operation.method for operation in matching)
