"""What leaves, what comes back, and what is said when it does not."""

from __future__ import annotations

import asyncio
import itertools
import resource
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from gateway.outbound import Aborted, AnswerTooLarge, NotSent, Outbound, SendFailed, Sending, Upstream, UpstreamTimeout
from tests.simulator.upstream import CHUNKED, LAST_CHUNK, Do, Received, Script, ScriptedUpstream, Step, answer, chunk

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Deadlines for tests."""

    connect: float = 5.0
    first_byte: float = 5.0
    idle: float = 5.0
    total: float = 30.0


async def fetch(
    script: Script, *, method: str = "POST", limits: Limits | None = None, limit: int = MIB
) -> tuple[int, bytes]:
    """One request to an upstream with that script: status and body."""
    async with ScriptedUpstream([script]) as upstream:
        client = Outbound(tick=0.02)
        target = Upstream("sim", upstream.url, timeouts=limits or Limits())
        try:
            async with client.send(target, method, "/x", [], b"{}" if method == "POST" else b"") as got:
                return got.status, await got.read(limit)
        finally:
            await client.close()


async def test_the_request_is_exactly_what_was_asked() -> None:
    """The upstream gets the base path, the given headers, Host and a length: nothing that a library adds."""
    async with ScriptedUpstream([[answer(b"ok")]]) as upstream:
        client = Outbound()
        target = Upstream("sim", upstream.url + "/v1/", timeouts=Limits())
        headers = [("Content-Type", "application/json"), ("X-Text", "caf\u00e9 \udcff")]
        async with client.send(target, "POST", "/chat/completions?a=%2F", headers, b"{}") as got:
            assert (got.status, await got.read(10)) == (200, b"ok")
        await client.close()
        assert bytes(upstream.raw[0]) == (
            b"POST /v1/chat/completions?a=%%2F HTTP/1.1\r\n"
            b"Host: 127.0.0.1:%d\r\nContent-Type: application/json\r\nX-Text: caf\xc3\xa9 \xff\r\n"
            b"Content-Length: 2\r\n\r\n{}" % upstream.port
        )


async def test_connections_are_kept_and_used_again() -> None:
    """Ten calls in a row go over one connection."""
    async with ScriptedUpstream([[answer(b"ok")]]) as upstream:
        client = Outbound()
        target = Upstream("sim", upstream.url, timeouts=Limits())
        for _ in range(10):
            async with client.send(target, "GET", "/", []) as got:
                await got.read(10)
        await client.close()
        assert len(upstream.requests) == 10
        assert len(upstream.raw) == 1


async def test_cookies_and_redirects_lead_nowhere() -> None:
    """R12: a 307 to the metadata service is an answer like any other; its cookie is not sent back."""
    redirect = answer(
        b"", ("Location", "http://169.254.169.254/latest"), ("Set-Cookie", "a=b"), status="307 Temporary Redirect"
    )
    async with ScriptedUpstream([[redirect]]) as upstream:
        client = Outbound()
        target = Upstream("sim", upstream.url, timeouts=Limits())
        for _ in range(2):
            async with client.send(target, "POST", "/", [("Authorization", "Bearer s3cret")], b"x") as got:
                assert got.status == 307
        await client.close()
        assert len(upstream.requests) == 2
        assert all(request.header("cookie") is None for request in upstream.requests)


async def test_compressed_answers_stay_compressed() -> None:
    """What the upstream sent is what is passed on."""
    raw = bytes(range(256))
    assert await fetch([answer(raw, ("Content-Encoding", "gzip"))]) == (200, raw)


async def test_interim_answers_are_passed_over() -> None:
    """A 100 and a 103 come before the answer and are not it."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    assert await fetch([interim, answer(b"ok")]) == (200, b"ok")


async def test_pieces_are_given_as_they_come() -> None:
    """A stream's chunk is seen before the upstream sends the next one."""
    seen = asyncio.Event()

    def script(_request: Received) -> Iterator[Step]:
        yield CHUNKED
        yield chunk(b"data: 1\n\n")
        while not seen.is_set():
            yield 0.01
        yield chunk(b"data: 2\n\n") + LAST_CHUNK

    async with ScriptedUpstream([script]) as upstream:
        client = Outbound()
        pieces = []
        async with client.send(Upstream("sim", upstream.url, timeouts=Limits()), "POST", "/", [], b"{}") as got:
            async for piece in got.chunks():
                pieces.append(piece)
                seen.set()
            assert not got.eof_delimited
        await client.close()
    assert pieces == [b"data: 1\n\n", b"data: 2\n\n"]


FULL = answer(b"0123456789", ("Content-Type", "text/plain"))
STREAM = CHUNKED + chunk(b"0123456789") + LAST_CHUNK


async def test_broken_framing_ends_an_answer_at_once() -> None:
    """R09: a chunk that is none, in the middle of a body, is an error at once, not a silence until a deadline."""
    with pytest.raises(SendFailed, match=r"not HTTP/1\.1"):
        await fetch([CHUNKED, 0.02, chunk(b"0123456789"), 0.02, b"zz\r\n", Do.HANG])


@pytest.mark.parametrize("end", [Do.RESET, Do.CLOSE])
@pytest.mark.parametrize(
    "sent",
    [b"", FULL[:20], FULL[:-10], FULL[:-5], FULL[:-1], STREAM[:-11], STREAM[:-5], STREAM[:-1]],
    ids=["nothing", "half a head", "a head", "mid", "last-1", "mid chunk", "no last chunk", "last chunk-1"],
)
async def test_an_answer_cut_short_never_ends_quietly(sent: bytes, end: Do) -> None:
    """R09: reset or closed after 0, head, mid, last-1 byte: always an error, and one that says it was sent."""
    with pytest.raises(SendFailed):
        await fetch([sent, end] if sent else [end])


@pytest.mark.parametrize("length", [9, 11])
async def test_a_wrong_content_length(length: int) -> None:
    """R09: a length that is too long, or too short, for what was sent makes the answer an error."""
    wrong = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n0123456789".encode()
    with pytest.raises(SendFailed):
        await fetch([wrong, Do.CLOSE])


async def test_an_answer_that_only_the_connection_ends_says_so() -> None:
    """An EOF-delimited body is complete or cut, nobody can tell: it is marked."""
    async with ScriptedUpstream([[b"HTTP/1.1 200 OK\r\n\r\nabc", Do.CLOSE]]) as upstream:
        client = Outbound()
        async with client.send(Upstream("sim", upstream.url, timeouts=Limits()), "GET", "/", []) as got:
            assert got.eof_delimited
            assert await got.read(100) == b"abc"
        await client.close()


async def test_a_reset_does_not_delimit() -> None:
    """R09: a reset in the middle of an EOF-delimited body is an error, although aiohttp calls it an end."""
    with pytest.raises(SendFailed):
        await fetch([b"HTTP/1.1 200 OK\r\n\r\nabc", Do.RESET])


async def test_a_reset_that_came_before_the_reader_does_not_delimit() -> None:
    """R09: it is an error as well where body and reset had arrived before anybody looked."""
    async with ScriptedUpstream([[b"HTTP/1.1 200 OK\r\n\r\nabc", Do.RESET]]) as upstream:
        client = Outbound()
        async with client.send(Upstream("sim", upstream.url, timeouts=Limits()), "GET", "/", []) as got:
            await asyncio.sleep(0.1)
            with pytest.raises(SendFailed):
                await got.read(100)
        await client.close()


async def test_a_slow_reader_gets_the_whole_answer() -> None:
    """R08: an upstream that was held back while nobody read goes on to the last byte of its answer."""
    whole = bytes(range(256)) * 16 * 1024
    async with ScriptedUpstream([[answer(whole)]]) as upstream:
        client = Outbound(tick=0.02)
        limits = Limits(idle=1.0)
        async with client.send(Upstream("sim", upstream.url, timeouts=limits), "GET", "/", []) as got:
            await asyncio.sleep(0.2)  # more arrives than is held for a slow reader
            assert await got.read(len(whole)) == whole
        await client.close()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nX-A: a\x00b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: a\rSet-Cookie: x=y\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: a\x01b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: v\r\n" % n for n in range(1000)) + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 9000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\nabc",
        b"\x16\x03\x01 not http at all\r\n\r\n",
    ],
    ids=["nul", "cr", "control", "1000", "long", "cl+te", "two cl", "te list", "te not last", "not http"],
)
async def test_a_hostile_head_is_no_answer(head: bytes) -> None:
    """R11: control characters, a thousand headers and ambiguous framing end as an error, with nothing passed on."""
    with pytest.raises(SendFailed):
        await fetch([head, Do.CLOSE])


async def test_a_switch_of_protocols_is_no_answer() -> None:
    """A 101 that nobody asked for is an error at once: no tunnel is opened, and nobody waits for more."""
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
    with pytest.raises(SendFailed):
        await fetch([switch, Do.HANG], limits=Limits(first_byte=0.5))


async def test_a_length_above_the_limit_is_believed() -> None:
    """An answer that announces too much is refused before any of it is read."""
    with pytest.raises(AnswerTooLarge):
        await fetch([b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n", Do.HANG], limit=100, limits=Limits(idle=0.5))


async def test_a_folded_header_cannot_split() -> None:
    """R11: an obsolete line folding comes through as one value without line breaks, or not at all."""
    async with ScriptedUpstream([[answer(b"", ("X-A", "a\r\n Set-Cookie: x=y"))]]) as upstream:
        client = Outbound()
        try:
            async with client.send(Upstream("sim", upstream.url, timeouts=Limits()), "GET", "/", []) as got:
                assert not any(mark in value for value in got.headers.values() for mark in "\r\n\0")
                assert "Set-Cookie" not in got.headers
        except SendFailed:
            pass
        await client.close()


@pytest.mark.parametrize("body", [answer(b"x" * 101), CHUNKED + chunk(b"x" * 101) + LAST_CHUNK])
async def test_an_answer_above_the_limit_is_not_read(body: bytes) -> None:
    """The caller's limit holds, whether the length was announced or not."""
    with pytest.raises(AnswerTooLarge):
        await fetch([body], limit=100)


@pytest.mark.parametrize(
    ("script", "limits", "phase"),
    [
        ([Do.HANG], Limits(first_byte=0.1), "first_byte"),
        ([b"HTTP/1.1 200", Do.HANG], Limits(first_byte=0.1), "first_byte"),
        ([CHUNKED, chunk(b"x"), Do.HANG], Limits(idle=0.1), "idle"),
        ([Do.HANG], Limits(total=0.1), "total"),
    ],
    ids=["silent", "half a status line", "silent after a chunk", "total"],
)
async def test_silence_ends_at_its_own_deadline(script: list[Step], limits: Limits, phase: str) -> None:
    """R08: an upstream that never answers, or stops, is given up, and the error says for which deadline."""
    with pytest.raises(UpstreamTimeout) as caught:
        await fetch(script, limits=limits)
    assert (caught.value.phase, caught.value.sent) == (phase, True)


async def test_pings_do_not_outlive_the_total() -> None:
    """R08: pings keep a stream from being idle, not from its total."""

    def pings(_request: Received) -> Iterator[Step]:
        yield CHUNKED
        for _ in itertools.count():
            yield chunk(b": ping\n\n")
            yield 0.03

    async with ScriptedUpstream([pings]) as upstream:
        client = Outbound(tick=0.02)
        target = Upstream("sim", upstream.url, timeouts=Limits(idle=0.2, total=0.4))
        seen = 0
        with pytest.raises(UpstreamTimeout) as caught:  # noqa: PT012 - the loop is what times out
            async with client.send(target, "POST", "/", [], b"{}") as got:
                async for _ in got.chunks():
                    seen += 1
        await client.close()
    assert caught.value.phase == "total"
    assert seen > 3


async def test_an_infinite_stream_waits_for_its_reader() -> None:
    """R08: an upstream that never stops is held back by TCP: memory stays flat while the reader pauses."""
    sent = 0

    def flood(_request: Received) -> Iterator[Step]:
        nonlocal sent
        yield CHUNKED
        piece = chunk(b"x" * 65536)
        for _ in range(4000):
            sent += 65536
            yield piece

    async with ScriptedUpstream([flood]) as upstream:
        client = Outbound()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with client.send(Upstream("sim", upstream.url, timeouts=Limits(idle=0.2)), "POST", "/", [], b"") as got:
            pieces = got.chunks()
            await anext(pieces)
            await asyncio.sleep(0.5)  # longer than `idle`: the reader's own pause is not the upstream's silence
            held = sent
            assert await anext(pieces)
        await client.close()
        await asyncio.sleep(0)
    assert held < 64 * MIB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    assert upstream.raw


async def test_what_was_never_connected_was_never_sent() -> None:
    """Refused connections and unknown names are `NotSent`: another target may be asked without a thought."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = Outbound()
    for url in (f"http://127.0.0.1:{port}", "http://does-not-exist.invalid"):
        with pytest.raises(NotSent):
            async with client.send(Upstream("sim", url, timeouts=Limits()), "POST", "/", [], b"{}"):
                pass
    await client.close()


async def test_a_connection_that_is_never_accepted_times_out_unsent() -> None:
    """A full backlog is a timeout of phase connect, and nothing was sent."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        client = Outbound()
        target = Upstream("sim", f"http://127.0.0.1:{full.getsockname()[1]}", timeouts=Limits(connect=0.2))
        with pytest.raises(UpstreamTimeout) as caught:
            async with client.send(target, "POST", "/", [], b"{}"):
                pass
        await client.close()
        for filler in fillers:
            filler.close()
    assert (caught.value.phase, caught.value.sent) == ("connect", False)


async def test_plain_text_behind_https_was_not_sent() -> None:
    """A TLS handshake that fails is `NotSent`, and the upstream saw no byte of the request."""
    async with ScriptedUpstream([[answer(b"ok")]]) as upstream:
        client = Outbound()
        target = Upstream("sim", f"https://127.0.0.1:{upstream.port}", timeouts=Limits(connect=0.5))
        with pytest.raises((NotSent, UpstreamTimeout)) as caught:
            async with client.send(target, "POST", "/", [("Authorization", "Bearer s3cret")], b"{}"):
                pass
        await client.close()
        assert getattr(caught.value, "sent", False) is False
        assert not any(b"s3cret" in raw for raw in upstream.raw)


async def test_a_connection_closed_while_idle_is_not_used() -> None:
    """A kept connection that the upstream closed costs no request: a new one is opened before anything is sent."""
    async with ScriptedUpstream([[answer(b"ok"), Do.CLOSE]]) as upstream:
        client = Outbound()
        target = Upstream("sim", upstream.url, timeouts=Limits())
        for _ in range(20):
            async with client.send(target, "POST", "/", [], b"{}") as got:
                assert await got.read(10) == b"ok"
        await client.close()
        assert [len(raw) > 0 for raw in upstream.raw] == [True] * 20


async def test_an_unasked_answer_is_given_to_nobody() -> None:
    """An upstream that answers once too often on a kept connection cannot answer the next agent's request."""
    async with ScriptedUpstream([[answer(b"mine"), 0.02, answer(b"STALE")], [answer(b"yours")]]) as upstream:
        client = Outbound()
        target = Upstream("sim", upstream.url, timeouts=Limits())
        got_bodies = []
        for _ in range(2):
            async with client.send(target, "POST", "/", [], b"{}") as got:
                got_bodies.append(await got.read(10))
            await asyncio.sleep(0.1)
        await client.close()
        assert got_bodies == [b"mine", b"yours"]
        assert len(upstream.raw) == 2


async def test_nothing_is_sent_twice() -> None:
    """A connection that breaks after the request is an error, for GET too: only the router repeats."""
    async with ScriptedUpstream([[answer(b"ok")], [Do.CLOSE], [answer(b"again")]]) as upstream:
        client = Outbound()
        target = Upstream("sim", upstream.url, timeouts=Limits())
        async with client.send(target, "GET", "/", []) as got:
            await got.read(10)
        with pytest.raises(SendFailed):
            async with client.send(target, "GET", "/", []):
                pass
        await client.close()
        assert len(upstream.requests) == 2


async def test_leaving_early_ends_the_connection() -> None:
    """Who stops reading an answer in the middle does not get its rest with the next one."""
    async with ScriptedUpstream([[CHUNKED, chunk(b"a"), Do.HANG], [answer(b"next")]]) as upstream:
        client = Outbound()
        target = Upstream("sim", upstream.url, timeouts=Limits())
        async with client.send(target, "POST", "/", [], b"{}") as got:
            assert await anext(got.chunks()) == b"a"
        async with client.send(target, "POST", "/", [], b"{}") as got:
            assert await got.read(10) == b"next"
        await client.close()
        assert len(upstream.raw) == 2


async def test_a_cancelled_send_leaves_nothing_open() -> None:
    """Cancellation while the upstream is silent ends the connection at once."""
    async with ScriptedUpstream([[Do.HANG]]) as upstream:
        client = Outbound()

        async def call() -> None:
            async with client.send(Upstream("sim", upstream.url, timeouts=Limits()), "POST", "/", [], b"{}"):
                pass

        task = asyncio.create_task(call())
        while not upstream.requests:  # noqa: ASYNC110 - the upstream's record is what is waited for
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(100):
            if upstream.left:
                break
            await asyncio.sleep(0.01)
        await client.close()
        assert upstream.left == [0]


@pytest.mark.parametrize(
    "headers",
    [
        [("X-A", "a\r\nX-B: b")],
        [("X-A", "a\nb")],
        [("X-A", "a\0b")],
        [("X-A: b\r\nX-C", "c")],
        [("", "c")],
        [("Content-Length", "0")],
        [("Transfer-Encoding", "chunked")],
        [("Host", "elsewhere")],
        [("connection", "upgrade")],
    ],
)
async def test_headers_that_split_or_frame_are_refused(headers: list[tuple[str, str]]) -> None:
    """R11, R19: a header that could end the head or change the framing is never written."""
    client = Outbound()
    with pytest.raises(ValueError, match="header"):
        client.send(Upstream("sim", "http://127.0.0.1:1", timeouts=Limits()), "GET", "/", headers)


@pytest.mark.parametrize("path", ["", "x", "/a b", "/a\r\nX: y", "/\u00e9", "/a\x7f"])
async def test_paths_that_split_the_request_line_are_refused(path: str) -> None:
    """A path that is not a plain origin-form target is never written."""
    with pytest.raises(ValueError, match="path"):
        Outbound().send(Upstream("sim", "http://127.0.0.1:1", timeouts=Limits()), "GET", path, [])


async def test_one_request_is_given_up_alone() -> None:
    """It fails at once as `Aborted`, after it was sent; the one beside it, and the next one, come to their end."""
    async with ScriptedUpstream([[Do.HANG], [0.1, answer(b"ok")], [0.1, answer(b"next")]]) as upstream:
        client = Outbound()
        target = Upstream("sim", upstream.url, timeouts=Limits())

        async def ask(out: Sending) -> bytes:
            async with out as got:
                return await got.read(MIB)

        async def begun(out: Sending) -> asyncio.Task[bytes]:
            before, task = len(upstream.requests), asyncio.create_task(ask(out))
            while len(upstream.requests) == before:  # noqa: ASYNC110 - the upstream's record is what is waited for
                await asyncio.sleep(0.001)
            return task

        outs = [client.send(target, "POST", "/", [], b"{}") for _ in range(3)]
        asking = [await begun(out) for out in outs[:2]]
        outs[0].abort("it was stopped")
        with pytest.raises(Aborted, match="it was stopped") as caught:
            await asking[0]
        assert caught.value.sent
        assert await asking[1] == b"ok"
        third = await begun(outs[2])
        assert upstream.requests[2].connection == upstream.requests[1].connection
        outs[1].abort("too late: its connection is another's by now")
        assert await third == b"next"
        await client.close()


@pytest.mark.parametrize("when", ["before", "while it connects"])
async def test_what_is_given_up_before_it_was_sent_never_is(when: str) -> None:
    """It fails at once as not sent, and the upstream hears not a byte of it."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.put_nowait(await reader.read())
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    # The TLS handshake is never answered, and belongs to connecting.
    target = Upstream("sim", f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeouts=Limits())
    client = Outbound()
    out = client.send(target, "POST", "/", [], b"secret request")

    async def ask() -> None:
        async with out:
            pass

    if when == "before":
        out.abort("it was stopped")
    asking = asyncio.create_task(ask())
    await asyncio.sleep(0.05)
    out.abort("it was stopped")
    with pytest.raises(Aborted) as caught:
        async with asyncio.timeout(2):
            await asking
    assert not caught.value.sent
    assert not asking.cancelled()
    if when != "before":
        assert b"secret" not in await asyncio.wait_for(heard.get(), 2)
    await client.close()
    server.close()
    assert heard.empty()


async def test_giving_up_does_not_hide_a_cancellation() -> None:
    """A task that is cancelled beside it is cancelled, whoever was first."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)
        client = Outbound()
        target = Upstream("sim", f"https://127.0.0.1:{deaf.getsockname()[1]}", timeouts=Limits())
        out = client.send(target, "POST", "/", [], b"{}")

        async def ask() -> None:
            async with out:
                pass

        asking = asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        out.abort("it was stopped")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await client.close()
