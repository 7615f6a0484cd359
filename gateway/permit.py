"""The permit of a call that may go on, and what it uses up when it is sent.

What a call rests on is used up before it is sent, all of it or nothing. It is given back where the call was certainly
not sent, and nowhere else; what was reserved for an approval stays the approval's.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self

from gateway.core.approval import ApprovalAsk, ApprovalKey, ApprovedOutcome, Standing, Stored
from gateway.core.attestation import Attestation, Use
from gateway.core.call import Target
from gateway.core.decision import Decision
from gateway.core.run import RunKey
from gateway.policy import Discounted

_LARGEST_STORED: Final = 256 * 1024
"""Bytes of an approved call's answer that are kept for whoever repeats it."""


class Desk(Protocol):
    """What is asked of the process that owns the shared state; all of it raises `Refusal`."""

    async def gather(
        self,
        run: RunKey,
        names: tuple[str, ...],
        across: tuple[tuple[str, int], ...],
        presented: tuple[Attestation, ...],
    ) -> tuple[tuple[Attestation, ...], int]:
        """Record what was presented, durably; gives all that counts for the run, and the number of the last one."""
        ...

    async def consume(
        self, holder: str, uses: tuple[Use, ...], run: RunKey, names: tuple[str, ...], steps: tuple[str, ...], seen: int
    ) -> None:
        """Use up, durably and all or nothing; raises `Refusal` (`attestation_required`)."""
        ...

    def release(self, holder: str) -> None:
        """Give back what was used up."""
        ...

    async def decided(self, record: bytes) -> None:
        """Put a decision into the log; returns once it is there."""
        ...

    async def find_approval(self, key: ApprovalKey) -> Standing | None:
        """The approval of this very call."""
        ...

    async def hold(self, ask: ApprovalAsk) -> Standing | None:
        """The approval of this very call, or a new pending one."""
        ...

    async def withdraw(self, key: ApprovalKey) -> None:
        """This very call needs no approval any more: what one keeps for it is free."""
        ...

    async def await_approval(self, approval: str, seconds: float) -> Standing | None:
        """How it stands once it is decided, or after so many seconds."""
        ...

    async def claim(self, approval: str, request_id: str) -> Standing | None:
        """Begin to carry an approved call out; raises `Refusal` (`step_in_progress`)."""
        ...

    def unclaim(self, approval: str, request_id: str, *, sent: bool) -> None:
        """This call has ended. Where it was certainly not `sent` it may be carried out again."""
        ...


class Evidence(NamedTuple):
    """What is attested for a call: what counts, what does not and why, and the number of the last one recorded."""

    run: RunKey | None = None
    names: tuple[str, ...] = ()
    attested: tuple[Attestation, ...] = ()
    discounted: tuple[Discounted, ...] = ()
    seen: int = 0


class Permit:
    """A call that may go on: `async with permit` around its attempts.

    `targets` are those that rules allow. `stored` is the answer of an approved call that was carried out before:
    then there is nothing to send. Who sends tells so by `sent`.
    """

    __slots__ = ("_desk", "_evidence", "_request_id", "_used", "approval", "decision", "sent", "stored", "targets")

    def __init__(
        self,
        desk: Desk,
        request_id: str,
        decision: Decision,
        targets: tuple[Target, ...],
        evidence: Evidence,
    ) -> None:
        self._desk = desk
        self._request_id = request_id
        self._evidence = evidence
        self._used = False
        self.decision = decision
        self.targets = targets
        self.approval: Standing | None = None
        self.stored: Stored | None = None
        self.sent = False

    def approve(self, approval: Standing) -> None:
        """The call is carried out by this approval, or was before."""
        self.approval = approval
        self.stored = approval.outcome

    @property
    def _holder(self) -> str:
        """In whose name things are used up: what was held for an approval stays the approval's."""
        return self.approval.id if self.approval is not None else self._request_id

    async def use_up(self) -> None:
        """Use up what the call rests on, durably; raises `Refusal` where something has been used up meanwhile."""
        uses, evidence = self.decision.uses, self._evidence
        if not uses or self.stored is not None:
            return
        if evidence.run is None:
            raise ValueError("nothing is used up outside a run")
        self._used = True  # also where the answer is lost: giving back what was not taken does no harm
        steps = tuple(dict.fromkeys(attestation.step for attestation in self.decision.rests_on))
        await self._desk.consume(self._holder, uses, evidence.run, evidence.names, steps, evidence.seen)

    def outcome(self, status: int, headers: Sequence[tuple[str, str]], body: bytes | None) -> ApprovedOutcome | None:
        """What is kept of an approved call that was answered; without a `body` only that it was."""
        if self.approval is None:
            return None
        kept = body is not None and len(body) <= _LARGEST_STORED
        stored = Stored(status, list(headers), body) if kept and body is not None else None
        return ApprovedOutcome(self.approval.id, "consumed", stored)

    @property
    def in_doubt(self) -> ApprovedOutcome | None:
        """What is kept of an approved call that was sent and not answered."""
        return ApprovedOutcome(self.approval.id, "failed") if self.approval is not None else None

    def give_back(self) -> None:
        """The call was certainly not sent."""
        if self.stored is not None:
            return
        if self.approval is not None:
            # What it holds stays reserved for the next time.
            self._desk.unclaim(self.approval.id, self._request_id, sent=False)
        elif self._used:
            self._desk.release(self._request_id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.sent:
            self.give_back()
        elif self.approval is not None:  # what came of it is on its way to the ledger, or it is in doubt
            self._desk.unclaim(self.approval.id, self._request_id, sent=True)
