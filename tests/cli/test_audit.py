"""`passgate audit`: whole or not, where the first bad line is, and what is needed to find out elsewhere."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.audit.chain import linked
from gateway.audit.checkpoint import key_file
from gateway.cli import main
from gateway.identity.issue import PrivateKey
from gateway.state import Store
from gateway.state.checkpoints import Checkpoint, add_checkpoint
from tests.audit.specimen import KEY, Specimen

CONFIG = """
state: {durable: sqlite:state/passgate.db}
identity:
  audience: https://gateway.example
  issuers: [{name: dev, iss: "https://issuer.example", keys: {file: keys.json}}]
agents: [{id: a, issuer: dev, subject: "agent:a"}]
providers: {demo: {dialects: [openai], base_url: "builtin:demo"}}
models: {small: {targets: [{provider: demo}]}}
"""


async def keep(path: Path, checkpoints: list[Checkpoint]) -> None:
    store = await Store.open(path)
    for checkpoint in checkpoints:
        await asyncio.wrap_future(store.submit(partial(add_checkpoint, checkpoint=checkpoint)))
    await store.close()


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Specimen:
    """The log of a gateway in the present folder, with thirteen lines in three files, of which all are signed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "policies").mkdir()
    specimen = Specimen(tmp_path / "state" / "audit")
    asyncio.run(keep(tmp_path / "state" / "passgate.db", specimen.checkpoints))
    put_key(tmp_path)
    return specimen


def put_key(folder: Path) -> None:
    """Lay the specimen's key where the gateway keeps its own."""
    file = key_file(folder / "state" / "keys")
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.write_bytes(KEY.private_jwk())
    file.chmod(0o600)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    code = main(["audit", *words])
    return code, *capsys.readouterr()


def verdict(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = said(capsys, "verify", "--format", "json", *words)
    return code, json.loads(out)


def test_a_whole_log(log: Specimen, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, with how much was read and how far it was signed."""
    code, out, err = said(capsys, "verify")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "13 lines in 3 files of state/audit: every one as it was written (1 to 13).",
        "Signed up to line 13 at 2027-01-15T08:00:40.000000Z; 0 lines came after that.",
    ]
    code, told = verdict(capsys)
    assert (code, told["ok"], told["first_bad_line"], told["lines"], told["findings"]) == (0, True, "", 13, [])
    assert told["last_checkpoint"] == {
        "seq": 13,
        "time": "2027-01-15T08:00:40.000000Z",
        "hash": log.checkpoints[-1].hash,
    }


def test_tampering(log: Specimen, capsys: pytest.CaptureFixture[str]) -> None:
    """P15: exit code 1, and the first bad line with what is wrong with it."""
    path = log.folder / "audit-000002.ndjson"
    path.write_bytes(path.read_bytes().replace(b'"dec_6"', b'"dec_7"'))
    (log.folder / "audit-000003.ndjson").unlink()
    code, out, _ = said(capsys, "verify")
    assert code == 1
    first, second, last = out.splitlines()
    assert first == "audit-000002.ndjson:2: it is not what its hash was made of: it was edited"
    assert second.startswith("audit-000002.ndjson:5: lines 9 to 13 are missing at the end of the log")
    assert last.endswith("; the first bad one: audit-000002.ndjson:2")
    code, told = verdict(capsys)
    assert (code, told["ok"], told["first_bad_line"]) == (1, False, "audit-000002.ndjson:2")
    assert [finding["where"] for finding in told["findings"]] == ["audit-000002.ndjson:2", "audit-000002.ndjson:5"]


def test_a_torn_line_is_told_and_is_no_finding(log: Specimen, capsys: pytest.CaptureFixture[str]) -> None:
    """What a crash leaves, or what a gateway writes this moment, is said with exit code 0."""
    line, _ = linked(log.last, b"{}")
    path = log.folder / "audit-000003.ndjson"
    path.write_bytes(path.read_bytes() + line[:40])
    code, out, _ = said(capsys, "verify")
    assert (code, "audit-000003.ndjson:6 has no end" in out) == (0, True)


def test_before_the_first_decision(log: Specimen, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was decided and nothing was signed: that is whole; lines that nobody signed are said to be so."""
    asyncio.run(keep(Path("fresh.db"), []))
    config = Path("config.yaml")
    config.write_text(config.read_text().replace("sqlite:state/passgate.db", "sqlite:fresh.db"))
    put = ["--folder", str(log.folder)]
    Path("audit.jwks.json").write_text(json.dumps({"keys": [KEY.public_jwk]}))
    jwks = ["--jwks", "audit.jwks.json"]
    code, out, _ = said(capsys, "verify", *jwks, "--folder", "nothing")
    assert (code, out) == (0, "nothing has no lines yet: nothing was decided.\n")
    code, out, _ = said(capsys, "verify", *jwks, *put)
    assert (code, "No checkpoint was signed yet" in out) == (0, True)


def test_elsewhere(log: Specimen, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a copy of the log, the public key and what the webhook was told nothing else of the gateway is needed."""
    code, jwks, _ = said(capsys, "key")
    assert code == 0
    assert "d" not in json.loads(jwks)["keys"][0]
    elsewhere = log.folder.parents[1] / "elsewhere"
    log.folder.rename(elsewhere)
    (elsewhere / "jwks.json").write_text(jwks)
    (elsewhere / "told.txt").write_text("\n".join(one.signed for one in reversed(log.checkpoints)) + "\n\n")
    monkeypatch.chdir(elsewhere)
    words = ["--folder", ".", "--jwks", "jwks.json", "--checkpoints", "told.txt"]
    code, told = verdict(capsys, *words)
    assert (code, told["checkpoints"], told["last_checkpoint"]["seq"]) == (0, 5, 13)
    Path("audit-000003.ndjson").unlink()
    assert verdict(capsys, *words)[0] == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--jwks", "none.json"], "passgate: none.json: No such file or directory."),
        (["--jwks", "config.yaml"], "passgate: config.yaml: cannot be read"),
        (["--checkpoints", "bad.txt"], "passgate: bad.txt:2: it is no checkpoint."),
        (["--checkpoints", "other.txt"], "passgate: other.txt:1: it is signed by another key."),
        (["--folder", "config.yaml"], "passgate: config.yaml: Not a directory."),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_wrong_use(log: Specimen, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    """What cannot be read is named in one sentence, with the exit code of wrong use."""
    Path("bad.txt").write_text(f"{log.checkpoints[0].signed}\nx.y.z\n")
    other = PrivateKey.new("EdDSA").sign({"typ": "passgate-checkpoint+jwt"}, {"seq": 1, "hash": "a", "iat": 1})
    Path("other.txt").write_text(other)
    code, out, err = said(capsys, "verify", *words)
    assert (code, out) == (2, "")
    assert err.startswith(sentence)


@pytest.mark.parametrize("missing", ["key", "store", "open key"])
def test_what_is_missing_is_said(log: Specimen, capsys: pytest.CaptureFixture[str], missing: str) -> None:
    """Without the key or the store nothing can be verified, and no key is made."""
    file = key_file(log.folder.parent / "keys")
    if missing == "key":
        file.unlink()
    elif missing == "store":
        (log.folder.parent / "passgate.db").unlink()
    else:
        file.chmod(0o644)
    code, _, err = said(capsys, "verify")
    assert (code, err.count("\n")) == (2, 1)
    assert file.exists() == (missing != "key")
    expected = {"key": "--jwks", "store": "does not exist yet", "open key": "can be read by others"}
    assert expected[missing] in err
