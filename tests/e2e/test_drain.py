"""R17: a gateway that is told to stop finishes what it has begun, says so, and leaves nothing unrecorded."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulator.gateway import Gateway, Reply, alive, eventually
from tests.simulator.load import Call, Client, Got
from tests.simulator.provider import ScriptedProvider, streamed
from tests.simulator.soak import SECONDS
from tests.simulator.upstream import Do, Step, held_back

STREAM = Call(None, stream=True)


@pytest.mark.soak
async def test_streams_in_flight_arrive_whole(tmp_path: Path, provider: ScriptedProvider) -> None:
    """R17: SIGTERM with 60 streams in flight (200 in the long form) cuts none of them, and the exit code is 0.

    All processes get the signal, as from a service manager that signals a whole group. Meanwhile
    readiness fails, nobody new is let in, and connections without a request are closed.
    """
    go_on = threading.Event()
    count = 200 if SECONDS else 60

    def script() -> Iterator[Step]:
        frames = streamed(*map(str, range(20)))
        yield from frames[:5]
        while not go_on.is_set():
            yield 0.05
        yield from frames[5:]

    provider.says("scripted-long", *(script() for _ in range(count)))
    with Gateway(tmp_path, config={"workers": 2, **provider.behind()}) as gateway:
        token = gateway.token()
        idle = Client(gateway.port, token)
        assert (await idle.request("GET", "/v1/models")).status == 200
        clients = [Client(gateway.port, token, "scripted-long") for _ in range(count)]
        calls = [asyncio.create_task(client.chat(STREAM)) for client in clients]
        await asyncio.to_thread(
            eventually, lambda: len(provider.heard("scripted-long")) == count, "not all streams have begun"
        )
        workers = gateway.worker_pids()
        for pid in (gateway.process.pid, *workers):
            os.kill(pid, signal.SIGTERM)
        await idle.closed_by_peer()
        await asyncio.to_thread(eventually, lambda: gateway.ready()[0] == 503, "it is still ready")
        assert "[failing] draining" in gateway.ready()[1]
        assert [pid for pid in workers if alive(pid)] == workers, "a worker did not wait for its streams"
        with pytest.raises(ConnectionRefusedError):
            await Client(gateway.port, token).request("GET", "/v1/models")
        go_on.set()
        got: list[Got] = await asyncio.gather(*calls)
        assert [one.status for one in got] == [200] * count
        assert all(one.complete for one in got), "a stream was truncated"
        assert all(one.body.count(b'"content"') == 20 for one in got)
        assert await asyncio.to_thread(gateway.stop) == 0
        for client in (idle, *clients):
            await client.close()
        rows = gateway.rows("outcome = 'complete'")
        assert {row["request_id"] for row in rows} == {one.request_id for one in got}
        assert len(rows) == count


def test_what_outlasts_the_drain_is_broken_off_and_recorded(tmp_path: Path, provider: ScriptedProvider) -> None:
    """R17: at the end of `drain` a stream ends with an error event, a call with a refusal; all of it is on the ledger.

    So are calls in a run that their agent has left, and effects: they are not said to have failed for sure.
    """
    provider.says("scripted-endless", [*streamed("one ", "two ", done=False), Do.HANG])
    provider.says("scripted-mute", [Do.HANG])
    provider.says("/bank/pay", [Do.HANG])
    replies: dict[str, Reply] = {}
    with Gateway(tmp_path, config={"drain": "1s", **provider.behind()}) as gateway:

        def ask(name: str, path: str, body: object) -> None:
            replies[name] = gateway.call("POST", path, body)

        chat = {"messages": [{"role": "user", "content": "x"}]}
        endless, mute = {**chat, "model": "scripted-endless", "stream": True}, {**chat, "model": "scripted-mute"}
        waiting = [
            threading.Thread(target=ask, args=arguments)
            for arguments in (
                ("stream", "/v1/chat/completions", endless),
                ("stream in a run", "/r/job/v1/chat/completions", endless),
                ("mute", "/v1/chat/completions", mute),
                ("effect", "/tools/bank/pay", {"amount": 1}),
            )
        ]
        for thread in waiting:
            thread.start()
        asyncio.run(_leave(gateway, "scripted-endless"))
        names = ("scripted-endless", "scripted-mute", "/bank/pay")
        eventually(lambda: [len(provider.heard(name)) for name in names] == [3, 1, 1], "not all calls are under way")
        assert gateway.stop() == 0
        for thread in waiting:
            thread.join()
        for name in ("stream", "stream in a run"):
            body = replies[name].body
            assert b"two " in body
            assert b"upstream_failed: the gateway was stopped" in body
            assert b"[DONE]" not in body
            assert b'"finish_reason":"stop"' not in body.replace(b" ", b"")
        assert (replies["mute"].status, replies["mute"].refusal) == (502, "upstream_failed")
        assert replies["effect"].refusal == "upstream_failed"
        assert b"it may have happened" in replies["effect"].body
        rows = gateway.rows()
        assert sorted(row["outcome"] for row in rows) == ["failed"] * 2 + ["truncated"] * 3
        by_id = {row["request_id"]: row for row in rows}
        for reply in replies.values():
            assert by_id[reply.headers["gateway-request-id"]]["outcome"] in {"truncated", "failed"}
        assert {row["run"] for row in rows} == {"", "job", "left"}


def test_a_call_that_its_agent_left_is_recorded_to_its_end(tmp_path: Path, provider: ScriptedProvider) -> None:
    """R17: where no connection is left, a drain still waits for a step of a run that is recorded without its agent."""
    go_on = threading.Event()

    provider.says("scripted-slow", held_back(streamed("one ", "two ", "three "), 3, go_on))
    with Gateway(tmp_path, config=provider.behind()) as gateway:
        asyncio.run(_leave(gateway, "scripted-slow"))
        gateway.process.send_signal(signal.SIGTERM)
        eventually(lambda: gateway.ready()[0] == 503, "it is still ready")
        threading.Timer(0.5, go_on.set).start()
        assert gateway.stop() == 0
        (row,) = gateway.rows()
        assert (row["run"], row["outcome"], row["output_tokens"], row["estimated"]) == ("left", "cancelled", 5, 0)


async def _leave(gateway: Gateway, model: str) -> None:
    """Begin a stream in a run and hang up in the middle."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
    head = (
        "POST /r/left/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {gateway.token()}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await reader.readuntil(b"two ")
    writer.transport.abort()


def test_a_stop_while_starting_leaves_nothing_behind(tmp_path: Path) -> None:
    """SIGTERM and SIGHUP may come at any time of the start: one ends it in order, the other does no harm."""
    for moment in (0.0, 0.2, 0.5, 1.0):
        gateway = Gateway(tmp_path / str(moment), config={"workers": 2})
        since = gateway.launch()
        eventually((gateway.folder / "var" / "passgate.db.lock").exists, "it does not start")
        time.sleep(moment)
        if gateway.process.poll() is None:
            gateway.process.send_signal(signal.SIGHUP)
        code = gateway.stop()
        words = (gateway.folder / "log.ndjson").read_bytes()[since:].decode()
        assert code in (0, -signal.SIGTERM), words
        assert "Traceback" not in words
        listed = Path("/proc").glob("[0-9]*/cmdline")
        assert not [path for path in listed if _cwd(path.parent) == str(gateway.folder)], "a process stays"


def _cwd(process: Path) -> str:
    try:
        return str((process / "cwd").readlink())
    except OSError:
        return ""
