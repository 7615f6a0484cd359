"""Client certificates and API keys over the whole way: real TLS, the real command, and what is put on record."""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.simulator.authority import BUYER, SERVER, Authority, Certified, Lives, client_context
from tests.simulator.gateway import Gateway, Reply

BARRED = "spiffe://acme.example/agent/barred"
KEY = "pgk_" + "k" * 43
POLICY = """version: 1
policy: p
rules:
  - {id: small, effect: allow, match: {models: [sim-small]}}
  - {id: proven, effect: allow, match: {models: [sim-large], min_assurance: mtls}}
  - {id: barred, effect: deny, match: {agents: [barred]}, message: This agent may do nothing.}
"""
HANGS_UP = (ssl.SSLError, ConnectionError)


@dataclass
class Mesh:
    """A gateway that asks for certificates, the authority that it listens to, and a client."""

    gateway: Gateway
    agents: Authority
    server_ca: Path

    def context(self, shown: Certified | None = None) -> ssl.SSLContext:
        """What a client uses that shows this certificate."""
        files = shown.save(self.gateway.folder / "clients", shown.thumbprint) if shown is not None else None
        return client_context(self.server_ca, files)

    def chat(self, shown: Certified | None = None, model: str = "sim-small", **headers: str) -> Reply:
        """One call on a connection of its own; `_` in a header's name is a hyphen."""
        with Client(self.gateway.url, self.context(shown)) as client:
            return client.chat(model, {name.replace("_", "-"): value for name, value in headers.items()})

    def row(self, reply: Reply) -> dict[str, Any]:
        """What the ledger says of an answer."""
        (row,) = self.gateway.wait_for_rows(1, "request_id = ?", reply.headers["gateway-request-id"])
        return row

    def detail(self, reply: Reply) -> str:
        """What the log says of a refusal beyond what the caller was told."""
        wanted = reply.headers["gateway-request-id"]
        until = time.monotonic() + 10
        while time.monotonic() < until:
            for line in self.gateway.log():
                if line.get("request_id") == wanted and "detail" in line:
                    return str(line["detail"])
            time.sleep(0.05)
        raise AssertionError(f"the log says nothing of {wanted}")


class Client(http.client.HTTPSConnection):
    """One connection, which lives for as long as the test wants."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        super().__init__(urlsplit(url).netloc, context=context, timeout=10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def scrape(self) -> bytes:
        """The metrics."""
        self.request("GET", "/metrics")
        return self.getresponse().read()

    def chat(self, model: str = "sim-small", headers: Mapping[str, str] | None = None) -> Reply:
        """One call."""
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}]})
        self.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json", **(headers or {})})
        answer = self.getresponse()
        return Reply(answer.status, dict(answer.getheaders()), answer.read())


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Agents may show a certificate, scrapers of metrics must."""
    folder = tmp_path_factory.mktemp("mesh")
    servers, agents = Authority("servers"), Authority("agents")
    servers.server().save(folder, "tls")
    agents.save(folder, "agents-ca.pem")
    gateway = Gateway(folder, policies={"p.yaml": POLICY})
    tls = {"cert": "tls.crt", "key": "tls.key", "client_ca": "agents-ca.pem"}
    doors: dict[str, dict[str, Any]] = {name: {"bind": "127.0.0.1:0"} for name in ("agents", "metrics", "admin")}
    dev = {"name": "dev", "iss": gateway.issuer.iss, "keys": {"file": "jwks.json"}}
    svids = {"name": "mesh", "kinds": ["x509-svid"], "trust_domain": "acme.example"}
    gateway.config = {
        "listen": {**doors, "agents": {**doors["agents"], "tls": tls}, "metrics": {**doors["metrics"], "tls": tls}},
        "identity": {"audience": gateway.issuer.audience, "skew": "0s", "issuers": [dev, svids]},
        "agents": [
            {"id": "procurement", "issuer": "dev", "subject": gateway.issuer.subject},
            {"id": "buyer", "issuer": "mesh", "subject": BUYER, "team": "finance"},
            {"id": "barred", "issuer": "mesh", "subject": BARRED},
            {"id": "scratch", "key_sha256": [hashlib.sha256(KEY.encode()).hexdigest()]},
        ],
        "models": {"sim-*": {"targets": [{"provider": "demo"}]}},
    }
    with gateway:
        yield Mesh(gateway, agents, servers.save(folder, "servers-ca.pem"))


def test_a_workload_calls_with_its_certificate_alone(mesh: Mesh) -> None:
    """No key, no token: the SVID names the agent, and the record says how well it is known."""
    svid = mesh.agents.svid()
    reply = mesh.chat(svid, "sim-large")
    assert reply.status == 200, reply.body
    row = mesh.row(reply)
    assert (row["agent"], row["team"], row["issuer"], row["subject"]) == ("buyer", "finance", "mesh", BUYER)
    assert row["assurance"] == "mtls"
    assert mesh.chat(mesh.agents.svid(BARRED)).refusal == "policy_denied"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_resumed_session_is_the_same_workload(mesh: Mesh, version: ssl.TLSVersion) -> None:
    """A connection that resumes a TLS session without a new handshake is its workload; nobody else's session is."""
    context = mesh.context(mesh.agents.svid())
    context.minimum_version = context.maximum_version = version
    with Client(mesh.gateway.url, context) as first:
        assert first.chat().status == 200
        session = first.sock.session
    with Client(mesh.gateway.url, context) as second:
        second.sock = context.wrap_socket(_connected(mesh.gateway.url), server_hostname="127.0.0.1", session=session)
        reply = second.chat()
        assert second.sock.session_reused
    assert (reply.status, mesh.row(reply)["agent"]) == (200, "buyer")


def _connected(url: str) -> Any:  # noqa: ANN401 - a socket
    plain = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    plain.connect()
    return plain.sock


@pytest.mark.parametrize(
    ("uris", "flags", "detail"),
    [
        ((BUYER, BARRED), {}, "has 2 URIs among its names"),
        ((BUYER, BUYER), {}, "has 2 URIs among its names"),
        ((BUYER,), {"ca": True, "signs": True}, "is an authority's"),
        ((BUYER,), {"ca": True}, "is an authority's"),
        ((BUYER,), {"revokes": True}, "is an authority's"),
        (("spiffe://corp.example/agent/buyer",), {}, "is of trust domain corp.example"),
        (("spiffe://acme.example.evil/agent/buyer",), {}, "is of trust domain acme.example.evil"),
        (("spiffe://acme.example/agent/../agent/buyer",), {}, "dot segment"),
        (("spiffe://acme.example",), {}, "no workload"),
    ],
)
def test_a_certificate_that_is_no_svid(uris: tuple[str, ...], flags: dict[str, Any], detail: str, mesh: Mesh) -> None:
    """I13, I14: our own authority signed it, and still two URIs, a CA bit or another trust domain are nobody."""
    reply = mesh.chat(mesh.agents.svid(*uris, **flags))
    assert (reply.status, reply.refusal) == (401, "identity_invalid")
    assert b"certificate" not in reply.body
    assert detail in mesh.detail(reply)


def test_a_certificate_that_the_handshake_refuses(mesh: Mesh) -> None:
    """I14: expired, not yet begun, for servers, signing without a CA bit, of a foreign authority: nobody is served."""
    refused = [
        mesh.agents.svid(lives=Lives(-3600, -60)),
        mesh.agents.svid(lives=Lives(600, 3600)),
        mesh.agents.svid(purposes=(SERVER,)),
        mesh.agents.svid(signs=True),
        Authority("agents").svid(),
    ]
    for svid in refused:
        with pytest.raises(HANGS_UP):
            mesh.chat(svid)


def test_a_certificate_ends_while_its_connection_lives(mesh: Mesh) -> None:
    """The same connection is served before its certificate's end and refused after it."""
    ends = time.time() + 3
    with Client(mesh.gateway.url, mesh.context(mesh.agents.svid(lives=Lives(ends=3.0)))) as client:
        assert client.chat().status == 200
        time.sleep(max(0.0, ends - time.time()) + 0.1)
        reply = client.chat()
    assert (reply.status, reply.refusal) == (401, "identity_expired")


def test_without_a_certificate(mesh: Mesh) -> None:
    """The door asks and does not insist: tokens work without a certificate, and no credential at all is 401."""
    assert mesh.chat().refusal == "identity_missing"
    reply = mesh.chat(Authorization=f"Bearer {mesh.gateway.token()}")
    assert (reply.status, mesh.row(reply)["agent"]) == (200, "procurement")


def test_a_token_says_who_calls_over_any_certificate(mesh: Mesh) -> None:
    """A service mesh may put its certificates below agents that have tokens of their own."""
    reply = mesh.chat(mesh.agents.svid(BARRED), Authorization=f"Bearer {mesh.gateway.token()}")
    assert reply.status == 200
    assert (mesh.row(reply)["agent"], mesh.row(reply)["assurance"]) == ("procurement", "bearer")


def test_a_stolen_bound_token_is_worthless(mesh: Mesh) -> None:
    """I16: a token that is bound to a certificate counts over a session of that certificate, and no other."""
    own, thiefs = mesh.agents.svid(), mesh.agents.svid(BARRED)
    bearer = f"Bearer {mesh.gateway.token(cnf={'x5t#S256': own.thumbprint})}"
    reply = mesh.chat(own, "sim-large", Authorization=bearer)
    assert reply.status == 200, reply.body
    assert (mesh.row(reply)["agent"], mesh.row(reply)["assurance"]) == ("procurement", "mtls")
    for shown in (thiefs, None):
        stolen = mesh.chat(shown, Authorization=bearer)
        assert (stolen.status, stolen.refusal) == (401, "proof_invalid")
        assert "www-authenticate" in stolen.headers
    pem = own.cert.public_bytes(Encoding.PEM).decode().replace("\n", "")
    assert mesh.chat(None, Authorization=bearer, Client_Cert=pem, X_SSL_Client_Cert=pem).refusal == "proof_invalid"


@pytest.mark.parametrize(
    "name", ["X-Forwarded-Client-Cert", "X-SSL-Client-Cert", "Ssl-Client-Cert", "Client-Cert", "X-Client-Cert"]
)
def test_a_certificate_in_a_header_is_nobodys(name: str, mesh: Mesh) -> None:
    """I17: what a header says of a certificate neither makes a caller nor changes one."""
    words = {name: f'By=spiffe://acme.example/gw;URI="{BARRED}"'}
    assert mesh.chat(None, **words).refusal == "identity_missing"
    reply = mesh.chat(mesh.agents.svid(), **words)
    assert (reply.status, mesh.row(reply)["agent"]) == (200, "buyer")


def test_metrics_are_for_those_with_a_certificate(mesh: Mesh) -> None:
    """Where the listener of metrics has authorities, nobody scrapes without a certificate of theirs."""
    with Client(mesh.gateway.metrics_url, mesh.context()) as stranger, pytest.raises(HANGS_UP):
        stranger.scrape()
    with Client(mesh.gateway.metrics_url, mesh.context(mesh.agents.svid())) as scraper:
        assert b"passgate_build_info" in scraper.scrape()


def test_an_api_key_proves_little(mesh: Mesh) -> None:
    """A key is its agent where a rule asks for nothing better; neither log nor state ever holds the key."""
    reply = mesh.chat(None, Authorization=f"Bearer {KEY}")
    assert reply.status == 200, reply.body
    row = mesh.row(reply)
    assert (row["agent"], row["issuer"], row["subject"], row["assurance"]) == ("scratch", "api-key", "scratch", "key")
    assert row["key_id"] == hashlib.sha256(KEY.encode()).hexdigest()[:16]
    assert mesh.chat(None, "sim-large", Authorization=f"Bearer {KEY}").refusal == "policy_denied"
    assert mesh.chat(None, Authorization=f"Bearer {KEY[:-1]}x").refusal == "identity_invalid"
    kept = [file.read_bytes() for file in mesh.gateway.folder.rglob("*") if file.is_file()]
    assert not [1 for data in kept if KEY.encode() in data]
    assert "development" in mesh.gateway.command("check").stderr
