"""Kills: whoever dies, what an agent was told in full is on the ledger, once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.simulator.gateway import Gateway, Reply, alive, eventually
from tests.simulator.load import Call, Load
from tests.simulator.provider import ScriptedProvider, streamed
from tests.simulator.soak import SECONDS
from tests.simulator.upstream import Do, held_back

MIX = (
    Call(None, stream=False),
    Call(None, stream=True),
    Call("one", stream=False),
    Call("two", stream=True),
    Call("one", stream=True),
)
WIDE = {"limits": {"steps": None, "tokens": None}}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def runs(gateway: Gateway) -> dict[str, dict[str, Any]]:
    with contextlib.closing(sqlite3.connect(gateway.folder / "var" / "passgate.db")) as conn:
        conn.row_factory = sqlite3.Row
        return {row["id"]: dict(row) for row in conn.execute("SELECT * FROM runs")}


def replaced(gateway: Gateway, before: list[int]) -> bool:
    """Whether two workers serve, and not the same two as before."""
    now = gateway.worker_pids()
    return len(now) == 2 and set(now) != set(before)


def leftovers(gateway: Gateway) -> list[Path]:
    return [path for path in (gateway.folder / "var" / "recovery").iterdir() if path.stat().st_size]


def check_books(gateway: Gateway, full: Sequence[str]) -> None:
    """Every full answer has one row; each run has the steps, tokens and money of its rows."""
    assert full
    assert len(set(full)) == len(full)
    rows = gateway.rows()
    by_id: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_id.setdefault(row["request_id"], []).append(row)
    lost = [request_id for request_id in full if request_id not in by_id]
    assert not lost, f"{len(lost)} of {len(full)} full answers have no row"
    twice = [request_id for request_id, found in by_id.items() if len(found) > 1]
    assert not twice
    assert {by_id[request_id][0]["outcome"] for request_id in full} == {"complete"}
    for name, run in runs(gateway).items():
        steps = [row for row in rows if row["run"] == name and row["attempt"]]
        assert run["steps"] == len(steps)
        assert run["tokens"] == sum(row["input_tokens"] + row["output_tokens"] for row in steps)
        assert run["cost_nano_usd"] == sum(row["cost_nano_usd"] for row in steps)


def wait_for_full(load: Load, more: int) -> None:
    wanted = len(load.full) + more
    eventually(lambda: len(load.full) >= wanted, f"no answers any more: {load.broken[-3:]} {load.refused[-1:]}")


@pytest.mark.soak
def test_workers_are_killed_under_load(tmp_path: Path) -> None:
    """SIGKILL of a random worker, again and again: the others serve on, and no full answer lacks its row.

    Six kills in the short form; in the long one fifty, and more while there is time.
    """
    until = time.monotonic() + SECONDS
    kills, wanted, one_served_alone = 0, 50 if SECONDS else 6, 0
    with Gateway(tmp_path, config={"workers": 2, "runs": WIDE}) as gateway:
        counted = 0.0
        with Load(gateway.port, gateway.token(), calls=MIX, model="sim-latency-30-pace-2-words-10") as load:
            wait_for_full(load, 30)
            while kills < wanted or time.monotonic() < until:
                before = gateway.worker_pids()
                victim = random.choice(before)  # noqa: S311 - any will do
                os.kill(victim, signal.SIGKILL)
                kills += 1
                wait_for_full(load, 20)
                one_served_alone += len(set(gateway.worker_pids()) - {victim}) == 1
                eventually(partial(replaced, gateway, before), "the dead worker was not replaced")
                metrics = gateway.metrics()
                now = sum(value for name, value in metrics.items() if name.startswith("passgate_requests_total"))
                assert now >= counted, "counters went back"
                counted = now
        assert one_served_alone, "it was never seen that the other one serves on"
        assert not load.refused
        eventually(lambda: not leftovers(gateway), "rows are left in recovery files")
        assert gateway.metrics()["passgate_worker_restarts_total"] == kills
        check_books(gateway, load.full)
        spent = sum(v for name, v in gateway.metrics().items() if name.startswith("passgate_spend_usd_total"))
        assert round(spent * 1e9) == sum(row["cost_nano_usd"] for row in gateway.rows())
        assert gateway.stop() == 0
        check_books(gateway, load.full)


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        yield running


def upstreams(provider: ScriptedProvider) -> dict[str, Any]:
    """The part of a configuration that sends `sim-*` to the demo and `scripted-*` to the test's own provider."""
    scripted = {"dialects": ["openai"], "base_url": f"{provider.url}/v1", "allow_internal": True}
    return {
        "providers": {"demo": {"dialects": ["openai"], "base_url": "builtin:demo"}, "scripted": scripted},
        "models": {
            "sim-*": {"targets": [{"provider": "demo"}]},
            "scripted-*": {"targets": [{"provider": "scripted"}]},
        },
        "prices": {name: [{"input": "1.00", "output": "2.00"}] for name in ("demo/*", "scripted/*")},
    }


def test_a_reservation_dies_with_its_worker(tmp_path: Path, provider: ScriptedProvider) -> None:
    """A step that a worker had reserved when it was killed is free again: the run's limit counts what was done."""
    provider.says("scripted-hang", [Do.HANG])
    with Gateway(tmp_path, config={"runs": {"limits": {"steps": 3}}, **upstreams(provider)}) as gateway:

        def ask(model: str) -> Reply:
            asked = {"model": model, "messages": [{"role": "user", "content": "x"}]}
            return gateway.call("POST", "/r/short/v1/chat/completions", asked)

        def wait_in_vain() -> None:
            with contextlib.suppress(OSError):
                ask("scripted-hang")

        waiting = [threading.Thread(target=wait_in_vain) for _ in range(3)]
        for thread in waiting:
            thread.start()
        eventually(lambda: len(provider.heard("scripted-hang")) == 3, "three calls are not under way")
        full = ask("sim-small")
        assert (full.status, full.refusal) == (402, "run_limit")
        (victim,) = gateway.worker_pids()
        os.kill(victim, signal.SIGKILL)
        for thread in waiting:
            thread.join()
        eventually(lambda: gateway.worker_pids() not in ([], [victim]), "the dead worker was not replaced")
        for _ in range(3):
            assert ask("sim-small").status == 200
        assert ask("sim-small").refusal == "run_limit"


def test_the_supervisor_is_killed_under_load(tmp_path: Path, provider: ScriptedProvider) -> None:
    """SIGKILL of the supervisor: its workers stop and leave, the next start posts what they had answered.

    The next one is started at once, on the same port, while a worker still brings a stream to its end.
    """
    go_on = threading.Event()

    provider.says("scripted-slow", *(held_back(streamed("one ", "two "), 2, go_on) for _ in range(2)))
    config = {
        "workers": 2,
        "runs": WIDE,
        "listen": {name: {"bind": f"127.0.0.1:{free_port()}"} for name in ("agents", "metrics", "admin")},
        **upstreams(provider),
    }
    replies: dict[str, Reply] = {}
    with Gateway(tmp_path, config=config) as gateway:

        def ask(prefix: str) -> None:
            asked = {"model": "scripted-slow", "messages": [{"role": "user", "content": "x"}], "stream": True}
            replies[prefix] = gateway.call("POST", f"{prefix}/v1/chat/completions", asked)

        waiting = [threading.Thread(target=ask, args=(prefix,)) for prefix in ("", "/r/slow")]
        with Load(gateway.port, gateway.token(), calls=MIX) as load:
            wait_for_full(load, 100)
            for thread in waiting:
                thread.start()
            eventually(lambda: len(provider.heard("scripted-slow")) == 2, "the provider was not asked")
            orphans = gateway.worker_pids()
            gateway.kill()
            since = gateway.launch()  # on the same ports: nobody but the new ones listens there any more
            lock = tmp_path / "var" / "passgate.db.lock"
            eventually(lambda: lock.read_text().strip() == str(gateway.process.pid), "it does not take the store over")
            assert any(map(alive, orphans)), "too late: no old worker is there any more"
            go_on.set()
            gateway.wait_for("ready", since)
            wait_for_full(load, 100)
        for thread in waiting:
            thread.join()
        assert replies[""].body.endswith(b"data: [DONE]\n\n")
        assert b"store_unavailable" in replies["/r/slow"].body, "nobody could commit this step"
        assert b"[DONE]" not in replies["/r/slow"].body
        eventually(lambda: not any(map(alive, orphans)), "an old worker stays")
        answered = [*load.full, replies[""].headers["gateway-request-id"]]
        eventually(lambda: not leftovers(gateway), "rows are left in recovery files")
        check_books(gateway, answered)
        late = replies["/r/slow"].headers["gateway-request-id"]
        assert len(gateway.rows("request_id = ?", late)) == 1, "it was paid, so it is on the ledger"


def test_a_worker_that_cannot_start_is_tried_again_and_said(tmp_path: Path) -> None:
    """A slot that stays empty is filled after growing pauses; readiness says why, and the other worker serves."""
    with Gateway(tmp_path, config={"workers": 2}) as gateway:
        recovery = gateway.folder / "var" / "recovery"
        kept = recovery.rename(recovery.with_name("kept"))
        recovery.write_bytes(b"")  # where a folder must be
        os.kill(gateway.worker_pids()[0], signal.SIGKILL)
        gateway.wait_for("worker_died")
        eventually(lambda: "cannot be started" in gateway.ready()[1] or "exit code 1" in gateway.ready()[1], "not said")
        status, text = gateway.ready()
        assert status == 200
        assert "[warning] workers: 1 of 2 serve" in text
        for _ in range(5):
            assert gateway.chat().status == 200
        pauses = [line["pause_s"] for line in gateway.log() if line["event"] == "worker_died" and not line["served_s"]]
        assert pauses == sorted(pauses)
        assert all(pauses)
        words = (gateway.folder / "log.ndjson").read_text()
        assert "cannot run" in words
        assert "Traceback" not in words
        recovery.unlink()
        kept.rename(recovery)
        eventually(lambda: len(gateway.worker_pids()) == 2, "the slot stays empty")
        assert "[ok] workers: 2 of 2 serve\n" in gateway.ready()[1]


def test_a_worker_that_stands_still_loses_no_counts(tmp_path: Path) -> None:
    """A scrape does not wait for a worker that is stopped, and what that one counted is there once it goes on."""
    with Gateway(tmp_path) as gateway:
        (worker,) = gateway.worker_pids()
        for _ in range(3):
            assert gateway.chat().status == 200
        os.kill(worker, signal.SIGSTOP)
        for _ in range(3):
            assert gateway.metrics()["passgate_workers"] == 1
        os.kill(worker, signal.SIGCONT)
        for _ in range(2):
            assert gateway.chat().status == 200

        def answered() -> float:
            return sum(v for name, v in gateway.metrics().items() if name.startswith("passgate_requests_total"))

        eventually(lambda: answered() == 5, f"{answered()} calls are counted")
