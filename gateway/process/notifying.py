"""Webhooks: what happens is told to others by signed POST requests, in the format of Standard Webhooks.

1. What is told is told again until it is acknowledged with a 2xx, at the same id, so that a receiver can know that it
   has it. Nothing else waits for that.
2. What has to be told of approvals is in the store, so that a restart forgets nothing. An approval that was decided is
   not told as pending any more; its decision is told for a day.
3. Connections go out as all others do: guarded against addresses inside, through the proxy of `outbound`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import random
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from gateway import __version__
from gateway.approvals.settings import WebhookSettings
from gateway.approvals.showing import event, happened
from gateway.core.approval import Approval
from gateway.core.clock import Clock, rfc3339
from gateway.outbound import Outbound, OutboundError
from gateway.outbound.settings import OutboundSettings
from gateway.outbound.upstream import Upstream
from gateway.state import Durable, StoreUnavailable
from gateway.state.approvals import told, untold
from gateway.telemetry.logs import Log

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 60.0
"""Seconds between two attempts at first, and at most."""
_LOOK_EVERY: Final = 5.0
"""Seconds after which it is looked whether something has to be told, also unasked."""
_INTEREST: Final = 86_400.0
"""Seconds for which a decision is told."""
_AT_ONCE: Final = 100
"""Events that are on their way at the same time."""


class _Deadlines(NamedTuple):
    connect: float = 5.0
    first_byte: float = 15.0
    idle: float = 15.0
    total: float = 20.0


class Webhook:
    """One receiver. `settings` gives what is configured now: the receiver, `None` without one, and the way out."""

    def __init__(
        self,
        name: str,
        settings: Callable[[], tuple[WebhookSettings | None, OutboundSettings]],
        log: Callable[[], Log],
        clock: Clock,
    ) -> None:
        """`name` is how logs call it: approvals, audit."""
        self._name = name
        self._settings = settings
        self._log = log
        self._clock = clock
        self._outbound: Outbound | None = None
        self._way = OutboundSettings()
        self._trouble = ""

    @property
    def configured(self) -> bool:
        """Whether there is anybody to tell."""
        return self._settings()[0] is not None

    async def send(self, kind: str, data: Mapping[str, object], name: str, at: float | None = None) -> bool:
        """Tell what happened (at epoch seconds, else now) until it is acknowledged; cancel it to give up.

        `kind` is the event's type such as `approval.pending`, `name` its id, without a dot. False where nobody is
        configured, or any longer.
        """
        body = json.dumps(
            {"type": kind, "timestamp": rfc3339(self._clock.now() if at is None else at), "data": data},
            separators=(",", ":"),
        ).encode()
        pause = _FIRST_PAUSE
        while (receiver := self._settings()[0]) is not None:
            trouble = await self._post(receiver, name, body)
            self._say(trouble, kind, name)
            if not trouble:
                return True
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - so that not all come at once
            pause = min(pause * 2, _LONGEST_PAUSE)
        return False

    async def close(self) -> None:
        """Close its connections."""
        if self._outbound is not None:
            await self._outbound.close()

    async def _post(self, receiver: WebhookSettings, name: str, body: bytes) -> str:
        """One attempt: why it was not acknowledged, empty where it was."""
        try:
            address = urlsplit(receiver.url)
            origin = f"{address.scheme}://{address.netloc}"
            where = Upstream(self._name, origin, timeouts=_Deadlines(), allow_internal=receiver.allow_internal)
            headers = signed(receiver.key, name, int(self._clock.now()), body)
            outbound = await self._client()
            async with outbound.send(where, "POST", address.path or "/", headers, body) as answer:
                return "" if answer.status // 100 == 2 else f"it answers with status {answer.status}"  # noqa: PLR2004
        except (OutboundError, OSError, ValueError) as error:
            return str(error)

    async def _client(self) -> Outbound:
        way = self._settings()[1]
        if self._outbound is None or way != self._way:
            before, self._way = self._outbound, way
            self._outbound = Outbound(proxy=way.proxy, ca_file=way.ca_file)
            if before is not None:
                await before.close()
        return self._outbound

    def _say(self, trouble: str, kind: str, name: str) -> None:
        """Log that telling fails, and that it works again; once each."""
        before, self._trouble = self._trouble, trouble
        if trouble and trouble != before:
            self._log().warning("webhook_failed", webhook=self._name, type=kind, id=name, error=trouble)
        elif before and not trouble:
            self._log().info("webhook_works_again", webhook=self._name)
            self._log().flush()


def signed(key: bytes, name: str, at: int, body: bytes) -> list[tuple[str, str]]:
    """The headers of one delivery (Standard Webhooks 1.0): its id, the time of this attempt, and what proves both."""
    digest = hmac.digest(key, f"{name}.{at}.".encode() + body, hashlib.sha256)
    return [
        ("content-type", "application/json"),
        ("user-agent", f"passgate/{__version__}"),
        ("webhook-id", name),
        ("webhook-timestamp", str(at)),
        ("webhook-signature", f"v1,{base64.b64encode(digest).decode()}"),
    ]


class Notifier:
    """Tells the approvers' webhook what waits for them, and what was decided."""

    def __init__(self, store: Durable, webhook: Webhook, clock: Clock) -> None:
        """`store` has the approvals; the webhook is closed when `tend` ends."""
        self._store = store
        self._clock = clock
        self._webhook = webhook
        self._changed = asyncio.Event()
        self._telling: dict[tuple[str, str], asyncio.Task[None]] = {}

    def wake(self) -> None:
        """Something has happened."""
        self._changed.set()

    async def tend(self) -> None:
        """Tell what has to be told, for ever."""
        try:
            while True:
                with contextlib.suppress(StoreUnavailable):
                    await self._look()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_EVERY):
                        await self._changed.wait()
                self._changed.clear()
        finally:
            for task in self._telling.values():
                task.cancel()
            await self._webhook.close()

    async def _look(self) -> None:
        if not self._webhook.configured:
            return
        since = self._clock.now() - _INTEREST
        found = await self._store.read(lambda conn: list(untold(conn, since, _AT_ONCE)))
        due = {(approval.id, what): approval for approval, what in found}
        for key, task in list(self._telling.items()):
            if key not in due:
                task.cancel()
        for key, approval in due.items():
            if key not in self._telling:
                task = self._telling[key] = asyncio.create_task(self._tell(approval, key[1]))
                task.add_done_callback(lambda _, key=key: self._telling.pop(key))  # type: ignore[misc] # of this turn

    async def _tell(self, approval: Approval, what: str) -> None:
        data, at = event(approval, what), happened(approval, what)
        if await self._webhook.send(f"approval.{what}", data, f"{approval.id}_{what}", at):
            with contextlib.suppress(StoreUnavailable):  # then it is told once more
                await asyncio.wrap_future(self._store.submit(lambda conn: told(conn, approval.id, what)))
