"""The configuration in force: changed files are taken over, or it is said for as long as they stand why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.build import prepare
from gateway.config import Config, load
from gateway.core.errors import Refusal
from gateway.core.sources import DiskSources
from gateway.identity.issue import add_key
from gateway.process.channel import ChannelError
from gateway.process.in_force import InForce
from gateway.process.messages import (
    Prepare,
)
from gateway.process.reading import Read
from gateway.process.trust import Trust
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer

CONFIG = """
state: {durable: sqlite:state/passgate.db}
identity:
  audience: https://gateway.example
  issuers: [{name: dev, iss: "https://issuer.example", keys: {file: keys.json}}]
agents: [{id: a, issuer: dev, subject: "agent:a"}]
providers: {demo: {dialects: [openai], base_url: "builtin:demo"}}
models: {small: {targets: [{provider: demo}]}}
log: {level: error}
"""


@pytest.fixture
def now(tmp_path: Path) -> InForce:
    """A gateway's configuration, with a key of its issuer."""
    add_key(tmp_path / "keys.json", "EdDSA", rotate=False)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "policies").mkdir()
    sources = DiskSources()
    config = load(tmp_path / "config.yaml", sources)
    taken = Read(config, prepare(config, sources).policy.image, 0)
    in_force = InForce(taken, sources, SetClock())
    in_force.demo_url = "http://127.0.0.1:9"
    return in_force


async def test_a_bad_file_is_told_of_until_it_is_put_back(now: InForce, tmp_path: Path) -> None:
    """A warning about files that stand as they are in force would send an operator looking for nothing."""
    taken: list[int] = []

    async def change(_: Config, offer: Prepare) -> None:
        taken.append(offer.generation)

    file = tmp_path / "keys.json"
    good = file.read_bytes()
    for _ in range(2):  # the second time is no less wrong than the first
        file.write_bytes(b"{}")
        await now.look(change)
        assert any("a JWK set needs a list of keys" in problem for problem in now.problems)
        await now.look(change)
        assert now.problems
        file.write_bytes(good)
        await now.look(change)
        assert not now.problems
    assert not taken
    add_key(file, "EdDSA", rotate=True)
    await now.look(change)
    assert (len(taken), now.problems) == (1, [])


async def test_operators_of_an_issuer_change_with_the_configuration(now: InForce, tmp_path: Path) -> None:
    """Who may, and whose keys count, is what is in force: a change that is refused lets nobody in or out."""
    refused = False

    async def change(_: Config, __: Prepare) -> None:
        if refused:
            raise ChannelError("no worker took it")

    async def who(issuer: Issuer) -> str:
        try:
            token = issuer.token(SetClock().now(), sub="user/desk")
            return (await now.operators.identify([f"Bearer {token}"])).id
        except Refusal as refusal:
            return refusal.code

    def write(operator: str, issuer: Issuer) -> None:
        entry = f"{{id: {operator}, issuer: dev, subject: user/{operator}, roles: [viewer]}}"
        (tmp_path / "config.yaml").write_text(f"operators: [{entry}]\n{CONFIG}")
        (tmp_path / "keys.json").write_bytes(issuer.jwks())

    old, new = Issuer(), Issuer(kid="key-2")
    now.admit_operators(Trust(lambda _: None, lambda: now.log, SetClock()), lambda _: None)
    assert await who(old) == "identity_invalid"
    write("desk", old)
    assert await now.reload(change) == []
    assert await who(old) == "desk"
    write("desk", new)
    refused = True
    await now.look(change)
    assert (await who(old), await who(new)) == ("desk", "identity_invalid")
    refused = False
    await now.look(change)
    assert (await who(old), await who(new)) == ("identity_invalid", "desk")
    write("other", new)
    assert await now.reload(change) == []
    assert await who(new) == "identity_invalid"
