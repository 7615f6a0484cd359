"""The configuration in force: changed files are taken over, or it is said for as long as they stand why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.build import prepare
from gateway.config import Config, load
from gateway.core.sources import DiskSources
from gateway.identity.issue import add_key
from gateway.process.channel import Prepare
from gateway.process.in_force import InForce
from tests.simulator.clock import SetClock

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
    prepare(config, sources)
    in_force = InForce(config, sources, SetClock())
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
