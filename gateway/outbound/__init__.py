"""The one outbound HTTP client: upstreams, their pools and deadlines, and what may be forwarded to them."""

from gateway.outbound.client import Answer, Outbound, Sending
from gateway.outbound.errors import (
    Aborted,
    AddressRefused,
    AnswerTooLarge,
    NotSent,
    OutboundError,
    SendFailed,
    UpstreamTimeout,
)
from gateway.outbound.upstream import Timeouts, Upstream

__all__ = [
    "Aborted",
    "AddressRefused",
    "Answer",
    "AnswerTooLarge",
    "NotSent",
    "Outbound",
    "OutboundError",
    "SendFailed",
    "Sending",
    "Timeouts",
    "Upstream",
    "UpstreamTimeout",
]
