"""I20 at its full rate: tokens with made-up keys beside good calls. `make soak` prints what the flood costs these."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from gateway.identity.keysource import FORCED_EVERY
from tests.simulator.flood import Flood
from tests.simulator.gateway import Gateway
from tests.simulator.issuer import Issuer, b64
from tests.simulator.jwks import JwksServer
from tests.simulator.load import Client
from tests.simulator.soak import SECONDS

_RATE = 2000.0
_AGENTS = 4
_PAUSE = 0.02
"""Seconds between two calls of one good agent."""
_KEYS = 5000
_TURNS = 3


@pytest.fixture
def server() -> Iterator[JwksServer]:
    with JwksServer() as running:
        yield running


def _made_up(issuer: Issuer) -> list[str]:
    """Headers with as many unknown keys; nobody looks at the signature, so that one does for all."""
    _, claims, signature = issuer.token().split(".")
    heads = (b64(b'{"alg":"EdDSA","typ":"at+jwt","kid":"made-up-%d"}' % number) for number in range(_KEYS))
    return [f"Authorization: Bearer {head}.{claims}.{signature}" for head in heads]


async def _good(gateway: Gateway, seconds: float) -> list[float]:
    """What agents wait for their answers, in seconds, sorted; fails where one gets none."""
    waited: list[float] = []
    until = time.monotonic() + seconds

    async def agent() -> None:
        client = Client(gateway.port, gateway.token())
        while time.monotonic() < until:
            began = time.perf_counter()
            got = await client.chat()
            waited.append(time.perf_counter() - began)
            assert got.complete, got
            await asyncio.sleep(_PAUSE)
        await client.close()

    await asyncio.gather(*(agent() for _ in range(_AGENTS)))
    return sorted(waited)


@pytest.mark.soak
async def test_a_flood_of_unknown_keys_beside_good_calls(
    tmp_path: Path, server: JwksServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """I20: at 2,000 unknown keys a second their issuer is asked once in 30 s, and every good call is answered."""
    issuer = Issuer(iss=server.url)
    server.publishes(issuer.jwks())
    source = {"name": "dev", "iss": issuer.iss, "keys": {"url": server.jwks_url, "refresh": "1d"}}
    config = {"workers": 2, "identity": {"audience": issuer.audience, "issuers": [source]}, "log": {"access": False}}
    seconds = max(SECONDS / 3 / _TURNS, 1.0)
    waits: dict[str, list[list[float]]] = {"alone": [], "beside as many calls without a token": [], "in the flood": []}
    unknown = _made_up(issuer)
    with Gateway(tmp_path, config=config, issuer=issuer) as gateway:
        before, began, sent = server.fetches, time.monotonic(), 0
        for _ in range(_TURNS if SECONDS else 1):
            for name, found in waits.items():
                headers = {"alone": [], "in the flood": unknown}.get(name, ["X-Nothing: 1"])
                if not (SECONDS or headers is unknown):
                    continue
                flood = Flood(gateway.port, headers, _RATE, seconds) if headers else None
                with flood or nullcontext():
                    found.append(await _good(gateway, seconds))
                if flood is not None:
                    assert set(flood.answers) == {"401"}
                    sent += flood.answers["401"] if headers is unknown else 0
        allowed = 1 + math.floor((time.monotonic() - began) / FORCED_EVERY)
    assert 1 <= server.fetches - before <= allowed
    if SECONDS:
        with capsys.disabled():
            print(f"\n{sent} tokens with unknown keys, {server.fetches - before} fetches ({allowed} allowed)")
            for name, found in waits.items():
                p50, p99 = (statistics.median(turn[int(len(turn) * q)] for turn in found) * 1e3 for q in (0.5, 0.99))
                print(f"good calls {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms ({sum(map(len, found))} calls)")
