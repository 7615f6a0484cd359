"""`passgate check` and `passgate schema`, as somebody at a terminal sees them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli import main
from tests.simulator.authority import Authority
from tests.simulator.issuer import Issuer

CONFIG = """
identity:
  audience: https://gateway.example
  issuers: [{name: dev, iss: "https://issuer.example", keys: {file: keys.json}}]
agents: [{id: a, issuer: dev, subject: "agent:a"}]
"""


def test_check_prints_every_mistake_in_the_order_of_the_file_and_exits_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line says file, line, setting, problem and remedy; the last one counts."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG + "drain: 5\nbudgets: []\nwrokers: 2\n")
    assert main(["check", "--config", str(path)]) == 2
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        [f"{path}:6", "drain"],
        [f"{path}:7", "budgets"],
        [f"{path}:8", "wrokers"],
    ]
    assert said.out == f"{path} cannot be used: 3 mistakes, no warnings\n"


def test_check_finds_what_only_building_can_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key file that is missing and a policy that is wrong are reported in one go."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/p.yaml").write_text("version: 1\npolicy: p\nrules: []\n")
    assert main(["check", "--config", str(path), "--format", "json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert {Path(mistake["file"]).name for mistake in found["mistakes"]} == {"keys.json", "p.yaml"}


@pytest.mark.parametrize(
    ("issuer", "keys"),
    [
        ("kinds: [jwt], iss: x, algs: [EdDSA]", []),
        ("kinds: [jwt], iss: x, algs: [EdDSA]", [Issuer(alg="ES256").jwk()]),
        ("kinds: [jwt-svid], trust_domain: acme.example, algs: [ES256]", [Issuer(alg="ES256").jwk()]),
    ],
    ids=["no key", "another algorithm", "another use"],
)
def test_check_warns_of_keys_that_verify_nothing(
    issuer: str, keys: list[dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key file may be empty, which revokes all; that none of its tokens can count is said."""
    path = tmp_path / "config.yaml"
    path.write_text(
        f"identity: {{audience: a, issuers: [{{name: dev, {issuer}, keys: {{file: keys.json}}}}]}}\n"
        'agents: [{id: a, issuer: dev, subject: "spiffe://acme.example/a"}]\n'
    )
    (tmp_path / "policies").mkdir()
    (tmp_path / "keys.json").write_text(json.dumps({"keys": keys}))
    assert main(["check", "--config", str(path)]) == 0
    assert "keys.json:1: no key in it can verify a token of issuer dev" in capsys.readouterr().err
    fitting = [Issuer(kind="jwt-svid", alg="ES256", kid="b").jwk(), Issuer().jwk()]
    (tmp_path / "keys.json").write_text(json.dumps({"keys": fitting}))
    assert main(["check", "--config", str(path)]) == 0
    assert "keys.json" not in capsys.readouterr().err


def test_check_looks_at_certificates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A certificate that no listener could use is found before anything starts, at its place."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG + "listen: {agents: {tls: {cert: gone.crt, key: keys.json}}}\n")
    assert main(["check", "--config", str(path)]) == 2
    assert f"{path}:6: listen.agents.tls: " in capsys.readouterr().err


def test_check_looks_at_the_authorities_of_clients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A `client_ca` that is missing or holds no certificate is a mistake of its own, for each listener."""
    authority = Authority()
    authority.server().save(tmp_path, "tls")
    authority.save(tmp_path, "good.pem")
    (tmp_path / "empty.pem").write_text("no certificate\n")
    path = tmp_path / "config.yaml"
    doors = {"agents": "gone.pem", "metrics": "empty.pem", "admin": "good.pem"}
    lines = [f"  {name}: {{tls: {{cert: tls.crt, key: tls.key, client_ca: {file}}}}}\n" for name, file in doors.items()]
    path.write_text(f"{CONFIG}listen:\n{''.join(lines)}")
    assert main(["check", "--config", str(path)]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "client_ca" in line]
    assert [line.split(": ")[:2] for line in said] == [
        [f"{path}:7", "listen.agents.tls.client_ca"],
        [f"{path}:8", "listen.metrics.tls.client_ca"],
    ]


def test_check_of_a_file_that_is_not_there_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong use is answered with what to do."""
    assert main(["check", "--config", "/nowhere/config.yaml"]) == 2
    assert "name a file with --config FILE" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["config", "policy"])
def test_schema_prints_a_json_schema(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both files have one."""
    assert main(["schema", file]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_without_a_command_it_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody who types `passgate` alone sees what there is, as wrong use."""
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert all(
        f"\n    {name} " in said.err for name in ("serve", "check", "schema", "token", "exec", "spend", "prices")
    )
