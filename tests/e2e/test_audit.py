"""The decision log of real processes: whoever dies, what was sent and what an agent was told is in it, once."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from benchmarks.processes import free_port
from gateway.audit import DecisionRecord, find_record, read_records
from tests.simulator.gateway import Gateway, eventually
from tests.simulator.load import Client, Got
from tests.simulator.provider import ScriptedProvider, completion
from tests.simulator.soak import SECONDS
from tests.simulator.upstream import ScriptedUpstream

POLICY = """version: 1
policy: allowed
rules:
  - {id: models, effect: allow, match: {models: ["open-*"]}}
"""
PATH = "/v1/chat/completions"


def digest(body: bytes) -> str:
    """What the log calls a chat completion, reckoned here once more."""
    return "sha256:" + hashlib.sha256(f"POST\n{PATH}\n\n".encode() + body).hexdigest()


def asked(model: str, text: str) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}]}).encode()


def text_of(body: bytes) -> str:
    return str(json.loads(body)["messages"][0]["content"])


def decisions(gateway: Gateway) -> list[DecisionRecord]:
    """All that stands in the log."""
    return [found.record for found in read_records(gateway.folder / "var" / "audit")]


@dataclass
class Traffic:
    """Agents that ask without a pause while this is entered, each time something else, and the provider behind.

    Every third call is for a model that nobody may use, every ninth of those says the same as before.
    """

    port: int = 0
    token: str = ""
    upstream: ScriptedUpstream = field(default_factory=lambda: ScriptedUpstream([lambda _: completion("ok")]))
    answered: list[tuple[bytes, Got]] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _ready: threading.Event = field(default_factory=threading.Event)
    _begun: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()), daemon=True)
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def begin(self, gateway: Gateway) -> None:
        """Send the agents to a gateway that serves."""
        self.port, self.token = gateway.port, gateway.token()
        self._begun.set()

    def stop(self) -> None:
        """Have the agents end; what they have asked is answered."""
        self._stopping.set()
        self._begun.set()
        self._thread.join(30)
        assert not self._thread.is_alive(), "an agent waits for ever"

    def wait_for(self, more: int) -> None:
        """Return after so many more full answers."""
        wanted = self.served + more
        eventually(lambda: self.served >= wanted, "no answers any more")

    @property
    def served(self) -> int:
        """How many calls were answered by the provider."""
        return sum(got.status == 200 for _, got in list(self.answered))

    async def _work(self) -> None:
        async with self.upstream:
            self._ready.set()
            await asyncio.to_thread(self._begun.wait)
            await asyncio.gather(*(self._agent(number) for number in range(8)))

    async def _agent(self, agent: int) -> None:
        client = Client(self.port, self.token)
        for number in itertools.count():
            if self._stopping.is_set():
                break
            text = "again and again" if number % 9 == 0 else f"call {number} of agent {agent}"
            body = asked("closed-1" if number % 3 == 0 else "open-1", text)
            try:
                async with asyncio.timeout(30):
                    got = await client.request("POST", PATH, body)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            if got.whole:
                self.answered.append((body, got))
            if got.status >= 500:
                await asyncio.sleep(0.02)
        await client.close()

    def behind(self) -> dict[str, Any]:
        """The part of a configuration that sends every model to the provider."""
        provider = {"dialects": ["openai"], "base_url": f"{self.upstream.url}/v1", "allow_internal": True}
        return {
            "providers": {"scripted": provider},
            "models": {name: {"targets": [{"provider": "scripted"}]} for name in ("open-*", "closed-*")},
            "prices": {"scripted/*": [{"input": "1.00", "output": "2.00"}]},
        }


def check(gateway: Gateway, traffic: Traffic) -> None:
    """Hold what the provider heard and what the agents were told against the log."""
    records = decisions(gateway)
    by_id = {record.id: record for record in records}
    assert max(Counter(record.id for record in records).values()) == 1
    let_through = {record.call_digest for record in records if record.effect == "allow"}
    heard = [text_of(received.body) for received in traffic.upstream.requests]
    assert len(heard) > 100
    unknown = [text for text in heard if digest(asked("open-1", text)) not in let_through]
    assert not unknown, f"{len(unknown)} of {len(heard)} calls reached the provider without a line"
    told = Counter[tuple[str, str]]()
    for body, got in traffic.answered:
        name = got.headers.get("gateway-decision-id", "")
        told[got.headers.get("gateway-refusal", ""), "" if name else "without"] += 1
        if not name:
            continue
        record = by_id.get(name)
        assert record is not None, f"the agent was told of {name} ({got.status}), and the log knows nothing of it"
        assert record.policy_hash.startswith(got.headers["gateway-policy"])
        assert record.call_digest == digest(body)
        assert (record.effect, record.code) == (("deny", "policy_denied") if got.status == 403 else ("allow", ""))
    assert told["", ""] > 100, told
    assert told["policy_denied", ""] > 50, told
    assert not told["", "without"] + told["policy_denied", "without"], told


@pytest.mark.soak
def test_whoever_is_killed_the_log_has_every_call(tmp_path: Path) -> None:
    """P10: SIGKILL of workers and supervisors, and reloads between: every call that reached the provider has its line.

    So has every decision that an agent was told of, exactly one, with the policies that it was told. Five kills in the
    short form; in the long one as many as there is time for.
    """
    until = time.monotonic() + SECONDS
    addresses = {name: {"bind": f"127.0.0.1:{free_port()}"} for name in ("agents", "metrics", "admin")}
    with Traffic() as traffic:
        config = {"workers": 2, "listen": addresses, **traffic.behind()}
        with Gateway(tmp_path, config=config, policies={"allowed.yaml": POLICY}) as gateway:
            traffic.begin(gateway)
            for number, victim in enumerate(
                itertools.cycle(("worker", "supervisor", "worker", "worker", "supervisor"))
            ):
                if number >= 5 and time.monotonic() > until:
                    break
                traffic.wait_for(60)
                if victim == "worker":
                    os.kill(random.choice(gateway.worker_pids()), signal.SIGKILL)  # noqa: S311 - any will do
                else:
                    gateway.kill()
                    gateway.start()
                traffic.wait_for(20)
                (tmp_path / "policies" / "allowed.yaml").write_text(f"{POLICY}# {number}\n")
                assert gateway.reload() == []
            traffic.wait_for(60)
            traffic.stop()
            assert gateway.stop() == 0
            check(gateway, traffic)
            assert len({record.policy_hash for record in decisions(gateway)}) > 3
            done = gateway.command("audit", "verify", "--format", "json")
            verdict = json.loads(done.stdout)
            assert (verdict["ok"], verdict["last"]) == (True, verdict["last_checkpoint"]["seq"])


def test_nothing_is_sent_that_is_not_written_down(tmp_path: Path) -> None:
    """A supervisor that stands still and dies takes nothing into the log: the call waits for it, and is refused."""
    with ScriptedProvider() as provider:
        provider.says("scripted-1", completion("ok"))
        with Gateway(tmp_path, config=provider.behind()) as gateway:
            assert gateway.chat(model="scripted-1").status == 200
            os.kill(gateway.process.pid, signal.SIGSTOP)
            with ThreadPoolExecutor(1) as pool:
                asking = pool.submit(gateway.chat, "again", "scripted-1")
                time.sleep(0.4)  # the call has come as far as it can
                assert not asking.done()
                gateway.kill()
                refused = asking.result(20)
            assert (refused.status, refused.refusal) == (503, "store_unavailable")
            assert "gateway-decision-id" not in refused.headers
            assert len(provider.heard("scripted-1")) == 1
            assert len(decisions(gateway)) == 1


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("audit")
    with Gateway(folder) as running:
        yield running


def test_a_decision_is_found_by_the_id_that_the_agent_was_told(gateway: Gateway) -> None:
    """Allowed or denied: the log says who asked for what, what the rules said, and of which call that was."""
    body = asked("sim-small", "found again")
    allowed = gateway.call("POST", PATH, body)
    found = find_record(gateway.folder / "var" / "audit", allowed.headers["gateway-decision-id"])
    assert found is not None
    record = found.record
    assert (record.agent, record.model, record.effect, record.providers) == (
        "procurement",
        "sim-small",
        "allow",
        ("demo",),
    )
    assert record.request_id == allowed.headers["gateway-request-id"]
    assert record.policy_hash.startswith(allowed.headers["gateway-policy"])
    assert record.call_digest == digest(body)
    assert [hit.name for hit in record.rules] == ["tests/models"]


def test_what_an_agent_makes_up_forges_no_line(gateway: Gateway) -> None:
    """P14: a model's name that looks like the rest of a line is escaped JSON, in one line of ASCII."""
    name = 'sim-"},"hash":"0"}{"seq":1,"record":{"effect":"allow"}}é😀'
    reply = gateway.call("POST", PATH, asked(name, "x"))
    found = find_record(gateway.folder / "var" / "audit", reply.headers["gateway-decision-id"])
    assert found is not None
    assert found.record.model == name
    assert re.fullmatch(rb"(?:[\x20-\x7e]+\n)+", found.file.read_bytes())
    assert gateway.command("audit", "verify").returncode == 0


def test_the_log_is_the_gateways_own(gateway: Gateway) -> None:
    """Folder, files and key can be read by nobody else, and readiness says that decisions are taken."""
    var = gateway.folder / "var"
    modes = [
        path.stat().st_mode & 0o777 for path in (var / "audit", *(var / "audit").iterdir(), var / "keys" / "audit.json")
    ]
    assert modes == [0o700, *(0o600 for _ in modes[1:])]
    assert "[ok] audit: takes decisions\n" in gateway.ready()[1]


def test_verification_beside_a_running_gateway(gateway: Gateway) -> None:
    """P15: the log is whole while it is written; in a copy of it an edited line is named, whoever mends its hash."""
    for _ in range(3):
        assert gateway.chat().status == 200
    assert gateway.command("audit", "verify").returncode == 0
    copy = gateway.folder / "copy"
    shutil.copytree(gateway.folder / "var" / "audit", copy)
    (path,) = copy.iterdir()
    path.write_bytes(path.read_bytes().replace(b'"effect":"allow"', b'"effect":"deny"', 1))
    done = gateway.command("audit", "verify", "--folder", "copy", check=False)
    assert (done.returncode, "audit-000001.ndjson:1: it is not what its hash was made of" in done.stdout) == (1, True)
