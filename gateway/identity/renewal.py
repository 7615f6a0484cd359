"""A worker's questions for keys that it does not know, few enough that nobody can make a flood of them.

Whoever can reach the door can send a token with a made-up `kid`. So of all calls that meet an unknown key
of one issuer at the same time one asks, and some wait for it; and once an issuer was asked about,
it is not asked about again for a while: its new keys come by themselves when anybody finds them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from gateway.core.clock import Clock
from gateway.core.errors import Refusal
from gateway.identity.authority import Authority

_ASK_EVERY: Final = 5.0
"""Seconds between two questions about one issuer. The supervisor fetches at most every 30 s; asking it more often than
that lets a key be found soon after these are over, whichever worker meets it, and costs one message."""
_WAITING: Final = 200
"""How many calls wait for one issuer at most: a slow one and made-up tokens must not fill the worker with calls."""
_PATIENCE: Final = 15.0
"""Seconds that a call waits at most: longer than any fetch, so that only a supervisor that hangs is met by it."""


class Renewal:
    """What one worker has asked lately."""

    def __init__(self, clock: Clock) -> None:
        """Nothing was asked yet."""
        self._clock = clock
        self._asked_at: dict[str, float] = {}
        self._under_way: dict[str, asyncio.Future[None]] = {}
        self._waiting: Counter[str] = Counter()

    async def ask(self, issuer: str, authority: Authority) -> bool:
        """Have the issuer's keys fetched; false where that was asked a moment ago, so that nothing can be new.

        Raises `Refusal` where too many wait, or where the supervisor cannot be reached.
        """
        question = self._under_way.get(issuer)
        if question is None:
            now = self._clock.monotonic()
            if now - self._asked_at.get(issuer, -_ASK_EVERY) < _ASK_EVERY:
                return False
            self._asked_at[issuer] = now
            question = self._under_way[issuer] = asyncio.ensure_future(authority.fetch_keys(issuer))
            question.add_done_callback(lambda done: self._answered(issuer, done))
        if self._waiting[issuer] >= _WAITING:
            raise _late(issuer, "and many calls wait for them")
        self._waiting[issuer] += 1
        try:
            async with asyncio.timeout(_PATIENCE):
                await asyncio.shield(question)
        except TimeoutError:
            raise _late(issuer, "which takes long") from None
        finally:
            self._waiting[issuer] -= 1
        return True

    def _answered(self, issuer: str, question: asyncio.Future[None]) -> None:
        del self._under_way[issuer]
        if not question.cancelled():
            question.exception()  # those who wait get it; with nobody left it is nobody's


def _late(issuer: str, why: str) -> Refusal:
    sentence = f"the keys of issuer {issuer} are being fetched, {why}; retry shortly"
    return Refusal("identity_source_unavailable", sentence)
