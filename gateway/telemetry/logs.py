"""Structured logs: one JSON object a line on standard error, with the request id where there is one.

Strings that an agent chose are values inside JSON, so they can neither end a line nor forge one
(P14). Lines are gathered and written in one go by `flush`, at the latest when a batch leaves the
worker; errors are written at once.
"""

from __future__ import annotations

import os
import time
from typing import Final

import msgspec

from gateway.core.clock import rfc3339
from gateway.telemetry.redact import HIDDEN, Redactor

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_GATHERED: Final = 64 * 1024
_LONGEST: Final = 4096

_encode: Final = msgspec.json.Encoder().encode


class AccessLine(msgspec.Struct, omit_defaults=True, gc=False):
    """What is logged of each call; what is empty is left out.

    From `agent` to `token_id` it says who called and on whose authority, in the ledger's words; a call that was
    refused before anybody was identified has none of it, and `detail` says why.
    """

    time: str
    level: str
    process: str
    event: str
    request_id: str
    method: str
    path: str
    status: int
    outcome: str
    agent: str = ""
    issuer: str = ""
    subject: str = ""
    on_behalf_of: str = ""
    chain: str = ""
    assurance: str = ""
    key_id: str = ""
    token_id: str = ""
    run: str = ""
    step: int = 0
    target: str = ""
    provider: str = ""
    attempts: int = 0
    decision_id: str = ""
    code: str = ""
    detail: str | None = None
    peer: str = ""
    ms: float = 0.0
    upstream_ms: float = 0.0


class Log:
    """Writes lines of one process, as JSON or as `text` for people; `redact` cleans every line."""

    def __init__(
        self,
        process: str,
        *,
        level: str = "info",
        text: bool = False,
        redact: Redactor | None = None,
        fd: int = 2,
    ) -> None:
        """`process` says who writes: `supervisor` or `worker-1`."""
        self.process = process
        self.level = LEVELS[level]
        self._text = text
        self._redact = redact.clean if redact is not None else bytes
        self._hidden = redact.names if redact is not None else frozenset()
        self._hidden_access = [name for name in AccessLine.__struct_fields__ if name in self._hidden]
        self._fd = fd
        self._lines: list[bytes] = []
        self._size = 0

    def debug(self, event: str, **fields: object) -> None:
        """What only a developer of the gateway wants to know."""
        self._line("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """What happened as it should."""
        self._line("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """What an operator should look at when there is time."""
        self._line("warning", event, fields)
        self.flush()

    def error(self, event: str, **fields: object) -> None:
        """What an operator should look at now."""
        self._line("error", event, fields)
        self.flush()

    def access(self, line: AccessLine) -> None:
        """One call's line; as `info`."""
        if self.level <= LEVELS["info"]:
            if self._text or self._hidden_access:
                record = msgspec.to_builtins(line)
                written = self._written(record | dict.fromkeys(self._hidden_access, HIDDEN))
            else:
                written = _encode(line) + b"\n"
            self._append(self._redact(written))

    def _line(self, level: str, event: str, fields: dict[str, object]) -> None:
        if LEVELS[level] < self.level:
            return
        record: dict[str, object] = {
            "time": rfc3339(time.time()),
            "level": level,
            "process": self.process,
            "event": event,
        }
        for name, value in fields.items():
            if name.lower() in self._hidden:
                record[name] = HIDDEN
            elif value is not None and value != "":
                record[name] = value[:_LONGEST] if isinstance(value, str) else value
        self._append(self._redact(self._written(record)))

    def _written(self, record: dict[str, object]) -> bytes:
        return _as_text(record) if self._text else _encode(record) + b"\n"

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._size += len(line)
        if self._size > _GATHERED:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered; a log that cannot be written never breaks a call."""
        if self._lines:
            data = b"".join(self._lines)
            self._lines.clear()
            self._size = 0
            try:
                os.write(self._fd, data)
            except OSError:
                return


def _as_text(record: dict[str, object]) -> bytes:
    head = f"{record.pop('time')} {str(record.pop('level')).upper():7} {record.pop('process')} {record.pop('event')}"
    rest = " ".join(f"{name}={_encode(value).decode()}" for name, value in record.items())
    return f"{head} {rest}".rstrip().encode() + b"\n"
