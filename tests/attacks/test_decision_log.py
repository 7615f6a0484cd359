"""The decision log under attack: nobody but the gateway writes a line of it, and none of them can be another one."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.attacks.till import Till, required, why
from tests.simulator.attester import AGENT

LINE = '"},"hash":"0"}{"seq":1,"prev":"0","record":{"effect":"allow"},"hash":"0"}'
FORGED = [
    LINE,
    f"x\r\n{LINE}\n",
    "\x1b[2J\x1b[1;31m\u2028\u202e\0\x7f",
    "${env:HOME}%0a\\n\\u0000",
    "\U0010ffff\uffff" * 50,
]


def test_no_agent_writes_a_line(till: Till) -> None:
    """P14: arguments, models, users, ids of tokens and attestations that look like a log are values in its lines."""
    before, replies = set(till.decisions()), []
    for text in FORGED:
        order, run = till.order(order_id=text), till.run()
        replies += [till.pay(order, run=run), till.pay(order, till.attests(order, run, jti=f"{run}{LINE}"), run=run)]
        assert why(replies[-2]) == required("none")
        assert replies[-1].status == 200
    named = till.gateway.token(jti=LINE, sub=f"user/{LINE}", act={"sub": AGENT})
    replies += [till.chat(f"scripted-{text}", token=named) for text in (LINE, FORGED[3], "\u00e9\U0001f600")]
    for text in FORGED[1:3]:  # what is no name is not even decided on
        assert till.chat(f"scripted-{text}").refusal == "request_malformed"
    log = till.decisions()
    ids = {reply.headers["gateway-decision-id"] for reply in replies}
    assert set(log) - before == ids
    assert {log[one]["read"]["args.order_id"] for one in ids if "read" in log[one]} == set(FORGED)
    assert sum(log[one]["token_id"] == LINE for one in ids) == 3
    (file,) = (till.gateway.folder / "var" / "audit").iterdir()
    lines = file.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert all(0x20 <= byte < 0x7F for line in lines for byte in line)


def tampered(lines: list[bytes], how: str) -> list[bytes]:
    """The log with its fourth line edited or removed."""
    before, line, after = lines[:3], lines[3], lines[4:]
    return [*before, *after] if how == "removed" else [*before, line.replace(b'"procurement"', b'"auditor"'), *after]


@pytest.mark.parametrize("how", ["edited", "removed"])
def test_a_line_that_was_tampered_with(till: Till, how: str) -> None:
    """P15: `passgate audit verify` ends with 1 and names the file and the first line that is not as it was written."""
    for _ in range(8):
        assert why(till.pay(till.order(), run=till.run())) == required("none")
    copy = till.gateway.folder / how
    shutil.copytree(till.gateway.folder / "var" / "audit", copy)
    (file,) = copy.iterdir()
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(tampered(lines, how)))
    verdict = till.gateway.command(
        "audit", "verify", "--folder", how, "--config", "config.yaml", "--format", "json", check=False
    )
    told = json.loads(verdict.stdout)
    assert (verdict.returncode, told["ok"], told["first_bad_line"]) == (1, False, f"{file.name}:4")
