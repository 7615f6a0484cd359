"""Where the attacks are played: a whole gateway, and a scripted upstream that keeps every byte it was sent.

Of its agents `procurement` may use all models and the tools of the list, `auditor` models alone, and
`barred` nothing at all. Nobody may use the tool `vault`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.simulator.gateway import Gateway, Reply, joined
from tests.simulator.provider import ScriptedProvider, completion

AUDITOR: Final = "spiffe://acme.example/agent/auditor"
BARRED: Final = "spiffe://acme.example/agent/barred"
PROVIDER_KEY: Final = "sk-provider-7c1f4e90ab26d5"
TOOL_KEY: Final = "tool-credential-3d9e51c07f"

POLICIES: Final = """version: 1
policy: attacks
rules:
  - {id: models, effect: allow, match: {agents: [procurement, auditor, barred], models: ["*"]}}
  - {id: bank, effect: allow, match: {agents: [procurement, barred], tools: [bank.pay, bank.look, bank.note]}}
  - {id: barred, effect: deny, match: {agents: [barred]}, message: This agent may do nothing.}
  - {id: barred-own, effect: deny, match: {agents: [barred], kinds: [own]}}
"""

_OPERATIONS: Final = {
    "pay": {"method": "POST", "path": "/pay/{order}", "query": ["memo"], "repeat": "never", "cost": "0.01 USD"},
    "look": {"method": "GET", "path": "/look/{order}", "query": ["key"], "repeat": "safe"},
    "note": {"method": "POST", "path": "/note", "repeat": "never", "forward_headers": ["X-Agent-Id"]},
    "erase": {"method": "POST", "path": "/erase/{order}", "repeat": "never"},
}


@dataclass
class Stage:
    """The gateway and what is behind it."""

    gateway: Gateway
    upstream: ScriptedProvider
    _numbers: Iterator[int] = field(default_factory=lambda: iter(range(1_000_000)))

    def model(self, *scripts: Any) -> str:  # noqa: ANN401 - a script is what the upstream plays
        """A model that nobody else asks for, with what its provider answers."""
        name = f"scripted-{next(self._numbers)}"
        self.upstream.says(name, *(scripts or (completion("ok"),)))
        return name

    def token(self, subject: str = "", **claims: object) -> str:
        """A good token of one of the agents; `procurement` unless told otherwise."""
        return self.gateway.token(**({"sub": subject} if subject else {}), jti=uuid.uuid4().hex, **claims)

    def chat(self, model: str, text: str = "hello", *, token: str | None = "", **members: object) -> Reply:
        """One chat completion."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], **members}
        return self.gateway.call("POST", "/v1/chat/completions", body, token=token)

    def raw(self, request: bytes, patience: float = 20.0) -> bytes:
        """Send bytes as they are, and give all that comes back until the gateway closes or falls silent."""
        host, port = self.gateway.url.removeprefix("http://").split(":")
        got = b""
        with socket.create_connection((host, int(port)), timeout=patience) as sock:
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while part := sock.recv(65536):
                    got += part
        return got

    def request(
        self, method: str, target: str, headers: list[tuple[str, str]] | None = None, body: bytes = b""
    ) -> Reply:
        """One request whose target and headers go out just as they are written, repeated ones too; a body is JSON."""
        host, port = self.gateway.url.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        with contextlib.closing(connection):
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            names = {name.lower() for name, _ in headers or ()}
            for name, value in headers or ():
                connection.putheader(name, value.encode("latin-1", "surrogateescape"))
            if "host" not in names:
                connection.putheader("Host", f"{host}:{port}")
            if body or method == "POST":
                connection.putheader("Content-Length", str(len(body)))
                if "content-type" not in names:
                    connection.putheader("Content-Type", "application/json")
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return Reply(answer.status, joined(answer.getheaders()), answer.read())

    def bearer(self, subject: str = "") -> tuple[str, str]:
        """The header of a good token."""
        return "Authorization", f"Bearer {self.token(subject)}"

    def counted(self, metric: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        wanted = [f'{name}="{value}"' for name, value in labels.items()]
        samples: Mapping[str, float] = self.gateway.metrics()
        return sum(
            value
            for name, value in samples.items()
            if name.startswith(f"passgate_{metric}{{") and all(one in name for one in wanted)
        )

    def lines(self) -> list[dict[str, Any]]:
        """The log, once what was answered so far is in it."""
        self.gateway.metrics()  # the workers hand over what they have; their log lines leave as often
        time.sleep(0.5)
        return self.gateway.log()

    def row(self, reply: Reply) -> dict[str, Any]:
        """The one ledger row of a call."""
        (row,) = self.gateway.wait_for_rows(1, "request_id = ?", reply.headers["gateway-request-id"])
        return row


def config(url: str) -> dict[str, Any]:
    """The configuration, with everything upstream at `url`."""
    shared = {"issuer": "dev", "team": "finance"}
    return {
        "agents": [
            {"id": "procurement", "subject": "spiffe://acme.example/agent/procurement", **shared},
            {"id": "auditor", "subject": AUDITOR, **shared},
            {"id": "barred", "subject": BARRED, **shared},
        ],
        "providers": {
            "main": {
                "dialects": ["openai"],
                "base_url": f"{url}/v1",
                "api_key": "${env:PROVIDER_KEY}",
                "allow_internal": True,
                "timeouts": {"first_byte": "2s", "idle": "2s"},
            },
        },
        "models": {"scripted-*": {"targets": [{"provider": "main"}]}},
        "prices": {"main/*": [{"input": "1.00", "output": "2.00"}]},
        "tools": {
            name: {
                "kind": "http",
                "base_url": f"{url}/{name}",
                "allow_internal": True,
                "auth": {"header": "X-Upstream-Authorization", "value": "Bearer ${env:TOOL_KEY}"},
                "operations": _OPERATIONS,
            }
            for name in ("bank", "vault")
        },
        "log": {"level": "debug"},
    }


@contextlib.contextmanager
def on_stage(folder: Path, **changes: object) -> Iterator[Stage]:
    """Start it all; `changes` replace sections of the configuration."""
    environment = {"PROVIDER_KEY": PROVIDER_KEY, "TOOL_KEY": TOOL_KEY}
    with (
        ScriptedProvider() as upstream,
        Gateway(
            folder,
            config={**config(upstream.url), **changes},
            policies={"attacks.yaml": POLICIES},
            environment=environment,
        ) as gateway,
    ):
        yield Stage(gateway, upstream)


def compact(value: object) -> bytes:
    """A JSON body."""
    return json.dumps(value).encode()
