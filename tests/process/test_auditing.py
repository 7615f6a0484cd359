"""The supervisor's side of the decision log: written, signed, told; refused while nothing can be written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.audit.chain import Link
from gateway.audit.checkpoint import key_file, public_keys, read, read_key, sign
from gateway.audit.verify import Verdict, verify
from gateway.build import prepare
from gateway.config import load
from gateway.core.errors import Refusal
from gateway.core.sources import DiskSources
from gateway.identity.issue import PrivateKey, add_key
from gateway.process.auditing import Auditing
from gateway.process.in_force import InForce
from gateway.process.listening import StartError
from gateway.process.reading import Read
from gateway.state import Store, read_only
from gateway.state.checkpoints import Checkpoint, add_checkpoint, all_checkpoints
from tests.audit.specimen import record
from tests.simulator.clock import SetClock
from tests.simulator.webhook import Receiver

CONFIG = """
state: {durable: sqlite:state/passgate.db}
identity:
  audience: https://gateway.example
  issuers: [{name: dev, iss: "https://issuer.example", keys: {file: keys.json}}]
agents: [{id: a, issuer: dev, subject: "agent:a"}]
providers: {demo: {dialects: [openai], base_url: "builtin:demo"}}
models: {small: {targets: [{provider: demo}]}}
"""


@dataclass
class Desk:
    """A gateway's folder, its store and its configuration."""

    folder: Path
    store: Store
    now: InForce
    clock: SetClock

    @property
    def audit(self) -> Path:
        """Where the log is."""
        return self.folder / "state" / "audit"

    @asynccontextmanager
    async def started(self) -> AsyncIterator[Auditing]:
        """The log while the gateway runs."""
        async with Auditing(self.store, self.now, self.clock) as auditing:
            yield auditing

    def key(self) -> PrivateKey:
        """What signs checkpoints."""
        return read_key(key_file(self.now.config.settings.state.keys_dir))

    def checkpoints(self) -> list[Checkpoint]:
        """What the store holds of them."""
        with closing(read_only(self.store.path)) as conn:
            return list(all_checkpoints(conn))

    def verdict(self) -> Verdict:
        """What `audit verify` says."""
        return verify(self.audit, self.checkpoints(), public_keys(self.key()))

    def records(self) -> list[dict[str, object]]:
        """What stands in the log."""
        lines = [line for path in sorted(self.audit.iterdir()) for line in path.read_bytes().splitlines()]
        return [json.loads(line)["record"] for line in lines]


@asynccontextmanager
async def opened(folder: Path, more: str = "") -> AsyncIterator[Desk]:
    """A desk with a store of its own."""
    add_key(folder / "keys.json", "EdDSA", rotate=False)
    (folder / "config.yaml").write_text(CONFIG + more)
    (folder / "policies").mkdir()
    sources = DiskSources()
    config = load(folder / "config.yaml", sources)
    taken = Read(config, prepare(config, sources).policy.image, 0)
    clock = SetClock()
    store = await Store.open(folder / "state" / "passgate.db")
    yield Desk(folder, store, InForce(taken, sources, clock), clock)
    await store.close()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(tmp_path) as one:
        yield one


def checks(auditing: Auditing) -> list[tuple[str, str]]:
    return [(check.status, check.text) for check in auditing.checks()]


async def test_decisions_are_written_and_signed(desk: Desk) -> None:
    """A batch is in the log when `write` returns; at the end the log is signed, once, and a restart goes on."""
    async with desk.started() as auditing:
        auditing.write([record(1), record(2)])
        assert len(desk.records()) == 2
        assert desk.checkpoints() == []
        assert checks(auditing) == [("ok", "takes decisions")]
    async with desk.started():
        pass
    async with desk.started() as auditing:
        auditing.write([record(3)])
    assert [checkpoint.seq for checkpoint in desk.checkpoints()] == [2, 3]
    verdict = desk.verdict()
    assert (verdict.findings, verdict.lines) == ([], 3)
    assert verdict.last_checkpoint == desk.checkpoints()[-1]


async def test_every_ten_seconds_of_work_are_signed(desk: Desk) -> None:
    """`tend` signs when it is time and something was written, and leaves a quiet log alone."""

    async def signed(count: int) -> None:
        async with asyncio.timeout(10):
            while len(desk.checkpoints()) < count:  # noqa: ASYNC110 - the store tells nobody
                await asyncio.sleep(0.01)

    async with desk.started() as auditing:
        tending = asyncio.create_task(auditing.tend())
        auditing.write([record(1)])
        await asyncio.sleep(0)
        desk.clock.pass_(10)
        await signed(1)
        desk.clock.pass_(10)
        auditing.write([record(2)])
        await signed(2)
        tending.cancel()
        await auditing.checkpoint()
    assert [(one.seq, one.time) for one in desk.checkpoints()] == [(1, 1_800_000_010), (2, 1_800_000_020)]


async def test_a_log_that_cannot_be_written_refuses_and_heals(desk: Desk) -> None:
    """Nothing is let through meanwhile, `/readyz` fails, and the log says afterwards how long that was."""
    async with desk.started() as auditing:
        auditing.write([record(1)])
        away = desk.audit.rename(desk.folder / "away")
        await auditing.checkpoint()  # it looks after its file, and another one cannot be made
        for _ in range(2):
            with pytest.raises(Refusal) as refused:
                auditing.write([record(2)])
            assert refused.value.code == "store_unavailable"
            assert "takes no decisions" in str(refused.value.detail)
        ((status, text),) = checks(auditing)
        assert (status, "takes no decisions" in text) == ("failing", True)
        away.rename(desk.audit)
        tending = asyncio.create_task(auditing.tend())
        async with asyncio.timeout(10):
            while checks(auditing)[0][0] == "failing":  # noqa: ASYNC110 - it heals by itself, and tells nobody
                await asyncio.sleep(0.01)
        tending.cancel()
        auditing.write([record(3)])
    assert [one.get("id", one.get("note")) for one in desk.records()] == ["dec_1", "damaged", "unwritable", "dec_3"]
    assert desk.verdict().findings == []


async def test_a_checkpoint_that_cannot_be_kept_comes_later(desk: Desk) -> None:
    """While the store takes no writes decisions still go into the log; that it is not signed is a warning."""
    async with desk.started() as auditing:
        auditing.write([record(1)])
        await asyncio.wrap_future(
            desk.store.submit(lambda conn: conn.execute("ALTER TABLE checkpoints RENAME TO gone"))
        )
        await auditing.checkpoint()
        ((status, text),) = checks(auditing)
        assert (status, "could not be signed up to line 1" in text) == ("warning", True)
        await asyncio.wrap_future(
            desk.store.submit(lambda conn: conn.execute("ALTER TABLE gone RENAME TO checkpoints"))
        )
        await auditing.checkpoint()
        assert checks(auditing) == [("ok", "takes decisions")]
    assert [checkpoint.seq for checkpoint in desk.checkpoints()] == [1]


# -- what is found at a start


async def test_tampering_is_said_at_the_next_start(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    """P15: the gateway serves, but `/readyz`, the other log and the new file say what was found."""
    async with desk.started() as auditing:
        auditing.write([record(1), record(2)])
    (path,) = desk.audit.iterdir()
    path.write_bytes(path.read_bytes().replace(b"dec_1", b"dec_9"))
    async with desk.started() as auditing:
        ((status, text),) = checks(auditing)
        assert (status, "audit-000001.ndjson:1" in text, "passgate audit verify" in text) == ("warning", True, True)
        auditing.write([record(3)])
    assert '"audit_damaged"' in capfd.readouterr().err
    assert [one.get("note") for one in desk.records()] == [None, None, "damaged", None]
    assert desk.verdict().first_bad_line == "audit-000001.ndjson:1"


async def test_a_crash_is_no_warning(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    """A line that was cut short by a kill is said in both logs, and nobody has to do anything."""
    async with desk.started() as auditing:
        auditing.write([record(1)])
    (path,) = desk.audit.iterdir()
    path.write_bytes(path.read_bytes() + b'{"seq":2,"pre')
    async with desk.started() as auditing:
        assert checks(auditing) == [("ok", "takes decisions")]
    assert '"audit_torn"' in capfd.readouterr().err
    assert desk.verdict().findings == []


async def test_a_forged_checkpoint_counts_for_nothing(desk: Desk) -> None:
    """A row that somebody put into the store moves the chain nowhere: it is said, and the log goes on at its end."""
    async with desk.started() as auditing:
        auditing.write([record(1)])
    forged = sign(PrivateKey.new("EdDSA"), Link(500, b"0" * 64), desk.clock.now())
    await asyncio.wrap_future(desk.store.submit(lambda conn: add_checkpoint(conn, forged)))
    async with desk.started() as auditing:
        ((status, text),) = checks(auditing)
        assert (status, text.partition(";")[0]) == ("warning", "checkpoint 500 is signed by another key")
        auditing.write([record(2)])
    assert [one.get("id", one.get("note")) for one in desk.records()] == ["dec_1", "damaged", "dec_2"]
    assert [(one.where, one.problem) for one in desk.verdict().findings] == [
        ("checkpoint 500", "is signed by another key")
    ]


async def test_what_keeps_it_from_starting_is_said(desk: Desk) -> None:
    """Another gateway on the same folder, a key that others can read, a folder that is none: each with what to do."""
    async with desk.started():
        with pytest.raises(StartError, match="another gateway writes its decision log"):
            await Auditing(desk.store, desk.now, desk.clock).__aenter__()
    file = key_file(desk.now.config.settings.state.keys_dir)
    file.chmod(0o644)
    with pytest.raises(StartError, match="can be read by others"):
        await Auditing(desk.store, desk.now, desk.clock).__aenter__()
    file.chmod(0o600)
    desk.audit.rmdir()
    desk.audit.write_bytes(b"")
    with pytest.raises(StartError, match="the decision log must be written there"):
        await Auditing(desk.store, desk.now, desk.clock).__aenter__()


# -- who is told


async def test_the_webhook_hears_of_every_checkpoint(tmp_path: Path) -> None:
    """What it is told can be verified with the public key alone, and vouches for the log where the store is lost."""
    with Receiver() as receiver:
        more = f"webhooks: {{audit: {json.dumps(receiver.config | {'allow_internal': True})}}}\n"
        async with opened(tmp_path, more) as desk:
            for number in (1, 2):
                async with desk.started() as auditing:
                    auditing.write([record(number)])
            told = [delivery.event for delivery in receiver.deliveries]
            assert all(delivery.genuine for delivery in receiver.deliveries)
            assert [event["type"] for event in told] == ["audit.checkpoint"] * 2
            keys = public_keys(desk.key())
            checkpoints = [read(event["data"]["checkpoint"], keys) for event in told]
            assert checkpoints == desk.checkpoints()
            assert [(event["data"]["seq"], event["data"]["hash"]) for event in told] == [
                (checkpoint.seq, checkpoint.hash) for checkpoint in checkpoints
            ]


def attempts(receiver: Receiver) -> list[int]:
    return [delivery.event["data"]["seq"] for delivery in receiver.deliveries]


async def test_a_webhook_that_fails_is_told_of_the_newest_alone(tmp_path: Path) -> None:
    """Checkpoints do not pile up before a receiver that is down: each one vouches for all before it."""
    with Receiver(status=500) as receiver:
        more = f"webhooks: {{audit: {json.dumps(receiver.config | {'allow_internal': True})}}}\n"
        async with opened(tmp_path, more) as desk, desk.started() as auditing:
            for number in (1, 2, 3):
                auditing.write([record(number)])
                await auditing.checkpoint()
                async with asyncio.timeout(10):
                    while number not in attempts(receiver):  # noqa: ASYNC110 - it is a thread of its own
                        await asyncio.sleep(0.01)
            receiver.status = 200
    assert [
        number for number, one in zip(attempts(receiver), receiver.deliveries, strict=True) if one.status == 200
    ] == [3]
    assert attempts(receiver) == sorted(attempts(receiver)), "an older one was told after a newer one"
