"""Relaying: an upstream's answer flows to the agent while it is tallied; its last part is kept back.

`relay` passes on all of an answer but its end and says what it saw. The pipeline then settles, and only
after that lets the end go (`Received.finish`), so that an agent never has a whole answer that is not on
the ledger.
"""

from __future__ import annotations

import time
from typing import Final

from msgspec import Struct

from gateway.core.call import ClientGone, Exchange, Target
from gateway.core.credential import leaked
from gateway.core.errors import Refusal, Repeat
from gateway.core.fault import Fault
from gateway.core.headers import REQUEST_IDS
from gateway.dialects import StreamReader
from gateway.outbound import Aborted, Answer, AnswerTooLarge, NotSent, OutboundError, UpstreamTimeout
from gateway.routing import FREE, Charge, Dispatch, Errand

_EVENT_STREAM: Final = "text/event-stream"
_LONGEST_ID: Final = 200


class Received(Struct):
    """What came back from one attempt.

    `last` is the part that the agent does not have yet: all of a whole answer, the terminal frame of a
    stream. `broken` is how the answer ends where it cannot end well; then there is no `last`.
    """

    status: int
    headers: list[tuple[str, str]]
    upstream_request_id: str
    last: bytes = b""
    outcome: str = "complete"  # complete | failed | truncated | cancelled
    usage: object = None
    served_model: str = ""
    answered: int = 0  # bytes of what was generated, for an estimate where there is no usage
    billed: bool = True  # a 2xx answer: the upstream did the work
    fault: Fault | None = None  # an answer that does not pass as it came
    broken: Refusal | None = None
    gone: bool = False  # the agent hung up meanwhile
    aborted: bool = False  # we broke it off ourselves
    streamed: bool = False
    waited: float = 0.0  # seconds that the agent kept us waiting
    first_byte: float | None = None  # perf_counter when the first byte of a stream left

    def charge(self, errand: Errand, target: Target) -> Charge:
        """What the attempt costs; nothing where the upstream refused it."""
        if not self.billed:
            return FREE
        return errand.charge(target, self.usage, self.served_model, self.answered, time.time())

    async def finish(self, exchange: Exchange) -> None:
        """Let the end go, now that it is settled; raises `broken` and `ClientGone`."""
        if self.gone:
            raise ClientGone
        if self.broken is not None:
            raise self.broken
        if self.streamed:
            await exchange.end(self.last)
        else:
            await exchange.reply(self.status, self.headers, self.last)


async def relay(
    exchange: Exchange,
    answer: Answer,
    errand: Errand,
    target: Target,
    sending: Dispatch,
    headers: list[tuple[str, str]],
    *,
    drain: bool,
) -> Received:
    """Take an answer in and pass on all but its end.

    `headers` are what the agent gets beside the answer's own; `drain` reads on when the agent hangs up.
    Raises `OutboundError` where the answer broke before a byte was out: then another target may be asked.
    """
    status = answer.status
    request_id = next((value for name in REQUEST_IDS if (value := answer.headers.get(name))), "")[:_LONGEST_ID]
    passing = errand.answer_headers(target, answer.headers.items())
    received = Received(status, headers + passing, request_id, billed=200 <= status < 300)  # noqa: PLR2004 - success
    credential = sending.credential
    if credential is not None and credential.leaks(
        "\n".join([request_id, *(value for _, value in passing)]).encode("utf-8", "surrogateescape")
    ):
        received.headers, received.upstream_request_id = headers, ""
        received.outcome, received.broken = "failed", leaked(sending.upstream.name)
        return received
    reader = sending.reader
    if received.billed and reader is not None and answer.headers.get("content-type", "").startswith(_EVENT_STREAM):
        await _stream(exchange, answer, sending, reader, received, drain=drain)
    else:
        await _whole(answer, errand, target, sending, received)
    return received


async def _whole(answer: Answer, errand: Errand, target: Target, sending: Dispatch, received: Received) -> None:
    body = await answer.read(sending.max_answer)
    received.answered = len(body)
    if not received.billed:
        received.outcome = "failed"
        received.fault = errand.judge(target, received.status, answer.headers.get("retry-after"), body)
        if received.fault is not None and received.fault.alert:
            return  # who refuses a credential may well quote it: nothing of that passes, and the log gets it redacted
    if sending.credential is not None and sending.credential.leaks(body):
        received.outcome, received.fault, received.broken = "failed", None, leaked(sending.upstream.name)
        return
    received.last = body
    if not received.billed:
        return
    received.usage, received.served_model, failed = errand.read_usage(body)
    if failed:
        received.outcome = "failed"


async def _stream(
    exchange: Exchange, answer: Answer, sending: Dispatch, reader: StreamReader, received: Received, *, drain: bool
) -> None:
    received.streamed = True
    received.headers.append(("x-accel-buffering", "no"))
    try:
        await _flow(exchange, answer, sending, reader, received, drain=drain)
    except OutboundError as error:
        if not exchange.begun and not received.gone:
            raise
        received.broken = broken_off(error, sending.upstream.name)
        received.aborted = isinstance(error, Aborted)
    except Refusal as refusal:  # a frame beyond all bounds, or the credential in it
        received.broken = refusal
    end = reader.close()
    tally = end.tally
    received.usage, received.served_model, received.answered = tally.usage, tally.served_model, tally.output_bytes
    if received.broken is None and not (tally.complete or tally.failed):
        received.broken = Refusal(
            "upstream_truncated",
            f"the stream of {sending.upstream.name} ended without its terminal frame and is no whole answer; ask again",
        )
    if received.broken is None:
        received.last = end.last
    if not exchange.begun and not received.gone:
        await _pass_on(exchange, b"", received)
    if received.gone:
        received.outcome = "cancelled"
    elif received.broken is not None:
        received.outcome = "truncated"
    elif tally.failed:
        received.outcome = "failed"


async def _flow(
    exchange: Exchange, answer: Answer, sending: Dispatch, reader: StreamReader, received: Received, *, drain: bool
) -> None:
    """Frames pass as they come; once the agent is gone they are only read, where that is wanted."""
    watch = sending.credential.watch() if sending.credential is not None else None
    async for chunk in answer.chunks():
        if watch is not None and watch.leaks(chunk):
            raise leaked(sending.upstream.name)
        ready = reader.feed(chunk)
        if ready and not received.gone and not await _pass_on(exchange, ready, received) and not drain:
            return


async def _pass_on(exchange: Exchange, data: bytes, received: Received) -> bool:
    """Send a part of the stream; `False` once the agent is gone."""
    began = time.perf_counter()
    try:
        if not exchange.begun:
            await exchange.begin(received.status, received.headers)
            received.first_byte = began
        if data:
            await exchange.send(data)
    except ClientGone:
        received.gone = True
        return False
    finally:
        received.waited += time.perf_counter() - began
    return True


def broken_off(error: OutboundError, upstream: str, *, effect: bool = False) -> Refusal:
    """The refusal for an upstream that did not bring an answer to its end.

    For an `effect` it never advises to repeat: what was asked may have happened.
    """
    repeat, next_step = None, "retry later"
    if isinstance(error, NotSent):
        code, what = "upstream_unavailable", f"{upstream} cannot be reached; nothing was sent"
    else:
        if not error.sent:
            next_step = "nothing was sent; retry later"
        elif effect:
            repeat, next_step = Repeat.USELESS, "it may have happened, so look before you repeat it"
        if isinstance(error, UpstreamTimeout):
            code, what = "upstream_timeout", f"{upstream} gave {error}"
        elif isinstance(error, AnswerTooLarge):
            code, what, next_step = "upstream_failed", f"the answer of {upstream} is too large", "ask for less"
            repeat = Repeat.USELESS
        elif isinstance(error, Aborted):
            code, what = "upstream_failed", f"{error} before {upstream} had answered in full"
        else:
            code, what = "upstream_failed", f"{upstream} broke off its answer"
    return Refusal(code, f"{what}; {next_step}", detail=str(error), repeat=repeat)
