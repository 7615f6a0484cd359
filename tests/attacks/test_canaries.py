"""Every kind of credential at one real listener over TLS, then a search for them in all that others see or keep."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import pytest
from cryptography import x509

from tests.attacks.stage import Stage, compact, on_stage
from tests.simulator.authority import BUYER, Authority, Certified, client_context
from tests.simulator.gateway import Reply
from tests.simulator.issuer import Issuer
from tests.simulator.prover import Prover
from tests.simulator.provider import completion, failure
from tests.simulator.upstream import answer

CHAT: Final = "/v1/chat/completions"
PAY: Final = "/tools/bank/pay/I25"
EXCHANGE: Final = {
    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
}
API_KEY: Final = "pgk_canary-of-a-key-" + "k" * 27
CERTIFIED: Final = "canary-of-a-certificate.acme.example"
CLAIM: Final = "canary-of-a-claim"
PROOF: Final = "canary-of-a-proof"


@dataclass
class Watch:
    """What was shown to a gateway, and all that others saw and it kept."""

    stage: Stage
    certified: Certified
    shown: dict[str, set[bytes]] = field(default_factory=dict)  # by the kind of credential: what may stand nowhere
    replies: list[Reply] = field(default_factory=list, repr=False)
    kept: dict[str, bytes] = field(
        default_factory=dict, repr=False
    )  # files, metrics, the operators' pages, the upstream's record

    def signed(self, kind: str, token: str) -> str:
        """Remember a token or a proof: the whole of it, its claims and its signature."""
        self.shown.setdefault(kind, set()).update(part.encode() for part in (token, *token.split(".")[1:]))
        return token

    def token(self, kind: str, **claims: Any) -> str:  # noqa: ANN401 - claims of any type
        """A good token with a canary among its claims."""
        return self.signed(kind, self.stage.token(note=CLAIM, **claims))

    def proven(self, prover: Prover, path: str, token: str) -> dict[str, str]:
        """The headers of a token with its proof."""
        headers = prover.headers("POST", self.stage.gateway.url + path, token, jti=f"{PROOF}-{uuid.uuid4().hex}")
        self.signed("proof", headers["DPoP"])
        return headers

    def post(self, path: str, headers: Mapping[str, str], body: object = None) -> Reply:
        """One request, over TLS with the client's certificate."""
        data = body if isinstance(body, bytes) else compact(body or {"model": "scripted-ok", "messages": []})
        self.replies.append(self.stage.gateway.call("POST", path, data, headers=headers, token=None))
        return self.replies[-1]

    def exchange(self, token: str, headers: Mapping[str, str] | None = None, **asked: str) -> Reply:
        """Ask for a child's token."""
        form = {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
        reply = self.post("/oauth/token", form, urlencode({**EXCHANGE, "subject_token": token, **asked}).encode())
        if reply.status == 200:
            self.replies.pop()  # whoever asked gets it: it is all others that may not see it
            self.signed("child's token", reply.json()["access_token"])
        return reply

    def found(self, data: bytes) -> set[str]:
        """Which kinds of credential stand in these bytes, in any case of letters."""
        lower = data.lower()
        return {kind for kind, secrets in self.shown.items() if any(secret.lower() in lower for secret in secrets)}


def presented(token: str) -> list[dict[str, str]]:
    """The headers that may carry a credential."""
    return [{"Authorization": f"Bearer {token}"}, {"x-api-key": token}, {"x-goog-api-key": token}]


def work(watch: Watch) -> None:
    """Good calls, failing ones and mistakes, with each kind of credential."""
    plain, certified = watch.token("bearer"), watch.token("bearer", cnf={"x5t#S256": watch.certified.thumbprint})
    good = [headers for token in (plain, certified, API_KEY) for headers in presented(token)] + [{}]
    for headers in good:  # without any of them the certificate speaks for itself
        assert [watch.post(CHAT, headers).status, watch.post(f"/r/day-1{CHAT}", headers).status] == [200, 200]
        watch.post(CHAT, headers, {"model": "scripted-bad", "messages": []})
        watch.post(CHAT, headers, {"model": "nobody-knows", "messages": []})
        assert watch.post(PAY, headers, b"{}").status == (200 if headers else 403)
    possession(watch)
    child = watch.exchange(plain, name="worker").json()["access_token"]
    assert watch.post(CHAT, presented(child)[0]).status == 200
    assert watch.exchange(API_KEY, name="scratch").status == 200
    mistakes(watch, [plain, certified, API_KEY, child])


def possession(watch: Watch) -> None:
    """Bound tokens with their proofs, at calls and at the token endpoint."""
    prover = Prover()
    bound = watch.token("bound", cnf=prover.cnf)
    prover.learn(watch.post(CHAT, watch.proven(prover, CHAT, bound)).headers)  # the first one lacks the nonce
    for path in (CHAT, f"/r/day-1{CHAT}", PAY):
        headers = watch.proven(prover, path, bound)
        assert watch.post(path, headers, b"{}" if path == PAY else None).status == 200
        assert watch.post(path, headers, b"{}" if path == PAY else None).refusal == "proof_invalid"  # a replay
    for headers in (presented(bound)[0], watch.proven(Prover(nonce=prover.nonce), CHAT, bound)):
        assert watch.post(CHAT, headers).refusal == "proof_invalid"
    proof = {"DPoP": watch.proven(prover, "/oauth/token", bound)["DPoP"]}
    assert watch.exchange(bound, proof, name="worker").json()["token_type"] == "DPoP"
    assert watch.exchange(bound, proof, name="worker").status == 400


def mistakes(watch: Watch, tokens: list[str]) -> None:
    """What is sent in the wrong place, or is wrong by a character, is as secret as it was."""
    for token in tokens:
        wrong = watch.signed("mistake", f"{token[:-2]}{'AA' if token[-2:] != 'AA' else 'BB'}")
        tries = [{"Authorization": f"Basic {token}"}, {"Authorization": token}, {"Cookie": f"session={token}"}]
        for headers in (*presented(wrong), *tries, {**presented(wrong)[0], "x-api-key": token}):
            watch.post(CHAT, {"X-Custom": token, "Proxy-Authorization": f"Bearer {token}", **headers})
        for path in (f"{CHAT}?key={token}", f"{CHAT}?access_token={token}", f"/oauth/token?subject_token={token}"):
            watch.post(path, {})
            watch.post(path, presented(token)[0])
        assert watch.post(f"{CHAT}?trace={token}", presented(token)[0]).refusal == "identity_invalid"
        assert watch.exchange(token, scope="everything").status == 400
        assert watch.exchange(wrong).status == 400
        watch.exchange(token, {"Authorization": f"Bearer {wrong}"})
        watch.exchange(token, actor_token=token, actor_token_type=EXCHANGE["subject_token_type"])


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Watch:
    """The work, then the gateway is stopped and all that is left of it is read."""
    folder, clients = tmp_path_factory.mktemp("canaries"), tmp_path_factory.mktemp("clients")
    servers, authority = Authority("servers"), Authority("agents")
    servers.server().save(folder, "tls")
    authority.save(folder, "agents-ca.pem")
    names = [x509.UniformResourceIdentifier(BUYER), x509.DNSName(CERTIFIED)]
    certified = authority.svid(names=names)
    with on_stage(folder, **settings()) as stage:
        stage.gateway.context = client_context(servers.save(clients, "ca.pem"), certified.save(clients, "client"))
        stage.upstream.says("scripted-ok", completion("ok"))
        stage.upstream.says("scripted-bad", failure(500, "broken"))
        stage.upstream.says("/bank/pay/I25", [answer(b"{}")])
        watch = Watch(stage, certified, {"claim": {CLAIM.encode()}, "proof": {PROOF.encode()}})
        watch.shown["API key"] = {API_KEY.encode(), API_KEY[4:].encode()}
        der = certified.der
        text = base64.b64encode(der)[130:170]  # of one line, as PEM has them, too
        watch.shown["certificate"] = {der, text, text.replace(b"+", b"-").replace(b"/", b"_"), CERTIFIED.encode()}
        work(watch)
        pages = ("status", "agents", "agents/procurement", "agents/auditor", "stops")
        watch.kept = {page: json.dumps(stage.gateway.admin("GET", f"/admin/v1/{page}")).encode() for page in pages}
        watch.kept["metrics"] = json.dumps(stage.gateway.metrics()).encode()
        watch.kept["readyz"] = stage.gateway.ready()[1].encode()
    watch.kept["upstream"] = stage.upstream.seen()
    files = (file for file in folder.rglob("*") if file.is_file())
    watch.kept |= {str(file.relative_to(folder)): file.read_bytes() for file in files}
    return watch


def settings() -> dict[str, Any]:
    """TLS that asks for certificates, whose workload is the auditor; `procurement` has an API key too."""
    doors: dict[str, dict[str, Any]] = {name: {"bind": "127.0.0.1:0"} for name in ("agents", "metrics", "admin")}
    doors["agents"]["tls"] = {"cert": "tls.crt", "key": "tls.key", "client_ca": "agents-ca.pem"}
    dev = {"name": "dev", "iss": Issuer.iss, "keys": {"file": "jwks.json"}}
    mesh = {"name": "mesh", "kinds": ["x509-svid"], "trust_domain": "acme.example"}
    digest = hashlib.sha256(API_KEY.encode()).hexdigest()
    return {
        "listen": doors,
        "identity": {"audience": Issuer.audience, "issuers": [dev, mesh]},
        "agents": [
            {"id": "procurement", "issuer": "dev", "subject": Issuer.subject, "key_sha256": [digest]},
            {"id": "auditor", "issuer": "mesh", "subject": BUYER},
            {"id": "barred", "issuer": "dev", "subject": "spiffe://acme.example/agent/barred"},
        ],
    }


def test_the_work_was_worth_searching(watch: Watch) -> None:
    """I25: calls of every assurance were made and are on record, and refused ones of every kind are in the log."""
    rows = watch.stage.gateway.rows("outcome = 'complete'")
    assert {row["assurance"] for row in rows} == {"key", "bearer", "bound", "mtls"}
    assert {row["kind"] for row in rows} == {"llm", "tool"}
    assert {"dev", "mesh", "api-key", "gateway"} == {row["issuer"] for row in rows}
    codes = {"identity_invalid", "identity_conflict", "proof_invalid", "scope_exceeded"}
    log = watch.kept["log.ndjson"]
    assert codes <= {reply.refusal for reply in watch.replies}
    assert all(f'"code":"{code}"'.encode() in log for code in codes)
    assert watch.certified.thumbprint.encode() in log  # the certificate's name is there, and that is all
    assert watch.kept["upstream"].count(b"HTTP/1.1") > 20
    kinds = {"bearer", "bound", "proof", "child's token", "API key", "certificate", "claim", "mistake"}
    assert kinds == set(watch.shown)
    assert all(len(secret) > 12 for secrets in watch.shown.values() for secret in secrets)


def test_an_upstream_sees_no_credential(watch: Watch) -> None:
    """I25: no token, proof, certificate, API key or subject token, nor a part of one, reaches a provider or a tool."""
    assert watch.found(watch.kept["upstream"]) == set()


def test_nothing_keeps_or_shows_a_credential(watch: Watch) -> None:
    """I25, S18: none is in the log, the ledger, the state, a recovery file, a metric or a page of the operators."""
    assert {name: kinds for name, data in watch.kept.items() if (kinds := watch.found(data))} == {}


def test_no_answer_repeats_a_credential(watch: Watch) -> None:
    """I25, S18: no answer, good or refused, repeats what it was asked with, in its body or a header."""
    for reply in watch.replies:
        assert watch.found(reply.body + json.dumps(dict(reply.headers)).encode()) == set(), reply


def test_the_gateways_own_key_stays_in_its_file(watch: Watch) -> None:
    """I25, S18: the key that signs children's tokens is in its own file and nowhere else."""
    own = Path("var", "keys", "tokens.json")
    private = re.findall(rb'"d": ?"([\w-]{43})"', watch.kept[str(own)])
    assert len(private) == 1
    holding = {name for name, data in watch.kept.items() for secret in private if secret in data}
    assert holding == {str(own)}
