"""Operators with signed tokens at the admin listener of a real gateway: what they may, and who is none."""

from __future__ import annotations

import hashlib
import http.client
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.simulator.gateway import Gateway
from tests.simulator.issuer import Issuer
from tests.simulator.jwks import JwksServer

AUDIENCE = "https://gateway.example"
ROOT = "the-token-of-an-operator-for-the-day-when-no-issuer-works"
DESK, CHIEF = "user/desk", "user/chief"
SENTENCE = "this is not an operator's token"


@pytest.fixture(scope="module")
def corp() -> Iterator[JwksServer]:
    """The web server of the issuer of `chief`."""
    with JwksServer() as server:
        yield server


@pytest.fixture(scope="module")
def chief(corp: JwksServer) -> Issuer:
    issuer = Issuer(name="corp", iss=corp.url, subject=CHIEF, kid="corp-1")
    corp.publishes(issuer.jwks())
    return issuer


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, corp: JwksServer, chief: Issuer) -> Iterator[Gateway]:
    issuers = [
        {"name": "dev", "iss": "https://issuer.example", "keys": {"file": "jwks.json"}},
        {"name": "corp", "iss": chief.iss, "keys": {"url": corp.jwks_url}},
    ]
    digest = hashlib.sha256(ROOT.encode()).hexdigest()
    config = {
        "identity": {"audience": AUDIENCE, "issuers": issuers},
        "operators": [
            {"id": "desk", "issuer": "dev", "subject": DESK, "roles": ["viewer"], "groups": ["finance"]},
            {"id": "chief", "issuer": "corp", "subject": CHIEF, "roles": ["operator"]},
            {"id": "root", "token_sha256": digest, "roles": ["operator"]},
        ],
    }
    with Gateway(tmp_path_factory.mktemp("gateway"), config=config) as running:
        yield running


def ask(gateway: Gateway, path: str, token: str, body: object = None) -> tuple[int, dict[str, Any]]:
    """Read, or change something where there is a body."""
    connection = http.client.HTTPConnection(urlsplit(gateway.admin_url).netloc, timeout=30)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        method, data = ("GET", None) if body is None else ("POST", json.dumps(body))
        connection.request(method, f"/admin/v1/{path}", data, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def refused(gateway: Gateway, token: str, why: str, code: str = "identity_invalid") -> None:
    """It opens nothing, is told one sentence, and the log says why."""
    seen = (gateway.folder / "log.ndjson").stat().st_size
    status, told = ask(gateway, "status", token)
    assert (status, told["code"]) == (401, code)
    assert (SENTENCE in told["detail"]) == (code == "identity_invalid")
    line = gateway.wait_for("operator_refused", since=seen)
    assert (line["code"], why in line["detail"]) == (code, True), line


def desk(gateway: Gateway, **claims: object) -> str:
    """The token of `desk`, with claims changed."""
    return gateway.token(**{"sub": DESK, **claims})


def test_each_may_what_the_role_says(gateway: Gateway, chief: Issuer) -> None:
    """A viewer reads and may not stop; an operator may, and the record has the name of the person."""
    assert ask(gateway, "status", desk(gateway))[0] == 200
    status, told = ask(gateway, "agents/procurement/stop", desk(gateway), {"reason": "mischief"})
    assert (status, told["code"]) == (403, "scope_exceeded")
    assert gateway.chat().status == 200
    status, told = ask(gateway, "agents/procurement/stop", chief.token(), {"reason": "a drill"})
    assert (status, told["by"], told["effective"]) == (200, "chief", True)
    assert gateway.chat().refusal == "agent_stopped"
    assert ask(gateway, "agents/procurement/start", chief.token(), {})[0] == 200
    assert ask(gateway, "stops", desk(gateway))[1]["history"][0]["operator"] == "chief"


def test_who_is_no_operator(gateway: Gateway, chief: Issuer) -> None:
    """I1, I7, I8, I12, I15, I19: forged, foreign, bound, expired and agents' tokens open nothing here."""
    now, kid = time.time(), gateway.issuer.kid
    forger = Issuer(kid=kid)
    thumbprint = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    refused(gateway, forger.token(sub=DESK), f"the signature is not that of key {kid}")
    refused(gateway, forger.token(now - 7200, sub=DESK), f"the signature is not that of key {kid}")
    refused(gateway, gateway.issuer.token(now - 7200, sub=DESK), "the token expired at", code="identity_expired")
    refused(gateway, desk(gateway, aud="https://other.example"), "is not this gateway alone")
    refused(gateway, Issuer(iss=chief.iss, kid=chief.kid).token(sub=CHIEF), "the signature is not that of key corp-")
    refused(gateway, desk(gateway, sub=CHIEF), f"no operator has the subject '{CHIEF}' of issuer dev")
    refused(gateway, desk(gateway, cnf={"jkt": thumbprint}), "bound to a key (cnf)")
    refused(gateway, gateway.token(), "the token is that of agent procurement")
    refused(gateway, desk(gateway, act={"sub": gateway.issuer.subject}), "acts for somebody else")
    refused(gateway, _child(gateway), "no configured issuer's")


def _child(gateway: Gateway) -> str:
    """The token of an agent's child, which the gateway signed."""
    form = (
        b"grant_type=urn:ietf:params:oauth:grant-type:token-exchange"
        b"&subject_token_type=urn:ietf:params:oauth:token-type:access_token&name=desk&subject_token="
    )
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    reply = gateway.call("POST", "/oauth/token", form + gateway.token().encode(), headers=headers, token=None)
    return str(reply.json()["access_token"])


def test_an_operator_is_no_agent(gateway: Gateway) -> None:
    """What opens the admin listener opens nothing at the agents'."""
    reply = gateway.call("GET", "/v1/models", token=desk(gateway))
    assert (reply.status, reply.refusal) == (403, "agent_unknown")


def test_who_is_stopped_is_out_until_started(gateway: Gateway, chief: Issuer) -> None:
    """A stolen token is stopped by its id and an issuer by its name, and who has a token of its own starts it again."""
    token = desk(gateway, jti="stolen")
    assert ask(gateway, "status", token)[0] == 200
    assert ask(gateway, "tokens/stolen/stop", chief.token(), {})[0] == 200
    refused(gateway, token, "token stolen was stopped by operator chief")
    assert ask(gateway, "status", desk(gateway))[0] == 200
    assert ask(gateway, "issuers/corp/stop", chief.token(), {})[0] == 200
    refused(gateway, chief.token(), "issuer corp was stopped by operator chief")
    assert ask(gateway, "issuers/corp/start", ROOT, {})[0] == 200
    assert ask(gateway, "tokens/stolen/start", chief.token(), {})[0] == 200
    assert ask(gateway, "status", token)[0] == 200


def test_the_command_line_carries_a_signed_token(gateway: Gateway) -> None:
    """`PASSGATE_ADMIN_TOKEN` may be one; the longest that counts fits into the request."""
    long = desk(gateway, note="x" * 5000)
    assert 6800 < len(long) <= 7168
    for token in (desk(gateway), long):
        gateway.environment = {"PASSGATE_ADMIN_TOKEN": token}
        done = gateway.command("agents", "list", "--admin", gateway.admin_url)
        assert "procurement" in done.stdout
    done = gateway.command("agents", "stop", "procurement", "--admin", gateway.admin_url, check=False)
    assert (done.returncode, "this needs the role operator" in done.stderr) == (2, True)


def test_keys_change(gateway: Gateway, corp: JwksServer, chief: Issuer) -> None:
    """I11: a reload brings the keys of a file and fetched ones come by themselves; tokens of those before are out."""
    before, gateway.issuer = desk(gateway), Issuer(kid="key-2")
    (gateway.folder / "jwks.json").write_bytes(gateway.issuer.jwks())
    assert ask(gateway, "reload", chief.token(), {})[1]["reloaded"]
    assert ask(gateway, "status", desk(gateway))[0] == 200
    refused(gateway, before, "no key for kid 'key-1'")
    before, chief.key, chief.kid = chief.token(), Issuer().key, "corp-2"
    corp.publishes(chief.jwks())
    assert ask(gateway, "status", chief.token())[0] == 200
    refused(gateway, before, "no key for kid 'corp-1'")
