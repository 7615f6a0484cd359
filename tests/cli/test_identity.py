"""`passgate keys`, `token` and `exec`, as a developer types them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli import identity as commands
from gateway.cli import main
from gateway.config import load
from gateway.core.clock import SystemClock
from gateway.core.principal import Principal
from gateway.core.sources import DiskSources
from gateway.identity import Identity
from gateway.identity.jose import from_base64url
from gateway.identity.operators import OperatorTokens, Subject
from tests.identity import door

CONFIG = """
listen: {agents: {bind: "0.0.0.0:8123"}}
identity:
  audience: https://gateway.example
  issuers:
    - {name: dev, iss: https://dev.example, keys: {file: var/jwks.json}}
agents:
  - {id: buyer, issuer: dev, subject: agent/buyer}
"""

OPERATORS = f"""
operators:
  - {{id: desk, issuer: dev, subject: user/desk, roles: [viewer]}}
  - {{id: root, token_sha256: {"a" * 64}, roles: [operator]}}
"""

ECHO = "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv[1:]])); sys.exit(7)"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    return file


def passgate(config: Path, *words: str) -> int:
    """Run a command with this configuration."""
    at = words.index("--") if "--" in words else len(words)
    return main([*words[:at], "--config", str(config), *words[at:]])


def identify(config: Path, token: str) -> Principal:
    """What a gateway with this configuration makes of a token."""
    settings = load(config, DiskSources()).settings
    identity = Identity.build(settings.identity, settings.agents, DiskSources(), SystemClock(), None)
    return door.identify(identity, door.head(("x-api-key", token)))


def test_key_and_token(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key and a token are two commands away, and the token is all that the second one prints."""
    assert passgate(config, "keys", "new") == 0
    said = capsys.readouterr().out
    assert "var/jwks.private.json" in said
    assert json.loads((config.parent / "var/jwks.private.json").read_bytes())["d"] not in said
    assert passgate(config, "token", "mint", "--agent", "buyer", "--ttl", "90s", "--run", "r-1", "--inc", "i-1") == 0
    printed = capsys.readouterr()
    principal = identify(config, printed.out.removesuffix("\n"))
    assert (principal.agent.id, principal.run, principal.incarnation) == ("buyer", "r-1", "i-1")
    assert printed.err == ""


def test_an_operators_token(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--operator` prints what the admin listener takes: its subject, this gateway, a lifetime, and nothing else."""
    config.write_text(f"{OPERATORS}{CONFIG}")
    passgate(config, "keys", "new")
    capsys.readouterr()
    assert passgate(config, "token", "mint", "--operator", "desk", "--ttl", "90s") == 0
    token = capsys.readouterr().out.removesuffix("\n")
    settings = load(config, DiskSources()).settings
    operators = OperatorTokens(
        [Subject("dev", "user/desk")],
        settings.identity,
        settings.agents,
        DiskSources(),
        SystemClock(),
        keys=dict,
        fetch=_nothing,
        stopped=lambda _: None,
    )
    assert asyncio.run(operators.verify(token)) == ("dev", "user/desk")
    claims = json.loads(from_base64url(token.split(".")[1]))
    assert claims.keys() == {"iss", "sub", "aud", "iat", "exp", "jti"}
    assert claims["exp"] - claims["iat"] == 90


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--operator", "nobody"],
            "there is no operator 'nobody': add it under `operators:`, or use one of desk, root",
        ),
        (["--operator", "root"], "operator root has a token of its own (token_sha256)"),
        (["--operator", "desk", "--run", "r"], "--operator goes with --ttl and --key"),
        (["--operator", "desk", "--inc", "i"], "--operator goes with --ttl and --key"),
        (["--operator", "desk", "--subject", "user/x"], "--operator goes with --ttl and --key"),
        (["--operator", "desk", "--on-behalf-of", "user/x"], "--operator goes with --ttl and --key"),
        (["--operator", "desk", "--parent-run", "r"], "--operator goes with --ttl and --key"),
        (["--operator", "desk", "--ttl", "30d"], "max_lifetime"),
        (["--operator", "desk", "--agent", "buyer"], "not allowed with argument"),
        ([], "one of the arguments --agent --operator is required"),
    ],
)
def test_no_token_for_an_operator(
    words: list[str], said: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an operator's token cannot be or say is a sentence and exit code 2."""
    config.write_text(f"{OPERATORS}{CONFIG}")
    try:
        code = passgate(config, "token", "mint", *words)
    except SystemExit as caught:  # the parser's own
        code = caught.code if isinstance(caught.code, int) else 0
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert said in printed.err


async def _nothing(_: str) -> None:
    """Nothing is fetched."""


def test_second_key(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second `keys new` changes nothing, with `--if-missing` without complaint, unless it is to rotate."""
    secret = config.parent / "var/jwks.private.json"
    assert passgate(config, "keys", "new", "--if-missing") == 0
    before = secret.read_bytes()
    assert passgate(config, "keys", "new") == 2
    assert "--rotate" in capsys.readouterr().err
    assert passgate(config, "keys", "new", "--if-missing") == 0
    assert secret.read_bytes() == before
    assert passgate(config, "keys", "new", "--rotate", "--alg", "ES256") == 0
    assert secret.read_bytes() != before


def test_public_keys(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`keys jwks` prints what may be published, and refuses to print a file that holds a secret."""
    passgate(config, "keys", "new")
    capsys.readouterr()
    assert passgate(config, "keys", "jwks", "--issuer", "dev") == 0
    (key,) = json.loads(capsys.readouterr().out)["keys"]
    assert set(key) == {"kty", "crv", "x", "kid", "alg", "use"}
    file, secret = config.parent / "var/jwks.json", config.parent / "var/jwks.private.json"
    file.write_text(f'{{"keys": [{secret.read_text()}]}}')
    assert passgate(config, "keys", "jwks") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "private members" in printed.err
    assert json.loads(secret.read_bytes())["d"] not in printed.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["token", "mint", "--agent", "seller"], "use one of buyer"),
        (["token", "mint", "--agent", "buyer"], "passgate keys new"),
        (["token", "mint", "--agent", "buyer", "--key", "/nowhere/key.json"], "/nowhere/key.json"),
        (["keys", "jwks"], "jwks.json: No such file"),
        (["keys", "new", "--issuer", "corp"], "--issuer: dev"),
        (["exec", "--agent", "buyer"], "name a command after --"),
        (["exec", "--agent", "buyer", "--"], "name a command after --"),
    ],
)
def test_wrong_use(words: list[str], said: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong use is a sentence on standard error and exit code 2."""
    assert passgate(config, *words) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""


def test_an_api_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The key is all that is printed; the line to paste lets the gateway know it, and does not contain it."""
    assert main(["keys", "api", "--agent", "scratch"]) == 0
    said = capsys.readouterr()
    key = said.out.strip()
    assert said.out == f"{key}\n"
    assert key not in said.err
    (line,) = (line.strip() for line in said.err.splitlines() if "key_sha256" in line)
    config = tmp_path / "config.yaml"
    config.write_text(f"{CONFIG}  - id: scratch\n    {line}\n")
    (tmp_path / "var").mkdir()
    (tmp_path / "var/jwks.json").write_text('{"keys": []}')
    principal = identify(config, key)
    assert (principal.agent.id, principal.assurance) == ("scratch", "key")
    assert passgate(config, "token", "mint", "--agent", "scratch") == 2
    assert "agent scratch has API keys and no tokens" in capsys.readouterr().err


def test_configuration_with_mistakes(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration that cannot be used is explained with file and line."""
    config.write_text(CONFIG.replace("audience", "audiance"))
    assert passgate(config, "token", "mint", "--agent", "buyer") == 2
    assert f"{config}:4" in capsys.readouterr().err


@pytest.mark.parametrize("ttl", ["1", "soon", "0s", "-1h", "9999999d"])
def test_time_to_live(ttl: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A time to live has a unit and bounds."""
    with pytest.raises(SystemExit) as caught:
        passgate(config, "token", "mint", "--agent", "buyer", f"--ttl={ttl}")
    assert caught.value.code == 2
    assert "--ttl" in capsys.readouterr().err


def run_alone(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, which it may replace."""
    at = words.index("--")
    command = [sys.executable, "-m", "gateway", *words[:at], "--config", str(config), *words[at:]]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_exec(config: Path) -> None:
    """`exec` becomes the command: its words, its exit code, and an environment that SDKs read."""
    passgate(config, "keys", "new")
    command = [sys.executable, "-c", ECHO, "a b", "--flag", "--", "$HOME"]
    done = run_alone(config, "exec", "--agent", "buyer", "--run", "order-17", "--", *command)
    assert done.returncode == 7, done.stderr
    variables, words = json.loads(done.stdout)
    assert words == ["a b", "--flag", "--", "$HOME"]
    assert variables["OPENAI_BASE_URL"] == "http://127.0.0.1:8123/v1"
    assert variables["PASSGATE_URL"] == "http://127.0.0.1:8123"
    assert variables["OPENAI_API_KEY"] == variables["PASSGATE_TOKEN"]
    principal = identify(config, variables["OPENAI_API_KEY"])
    assert (principal.agent.id, principal.run) == ("buyer", variables["PASSGATE_RUN"]) == ("buyer", "order-17")
    assert principal.incarnation == variables["PASSGATE_INCARNATION"]
    assert variables["OPENAI_API_KEY"] not in done.stderr
    assert "agent buyer (agent/buyer), run order-17" in done.stderr


def test_exec_is_a_new_life_each_time(config: Path) -> None:
    """Each `exec` is an incarnation of its own, also where no run is named."""
    passgate(config, "keys", "new")
    lives = [
        json.loads(run_alone(config, "exec", "--agent", "buyer", "--", sys.executable, "-c", ECHO).stdout)[0]
        for _ in range(2)
    ]
    assert lives[0]["PASSGATE_INCARNATION"] != lives[1]["PASSGATE_INCARNATION"]
    assert "PASSGATE_RUN" not in lives[0]


def test_exec_of_nothing(config: Path, tmp_path: Path) -> None:
    """A command that is not there or not executable ends as in a shell: 127 and 126."""
    passgate(config, "keys", "new")
    done = run_alone(config, "exec", "--agent", "buyer", "--", str(tmp_path / "missing"))
    assert (done.returncode, "command not found" in done.stderr) == (127, True)
    done = run_alone(config, "exec", "--agent", "buyer", "--", str(config))
    assert (done.returncode, "Permission denied" in done.stderr) == (126, True)


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("{agents: {public_url: https://gw.example/ai/}}", "https://gw.example/ai"),
        ("{agents: {bind: 127.0.0.1:9000}}", "http://127.0.0.1:9000"),
        ('{agents: {bind: "[::]:9000", tls: {cert: c.pem, key: k.pem}}}', "https://[::1]:9000"),
        ('{agents: {bind: "[::1]:9000"}}', "http://[::1]:9000"),
    ],
)
def test_base_url(listen: str, url: str, config: Path) -> None:
    """Agents are sent to the public URL, else to the bound address as this machine can call it."""
    for file in ("c.pem", "k.pem"):
        (config.parent / file).write_text("")
    config.write_text(CONFIG.replace('{agents: {bind: "0.0.0.0:8123"}}', listen))
    assert commands.base_url(load(config, DiskSources()).settings) == url
