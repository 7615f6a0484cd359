"""Keys that are fetched: only a complete and valid set counts, and whatever else comes leaves the last one in force."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest
from cryptography import x509

from gateway.identity.keysource import FORCED_EVERY, LARGEST, KeySource
from gateway.identity.settings import IssuerSettings, KeySettings
from gateway.outbound import Outbound
from tests.simulator.authority import Authority, Lives
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer
from tests.simulator.jwks import DISCOVERY, JWKS, Endless, JwksServer, redirect, trouble
from tests.simulator.names import Names
from tests.simulator.upstream import Do, answer

GOOD = Issuer().jwks()
OTHER = Issuer(kid="key-2").jwks()
NONE = b'{"keys": []}'
REFRESH, STALE = 300.0, 3600.0


@pytest.fixture
def server() -> Iterator[JwksServer]:
    with JwksServer() as running:
        running.publishes(GOOD)
        yield running


@dataclass
class Stage:
    """A source, the clock that a test sets, and all that the source said."""

    source: KeySource
    clock: SetClock
    changes: list[bytes | None] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    async def after(self, seconds: float) -> None:
        """Let time go by, have the source look at the clock once, and see through what it begins."""
        self.clock.pass_(seconds)
        self.source.tend()
        await self.landed()

    async def landed(self) -> None:
        """Wait for the fetch that is under way, if any."""
        if self.source.fetching:
            await self.source.refresh()


@asynccontextmanager
async def stage(
    keys: KeySettings,
    *,
    outbound: Outbound | None = None,
    deadline: float = 5.0,
    **issuer: Any,  # noqa: ANN401 - settings of any type
) -> AsyncIterator[Stage]:
    """A source of the keys of `dev`, and nothing fetched yet."""
    clock, client = SetClock(), outbound or Outbound(tick=0.02)
    settings = IssuerSettings(**{"name": "dev", "iss": "https://issuer.example", "keys": keys, **issuer})
    changes: list[bytes | None] = []
    troubles: list[str] = []
    source = KeySource(
        settings,
        client,
        clock,
        deadline=deadline,
        changed=lambda source: changes.append(source.data),
        troubled=lambda source: troubles.append(source.trouble.reason if source.trouble else ""),
    )
    try:
        yield Stage(source, clock, changes, troubles)
    finally:
        await source.close()
        await client.close()


def at(server: JwksServer, **changes: Any) -> KeySettings:  # noqa: ANN401 - settings of any type
    return KeySettings(**{"url": server.jwks_url, "refresh": REFRESH, "stale": STALE, **changes})


# -- what counts, and what does not


async def test_keys_are_fetched_and_told_once(server: JwksServer) -> None:
    """The same keys again are no change; other ones are."""
    async with stage(at(server)) as on:
        assert (on.source.data, on.source.age) == (None, None)
        for _ in range(2):
            await on.source.refresh()
        assert (on.source.data, on.changes, on.source.age) == (GOOD, [GOOD], 0.0)
        server.publishes(OTHER)
        on.clock.pass_(7)
        assert on.source.age == 7.0
        await on.source.refresh()
        assert (on.source.data, on.changes, on.source.age) == (OTHER, [GOOD, OTHER], 0.0)
        assert on.troubles == []
        asked = server.heard(JWKS)[0]
        assert asked.line == f"GET {JWKS} HTTP/1.1"
        assert asked.header("authorization") is None


@pytest.mark.parametrize("what", trouble(GOOD))
async def test_what_is_no_set_of_keys_leaves_the_last_one(server: JwksServer, what: str) -> None:
    """I21, S02: after anything but a complete, valid set with status 200 the last keys stay; this is said once."""
    async with stage(at(server), deadline=0.3) as on:
        await on.source.refresh()
        server.answers(trouble(OTHER)[what])
        for _ in range(3):
            await on.source.refresh()
        assert server.fetches == 4
        assert (on.source.data, on.changes) == (GOOD, [GOOD])
        assert len(on.troubles) == 1
        assert on.troubles[0]
        assert "c2VjcmV0" not in on.troubles[0]
        assert on.source.trouble is not None
        assert on.source.trouble.since == on.clock.now()
        server.publishes(OTHER)
        await on.source.refresh()
        assert (on.source.data, on.troubles[1:]) == (OTHER, [""])


async def test_another_cause_is_said_too(server: JwksServer) -> None:
    """Operators hear of each cause, and since when keys cannot be fetched is when the first one began."""
    async with stage(at(server)) as on:
        began = on.clock.now()
        for status in ("500 No", "500 No", "503 No", "500 No"):
            server.answers([answer(b"", status=status)])
            await on.source.refresh()
            on.clock.pass_(1)
        assert [said.split()[-1] for said in on.troubles] == ["500", "503", "500"]
        assert on.source.trouble is not None
        assert on.source.trouble.since == began


@pytest.mark.parametrize("location", ["http://169.254.169.254/latest/meta-data", "{url}/elsewhere", "/elsewhere"])
async def test_redirects_are_not_followed(server: JwksServer, location: str) -> None:
    """I21, S02: an issuer that sends the gateway elsewhere, to a metadata service or to itself, has not answered."""
    server.says("/elsewhere", [answer(OTHER)])
    async with stage(at(server, allow_internal=True)) as on:
        await on.source.refresh()
        server.answers(redirect(location.format(url=server.url)))
        await on.source.refresh()
        assert on.source.data == GOOD
        assert "status 302" in on.troubles[0]
        assert server.heard("/elsewhere") == []


async def test_an_endless_answer_is_left(server: JwksServer) -> None:
    """I21: an answer of 2 GB is left after a mebibyte; nothing of it is kept."""
    endless = Endless()
    async with stage(at(server)) as on:
        await on.source.refresh()
        server.answers(endless)
        await on.source.refresh()
        assert on.source.data == GOOD
        assert f"more than the {LARGEST} bytes" in on.troubles[0]
        assert endless.sent < 64 * LARGEST  # what both kernels hold in between is not read either


async def test_an_empty_set_revokes_all(server: JwksServer) -> None:
    """A set without keys is the issuer's word that none of them counts any longer."""
    async with stage(at(server)) as on:
        await on.source.refresh()
        server.publishes(NONE)
        await on.source.refresh()
        assert (on.source.data, on.changes, on.troubles) == (NONE, [GOOD, NONE], [])


# -- where it may be fetched


@pytest.mark.parametrize("address", ["169.254.169.254", "10.0.0.1", "127.0.0.1", "::1", "fd00:ec2::254"])
async def test_a_name_that_leads_inside_is_not_connected(server: JwksServer, address: str) -> None:
    """I21: an issuer's name that leads to an internal address is not followed there, unless that was configured."""
    url = f"http://issuer.example:{server.url.rpartition(':')[2]}{JWKS}"
    async with stage(at(server, url=url), outbound=Outbound(resolver=Names([address]))) as on:
        await on.source.refresh()
        assert on.source.data is None
        assert f"internal address {address}" in on.troubles[0]
        assert "allow_internal" in on.troubles[0]
    assert server.fetches == 0


async def test_internal_addresses_on_request(server: JwksServer) -> None:
    """An issuer inside the own network is reached where the configuration says that it is there."""
    url = f"http://issuer.example:{server.url.rpartition(':')[2]}{JWKS}"
    client = Outbound(resolver=Names(["127.0.0.1"]))
    async with stage(at(server, url=url, allow_internal=True), outbound=client) as on:
        await on.source.refresh()
        assert on.source.data == GOOD


@pytest.mark.parametrize("kind", ["good", "expired", "of another authority"])
async def test_who_the_issuer_is(tmp_path: Path, kind: str) -> None:
    """X07: keys come from a server that proves to be the issuer's; a wrong or expired certificate fails closed."""
    authority = Authority()
    signer = Authority("another") if kind == "of another authority" else authority
    lives = Lives(begins=-7200, ends=-3600) if kind == "expired" else Lives()
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    cert, key = signer.svid(names=[loopback], lives=lives).save(tmp_path, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with JwksServer(context) as server:
        server.publishes(GOOD)
        async with stage(at(server), outbound=Outbound(ca_file=authority.save(tmp_path))) as on:
            await on.source.refresh()
            assert on.source.data == (GOOD if kind == "good" else None)
            assert len(on.troubles) == (kind != "good")
        assert server.fetches == (kind == "good")


class NoNames(Names):
    """A name server that is out."""

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> NoReturn:
        """Say nothing useful."""
        raise OSError(f"{family.name}: no answer for {host}:{port}")


async def test_no_names(server: JwksServer) -> None:
    """X07: while names cannot be resolved keys cannot be fetched, and this is said like any other cause."""
    async with stage(at(server, url="https://issuer.example"), outbound=Outbound(resolver=NoNames())) as on:
        await on.source.refresh()
        assert on.source.data is None
        assert "issuer.example" in on.troubles[0]


# -- OpenID Connect Discovery


def provider(server: JwksServer, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - settings of any type
    """Settings of an issuer whose discovery document says where its keys are."""
    return {"keys": KeySettings(oidc=server.url, **changes), "iss": server.url}


async def test_discovery(server: JwksServer) -> None:
    """The document says where the keys are, query included, and is read again each time."""
    server.discovers(jwks_uri=f"{server.url}/keys?p=b2c_1")
    server.says("/keys?p=b2c_1", [answer(GOOD)])
    async with stage(**provider(server)) as on:
        await on.source.refresh()
        assert on.source.data == GOOD
        server.discovers()
        server.publishes(OTHER)
        await on.source.refresh()
        assert (on.source.data, on.troubles) == (OTHER, [])
    assert [len(server.heard(path)) for path in (DISCOVERY, "/keys?p=b2c_1", JWKS)] == [2, 1, 1]


async def test_an_issuer_that_ends_in_a_slash(server: JwksServer) -> None:
    """Discovery 1.0 §4.1: the slash at the end of an issuer's identifier is not part of its document's address."""
    server.discovers(issuer=f"{server.url}/")
    async with stage(**provider(server) | {"iss": f"{server.url}/"}) as on:
        await on.source.refresh()
        assert (on.source.data, on.troubles) == (GOOD, [])


@pytest.mark.parametrize(
    ("iss", "members"),
    [
        (None, {"issuer": "https://issuer.example"}),
        (None, {"issuer": "{url}/"}),
        (None, {"issuer": "{url}/tenant"}),
        (None, {"issuer": ...}),
        (None, {"issuer": ["{url}"]}),
        ("https://issuer.example", {"issuer": "https://issuer.example"}),
        ("https://issuer.example", {}),
        ("", {"issuer": ""}),
    ],
    ids=range(8),
)
async def test_a_document_of_another_issuer(server: JwksServer, iss: str | None, members: dict[str, Any]) -> None:
    """Discovery 1.0 §4.3: the document's issuer is the one whose tokens count, and the one that was asked."""
    shown = {key: value.format(url=server.url) if isinstance(value, str) else value for key, value in members.items()}
    server.discovers(**shown)
    async with stage(**provider(server) | ({"iss": iss} if iss is not None else {})) as on:
        await on.source.refresh()
        assert on.source.data is None
        assert "the discovery document is issuer" in on.troubles[0]
    assert server.fetches == 0


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://169.254.169.254/latest/meta-data", "is not https"),
        ("https://169.254.169.254/latest/meta-data", "is an internal address"),
        ("https://[fd00:ec2::254]/", "is an internal address"),
        ("https://[::ffff:10.0.0.1]/", "is an internal address"),
        ("https://10.0.0.1/keys", "is an internal address"),
        ("https://localhost/keys", "is an internal address"),
        ("https://127.0.0.2:1/keys", "is an internal address"),
        ("https://0x7f.1/keys", "cannot be used"),
        ("https://2130706433/keys", "cannot be used"),
        ("http://keys.example/keys", "is not https"),
        ("file:///etc/passwd", "cannot be used"),
        ("gopher://keys.example/", "cannot be used"),
        ("/jwks.json", "cannot be used"),
        ("https://user:secret@keys.example/", "cannot be used"),
        ("https://keys.example/#fragment", "cannot be used"),
        ("https://keys.example\r\nHost: evil/", "cannot be used"),
        ("", "cannot be used"),
        (5, "names no jwks_uri"),
        (..., "names no jwks_uri"),
    ],
    ids=str,
)
async def test_where_a_document_may_not_lead(server: JwksServer, uri: object, said: str) -> None:
    """I21, S02: a discovery document leads to public addresses over TLS, whoever wrote it."""
    server.discovers(jwks_uri=uri)
    async with stage(**provider(server)) as on:
        await on.source.refresh()
        assert on.source.data is None
        assert said in on.troubles[0]


async def test_a_document_may_lead_inside_on_request(server: JwksServer) -> None:
    """Where the configuration allows internal addresses, the document may name one, without TLS too."""
    server.discovers(jwks_uri=f"http://localhost:{server.url.rpartition(':')[2]}{JWKS}")
    async with stage(**provider(server)) as on:
        await on.source.refresh()
        assert on.source.data is None
    async with stage(**provider(server, allow_internal=True)) as on:
        await on.source.refresh()
        assert (on.source.data, on.troubles) == (GOOD, [])


async def test_a_document_that_is_none(server: JwksServer) -> None:
    """A discovery address that answers with anything else leaves the last good keys."""
    server.discovers()
    async with stage(**provider(server)) as on:
        await on.source.refresh()
        for script, said in (
            ([answer(b"<html>")], "cannot be read"),
            ([answer(b'{"issuer": 1, "issuer": 2}')], "duplicate"),
            (redirect(server.url + "/elsewhere"), "discovery document answers with status 302"),
        ):
            server.says(DISCOVERY, script)
            await on.source.refresh()
            assert said in on.troubles[-1]
        assert (on.source.data, server.fetches) == (GOOD, 1)


# -- when it is fetched


async def test_keys_are_fetched_again_in_time(server: JwksServer) -> None:
    """The first look fetches, the next fetch comes after `refresh`, a tenth more or less, and none in between."""
    async with stage(at(server)) as on:
        await on.after(0)
        assert server.fetches == 1
        for _ in range(10):
            await on.after(REFRESH * 0.089)
        assert server.fetches == 1
        await on.after(REFRESH * 0.22)
        assert server.fetches == 2


async def test_gateways_do_not_ask_in_step(server: JwksServer) -> None:
    """Sources that began together drift apart: not all of them are due at the same moment."""
    due = set()
    for _ in range(8):
        async with stage(at(server)) as on:
            await on.after(0)
            while not on.source.fetching:
                on.clock.pass_(REFRESH / 50)
                on.source.tend()
            due.add(on.clock.now())
            await on.landed()
    assert len(due) > 1
    assert max(due) - min(due) <= REFRESH * 0.2 + REFRESH / 50


async def test_a_failed_fetch_is_tried_again_soon_then_less_often(server: JwksServer) -> None:
    """After failures the pauses are 1, 2, 4 … seconds, up to `refresh`; a success ends them."""
    server.answers([answer(b"", status="503 No")])
    async with stage(at(server, refresh=10.0)) as on:
        await on.after(0)
        for pause in (1, 2, 4, 8, 10, 10):
            before = server.fetches
            await on.after(pause * 0.89)
            assert server.fetches == before, f"sooner than {pause} s"
            await on.after(pause * 0.22)
            assert server.fetches == before + 1, f"later than {pause} s"
        server.publishes(GOOD)
        await on.after(11)
        assert on.source.data == GOOD
        server.answers([answer(b"", status="503 No")])
        await on.after(11)
        before = server.fetches
        await on.after(1.1)
        assert server.fetches == before + 1


async def test_keys_hold_for_a_while_without_their_issuer(server: JwksServer) -> None:
    """X07: while the issuer is out its last good keys hold for `stale`; then there are none, until it is back."""
    async with stage(at(server)) as on:
        await on.after(0)
        server.answers([Do.CLOSE])
        await on.after(STALE - 1)
        assert (on.source.data, len(on.troubles)) == (GOOD, 1)
        await on.after(1)
        assert on.source.data == GOOD
        await on.after(0.1)
        assert on.changes == [GOOD, None]
        server.publishes(GOOD)
        await on.after(REFRESH * 1.1)
        assert (on.source.data, on.changes) == (GOOD, [GOOD, None, GOOD])


async def test_keys_of_an_issuer_that_answers_never_end(server: JwksServer) -> None:
    """A `stale` below `refresh` ends keys with the first failed fetch, never between two good ones."""
    async with stage(at(server, stale=0.0)) as on:
        await on.after(0)
        await on.after(REFRESH * 0.89)
        assert on.source.data == GOOD
        server.answers([Do.CLOSE])
        await on.after(REFRESH * 0.22)
        assert on.source.data is None


async def test_unknown_keys_bring_about_one_fetch_in_thirty_seconds(server: JwksServer) -> None:
    """I20: however many tokens name unknown keys, their issuer is asked once in 30 s, and the schedule moves along."""
    async with stage(at(server)) as on:
        await on.after(0)
        on.clock.pass_(10)
        for _ in range(20):
            await asyncio.gather(*(on.source.meet_unknown_key() for _ in range(500)))
        assert server.fetches == 2
        on.clock.pass_(FORCED_EVERY - 0.1)
        await asyncio.gather(*(on.source.meet_unknown_key() for _ in range(500)))
        assert server.fetches == 2
        on.clock.pass_(0.1)
        await asyncio.gather(*(on.source.meet_unknown_key() for _ in range(500)))
        assert server.fetches == 3
        await on.after(REFRESH * 0.89)
        assert server.fetches == 3


async def test_unknown_keys_find_a_new_set(server: JwksServer) -> None:
    """Whoever asks because of an unknown key has it when the answer is there."""
    async with stage(at(server)) as on:
        await on.after(0)
        server.publishes(OTHER)
        await on.source.meet_unknown_key()
        assert on.source.data == OTHER


async def test_one_fetch_at_a_time(server: JwksServer) -> None:
    """I20: a fetch that is due, one that is asked for and one for an unknown key are one while it is under way."""
    async with stage(at(server)) as on:
        on.source.tend()
        await asyncio.gather(*(on.source.refresh() for _ in range(50)), on.source.meet_unknown_key())
        assert server.fetches == 1
        await on.source.meet_unknown_key()  # what joined a fetch has not used up the one that tokens may bring about
        assert server.fetches == 2


async def test_who_waits_is_not_left_behind(server: JwksServer) -> None:
    """Whoever waits for a fetch is let go when the source ends, and whoever leaves does not end it for the others."""
    server.answers([Do.HANG])
    async with stage(at(server)) as on:
        first, second = (asyncio.create_task(on.source.refresh()) for _ in range(2))
        while not server.fetches:  # noqa: ASYNC110 - the server is in another thread
            await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.wait({first})
        assert on.source.fetching
        assert not second.done()
        await on.source.close()
        await second


# -- SPIFFE bundles


def bundle(**members: object) -> bytes:
    """A bundle with one JWT-SVID key."""
    key = Issuer(kid="svid", alg="ES256").jwk() | {"use": "jwt-svid"}
    return json.dumps({"keys": [key], **members}).encode()


SPIFFE: dict[str, Any] = {"kinds": ("jwt-svid",), "iss": "", "trust_domain": "acme.example"}


@pytest.mark.parametrize(("hint", "pause"), [(60, 60), (1, 10), (86400, 3600), (None, REFRESH)])
async def test_a_bundle_says_when_it_wants_to_be_fetched(server: JwksServer, hint: int | None, pause: float) -> None:
    """A bundle's `spiffe_refresh_hint` comes before `refresh`, within 10 s and an hour."""
    server.publishes(bundle(**({"spiffe_refresh_hint": hint} if hint is not None else {})))
    async with stage(at(server), **SPIFFE) as on:
        await on.after(0)
        await on.after(pause * 0.89)
        assert server.fetches == 1
        await on.after(pause * 0.22)
        assert server.fetches == 2


async def test_an_older_bundle_is_refused(server: JwksServer) -> None:
    """S02: a bundle with a lower sequence than the one in force is an old one that somebody serves again."""
    newer, same, older, unnumbered = (
        bundle(**n) for n in ({"spiffe_sequence": 7}, {"spiffe_sequence": 7}, {"spiffe_sequence": 6}, {})
    )
    async with stage(at(server), **SPIFFE) as on:
        for data, held in ((newer, newer), (older, newer), (same, same), (older, same), (unnumbered, unnumbered)):
            server.publishes(data)
            await on.source.refresh()
            assert on.source.data == held
        assert [said for said in on.troubles if said] == ["spiffe_sequence 6 is below 7, that of the keys in force"] * 2


async def test_a_trust_domain_that_began_anew(server: JwksServer) -> None:
    """A sequence that starts over is taken once the keys with the higher one are no longer in force."""
    server.publishes(bundle(spiffe_sequence=7))
    async with stage(at(server), **SPIFFE) as on:
        await on.after(0)
        anew = bundle(spiffe_sequence=1)
        server.publishes(anew)
        await on.after(STALE)
        assert on.changes == [on.source.data]
        await on.after(REFRESH)
        assert on.changes[1:] == [None, anew]
