"""Requests with two readings, and heads and bodies above their limits: refused before anybody acts on them."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
import tracemalloc

import pytest

from gateway.core.call import Exchange
from gateway.web.connection import Deadlines
from tests.web.door import echo, post, refusal, serving, status, talk

G = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gw\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: gw\r\n\r\n"

BOMB = gzip.compress(b"\0" * 50_000_000)[:60_000]

AMBIGUOUS = {
    "CL and TE": G + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE and CL": G + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two CL": G + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "two equal CL": G + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab",
    "CL list": G + b"Content-Length: 2, 2\r\n\r\nab",
    "CL plus": G + b"Content-Length: +2\r\n\r\nab",
    "CL minus": G + b"Content-Length: -2\r\n\r\nab",
    "CL hex": G + b"Content-Length: 0x2\r\n\r\nab",
    "CL empty": G + b"Content-Length: \r\n\r\nab",
    "CL huge": G + b"Content-Length: 99999999999999999999999\r\n\r\nab",
    "CL underscore": G + b"Content-Length: 1_0\r\n\r\n0123456789",
    "TE twice": G + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE chunked, chunked": G + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "TE gzip, chunked": G + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "TE identity": G + b"Transfer-Encoding: identity\r\n\r\nab",
    "TE gzip": G + b"Transfer-Encoding: gzip\r\n\r\nab",
    "TE xchunked": G + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "TE tab": G + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "TE space before colon": G + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "TE quoted": G + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "TE with HTTP/1.0": b"POST /v1/x HTTP/1.0\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare LF": b"POST /v1/x HTTP/1.1\nHost: gw\nContent-Length: 0\n\n",
    "bare LF in a header": G + b"X-A: b\nContent-Length: 0\r\n\r\n",
    "bare CR in a header": G + b"X-A: b\rContent-Length: 5\r\n\r\n",
    "obs-fold": G + b"X-A: b\r\n Content-Length: 5\r\n\r\n",
    "obs-fold tab": G + b"X-A: b\r\n\tc\r\n\r\n",
    "fold before all": b"GET / HTTP/1.1\r\n Host: gw\r\n\r\n",
    "NUL in a header": G + b"X-A: a\0b\r\n\r\n",
    "control in a header": G + b"X-A: a\x01b\r\n\r\n",
    "NUL in a name": G + b"X\0A: b\r\n\r\n",
    "space in a name": G + b"X A: b\r\n\r\n",
    "no colon": G + b"X-A\r\n\r\n",
    "empty name": G + b": b\r\n\r\n",
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "HTTP/0.9 named": b"GET /v1/models HTTP/0.9\r\nHost: gw\r\n\r\n",
    "HTTP/2.0": b"GET /v1/models HTTP/2.0\r\nHost: gw\r\n\r\n",
    "HTTP/1.2": b"GET /v1/models HTTP/1.2\r\nHost: gw\r\n\r\n",
    "h2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "absolute form": b"GET http://gw/v1/models HTTP/1.1\r\nHost: gw\r\n\r\n",
    "absolute form of another": b"GET http://evil/v1/models HTTP/1.1\r\nHost: gw\r\n\r\n",
    "authority form": b"CONNECT evil:443 HTTP/1.1\r\nHost: gw\r\n\r\n",
    "asterisk form": b"OPTIONS * HTTP/1.1\r\nHost: gw\r\n\r\n",
    "fragment": b"GET /v1/models#x HTTP/1.1\r\nHost: gw\r\n\r\n",
    "raw UTF-8 in the path": b"GET /v1/\xc3\xa9 HTTP/1.1\r\nHost: gw\r\n\r\n",
    "raw byte in the path": b"GET /v1/\xff HTTP/1.1\r\nHost: gw\r\n\r\n",
    "NUL in the path": b"GET /v1/\0 HTTP/1.1\r\nHost: gw\r\n\r\n",
    "DEL in the path": b"GET /v1/\x7f HTTP/1.1\r\nHost: gw\r\n\r\n",
    "space in the path": b"GET /v1/ x HTTP/1.1\r\nHost: gw\r\n\r\n",
    "no host": b"GET /v1/models HTTP/1.1\r\n\r\n",
    "no host with HTTP/1.0": b"GET /v1/models HTTP/1.0\r\n\r\n",
    "empty host": b"GET /v1/models HTTP/1.1\r\nHost:\r\n\r\n",
    "two hosts": b"GET /v1/models HTTP/1.1\r\nHost: gw\r\nHost: evil\r\n\r\n",
    "two equal hosts": b"GET /v1/models HTTP/1.1\r\nHost: gw\r\nHost: gw\r\n\r\n",
    "unknown method": b"FROB /v1/models HTTP/1.1\r\nHost: gw\r\n\r\n",
    "lower-case method": b"get /v1/models HTTP/1.1\r\nHost: gw\r\n\r\n",
    "expectation": G + b"Expect: the-unexpected\r\nContent-Length: 2\r\n\r\nab",
    "chunk size minus": G + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "chunk size 0x": G + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\nab\r\n0\r\n\r\n",
    "chunk size space": G + b"Transfer-Encoding: chunked\r\n\r\n2 \r\nab\r\n0\r\n\r\n",
    "chunk size huge": G + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nab\r\n0\r\n\r\n",
    "chunk bare LF": G + b"Transfer-Encoding: chunked\r\n\r\n2\nab\n0\n\n",
    "chunk too long for its size": G + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
    "chunk extension with LF": G + b"Transfer-Encoding: chunked\r\n\r\n2;a=\n\r\nab\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("raw", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
async def test_what_has_two_readings_is_refused_and_hides_nothing(raw: bytes) -> None:
    """R03, P13, S05: 400, the connection ends, and no request that hid behind it is served."""
    seen: list[str] = []

    async def handler(exchange: Exchange) -> None:
        await exchange.body()
        seen.append(exchange.head.path)
        await exchange.reply(200, [], b"served")

    async with serving(handler) as running:
        for sent in (raw, raw + SMUGGLED):
            answer = await talk(running.port, sent)
            assert (status(answer), refusal(answer)) == (400, "request_malformed")
            assert b"\r\nConnection: close\r\n" in answer
            assert answer.count(b"HTTP/1.1 400 Bad Request\r\n") == answer.count(b"\r\n\r\n") == 1
        assert seen == []
        assert running.failures == []


async def test_extensions_and_trailers_are_dropped() -> None:
    """R03: chunk extensions and trailers are read past; the handler sees one clean body and no extra header."""
    raw = (
        G + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2;name=value\r\nab\r\n1\r\nc\r\n0\r\n"
        b"X-Trailer: t\r\nHost: evil\r\n\r\n"
    )
    heads: list[list[str]] = []

    async def handler(exchange: Exchange) -> None:
        body = await exchange.body()
        heads.append([name for name in ("X-Trailer", "Host") if name in exchange.head.headers])
        assert exchange.head.headers.get("Host") == "gw"
        await exchange.reply(200, [], body)

    async with serving(handler) as running:
        answer = await talk(running.port, raw)
        assert (status(answer), answer[-3:]) == (200, b"abc")
        assert heads == [["Host"]]


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c"])
async def test_upgrades_are_not_followed(upgrade: bytes) -> None:
    """R03: an Upgrade with a body is served as the plain request that it also is, and hides nothing after it."""
    raw = G + b"Connection: Upgrade\r\nUpgrade: " + upgrade + b"\r\nContent-Length: 2\r\n\r\nab"
    async with serving(echo) as running:
        answer = await talk(running.port, raw + SMUGGLED)
        assert status(answer) == 200
        assert b"\r\nConnection: close\r\n" in answer
        assert b"smuggled" not in answer


@pytest.mark.parametrize(
    "host",
    [
        "evil",
        "gw/#",
        "gw/?",
        "gw#",
        "gw@evil",
        "evil@gw",
        "gw:",
        "gw:80x",
        "gw:8080/",
        "gw.",
        "xgw",
        "gw,evil",
        "[::2]",
        "gw:123456",
        "127.0.0.1:80:80",
        "0.0.0.0",
    ],
)
async def test_a_foreign_host_is_refused(host: str) -> None:
    """S05: a Host that is not exactly one of ours is refused, whatever it begins or ends with."""
    async with serving(echo) as running:
        answer = await talk(running.port, post(host=host))
        assert (status(answer), refusal(answer)) in {(403, "origin_refused"), (400, "request_malformed")}


@pytest.mark.parametrize("host", ["gw", "GW", "gw:8080"])
async def test_our_own_hosts_are_served(host: str) -> None:
    """A configured name is ours in any case and on any port."""
    async with serving(echo) as running:
        assert status(await talk(running.port, post(host=host))) == 200


@pytest.mark.parametrize(
    ("origin", "code"), [("http://evil", 403), ("null", 403), ("http://gw:81", 403), ("http://gw", 200)]
)
async def test_pages_of_other_origins_are_refused(origin: str, code: int) -> None:
    """A page that is not ours cannot use the gateway; no answer carries a CORS header."""
    async with serving(echo) as running:
        answer = await talk(running.port, post(b"{}", f"Origin: {origin}"))
        assert status(answer) == code
        assert b"access-control" not in answer.lower()


async def test_refusals_speak_the_dialect_of_the_path() -> None:
    """A refusal that no handler saw has the shape that the caller's SDK reads."""
    async with serving(echo) as running:
        openai = await talk(running.port, post(path="/v1/chat/completions", host="evil"))
        anthropic = await talk(running.port, post(path="/r/run-1/i/2/anthropic/v1/messages", host="evil"))
        tool = await talk(running.port, post(path="/r/run-1/tools/payments/charge", host="evil"))
        assert b'{"error":{"message":"origin_refused: ' in openai
        assert b'{"type":"error","error":{"type":"permission_error"' in anthropic
        assert b"application/problem+json" in tool
        assert [one.code for one in running.refused] == ["origin_refused"] * 3


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("129 headers", G + b"".join(b"X-%d: v\r\n" % n for n in range(128)) + b"\r\n"),
        ("5000 headers", G + b"".join(b"X-%d: v\r\n" % n for n in range(5000)) + b"\r\n"),
        ("8191-byte line", G + b"X-A: " + b"a" * 8186 + b"\r\n\r\n"),
        ("8191-byte target", b"GET /" + b"a" * 8191 + b" HTTP/1.1\r\nHost: gw\r\n\r\n"),
        ("17 KiB in three lines", G + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 5800) for n in range(3)) + b"\r\n"),
        ("endless head", G + b"X-A: b\r\n" * 1 + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 4000) for n in range(6))),
    ],
)
async def test_heads_above_the_limits_are_refused(name: str, raw: bytes) -> None:
    """R04: 129 headers, an 8,191-byte line and more than 16 KiB in all are 431, complete or not."""
    async with serving(echo) as running:
        answer = await talk(running.port, raw)
        assert (status(answer), refusal(answer)) == (431, "headers_too_large"), name
        assert running.failures == []


async def test_a_head_within_the_limits_is_served() -> None:
    """A head of nearly 16 KiB with a token of 7 KiB and attestations of 7 KiB passes."""
    async with serving(echo) as running:
        answer = await talk(
            running.port, post(b"{}", "Authorization: " + "a" * 7168, "Workflow-Attestation: " + "b" * 7168)
        )
        assert status(answer) == 200


async def test_a_thousand_pipelined_requests() -> None:
    """R04: all are answered in order, and the queue does not grow with them."""
    one = b"POST /v1/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 4\r\n\r\n%04d"
    async with serving(echo) as running:
        tracemalloc.start()
        raw = b"".join(one % n for n in range(999)) + post(b"last")
        answer = await talk(running.port, raw)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert answer.count(b"HTTP/1.1 200 OK") == 1000
        assert [part[:4] for part in answer.split(b"\r\n\r\n")[1:-1]] == [b"%04d" % n for n in range(999)]
        assert answer.endswith(b"last")
        assert peak < 8 * 1024 * 1024


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, gzip", "GZIP", "x-unknown", "identity, gzip"])
async def test_compressed_bodies_are_not_read(coding: str) -> None:
    """R04, R05: 415 for every Content-Encoding but identity, and nothing is decompressed."""
    async with serving(echo) as running:
        before = time.process_time()
        answer = await talk(running.port, post(BOMB, f"Content-Encoding: {coding}"))
        assert (status(answer), refusal(answer)) == (415, "encoding_unsupported")
        assert time.process_time() - before < 0.4


async def test_a_hundred_thousand_empty_members() -> None:
    """R05: a body of empty gzip members costs nothing, since nobody opens it."""
    members = gzip.compress(b"", mtime=0) * 4000
    async with serving(echo) as running:
        assert status(await talk(running.port, post(members, "Content-Encoding: gzip"))) == 415
        answer = await talk(running.port, post(members))
        assert answer.endswith(members)


async def test_identity_is_no_encoding() -> None:
    """Content-Encoding: identity is allowed."""
    async with serving(echo) as running:
        assert status(await talk(running.port, post(b"{}", "Content-Encoding: identity"))) == 200


async def test_a_body_above_the_limit_is_refused_by_its_length() -> None:
    """413 names limits.body, before the body was sent."""
    async with serving(echo) as running:
        answer = await talk(running.port, G + b"Content-Length: 100001\r\n\r\n")
        assert (status(answer), refusal(answer)) == (413, "request_too_large")
        assert b"limits.body" in answer


async def test_a_chunked_body_above_the_limit_is_refused_by_counting() -> None:
    """413 for a body that does not say how long it will be."""
    piece = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
    async with serving(echo) as running:
        answer = await talk(running.port, G + b"Transfer-Encoding: chunked\r\n\r\n", *[piece] * 11)
        assert (status(answer), refusal(answer)) == (413, "request_too_large")


async def test_chunks_of_more_framing_than_data_are_refused() -> None:
    """A body whose chunk extensions outweigh its data is 400, not memory or CPU."""
    piece = b"1;" + b"e" * 4000 + b"\r\nx\r\n"
    async with serving(echo, deadlines=Deadlines(linger=0.3, tick=0.05)) as running:
        answer = await talk(running.port, G + b"Transfer-Encoding: chunked\r\n\r\n", *[piece * 5] * 8)
        assert (status(answer), refusal(answer)) == (400, "request_malformed")
        assert b"more framing than data" in answer


async def test_all_bodies_together_are_bounded() -> None:
    """503 when the bodies that are held already use up limits.buffered; what is held is given back."""
    release = asyncio.Event()

    async def holder(exchange: Exchange) -> None:
        await exchange.body()
        if exchange.head.path == "/v1/hold":
            await release.wait()
        await exchange.reply(200, [], b"")

    async with serving(holder, buffered_limit=100_000) as running:
        first = asyncio.create_task(talk(running.port, post(b"x" * 60_000, path="/v1/hold")))
        while running.door.buffered < 60_000:  # noqa: ASYNC110 - the door's own figure is what is waited for
            await asyncio.sleep(0.01)
        answer = await talk(running.port, post(b"x" * 50_000))
        assert (status(answer), refusal(answer)) == (503, "overloaded")
        assert b"retry-after: 1" in answer
        release.set()
        assert status(await first) == 200
        assert running.door.buffered == 0
        assert status(await talk(running.port, post(b"x" * 50_000))) == 200


async def test_an_invitation_comes_after_the_checks() -> None:
    """Expect: 100-continue gets its 100 only when the body will be read; a refused one is not invited."""
    ask = "Expect: 100-continue"
    async with serving(echo) as running:
        head, _, body = post(b"ab", ask).partition(b"\r\n\r\n")
        answer = await talk(running.port, head + b"\r\n\r\n", 0.1, body)
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
        for refused in (post(b"ab", ask, host="evil"), post(b"ab", ask, "Content-Encoding: gzip")):
            answer = await talk(running.port, refused.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            assert status(answer) in {403, 415}
            assert b"100 Continue" not in answer


async def test_a_client_that_writes_on_still_reads_its_refusal() -> None:
    """A 413 reaches a client that sends all before it reads: the connection is not reset under its hands."""

    def send_all_then_read(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(G + b"Content-Length: 3000000\r\n\r\n")
            for _ in range(30):
                client.sendall(b"x" * 100_000)
                time.sleep(0.005)
            return client.recv(65536)

    async with serving(echo, deadlines=Deadlines(linger=5, tick=0.05)) as running:
        answer = await asyncio.to_thread(send_all_then_read, running.port)
        assert (status(answer), refusal(answer)) == (413, "request_too_large")
