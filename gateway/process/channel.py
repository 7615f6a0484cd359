"""The channel between the supervisor and one worker: frames over a socket pair, requests and replies.

A frame is four bytes of length (big-endian) and a MessagePack value. Every message is one of the
structs below; msgspec checks its shape on the way in. Either side may ask (`request`) or tell
(`tell`); what is asked is answered by the other side's handler, an exception there comes back as
the `Refusal` it was, or as `ChannelError`. A handler that need not wait answers at once, without a
task: the decision log is asked for every call.

Messages and channel are one file because what travels is a union that the channel decodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Final, TypeVar, cast

import msgspec

from gateway.core.approval import ApprovalAsk, ApprovalKey, Standing
from gateway.core.attestation import Attestation, Use
from gateway.core.errors import Refusal, Repeat
from gateway.core.principal import StopKey
from gateway.core.run import RunKey, RunRef
from gateway.core.sources import Listed
from gateway.core.stop import Stop
from gateway.ledger import Batch
from gateway.runs import Entered

_LONGEST: Final = 256 * 1024 * 1024
_HEADER: Final = 4
_CONGESTED: Final = 1024 * 1024
_LAST_WORDS: Final = 5.0
"""Seconds in which what was said before an end must have been heard."""
_GONE: Final = "the other process is gone"


class Message(msgspec.Struct, tag=True, array_like=True, gc=False):
    """Base of all messages; the class name travels as the tag."""


class Prepare(Message):
    """Supervisor → worker: build the state of this configuration beside the present one."""

    generation: int
    path: str
    files: dict[str, bytes]
    dirs: dict[str, Listed]
    variables: dict[str, str | None]
    policies: bytes  # the image of its rules
    demo_url: str | None


class Hello(Message):
    """Worker → supervisor: a new worker asks for what does not come with a configuration."""


class Stops(Message):
    """Supervisor → worker: a change of the stop list; answered once the calls in flight know."""

    version: int
    at: float  # when this version held, on the monotonic clock that all processes share
    added: list[Stop]
    removed: list[StopKey]


class Beat(Message):
    """Supervisor → worker: at the moment `at` this version of the stop list held."""

    version: int
    at: float


class Welcome(Message):
    """The reply to `Hello`; what changes of it later is told by messages of its own."""

    secret: bytes  # new with every start of the gateway
    keys: dict[str, bytes | None]
    stops: Stops  # the whole list


class Keys(Message):
    """Supervisor → worker: these keys were fetched, or have become too old (`None`); see `Identity.adopt`."""

    keys: dict[str, bytes | None]


class FetchKeys(Message):
    """Worker → supervisor: a token names an unknown key of this issuer; answered when `Keys` was sent, if at all."""

    issuer: str


class FirstUse(Message):
    """Worker → supervisor: remember this proof until then; answered with whether it was new."""

    proof: bytes
    until: float


class Fresh(Message):
    """The reply to `FirstUse`."""

    new: bool


class Commit(Message):
    """Supervisor → worker: from now on new calls run on what was prepared."""

    generation: int


class Drain(Message):
    """Supervisor → worker: take no new connection, finish what runs within `seconds`, then exit."""

    seconds: float


class Flush(Message):
    """Supervisor → worker: tell what you have counted now (a scrape is waiting); answered after that."""


class StoreState(Message):
    """Supervisor → worker: whether the durable store takes writes; without it nothing new is admitted."""

    healthy: bool


class Post(Message):
    """Worker → supervisor: commit this batch; answered after the commit."""

    batch: Batch


class Told(Message):
    """Worker → supervisor: counted since the last time, calls under way now, and why it lets none in."""

    counts: list[tuple[str, tuple[str, ...], int | tuple[list[int], float]]]
    inflight: int
    queued: int
    trouble: str | None


class Enter(Message):
    """Worker → supervisor: reserve a step of a run."""

    run: RunRef
    kind: str


class Leave(Message):
    """Worker → supervisor: give a reservation back."""

    ticket: int


class ShowRun(Message):
    """Worker → supervisor: a run's counters."""

    key: RunKey


class ShowCall(Message):
    """Worker → supervisor: what the ledger knows of a call of this owner."""

    request_id: str
    iss: str
    subject: str


class Grant(Message):
    """Worker → supervisor: count this child of a run, if it is in one, and sign its claims (JSON)."""

    claims: bytes
    child: str
    run: RunRef | None


class Granted(Message):
    """The reply to `Grant`."""

    token: str


class Gather(Message):
    """Worker → supervisor: record what was presented with a call, and tell what its run has attested; see `Gathered`.

    `names` are those that a posted attestation may call the agent by; `across` names steps of which what did not
    pass counts in any run, each with the time (epoch microseconds) since when.
    """

    run: RunKey
    names: tuple[str, ...]
    across: tuple[tuple[str, int], ...]
    presented: tuple[Attestation, ...]


class Gathered(Message):
    """The reply to `Gather`: oldest first; `seen` is the number of the last one of all that was recorded."""

    attestations: tuple[Attestation, ...]
    seen: int


class Present(Message):
    """Worker → supervisor: record attestations; answered (`Recorded`) once they are durable."""

    attestations: tuple[Attestation, ...]


class Recorded(Message):
    """The reply to `Present`: for each whether it was new."""

    new: tuple[bool, ...]


class Consume(Message):
    """Worker → supervisor: use up what a call rests on, all of it or nothing; answered once that is durable.

    Refused (`attestation_required`) where something is used up already, or where one of `steps` was attested after
    `seen` not to have passed in the same run.
    """

    holder: str  # the request, or the approval that it was kept for
    uses: tuple[Use, ...]
    run: RunKey
    names: tuple[str, ...]
    steps: tuple[str, ...]
    seen: int


class Release(Message):
    """Worker → supervisor: give back what this holder had used up: its call was certainly not sent."""

    holder: str


class Decided(Message):
    """Worker → supervisor: lines for the decision log; answered once they are in it."""

    records: list[bytes]


class FindApproval(Message):
    """Worker → supervisor: is there an approval of this very call? Answered with `Stands`."""

    key: ApprovalKey


class Hold(Message):
    """Worker → supervisor: hold a call; the approval that there is, or a new pending one (`Stands`)."""

    ask: ApprovalAsk


class Withdraw(Message):
    """Worker → supervisor: this very call needs no approval any more; what one keeps for it is free once answered."""

    key: ApprovalKey


class AwaitApproval(Message):
    """Worker → supervisor: answered (`Stands`) once the approval is decided, or after so many seconds."""

    id: str
    seconds: float


class Claim(Message):
    """Worker → supervisor: carry an approved call out, once; answered with `Stands`."""

    id: str
    request_id: str


class Unclaim(Message):
    """Worker → supervisor: an approved call has ended; where it was certainly not `sent` the approval stands as before.

    Else what came of it is in a `Post`, or nobody knows it.
    """

    id: str
    request_id: str
    sent: bool = False


class ShowApproval(Message):
    """Worker → supervisor: what this owner may read of an approval."""

    id: str
    iss: str
    subject: str


class Stands(Message):
    """How an approval stands, `None` where there is none."""

    standing: Standing | None


class Done(Message):
    """A reply without content, or with plain values."""

    value: dict[str, object] | None = None


class EnteredRun(Message):
    """The reply to `Enter`."""

    entered: Entered


class Refused(Message):
    """A reply that is a refusal."""

    code: str
    sentence: str
    fields: dict[str, object]
    detail: str | None
    status: int
    repeat: Repeat
    retry_after: int
    headers: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, refusal: Refusal) -> Refused:
        """What travels of a refusal: all of it."""
        r = refusal
        return cls(r.code, r.sentence, r.fields, r.detail, r.status, r.repeat, r.retry_after, r.headers)

    def refusal(self) -> Refusal:
        """The refusal again, on the other side."""
        return Refusal(
            self.code,
            self.sentence,
            detail=self.detail,
            fields=self.fields,
            status=self.status,
            repeat=self.repeat,
            retry_after=self.retry_after,
            headers=self.headers,
        )


class Failed(Message):
    """A reply that is a failure of the other side; the words are for the log."""

    error: str


AnyMessage = (
    Prepare | Hello | Welcome | Stops | Beat | Keys | FetchKeys | FirstUse | Fresh
    | Commit | Drain | Flush | StoreState | Post | Told | Enter | Leave | ShowRun | ShowCall
    | Grant | Granted | Gather | Gathered | Present | Recorded | Consume | Release | Decided
    | FindApproval | Hold | Withdraw | AwaitApproval | Claim | Unclaim | ShowApproval | Stands
    | Done | EnteredRun | Refused | Failed
)  # fmt: skip
_encode: Final = msgspec.msgpack.Encoder().encode
# (n, message): a positive n asks, its negative answers, 0 tells.
_decode: Final = msgspec.msgpack.Decoder(tuple[int, AnyMessage]).decode
_DONE: Final = Done()

Answer = AnyMessage | Coroutine[object, object, AnyMessage | None] | None
"""What a handler gives: the answer, or what must be waited for until there is one."""
Handler = Callable[[AnyMessage], Answer]
Reply = TypeVar("Reply", bound=Message)


class ChannelError(Exception):
    """The other side is gone or failed to answer."""


def trouble(answer: AnyMessage) -> Refusal | ChannelError:
    """What an answer that is not the wanted one stands for, to be raised."""
    if isinstance(answer, Refused):
        return answer.refusal()
    return ChannelError(answer.error if isinstance(answer, Failed) else f"{type(answer).__name__} is no answer to that")


def _tell(future: asyncio.Future[AnyMessage], answer: AnyMessage) -> None:
    if not future.done():
        future.set_result(answer)


class Channel(asyncio.Protocol):
    """One end of the channel. `handle` answers what the other side asks; `closed` is set when it left.

    `failed` hears, in words for the log, what went wrong with a message that nobody waits for an answer to.
    """

    def __init__(self, handle: Handler, failed: Callable[[str], None]) -> None:
        """Use `open`."""
        self._handle = handle
        self._failed = failed
        self._transport: asyncio.Transport
        self._lost = asyncio.Event()
        self._part = bytearray()  # the beginning of a frame
        self._needed = 0  # bytes until it is whole, as far as is known
        self._asked: dict[int, Callable[[AnyMessage], None]] = {}
        self._last = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.closed = asyncio.Event()

    @classmethod
    async def open(
        cls, sock: socket.socket, handle: Handler, failed: Callable[[str], None] = lambda _: None
    ) -> Channel:
        """Take over one end of a socket pair."""
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(lambda: cls(handle, failed), sock=sock)
        return channel

    def tell(self, message: AnyMessage) -> None:
        """Send without waiting for anything; silent when the other side is gone."""
        self._send(0, message)

    def ask(self, message: AnyMessage, answered: Callable[[AnyMessage], None]) -> int:
        """Ask; `answered` hears the answer, also where it is `Refused` or `Failed`. Gives the question's number."""
        self._last += 1
        if self.closed.is_set():
            answered(Failed(_GONE))
        else:
            self._asked[self._last] = answered
            self._send(self._last, message)
        return self._last

    async def request(self, message: AnyMessage, reply: type[Reply]) -> Reply:
        """Ask and wait for an answer of type `reply`; raises `Refusal` or `ChannelError`."""
        future: asyncio.Future[AnyMessage] = asyncio.get_running_loop().create_future()
        number = self.ask(message, partial(_tell, future))
        try:
            answer = await future
        finally:
            self._asked.pop(number, None)
        if isinstance(answer, reply):
            return answer
        raise trouble(answer)

    @property
    def congested(self) -> bool:
        """Whether the other side reads so slowly that nothing should be said that can wait."""
        return self._transport.get_write_buffer_size() > _CONGESTED

    def close(self) -> None:
        """Close this end; the other side sees its `closed`."""
        self._transport.close()

    async def leave(self) -> None:
        """Close this end after all that was said has left the process."""
        self._transport.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await self._lost.wait()

    async def ended(self) -> None:
        """Once the other side is dead: hear what it had said until then, see it through, and close."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await self.closed.wait()
                while self._tasks:
                    await asyncio.wait(self._tasks)
        self.close()

    def _send(self, number: int, message: AnyMessage) -> None:
        if self._transport.is_closing():
            return
        data = _encode((number, message))
        self._transport.write(len(data).to_bytes(_HEADER, "big") + data)

    # -- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hear every message that is whole by now, and keep what is left."""
        if self._part:
            self._part += data
            if len(self._part) < self._needed:
                return
            data, self._part = bytes(self._part), bytearray()
        view, start, end = memoryview(data), 0, len(data)
        self._needed = _HEADER
        while end - start >= _HEADER:
            body = start + _HEADER
            size = int.from_bytes(view[start:body], "big")
            if size > _LONGEST:
                self._ended()
                return
            if end - body < size:
                self._needed += size
                break
            start = body + size
            try:
                number, message = _decode(view[body:start])
            except msgspec.MsgspecError:
                self._ended()
                return
            self._hear(number, message)
        self._part += view[start:]

    def eof_received(self) -> None:
        """The other side has left; nothing more can be said to it either."""
        self._ended()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - the end is the same for every cause
        """It is closed on this side too."""
        self._lost.set()
        self._ended()

    def _ended(self) -> None:
        self.closed.set()
        waiting, self._asked = self._asked, {}
        for answered in waiting.values():
            answered(Failed(_GONE))
        self._transport.close()

    # -- answering

    def _hear(self, number: int, message: AnyMessage) -> None:
        if number < 0:
            answered = self._asked.pop(-number, None)
            if answered is not None:
                answered(message)
            return
        try:
            answer = self._handle(message)
        except Exception as error:  # noqa: BLE001 - whatever failed here is told to the side that asked
            answer = self._failure(number, message, error)
        if answer is None or isinstance(answer, Message):
            self._reply(number, answer)
            return
        task = asyncio.create_task(self._see_through(number, message, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _see_through(
        self, number: int, message: AnyMessage, waiting: Coroutine[object, object, AnyMessage | None]
    ) -> None:
        try:
            answer = await waiting
        except Exception as error:  # noqa: BLE001 - as above
            answer = self._failure(number, message, error)
        self._reply(number, answer)

    def _reply(self, number: int, answer: AnyMessage | None) -> None:
        if number:
            self._send(-number, answer or _DONE)

    def _failure(self, number: int, message: AnyMessage, error: Exception) -> AnyMessage:
        if isinstance(error, Refusal):
            return Refused.of(error)
        said = f"{type(error).__name__}: {error}"
        if not number:  # nobody asked
            self._failed(f"{type(message).__name__}: {said}")
        return Failed(said)
