"""The channel between the supervisor and one worker: frames over a socket pair, requests and replies.

A frame is four bytes of length (big-endian) and a MessagePack value. Every message is one of the
structs of `messages`; msgspec checks its shape on the way in. Either side may ask (`request`) or tell
(`tell`); what is asked is answered by the other side's handler, an exception there comes back as
the `Refusal` it was, or as `ChannelError`. A handler that need not wait answers at once, without a
task: the decision log is asked for every call.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Final, TypeVar, cast

import msgspec

from gateway.core.errors import Refusal
from gateway.process.messages import AnyMessage, Done, Failed, Message, Refused

_LONGEST: Final = 256 * 1024 * 1024
_HEADER: Final = 4
_CONGESTED: Final = 1024 * 1024
_LAST_WORDS: Final = 5.0
"""Seconds in which what was said before an end must have been heard."""
_GONE: Final = "the other process is gone"

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
