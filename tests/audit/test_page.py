"""The page about the decision log: what it says of the format is enough to check a log."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.audit import DecisionRecord
from tests.audit.specimen import Specimen

PAGE = Path(__file__).parents[2] / "docs" / "audit.md"


def example(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("bad", [0, 1, 6, 13])
def test_the_chain_can_be_checked_without_the_gateway(tmp_path: Path, bad: int) -> None:
    """The program of the page finds a log whole, or the line that was edited."""
    log = Specimen(tmp_path / "audit")
    where = ""
    for name, data in log.files.items() if bad else ():
        row = data[: data.find(b'"dec_%d"' % bad)].count(b"\n") + 1
        if b'"dec_%d"' % bad in data:
            where = f"{name}:{row}"
            (log.folder / name).write_bytes(data.replace(b'"dec_%d"' % bad, b'"dec_x"'))
    done = subprocess.run(
        [sys.executable, "-c", example("python"), str(log.folder)], capture_output=True, text=True, check=False
    )
    if bad:
        assert (done.returncode, done.stderr) == (1, f"{where} is bad\n")
    else:
        assert (done.returncode, done.stdout) == (0, f"13 lines are whole, the last hash is {log.last.hash.decode()}\n")


def test_every_field_is_named() -> None:
    """The page names each member of a record, in its example or beside it."""
    text = PAGE.read_text()
    shown = json.loads(example("json"))["record"]
    assert set(DecisionRecord.__struct_fields__) == set(shown) | {
        name for name in DecisionRecord.__struct_fields__ if f"`{name}`" in text
    }
