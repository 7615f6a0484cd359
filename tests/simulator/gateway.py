"""A real gateway in processes of its own, on free loopback ports, with a folder that a test can look into."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sqlite3
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from tests.simulator.issuer import Issuer

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 30.0

ALLOW_ALL = """version: 1
policy: tests
rules:
  - {id: models, effect: allow, match: {models: ["*"]}}
  - {id: tools, effect: allow, match: {tools: ["*"]}}
"""


@dataclass
class Gateway:
    """`passgate serve` with `config` (merged over a small working one) and `policies` (file name to text).

    Use it in `with`; it ends by itself. `url`, `metrics_url` and `admin_url` are known once it serves.
    """

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=lambda: {"all.yaml": ALLOW_ALL})
    environment: Mapping[str, str] = field(default_factory=dict)
    issuer: Issuer = field(default_factory=Issuer)
    descriptors: int | None = None
    context: ssl.SSLContext | None = None  # what `call` uses, where the agents' listener has TLS
    url: str = ""
    metrics_url: str = ""
    admin_url: str = ""
    process: subprocess.Popen[bytes] = field(init=False)
    _log: IO[bytes] = field(init=False)

    def write(self) -> None:
        """Put the configuration, the keys and the policies into the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "jwks.json").write_bytes(self.issuer.jwks())
        self.write_policies()
        self.write_config()

    def write_policies(self) -> None:
        """Put `policies` into the folder, in place of those that are there."""
        policies = self.folder / "policies"
        policies.mkdir(exist_ok=True)
        for old in policies.iterdir():
            old.unlink()
        for name, text in self.policies.items():
            (policies / name).write_text(text)

    def write_config(self) -> None:
        """Put the configuration into the folder."""
        # JSON is YAML, and spares the tests a writer.
        (self.folder / "config.yaml").write_text(json.dumps(self._whole_config(), indent=1))

    def _whole_config(self) -> dict[str, Any]:
        agent = {"id": "procurement", "issuer": "dev", "subject": self.issuer.subject, "team": "finance"}
        issuer = {"name": "dev", "iss": self.issuer.iss, "algs": ["EdDSA", "ES256"], "keys": {"file": "jwks.json"}}
        whole: dict[str, Any] = {
            "listen": {name: {"bind": "127.0.0.1:0"} for name in ("agents", "metrics", "admin")},
            "state": {"durable": "sqlite:var/passgate.db"},
            "identity": {"audience": self.issuer.audience, "issuers": [issuer]},
            "agents": [agent],
            "providers": {"demo": {"dialects": ["openai"], "base_url": "builtin:demo"}},
            "models": {"sim-*": {"targets": [{"provider": "demo"}]}},
            "prices": {"demo/sim-*": [{"input": "1.00", "output": "2.00"}]},
        }
        whole.update(self.config)
        return {name: value for name, value in whole.items() if value is not None}

    def start(self) -> None:
        """Start it and wait until it serves; raises with its own words when it does not."""
        before = self.launch()
        urls = self.wait_for("ready", since=before)
        self.url, self.metrics_url, self.admin_url = urls["agents"], urls["metrics"], urls["admin"]

    def launch(self) -> int:
        """Start it and wait for nothing; gives where its log begins."""
        self.write()
        self._log = (self.folder / "log.ndjson").open("ab")
        before = self._log.tell()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--config", "config.yaml"],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )
        if self.descriptors is not None:  # as `ulimit -n` does, for it and for all that it starts
            resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (self.descriptors, self.descriptors))
        return before

    def wait_for(self, event: str, since: int = 0, patience: float = _PATIENCE) -> dict[str, Any]:
        """The first line of the log with this event; fails loudly when it does not come."""
        until = time.monotonic() + patience
        while time.monotonic() < until:
            for line in self.log(since):
                if line.get("event") == event:
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"no {event!r} in the log:\n" + (self.folder / "log.ndjson").read_text()[-4000:])

    def log(self, since: int = 0) -> list[dict[str, Any]]:
        """What it has logged so far."""
        with (self.folder / "log.ndjson").open("rb") as file:
            file.seek(since)
            lines = file.read().splitlines()
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):  # a line that is being written, or was when its writer was killed
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]

    def kill(self) -> None:
        """SIGKILL to the supervisor, as the kernel does when memory is short."""
        self.process.kill()
        self.process.wait()
        self._log.close()

    def stop(self, patience: float = _PATIENCE) -> int:
        """SIGTERM, and wait for the end; gives the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(patience)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._log.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            if hasattr(self, "process"):
                self.process.kill()
                self.process.wait()
                self._log.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if not self._log.closed:
            self.stop()

    # -- what a test asks of it

    def token(self, **claims: object) -> str:
        """A good token of the agent `procurement`, with claims changed."""
        return self.issuer.token(None, **claims)

    @property
    def port(self) -> int:
        """Where it listens for agents."""
        return int(self.url.rpartition(":")[2])

    def ready(self) -> tuple[int, str]:
        """Status and text of `/readyz?verbose`."""
        try:
            with urllib.request.urlopen(self.metrics_url + "/readyz?verbose", timeout=_PATIENCE) as answer:  # noqa: S310 - loopback
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def reload(self) -> list[str]:
        """Reload through the admin API; gives the reasons when it was refused."""
        return list(self.admin("POST", "/admin/v1/reload")["problems"])

    def worker_pids(self) -> list[int]:
        """The workers that serve now."""
        status = self.admin("GET", "/admin/v1/status")
        return [worker["pid"] for worker in status["workers"] if worker["serving"]]

    def admin(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        """Ask the admin API with the token that it made."""
        token = (self.folder / "var" / "admin.token").read_text().strip()
        request = urllib.request.Request(  # noqa: S310 - loopback
            self.admin_url + path,
            method=method,
            data=json.dumps(body or {}).encode() if method == "POST" else None,
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310 - loopback
            return json.load(answer)

    def metrics(self) -> dict[str, float]:
        """All samples of `/metrics`, each under its name with labels as it is printed."""
        with urllib.request.urlopen(self.metrics_url + "/metrics", timeout=_PATIENCE) as answer:  # noqa: S310 - loopback
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        token: str | None = "",
    ) -> Reply:
        """One request; `token` defaults to a good one, `None` sends none."""
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data is not None else {}
        if token is not None:
            sent["Authorization"] = f"Bearer {token or self.token()}"
        request = urllib.request.Request(  # noqa: S310 - loopback
            self.url + path, method=method, data=data, headers={**sent, **(headers or {})}
        )
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE, context=self.context) as answer:  # noqa: S310 - loopback
                return Reply(answer.status, joined(answer.headers.items()), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, joined(error.headers.items()), error.read())

    def chat(self, text: str = "hello", model: str = "sim-small", **members: object) -> Reply:
        """One chat completion."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], **members}
        return self.call("POST", "/v1/chat/completions", body)

    def rows(self, where: str = "1 = 1", *values: object) -> list[dict[str, Any]]:
        """The committed ledger rows that match, oldest first."""
        with contextlib.closing(sqlite3.connect(self.folder / "var" / "passgate.db")) as conn:
            conn.row_factory = sqlite3.Row
            found = conn.execute(f"SELECT * FROM ledger WHERE {where} ORDER BY seq", values)  # noqa: S608 - a test's own
            return [dict(row) for row in found]

    def wait_for_rows(self, count: int, where: str = "1 = 1", *values: object) -> list[dict[str, Any]]:
        """The rows that match, once there are as many; fails when they do not come."""
        until = time.monotonic() + _PATIENCE
        while True:
            rows = self.rows(where, *values)
            if len(rows) >= count:
                assert len(rows) == count, f"{len(rows)} rows where {count} were expected"
                return rows
            assert time.monotonic() < until, f"{len(rows)} of {count} rows"
            time.sleep(0.02)

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `passgate …` in its folder."""
        return subprocess.run(
            [sys.executable, "-m", "gateway", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
            capture_output=True,
            text=True,
            check=check,
            timeout=_PATIENCE,
        )


@dataclass(frozen=True)
class Reply:
    """An answer as it came; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __post_init__(self) -> None:
        object.__setattr__(self, "headers", {name.lower(): value for name, value in self.headers.items()})

    def json(self) -> Any:  # noqa: ANN401 - JSON
        """The body's value."""
        return json.loads(self.body)

    @property
    def refusal(self) -> str:
        """The code of a refusal, empty without one."""
        return self.headers.get("gateway-refusal", "")


def joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers under their names in lower case; one that repeats as one list (RFC 9110 §5.3)."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(value)
    return {name: ", ".join(values) for name, values in found.items()}


def eventually(true: Callable[[], object], why: str, patience: float = _PATIENCE) -> None:
    """Wait until something is true; fails with `why` when it does not come true."""
    until = time.monotonic() + patience
    while not true():
        assert time.monotonic() < until, why
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False
