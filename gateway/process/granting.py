"""Grants tokens to child agents, and tends the keys that sign them.

1. A token leaves only after its child was counted in its run, durably.
2. A new key is known to every worker before anything is signed with it, and in its file before that.
3. What a worker asks to be signed lives no longer than keys are kept for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.core.clock import Clock, rfc3339
from gateway.core.errors import Refusal
from gateway.identity.delegation import LONGEST
from gateway.identity.jose import from_json
from gateway.identity.own_keys import OwnKeys
from gateway.identity.tokens import MAX_TOKEN
from gateway.process.channel import ChannelError
from gateway.process.messages import (
    Grant,
    Granted,
)
from gateway.runs import Register
from gateway.telemetry.logs import Log
from gateway.web.admin import AdminCall, Route

_LOOK_EVERY: Final = 600.0
"""Seconds between two looks at whether a key is due."""
_RETIRED: Final = 100
"""Replaced keys that still count at most: with them the file stays below what the next start reads of it, 64 KiB."""


class Granting:
    """The supervisor's signing desk; `publish` brings the public keys to every worker, those of the future too."""

    def __init__(
        self,
        keys: OwnKeys,
        register: Register,
        publish: Callable[[bytes], None],
        log: Callable[[], Log],
        clock: Clock,
    ) -> None:
        """`keys` are in force from here on; `log` gives the log, which a reload replaces."""
        self._keys = keys
        self._register = register
        self._publish = publish
        self._log = log
        self._clock = clock
        self._changing = asyncio.Lock()
        publish(keys.jwks)

    async def grant(self, asked: Grant) -> Granted:
        """Count and sign; raises `Refusal` (`run_limit`, `request_malformed`)."""
        claims = from_json(asked.claims)
        expires = claims["exp"]
        if not isinstance(expires, int) or expires > self._clock.now() + LONGEST:
            raise ChannelError("a token would outlive its key")
        key = self._keys.key
        token = self._keys.sign(claims)
        if len(token) > MAX_TOKEN:
            raise Refusal(
                "request_malformed",
                f"the child's token would be {len(token)} characters long, and {MAX_TOKEN} are the most: "
                "ask for fewer or shorter `tools`, `models` and `scope`, or delegate less deep",
                fields={"limit": MAX_TOKEN},
            )
        if asked.run is not None:
            await self._register.add_child(asked.run, asked.child)
        log = self._log()
        log.info(
            "token_granted",
            agent=claims["agent"],
            subject=asked.child,
            sub=claims["sub"],
            run=asked.run.key.id if asked.run is not None else "",
            token_id=claims["jti"],
            key_id=key.kid,
            expires=rfc3339(expires),
        )
        log.flush()
        return Granted(token)

    async def rotate(self, by: str) -> str:
        """Sign with a new key from now on; gives its id.

        Raises `OSError` where it cannot be kept, and `Refusal` (`rate_limited`) for one too many within half a day.
        """
        async with self._changing:
            if len(self._keys.retired) >= _RETIRED:
                sentence = (
                    f"{_RETIRED} keys were replaced of late, and their tokens still count; ask again in some hours"
                )
                raise Refusal("rate_limited", f"{sentence}, the present one signs on")
            await self._take(await asyncio.to_thread(self._keys.rotated, self._clock.now()), by)
        return self._keys.key.kid

    async def tend(self) -> None:
        """Rotate when it is time, and withdraw keys that nothing rests on any more; for ever."""
        while True:
            async with self._changing:
                try:
                    keys = await asyncio.to_thread(self._keys.tended, self._clock.now())
                except OSError as error:
                    self._log().error("key_not_rotated", error=f"{self._keys.file}: {error.strerror or error}")
                else:
                    await self._take(keys, "")
            await asyncio.sleep(_LOOK_EVERY)

    async def _take(self, keys: OwnKeys, by: str) -> None:
        before, self._keys = self._keys, keys
        if keys is before:
            return
        self._publish(keys.jwks)  # said to each worker before the first token of the new key can reach it
        if keys.key is not before.key:
            log = self._log()
            log.info("key_rotated", key_id=keys.key.kid, replaces=before.key.kid, operator=by)
            log.flush()

    def routes(self) -> list[Route]:
        """What the admin listener serves of it."""

        async def rotate(call: AdminCall) -> object:
            try:
                return {"key_id": await self.rotate(call.operator.id)}
            except OSError as error:
                sentence = f"the new key cannot be written to {self._keys.file}: {error.strerror or error}; the old one"
                raise Refusal("store_unavailable", f"{sentence} signs on") from error

        return [Route("POST", "/admin/v1/keys/rotate", "operator", rotate)]
