"""A request's head: what llhttp lets through and this gateway does not.

The parser refuses most of what is malformed; `tests/web/test_malformed.py` holds the list of what
it lets through, each with the rule here that stops it. Two readers of one request must never
disagree on where it ends or whom it addresses, so whatever has two readings is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import hdrs
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_writer import HttpVersion10, HttpVersion11

from gateway.core.call import Head, Headers
from gateway.core.errors import Refusal

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage
    from multidict import CIMultiDictProxy

    from gateway.web.hosts import Hosts

HEAD_BYTES: Final = 16 * 1024
"""The longest head: request line and headers."""
LINE_BYTES: Final = 8190
"""The longest request target and the longest header."""
HEADERS: Final = 100
"""The most header fields."""


def malformed(what: str, detail: str | None = None) -> Refusal:
    """A refusal that says what is wrong with the message as HTTP."""
    return Refusal("request_malformed", f"{what}; send well-formed HTTP/1.1", detail=detail)


def plain(headers: CIMultiDictProxy[str]) -> Headers:
    """The parser's headers as `core` sees them: multidict overloads what `Headers` says in one line."""
    return headers


def too_long(what: str) -> Refusal:
    """A refusal for a head above one of the three limits."""
    return Refusal(
        "headers_too_large",
        f"{what}; a head may have {HEAD_BYTES} bytes, {HEADERS} headers and {LINE_BYTES} bytes in one line",
    )


def from_parser(error: BaseException) -> Refusal:
    """What the parser's complaint is to the client; its text quotes the request and goes to the log only."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, LineTooLong):
        return too_long("a line of the request's head is too long")
    if "Too many headers" in str(error):
        return too_long("the request has too many headers")
    return malformed("the request is not HTTP that can be read in one way only", detail=str(error)[:300])


def read_head(
    message: RawRequestMessage, hosts: Hosts, peer: str, *, measure: bool, certificate: bytes | None = None
) -> Head:
    """The head of a parsed request; raises `Refusal` (400, 403 or 431).

    `certificate` is what the connection's TLS session proved, which no header can say (I17).
    `measure` asks for the exact size to be checked; without it the caller knows that it fits.
    """
    headers = message.headers
    if len(headers) > HEADERS:
        raise too_long(f"the request has {len(headers)} headers")
    target = message.path
    if measure:
        lines = [len(name) + len(value) + 2 for name, value in message.raw_headers]
        if max(lines, default=0) > LINE_BYTES:  # the parser measures names and values apart
            raise too_long("a line of the request's head is too long")
        if sum(lines) + 2 * len(lines) + len(message.method) + len(target) + len(" HTTP/1.1\r\n\r\n ") > HEAD_BYTES:
            raise too_long("the request's head is too large")

    # (1) The version: the parser also reads HTTP/0.9 and 2.0, which have no such messages (RFC 9112 §2.3).
    version = message.version
    if version not in {HttpVersion11, HttpVersion10}:
        raise malformed("only HTTP/1.1 and HTTP/1.0 are spoken here")
    # (2) The target: origin-form only, so that no second authority stands beside Host (RFC 9112 §3.2.2).
    #     The parser refuses control characters and bytes beyond ASCII, but not a fragment.
    if not target.startswith("/") or "#" in target:
        raise malformed("the request target must be a percent-encoded path")
    # (3) The length: "chunked" alone, and not in HTTP/1.0 (RFC 9112 §6.1); beside Content-Length the parser refuses it.
    coding = headers.get(hdrs.TRANSFER_ENCODING)
    if coding is not None and (coding.lower() != "chunked" or version is not HttpVersion11):
        raise malformed("the length of the body is given ambiguously")
    # (4) Expect: what is not understood may not be ignored (RFC 9110 §10.1.1).
    expect = headers.get(hdrs.EXPECT)
    if expect is not None and expect.lower() != "100-continue":
        raise malformed("Expect may only say 100-continue")
    # (5) The host: present, ours, and not asked for by a foreign page.
    host = headers.get(hdrs.HOST)
    if not host:
        raise malformed("Host is missing")
    hosts.check(host, headers.get(hdrs.ORIGIN), "listen.agents.hosts")
    path, _, query = target.partition("?")
    return Head(message.method, path, query, plain(headers), peer, certificate)
