"""What somebody sees who types `make run` in a fresh clone, from the end of the install on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import stat
import sys
import time
import urllib.request
from pathlib import Path

from openai import OpenAI

from tests.simulator.example import Example
from tests.simulator.gateway import ROOT


def test_it_says_what_it_does_and_writes_a_demo_identity(example: Example) -> None:
    """Each step is announced; the private key is nobody else's to read."""
    assert example.output.startswith("passgate: a demo identity\n")
    assert "passgate: starting with config.example.yaml; Ctrl-C ends it\n" in example.output
    assert "installing" not in example.output
    private = Path(example.printed("^private key").split()[2])
    assert stat.S_IMODE((example.folder / private).stat().st_mode) == 0o600


def test_a_second_start_keeps_the_identity(example: Example) -> None:
    """Tokens that were handed out stay good: `keys new --if-missing` makes no second key."""
    line = "keys new --if-missing --config config.example.yaml"
    before = (example.folder / "var" / "demo" / "jwks.json").read_bytes()
    again = example.paste(f".venv/bin/passgate {line}")
    assert (again.returncode, "there already" in again.stdout) == (0, True)
    assert (example.folder / "var" / "demo" / "jwks.json").read_bytes() == before


def test_the_printed_curl_line_answers(example: Example) -> None:
    """The line that is printed for pasting gives a chat completion."""
    done = example.paste(example.printed("^  curl .*chat/completions"))
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["object"], answer["model"]) == ("chat.completion", "demo-small")
    assert answer["choices"][0]["message"]["content"]


def test_the_printed_exports_point_the_sdk_here(example: Example) -> None:
    """The two exports are a base URL and a key with which the SDK gets an answer."""
    with OpenAI(base_url=example.variable("OPENAI_BASE_URL"), api_key=example.variable("OPENAI_API_KEY")) as client:
        said = client.chat.completions.create(model="demo-small", messages=[{"role": "user", "content": "hello"}])
    assert said.choices[0].finish_reason == "stop"


def test_the_printed_admin_address_opens_with_the_printed_token_file(example: Example) -> None:
    """The token lies where the welcome says, for nobody else to read, and is an operator's."""
    line = example.printed("^  admin ")
    url, file = re.findall(r"http\S+", line)[0], example.folder / re.findall(r"the token in (\S+)\)", line)[0]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {file.read_text().strip()}"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
        assert json.load(answer)["workers"]


def test_what_is_printed_to_see_who_spent_what_can_be_pasted(example: Example) -> None:
    """The report, from whatever folder, and the metrics name the agent once it has spent something."""
    example.paste(example.printed("^  curl .*chat/completions"))
    until = time.monotonic() + 30  # outside a run the ledger follows a moment after the answer
    line = f"{example.printed('export PASSGATE_CONFIG')}; cd /; {example.printed('spend report')}"
    while "procurement" not in (report := example.paste(line)).stdout:
        assert (report.returncode, report.stderr) == (0, "")
        assert time.monotonic() < until, report.stdout
    metrics = example.paste(example.printed("grep passgate_spend"))
    assert 'passgate_spend_usd_total{agent="procurement"' in metrics.stdout


def test_what_the_readme_says_next_can_be_pasted(example: Example) -> None:
    """Each block of its first pages works in a shell that has the printed exports, and shows what it is about."""
    exports = "; ".join(line.strip() for line in example.output.splitlines() if line.startswith("  export "))
    metrics = re.findall(r"http\S+(?=/metrics)", example.output)[0]
    text = (ROOT / "README.md").read_text().partition("## What is promised")[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    shown = [
        "demo model",
        'attestation_required: |"verdict": "pass"|"status": "charged"',
        "gateway-cost-usd: 0.0000|policy_denied: no rule allows|every one as it was written|[ok] store",
    ]
    assert len(blocks) == len(shown)
    for block, words in zip(blocks, shown, strict=True):
        line = block.replace("http://127.0.0.1:8080", example.url).replace("http://127.0.0.1:9464", metrics)
        done = example.paste(f"{exports}; {line.replace('python -c', f'{sys.executable} -c')}")
        assert (done.returncode, done.stderr) == (0, "")
        assert [word for word in words.split("|") if word not in done.stdout] == []


def test_it_starts_without_a_complaint(example: Example) -> None:
    """A fresh clone lacks nothing that the example configuration names."""
    log = (example.folder / "log").read_text()
    assert "warning:" not in log
    assert "off:" not in log


def test_ctrl_c_lets_a_stream_finish(tmp_path: Path) -> None:
    """The terminal's signal reaches every process at once; a call in flight still gets its whole answer."""
    with Example(tmp_path / "clone") as example:
        base, key = example.variable("OPENAI_BASE_URL"), example.variable("OPENAI_API_KEY")
        with OpenAI(base_url=base, api_key=key, max_retries=0) as client:
            stream = client.chat.completions.create(
                model="sim-pace-20-words-60", messages=[{"role": "user", "content": "hello"}], stream=True
            )
            finished = [next(stream).choices[0].finish_reason]
            os.killpg(example.process.pid, signal.SIGINT)
            finished += [chunk.choices[0].finish_reason for chunk in stream]
        assert finished[-1] == "stop"
        example.interrupt()
        with contextlib.closing(sqlite3.connect(example.folder / "var" / "passgate.db")) as ledger:
            assert ledger.execute("SELECT outcome, estimated FROM ledger").fetchall() == [("complete", 0)]
