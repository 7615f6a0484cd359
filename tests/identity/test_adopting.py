"""Fetched keys in a worker: taken over as they come, and asked for when a token names one that is not there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from gateway.core.errors import Refusal
from gateway.core.principal import Principal
from gateway.identity import Identity
from gateway.identity.keys import KeyMistakes
from gateway.identity.settings import KeySettings
from tests.identity.door import CHAT, Alone, Door, head, issuer_settings
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer

FETCHED = KeySettings(url="https://issuer.example/jwks.json")


class Fetching(Alone):
    """An authority that brings what a test wants it to when it is asked for keys."""

    def __init__(self, brings: Callable[[], None] = lambda: None) -> None:
        """Bring nothing by default."""
        super().__init__()
        self.brings = brings
        self.open = asyncio.Event()
        self.open.set()
        self.fails: Refusal | None = None

    async def fetch_keys(self, issuer: str) -> None:
        """Note the question; answer it when the door is open."""
        await super().fetch_keys(issuer)
        await self.open.wait()
        if self.fails is not None:
            raise self.fails
        self.brings()


@pytest.fixture
def corp() -> Issuer:
    return Issuer(name="corp", iss="https://corp.example", kid="corp-1")


@pytest.fixture
def fetched(issuer: Issuer, corp: Issuer, clock: SetClock) -> Door:
    """Two issuers whose keys are fetched, both there."""
    door = Door(issuer, corp, clock=clock, settings=[issuer_settings(one, keys=FETCHED) for one in (issuer, corp)])
    door.identity.adopt({"dev": issuer.jwks(), "corp": corp.jwks()})
    return door


async def ask(identity: Identity, token: str, authority: Alone) -> Principal:
    return await identity.identify(head(("Authorization", f"Bearer {token}")), CHAT, authority)


async def refused(identity: Identity, token: str, authority: Alone) -> str:
    """The code of the refusal."""
    with pytest.raises(Refusal) as caught:
        await ask(identity, token, authority)
    return caught.value.code


def both(*issuers: Issuer) -> bytes:
    """One set with the keys of several."""
    return json.dumps({"keys": [one.jwk() for one in issuers]}).encode()


def test_no_keys_yet(issuer: Issuer, clock: SetClock) -> None:
    """X07: before its keys were fetched an issuer's tokens are answered with 503 and its name, never with 401."""
    door = Door(issuer, clock=clock, settings=[issuer_settings(issuer, keys=FETCHED)])
    refusal = door.refuses(issuer.token(clock.time), code="identity_source_unavailable")
    assert refusal.status == 503
    assert "issuer dev" in refusal.sentence
    assert "issuer.example" not in refusal.sentence
    door.identity.adopt({"dev": issuer.jwks()})
    door.admits(issuer.token(clock.time))
    door.identity.adopt({"dev": None})
    door.refuses(issuer.token(clock.time), code="identity_source_unavailable")


def test_what_is_wrong_otherwise_stays_invalid_without_keys(issuer: Issuer, clock: SetClock) -> None:
    """An issuer that is out says nothing about tokens that would not be its own."""
    door = Door(issuer, clock=clock, settings=[issuer_settings(issuer, keys=FETCHED)])
    door.refuses(issuer.token(clock.time, iss="https://other.example"))
    door.refuses(issuer.sign(issuer.header(alg="none"), issuer.claims(clock.time)))
    door.refuses(issuer.sign(issuer.header(jku="https://evil.example/keys"), issuer.claims(clock.time)))


def test_an_empty_set_revokes_all(fetched: Door, issuer: Issuer, clock: SetClock) -> None:
    """I22: an issuer that publishes no key has no valid token, remembered or not."""
    fetched.admits(issuer.token(clock.time))
    fetched.identity.adopt({"dev": b'{"keys": []}'})
    fetched.refuses(issuer.token(clock.time))


def test_a_key_that_is_gone_takes_its_remembered_tokens_along(fetched: Door, issuer: Issuer, clock: SetClock) -> None:
    """I22: a key that left the set verifies nothing from then on, also what was verified a moment ago."""
    second = Issuer(kid="key-2")
    fetched.identity.adopt({"dev": both(issuer, second)})
    going, staying = issuer.token(clock.time), second.token(clock.time)
    fetched.admits(going)
    kept = fetched.admits(staying)
    fetched.identity.adopt({"dev": both(second)})
    fetched.refuses(going)
    assert fetched.admits(staying) is kept


def test_another_key_under_the_same_name(fetched: Door, issuer: Issuer, clock: SetClock) -> None:
    """I22: a `kid` that now names another key verifies nothing that the earlier one had signed."""
    token = issuer.token(clock.time)
    fetched.admits(token)
    fetched.identity.adopt({"dev": Issuer(kid=issuer.kid).jwks()})
    fetched.refuses(token)


def test_the_same_key_for_less(clock: SetClock) -> None:
    """I22: a key that is no longer made for an algorithm takes its remembered tokens along."""
    issuer = Issuer(alg="RS256")
    door = Door(issuer, clock=clock, settings=[issuer_settings(issuer, keys=FETCHED)])
    door.identity.adopt({"dev": issuer.jwks()})
    token = issuer.token(clock.time)
    door.admits(token)
    door.identity.adopt({"dev": json.dumps({"keys": [issuer.jwk() | {"alg": "PS256"}]}).encode()})
    door.refuses(token)


def test_what_did_not_change_stays_remembered(fetched: Door, issuer: Issuer, clock: SetClock) -> None:
    """A refresh that changes nothing, other keys of the issuer, or another issuer's cause no second signature check."""
    agents = [issuer.token(clock.time), issuer.token(clock.time, jti="t-2")]
    before = [fetched.admits(token) for token in agents]
    fetched.identity.adopt({"dev": issuer.jwks()})
    fetched.identity.adopt({"dev": both(issuer, Issuer(kid="key-2"))})
    fetched.identity.adopt({"corp": None})
    fetched.identity.adopt({"corp": Issuer(name="corp").jwks(), "unheard-of": b"{"})
    assert all(fetched.admits(token) is principal for token, principal in zip(agents, before, strict=True))


def test_a_set_that_cannot_be_read(fetched: Door, issuer: Issuer, corp: Issuer, clock: SetClock) -> None:
    """A set that is none keeps the earlier one and is said to the caller; sets beside it are taken all the same."""
    new = Issuer(name="corp", iss=corp.iss, kid="corp-2")
    with pytest.raises(KeyMistakes, match="dev: keys"):
        fetched.identity.adopt({"dev": b'{"keys": 5}', "corp": new.jwks()})
    fetched.admits(issuer.token(clock.time))
    fetched.refuses(corp.token(clock.time))
    fetched.refuses(new.token(clock.time), code="agent_unknown")


def test_keys_from_a_file_are_nobody_elses(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """Keys that were fetched for an issuer's name do not replace the file that the configuration names."""
    door.identity.adopt({"dev": Issuer().jwks()})
    door.admits(issuer.token(clock.time))
    door.identity.adopt({"dev": None})
    door.admits(issuer.token(clock.time))


async def test_an_unknown_key_is_asked_for(fetched: Door, issuer: Issuer, clock: SetClock) -> None:
    """A token with a key that its issuer has just begun to use is taken as soon as that key is there."""
    new = Issuer(kid="key-2")
    authority = Fetching(lambda: fetched.identity.adopt({"dev": both(issuer, new)}))
    principal = await ask(fetched.identity, new.token(clock.time), authority)
    assert (principal.key_id, authority.asked) == ("key-2", ["dev"])
    nameless = Issuer(kid="key-3", alg="ES256")
    token = nameless.sign(nameless.header(kid=...), nameless.claims(clock.time))
    authority.brings = lambda: fetched.identity.adopt({"dev": both(issuer, nameless)})
    clock.pass_(5)
    assert (await ask(fetched.identity, token, authority)).key_id == nameless.kid


async def test_a_new_key_makes_no_token_good(fetched: Door, issuer: Issuer, clock: SetClock) -> None:
    """I3: after a fetch a token takes all steps again."""
    new = Issuer(kid="key-2")
    authority = Fetching(lambda: fetched.identity.adopt({"dev": both(issuer, new)}))
    forged = issuer.sign(issuer.header(kid="key-2"), issuer.claims(clock.time))
    assert await refused(fetched.identity, forged, authority) == "identity_invalid"
    assert authority.asked == ["dev"]


async def test_a_flood_of_unknown_keys_asks_once(fetched: Door, issuer: Issuer, corp: Issuer, clock: SetClock) -> None:
    """I20: a worker that meets unknown keys of an issuer asks once in five seconds, for each issuer."""
    authority = Fetching()
    for number in range(200):
        token = issuer.sign(issuer.header(kid=f"made-up-{number}"), issuer.claims(clock.time))
        assert await refused(fetched.identity, token, authority) == "identity_invalid"
    assert authority.asked == ["dev"]
    await refused(fetched.identity, corp.sign(corp.header(kid="made-up"), corp.claims(clock.time)), authority)
    assert authority.asked == ["dev", "corp"]
    clock.pass_(4.9)
    await refused(fetched.identity, issuer.sign(issuer.header(kid="x"), issuer.claims(clock.time)), authority)
    assert authority.asked == ["dev", "corp"]
    clock.pass_(0.1)
    await refused(fetched.identity, issuer.sign(issuer.header(kid="x"), issuer.claims(clock.time)), authority)
    assert authority.asked == ["dev", "corp", "dev"]


async def test_calls_wait_for_one_question(fetched: Door, issuer: Issuer, clock: SetClock) -> None:
    """Calls that come with a new key at the same time wait for one question, and not too many of them."""
    new = Issuer(kid="key-2")
    authority = Fetching(lambda: fetched.identity.adopt({"dev": both(issuer, new)}))
    authority.open.clear()
    calls = [
        asyncio.create_task(ask(fetched.identity, new.token(clock.time, jti=f"t-{n}"), authority)) for n in range(250)
    ]
    while sum(call.done() for call in calls) < 50:  # noqa: ASYNC110 - those who are turned away
        await asyncio.sleep(0)
    assert (await ask(fetched.identity, issuer.token(clock.time), authority)).key_id == issuer.kid
    calls[0].cancel()
    authority.open.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert authority.asked == ["dev"]
    assert isinstance(answers[0], asyncio.CancelledError)
    assert sum(isinstance(answer, Principal) for answer in answers) == 199
    assert {answer.code for answer in answers if isinstance(answer, Refusal)} == {"identity_source_unavailable"}


async def test_the_supervisor_cannot_be_reached(fetched: Door, issuer: Issuer, clock: SetClock) -> None:
    """Trouble between the processes is 503 for whoever met it, and the next one asks again."""
    authority = Fetching()
    authority.fails = Refusal("store_unavailable", "the state that all workers share cannot be reached")
    token = issuer.sign(issuer.header(kid="x"), issuer.claims(clock.time))
    assert await refused(fetched.identity, token, authority) == "store_unavailable"
    authority.fails = None
    clock.pass_(5)
    assert await refused(fetched.identity, token, authority) == "identity_invalid"
    assert len(authority.asked) == 2


async def test_nothing_else_is_a_reason_to_ask(door: Door, fetched: Door, issuer: Issuer, clock: SetClock) -> None:
    """I4, I20, S02: a token that an earlier step refuses brings about no fetch, nor does one whose keys are a file."""
    authority = Fetching()
    unknown = issuer.header(kid="made-up")
    good = issuer.claims(clock.time)
    hostile = [
        "no token",
        issuer.sign(unknown | {"jku": "https://evil.example/"}, good),
        issuer.sign(unknown | {"x5u": "http://169.254.169.254/"}, good),
        issuer.sign(unknown | {"crit": ["exp"]}, good),
        issuer.sign(unknown | {"alg": "none"}, good),
        issuer.sign(unknown | {"alg": "HS256"}, good),
        issuer.sign(unknown | {"typ": "wf-attestation+jwt"}, good),
        issuer.sign(unknown | {"kid": 5}, good),
        issuer.sign(unknown, good | {"iss": "https://other.example"}),
        issuer.sign_bytes(json.dumps(unknown).encode()[:-1] + b', "kid": "x"}', json.dumps(good).encode()),
        "a" * 8000,
    ]
    for token in hostile:
        assert await refused(fetched.identity, token, authority) == "identity_invalid"
    assert await refused(door.identity, issuer.sign(unknown, good), authority) == "identity_invalid"
    assert authority.asked == []


@pytest.mark.parametrize(
    "kid", ["../../../etc/passwd", "/dev/null", "file:///etc/passwd", "' OR 1=1 --", "\x00", "k" * 300]
)
async def test_a_key_id_is_only_looked_up(fetched: Door, issuer: Issuer, clock: SetClock, kid: str) -> None:
    """S02: a `kid` that looks like a path, an address or a query is a name that no key has."""
    authority = Fetching()
    token = issuer.sign(issuer.header(kid=kid), issuer.claims(clock.time))
    assert await refused(fetched.identity, token, authority) == "identity_invalid"
    assert authority.asked == ["dev"]
