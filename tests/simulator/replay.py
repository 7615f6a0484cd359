"""An upstream that answers with the very bytes that a test put up under a name.

The name travels in the query (`?case=…`), which passes through the gateway untouched.
"""

from __future__ import annotations

import random
import re
from typing import Final

from tests.simulator.provider import ScriptedProvider
from tests.simulator.records import cut_at
from tests.simulator.upstream import LAST_CHUNK, Received, Script, answer, chunk

_CASE: Final = re.compile(r"[?&]case=([^ &]+)")


class Replay(ScriptedProvider):
    """Answers by the case that a request names."""

    def __init__(self) -> None:
        super().__init__()
        self._answers: dict[str, Script] = {}
        self._asked: dict[str, Received] = {}

    def answers(self, case: str, status: int, content_type: str, body: bytes, places: list[int] | None = None) -> None:
        """Put up one whole answer; with `places` it is chunked, and the chunks end there."""
        reason = f"{status} Replayed"
        if places is None:
            self._answers[case] = [answer(body, ("Content-Type", content_type), status=reason)]
            return
        head = f"HTTP/1.1 {reason}\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
        self._answers[case] = [head.encode(), *map(chunk, cut_at(body, places)), LAST_CHUNK]

    def asked(self, case: str) -> Received:
        """The last request for a case."""
        return self._asked[case]

    def _choose(self, received: Received) -> Script:
        named = _CASE.search(received.line)
        assert named is not None, received.line
        self._asked[named[1]] = received
        return self._answers[named[1]]


def random_places(body: bytes, seed: int) -> list[int]:
    """Where a busy network may cut a body: anywhere, also within a character; more often where it hurts."""
    rng = random.Random(seed)  # noqa: S311  not a secret
    places = [rng.randrange(len(body) + 1) for _ in range(rng.choice((1, 5, 40)))]
    ends = [found.start() + rng.choice((0, 1, 2)) for found in re.finditer(rb"\n", body)]
    return places + rng.sample(ends, min(len(ends), 10))
