"""What upstreams send back: broken, endless, splitting, leading elsewhere. Nothing is invented, nothing followed."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.stage import PROVIDER_KEY, Stage, config
from tests.simulator.gateway import Gateway
from tests.simulator.provider import ScriptedProvider, completion, failure, streamed
from tests.simulator.upstream import CHUNKED, LAST_CHUNK, Do, Script, Step, chunk

BROKEN: dict[str, Script] = {
    "reset at once": [Do.RESET],
    "closed at once": [Do.CLOSE],
    "reset after the head": [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n",
        Do.RESET,
    ],
    "half a body": [b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", Do.CLOSE],
    "all but a byte": [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", Do.CLOSE],
    "a wrong length": [b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}"],
    "no HTTP": [b"SSH-2.0-OpenSSH_9.7\r\n\r\n", Do.CLOSE],
    "an unfinished chunk": [CHUNKED, b"ff\r\ndata: ", Do.CLOSE],
    "a bad chunk": [CHUNKED, b"zz\r\n", Do.CLOSE],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_is_an_error(stage: Stage, name: str) -> None:
    """R09: broken off before a byte is out: 502 with the code, on the ledger as failed, and never complete."""
    for stream in (False, True):
        reply = stage.chat(stage.model(BROKEN[name]), stream=stream)
        assert (reply.status, reply.refusal) == (502, "upstream_failed")
        row = stage.row(reply)
        assert (row["outcome"], row["estimated"]) == ("failed", 1)
        assert row["cost_nano_usd"] > 0  # it may have been done and billed


@pytest.mark.parametrize("name", BROKEN)
def test_an_effect_is_never_sent_twice(stage: Stage, name: str) -> None:
    """R20: whatever becomes of an effect after it was sent, it is not repeated and nobody is told to repeat it."""
    path = f"/bank/pay/R20-{name.replace(' ', '-')}"
    stage.upstream.says(path, BROKEN[name])
    reply = stage.gateway.call("POST", f"/tools{path}", b"{}")
    assert (reply.status, reply.refusal) == (502, "upstream_failed")
    assert reply.headers["x-should-retry"] == "false"
    assert "retry-after" not in reply.headers
    assert len(stage.upstream.heard(path)) == 1
    row = stage.row(reply)
    assert (row["outcome"], row["cost_nano_usd"]) == ("failed", 10_000_000)


def _frames(steps: list[bytes]) -> list[bytes]:
    return [step for step in steps if step.endswith(b"\n\n\r\n")]


CUT: dict[str, list[Step]] = {
    "no terminal frame": [*streamed("a", "b", done=False), LAST_CHUNK],
    "closed after a frame": [*streamed("a", "b", done=False), Do.CLOSE],
    "reset after a frame": [*streamed("a", "b", done=False), 0.05, Do.RESET],
    "half a frame": [*streamed("a", "b", done=False), chunk(b'data: {"choices": [{"in'), LAST_CHUNK],
    "half a character": [*streamed("a", "b", done=False), chunk(b'data: {"choices": [{"delta": "\xc3'), LAST_CHUNK],
    "done without a finish": [*streamed("a", "b", done=False), chunk(b"data: [DONE]\n\n"), LAST_CHUNK],
    "silence": [*streamed("a", "b", done=False), Do.HANG],
}


@pytest.mark.parametrize("name", CUT)
def test_a_stream_that_breaks_ends_with_an_error(stage: Stage, name: str) -> None:
    """R10, R08, R09: what came passes; then an error event, no made-up finish and no [DONE] of ours."""
    reply = stage.chat(stage.model(CUT[name]), stream=True)
    assert reply.status == 200
    passed = b"".join(frame.split(b"\r\n", 1)[1][:-2] for frame in _frames(streamed("a", "b", done=False)))
    assert reply.body.startswith(passed)
    end = reply.body.removeprefix(passed)
    if name == "done without a finish":
        end = end.removeprefix(b"data: [DONE]\n\n")
    event = json.loads(end.removeprefix(b"data: "))
    assert event["error"]["code"] in {"upstream_truncated", "upstream_failed", "upstream_timeout"}
    assert b'"stop"' not in reply.body
    row = stage.row(reply)
    assert (row["outcome"], row["estimated"]) == ("truncated", 1)


def test_an_error_event_after_the_head_is_passed_and_failed(stage: Stage) -> None:
    """R10: a provider's own error event ends the stream as it came, and the ledger says failed."""
    error = b'event: error\ndata: {"error": {"message": "overloaded", "code": "overloaded"}}\n\n'
    model = stage.model([*streamed("a", done=False), chunk(error), LAST_CHUNK])
    reply = stage.chat(model, stream=True)
    assert reply.body.endswith(error)
    assert b"stop" not in reply.body
    assert stage.row(reply)["outcome"] == "failed"


HEADERS = {
    "CR LF in a value": "X-Request-Id: a\r\nSet-Cookie: split=1",
    "Set-Cookie": "Set-Cookie: session=upstream; Path=/",
    "gateway words": "Gateway-Refusal: policy_denied\r\nGateway-Cost-Usd: 99\r\nX-Should-Retry: true",
    "a challenge": 'WWW-Authenticate: Basic realm="give me your password"',
    "CORS": "Access-Control-Allow-Origin: *",
    "two types": "Content-Type: text/html",
}


@pytest.mark.parametrize("name", HEADERS)
def test_an_upstreams_header_cannot_split_or_pose(stage: Stage, name: str) -> None:
    """R11: cookies, challenges, CORS and words of ours are dropped; nothing of them is left in the head."""
    (whole,) = completion("ok")
    head, _, body = whole.partition(b"\r\n\r\n")
    model = stage.model([head + b"\r\n" + HEADERS[name].encode() + b"\r\n\r\n" + body])
    reply = stage.chat(model)
    assert reply.status == 200
    assert reply.refusal == ""
    assert reply.headers["content-type"] == "application/json"
    assert not {"set-cookie", "www-authenticate", "access-control-allow-origin", "x-should-retry"} & set(reply.headers)
    assert reply.headers["gateway-cost-usd"] == "0.00002"


@pytest.mark.parametrize("line", [
    b"X-Request-Id: a\0b", b"X-Request-Id: a\rSet-Cookie: b=1", b"X-Request-Id: a\x0bb",
    b"\r\n".join(b"X-Flood-%d: x" % number for number in range(1000)), b"X-Big: " + b"x" * 70_000,
])  # fmt: skip
def test_a_head_that_splits_is_no_answer(stage: Stage, line: bytes) -> None:
    """R11: a bare CR, a NUL or a thousand headers: 502, and not a byte of that head passes."""
    (whole,) = completion("ok")
    head, _, body = whole.partition(b"\r\n\r\n")
    reply = stage.chat(stage.model([head + b"\r\n" + line + b"\r\n\r\n" + body]))
    assert (reply.status, reply.refusal) == (502, "upstream_failed")
    assert not {"set-cookie", "x-big", "x-flood-1"} & set(reply.headers)
    assert stage.row(reply)["outcome"] == "failed"


@pytest.fixture
def elsewhere() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as decoy:
        yield decoy


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(stage: Stage, elsewhere: ScriptedProvider, status: int) -> None:
    """R12: an upstream cannot send the gateway, with its credential, anywhere else; the agent is not sent either."""
    location = ("Location", f"{elsewhere.url}/latest/meta-data/")
    model = stage.model(failure(status, "moved", location))
    stage.upstream.says(f"/bank/pay/R12-{status}", failure(status, "moved", location))
    asked, paid = stage.chat(model), stage.gateway.call("POST", f"/tools/bank/pay/R12-{status}", b"{}")
    for reply in (asked, paid):
        assert (reply.status, reply.refusal) == (502, "upstream_failed")
        assert "location" not in reply.headers
        assert elsewhere.url.encode() not in reply.body
    assert elsewhere.seen() == b""


def test_an_internal_address_is_refused_at_connect(tmp_path: Path, elsewhere: ScriptedProvider) -> None:
    """R13: a name that leads to the inside is refused when it is connected, unless the configuration says so."""
    name = socket.gethostname()
    try:
        leads_to = socket.gethostbyname(name)
    except OSError:
        leads_to = ""
    if leads_to != "127.0.0.1":
        pytest.skip("this machine's own name does not lead to 127.0.0.1: add it to /etc/hosts")
    port = elsewhere.url.rpartition(":")[2]
    inside = {"dialects": ["openai"], "base_url": f"http://{name}:{port}/v1", "api_key": PROVIDER_KEY}
    models = {"inside": {"targets": [{"provider": "inside"}]}, "meant": {"targets": [{"provider": "meant"}]}}
    providers = {"inside": inside, "meant": inside | {"allow_internal": True}}
    elsewhere.says("meant", completion("ok"))
    with Gateway(tmp_path, config={"providers": providers, "models": models}) as gateway:
        reply = gateway.chat(model="inside")
        assert (reply.status, reply.refusal) == (503, "upstream_unavailable")
        assert elsewhere.seen() == b""
        assert gateway.chat(model="meant").status == 200
    assert elsewhere.heard("meant")


ADDRESSES = [
    "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/", "http://127.0.0.1.:80/",
    "http://[::ffff:127.0.0.1%25eth0]/", "http://169\u3002254\u3002169\u3002254/", "http://\uff11\uff12\uff17.0.0.1/",
    "http://user:pw@api.example/", "http://api.example/?a=b", "http://api.example/#x", "file:///etc/passwd",
    "gopher://127.0.0.1/", "http://api.example\\@127.0.0.1/",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_in_disguise_is_a_mistake(tmp_path: Path, address: str) -> None:
    """R13: decimal, octal, short, full-width and credentialled forms of addresses are refused when they are read."""
    whole = config("http://127.0.0.1:1")
    whole["providers"]["main"]["base_url"] = address
    environment = {"PROVIDER_KEY": PROVIDER_KEY, "TOOL_KEY": "x" * 12}
    gateway = Gateway(tmp_path, config=whole, environment=environment)
    gateway.write()
    checked = gateway.command("check", "--config", "config.yaml", check=False)
    assert checked.returncode == 2
    assert "providers.main.base_url" in checked.stdout + checked.stderr
