"""What identification asks of the process that serves all workers."""

from __future__ import annotations

from typing import Protocol


class Authority(Protocol):
    """Fetches keys and remembers proofs for all workers at once."""

    async def fetch_keys(self, issuer: str) -> None:
        """Have an issuer's keys fetched once more, since a token names one that is unknown.

        What was found has reached `Identity.adopt` when this returns. Asked again too soon it does nothing.
        Raises `Refusal` (`store_unavailable`) where that process cannot be reached.
        """
        ...

    async def first_use(self, proof: bytes, until: float) -> bool:
        """Whether no worker has seen this proof (a digest) before; it is remembered until `until`, epoch seconds."""
        ...
