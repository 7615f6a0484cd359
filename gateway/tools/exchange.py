"""A tool call on the wire: the agent's request read into a `Call`, the tool's request made of it, its answer judged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from gateway.core.call import Call, Head
from gateway.core.errors import Refusal, Repeat
from gateway.core.fault import ABOUT_US, Fault, detail_of, fault
from gateway.core.headers import to_agent, to_upstream
from gateway.dialects.json_body import JsonLimits, parse
from gateway.tools.arguments import merge, read_query, write_query
from gateway.tools.operations import Match, Operation

_ANSWER_HEADERS: Final = frozenset({
    "content-type", "content-language", "content-disposition", "content-range", "location", "etag", "last-modified",
    "cache-control", "expires", "age", "vary", "link", "retry-after", "warning", "deprecation", "sunset",
    "x-request-id", "request-id", "x-correlation-id", "x-amzn-requestid", "x-amz-request-id", "x-ms-request-id",
    "x-trace-id", "x-total-count", "x-next-page", "x-page", "x-per-page", "x-total", "x-total-pages",
})  # fmt: skip
"""What of a tool's answer passes back: its representation, its pages and its ids; never `set-cookie` and its like."""


class Outgoing(NamedTuple):
    """A request to an upstream, whole; `path` is the raw path and query below the upstream's base URL."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes


def tool_read(match: Match, head: Head, body: bytes, limits: JsonLimits, *, checked: bool = False) -> Call:
    """The call that a request makes, its arguments checked.

    Raises `Refusal`: `request_malformed` for arguments that could be read in two ways, `arguments_invalid`
    for those that the operation's schema refuses. The body stays as it came. `checked` is that of
    `json_body.parse`: the limits were already looked at.
    """
    operation = match.operation
    content_type = _content_type(head, operation) if body else ""
    query = read_query(head.query, operation.declared)
    members: dict[str, object] = {}
    if body and not operation.raw:
        document = parse(body, limits, checked=checked)
        if not isinstance(document, dict):
            raise Refusal(
                "request_malformed",
                "the body must be a JSON object, whose members become arguments; wrap the value in an object",
            )
        members = document
    args = merge(match.variables, query, members, operation.placed)
    if operation.schema is not None:
        operation.schema.check(args)
    return Call(
        kind="tool",
        dialect="http",
        operation="tool",
        method=operation.method,
        body=body,
        args=args,
        tool=operation.tool,
        repeat=operation.repeat,
        content_type=content_type,
        raw=operation.raw,
        region=operation.region,
    )


def tool_request(
    match: Match, call: Call, head: Head, *, traceparent: str, idempotency_key: str | None = None
) -> Outgoing:
    """The request to the tool: what was decided on and nothing else (R19).

    `idempotency_key` is the derived key of a journaled call; without one the agent's own passes unchanged.
    An empty `traceparent` is left out. The query is written anew from the arguments.
    """
    operation = match.operation
    headers = to_upstream(head.headers, operation.headers)
    headers.append(("accept-encoding", "identity"))
    if call.content_type:
        headers.append(("content-type", call.content_type))
    if traceparent:
        headers.append(("traceparent", traceparent))
    if idempotency_key is not None:
        headers = [pair for pair in headers if pair[0] != "idempotency-key"]
        headers.append(("idempotency-key", idempotency_key))
    if operation.credential is not None:
        headers.append(operation.credential.header())
    query = write_query(call.args, operation.query)
    return Outgoing(operation.method, f"{match.path}?{query}" if query else match.path, headers, call.body)


def tool_answer_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers of a tool's answer that the agent gets, names in lower case."""
    return to_agent(headers, _ANSWER_HEADERS)


def tool_judge(operation: Operation, status: int, retry_after: str | None, body: bytes) -> Fault | None:
    """What an answer's status means; `None` passes as it came.

    A tool has no other target. For an effect that may not be repeated the refusal never advises to repeat.
    """
    if status // 100 == 2:  # noqa: PLR2004 -- success, RFC 9110 §15.3
        return None
    found = fault(
        f"tool {operation.upstream.name}",
        status,
        retry_after,
        about_us=operation.credential is not None and status in ABOUT_US,  # without one it speaks to the agent
        detail=detail_of(body, operation.credential),
    )
    if found is None:
        return None
    if operation.repeat == "never":
        found.refusal.repeat = Repeat.USELESS
        found.refusal.headers = ()
        found.refusal.sentence = found.refusal.sentence.replace(
            "; try again later", "; the effect may or may not have happened, so look before you repeat it"
        )
    return Fault(found.refusal, elsewhere=False, alert=found.alert)


def _content_type(head: Head, operation: Operation) -> str:
    """The body's media type as it came, if it is the declared one; JSON is UTF-8 (RFC 8259 §8.1)."""
    given = head.headers.getall("content-type", [])
    if given == [operation.media_type]:
        return operation.media_type
    wanted = f"send the body as content-type: {operation.media_type}"
    if len(given) != 1:
        raise Refusal("request_malformed", f"the body needs exactly one content-type header; {wanted}")
    essence, *parameters = (part.strip().lower() for part in given[0].split(";"))
    if essence != operation.media_type:
        raise Refusal("request_malformed", f"the content-type {given[0][:64]!r} is not this operation's; {wanted}")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "charset" and not operation.raw and value.strip('"') not in {"utf-8", "utf8"}:
            raise Refusal("request_malformed", f"JSON is UTF-8, not {value[:32]!r}; {wanted}")
    return given[0]
