"""What a worker asks of the supervisor: each question as a message over the channel."""

from __future__ import annotations

import asyncio

from gateway.core.approval import ApprovalAsk, ApprovalKey, Standing
from gateway.core.attestation import Attestation, Use
from gateway.core.errors import Refusal
from gateway.core.run import RunKey, RunRef
from gateway.process.channel import Channel, ChannelError, Reply
from gateway.process.decisions import DecisionQueue
from gateway.process.messages import (
    AnyMessage,
    AwaitApproval,
    Claim,
    Consume,
    Done,
    Enter,
    EnteredRun,
    FetchKeys,
    FindApproval,
    FirstUse,
    Fresh,
    Gather,
    Gathered,
    Grant,
    Granted,
    Hold,
    Leave,
    Present,
    Recorded,
    Release,
    ShowApproval,
    ShowCall,
    ShowRun,
    Stands,
    Unclaim,
    Withdraw,
)
from gateway.runs import Entered


class SupervisorPort:
    """What the pipeline needs of the supervisor, asked over the channel."""

    def __init__(self, channel: Channel) -> None:
        """The channel outlives every configuration."""
        self._channel = channel
        self._decisions = DecisionQueue(channel)

    async def enter(self, run: RunRef, kind: str) -> Entered:
        """See `runs.Entrance`."""
        asking = asyncio.ensure_future(self._ask(Enter(run, kind), EnteredRun))
        try:
            return (await asyncio.shield(asking)).entered
        except asyncio.CancelledError:
            # The reservation may be made all the same: whoever asked for it is gone, so it goes back.
            asking.add_done_callback(self._give_back)
            raise

    def _give_back(self, asking: asyncio.Future[EnteredRun]) -> None:
        if not asking.cancelled() and asking.exception() is None:
            self.leave(asking.result().entered.ticket)

    def leave(self, ticket: int) -> None:
        """See `runs.Entrance`."""
        self._channel.tell(Leave(ticket))

    async def fetch_keys(self, issuer: str) -> None:
        """See `identity.Authority`."""
        await self._ask(FetchKeys(issuer), Done)

    async def first_use(self, proof: bytes, until: float) -> bool:
        """See `identity.Authority`."""
        return (await self._ask(FirstUse(proof, until), Fresh)).new

    async def grant(self, claims: bytes, child: str, run: RunRef | None) -> str:
        """See `token_endpoint.Granter`."""
        return (await self._ask(Grant(claims, child, run), Granted)).token

    async def gather(
        self,
        run: RunKey,
        names: tuple[str, ...],
        across: tuple[tuple[str, int], ...],
        presented: tuple[Attestation, ...],
    ) -> tuple[tuple[Attestation, ...], int]:
        """See `permit.Desk`."""
        gathered = await self._ask(Gather(run, names, across, presented), Gathered)
        return gathered.attestations, gathered.seen

    async def present(self, attestations: tuple[Attestation, ...]) -> tuple[bool, ...]:
        """See `attestation_endpoint.Recorder`."""
        return (await self._ask(Present(attestations), Recorded)).new

    async def consume(
        self,
        holder: str,
        uses: tuple[Use, ...],
        run: RunKey,
        names: tuple[str, ...],
        steps: tuple[str, ...],
        seen: int,
    ) -> None:
        """See `permit.Desk`."""
        await self._ask(Consume(holder, uses, run, names, steps, seen), Done)

    def release(self, holder: str) -> None:
        """See `permit.Desk`."""
        self._channel.tell(Release(holder))

    async def decided(self, record: bytes) -> None:
        """See `permit.Desk`."""
        await self._decisions.put(record)

    async def find_approval(self, key: ApprovalKey) -> Standing | None:
        """See `permit.Desk`."""
        return (await self._ask(FindApproval(key), Stands)).standing

    async def hold(self, ask: ApprovalAsk) -> Standing | None:
        """See `permit.Desk`."""
        return (await self._ask(Hold(ask), Stands)).standing

    async def withdraw(self, key: ApprovalKey) -> None:
        """See `permit.Desk`."""
        await self._ask(Withdraw(key), Done)

    async def await_approval(self, approval: str, seconds: float) -> Standing | None:
        """See `permit.Desk`."""
        return (await self._ask(AwaitApproval(approval, seconds), Stands)).standing

    async def claim(self, approval: str, request_id: str) -> Standing | None:
        """See `permit.Desk`."""
        return (await self._ask(Claim(approval, request_id), Stands)).standing

    def unclaim(self, approval: str, request_id: str, *, sent: bool) -> None:
        """See `permit.Desk`."""
        self._channel.tell(Unclaim(approval, request_id, sent))

    async def show_approval(self, approval: str, owner: tuple[str, str]) -> dict[str, object] | None:
        """What the owner may read of an approval."""
        return (await self._ask(ShowApproval(approval, *owner), Done)).value

    async def show_run(self, key: RunKey) -> dict[str, object] | None:
        """A run's counters as the agent may read them."""
        return (await self._ask(ShowRun(key), Done)).value

    async def show_call(self, request_id: str, owner: tuple[str, str]) -> dict[str, object] | None:
        """What the ledger knows of one of the owner's calls."""
        return (await self._ask(ShowCall(request_id, *owner), Done)).value

    async def _ask(self, message: AnyMessage, reply: type[Reply]) -> Reply:
        try:
            return await self._channel.request(message, reply)
        except ChannelError as error:
            sentence = "the state that all workers share cannot be reached; retry shortly"
            raise Refusal("store_unavailable", sentence, detail=str(error)) from error
