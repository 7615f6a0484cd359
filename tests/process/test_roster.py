"""What an operator can name, and what there cannot be: a stop that stops nothing is never taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import Settings, load
from gateway.core.errors import Refusal
from gateway.core.principal import StopKey
from gateway.core.sources import KeptSources
from gateway.identity.kinds import MAX_NAME
from gateway.process.roster import stoppable

CONFIG = """
identity:
  audience: https://gateway.example
  issuers: [{{name: dev, iss: "https://issuer.example", keys: {{file: keys.json}}}}]
agents: [{agents}]
providers: {{demo: {{dialects: [openai], base_url: "builtin:demo"}}}}
models: {{small: {{targets: [{{provider: demo}}]}}}}
"""


def settings(*ids: str) -> Settings:
    agents = ", ".join(f'{{id: {one}, issuer: dev, subject: "agent:{one}"}}' for one in ids)
    files = {"c/config.yaml": CONFIG.format(agents=agents).encode()}
    return load(Path("c/config.yaml"), KeptSources(files, {}, {})).settings


def test_a_run_is_an_agents_and_no_childs() -> None:
    """Children are in the runs of their agent: a run of theirs would be a stop that stops nothing."""
    one = settings("procurement")
    assert stoppable(one, "run", "r-1", "procurement") == StopKey("run", "procurement/r-1")
    assert stoppable(one, "agent", "procurement/reader") == StopKey("agent", "procurement/reader")
    with pytest.raises(Refusal, match="there is no agent 'procurement/reader'"):
        stoppable(one, "run", "r-1", "procurement/reader")


def test_every_token_that_is_accepted_can_be_named() -> None:
    """An id may be as long as a token's `jti`, and no longer."""
    one = settings("procurement")
    assert stoppable(one, "token", "x" * MAX_NAME) == StopKey("token", "x" * MAX_NAME)
    with pytest.raises(Refusal, match="this is not the id of a token"):
        stoppable(one, "token", "x" * (MAX_NAME + 1))


def test_of_many_agents_those_are_told_that_begin_alike() -> None:
    """Whoever mistypes one of thousands reads a few names, the likeliest first."""
    one = settings(*(f"{team}-{number}" for team in ("sales", "finance") for number in range(50)))
    with pytest.raises(Refusal) as caught:
        stoppable(one, "agent", "finance-4x")
    listed = caught.value.sentence.partition("there are ")[2]
    assert listed.startswith("finance-4, finance-40, ")
    assert listed.endswith(", … (100 in all)")
    assert "sales" not in listed


def test_what_is_stopped_can_be_named_whatever_became_of_it() -> None:
    """An agent or issuer that left the configuration can still be started again, and is no stop that stays for good."""
    gone = StopKey("agent", "retired"), StopKey("issuer", "former")
    for key in gone:
        with pytest.raises(Refusal):
            stoppable(settings("procurement"), key.kind, key.id)
        assert stoppable(settings("procurement"), key.kind, key.id, stopped=gone) == key
