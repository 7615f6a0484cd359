"""The channel between supervisor and worker."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest

from gateway.core.errors import Refusal
from gateway.core.run import RunFacts, RunKey, RunRef
from gateway.process.channel import Channel, ChannelError
from gateway.process.messages import (
    AnyMessage,
    AwaitApproval,
    Decided,
    Done,
    Enter,
    EnteredRun,
    Flush,
    Leave,
    ShowRun,
)
from gateway.runs import Entered

KEY = RunKey("https://issuer.example", "agent/a", "r1")
RUN = RunRef(KEY, None, "url")


async def nothing(message: AnyMessage) -> AnyMessage | None:  # noqa: ARG001 - a handler takes a message
    return None


async def pair(handle: object) -> tuple[Channel, Channel]:
    ours, theirs = socket.socketpair()
    return await Channel.open(ours, nothing), await Channel.open(theirs, handle)  # type: ignore[arg-type]


async def test_what_is_asked_is_answered_in_any_order() -> None:
    """Requests overtake each other; each gets its own answer."""

    async def slow_first(message: AnyMessage) -> AnyMessage | None:
        assert isinstance(message, Enter)
        if message.kind == "llm":
            await asyncio.sleep(0.02)
        return EnteredRun(Entered(RunFacts(message.run.key, 1.0), 1 if message.kind == "llm" else 2, 7))

    ours, theirs = await pair(slow_first)
    first, second = await asyncio.gather(
        ours.request(Enter(RUN, "llm"), EnteredRun), ours.request(Enter(RUN, "tool"), EnteredRun)
    )
    assert (first.entered.step, second.entered.step) == (1, 2)
    assert first.entered.facts.key == KEY
    ours.close()
    theirs.close()


async def test_a_refusal_crosses_as_the_refusal_it_was() -> None:
    """Code, words and fields survive the way; other failures are ChannelError."""

    async def refuse(message: AnyMessage) -> AnyMessage | None:
        if isinstance(message, Enter):
            raise Refusal("run_limit", "no more steps", fields={"limit": "steps"}, detail="log only")
        raise ValueError("broken")

    ours, theirs = await pair(refuse)
    with pytest.raises(Refusal) as refused:
        await ours.request(Enter(RUN, "llm"), EnteredRun)
    assert (refused.value.code, refused.value.fields, refused.value.detail) == (
        "run_limit",
        {"limit": "steps"},
        "log only",
    )
    with pytest.raises(ChannelError, match="broken"):
        await ours.request(ShowRun(KEY), Done)
    ours.close()
    theirs.close()


async def test_the_end_of_one_side_ends_what_the_other_waits_for() -> None:
    """A worker without its supervisor notices at once, and nothing waits for ever."""

    async def never(message: AnyMessage) -> AnyMessage | None:  # noqa: ARG001 - a handler takes a message
        await asyncio.sleep(60)
        return None

    ours, theirs = await pair(never)
    waiting = asyncio.create_task(ours.request(ShowRun(KEY), Done))
    await asyncio.sleep(0.01)
    theirs.close()
    with pytest.raises(ChannelError):
        await waiting
    await ours.closed.wait()
    ours.tell(Leave(1))  # silent
    with pytest.raises(ChannelError):
        await ours.request(ShowRun(KEY), Done)
    for task in theirs._tasks:
        task.cancel()


async def test_what_was_said_before_the_end_is_heard_and_seen_through() -> None:
    """`ended` returns when everything that a dead worker had said is dealt with; `leave` lets all of it out."""
    seen: list[int] = []

    async def slowly(message: AnyMessage) -> AnyMessage | None:
        assert isinstance(message, Leave)
        await asyncio.sleep(0.05)
        seen.append(message.ticket)
        return None

    ours, theirs = await pair(slowly)
    for ticket in range(2000):
        ours.tell(Leave(ticket))
    await asyncio.gather(ours.leave(), theirs.ended())
    assert sorted(seen) == list(range(2000))
    assert theirs.closed.is_set()
    await ours.closed.wait()


async def test_a_side_that_does_not_read_is_noticed() -> None:
    """Where the other process stands still, what can wait is not said any more."""
    ours, stuck = socket.socketpair()
    channel = await Channel.open(ours, nothing)
    assert not channel.congested
    for _ in range(300_000):
        channel.tell(Flush())
        if channel.congested:
            break
    assert channel.congested
    stuck.close()
    await channel.closed.wait()


async def test_a_failure_that_nobody_waits_for_is_heard() -> None:
    """What goes wrong with a message that was only told is said to whoever keeps the log."""

    async def fails(_message: object) -> None:
        raise ValueError("broken")

    heard = asyncio.Queue[str]()
    ours, theirs = socket.socketpair()
    near = await Channel.open(ours, nothing)
    far = await Channel.open(theirs, fails, heard.put_nowait)
    near.tell(Flush())
    assert await heard.get() == "Flush: ValueError: broken"
    near.close()
    await far.closed.wait()
    far.close()
    await near.closed.wait()


def frame(message: AnyMessage, number: int = 0) -> bytes:
    """A message as it travels."""
    data = msgspec.msgpack.encode((number, message))
    return len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize("size", [1, 3, 7, 1000, 1_000_000])
async def test_messages_come_in_any_pieces(size: int) -> None:
    """Wherever the stream is cut, each message is heard once, whole and in order."""
    heard: list[AnyMessage] = []
    ours, theirs = socket.socketpair()
    far = await Channel.open(theirs, heard.append)
    sent: list[AnyMessage] = [
        Leave(1),
        Decided([b"x" * 1000, b""]),
        Leave(2),
        Flush(),
        Decided([b"y" * 3000]),
        Leave(3),
    ]
    stream = b"".join(frame(message) for message in sent)
    ours.setblocking(False)
    for start in range(0, len(stream), size):
        await asyncio.get_running_loop().sock_sendall(ours, stream[start : start + size])
        await asyncio.sleep(0)
    ours.close()
    await far.closed.wait()
    assert heard == sent


@pytest.mark.parametrize("bad", [b"\x00\x00\x00\x02\xff\xff", b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\x05"])
async def test_what_is_no_message_ends_the_channel(bad: bytes) -> None:
    """Who sends what cannot be read, or announces what nobody could hold, is hung up on; what came before is heard."""
    heard: list[AnyMessage] = []
    ours, theirs = socket.socketpair()
    far = await Channel.open(theirs, heard.append)
    asking = asyncio.create_task(far.request(Flush(), Done))
    await asyncio.sleep(0)
    ours.sendall(frame(Leave(1)) + bad + frame(Leave(2)))
    with pytest.raises(ChannelError, match="the other process is gone"):
        await asking
    assert (heard, far.closed.is_set()) == ([Leave(1)], True)
    ours.close()


async def test_a_handler_that_need_not_wait_answers_at_once() -> None:
    """Without a task: its answer, its refusal and its failure come back as those of one that waits."""
    answers: dict[int, AnyMessage | Exception | None] = {
        1: Done({"a": 1}), 2: None, 3: Refusal("overloaded", "too much"), 4: ValueError("broken"),
    }  # fmt: skip

    def at_once(message: AnyMessage) -> AnyMessage | None:
        assert isinstance(message, AwaitApproval)
        answer = answers[int(message.seconds)]
        if isinstance(answer, Exception):
            raise answer
        return answer

    ours, theirs = await pair(at_once)
    assert (await ours.request(AwaitApproval("", 1), Done)).value == {"a": 1}
    assert (await ours.request(AwaitApproval("", 2), Done)).value is None
    with pytest.raises(Refusal, match="too much"):
        await ours.request(AwaitApproval("", 3), Done)
    with pytest.raises(ChannelError, match="ValueError: broken"):
        await ours.request(AwaitApproval("", 4), Done)
    with pytest.raises(ChannelError, match="Done is no answer to that"):
        await ours.request(AwaitApproval("", 1), EnteredRun)
    assert not theirs._tasks
    ours.close()
    await theirs.ended()


async def test_whoever_gives_up_on_an_answer_leaves_nothing_behind() -> None:
    """An answer that comes after its question was cancelled is dropped, and the next one is not taken for it."""
    go = asyncio.Event()

    async def later(message: AnyMessage) -> AnyMessage | None:
        await go.wait()
        return Done({"asked": type(message).__name__})

    ours, theirs = await pair(later)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await ours.request(Flush(), Done)
    go.set()
    assert (await ours.request(ShowRun(KEY), Done)).value == {"asked": "ShowRun"}
    assert not ours._asked
    ours.close()
    await theirs.ended()
