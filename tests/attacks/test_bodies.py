"""Bodies that want to keep a parser busy, sent over the wire while somebody else is being served."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.attacks.stage import AUDITOR, Stage
from tests.simulator.provider import completion
from tests.simulator.upstream import answer

DEEP = 100_000
MESSAGES = b'{"model":"scripted-bodies","messages":[],"x":%b}'
HOSTILE = {
    "depth": b"[" * DEEP + b"]" * DEEP,
    "objects in objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "unclosed": b"[" * 1_000_000,
    "keys": b"{" + b",".join(b'"k%d":0' % number for number in range(1_000_000)) + b"}",
    "digits": b"9" * 1_000_000,
    "exponent": b"1e999999",
    "negative zero digits": b"-" + b"0" * 1_000,
    "nan": b"NaN",
    "infinity": b"-Infinity",
    "lone surrogate": rb'"\ud800"',
    "reversed pair": rb'"\udc00\ud800"',
    "invalid utf-8": b'"\xff\xfe"',
    "overlong": b'"\xc0\xaf"',
    "duplicate": b'{"a":1,"a":2}',
    "duplicate by escape": b'{"a":1,"\\u0061":2}',
    "duplicate deep down": b'[[{"b":{"a":1,"a":1}}]]',
    "trailing": b"1} garbage",
    "comment": b"1 /* c */",
    "single quotes": b"'a'",
    "control character": b'"\x01"',
}


@pytest.fixture
def bystander(stage: Stage) -> Iterator[list[int]]:
    """Another agent that asks on and on while the block lasts; the statuses that it got."""
    model = stage.model(completion("ok"))
    token = stage.token(AUDITOR)
    got: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            got.append(stage.chat(model, token=token).status)
            stop.wait(0.01)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield got
    finally:
        stop.set()
        thread.join(30)
    assert got
    assert set(got) == {200}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_refused(stage: Stage, bystander: list[int], name: str) -> None:
    """R06, P6: to a model and to a tool alike 400 in the caller's dialect, nothing sent, and others are served on."""
    chat, tool = MESSAGES % HOSTILE[name], b'{"x":%b}' % HOSTILE[name]
    served = len(bystander)
    for path, body in (("/v1/chat/completions", chat), ("/tools/bank/pay/R06", tool)):
        reply = stage.gateway.call("POST", path, body)
        assert (reply.status, reply.refusal) == (400, "request_malformed")
    assert not stage.upstream.heard("scripted-bodies")
    assert not stage.upstream.heard("/bank/pay/R06")
    while len(bystander) < served + 2:
        pass  # the bystander is served again; the test's own time limit ends a wait in vain


def test_a_prompt_of_ten_million_equal_characters(stage: Stage, bystander: list[int]) -> None:
    """R07: a huge harmless prompt passes byte for byte while others are served."""
    model = stage.model(completion("ok"))
    served = len(bystander)
    reply = stage.chat(model, "a" * 10_000_000)
    assert reply.status == 200
    (heard,) = stage.upstream.heard(model)
    assert len(heard.body) > 10_000_000
    assert heard.body.count(b"a") >= 10_000_000
    assert stage.row(reply)["outcome"] == "complete"
    assert len(bystander) > served


@pytest.mark.parametrize("raw", [
    b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
    b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"Content-Length: +2\r\n\r\n{}",
])  # fmt: skip
def test_a_smuggled_request_is_never_sent(stage: Stage, raw: bytes) -> None:
    """R03: a head with two lengths is 400 and the end of the connection; what hid behind it reaches nobody."""
    stage.upstream.says("/bank/pay/R03", [answer(b"{}")])
    name, value = stage.bearer()
    ours = f"POST /tools/bank/look/A1 HTTP/1.1\r\nHost: 127.0.0.1\r\n{name}: {value}\r\n".encode()
    hidden = ours.replace(b"look/A1", b"pay/R03") + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    got = stage.raw(ours + raw + hidden)
    assert got.startswith(b"HTTP/1.1 400 ")
    assert got.count(b"HTTP/1.1 ") == 1
    assert not stage.upstream.heard("/bank/pay/R03")
