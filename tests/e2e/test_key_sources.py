"""Keys that the gateway fetches, through the real listener: new ones, lost ones, and issuers that misbehave.

Tokens bring about one fetch in 30 seconds, so each story has an issuer of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.simulator.gateway import Gateway, eventually
from tests.simulator.issuer import Issuer
from tests.simulator.jwks import JwksServer, redirect
from tests.simulator.load import Client
from tests.simulator.upstream import answer

_WORKERS = 2
_NAMES = ("dev", "flooded", "rotating", "shrinking", "revoked", "broken", "out")


@dataclass
class Source:
    """An issuer with a web server; `oidc` has it found by discovery."""

    name: str
    server: JwksServer
    oidc: bool = False
    issuer: Issuer = field(init=False)

    def __post_init__(self) -> None:
        self.issuer = Issuer(name=self.name, iss=self.server.url, kid=f"{self.name}-1")
        self.server.publishes(self.issuer.jwks())
        self.server.discovers()

    def settings(self) -> dict[str, Any]:
        """What an operator writes of it."""
        keys = {"oidc": self.server.url} if self.oidc else {"url": self.server.jwks_url}
        return {"name": self.name, "iss": self.issuer.iss, "keys": keys}

    def made_up(self, number: int) -> str:
        """A token with a key that nobody has."""
        return self.issuer.sign(self.issuer.header(kid=f"made-up-{number}"), self.issuer.claims())


@pytest.fixture(scope="module")
def sources() -> Iterator[dict[str, Source]]:
    with ExitStack() as stack:
        yield {name: Source(name, stack.enter_context(JwksServer()), name == "rotating") for name in (*_NAMES, "late")}


def identity(*sources: Source) -> dict[str, Any]:
    """The parts of a configuration that name these issuers, and an agent of each."""
    agents = [{"id": one.name, "issuer": one.name, "subject": one.issuer.subject} for one in sources]
    issuers = [one.settings() for one in sources]
    return {"identity": {"audience": "https://gateway.example", "issuers": issuers}, "agents": agents}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, sources: dict[str, Source]) -> Iterator[Gateway]:
    sources["out"].server.answers([answer(b"", status="500 No")])
    config = {"workers": _WORKERS, **identity(*(sources[name] for name in _NAMES))}
    with Gateway(tmp_path_factory.mktemp("gateway"), config=config, issuer=sources["dev"].issuer) as running:
        yield running


def said(gateway: Gateway, token: str) -> tuple[int, str]:
    """Status and code of a small call, the same on enough new connections to meet all workers."""
    replies = [gateway.call("GET", "/v1/models", token=token) for _ in range(4 * _WORKERS)]
    answers = {(reply.status, reply.refusal) for reply in replies}
    assert len(answers) == 1, answers
    return answers.pop()


OK, INVALID, OUT = (200, ""), (401, "identity_invalid"), (503, "identity_source_unavailable")


async def _flood(port: int, tokens: list[str]) -> list[int]:
    """Send them as fast as a few connections can; gives the status of each."""
    left, statuses = iter(tokens), []

    async def agent() -> None:
        client = Client(port, "")
        for client.token in left:
            statuses.append((await client.request("GET", "/v1/models")).status)
        await client.close()

    await asyncio.gather(*(agent() for _ in range(8)))
    return statuses


def test_a_flood_of_unknown_keys(gateway: Gateway, sources: Mapping[str, Source]) -> None:
    """I20: 400 tokens with made-up keys bring about one fetch at most, and good tokens are served between them."""
    flooded = sources["flooded"]
    before = flooded.server.fetches
    good = flooded.issuer.token()
    tokens = [good if number % 5 == 0 else flooded.made_up(number) for number in range(500)]
    statuses = asyncio.run(_flood(gateway.port, tokens))
    assert (statuses.count(200), statuses.count(401)) == (100, 400)
    assert flooded.server.fetches <= before + 1


def test_a_new_key_is_found_by_its_first_token(gateway: Gateway, sources: Mapping[str, Source]) -> None:
    """A provider that has begun to sign with a new key is asked once, and all workers know it from then on."""
    rotating = sources["rotating"]
    new = Issuer(name="rotating", iss=rotating.issuer.iss, kid="rotating-2")
    before = rotating.server.fetches
    rotating.server.publishes(json.dumps({"keys": [rotating.issuer.jwk(), new.jwk()]}).encode())
    assert said(gateway, new.token()) == OK
    assert said(gateway, rotating.issuer.token()) == OK
    assert rotating.server.fetches == before + 1


def test_a_key_that_left_the_set(gateway: Gateway, sources: Mapping[str, Source]) -> None:
    """I22: with the next fetch a key that is gone verifies nothing, in no worker, and not what it verified before."""
    shrinking = sources["shrinking"]
    token = shrinking.issuer.token()
    assert said(gateway, token) == OK
    new = Issuer(name="shrinking", iss=shrinking.issuer.iss, kid="shrinking-2")
    shrinking.server.publishes(new.jwks())
    assert said(gateway, new.token()) == OK
    assert said(gateway, token) == INVALID


def test_all_keys_revoked(gateway: Gateway, sources: Mapping[str, Source]) -> None:
    """I22: an empty set is taken at its word: no token of that issuer counts, and nobody calls it an outage."""
    revoked = sources["revoked"]
    token = revoked.issuer.token()
    assert said(gateway, token) == OK
    revoked.server.publishes(b'{"keys": []}')
    assert gateway.call("GET", "/v1/models", token=revoked.made_up(1)).status == 401
    assert said(gateway, token) == INVALID
    assert "issuer revoked" not in gateway.ready()[1]


def test_an_issuer_that_breaks(gateway: Gateway, sources: Mapping[str, Source]) -> None:
    """I21, S02, X07: an issuer that redirects inside is not followed, its tokens hold, and operators hear of it."""
    broken = sources["broken"]
    token, before = broken.issuer.token(), broken.server.fetches
    inside = sources["dev"].server
    inside_before = inside.fetches
    broken.server.answers(redirect(inside.jwks_url))
    assert gateway.call("GET", "/v1/models", token=broken.made_up(1)).status == 401
    assert broken.server.fetches > before
    assert inside.fetches == inside_before
    assert said(gateway, token) == OK
    status, text = gateway.ready()
    assert status == 200
    assert "[warning] issuer: issuer broken: keys cannot be fetched since 20" in text
    assert "status 302; the last good ones are used" in text
    assert gateway.metrics()['passgate_jwks_age_seconds{issuer="broken"}'] > 0
    mine = [line for line in gateway.log() if line["event"] == "keys_not_fetched" and line["issuer"] == "broken"]
    assert len(mine) == 1


def test_an_issuer_that_is_out_from_the_start(gateway: Gateway, sources: Mapping[str, Source]) -> None:
    """X07: the gateway starts without an issuer's keys, answers its tokens with a clear 503, and heals by itself."""
    out = sources["out"]
    token = out.issuer.token()
    reply = gateway.call("GET", "/v1/models", token=token)
    assert (reply.status, reply.refusal) == OUT
    assert "issuer out" in reply.body.decode()
    assert out.server.url not in reply.body.decode()
    assert 1 <= int(reply.headers["retry-after"]) <= 30
    assert said(gateway, sources["dev"].issuer.token()) == OK
    status, text = gateway.ready()
    assert status == 200
    assert "its tokens are answered with 503" in text
    assert 'passgate_jwks_age_seconds{issuer="out"}' not in gateway.metrics()
    out.server.publishes(out.issuer.jwks())
    eventually(lambda: "issuer out" not in gateway.ready()[1], "the keys are not fetched again")
    assert said(gateway, token) == OK


def test_a_new_worker_knows_the_keys(gateway: Gateway, sources: Mapping[str, Source]) -> None:
    """A worker that takes a dead one's place gets the keys from the supervisor, and nobody fetches them again."""
    dev = sources["dev"]
    assert said(gateway, dev.issuer.token()) == OK
    fetches, pids = dev.server.fetches, gateway.worker_pids()
    os.kill(pids[0], signal.SIGKILL)
    eventually(lambda: len({*gateway.worker_pids()} - {pids[0]}) == _WORKERS, "no new worker")
    assert said(gateway, dev.issuer.token()) == OK
    assert dev.server.fetches == fetches


def test_an_issuer_comes_and_goes(gateway: Gateway, sources: Mapping[str, Source]) -> None:
    """A reload that adds an issuer has its keys at once; one that removes it ends its tokens and asks it no more."""
    late, before = sources["late"], dict(gateway.config)
    token = late.issuer.token()
    assert said(gateway, token) == INVALID
    gateway.config |= identity(*(sources[name] for name in _NAMES), late)
    gateway.write_config()
    assert gateway.reload() == []
    assert said(gateway, token) == OK
    assert late.server.fetches == 1
    gateway.config |= before
    gateway.write_config()
    assert gateway.reload() == []
    assert said(gateway, token) == INVALID
    assert said(gateway, sources["dev"].issuer.token()) == OK


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"url": "file:///etc/passwd"}, "is not an http or https address"),
        ({"url": "gopher://keys.example/"}, "is not an http or https address"),
        ({"oidc": "ftp://keys.example/"}, "is not an http or https address"),
        ({"url": "https://user:secret@keys.example/"}, "may not carry credentials"),
        ({"url": "http://keys.example/jwks.json"}, "without TLS"),
        ({"oidc": "http://10.0.0.1"}, "without TLS"),
        ({"url": "https://keys.example/", "oidc": "https://keys.example"}, "names url and oidc"),
    ],
    ids=str,
)
def test_where_keys_may_not_come_from(
    gateway: Gateway, sources: Mapping[str, Source], keys: dict[str, str], problem: str
) -> None:
    """S02: other schemes, credentials in an address and fetching without TLS are mistakes; the old state stays."""
    before = dict(gateway.config)
    changed = identity(*(sources[name] for name in _NAMES))
    changed["identity"]["issuers"][0]["keys"] = keys
    gateway.config |= changed
    gateway.write_config()
    said_so = gateway.reload()
    gateway.config |= before
    gateway.write_config()
    assert any(problem in one for one in said_so), said_so
    assert said(gateway, sources["dev"].issuer.token()) == OK
