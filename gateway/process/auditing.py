"""The supervisor's side of the decision log: what workers have decided goes into the chain.

1. A batch is answered once it is written. It outlives any process, and a power cut from the next checkpoint on.
2. Every ten seconds in which something was written, and at the end, the log is synced and its end is signed.
3. While nothing can be written every call is refused; that heals by itself, and the log says from when to when.
4. A log that was tampered with does not stop the gateway, and is not gone on with in silence: the new file, the other
   log and `/readyz` say what was found.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from types import TracebackType
from typing import Final, Self

from gateway.approvals.settings import WebhookSettings
from gateway.audit.chain import START, Link
from gateway.audit.checkpoint import check, key_file, own_key, public_keys, sign
from gateway.audit.writer import AuditRefused, Chain
from gateway.core.clock import Clock
from gateway.core.errors import Refusal
from gateway.identity.issue import IssueError, PrivateKey
from gateway.outbound.settings import OutboundSettings
from gateway.process.in_force import InForce
from gateway.process.listening import StartError
from gateway.process.notifying import Webhook
from gateway.state import Durable, StoreUnavailable
from gateway.state.checkpoints import Checkpoint, add_checkpoint, last_checkpoint
from gateway.web.metrics import Check

_CHECKPOINT_EVERY: Final = 10.0
_LOOK_EVERY: Final = 0.5
"""Seconds between two attempts to write again."""
_LAST_WORDS: Final = 5.0
"""Seconds in which the last checkpoint has to be told at the end."""
_SENTENCE: Final = "decisions cannot be written down at the moment, so nothing is let through; try again shortly"


class Auditing:
    """The decision log, while it is entered; `tend` has to run beside. Used from the supervisor's event loop."""

    def __init__(self, store: Durable, now: InForce, clock: Clock) -> None:
        """`store` keeps the checkpoints; `now` is the configuration in force."""
        self._store = store
        self._now = now
        self._clock = clock
        self._folder = now.config.settings.audit_dir
        self._webhook = Webhook("audit", self._receiver, lambda: now.log, clock)
        self._telling: asyncio.Task[bool] | None = None
        self._trouble = ""  # why nothing can be written
        self._damage = ""  # what was wrong with the log since this start
        self._unsigned = ""  # why there was no checkpoint when one was due
        self._signed = Link(0, b"")
        self._chain: Chain
        self._key: PrivateKey

    async def __aenter__(self) -> Self:
        """Find the end of the log; raises `StartError`."""
        try:
            self._key = own_key(key_file(self._now.config.settings.state.keys_dir))
            last, forged = await self._last_checkpoint()
            self._chain = await asyncio.to_thread(Chain.open, self._folder, last, self._clock)
        except (AuditRefused, IssueError) as error:
            raise StartError(f"{error}.") from error
        except OSError as error:
            raise StartError(f"{self._folder}: {error.strerror}; the decision log must be written there.") from error
        if forged:
            self._chain.say("damaged", forged)
        self._tell()
        self._signed = last or START
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heal()
        await self.checkpoint()
        self._chain.close()
        if self._telling is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._telling, _LAST_WORDS)
        await self._webhook.close()

    async def _last_checkpoint(self) -> tuple[Link | None, str]:
        """Where the log was signed last; and what is wrong with that, where it does not count."""
        last = await self._store.read(last_checkpoint)
        if last is None:
            return None, ""
        try:
            check(last, public_keys(self._key))
        except ValueError as error:
            return None, f"checkpoint {last.seq} {error}"
        return Link(last.seq, last.hash.encode()), ""

    def write(self, records: list[bytes]) -> None:
        """Put a batch of decisions into the log; raises `Refusal` (`store_unavailable`)."""
        try:
            self._chain.append(records)
        except (OSError, ValueError) as error:
            self._fail(error)
            raise Refusal("store_unavailable", _SENTENCE, detail=self._trouble) from None
        if self._trouble:
            self._recovered()

    def checks(self) -> list[Check]:
        """For `/readyz`: without a log that takes decisions no call can be let in."""
        if self._trouble:
            return [Check("audit", "failing", self._trouble)]
        warnings = [text for text in (self._damage, self._unsigned) if text]
        return [Check("audit", "warning", text) for text in warnings] or [Check("audit", "ok", "takes decisions")]

    # -- what is done beside

    async def tend(self) -> None:
        """Sign what was written, and find out when writing works again; for ever."""
        due = self._clock.monotonic() + _CHECKPOINT_EVERY
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            self._heal()
            if self._clock.monotonic() >= due:
                due = self._clock.monotonic() + _CHECKPOINT_EVERY
                await self.checkpoint()

    def _heal(self) -> None:
        """Find out whether writing works again, also while nobody asks."""
        if self._trouble:
            with contextlib.suppress(Refusal):
                self.write([])

    async def checkpoint(self) -> None:
        """Sync the log and sign its end, where it has grown."""
        self._chain.look()
        self._tell()
        if self._trouble or self._chain.tip == self._signed:
            return
        try:
            tip = await self._chain.sync()
            checkpoint = sign(self._key, tip, self._clock.now())
            await asyncio.wrap_future(self._store.submit(lambda conn: add_checkpoint(conn, checkpoint)))
        except (OSError, StoreUnavailable, sqlite3.Error) as error:
            self._unsigned = f"the decision log could not be signed up to line {self._chain.tip.seq}: {error}"
            self._now.log.error("audit_not_signed", error=self._unsigned)
            return
        self._signed, self._unsigned = tip, ""
        self._tell_receiver(checkpoint)

    def _tell_receiver(self, checkpoint: Checkpoint) -> None:
        """Tell of the last checkpoint alone: it vouches for all before it, so nothing waits behind one that fails."""
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        if self._webhook.configured:
            data = {"seq": checkpoint.seq, "hash": checkpoint.hash, "checkpoint": checkpoint.signed}
            name = f"checkpoint_{checkpoint.seq}"
            self._telling = asyncio.create_task(self._webhook.send("audit.checkpoint", data, name, checkpoint.time))

    def _receiver(self) -> tuple[WebhookSettings | None, OutboundSettings]:
        settings = self._now.config.settings
        return settings.webhooks.audit, settings.outbound

    def _fail(self, error: OSError | ValueError) -> None:
        trouble = f"{self._folder} takes no decisions: {error}"
        if not self._trouble:
            self._chain.note("unwritable", f"{error}: from then until the next line every call was refused")
            self._now.log.error("audit_failed", error=trouble)
        self._trouble = trouble

    def _recovered(self) -> None:
        self._trouble = ""
        self._now.log.info("audit_recovered")
        self._now.log.flush()

    def _tell(self) -> None:
        """Say what was found wrong with the log, in the other one and for `/readyz`."""
        log = self._now.log
        for kind, detail in self._chain.said:
            if kind == "damaged":
                self._damage = f"{detail}; `passgate audit verify` says where"
                log.error("audit_damaged", error=detail)
            else:
                log.warning("audit_torn", detail=detail)
        self._chain.said.clear()
