"""The store in trouble: full disks, second writers, places where nothing can be written, copies put back."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.simulator.gateway import Gateway, Reply, eventually
from tests.simulator.load import Call, Load
from tests.simulator.provider import ScriptedProvider, completion, streamed
from tests.simulator.upstream import answer, held_back

Full = Callable[[Gateway], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def no_space(gateway: Gateway) -> Iterator[None]:
    """Fill what is left of the disk, down to its last byte."""
    filler = gateway.folder / "var" / "filler"
    try:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)) == 4096:
                pass
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def no_growth(gateway: Gateway) -> Iterator[None]:
    """Have the kernel refuse every write of these processes to a file, as RLIMIT_FSIZE does (EFBIG)."""
    pids = [gateway.process.pid, *gateway.worker_pids()]
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids}
    try:
        for pid, (_, hard) in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        yield
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder whose `var` is a file system of 3 MiB."""
    disk = tmp_path / "var"
    disk.mkdir()
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("a small disk can be mounted by root only: run the tests as root; RLIMIT_FSIZE is tried anyway")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("this container may not mount: run the tests where mount(8) works; RLIMIT_FSIZE is tried anyway")
    yield tmp_path
    subprocess.run(["umount", disk], check=True)


def check_full(gateway: Gateway, provider: ScriptedProvider, full: Full) -> None:
    """X02, told once for both kinds of full disk."""
    go_on = threading.Event()

    provider.says("scripted-quick", completion("hello"))
    provider.says("scripted-late", held_back(completion("hello"), 0, go_on))
    provider.says("scripted-stream", held_back(streamed("one ", "two "), 2, go_on))
    provider.says("/bank/pay", held_back([answer(b'{"paid": true}', ("Content-Type", "application/json"))], 0, go_on))
    replies: dict[str, Reply] = {}

    def ask(name: str, path: str, body: object) -> None:
        replies[name] = gateway.call("POST", path, body)

    chat = "/v1/chat/completions"
    said = {"messages": [{"role": "user", "content": "x"}]}
    waiting = [
        threading.Thread(target=ask, args=arguments)
        for arguments in (
            ("whole", chat, {**said, "model": "scripted-late"}),
            ("stream", chat, {**said, "model": "scripted-stream", "stream": True}),
            ("effect", "/tools/bank/pay", {"amount": 1}),
        )
    ]
    good = gateway.call("POST", f"/r/job{chat}", {**said, "model": "scripted-quick"})
    answered = [good.headers["gateway-request-id"]]
    for thread in waiting:
        thread.start()
    names = ("scripted-late", "scripted-stream", "/bank/pay")
    eventually(lambda: all(provider.heard(name) for name in names), "not all calls are under way")
    eventually(lambda: not list(_kept(gateway)), "rows wait")
    with full(gateway):
        go_on.set()
        for thread in waiting:
            thread.join()
        assert (replies["whole"].status, replies["whole"].refusal) == (503, "store_unavailable")
        assert b"store_unavailable" in replies["stream"].body
        assert b"[DONE]" not in replies["stream"].body
        assert (replies["effect"].status, replies["effect"].refusal) == (424, "step_in_doubt")
        assert replies["effect"].headers["x-should-retry"] == "false"

        for _ in range(500):  # what still fits somewhere may be let in, for a while
            reply = gateway.chat(model="scripted-quick")
            if reply.status != 200:
                break
            answered.append(reply.headers["gateway-request-id"])
        asked = len(provider.heard("scripted-quick"))
        for path in (chat, f"/r/job{chat}"):
            reply = gateway.call("POST", path, {**said, "model": "scripted-quick"})
            assert (reply.status, reply.refusal) == (503, "store_unavailable")
            assert 1 <= int(reply.headers["retry-after"]) <= 30
        assert len(provider.heard("scripted-quick")) == asked, "money was spent that nobody could write down"
        eventually(lambda: gateway.ready()[0] == 503, "it calls itself ready")
        assert "[failing] store" in gateway.ready()[1]
        assert gateway.call("GET", "/gateway/v1/runs/job").json()["steps"] == 1
        mine = gateway.call("GET", f"/gateway/v1/calls/{answered[0]}")
        assert mine.status == 200
        assert gateway.call("GET", "/v1/models").status == 200
        assert gateway.command("spend", "report").returncode == 0

    eventually(lambda: gateway.ready()[0] == 200, "it does not recover")
    eventually(lambda: gateway.chat(model="scripted-quick").status == 200, "it lets nobody in any more")
    again = gateway.call("POST", f"/r/job{chat}", {**said, "model": "scripted-quick"})
    assert again.status == 200
    answered.append(again.headers["gateway-request-id"])
    spent = [reply.headers["gateway-request-id"] for reply in replies.values()]
    eventually(
        lambda: {*answered, *spent} <= {row["request_id"] for row in gateway.rows("attempt > 0")},
        "what was answered, or paid for, is not on the ledger",
    )
    assert gateway.worker_pids(), "nobody was restarted"
    assert gateway.metrics()["passgate_worker_restarts_total"] == 0


def _kept(gateway: Gateway) -> Iterator[Path]:
    return (path for path in (gateway.folder / "var" / "recovery").iterdir() if path.stat().st_size)


def test_a_full_disk_stops_admission_and_loses_nothing(small_disk: Path, provider: ScriptedProvider) -> None:
    """X02: without space nothing new is let in, no full answer lacks its row, reads go on, and it heals by itself."""
    with Gateway(small_disk, config=provider.behind()) as gateway:
        check_full(gateway, provider, no_space)


def test_failing_writes_stop_admission_and_lose_nothing(tmp_path: Path, provider: ScriptedProvider) -> None:
    """X02: the same where every single write fails from one moment to the next."""
    with Gateway(tmp_path, config=provider.behind()) as gateway:
        check_full(gateway, provider, no_growth)


def test_a_second_writer_is_refused_and_a_copy_can_be_put_back(tmp_path: Path) -> None:
    """X05: a second gateway on the same file does not start; reports can be read meanwhile; a backup is a store."""
    copy = tmp_path / "copy"
    (copy / "var").mkdir(parents=True)
    mix = (Call(None, stream=False), Call("job", stream=True))
    with Gateway(tmp_path / "first", config={"runs": {"limits": {"steps": None}}}) as gateway:
        with Load(gateway.port, gateway.token(), calls=mix) as load:
            eventually(lambda: len(load.full) > 50, "no load")
            second = gateway.command("serve", check=False)
            assert second.returncode == 2
            assert f"is open for writing in process {gateway.process.pid}" in second.stderr
            assert "stop that gateway first" in second.stderr
            assert "Traceback" not in second.stderr
            report = gateway.command("spend", "report", "--by", "agent")
            assert "procurement" in report.stdout
            with (
                contextlib.closing(sqlite3.connect(tmp_path / "first" / "var" / "passgate.db")) as source,
                contextlib.closing(sqlite3.connect(copy / "var" / "passgate.db")) as target,
            ):
                source.backup(target)
            wanted = len(load.full) + 20
            eventually(lambda: len(load.full) > wanted, "the backup stopped the load")
        assert not load.refused
        assert not load.broken
        whole = [row["request_id"] for row in gateway.rows()]
    with Gateway(copy, issuer=gateway.issuer, config=gateway.config) as restored:
        kept = [row["request_id"] for row in restored.rows()]
        assert len(kept) >= 50
        assert kept == whole[: len(kept)], "the copy is the ledger up to a point"
        steps = len(restored.rows("run = 'job'"))
        assert restored.call("GET", "/gateway/v1/runs/job").json()["steps"] == steps
        reply = restored.call(
            "POST",
            "/r/job/v1/chat/completions",
            {"model": "sim-small", "messages": [{"role": "user", "content": "x"}]},
        )
        assert reply.headers["gateway-step"] == str(steps + 1)


@pytest.mark.parametrize("door", ["agents", "metrics", "admin"])
def test_a_port_in_use_is_named(tmp_path: Path, door: str) -> None:
    """A listener's port that somebody else has: exit code 2, and the sentence names the setting."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        free = {name: {"bind": "127.0.0.1:0"} for name in ("agents", "metrics", "admin")}
        gateway = Gateway(tmp_path, config={"listen": {**free, door: {"bind": bind}}})
        gateway.write()
        ended = gateway.command("serve", check=False)
    assert ended.returncode == 2
    assert f"passgate cannot start: listen.{door}.bind {bind}: Address already in use" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.fixture(params=["mounted read-only", "no folder", "not a database"])
def unusable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A path for the database where none can be."""
    folder = tmp_path / "state"
    if request.param == "no folder":
        folder.write_text("a file")
        yield folder / "passgate.db"
    elif request.param == "not a database":
        folder.mkdir()
        (folder / "passgate.db").write_bytes(b"somebody else's\n" * 100)
        yield folder / "passgate.db"
    else:
        folder.mkdir()
        if os.geteuid():
            folder.chmod(0o500)
            yield folder / "passgate.db"
            return
        command = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
        if subprocess.run(command, check=False).returncode:
            pytest.skip("root can write everywhere and may not mount here: run the tests as another user")
        yield folder / "passgate.db"
        subprocess.run(["umount", folder], check=True)


def test_a_place_that_takes_no_database_is_named(tmp_path: Path, unusable: Path) -> None:
    """Exit code 2, the path and the reason, before anything listens."""
    gateway = Gateway(tmp_path, config={"state": {"durable": f"sqlite:{unusable}"}})
    gateway.write()
    ended = gateway.command("serve", check=False)
    assert ended.returncode == 2
    assert "passgate cannot start: " in ended.stderr
    assert str(unusable) in ended.stderr
    assert "Traceback" not in ended.stderr
