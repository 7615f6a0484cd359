"""The command `passgate`: every command has help with an example, or says that it is not built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli import NOT_BUILT, main

LISTED = [
    *("serve", "check", "schema", "demo", "exec", "keys", "token", "agents", "policy", "attest", "route", "runs"),
    *("approvals", "cache", "budgets", "prices", "spend", "audit", "state", "show", "tail"),
]
BUILT = [name for name in LISTED if name not in NOT_BUILT]
CONFIG = """
identity: {audience: "https://gateway.example", issuers: [{name: dev, iss: "https://issuer.example", keys: {file: k}}]}
providers: {real: {dialects: [openai], base_url: "https://llm.example/v1", api_key: "${env:NOBODY_SET_THIS}"}}
"""


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    try:
        code = main(words)
    except SystemExit as end:  # argparse leaves so
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    "words",
    [
        *([name] for name in BUILT),
        *(["spend", "report"], ["spend", "export"], ["prices", "list"], ["prices", "show"]),
        *(["keys", "new"], ["keys", "jwks"], ["token", "mint"], ["attest", "sign"], ["attest", "verify"]),
        *(["audit", "verify"], ["audit", "key"]),
        *(["agents", name] for name in ("list", "show", "stop", "start")),
        *(["approvals", name] for name in ("list", "show", "approve", "deny")),
        *(["policy", name] for name in ("lint", "test", "coverage", "explain", "replay", "diff", "sign", "verify")),
    ],
    ids=" ".join,
)
def test_help_has_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """§10: each command, and each below it, shows how it is used."""
    code, out, _ = said(capsys, *words, "--help")
    assert code == 0
    assert f"passgate {words[0]}" in out.partition("example:")[2]


@pytest.mark.parametrize("name", NOT_BUILT)
@pytest.mark.parametrize("more", [(), ("--help",), ("--refused",), ("list", "--format", "json")], ids=" ".join)
def test_a_command_that_is_not_built_says_so(
    name: str, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """§10: whatever is asked of it: one sentence with what serves meanwhile, and the exit code of wrong use."""
    code, out, err = said(capsys, *name.split(), *more)
    assert (code, out) == (2, "")
    assert err.startswith(f"passgate {name} is not built yet; ")
    assert err.count("\n") == 1


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """§10: what is built with its purpose, what is not as such."""
    code, out, _ = said(capsys, "--help")
    built, _, later = out.partition("not built yet: ")
    assert code == 0
    assert all(f"\n    {name} " in built for name in BUILT)
    assert all(name in later for name in NOT_BUILT)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["bogus"],
        ["check", "--config", "\udcff"],
        ["spend", "export", "--format", "focus", "--focus-version", "1.2"],
        ["prices", "show", "gpt-4o", "--at", "0"],
        ["token", "mint", "--agent", "a", "--ttl", "9" * 99 + "d"],
        ["exec", "--agent", "a"],
    ],
    ids=repr,
)
def test_wrong_use_is_a_sentence(words: list[str], tmp_path: Path) -> None:
    """§10: exit code 2 and words on standard error, never a traceback."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "gateway", *words]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": root}, capture_output=True, timeout=50, check=False)
    assert done.returncode == 2
    assert done.stderr
    assert b"Traceback" not in done.stderr


def test_an_empty_variable_names_no_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """§10: `PASSGATE_CONFIG=` means what its absence means."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PASSGATE_CONFIG", "")
    assert "config.yaml:1: the configuration cannot be read" in said(capsys, "check")[2]


def test_spend_needs_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """§8: who reads the ledger has no provider's key in the environment; `check` and `serve` still want it."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG + 'state: {durable: "sqlite:none.db"}\n')
    code, _, err = said(capsys, "spend", "report", "--config", str(config))
    assert "NOBODY_SET_THIS" not in err
    assert "none.db" in err
    assert code == 2
    assert "NOBODY_SET_THIS is unset" in said(capsys, "check", "--config", str(config))[2]
