"""Webhooks: signed, told until they are acknowledged, and never in the way of anything else."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.approvals.settings import WebhookSettings
from gateway.core.clock import rfc3339
from gateway.outbound import Outbound
from gateway.outbound.settings import OutboundSettings
from gateway.process.notifying import Notifier, Webhook, signed
from gateway.settings.types import Secret
from gateway.state import Store
from gateway.state import approvals as kept
from gateway.telemetry.logs import Log
from tests.approvals.held import NOW, ask
from tests.simulator.clock import SetClock
from tests.simulator.names import Names
from tests.simulator.webhook import SECRET, Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@dataclass
class Sender:
    """A webhook as the supervisor has it, with what it logs."""

    folder: Path
    settings: WebhookSettings | None = None
    clock: SetClock = field(default_factory=SetClock)
    webhook: Webhook = field(init=False)

    def __post_init__(self) -> None:
        log = Log("supervisor", fd=os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        self.webhook = Webhook("audit", lambda: (self.settings, OutboundSettings()), lambda: log, self.clock)

    async def aclose(self) -> None:
        """See `contextlib.aclosing`."""
        await self.webhook.close()

    def said(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]


@pytest.fixture
async def sender(tmp_path: Path, receiver: Receiver) -> AsyncIterator[Sender]:
    async with aclosing(Sender(tmp_path, WebhookSettings(url=receiver.url, secret=Secret(SECRET)))) as made:
        yield made


async def until(true: Callable[[], object]) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - another thread makes it true
            await asyncio.sleep(0.01)


def test_a_signature_is_that_of_the_standard() -> None:
    """The vector of the Standard Webhooks specification: key, id, time and body give this signature."""
    key = WebhookSettings(url="https://a", secret=Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).key
    headers = dict(signed(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'))
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-timestamp"] == "1614265330"


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        ("short", "is not base64"),
        ("c2hvcnQ=", "is 5 bytes long"),
        ("whsec_" + "QUFB" * 22, "is 66 bytes long"),
        ("a secret, in words, of some length", "is not base64"),
    ],
)
def test_a_secret_is_base64_of_enough_bytes(secret: str, problem: str) -> None:
    """What nobody could verify, or anybody guess, is a mistake that does not show the secret."""
    with pytest.raises(ValueError, match=problem) as raised:
        _ = WebhookSettings(url="https://a", secret=Secret(secret)).key
    assert secret not in str(raised.value)


@pytest.mark.parametrize("url", ["http://hooks.example/a", "http://10.0.0.1/a"])
def test_nothing_is_told_in_the_clear(url: str) -> None:
    """An address without TLS is a mistake, but on this machine or where `allow_internal` says that it is meant."""
    (mistake,) = WebhookSettings(url=url, secret=Secret(SECRET)).mistakes()
    assert mistake[0] == "url"
    assert not list(WebhookSettings(url=url, secret=Secret(SECRET), allow_internal=True).mistakes())
    assert not list(WebhookSettings(url="http://127.0.0.1:9/a", secret=Secret(SECRET)).mistakes())


async def test_what_happened_is_told_signed(sender: Sender, receiver: Receiver) -> None:
    """The event's type, time and data arrive with its id and a signature that the receiver can verify."""
    assert await sender.webhook.send("audit.checkpoint", {"id": "c1", "seq": 7}, "chk_7", NOW - 60)
    (one,) = receiver.deliveries
    assert (one.genuine, one.id, one.at, one.path) == (True, "chk_7", int(NOW), "/hook")
    assert one.event == {
        "type": "audit.checkpoint",
        "timestamp": rfc3339(NOW - 60),
        "data": {"id": "c1", "seq": 7},
    }


async def test_it_is_told_again_until_it_is_acknowledged(sender: Sender, receiver: Receiver) -> None:
    """500, then 302, then 204: the same id and body each time; each trouble is logged once, a secret never."""
    receiver.answers = lambda number: (500, 302, 204)[number]
    assert await sender.webhook.send("audit.checkpoint", {"id": "c1"}, "chk_7")
    assert [one.status for one in receiver.deliveries] == [500, 302, 204]
    assert len({(one.id, json.dumps(one.event)) for one in receiver.deliveries}) == 1
    assert [(line["event"], line.get("error")) for line in sender.said()] == [
        ("webhook_failed", "it answers with status 500"),
        ("webhook_failed", "it answers with status 302"),
        ("webhook_works_again", None),
    ]
    text = (sender.folder / "log").read_text()
    assert SECRET not in text
    assert SECRET.removeprefix("whsec_") not in text


async def test_who_is_not_there_is_tried_again(sender: Sender, receiver: Receiver) -> None:
    """A receiver that refuses connections is no reason to give up; one that is not configured any more is."""
    there, sender.settings = sender.settings, WebhookSettings(url="http://127.0.0.1:1/a", secret=Secret(SECRET))
    telling = asyncio.create_task(sender.webhook.send("audit.checkpoint", {"id": "c1"}, "chk_7"))
    await until(sender.said)
    sender.settings = there
    assert await telling
    assert receiver.heard == [("audit.checkpoint", "c1")]
    sender.settings = None
    assert not await sender.webhook.send("audit.checkpoint", {"id": "c2"}, "chk_8")


async def test_an_address_inside_is_not_reached_by_a_name(sender: Sender, receiver: Receiver) -> None:
    """S08: a receiver whose name leads to an address inside is refused like every other upstream, and told nothing."""
    sender.webhook._outbound = Outbound(resolver=Names(["127.0.0.1"]))
    sender.settings = WebhookSettings(url=receiver.url.replace("127.0.0.1", "hooks.example"), secret=Secret(SECRET))
    telling = asyncio.create_task(sender.webhook.send("audit.checkpoint", {"id": "c1"}, "chk_7"))
    await until(sender.said)
    telling.cancel()
    with suppress(asyncio.CancelledError):
        await telling
    assert "hooks.example leads to the internal address 127.0.0.1" in sender.said()[0]["error"]
    assert receiver.deliveries == []


@dataclass
class Approvers:
    """The notifier on a real store, as after each start of the gateway."""

    store: Store
    sender: Sender
    clock: SetClock = field(default_factory=SetClock)
    notifier: Notifier = field(init=False)
    tending: asyncio.Task[None] = field(init=False)

    def start(self) -> None:
        """Begin to tell."""
        self.notifier = Notifier(self.store, self.sender.webhook, self.clock)
        self.tending = asyncio.create_task(self.notifier.tend())

    async def stop(self) -> None:
        """Tell nothing any more."""
        self.tending.cancel()
        with suppress(asyncio.CancelledError):
            await self.tending

    async def hold(self, name: str = "apr_1") -> None:
        """A call waits."""
        await self._write(lambda conn: kept.hold(conn, ask(args={"name": name}), name, NOW))

    async def decide(self, name: str, status: str) -> None:
        """Somebody has decided."""

        def work(conn: Any) -> None:  # noqa: ANN401 - a connection
            found = kept.load(conn, name)
            assert found is not None
            kept.change(conn, found, replace(found, status=status), self.clock.now())

        await self._write(work)

    async def _write(self, work: Callable[[Any], object]) -> None:
        await asyncio.wrap_future(self.store.submit(work))
        self.notifier.wake()

    async def untold(self) -> list[tuple[str, str]]:
        """What has to be told still."""
        found = await self.store.read(lambda conn: list(kept.untold(conn, 0.0, 100)))
        return [(approval.id, what) for approval, what in found]


@pytest.fixture
async def approvers(tmp_path: Path, sender: Sender) -> AsyncIterator[Approvers]:
    store = await Store.open(tmp_path / "passgate.db")
    made = Approvers(store, sender)
    made.start()
    try:
        yield made
    finally:
        await made.stop()
        await store.close()


async def settled(approvers: Approvers) -> None:
    """Wait until all that has to be told is told and written down."""
    async with asyncio.timeout(20):
        while await approvers.untold():  # noqa: ASYNC110 - the notifier tells nobody when it is done
            await asyncio.sleep(0.01)


async def test_approvers_are_told_what_waits_and_what_was_decided(approvers: Approvers, receiver: Receiver) -> None:
    """Each event once, in its order; the same approval has another id for each of them."""
    await approvers.hold()
    await settled(approvers)
    await approvers.decide("apr_1", "approved")
    await settled(approvers)
    assert receiver.heard == [("approval.pending", "apr_1"), ("approval.approved", "apr_1")]
    assert [one.id for one in receiver.deliveries] == ["apr_1_pending", "apr_1_approved"]
    assert "args" not in receiver.deliveries[0].event["data"]


async def test_what_is_over_is_not_told_as_waiting(approvers: Approvers, receiver: Receiver) -> None:
    """While the receiver fails the call is denied: from then on the denial is told, and nobody is asked any more."""
    receiver.status = 503
    await approvers.hold()
    await until(lambda: receiver.deliveries)
    await approvers.decide("apr_1", "denied")
    receiver.status = 200
    await settled(approvers)
    await until(lambda: not approvers.notifier._telling)
    assert receiver.heard == [("approval.denied", "apr_1")]


async def test_a_restart_forgets_nothing(approvers: Approvers, receiver: Receiver) -> None:
    """H11: what was not acknowledged before the gateway stopped is told after its start; what was, is not."""
    await approvers.hold("apr_1")
    await settled(approvers)
    receiver.status = 503
    await approvers.hold("apr_2")
    await until(lambda: len(receiver.deliveries) > 1)
    await approvers.stop()
    receiver.status = 200
    approvers.start()
    await settled(approvers)
    assert receiver.heard == [("approval.pending", "apr_1"), ("approval.pending", "apr_2")]


async def test_a_slow_receiver_holds_nobody_up(approvers: Approvers, receiver: Receiver) -> None:
    """Events are told beside each other, and what is held meanwhile does not wait for them."""
    receiver.delay = 0.3
    for number in range(20):
        await approvers.hold(f"apr_{number}")
    assert receiver.deliveries == []
    await settled(approvers)
    assert sorted(receiver.heard) == sorted(("approval.pending", f"apr_{number}") for number in range(20))


async def test_without_a_webhook_nothing_is_told(approvers: Approvers, receiver: Receiver) -> None:
    """Where none is configured approvals wait for whoever looks; one that a reload brings is told what waits."""
    there, approvers.sender.settings = approvers.sender.settings, None
    await approvers.hold()
    await asyncio.sleep(0)
    assert await approvers.untold() == [("apr_1", "pending")]
    approvers.sender.settings = there
    approvers.notifier.wake()
    await settled(approvers)
    assert receiver.heard == [("approval.pending", "apr_1")]
