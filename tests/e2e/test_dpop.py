"""Proof of possession through the real listener: two workers, a restart, and what clients are told."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.simulator.gateway import Gateway, Reply
from tests.simulator.prover import Prover

CHAT = "/v1/chat/completions"
BODY = {"model": "sim-small", "messages": [{"role": "user", "content": "hello"}]}
MODELS = "/v1/models"
METADATA = "/.well-known/oauth-protected-resource"
BOUND = "spiffe://acme.example/agent/bound"


@dataclass
class Client:
    """An agent that holds the key of its token and learns the gateway's nonces."""

    gateway: Gateway
    prover: Prover = field(default_factory=Prover)
    token: str = ""

    def __post_init__(self) -> None:
        """Get a token."""
        self.token = self.gateway.token(cnf=self.prover.cnf)

    def headers(self, method: str, path: str, **changes: object) -> dict[str, str]:
        """What a request carries, with claims of its proof changed."""
        return self.prover.headers(method, self.gateway.url + path, self.token, **changes)

    def send(self, method: str, path: str, body: object = None, **changes: object) -> Reply:
        """One request with a fresh proof; takes over the nonce of the answer."""
        headers = self.headers(method, path, **changes)
        reply = self.gateway.call(method, path, body, headers=headers, token=None)
        self.prover.learn(reply.headers)
        return reply

    def refused(self, error: str, method: str, path: str, body: object = None, **changes: object) -> Reply:
        """A request whose proof is refused, with the challenge for it."""
        reply = self.send(method, path, body, **changes)
        assert (reply.status, reply.refusal) == (401, "proof_invalid"), reply.body
        challenge = reply.headers["www-authenticate"]
        assert challenge.startswith(f'DPoP error="{error}", error_description="')
        assert 'algs="EdDSA ES256' in challenge
        assert f'resource_metadata="{self.gateway.url}{METADATA}"' in challenge
        assert reply.headers["dpop-nonce"]
        assert "x-should-retry" not in reply.headers
        return reply


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two workers; of the agent `bound` a proof is required."""
    folder = tmp_path_factory.mktemp("dpop")
    subjects = {"procurement": "spiffe://acme.example/agent/procurement", "bound": BOUND}
    agents = [
        {"id": name, "issuer": "dev", "subject": subject, "require_proof": name == "bound"}
        for name, subject in subjects.items()
    ]
    with Gateway(folder, config={"workers": 2, "agents": agents}) as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Client:
    """A client that knows the nonce: it was told when it asked without."""
    client = Client(gateway)
    reply = client.refused("use_dpop_nonce", "GET", MODELS)
    assert reply.json()["error"]["gateway"]["error"] == "use_dpop_nonce"
    return client


def test_a_bound_token_works_with_its_proof(client: Client) -> None:
    """The whole way: JSON and stream, the answers bring the nonce for the next proof (RFC 9449 §8.2)."""
    for members in ({}, {"stream": True}):
        reply = client.send("POST", CHAT, {**BODY, **members})
        assert reply.status == 200, reply.body
        assert reply.headers["dpop-nonce"] == client.prover.nonce
        (row,) = client.gateway.wait_for_rows(1, "request_id = ?", reply.headers["gateway-request-id"])
        assert (row["agent"], row["assurance"]) == ("procurement", "bound")


def test_a_client_that_sends_a_proof_too_much(gateway: Gateway, client: Client) -> None:
    """I16: an unbound bearer token works as ever, whatever stands in `DPoP`; its answers have no nonce."""
    reply = gateway.call("GET", MODELS, headers={"DPoP": client.prover.proof("GET", gateway.url + MODELS)})
    assert reply.status == 200
    assert "dpop-nonce" not in reply.headers


def test_a_stolen_token(gateway: Gateway, client: Client) -> None:
    """I15, I16: with the token alone, with another key, or as a bearer token anywhere it is 401."""
    thief = Client(gateway, Prover(nonce=client.prover.nonce))
    thief.token = client.token
    thief.refused("invalid_dpop_proof", "POST", CHAT, BODY)
    for headers in (
        {"Authorization": f"Bearer {client.token}"},
        {"x-api-key": client.token},
        {"x-goog-api-key": client.token, "DPoP": client.prover.proof("GET", gateway.url + MODELS, client.token)},
    ):
        reply = gateway.call("GET", MODELS, headers=headers, token=None)
        assert (reply.status, reply.refusal) == (401, "proof_invalid")
        assert 'DPoP error="invalid_token"' in reply.headers["www-authenticate"]
    reply = gateway.call("GET", MODELS, headers={"Authorization": f"DPoP {client.token}"}, token=None)
    assert (reply.status, reply.refusal) == (401, "proof_invalid")
    assert reply.headers["www-authenticate"].startswith('DPoP error="invalid_dpop_proof"')


def test_proofs_for_other_requests(gateway: Gateway, client: Client) -> None:
    """I15: another method, URL, run, token, time or key form is 401, and the log alone says which."""
    url = gateway.url + MODELS
    wrong: list[dict[str, object]] = [
        {"htm": "POST"},
        {"htu": gateway.url + CHAT},
        {"htu": url.replace("127.0.0.1", "localhost")},
        {"htu": gateway.url + "/r/job-7" + MODELS},
        {"ath": "x"},
        {"iat": 1_562_262_616},
        {"iat": int(time.time()) + 3600},
        {"jti": ""},
    ]
    said = set()
    for changes in wrong:
        reply = client.refused("invalid_dpop_proof", "GET", MODELS, **changes)
        said.add(reply.json()["error"]["message"])
    assert len(said) == 1
    header = client.prover.header(jwk=client.prover.private_jwk())
    proof = client.prover.sign(header, client.prover.claims("GET", url, client.token))
    headers = {"Authorization": f"DPoP {client.token}", "DPoP": proof}
    assert gateway.call("GET", MODELS, headers=headers, token=None).refusal == "proof_invalid"


def test_proofs_that_are_none(gateway: Gateway, client: Client) -> None:
    """I15: what is signed for another use, unsigned, signed by a thief or written in two ways is 401."""
    prover, thief = client.prover, Prover()
    url = gateway.url + MODELS

    def claims() -> dict[str, object]:
        return prover.claims("GET", url, client.token)

    head, body, tail = prover.sign(prover.header(), claims()).split(".")
    twice = json.dumps(claims())[:-1] + ',"htm":"GET"}'
    proofs = [
        *(prover.sign(prover.header(typ=typ), claims()) for typ in ("JWT", "at+jwt", ...)),
        *(prover.sign(prover.header(**{name: [url]}), claims()) for name in ("crit", "jku", "x5u", "x5c")),
        *(prover.sign(prover.header(alg=alg), claims()) for alg in ("none", "HS256", "EdDSA", None)),
        thief.sign(prover.header(), claims()),
        prover.sign(prover.header(), claims() | {"pad": "x" * 4096}),
        prover.sign_bytes(json.dumps(prover.header()).encode(), twice.encode()),
        prover.sign_bytes(
            json.dumps(prover.header())[:-1].encode() + b',"typ":"dpop+jwt"}', json.dumps(claims()).encode()
        ),
        f"{head}.{body}.{tail}=",
        f"{head}.{body}.",
    ]
    for proof in proofs:
        headers = {"Authorization": f"DPoP {client.token}", "DPoP": proof}
        reply = gateway.call("GET", MODELS, headers=headers, token=None)
        assert (reply.status, reply.refusal) == (401, "proof_invalid")


def test_runs_queries_and_encodings(client: Client) -> None:
    """I15: the run prefix belongs to `htu`, a query does not, and the path is taken as it was written."""
    assert client.send("POST", f"/r/job-7{CHAT}", BODY).status == 200
    assert client.send("POST", f"{CHAT}?beta=true", BODY).status == 200
    assert client.send("GET", "/v1/models/caf%c3%a9").status == 404
    client.refused("invalid_dpop_proof", "GET", "/v1/models/caf%c3%a9", htu=f"{client.gateway.url}/v1/models/caf%C3%A9")


def test_a_replay_at_whichever_worker(gateway: Gateway, client: Client) -> None:
    """I15: of forty requests with one proof, on connections of their own, one passes; both workers refused some."""
    headers = client.headers("GET", MODELS)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: gateway.call("GET", MODELS, headers=headers, token=None), range(40)))
    assert sorted(reply.status for reply in replies) == [200] + [401] * 39
    asked = {reply.headers["gateway-request-id"] for reply in replies if reply.status != 200}

    def refusing() -> set[Any]:
        gateway.metrics()  # the workers hand over what they have logged
        return {line["process"] for line in gateway.log() if line.get("request_id") in asked}

    while len(refusing()) < 2:  # so few that the kernel gave all of them to one worker: ask until the other has some
        asked |= {gateway.call("GET", MODELS, headers=headers, token=None).headers["gateway-request-id"]}


def test_where_a_proof_is_required(gateway: Gateway, client: Client) -> None:
    """An agent of which a proof is required gets nowhere with a plain token, and is told how to get another."""
    reply = gateway.call("GET", MODELS, token=gateway.token(sub=BOUND))
    assert (reply.status, reply.refusal) == (401, "proof_invalid")
    assert "require_proof" in reply.json()["error"]["message"]
    bound = Client(gateway, client.prover)
    bound.token = gateway.token(sub=BOUND, cnf=client.prover.cnf)
    assert bound.send("GET", MODELS).status == 200


def test_every_401_says_where_to_go_on(gateway: Gateway) -> None:
    """RFC 6750, 9449, 9728: both schemes are offered at every address, with what was wrong and where to read more."""
    for token in (None, "nonsense"):
        for path in (MODELS, "/tools/bank/look/A1", "/gateway/v1/runs/r", "/nowhere"):
            reply = gateway.call("GET", path, token=token)
            assert reply.status == 401
            challenge = reply.headers["www-authenticate"]
            assert challenge.startswith('Bearer realm="passgate"')
            assert ", DPoP " in challenge
            assert ('error="invalid_token"' in challenge) == (token is not None)
            assert f'resource_metadata="{gateway.url}{METADATA}"' in challenge


def test_the_metadata_of_the_resource(gateway: Gateway) -> None:
    """RFC 9728: whoever asks is told which issuers count here, and how tokens are to be bound."""
    algs = ["EdDSA", "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
    assert gateway.call("GET", METADATA, token=None).json() == {
        "resource": "https://gateway.example",
        "resource_name": "Passgate",
        "authorization_servers": ["https://issuer.example", "https://gateway.example"],
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": algs,
        "dpop_bound_access_tokens_required": False,
        "tls_client_certificate_bound_access_tokens": False,
    }


def test_a_proof_of_an_earlier_start(tmp_path: Path) -> None:
    """I15: a restart forgets which proofs it has seen, and takes none of them: their nonce was another start's."""
    running = Gateway(tmp_path)
    with running as gateway:
        client = Client(gateway)
        client.refused("use_dpop_nonce", "GET", MODELS)
        used, unused = client.headers("GET", MODELS), client.headers("GET", MODELS)
        assert gateway.call("GET", MODELS, headers=used, token=None).status == 200
        first, port = gateway.url, gateway.port
    running.config = {"listen": {"agents": {"bind": f"127.0.0.1:{port}"}, "metrics": {"bind": "127.0.0.1:0"}}}
    running.config["listen"]["admin"] = {"bind": "127.0.0.1:0"}
    with running as gateway:
        assert gateway.url == first
        for headers in (used, unused):
            reply = gateway.call("GET", MODELS, headers=headers, token=None)
            assert (reply.status, reply.refusal) == (401, "proof_invalid")
            assert reply.headers["www-authenticate"].startswith('DPoP error="use_dpop_nonce"')
        client.refused("use_dpop_nonce", "GET", MODELS)
        assert client.send("GET", MODELS).status == 200
