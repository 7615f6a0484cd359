"""The supervisor's keys: fetched before a configuration is offered, told to all workers, kept over a reload."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.core.clock import rfc3339
from gateway.identity.settings import IdentitySettings, IssuerSettings, KeySettings
from gateway.outbound.settings import OutboundSettings
from gateway.process.trust import Trust
from gateway.telemetry.logs import Log
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer
from tests.simulator.jwks import JwksServer
from tests.simulator.upstream import Do, Step, answer

GOOD, OTHER = Issuer().jwks(), Issuer(kid="key-2").jwks()
OUTBOUND = OutboundSettings()


@pytest.fixture
def server() -> Iterator[JwksServer]:
    with JwksServer() as running:
        running.publishes(GOOD)
        yield running


@pytest.fixture
def second() -> Iterator[JwksServer]:
    with JwksServer() as running:
        running.publishes(OTHER)
        yield running


@dataclass
class Stage:
    """The supervisor's part, with all that workers were told, in order."""

    log: Path
    clock: SetClock = field(default_factory=SetClock)
    told: list[dict[str, bytes | None]] = field(default_factory=list)
    trust: Trust = field(init=False)

    def __post_init__(self) -> None:
        fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        log = Log("supervisor", fd=fd)
        self.trust = Trust(lambda keys: self.told.append(dict(keys)), lambda: log, self.clock, patience=0.2)

    def said(self, event: str) -> int:
        """How often this event stands in the log."""
        return self.log.read_text().count(f'"event":"{event}"')

    def warnings(self) -> list[str]:
        """What `/readyz` warns of."""
        checks = list(self.trust.checks())
        assert {check.status for check in checks} <= {"warning"}
        return [check.text for check in checks]

    def ages(self) -> dict[str, float]:
        """The gauge."""
        return {issuer: age for (issuer,), age in self.trust.ages()}


@pytest.fixture
def on(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "log.ndjson")


def issuer(server: JwksServer | None, name: str = "dev", **changes: Any) -> IssuerSettings:  # noqa: ANN401 - settings of any type
    """An issuer whose keys that server publishes; without one they stand in a file."""
    keys = KeySettings(url=server.jwks_url, refresh=300.0) if server else KeySettings(file=Path("jwks.json"))
    return IssuerSettings(**{"name": name, "iss": f"https://{name}.example", "keys": keys, **changes})


def configured(*issuers: IssuerSettings) -> IdentitySettings:
    return IdentitySettings(audience="https://gateway.example", issuers=issuers)


@asynccontextmanager
async def serving(on: Stage, *issuers: IssuerSettings) -> AsyncIterator[Trust]:
    """Started with these issuers, and closed at the end."""
    await on.trust.start(configured(*issuers), OUTBOUND)
    try:
        yield on.trust
    finally:
        await on.trust.close()


class WorkersRefuse(Exception):
    """What a test raises where the workers say no."""


async def test_a_start_brings_the_keys(on: Stage, server: JwksServer) -> None:
    """Workers that say hello get the keys of all issuers that have an address; files are read by themselves."""
    async with serving(on, issuer(server), issuer(None, "filed")) as trust:
        assert trust.keys == {"dev": GOOD}
        assert on.warnings() == []
        on.clock.pass_(5)
        assert on.ages() == {"dev": 5.0, "filed": 5.0}


async def test_an_issuer_that_is_out_does_not_hold_up_a_start(on: Stage, server: JwksServer) -> None:
    """The gateway starts without an issuer that hangs, says so, and tells its workers when the keys have come."""
    go_on = threading.Event()

    def slow() -> Iterator[Step]:
        while not go_on.is_set():
            yield 0.01
        yield answer(GOOD)

    server.answers(slow())
    async with serving(on, issuer(server)) as trust:
        assert trust.keys == {"dev": None}
        assert on.ages() == {}
        assert on.warnings() == ["issuer dev: its keys are being fetched for the first time"]
        go_on.set()
        await _until(lambda: trust.keys == {"dev": GOOD})
        assert on.told[-1] == {"dev": GOOD}
        assert on.warnings() == []


async def test_new_keys_are_told_to_all(on: Stage, server: JwksServer) -> None:
    """Whoever asks because of an unknown key has been told of the new ones when the answer comes."""
    async with serving(on, issuer(server)) as trust:
        server.publishes(OTHER)
        await trust.fetch("dev")
        assert on.told[-1] == {"dev": OTHER}
        assert trust.keys == {"dev": OTHER}
        told = len(on.told)
        await trust.fetch("dev")
        await trust.fetch("nobody")
        assert (server.fetches, len(on.told)) == (2, told)


async def test_a_new_issuer_is_there_before_the_workers_need_it(
    on: Stage, server: JwksServer, second: JwksServer
) -> None:
    """A reload that adds an issuer has told its keys before it offers the configuration."""
    async with serving(on, issuer(server)) as trust:
        async with trust.change(configured(issuer(server), issuer(second, "corp")), OUTBOUND):
            assert on.told[-1] == {"corp": OTHER}
        assert trust.keys == {"dev": GOOD, "corp": OTHER}
        assert server.fetches == 1


async def test_a_moved_issuer_moves_with_its_configuration(on: Stage, server: JwksServer, second: JwksServer) -> None:
    """While the workers change over neither address's keys count: no configuration ever goes by the other one's."""
    async with serving(on, issuer(server)) as trust:
        before = len(on.told)
        async with trust.change(configured(issuer(second)), OUTBOUND):
            assert (trust.keys, on.told[before:]) == ({"dev": None}, [{"dev": None}])
        assert (trust.keys, on.told[before + 1 :]) == ({"dev": OTHER}, [{"dev": OTHER}])
        server.publishes(b'{"keys": []}')
        await trust.fetch("dev")
        assert (server.fetches, second.fetches) == (1, 2)


async def test_a_configuration_goes_by_its_own_addresses(on: Stage, server: JwksServer, second: JwksServer) -> None:
    """`keys_for` gives either configuration the keys of the place that it names, and none while workers change over."""
    old, moved = configured(issuer(server)), configured(issuer(second))
    async with serving(on, issuer(server)) as trust:
        trust.publish("gateway", OTHER)
        assert (trust.keys_for(old), trust.keys_for(moved)) == ({"dev": GOOD}, {})
        async with trust.change(moved, OUTBOUND):
            assert (trust.keys_for(old), trust.keys_for(moved)) == ({}, {})
        assert (trust.keys_for(old), trust.keys_for(moved)) == ({}, {"dev": OTHER})
        assert trust.keys_for(configured(issuer(None))) == {}


async def test_another_kind_is_another_source(on: Stage, server: JwksServer) -> None:
    """Keys that were judged for one kind of token do not count for another one before they were judged for it."""
    async with serving(on, issuer(server)) as trust:
        server.publishes(b'{"keys": [{"kty": "EC", "crv": "P-256", "use": "jwt-svid"}]}')
        svid = issuer(server, kinds=("jwt-svid",), trust_domain="acme.example")
        async with trust.change(configured(svid), OUTBOUND):
            assert trust.keys == {"dev": None}
        assert trust.keys == {"dev": None}


async def test_a_refused_reload_changes_nothing(on: Stage, server: JwksServer, second: JwksServer) -> None:
    """When the workers do not take a configuration, the sources of the old one serve on and no others do."""
    async with serving(on, issuer(server)) as trust:
        with suppress(WorkersRefuse):
            async with trust.change(configured(issuer(second), issuer(second, "corp")), OUTBOUND):
                raise WorkersRefuse
        assert trust.keys == {"dev": GOOD}
        assert on.told[-1] == {"corp": None, "dev": GOOD}
        assert set(on.ages()) == {"dev"}
        fetched = second.fetches
        await trust.fetch("corp")
        await trust.fetch("dev")
        assert (server.fetches, second.fetches) == (2, fetched)


async def test_a_reload_keeps_the_last_good_keys(on: Stage, server: JwksServer) -> None:
    """X07: a reload while an issuer is out loses none of its keys, whatever else of it changes."""
    async with serving(on, issuer(server)) as trust:
        server.answers([Do.CLOSE])
        keys = KeySettings(url=server.jwks_url, refresh=60.0, stale=90.0)
        other_client = OutboundSettings(proxy="http://127.0.0.1:9")
        async with trust.change(configured(issuer(server, keys=keys, max_lifetime=60.0)), other_client):
            pass
        assert (trust.keys, server.fetches) == ({"dev": GOOD}, 1)
        server.publishes(OTHER)
        await trust.fetch("dev")
        assert trust.keys == {"dev": OTHER}
        server.answers([Do.CLOSE])
        on.clock.pass_(100)
        await trust.fetch("dev")
        assert trust.keys == {"dev": None}, "the new settings hold"


async def test_an_issuer_that_is_gone(on: Stage, server: JwksServer, second: JwksServer) -> None:
    """An issuer that left the configuration, or has a file now, is asked no more, and its keys are taken back."""
    async with serving(on, issuer(server), issuer(second, "corp")) as trust:
        async with trust.change(configured(issuer(server), issuer(None, "corp")), OUTBOUND):
            pass
        assert (trust.keys, on.told[-1]) == ({"dev": GOOD}, {"corp": None})
        assert set(on.ages()) == {"dev", "corp"}
        await trust.fetch("corp")
        assert second.fetches == 1


async def test_keys_of_the_gateway_itself(on: Stage, server: JwksServer) -> None:
    """The gateway's own public keys go the same way, and no reload takes them back."""
    async with serving(on, issuer(server)) as trust:
        trust.publish("gateway", OTHER)
        assert on.told[-1] == {"gateway": OTHER}
        async with trust.change(configured(issuer(server)), OUTBOUND):
            pass
        assert trust.keys == {"dev": GOOD, "gateway": OTHER}


async def test_trouble_is_said_once_and_seen_as_long_as_it_lasts(on: Stage, server: JwksServer) -> None:
    """X07: an issuer that is out is a warning of `/readyz` with since when and why; the log has each cause once."""
    async with serving(on, issuer(server)) as trust:
        tending = asyncio.create_task(trust.tend())
        server.answers([answer(b"", status="500 No")])
        on.clock.pass_(400)
        await _until(lambda: server.fetches == 2 and on.warnings())
        since = on.clock.now()
        on.clock.pass_(50)
        await _until(lambda: server.fetches == 3)
        trouble = f"issuer dev: keys cannot be fetched since {rfc3339(since)}: "
        reason = "the address of the JWK set answers with status 500"
        assert on.warnings() == [f"{trouble}{reason}; the last good ones are used"]
        assert (on.said("keys_not_fetched"), on.ages()) == (1, {"dev": 450.0})
        on.clock.pass_(86_400)
        await _until(lambda: trust.keys == {"dev": None})
        assert on.warnings()[0].endswith("its tokens are answered with 503")
        assert (on.told[-1], on.said("keys_too_old")) == ({"dev": None}, 1)
        server.publishes(GOOD)
        on.clock.pass_(400)
        await _until(lambda: trust.keys == {"dev": GOOD})
        assert (on.warnings(), on.said("keys_fetched_again"), on.said("keys_not_fetched")) == ([], 1, 1)
        tending.cancel()


async def _until(true: Callable[[], object]) -> None:
    """Wait until something is true; the test's time limit ends it otherwise."""
    while not true():  # noqa: ASYNC110 - it looks at another thread
        await asyncio.sleep(0.02)
