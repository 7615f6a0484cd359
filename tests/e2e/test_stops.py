"""Stop and start on real processes: every worker within a second, calls in flight too, and for as long as it holds."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import pytest

from tests.simulator.gateway import Gateway, Reply, eventually
from tests.simulator.provider import ScriptedProvider, completion, streamed
from tests.simulator.soak import SECONDS
from tests.simulator.upstream import CHUNKED, Do, Script, answer, chunk

WORKERS = 4
WITHIN = 4.0
"""Seconds: four times what is promised, for machines that have much else to do."""
AUDITOR = "spiffe://acme.example/agent/auditor"
CHAT = "/v1/chat/completions"
JSON = ("Content-Type", "application/json")


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        yield running


def config(upstream: ScriptedProvider) -> dict[str, Any]:
    agents = {"procurement": "spiffe://acme.example/agent/procurement", "auditor": AUDITOR}
    return {
        "workers": WORKERS,
        "agents": [{"id": name, "issuer": "dev", "subject": subject} for name, subject in agents.items()],
        **upstream.behind(),
        "tools": {
            "bank": {
                **upstream.behind()["tools"]["bank"],
                "operations": {
                    "pay": {"method": "POST", "path": "/pay", "repeat": "never", "cost": "0.01 USD"},
                    "look": {"method": "GET", "path": "/look", "repeat": "safe", "cost": "0.01 USD"},
                },
            }
        },
    }


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedProvider) -> Iterator[Gateway]:
    upstream.says("scripted-ok", completion("ok"))
    with Gateway(tmp_path_factory.mktemp("gateway"), config=config(upstream)) as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_stays_stopped(request: pytest.FixtureRequest) -> Iterator[None]:
    """The next test finds everybody started."""
    yield
    if "gateway" in request.fixturenames:
        gateway = request.getfixturevalue("gateway")
        for one in gateway.admin("GET", "/admin/v1/stops")["stops"]:
            agent, _, run = one["id"].rpartition("/")
            body = {"agent": agent} if one["kind"] == "run" and agent else None
            name = quote(run if one["kind"] == "run" else one["id"], safe="")
            gateway.admin("POST", f"/admin/v1/{one['kind']}s/{name}/start", body)


def act(gateway: Gateway, action: str, what: str = "agents/procurement", **body: str) -> dict[str, Any]:
    """Stop or start; all workers know when this returns, and in time."""
    told: dict[str, Any] = gateway.admin("POST", f"/admin/v1/{what}/{action}", body)
    assert told["effective"], told
    assert told["workers"] == len(gateway.worker_pids())
    assert told["ms"] < WITHIN * 1000
    return told


def ask(gateway: Gateway, model: str = "scripted-ok", run: str = "", **members: object) -> Reply:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **members}
    return gateway.call("POST", f"/r/{run}{CHAT}" if run else CHAT, body)


class Client:
    """One connection that is kept, and with it one worker."""

    def __init__(self, gateway: Gateway, token: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
        self._token = token or gateway.token()

    def begin(self, model: str = "scripted-ok", *, stream: bool = False) -> http.client.HTTPResponse:
        """Ask, and wait for the head of the answer."""
        body = {"model": model, "messages": [{"role": "user", "content": "x"}], "stream": stream}
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        self._connection.request("POST", CHAT, json.dumps(body), headers)
        return self._connection.getresponse()

    def status(self) -> int:
        """Ask, and read the answer."""
        reply = self.begin()
        reply.read()
        return reply.status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


class Streaming(Client):
    """A stream that has brought its first frames and stands still."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway)
        self.reply = self.begin("scripted-still", stream=True)
        self.got = b""
        while b"two" not in self.got:
            self.got += self.reply.readline()

    @property
    def request_id(self) -> str:
        """What the gateway calls it."""
        return str(self.reply.getheader("gateway-request-id"))

    def rest(self) -> bytes:
        """What comes until its orderly end."""
        return self.reply.read()


@contextlib.contextmanager
def connections(gateway: Gateway, count: int) -> Iterator[Callable[[], set[int]]]:
    """Many connections that are kept, and the statuses that one call on each of them gets."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(gateway)) for _ in range(count)]
        yield lambda: {client.status() for client in clients}


def workers_that_served(gateway: Gateway, since: int) -> set[str]:
    return {line["process"] for line in gateway.log(since) if line["event"] == "call"}


@pytest.mark.soak
def test_a_stop_holds_on_every_worker(gateway: Gateway, upstream: ScriptedProvider) -> None:
    """Stopped, no connection to any of four workers gets an answer, and streams in flight end; then it goes on.

    Ten times in the short form, a hundred times in the long one.
    """
    upstream.says("scripted-still", [*streamed("one", "two", done=False), Do.HANG])
    since = (gateway.folder / "log.ndjson").stat().st_size
    took = []
    for _ in range(100 if SECONDS else 10):
        with connections(gateway, 24) as statuses, contextlib.ExitStack() as stack:
            assert statuses() == {200}
            streams = [stack.enter_context(Streaming(gateway)) for _ in range(8)]
            began = time.monotonic()
            act(gateway, "stop")
            assert statuses() == {403}
            for stream in streams:
                assert b'"code":"agent_stopped"' in stream.rest()
            took.append(time.monotonic() - began)
            act(gateway, "start")
            for row in (gateway.wait_for_rows(1, "request_id = ?", stream.request_id)[0] for stream in streams):
                assert (row["outcome"], row["code"], row["estimated"]) == ("cancelled", "agent_stopped", 1)
            assert statuses() == {200}
    assert max(took) < WITHIN, took
    eventually(lambda: len(workers_that_served(gateway, since)) == WORKERS, "some worker was never asked")


def test_a_client_that_does_not_read_is_reset(gateway: Gateway, upstream: ScriptedProvider) -> None:
    """Its stream cannot be told of the stop, so its connection is broken; the provider is left, the row is there."""
    frame = chunk(b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 60_000 + b'"}}]}\n\n')
    upstream.says("scripted-flood", [CHUNKED, *([frame] * 2_000), Do.HANG])
    body = json.dumps({"model": "scripted-flood", "messages": [], "stream": True}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {gateway.token()}\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", gateway.port))
        client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        assert client.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
        time.sleep(0.3)  # all buffers between the two are full by now
        act(gateway, "stop")
        (row,) = gateway.wait_for_rows(1, "agent = 'procurement' AND model = 'scripted-flood'")
        assert (row["outcome"], row["code"]) == ("cancelled", "agent_stopped")
        got = b""
        client.settimeout(10)
        with contextlib.suppress(ConnectionError):
            while part := client.recv(1_000_000):
                got += part
    assert not got.endswith(b"0\r\n\r\n")
    assert b"agent_stopped" not in got


def in_flight(
    gateway: Gateway, upstream: ScriptedProvider, name: str, script: Script, method: str, path: str, body: object
) -> tuple[threading.Thread, list[Reply]]:
    """A call that its upstream has."""
    upstream.says(name, script)
    before = len(upstream.heard(name))
    replies: list[Reply] = []
    calling = threading.Thread(target=lambda: replies.append(gateway.call(method, path, body)))
    calling.start()
    eventually(lambda: len(upstream.heard(name)) > before, "the upstream was not asked")
    return calling, replies


@pytest.mark.parametrize("run", ["", "/r/stopped-json"], ids=["alone", "in a run"])
def test_an_answer_of_a_model_is_not_waited_for(gateway: Gateway, upstream: ScriptedProvider, run: str) -> None:
    """The agent gets 403 while the provider still thinks, which is left at once; the row says what may be owed."""
    body = {"model": "scripted-thinks", "messages": [{"role": "user", "content": "x"}]}
    calling, replies = in_flight(gateway, upstream, "scripted-thinks", [Do.HANG], "POST", run + CHAT, body)
    act(gateway, "stop", reason="thinks too long")
    calling.join(WITHIN)
    (reply,) = replies
    assert (reply.status, reply.refusal) == (403, "agent_stopped")
    assert b"too long" not in reply.body
    (row,) = gateway.wait_for_rows(1, "request_id = ?", reply.headers["gateway-request-id"])
    assert (row["outcome"], row["code"], row["estimated"], row["attempt"]) == ("cancelled", "agent_stopped", 1, 1)


@pytest.mark.parametrize(("method", "operation"), [("POST", "pay"), ("GET", "look")])
def test_a_tool_comes_to_its_end(gateway: Gateway, upstream: ScriptedProvider, method: str, operation: str) -> None:
    """What the tool has begun is not broken off: it is booked once, at its price, and the agent gets 403 afterwards."""
    name = f"/bank/{operation}"
    script: Script = [0.5, answer(b'{"paid": true}', JSON)]
    body: object = {} if method == "POST" else None
    calling, replies = in_flight(gateway, upstream, name, script, method, f"/tools/bank/{operation}", body)
    act(gateway, "stop")
    assert not replies, "it was not in flight any more"
    calling.join(30)
    (reply,) = replies
    assert (reply.status, reply.refusal) == (403, "agent_stopped")
    assert b"paid" not in reply.body
    (row,) = gateway.wait_for_rows(1, "request_id = ?", reply.headers["gateway-request-id"])
    assert (row["outcome"], row["cost_nano_usd"], row["status"]) == ("complete", 10_000_000, 200)
    heard = len(upstream.heard(name))
    assert gateway.call(method, f"/tools/bank/{operation}", body).refusal == "agent_stopped"
    assert len(upstream.heard(name)) == heard


def test_an_issuer_a_token_and_a_run(gateway: Gateway) -> None:
    """Each stops what rests on it and nothing beside it; started again it is served."""
    one, other = gateway.token(jti="one"), gateway.token(jti="other")
    auditor = gateway.token(sub=AUDITOR)

    def asked(token: str, run: str = "") -> int:
        body = {"model": "scripted-ok", "messages": []}
        return gateway.call("POST", f"/r/{run}{CHAT}" if run else CHAT, body, token=token).status

    act(gateway, "stop", "tokens/one")
    assert [asked(one), asked(other), asked(auditor)] == [403, 200, 200]
    act(gateway, "start", "tokens/one")
    act(gateway, "stop", "runs/r-1", agent="procurement")
    assert [asked(one, "r-1"), asked(one, "r-2"), asked(one), asked(auditor, "r-1")] == [403, 200, 200, 200]
    act(gateway, "start", "runs/r-1", agent="procurement")
    act(gateway, "stop", "runs/r-1")
    assert [asked(one, "r-1"), asked(one), asked(auditor, "r-1")] == [403, 200, 403]
    act(gateway, "start", "runs/r-1")
    act(gateway, "stop", "issuers/dev")
    assert [asked(one), asked(auditor)] == [403, 403]
    act(gateway, "start", "issuers/dev")
    assert [asked(one, "r-1"), asked(auditor)] == [200, 200]


def test_a_revoked_token_has_no_other_spelling(gateway: Gateway) -> None:
    """S03: a stopped token is refused however its segments are written, with a `jti` and without."""
    for token_id, token in (("stolen", gateway.token(jti="stolen")), ("", gateway.token(jti=...))):
        signed, _, signature = token.rpartition(".")
        assert gateway.call("POST", CHAT, {"model": "scripted-ok", "messages": []}, token=token).status == 200
        act(gateway, "stop", f"tokens/{token_id or hashlib.sha256(signed.encode()).hexdigest()}")
        last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        near = last[last.index(signature[-1]) ^ 1]  # another character for the same bytes: its low bits are not used
        for spelling in (
            token,
            token + "=",
            token + "==",
            f"{signed}.{signature[:-1]}{near}",
            f"{signed}=.{signature}",
        ):
            reply = gateway.call("POST", CHAT, {"model": "scripted-ok", "messages": []}, token=spelling)
            assert reply.refusal == ("agent_stopped" if spelling == token else "identity_invalid")


def test_what_cannot_be_stopped_is_said(gateway: Gateway) -> None:
    """An unknown agent or issuer is 404 with the known ones; doing it twice is no error and says since when."""
    for what, known in (("agents/nobody", "procurement, auditor"), ("issuers/nobody", "dev, gateway")):
        with pytest.raises(urllib.error.HTTPError) as caught:
            gateway.admin("POST", f"/admin/v1/{what}/stop")
        with caught.value as refused:
            assert refused.code == 404
            assert known in json.load(refused)["detail"]
    for path, body in (
        ("runs/r-1", {"agent": "nobody"}),
        ("agents/procurement", {"reason": "two\nlines"}),
        ("agents/procurement", {"reason": "x" * 501}),
        ("agents/procurement", {"agent": "auditor"}),
        ("tokens/" + gateway.token(), {}),
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            gateway.admin("POST", f"/admin/v1/{path}/stop", body)
        with caught.value as refused:
            assert refused.code in {400, 404}
    first = act(gateway, "stop", reason="pays twice")
    again = act(gateway, "stop", reason="another reason")
    assert (first["changed"], again["changed"]) == (True, False)
    assert {name: again[name] for name in ("since", "by", "reason")} == {
        "since": first["since"], "by": "bootstrap", "reason": "pays twice"
    }  # fmt: skip
    assert act(gateway, "start")["changed"]
    assert not act(gateway, "start")["changed"]


def test_operators_see_who_is_stopped(gateway: Gateway) -> None:
    """The list and the page of one agent tell what stops it, since when, by whom, why, and who called in its name."""
    reply = ask(gateway)
    assert reply.status == 200
    gateway.wait_for_rows(1, "request_id = ?", reply.headers["gateway-request-id"])
    act(gateway, "stop", reason="pays twice")
    act(gateway, "stop", "agents/procurement%2Freader")
    act(gateway, "stop", "runs/r-9", agent="procurement")
    stopped, going = gateway.admin("GET", "/admin/v1/agents")["agents"]
    assert (stopped["id"], stopped["stopped"], going["stopped"]) == ("procurement", True, False)
    (entry,) = stopped["stops"]
    assert (entry["kind"], entry["id"], entry["by"], entry["reason"]) == (
        "agent", "procurement", "bootstrap", "pays twice"
    )  # fmt: skip
    shown = gateway.admin("GET", "/admin/v1/agents/procurement")
    assert [one["id"] for one in shown["stops_within"]] == ["procurement/reader", "procurement/r-9"]
    assert shown["last_seen"]
    assert shown["callers"][0]["subject"] == gateway.issuer.subject
    actions = gateway.admin("GET", "/admin/v1/stops")["history"]
    assert [(one["action"], one["id"]) for one in actions[:3]] == [
        ("stop", "procurement/r-9"),
        ("stop", "procurement/reader"),
        ("stop", "procurement"),
    ]
    line = next(line for line in gateway.log() if line["event"] == "stop_list" and line.get("reason") == "pays twice")
    assert (line["operator"], line["id"], line["action"]) == ("bootstrap", "procurement", "stop")


def test_without_its_supervisor_a_worker_lets_nobody_in(gateway: Gateway) -> None:
    """A supervisor that stands still cannot tell of a stop: soon after a second every call is 503; then it goes on."""
    assert ask(gateway).status == 200
    try:
        os.kill(gateway.process.pid, signal.SIGSTOP)
        eventually(lambda: ask(gateway).refusal == "store_unavailable", "calls are let in", patience=WITHIN)
        replies = [ask(gateway) for _ in range(8)]
        assert {(reply.status, reply.refusal) for reply in replies} == {(503, "store_unavailable")}
        assert b"the stop list is older than 1 s; retry shortly" in replies[0].body
        assert replies[0].headers["retry-after"] == "1"
        assert gateway.call("HEAD", "/v1", token=None).status == 204
    finally:
        os.kill(gateway.process.pid, signal.SIGCONT)
    eventually(lambda: ask(gateway).status == 200, "it does not go on")


def test_a_worker_that_hangs_is_named(gateway: Gateway) -> None:
    """A stop that one worker does not acknowledge says so; woken up, that one lets nobody in with what it knew."""
    victim = gateway.worker_pids()[0]
    with connections(gateway, 24) as statuses:
        assert statuses() == {200}
        try:
            os.kill(victim, signal.SIGSTOP)
            told = gateway.admin("POST", "/admin/v1/agents/procurement/stop")
            assert (told["effective"], len(told["late"]), told["changed"]) == (False, 1, True)
        finally:
            os.kill(victim, signal.SIGCONT)
        assert not statuses() - {403, 503}
    again = act(gateway, "stop")
    assert (again["changed"], again["late"]) == (False, [])


def test_a_stop_outlives_workers_and_restarts(tmp_path: Path, upstream: ScriptedProvider) -> None:
    """The successor of a killed worker has the list before it serves; so has the next start, until it is started."""
    gateway = Gateway(tmp_path, config={**config(upstream), "workers": 2})
    with gateway:
        act(gateway, "stop", reason="for good")
        before = gateway.worker_pids()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(set(gateway.worker_pids()) - set(before)) == 2, "no new workers")
        with connections(gateway, 16) as statuses:
            assert statuses() == {403}
    with gateway:
        with connections(gateway, 16) as statuses:
            assert statuses() == {403}
        (entry,) = gateway.admin("GET", "/admin/v1/stops")["stops"]
        assert entry["reason"] == "for good"
        act(gateway, "start")
        assert ask(gateway).status == 200
