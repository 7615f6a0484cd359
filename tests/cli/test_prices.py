"""`passgate prices`, as somebody at a terminal sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main

CONFIG = """
identity:
  audience: https://gateway.example
  issuers: [{name: dev, iss: "https://issuer.example", keys: {file: keys.json}}]
agents: [{id: a, issuer: dev, subject: "agent:a"}]
providers:
  mine: {dialects: [openai], base_url: "https://api.openai.com/v1", api_key: secret}
models: {"*": {targets: [{provider: mine}]}}
prices:
  "mine/local-*": [{from: 2026-01-01, input: "0.15", output: "0.60"}]
"""


@pytest.fixture(name="config")
def config_file(tmp_path: Path) -> str:
    """A config with a provider and prices of its own."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return str(path)


def run(*argv: str) -> int:
    """Parse and run one command line."""
    return main(["prices", *argv])


def as_json(capsys: pytest.CaptureFixture[str]) -> Any:  # noqa: ANN401 -- any JSON
    """What was printed."""
    return json.loads(capsys.readouterr().out)


def test_show_prints_a_models_prices_as_exact_decimals(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The price is found at each provider that has the model; one without its own price says so."""
    assert run("show", "gpt-4o", "--config", config, "--format", "json") == 0
    found = as_json(capsys)
    assert [entry["provider"] for entry in found] == ["openai", "mine"]
    assert found[0]["usd_per_million"]["input"] == "2.5"
    assert "reasoning" in found[0]["assumed"]
    assert run("show", "mine/local-7b", "--config", config) == 0
    said = capsys.readouterr().out
    assert said.startswith("mine/local-7b  (config-2026-01-01; USD per million tokens)\n  input               0.15\n")
    assert "  cached_input        0.15  no price of its own\n" in said


def test_show_goes_back_in_time(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--at` gives the price of a day, from midnight UTC, or of a moment."""
    for when, usd in (("2025-06-09", "10"), ("2025-06-10", "2"), ("2025-06-10T01:00:00+02:00", "10")):
        assert run("show", "openai/o3", "--at", when, "--config", config, "--format", "json") == 0
        assert as_json(capsys)[0]["usd_per_million"]["input"] == usd


def test_show_tells_the_tiers(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A long input is dearer, and from where on."""
    assert run("show", "anthropic/claude-sonnet-4-5", "--config", config) == 0
    assert (
        "above 200000 input tokens: input 6, cached_input 0.6, cache_write 7.5, output 22.5" in capsys.readouterr().out
    )


def test_a_model_without_a_price_is_a_finding(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, and what to do."""
    assert run("show", "nothing-1", "--config", config) == 1
    assert "no price is known for nothing-1; add one under `prices`" in capsys.readouterr().err


def test_list_gives_the_configs_prices_and_the_books(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of one provider, or of all; a provider without prices is a finding."""
    assert run("list", "--config", config, "--format", "json") == 0
    found = as_json(capsys)
    assert (found[0]["provider"], found[0]["model"]) == ("mine", "local-*")
    assert len(found) > 250
    assert run("list", "--provider", "deepseek", "--config", config) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3
    assert all(line.startswith("deepseek/") for line in lines[1:])
    assert run("list", "--provider", "nobody", "--config", config) == 1
    assert "there are no prices of nobody" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "says"),
    [(("--at", "yesterday"), "--at yesterday is not a date"), (("--config", "/nowhere/config.yaml"), "/nowhere")],
)
def test_wrong_use_is_a_sentence(
    config: str, argv: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, without a traceback."""
    assert run("show", "gpt-4o", *(argv if "--config" in argv else (*argv, "--config", config))) == 2
    assert says in capsys.readouterr().err


def test_the_configs_mistakes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half a price is a mistake here as at start."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace(', output: "0.60"', ""))
    assert run("list", "--config", str(path)) == 2
    assert "needs both input and output" in capsys.readouterr().err
