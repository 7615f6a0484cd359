"""`passgate spend` as it is run: exit codes, sentences, bytes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.ledger import Batch, Poster, Posting
from gateway.ledger.filter import DIMENSIONS
from gateway.state import Store
from tests.simulator.rows import NOON, row

DAY = 24 * 3600 * 1_000_000

CONFIG = """
identity:
  audience: https://gateway.example
  issuers:
    - {name: dev, iss: "https://issuer.example", keys: {file: jwks.json}}
policies: {dir: policies}
state: {durable: "sqlite:state/ledger.db"}
"""


def passgate(*words: str) -> int:
    """Run `passgate spend` in this process."""
    return main(["spend", *words])


def shell(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of shell in which `$PASSGATE` is the command."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "PASSGATE": f"{sys.executable} -m gateway", **variables}
    return subprocess.run(["sh", "-c", line], cwd=folder, env=environment, capture_output=True, timeout=50, check=False)


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A config and, beside it, a ledger of two calls in November."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "jwks.json").write_text('{"keys": []}')
    (tmp_path / "policies").mkdir()
    store = await Store.open(tmp_path / "state" / "ledger.db")
    await Poster(store).post(Batch((Posting((row("a"),)), Posting((row("b", model="zürich\r\n", agent="other"),)))))
    await store.close()
    return tmp_path


def test_a_report_and_its_formats(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The report as a table, as JSON and as CSV of the ledger that the config names, from any folder; exit code 0."""
    config = ("--config", str(folder / "config.yaml"))
    assert passgate("report", "--by", "agent", *config) == 0
    assert "procurement  0.0015" in capfd.readouterr().out
    assert passgate("report", "--format", "json", *config) == 0
    assert json.loads(capfd.readouterr().out)["total"]["cost_nano_usd"] == 3_000_000
    assert passgate("report", "--by", "agent", "--format", "csv", *config) == 0
    assert capfd.readouterr().out.splitlines()[0].startswith("agent,cost_usd,cost_nano_usd")


async def test_who_used_a_tool_on_a_day_and_on_whose_authority_is_one_command(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An auditor's question has a one-line answer: the agent, who vouched for it, for whom it acted, how often."""
    store = await Store.open(folder / "state" / "ledger.db")
    paid = {"tool": "payments.charge", "model": "", "on_behalf_of": "user/alice", "chain": "agent/planner"}
    rows = (row("p", **paid), row("q", **paid), row("r", **paid, outcome="refused"), row("s", **paid, time=NOON - DAY))
    await Poster(store).post(Batch((Posting(rows),)))
    await store.close()
    whose = "agent,issuer,subject,on_behalf_of,chain,assurance,key_id"
    day = ("--from", "2026-11-20", "--to", "2026-11-21")
    words = ("--where", "tool=payments.*", *day, "--config", str(folder / "config.yaml"))
    assert passgate("report", "--by", whose, *words, "--format", "json") == 0
    (line,) = json.loads(capfd.readouterr().out)["lines"]
    assert [line[name] for name in whose.split(",")] == [
        "procurement", "dev", "spiffe://acme.example/agent/procurement", "user/alice", "agent/planner", "bearer", "k1",
    ]  # fmt: skip
    assert (line["calls"], line["refused_calls"]) == (3, 1)
    assert passgate("export", *words, "--where", "outcome=refused", "--format", "ndjson") == 0
    (exported,) = map(json.loads, capfd.readouterr().out.splitlines())
    assert (exported["request_id"], exported["on_behalf_of"]) == ("r", "user/alice")


def test_the_help_names_every_column(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever asks how to ask is told all columns."""
    with pytest.raises(SystemExit):
        passgate("report", "--help")
    said = " ".join(capsys.readouterr().out.split())
    assert f"{', '.join(DIMENSIONS)}; separated by commas" in said


def test_an_export_is_utf8_with_its_own_line_ends(folder: Path) -> None:
    """The bytes of an export do not depend on the terminal's locale; the config may come from PASSGATE_CONFIG."""
    config = str(folder / "config.yaml")
    line = "exec $PASSGATE spend export --period 2026-11"
    done = shell(line, Path("/"), LC_ALL="C", PYTHONIOENCODING="ascii", PASSGATE_CONFIG=config)
    assert done.returncode == 0, done.stderr.decode()
    lines = list(csv.DictReader(StringIO(done.stdout.decode("utf-8"), newline="")))
    assert [line["model"] for line in lines] == ["demo-small", "zürich\r\n"]


def test_a_reader_that_has_had_enough_is_no_error(folder: Path) -> None:
    """`passgate spend export | true` ends quietly."""
    assert shell("$PASSGATE spend export | true", folder).stderr == b""


def test_no_rows_is_no_error(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """An empty period: exit code 0, and a sentence or just the header."""
    config = ("--config", str(folder / "config.yaml"))
    assert passgate("report", "--period", "2020-01", *config) == 0
    assert capfd.readouterr().out.startswith("No calls ")
    assert passgate("export", "--period", "2020-01", *config) == 0
    assert len(capfd.readouterr().out.splitlines()) == 1
    assert passgate("export", "--period", "2020-01", "--format", "ndjson", *config) == 0
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["report", "--by", "weather"], "--by weather is not one of agent, team"),
        (
            ["report", "--where", "weather=fine"],
            "--where 'weather=fine' is not COLUMN=TEXT with a column of agent, team",
        ),
        (["export", "--where", "agent"], "--where 'agent' is not COLUMN=TEXT"),
        (["report", "--since", "soon"], "--since 'soon' is neither a date"),
        (["export", "--format", "focus"], "focus is not built yet; use csv or ndjson"),
        (["report", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["report", "--config", "broken.yaml"], "broken.yaml:1"),
        (["report", "--config", "fresh.yaml"], "new.db does not exist yet"),
        (["report", "--config", "foreign.yaml"], "is not a Passgate database"),
    ],
)
def test_wrong_use_is_a_sentence_and_2(
    folder: Path, words: list[str], sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is wrong is said in a sentence on standard error; exit code 2, nothing on standard output."""
    (folder / "broken.yaml").write_text("surprise: 1\n")
    (folder / "fresh.yaml").write_text(CONFIG.replace("ledger.db", "new.db"))
    (folder / "foreign.yaml").write_text(CONFIG.replace("state/ledger.db", "notes.txt"))
    (folder / "notes.txt").write_text("no database at all, but long enough to have a header" * 100)
    words = [str(folder / word) if word.endswith(".yaml") else word for word in words]
    if "--config" not in words:
        words += ["--config", str(folder / "config.yaml")]
    assert passgate(*words) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert sentence in said.err
