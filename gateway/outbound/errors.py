"""What can go wrong on the way to an upstream, classed by whether the request may have arrived.

What was not `sent` may be tried elsewhere without a thought; after all else the upstream may have done
what was asked, and only the operation's `repeat` decides.
"""

from __future__ import annotations


class OutboundError(Exception):
    """The upstream gave no complete answer; the text is for the log, it may name addresses."""

    sent = True  # whether a byte of the request may have reached the upstream


class NotSent(OutboundError):
    """Certainly no byte of the request reached the upstream: name, connection, TLS or proxy failed."""

    sent = False


class AddressRefused(NotSent):
    """The upstream's name led to an internal address that the configuration does not allow."""


class SendFailed(OutboundError):
    """The request may have arrived, but the answer is missing, cut short or not HTTP."""


class AnswerTooLarge(SendFailed):
    """The answer is longer than the caller's limit; the rest was not read."""


class Aborted(OutboundError):
    """We gave up on it ourselves; where it was `sent` the upstream may have done what was asked."""

    def __init__(self, reason: str, *, sent: bool = True) -> None:
        super().__init__(reason)
        self.sent = sent


class UpstreamTimeout(OutboundError):
    """A deadline of the upstream passed: `phase` says which, `sent` whether the request had gone out."""

    def __init__(self, phase: str, seconds: float, *, sent: bool) -> None:
        """`phase` is connect, first_byte, idle or total; `seconds` its limit."""
        super().__init__(f"no {_MISSING[phase]} within {seconds:g} s (timeouts.{phase})")
        self.phase = phase
        self.sent = sent


_MISSING = {
    "connect": "connection",
    "first_byte": "answer",
    "idle": "further byte of the answer",
    "total": "complete answer",
}
