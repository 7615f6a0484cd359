"""The replay guard: no proof of possession counts twice (RFC 9449 §11.1).

One guard serves all workers, in the supervisor's memory. What it promises holds whatever happens:

1. A proof is remembered for as long as anybody would accept it, and is never forgotten early.
2. What came so late that it may have been forgotten already is not new: the clock may have been
   set back, or the question may have waited too long.
3. Memory is bounded. Who would go beyond is refused; nothing is pushed out for it.

It does not outlive the supervisor: the nonces of another start (`proof.py`) see to what came before.
"""

from __future__ import annotations

from typing import Final

from gateway.core.clock import Clock
from gateway.core.errors import Refusal

MOST: Final = 1_000_000
"""How many proofs are remembered at most: some 15,000 a second, in about 150 MB."""
_WIDTH: Final = 10.0
"""Proofs that end within the same so many seconds are forgotten together."""


class ReplayGuard:
    """Remembers the digests of proofs, each until its time."""

    def __init__(self, clock: Clock, most: int = MOST) -> None:
        """Nothing was seen yet."""
        self._clock = clock
        self._most = most
        self._seen: dict[int, set[bytes]] = {}  # by the end of their time, in units of `_WIDTH`
        self._count = 0
        self._forgotten = 0.0  # what ended before this is not remembered any longer

    def __len__(self) -> int:
        return self._count

    def first_use(self, proof: bytes, until: float) -> bool:
        """Whether `proof` was never asked for before; remembers it until `until`, epoch seconds.

        Raises `Refusal` (`overloaded`) where it cannot be remembered.
        """
        now = self._clock.now()
        self._forget(now)
        if until <= max(now, self._forgotten) or any(proof in seen for seen in self._seen.values()):
            return False
        if self._count >= self._most:
            sentence = "more proofs of possession come in than the gateway can remember; retry shortly"
            raise Refusal("overloaded", sentence, detail=f"{self._count} proofs are remembered")
        self._seen.setdefault(int(until // _WIDTH), set()).add(proof)
        self._count += 1
        return True

    def _forget(self, now: float) -> None:
        for end in [end for end in self._seen if (end + 1) * _WIDTH <= now]:
            self._count -= len(self._seen.pop(end))
            self._forgotten = max(self._forgotten, (end + 1) * _WIDTH)
