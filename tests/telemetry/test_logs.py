"""Logs: one JSON object a line, whatever the strings hold."""

from __future__ import annotations

import json
import os

from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.logs import Log
from gateway.telemetry.redact import Redactor


def written(text: str, **settings: object) -> bytes:
    reading, writing = os.pipe()
    try:
        log = Log("worker-1", fd=writing, **settings)  # type: ignore[arg-type]
        log.info("call", path=text)
        log.flush()
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as file:
        return file.read()


@given(st.text(max_size=500))
def test_no_string_ends_or_forges_a_line(text: str) -> None:
    """P14: what an agent chose is a value inside one line of JSON."""
    lines = written(text).splitlines()
    assert len(lines) == 1
    record = json.loads(lines[0])
    assert record.get("path", "") == text
    assert record["event"] == "call"


def test_known_secrets_are_replaced_wherever_they_stand() -> None:
    """S18: a credential that found its way into a text does not reach the log."""
    line = written("the upstream said: bad key sk-canary-1234567", redact=Redactor(["sk-canary-1234567"]))
    assert b"sk-canary" not in line
    assert b"[redacted]" in line


def test_levels_are_kept() -> None:
    """A level that is switched off writes nothing."""
    assert written("x", level="error") == b""
