"""Certificates and authorities change on disk while the gateway serves: real TLS, two workers, nothing restarted."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.simulator.authority import BUYER, Authority, Certified, Lives, client_context
from tests.simulator.gateway import Gateway, eventually
from tests.simulator.provider import ScriptedProvider, completion, streamed
from tests.simulator.upstream import held_back

HANGS_UP = (ssl.SSLError, ConnectionError)


@dataclass
class Mesh:
    """A gateway with TLS for agents and metrics, and what its files say."""

    gateway: Gateway
    provider: ScriptedProvider
    servers: Authority = field(default_factory=lambda: Authority("servers"))
    agents: Authority = field(default_factory=lambda: Authority("agents"))
    server: Certified = field(init=False)

    def __post_init__(self) -> None:
        self.serve(self.servers.server())
        self.agents.save(self.folder)
        self.servers.save(self.folder, "servers-ca.pem")

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.gateway.folder

    def serve(self, server: Certified) -> None:
        """Put a certificate where the gateway looks."""
        self.server = server
        server.save(self.folder, "tls")

    def connection(self, url: str, shown: Certified | None) -> http.client.HTTPSConnection:
        """One connection that is not open yet."""
        files = shown.save(self.folder / "clients", shown.thumbprint) if shown is not None else None
        context = client_context(self.folder / "servers-ca.pem", files)
        return http.client.HTTPSConnection(urlsplit(url).netloc, context=context, timeout=10)

    def chat(self, shown: Certified, model: str = "scripted-plain", **members: object) -> tuple[int, bytes]:
        """One call on a connection of its own: status and body; raises what the handshake raises."""
        connection = self.connection(self.gateway.url, shown)
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}], **members})
        try:
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def served(self, shown: Certified) -> bool:
        """Whether a call with this certificate gets its answer."""
        try:
            return self.chat(shown)[0] == 200
        except HANGS_UP:
            return False

    def shows(self) -> set[bytes]:
        """The certificates that ten connections for agents and one for metrics are shown."""
        return {self._shown(self.gateway.url) for _ in range(10)} | {self._shown(self.gateway.metrics_url)}

    def _shown(self, url: str) -> bytes:
        connection = self.connection(url, None)
        try:
            connection.connect()
            der: bytes | None = connection.sock.getpeercert(binary_form=True)
        finally:
            connection.close()
        assert der is not None
        return der

    def watched(self, path: str) -> str:
        """What the listener of metrics says."""
        connection = self.connection(self.gateway.metrics_url, None)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def now(self) -> int:
        """Where the log ends."""
        return (self.folder / "log.ndjson").stat().st_size


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with ScriptedProvider() as provider:
        provider.says("scripted-plain", completion("hello"))
        gateway = Gateway(tmp_path_factory.mktemp("renewal"))
        mesh = Mesh(gateway, provider)
        doors: dict[str, dict[str, Any]] = {name: {"bind": "127.0.0.1:0"} for name in ("agents", "metrics", "admin")}
        doors["agents"]["tls"] = {"cert": "tls.crt", "key": "tls.key", "client_ca": "agents-ca.pem"}
        doors["metrics"]["tls"] = {"cert": "tls.crt", "key": "tls.key"}
        svids = {"name": "mesh", "kinds": ["x509-svid"], "trust_domain": "acme.example"}
        gateway.config = {
            **provider.behind(),
            "workers": 2,
            "listen": doors,
            "identity": {"audience": gateway.issuer.audience, "issuers": [svids]},
            "agents": [{"id": "buyer", "issuer": "mesh", "subject": BUYER}],
        }
        with gateway:
            yield mesh


def test_certificates_are_renewed_while_a_stream_runs(mesh: Mesh) -> None:
    """All listeners show the new certificate within seconds, and a stream of before runs to its end."""
    go_on = threading.Event()

    mesh.provider.says("scripted-slow", held_back(streamed("one ", "two ", "three "), 2, go_on))
    got: list[tuple[int, bytes]] = []
    svid = mesh.agents.svid()
    asking = threading.Thread(target=lambda: got.append(mesh.chat(svid, "scripted-slow", stream=True)))
    asking.start()
    eventually(lambda: mesh.provider.heard("scripted-slow"), "the provider was not asked")
    assert mesh.shows() == {mesh.server.der}
    mesh.serve(mesh.servers.server(Lives(ends=7200.0)))
    eventually(lambda: mesh.shows() == {mesh.server.der}, "the old certificate is still shown")
    go_on.set()
    asking.join()
    assert (got[0][0], got[0][1].endswith(b"data: [DONE]\n\n")) == (200, True)
    ends = mesh.server.cert.not_valid_after_utc.timestamp()
    lines = mesh.watched("/metrics").splitlines()
    found = [line.split() for line in lines if line.startswith("passgate_tls_cert_expiry_timestamp_seconds{")]
    wanted = {f'passgate_tls_cert_expiry_timestamp_seconds{{listener="{name}"}}' for name in ("agents", "metrics")}
    assert {name: float(value) for name, value in found} == dict.fromkeys(wanted, ends)


def test_an_authority_that_is_removed_counts_no_more(mesh: Mesh) -> None:
    """The authorities rotate as SPIRE does it: both for a while, then the new one alone."""
    before, after = mesh.agents, Authority("agents")
    assert (mesh.served(before.svid()), mesh.served(after.svid())) == (True, False)
    (mesh.folder / "agents-ca.pem").write_bytes(before.pem() + after.pem())
    eventually(lambda: mesh.served(after.svid()), "the new authority does not count")
    assert all(mesh.served(one.svid()) for one in (before, after) * 5)
    mesh.agents = after
    seen = mesh.now()
    after.save(mesh.folder)
    assert mesh.gateway.reload() == []
    assert not any(mesh.served(before.svid()) for _ in range(10))
    assert all(mesh.served(after.svid()) for _ in range(10))
    assert mesh.gateway.wait_for("tls_renewed", since=seen)["listener"] == "agents"


@pytest.mark.parametrize("broken", ["pair", "missing", "authorities", "expired"])
def test_a_broken_file_keeps_what_serves(broken: str, mesh: Mesh) -> None:
    """Unusable files are refused by name, new workers too serve with the old ones, and the next good are taken over."""
    good = mesh.server
    name = {"pair": "tls.key", "missing": "tls.crt", "authorities": "agents-ca.pem", "expired": "tls.crt"}[broken]
    seen = mesh.now()
    if broken == "pair":
        (mesh.folder / name).write_bytes(mesh.servers.server().save(mesh.folder, "other")[1].read_bytes())
    elif broken == "expired":
        mesh.servers.server(Lives(-7200.0, -3600.0)).save(mesh.folder, "tls")
    elif broken == "missing":
        (mesh.folder / name).unlink()
    else:
        (mesh.folder / name).write_text("-----BEGIN CERTIFICATE-----\n")
    problems = mesh.gateway.wait_for("reload_refused", since=seen)["problems"]
    assert name in problems[0]
    assert "[warning] config: the last reload was refused, the old state serves" in mesh.watched("/readyz?verbose")
    victims = mesh.gateway.worker_pids()
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    eventually(
        lambda: len(set(mesh.gateway.worker_pids()) - set(victims)) == 2, "no worker starts with what was in force"
    )
    assert mesh.shows() == {good.der}
    assert mesh.served(mesh.agents.svid())
    mesh.agents.save(mesh.folder)
    mesh.serve(mesh.servers.server())
    eventually(lambda: mesh.shows() == {mesh.server.der}, "the good certificate was not taken over")
    eventually(lambda: "config:" not in mesh.watched("/readyz?verbose"), "it is still said to be refused")
