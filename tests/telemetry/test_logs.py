"""Logs: one JSON object a line, whatever the strings hold."""

from __future__ import annotations

import json
import os

import pytest
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


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer canary",
        'upstream said {"authorization": "Bearer canary", "b": 1}',
        "authorization=canary; next",
        "AUTHORIZATION : canary\r\nAccept: */*",
    ],
)
def test_values_under_a_hidden_name_are_replaced_in_texts(text: str) -> None:
    """`telemetry.redact`: a header or member of that name loses its value, however a text writes it."""
    line = written(text, redact=Redactor(names=["authorization"]))
    assert b"canary" not in line
    assert json.loads(line)["event"] == "call"


@pytest.mark.parametrize("value", ["/a/path", 'with "quotes" and \\', 17, 1.5, True, None, ["x", 1]])
def test_a_hidden_member_of_the_line_is_replaced_whole(value: object) -> None:
    """`telemetry.redact`: a field of the log itself can be hidden, and the line stays JSON."""
    reading, writing = os.pipe()
    log = Log("worker-1", fd=writing, redact=Redactor(names=["Path"]))
    log.info("call", path=value, other="kept")
    log.flush()
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        record = json.loads(file.read())
    assert record["other"] == "kept"
    assert record["path"] == "[redacted]"


def test_levels_are_kept() -> None:
    """A level that is switched off writes nothing."""
    assert written("x", level="error") == b""
