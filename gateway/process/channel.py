"""The channel between the supervisor and one worker: frames over a socket pair, requests and replies.

A frame is four bytes of length (big-endian) and a MessagePack value. Every message is one of the
structs below; msgspec checks its shape on the way in. Either side may ask (`request`) or tell
(`tell`); what is asked is answered by the other side's handler, an exception there comes back as
the `Refusal` it was, or as `ChannelError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

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


class Message(msgspec.Struct, tag=True, array_like=True, gc=False):
    """Base of all messages; the class name travels as the tag."""


class Prepare(Message):
    """Supervisor → worker: build the state of this configuration beside the present one."""

    generation: int
    path: str
    files: dict[str, bytes]
    dirs: dict[str, Listed]
    variables: dict[str, str | None]
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
    | Grant | Granted | Done | EnteredRun | Refused | Failed
)  # fmt: skip
_encode: Final = msgspec.msgpack.Encoder().encode
# (n, message): a positive n asks, its negative answers, 0 tells.
_decode: Final = msgspec.msgpack.Decoder(tuple[int, AnyMessage]).decode

Handler = Callable[[AnyMessage], Awaitable[AnyMessage | None]]
Reply = TypeVar("Reply", bound=Message)


class ChannelError(Exception):
    """The other side is gone or failed to answer."""


class Channel:
    """One end of the channel. `handle` answers what the other side asks; `closed` is set when it left.

    `failed` hears, in words for the log, what went wrong with a message that nobody waits for an answer to.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handler, failed: Callable[[str], None]
    ) -> None:
        """Use `open`."""
        self._reader, self._writer = reader, writer
        self._handle = handle
        self._failed = failed
        self._asked: dict[int, asyncio.Future[AnyMessage]] = {}
        self._last = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.closed = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(
        cls, sock: socket.socket, handle: Handler, failed: Callable[[str], None] = lambda _: None
    ) -> Channel:
        """Take over one end of a socket pair."""
        sock.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        return cls(reader, writer, handle, failed)

    def tell(self, message: AnyMessage) -> None:
        """Send without waiting for anything; silent when the other side is gone."""
        self._send(0, message)

    async def request(self, message: AnyMessage, reply: type[Reply]) -> Reply:
        """Ask and wait for an answer of type `reply`; raises `Refusal` or `ChannelError`."""
        if self.closed.is_set():
            raise ChannelError("the other process is gone")
        self._last += 1
        number = self._last
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        self._send(number, message)
        try:
            answer = await future
        finally:
            self._asked.pop(number, None)
        if isinstance(answer, Refused):
            raise answer.refusal()
        if isinstance(answer, Failed):
            raise ChannelError(answer.error)
        if not isinstance(answer, reply):
            raise ChannelError(f"{type(answer).__name__} came where {reply.__name__} was asked for")
        return answer

    @property
    def congested(self) -> bool:
        """Whether the other side reads so slowly that nothing should be said that can wait."""
        return self._writer.transport.get_write_buffer_size() > _CONGESTED

    def close(self) -> None:
        """Close this end; the other side sees its `closed`."""
        self._writer.close()

    async def leave(self) -> None:
        """Close this end after all that was said has left the process."""
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await self._writer.wait_closed()

    async def ended(self) -> None:
        """Once the other side is dead: hear what it had said until then, see it through, and close."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await self.closed.wait()
                while self._tasks:
                    await asyncio.wait(self._tasks)
        self.close()

    def _send(self, number: int, message: AnyMessage) -> None:
        if self._writer.is_closing():
            return
        data = _encode((number, message))
        self._writer.write(len(data).to_bytes(_HEADER, "big") + data)

    async def _read(self) -> None:
        try:
            while True:
                size = int.from_bytes(await self._reader.readexactly(_HEADER), "big")
                if size > _LONGEST:
                    break
                number, message = _decode(await self._reader.readexactly(size))
                if number < 0:
                    future = self._asked.get(-number)
                    if future is not None and not future.done():
                        future.set_result(message)
                    continue
                task = asyncio.create_task(self._answer(number, message))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        except (asyncio.IncompleteReadError, OSError, ChannelError, msgspec.MsgspecError):
            pass
        finally:
            self._ended()

    def _ended(self) -> None:
        self.closed.set()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ChannelError("the other process is gone"))
        with contextlib.suppress(RuntimeError):  # the loop may be closing
            self._writer.close()

    async def _answer(self, number: int, message: AnyMessage) -> None:
        answer: AnyMessage
        try:
            answer = await self._handle(message) or Done()
        except Refusal as refusal:
            answer = Refused.of(refusal)
        except Exception as error:  # noqa: BLE001 - whatever failed here is told to the side that asked
            answer = Failed(f"{type(error).__name__}: {error}")
            if not number:  # nobody asked
                self._failed(f"{type(message).__name__}: {answer.error}")
        if number:
            self._send(-number, answer)
