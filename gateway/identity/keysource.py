"""Where the keys of one issuer come from when they are fetched: a JWK set at an address, or an OpenID provider.

What holds here, whatever the issuer answers:
1. Keys change only for a complete, valid set that came with status 200 from the configured address (or from the one
   that the provider's discovery document names). After everything else the last good keys stay, for `stale` seconds.
2. A set without keys is valid: it revokes all of them.
3. No redirect is followed, no internal address is connected that the configuration does not name, nothing is read
   beyond a mebibyte, and nothing takes longer than a few seconds.
4. There is one fetch at a time. Tokens that name an unknown key can bring about one fetch in 30 seconds, however many
   they are.

Time is looked at in `tend`, which somebody calls a few times a second.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.core.clock import Clock
from gateway.identity.jose import from_json
from gateway.identity.keys import KeyMistakes, KeySet, key_uses, read_jwks
from gateway.identity.settings import IssuerSettings, KeySettings
from gateway.outbound import Outbound, OutboundError, Upstream, UpstreamTimeout
from gateway.outbound.destination import is_internal, is_localhost, literal

FORCED_EVERY: Final = 30.0
"""Seconds between two fetches that tokens with unknown keys bring about."""
DEADLINE: Final = 5.0
"""Seconds for one answer, from the first packet to the last byte; with discovery it is two."""
LARGEST: Final = 1024 * 1024
"""Bytes of an answer that are read at most."""
_JITTER: Final = 0.1
_SHORTEST_HINT: Final = 10.0
_LONGEST_HINT: Final = 3600.0
_DISCOVERY: Final = "/.well-known/openid-configuration"
_HEADERS: Final = (
    ("Accept", "application/jwk-set+json, application/json"),
    ("Accept-Encoding", "identity"),
    ("User-Agent", "passgate"),
)


class _Deadlines(NamedTuple):
    """See `outbound.Timeouts`."""

    connect: float
    first_byte: float
    idle: float
    total: float


class FetchFailed(Exception):
    """An issuer's answer cannot be used; the words are for operators."""


class Trouble(NamedTuple):
    """Why the keys cannot be fetched."""

    reason: str
    since: float  # epoch seconds


class KeySource:
    """Fetches and keeps the keys of one issuer.

    `changed` is called whenever the keys that may be used are other ones; `troubled` whenever the reason why they
    cannot be fetched is another one, or there is none any longer. `deadline` is for one answer, in seconds.
    """

    def __init__(
        self,
        issuer: IssuerSettings,
        outbound: Outbound,
        clock: Clock,
        *,
        deadline: float = DEADLINE,
        changed: Callable[[KeySource], None] = lambda _: None,
        troubled: Callable[[KeySource], None] = lambda _: None,
    ) -> None:
        """Nothing is fetched before `tend` or `refresh` is called. `issuer.keys` names `url` or `oidc`."""
        self.name = issuer.name
        self.trouble: Trouble | None = None
        self.data: bytes | None = None
        """The keys that may be used now, as they were fetched; `None` where there are none."""
        self._clock = clock
        self._deadlines = _Deadlines(*[deadline] * len(_Deadlines._fields))
        self._changed = changed
        self._troubled = troubled
        self._set: KeySet | None = None
        self._good_at: float | None = None  # on the monotonic clock, as all times here
        self._due_at = clock.monotonic()
        self._force_at = clock.monotonic()
        self._failures = 0
        self._flight: asyncio.Task[None] | None = None
        self.adjust(issuer, outbound)

    def adjust(self, issuer: IssuerSettings, outbound: Outbound) -> None:
        """Take over settings of the same `place` (how often to fetch, for how long keys hold) and another client."""
        self._issuer, self._keys = issuer, issuer.keys or KeySettings()
        self._outbound = outbound

    @property
    def place(self) -> tuple[object, ...]:
        """What makes it the source that it is: where keys come from, and which of them count."""
        return place(self._issuer)

    @property
    def age(self) -> float | None:
        """Seconds since keys were last fetched; `None` where they never were."""
        return self._clock.monotonic() - self._good_at if self._good_at is not None else None

    @property
    def fetching(self) -> bool:
        """Whether a fetch is under way."""
        return self._flight is not None

    def tend(self) -> None:
        """Begin a fetch when one is due, and let go of keys that have become too old."""
        if self._clock.monotonic() >= self._due_at:
            self._begin()
        self._let_go()

    async def refresh(self) -> None:
        """Fetch now, or wait for the fetch that is under way; returns when it has ended, however it did."""
        await asyncio.wait({self._begin()})

    async def meet_unknown_key(self) -> None:
        """Fetch because a token names a key that is not there; does nothing where that was done a moment ago."""
        if not self.fetching:
            now = self._clock.monotonic()
            if now < self._force_at:
                return
            self._force_at = now + FORCED_EVERY
        await self.refresh()

    async def close(self) -> None:
        """Stop fetching."""
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.gather(self._flight, return_exceptions=True)

    def _begin(self) -> asyncio.Task[None]:
        if self._flight is None:
            self._flight = asyncio.create_task(self._fly())
        return self._flight

    async def _fly(self) -> None:
        try:
            data = await self._fetch()
            found = self._read(data)
        except Exception as error:  # noqa: BLE001 - whatever it is, the last good keys stay and this is said
            self._failed(_reason(error))
        else:
            self._succeeded(data, found)
        finally:
            self._flight = None

    # -- what follows from a fetch

    def _succeeded(self, data: bytes, found: KeySet) -> None:
        now = self._clock.monotonic()
        hint = found.refresh_hint
        pause = self._keys.refresh if hint is None else min(max(hint, _SHORTEST_HINT), _LONGEST_HINT)
        self._good_at, self._due_at, self._failures = now, now + _jittered(pause), 0
        self._set = found
        if self.trouble is not None:
            self.trouble = None
            self._troubled(self)
        if data != self.data:
            self.data = data
            self._changed(self)

    def _failed(self, reason: str) -> None:
        now = self._clock.monotonic()
        self._due_at = now + _jittered(min(2.0**self._failures, self._keys.refresh))
        self._failures = min(self._failures + 1, 32)
        if self.trouble is None or self.trouble.reason != reason:
            self.trouble = Trouble(reason, self.trouble.since if self.trouble is not None else self._clock.now())
            self._troubled(self)
        self._let_go()

    def _let_go(self) -> None:
        """Keys hold for `stale` seconds after they were fetched; longer only as long as nothing has failed since."""
        if self.data is None or self.trouble is None or (self.age or 0.0) <= self._keys.stale:
            return
        self.data = self._set = None
        self._changed(self)

    # -- the fetch itself

    async def _fetch(self) -> bytes:
        if self._keys.url is not None:
            return await self._get(self._keys.url, "the JWK set")
        provider = self._keys.oidc or ""
        document = await self._get(provider + _DISCOVERY, "the discovery document")
        return await self._get(_jwks_uri(document, provider, self._issuer.iss, self._keys), "the JWK set")

    async def _get(self, url: str, what: str) -> bytes:
        origin, path = _split(url)
        upstream = Upstream(self.name, origin, timeouts=self._deadlines, allow_internal=self._keys.allow_internal)
        async with self._outbound.send(upstream, "GET", path, _HEADERS) as answer:
            if answer.status != 200:  # noqa: PLR2004 - OK; a redirect is no answer, it is not followed
                raise FetchFailed(f"the address of {what} answers with status {answer.status}")
            return await answer.read(LARGEST)

    def _read(self, data: bytes) -> KeySet:
        """The keys of an answer. A set that is older than the one in force is refused, whoever replays it."""
        found = read_jwks(data, key_uses(self._issuer.kinds))
        held = self._set.sequence if self._set is not None else None
        if held is not None and found.sequence is not None and found.sequence < held:
            raise FetchFailed(f"spiffe_sequence {found.sequence} is below {held}, that of the keys in force")
        return found


def place(issuer: IssuerSettings) -> tuple[object, ...]:
    """Where an issuer's keys are fetched, and which of them count: while that stays, so do its last good keys."""
    keys = issuer.keys or KeySettings()
    return issuer.name, issuer.iss, key_uses(issuer.kinds), keys.url, keys.oidc, keys.allow_internal


def _jwks_uri(document: bytes, provider: str, iss: str, keys: KeySettings) -> str:
    """Where a provider's discovery document says that its keys are (OpenID Connect Discovery 1.0 §3, §4.3)."""
    try:
        members = from_json(document)
    except ValueError as error:
        raise FetchFailed(f"the discovery document cannot be read: it {error}") from None
    issuer, uri = members.get("issuer"), members.get("jwks_uri")
    # §4.1 and §4.3: the prefix of the document's address is the issuer, which may end in a slash there.
    if issuer != iss or iss.removesuffix("/") != provider:
        shown = repr(issuer[:200]) if isinstance(issuer, str) else type(issuer).__name__
        raise FetchFailed(f"the discovery document is issuer {shown}'s, where iss is {iss!r} and oidc {provider!r}")
    if not isinstance(uri, str):
        raise FetchFailed("the discovery document names no jwks_uri")
    _judge(uri, provider, keys)
    return uri


def _judge(uri: str, provider: str, keys: KeySettings) -> None:
    """An address that a provider names is no more trusted than the provider: it leads to no place inside."""
    try:
        there, here = (Upstream("", _split(url)[0], timeouts=_Deadlines(0, 0, 0, 0)) for url in (uri, provider))
    except ValueError as error:
        raise FetchFailed(f"jwks_uri cannot be used: {error}") from None
    if keys.allow_internal or (there.host == here.host and there.loopback):
        return
    if not there.tls:
        raise FetchFailed(f"jwks_uri {uri[:200]!r} is not https; set allow_internal: true if that is meant")
    address = literal(there.host)
    if is_localhost(there.host) or (address is not None and is_internal(address)):
        raise FetchFailed(f"jwks_uri {uri[:200]!r} is an internal address; set allow_internal: true if that is meant")


def _split(url: str) -> tuple[str, str]:
    """An address as origin and the rest that is asked for there; raises `ValueError` for what is not one."""
    if "#" in url:
        raise ValueError(f"{url[:200]!r} has a fragment")
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority}", f"{slash or '/'}{path}"


def _reason(error: Exception) -> str:
    """Why a fetch failed, in words that are the same each time, so that they are said once."""
    if isinstance(error, UpstreamTimeout):
        return "no complete answer comes in time"
    if isinstance(error, KeyMistakes):
        return f"the answer is not a set of keys: {error}"
    if isinstance(error, (FetchFailed, OutboundError, ValueError)):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _jittered(seconds: float) -> float:
    """So that many gateways do not ask an issuer at the same moment."""
    return seconds * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - nothing secret hangs on it
