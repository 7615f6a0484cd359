"""`passgate token inspect`, as an operator types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from tests.simulator.issuer import Issuer

CONFIG = """
identity:
  audience: https://gateway.example
  issuers:
    - {name: dev, iss: https://issuer.example, keys: {file: jwks.json}}
    - {name: corp, iss: https://corp.example, kinds: [at+jwt], keys: {url: "https://corp.example/jwks"}}
agents:
  - {id: buyer, issuer: dev, subject: agent/buyer}
  - {id: seller, issuer: corp, subject: agent/seller}
"""
ISSUER = Issuer(subject="agent/buyer")
CORP = Issuer(name="corp", iss="https://corp.example", kind="at+jwt", subject="agent/seller")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "jwks.json").write_bytes(ISSUER.jwks())
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    return file


def inspect(config: Path, *words: str) -> int:
    """Run the command with this configuration."""
    try:
        return main(["token", "inspect", *words, "--config", str(config)])
    except SystemExit as left:  # argparse's own refusals
        return int(str(left.code))


def test_a_good_token(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A good token is shown with its claims, its agent and its run, and never with its signature."""
    token = ISSUER.token(run="order-17", act={"sub": "agent/buyer"}, sub="user/anna")
    assert inspect(config, token) == 0
    said = capsys.readouterr().out
    for part in (
        '"run": "order-17"',
        "agent         buyer",
        "on_behalf_of  user/anna",
        "run           order-17",
        "key-1",
    ):
        assert part in said
    assert "accepted" in said
    assert token.rpartition(".")[2] not in said
    assert token.split(".")[1] not in said


@pytest.mark.parametrize("way", ["-", "@", "argument", ""])
def test_ways_to_give_a_token(way: str, config: Path) -> None:
    """By standard input, from a file and as an argument, with the white space that copying adds."""
    token = ISSUER.token()
    (config.parent / "t.txt").write_text(f"{token}\r\n")
    given = {"-": ["-"], "@": [f"@{config.parent / 't.txt'}"], "argument": [token], "": []}[way]
    command = [sys.executable, "-m", "gateway", "token", "inspect", *given, "--config", str(config)]
    ran = subprocess.run(command, input=f"\n {token} \n", capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "accepted" in ran.stdout


def test_all_reasons(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A refused token has all its reasons told, each with its step, what was found and what to do."""
    token = ISSUER.token(aud="https://other.example", exp=1_700_000_000, iat=1_699_999_000, run="a/b")
    assert inspect(config, token) == 1
    said = capsys.readouterr().out
    for part in (
        " 12 aud       refused    aud 'https://other.example'",
        " 14 run       refused",
        " 16 expiry    refused",
    ):
        assert part in said
    assert "`aud` https://gateway.example" in said
    assert "refused: 3 reasons" in said
    assert token.rpartition(".")[2] not in said


def test_for_programs(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--format json` has the same, and the signature as little."""
    token = ISSUER.token(cnf={"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"})
    assert inspect(config, token, "--format", "json") == 0
    text = capsys.readouterr().out
    said: Any = json.loads(text)
    assert said["accepted"] is True
    assert said["header"]["kid"] == "key-1"
    assert said["claims"]["sub"] == "agent/buyer"
    assert said["caller"]["agent"] == "buyer"
    assert said["caller"]["binding"].startswith("jkt 0ZcOC")
    assert said["caller"]["assurance"] == "bound"
    assert [step["outcome"] for step in said["steps"]] == ["ok"] * len(said["steps"])
    assert token.rpartition(".")[2] not in text
    assert inspect(config, "a.b.c", "--format", "json") == 1
    refused: Any = json.loads(capsys.readouterr().out)
    assert (refused["accepted"], refused["header"], refused["claims"]) == (False, None, None)


@pytest.mark.parametrize(
    ("when", "code"), [("2026-11-20T10:59:00Z", 0), ("1795176000", 1), ("2026-11-20T12:00:00Z", 1)]
)
def test_at_another_time(when: str, code: int, config: Path) -> None:
    """`--at` asks what a gateway would have said then."""
    start = 1_795_168_800  # 2026-11-20T10:00:00Z
    assert inspect(config, ISSUER.token(start), "--at", when) == code


def test_at_an_address(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A token for one MCP server is refused at any other address."""
    config.write_text(CONFIG + "listen: {agents: {public_url: https://gateway.example}}\n")
    token = ISSUER.token(aud="https://gateway.example/mcp/github")
    assert inspect(config, token) == 0
    assert "mcp_server    github" in capsys.readouterr().out
    assert inspect(config, token, "--address", "/v1/chat/completions") == 1
    assert " 18 address   refused" in capsys.readouterr().out


def test_fetched_keys(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where an issuer's keys are fetched, the command asks for a saved set, and judges all else without it."""
    token, saved = CORP.token(), config.parent / "saved.json"
    saved.write_bytes(CORP.jwks())
    assert inspect(config, token) == 2
    printed = capsys.readouterr()
    assert "--keys corp=FILE" in printed.err
    assert "  9 signature not judged" in printed.out
    assert inspect(config, CORP.token(aud="x")) == 1
    for given in (f"corp={saved}", str(saved)):
        assert inspect(config, token, "--keys", given) == 0
    saved.write_bytes(Issuer(name="corp").jwks())
    assert inspect(config, token, "--keys", f"corp={saved}") == 1
    assert "  9 signature refused" in capsys.readouterr().out


def test_a_sub_agents_token(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A token that the gateway itself signed is looked into with the keys that it publishes."""
    own, saved = Issuer(iss="https://gateway.example", kind="at+jwt", alg="ES256"), config.parent / "own.json"
    saved.write_bytes(own.jwks())
    token = own.token()
    assert inspect(config, token) == 1  # nobody acts in it
    assert " 15 kind      refused" in capsys.readouterr().out
    assert inspect(config, token, "--keys", f"gateway={saved}") == 1
    said = capsys.readouterr().out
    assert "  9 signature ok" in said
    assert "needs act" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["@nowhere.txt"], "No such file"),
        (["@"], "directory"),
        (["pgk_x"], "an API key"),
        ([""], "there is no token"),
        (["a.b.c", "--at", "noon"], "write 2026-11-20T10:00:00Z"),
        (["a.b.c", "--address", "/../x"], "--address"),
        (["a.b.c", "--keys", "corp=nowhere.json"], "No such file"),
    ],
)
def test_wrong_use(words: list[str], said: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be looked at is a sentence and exit code 2, never a traceback."""
    assert inspect(config, *words) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("broken", [b"", b"{", b'{"keys": 1}', b'{"keys": [{"kty": "oct", "k": "x"}]}'])
def test_broken_key_sets(broken: bytes, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A saved set that cannot be read, or that holds a secret, is named as such."""
    saved = config.parent / "saved.json"
    saved.write_bytes(broken)
    assert inspect(config, CORP.token(), "--keys", f"corp={saved}") == 2
    assert "corp: " in capsys.readouterr().err


def test_what_a_token_says_stays_text(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """S06: escape sequences and invisible characters in a token never reach the terminal as they are."""
    token = ISSUER.token(sub="\x1b[31mred\u202e\u200b", kid="\x9b", note="\x1b]0;x\x07", run="\x1b", aud="\x1b[2J")
    header = ISSUER.header(kid="\x1b[31m", typ="\u202ex")
    for one in (token, ISSUER.sign(header, ISSUER.claims(sub="\x1b[31m")), "\x1b[31m", "a\u202e.b.c"):
        assert inspect(config, one) == 1
        printed = capsys.readouterr()
        for text in (printed.out, printed.err):
            assert text.replace("\n", "").isprintable()
            assert text.isascii()


def test_help_warns_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The help has an example and says that an argument can be read by others."""
    with pytest.raises(SystemExit):
        main(["token", "inspect", "--help"])
    said = capsys.readouterr().out
    assert "can be read by everybody on this machine" in said
    assert "passgate token inspect < token.txt" in said
