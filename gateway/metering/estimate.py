"""What a call may have used, where the provider did not say."""

from __future__ import annotations

from gateway.core.usage import Usage


def estimate(request_bytes: int, output_bytes: int) -> Usage:
    """An upper bound by bytes, flagged as estimated.

    A token is at least one byte of what went over the wire, so text costs no more tokens than it has
    bytes. What never went over the wire (hidden reasoning, an image behind a URL) is not in it.
    """
    return Usage(input_tokens=request_bytes, output_tokens=output_bytes, estimated=True)
