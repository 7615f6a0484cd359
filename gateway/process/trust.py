"""Whose signatures count: the fetched keys of all issuers, kept by the supervisor for all workers.

1. Workers get the keys with `Welcome` and every change of them with `Keys`; they never fetch.
2. An issuer that is down delays a start or a reload by two seconds and no more. What is missing then comes later;
   until it does, `/readyz` says so and the issuer's tokens are answered with 503.
3. A reload that is refused leaves the sources as they were; one that is taken keeps the last good keys of every source
   that stays where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Final

from gateway.core.clock import Clock, rfc3339
from gateway.identity.keysource import KeySource, place
from gateway.identity.settings import IdentitySettings
from gateway.outbound import Outbound
from gateway.outbound.settings import OutboundSettings
from gateway.telemetry.logs import Log
from gateway.web.metrics import Check

PATIENCE: Final = 2.0
"""How long an issuer may hold up a start or a reload, in seconds."""
_LOOK_EVERY: Final = 0.5
"""Seconds between two looks at the clock."""

Tell = Callable[[Mapping[str, bytes | None]], None]


class Trust:
    """The key sources of the configuration in force; `keys` is what workers need beside their files.

    `tell` brings keys to every worker; `log` gives the log, which a reload replaces; `patience` is how many seconds
    a start or a reload waits for keys which were never fetched.
    """

    def __init__(self, tell: Tell, log: Callable[[], Log], clock: Clock, patience: float = PATIENCE) -> None:
        """Nothing is fetched before the first `change`."""
        self._patience = patience
        self._tell = tell
        self._log = log
        self._clock = clock
        self._sources: dict[str, KeySource] = {}
        self._files: dict[str, float] = {}  # issuers with a file of keys, and when it was taken
        self._published: dict[str, bytes] = {}
        self._moving: frozenset[str] = frozenset()  # issuers whose keys are neither the old place's nor the new one's
        self._outbound: Outbound | None = None
        self._settings = OutboundSettings()

    @property
    def keys(self) -> dict[str, bytes | None]:
        """The keys that may be used now, by the name of their issuer; see `Identity.adopt`."""
        held = {name: source.data for name, source in self._sources.items()}
        return held | dict.fromkeys(self._moving) | self._published

    def keys_for(self, identity: IdentitySettings) -> dict[str, bytes | None]:
        """The fetched keys of one configuration's issuers; those of another place than it names are not among them."""
        return {
            one.name: source.data
            for one in identity.issuers
            if (source := self._sources.get(one.name)) is not None
            and source.place == place(one)
            and one.name not in self._moving
        }

    def publish(self, name: str, jwks: bytes) -> None:
        """Have workers accept the keys of an issuer that this gateway is itself."""
        self._published[name] = jwks
        self._tell_of({name: jwks})

    async def fetch(self, issuer: str) -> None:
        """A token names an unknown key: fetch its issuer's keys, unless that was done a moment ago."""
        if issuer in self._sources:
            await self._sources[issuer].meet_unknown_key()

    async def start(self, identity: IdentitySettings, outbound: OutboundSettings) -> None:
        """Begin with the first configuration; see `change`."""
        async with self.change(identity, outbound):
            pass

    async def tend(self) -> None:
        """Fetch what is due and let go of what is too old, for ever."""
        while True:
            for source in self._sources.values():
                source.tend()
            await asyncio.sleep(_LOOK_EVERY)

    @contextlib.asynccontextmanager
    async def change(self, identity: IdentitySettings, outbound: OutboundSettings) -> AsyncIterator[None]:
        """Have another configuration's keys at hand while it is offered to the workers, and keep them if that succeeds.

        Raises `OSError` for authorities of `outbound` that cannot be read.
        """
        wanted = {one.name: one for one in identity.issuers if one.fetched}
        client = self._outbound
        if client is None or outbound != self._settings:
            client = Outbound(proxy=outbound.proxy, ca_file=outbound.ca_file)
        sources = {name: source for name, source in self._sources.items() if name in wanted}
        for name, one in wanted.items():
            if name not in sources or sources[name].place != place(one):
                sources[name] = KeySource(one, client, self._clock, changed=self._on_change, troubled=self._on_trouble)
        fresh = [source for name, source in sources.items() if self._sources.get(name) is not source]
        moved = frozenset(source.name for source in fresh if source.name in self._sources)
        new = [source for source in fresh if source.name not in moved]
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await asyncio.gather(*(source.refresh() for source in fresh))
            # An issuer that moved has no keys while its configuration takes the other one's place: neither may count
            # by the other one's keys. Its tokens get 503 for that moment.
            self._moving = moved
            self._tell_of({source.name: source.data for source in new} | dict.fromkeys(moved))
            yield
        except BaseException:
            self._moving = frozenset()
            self._tell_of({source.name: None for source in new} | {name: self._sources[name].data for name in moved})
            await self._end(fresh, client if client is not self._outbound else None)
            raise
        for name, source in sources.items():
            source.adjust(wanted[name], client)
        self._moving = frozenset()
        old, replaced = self._sources, self._outbound
        self._sources, self._outbound, self._settings = sources, client, outbound
        now = self._clock.monotonic()
        self._files = {one.name: now for one in identity.issuers if one.keys is not None and not one.fetched}
        gone = {name: None for name in old if name not in sources}
        self._tell_of({source.name: source.data for source in fresh} | gone)
        ended = [source for name, source in old.items() if sources.get(name) is not source]
        await self._end(ended, replaced if replaced is not client else None)

    async def close(self) -> None:
        """Stop fetching."""
        sources, self._sources = self._sources, {}
        await self._end(sources.values(), self._outbound)

    # -- what operators see

    def ages(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Seconds since each issuer's keys were fetched, or their file was taken; nothing for what never was."""
        now = self._clock.monotonic()
        for name, taken in self._files.items():
            yield (name,), now - taken
        for name, source in self._sources.items():
            if source.age is not None:
                yield (name,), source.age

    def checks(self) -> Iterator[Check]:
        """A warning for each issuer whose keys cannot be fetched: everybody else's calls are served."""
        for name, source in self._sources.items():
            if source.trouble is not None:
                reason, since = source.trouble
                state = "the last good ones are used" if source.data is not None else "its tokens are answered with 503"
                text = f"issuer {name}: keys cannot be fetched since {rfc3339(since)}: {reason}; {state}"
                yield Check("issuer", "warning", text)
            elif source.data is None:
                yield Check("issuer", "warning", f"issuer {name}: its keys are being fetched for the first time")

    def _on_change(self, source: KeySource) -> None:
        if self._sources.get(source.name) is not source or source.name in self._moving:
            return  # it is not in force yet, or perhaps not any longer
        log = self._log()
        if source.data is None:
            log.error("keys_too_old", issuer=source.name)
        else:
            log.info("keys_changed", issuer=source.name)
            log.flush()
        self._tell_of({source.name: source.data})

    def _on_trouble(self, source: KeySource) -> None:
        log = self._log()
        if source.trouble is not None:
            log.warning("keys_not_fetched", issuer=source.name, error=source.trouble.reason)
        else:
            log.info("keys_fetched_again", issuer=source.name)
            log.flush()

    def _tell_of(self, keys: Mapping[str, bytes | None]) -> None:
        if keys:
            self._tell(keys)

    async def _end(self, sources: Iterable[KeySource], client: Outbound | None) -> None:
        for source in sources:
            await source.close()
        if client is not None:
            await client.close()
