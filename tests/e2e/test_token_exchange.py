"""Delegation through the real listener: a standard client, two workers, a restart, stops and proofs."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
from authlib.integrations.requests_client import OAuth2Session  # type: ignore[import-untyped]  # it ships no types
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata, get_well_known_url  # type: ignore[import-untyped]  # dto.

from tests.simulator.gateway import ALLOW_ALL, Gateway, Reply, eventually
from tests.simulator.prover import Prover

GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
TOKEN = "/oauth/token"
CHAT = "/v1/chat/completions"
BARRED = "spiffe://acme.example/agent/barred"
BODY = {"model": "sim-small", "messages": [{"role": "user", "content": "hello"}]}
CLOSED = "  - {id: closed, effect: deny, match: {agents: [barred], kinds: [own]}}\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with socket.socket() as free:  # the public URL, and with it the issuer, must be known before the start
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    issued = {"issuer": "dev", "team": "finance"}
    config = {
        "workers": 2,
        "listen": {
            "agents": {"bind": where, "public_url": f"http://{where}"},
            "metrics": {"bind": "127.0.0.1:0"},
            "admin": {"bind": "127.0.0.1:0"},
        },
        "agents": [
            {"id": "procurement", "subject": "spiffe://acme.example/agent/procurement", **issued},
            {"id": "barred", "subject": BARRED, **issued},
        ],
        "models": {name: {"targets": [{"provider": "demo"}]} for name in ("sim-small", "sim-large", "sim-*")},
        "runs": {"limits": {"children": 3, "depth": 2}},
    }
    policies = {"all.yaml": ALLOW_ALL + CLOSED}
    with Gateway(tmp_path_factory.mktemp("gateway"), config=config, policies=policies) as running:
        yield running


def ask(gateway: Gateway, token: str = "", *, headers: Mapping[str, str] | None = None, **asked: object) -> Reply:
    """One request for a child's token; `token` defaults to a good one."""
    form = {"grant_type": GRANT, "subject_token": token or gateway.token(), "subject_token_type": ACCESS_TOKEN}
    given = {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
    return gateway.call("POST", TOKEN, urlencode({**form, **asked}).encode(), headers=given, token=None)


def child(gateway: Gateway, token: str = "", *, headers: Mapping[str, str] | None = None, **asked: object) -> str:
    """A child's token."""
    reply = ask(gateway, token, headers=headers, **asked)
    assert reply.status == 200, reply.body
    assert reply.headers["cache-control"] == "no-store"
    return str(reply.json()["access_token"])


def chat(gateway: Gateway, token: str, model: str = "sim-small", **headers: str) -> Reply:
    return gateway.call("POST", CHAT, {**BODY, "model": model}, headers=headers, token=token)


def refused(reply: Reply, status: int, error: str, code: str) -> dict[str, Any]:
    """A refusal of the token endpoint: the words of OAuth, and our own code."""
    body: dict[str, Any] = reply.json()
    assert (reply.status, body["error"], reply.refusal) == (status, error, code), reply.body
    assert body["error_description"].startswith(f"{code}: ")
    assert reply.headers["gateway-request-id"].startswith("req_")
    assert reply.headers["cache-control"] == "no-store"
    return body


def test_a_standard_client_does_it(gateway: Gateway) -> None:
    """RFC 8414, RFC 8693 and RFC 6750 by authlib alone: discover, exchange, call; no line of it knows the gateway."""
    metadata = AuthorizationServerMetadata(
        requests.get(get_well_known_url(gateway.url, external=True), timeout=20).json()
    )
    for check in ("token_endpoint_auth_methods_supported", "response_types_supported", "grant_types_supported"):
        getattr(metadata, f"validate_{check}")()
    assert metadata["issuer"] == gateway.url
    parent = gateway.token(sub="user/anna", act={"sub": gateway.issuer.subject}, scope="read write")
    with OAuth2Session(client_id="researcher", token_endpoint_auth_method="none", scope="read") as client:
        token = client.fetch_token(
            metadata["token_endpoint"],
            grant_type=metadata["grant_types_supported"][0],
            subject_token=parent,
            subject_token_type=ACCESS_TOKEN,
            audience=gateway.url,
        )
        assert (token["token_type"], token["scope"], token["issued_token_type"]) == ("Bearer", "read", ACCESS_TOKEN)
        assert not token.is_expired()
        answer = client.post(gateway.url + CHAT, json=BODY, timeout=20)
        assert answer.status_code == 200, answer.text
        keys = requests.get(metadata["jwks_uri"], timeout=20).json()["keys"]
    (row,) = gateway.wait_for_rows(1, "request_id = ?", answer.headers["gateway-request-id"])
    assert (row["agent"], row["team"], row["issuer"]) == ("procurement", "finance", "gateway")
    assert row["subject"].startswith(f"{gateway.issuer.subject}/")
    assert (row["on_behalf_of"], row["chain"]) == ("user/anna", gateway.issuer.subject)
    assert row["key_id"] in [key["kid"] for key in keys]
    with OAuth2Session(token_endpoint_auth_method="none") as client, pytest.raises(Exception, match="invalid_scope"):
        client.fetch_token(
            metadata["token_endpoint"],
            grant_type=GRANT,
            subject_token=parent,
            subject_token_type=ACCESS_TOKEN,
            scope="admin",
        )


def test_a_child_uses_what_was_handed_on(gateway: Gateway) -> None:
    """Another model is refused and not listed; what is within reach works, on every worker."""
    token = child(gateway, name="reader", models="sim-small sim-m*", tools="none")
    for _ in range(6):
        assert chat(gateway, token).status == 200
    reply = chat(gateway, token, "sim-large")
    assert (reply.status, reply.refusal) == (403, "scope_exceeded")
    assert reply.json()["error"]["gateway"]["allowed"] == ["sim-m*", "sim-small"]
    (row,) = gateway.wait_for_rows(1, "request_id = ?", reply.headers["gateway-request-id"])
    assert (row["outcome"], row["code"], row["model"]) == ("refused", "scope_exceeded", "sim-large")
    assert [one["id"] for one in gateway.call("GET", "/v1/models", token=token).json()["data"]] == ["sim-small"]
    assert len(gateway.call("GET", "/v1/models").json()["data"]) == 2
    assert gateway.call("GET", "/v1/models/sim-large", token=token).status == 404
    assert gateway.call("GET", "/v1/models/sim-small", token=token).status == 200


def test_what_is_refused_is_on_record(gateway: Gateway) -> None:
    """Widening is refused with its name, on the ledger of the agent that tried, and in the metrics."""
    metric = 'passgate_refusals_total{agent="procurement",code="scope_exceeded"}'
    before = gateway.metrics().get(metric, 0)
    parent = child(gateway, name="narrow", tools="pay.*")
    body = refused(ask(gateway, parent, tools="git.read"), 400, "invalid_request", "scope_exceeded")
    assert body["gateway"]["parameter"] == "tools"
    (row,) = gateway.wait_for_rows(1, "request_id = ?", body["gateway"]["request_id"])
    assert (row["kind"], row["agent"], row["status"]) == ("own", "procurement", 400)
    assert row["subject"].endswith("/narrow")
    assert gateway.metrics()[metric] == before + 1


def test_a_rule_closes_it(gateway: Gateway) -> None:
    """A deny rule with `kinds: [own]` keeps an agent from delegating, as from everything of the gateway's own."""
    reply = ask(gateway, gateway.token(sub=BARRED))
    refused(reply, 403, "access_denied", "policy_denied")
    assert reply.headers["gateway-decision-id"].startswith("dec_")


def test_what_is_no_request(gateway: Gateway) -> None:
    """Wrong methods, large bodies, clients with secrets and bad tokens: the answers of RFC 6749 §5.2."""
    reply = gateway.call("GET", TOKEN)
    refused(reply, 405, "invalid_request", "method_not_allowed")
    assert reply.headers["allow"] == "POST"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    large = gateway.call("POST", TOKEN, b"a=" + b"x" * 16384, headers=headers, token=None)
    refused(large, 413, "invalid_request", "request_too_large")
    basic = ask(gateway, headers={"Authorization": "Basic Y2xpZW50OnNlY3JldA=="})
    refused(basic, 401, "invalid_client", "identity_invalid")
    assert "Basic" in basic.headers["www-authenticate"]
    refused(ask(gateway, "nonsense"), 400, "invalid_request", "identity_invalid")
    refused(
        ask(gateway, gateway.token(exp=1_700_000_000, iat=1_699_999_000)), 400, "invalid_request", "identity_expired"
    )
    other = {"Authorization": f"Bearer {gateway.token(jti='other')}"}
    refused(ask(gateway, headers=other), 400, "invalid_request", "identity_conflict")
    refused(
        gateway.call("POST", f"{TOKEN}?a=b", b"x=1", headers=headers, token=None),
        400,
        "invalid_request",
        "request_malformed",
    )
    refused(ask(gateway, resource="https://elsewhere.example"), 400, "invalid_target", "scope_exceeded")


@pytest.mark.parametrize("framing", ["Content-Length: 20000000", "Transfer-Encoding: chunked"])
def test_nobody_has_a_large_form_read(gateway: Gateway, framing: str) -> None:
    """Before anybody is identified no more than 16 KiB are taken: what goes beyond is refused at once."""
    head = f"POST {TOKEN} HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\n{framing}\r\n"
    head += "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    part = b"" if framing.startswith("Content") else b"5000\r\n" + b"x" * 0x5000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(head.encode() + part)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_no_token_is_in_the_log(gateway: Gateway) -> None:
    """Neither what was handed in nor what was given out is written down; who got it is."""
    parent = gateway.token(jti="t-secret")
    token = child(gateway, parent, name="quiet")
    refused(ask(gateway, parent, scope="x"), 400, "invalid_scope", "scope_exceeded")
    eventually(lambda: any(line.get("code") == "scope_exceeded" for line in gateway.log()), "no access line")
    granted = [line for line in gateway.log() if line["event"] == "token_granted"]
    assert any(line["subject"].endswith("/quiet") and line["agent"] == "procurement" for line in granted)
    text = (gateway.folder / "log.ndjson").read_text()
    assert token.rpartition(".")[2] not in text
    assert parent.rpartition(".")[2] not in text


def test_a_family_shares_its_roots_run(gateway: Gateway) -> None:
    """The child's token names the root's run: its steps count there, it may read it, and children are counted."""
    run = {"Gateway-Run": "order-17"}
    first = child(gateway, name="a", headers=run)
    reply = chat(gateway, first)
    assert (reply.status, reply.headers["gateway-run"], reply.headers["gateway-step"]) == (200, "order-17", "1")
    second = child(gateway, first, name="b")
    assert chat(gateway, second).headers["gateway-step"] == "2"
    told = gateway.call("GET", "/gateway/v1/runs/order-17").json()
    assert (told["steps"], told["children"]) == (2, 2)
    assert gateway.call("GET", "/gateway/v1/runs/order-17", token=second).json() == told
    assert chat(gateway, first, **{"Gateway-Run": "order-18"}).refusal == "run_conflict"


def test_a_run_has_so_many_children(gateway: Gateway) -> None:
    """`runs.limits.children` ends it, a renewal is no new child, and the depth ends it too."""
    run = {"Gateway-Run": "order-20"}
    tokens = [child(gateway, name=f"n{number}", headers=run) for number in range(3)]
    assert child(gateway, name="n0", headers=run)
    body = refused(ask(gateway, name="n3", headers=run), 400, "invalid_request", "run_limit")
    assert body["gateway"]["limit"] == "children"
    assert gateway.call("GET", "/gateway/v1/runs/order-20").json()["children"] == 3
    body = refused(ask(gateway, tokens[0], name="below"), 400, "invalid_request", "run_limit")
    assert body["gateway"]["limit"] == "children"
    deep = child(gateway, child(gateway, name="one"), name="two")
    body = refused(ask(gateway, deep, name="three"), 400, "invalid_request", "run_limit")
    assert (body["gateway"]["limit"], body["gateway"]["allowed"]) == ("depth", 2)


def test_limits_of_a_token(gateway: Gateway) -> None:
    """A limit that is counted in a run needs one, also to delegate; a depth is kept without."""
    limited = gateway.token(limits={"children": 1})
    refused(ask(gateway, limited), 400, "invalid_request", "run_required")
    run = {"Gateway-Run": "order-21"}
    first = child(gateway, limited, name="only", headers=run)
    refused(ask(gateway, limited, name="other", headers=run), 400, "invalid_request", "run_limit")
    refused(ask(gateway, first, name="below"), 400, "invalid_request", "run_limit")
    assert chat(gateway, child(gateway, name="flat", depth=0)).status == 200


def test_a_child_chooses_no_run_of_its_root(gateway: Gateway) -> None:
    """A child outside a run has runs of its own; it cannot send a child of its own into one of its root's."""
    chat(gateway, gateway.token(), **{"Gateway-Run": "secret-run"})
    alone = child(gateway, name="loner")
    body = refused(
        ask(gateway, alone, headers={"Gateway-Run": "secret-run"}), 400, "invalid_request", "request_malformed"
    )
    assert body["gateway"]["parameter"] == "Gateway-Run"
    assert gateway.call("GET", "/gateway/v1/runs/secret-run", token=alone).refusal == "run_unknown"
    assert chat(gateway, alone, **{"Gateway-Run": "secret-run"}).headers["gateway-step"] == "1"
    assert gateway.call("GET", "/gateway/v1/runs/secret-run").json()["steps"] == 1


def test_a_childs_calls_are_its_own(gateway: Gateway) -> None:
    """I24: what a child called is shown to it, and to nobody else: not its parent, not its sister."""
    one, other = child(gateway, name="one"), child(gateway, name="other")
    request_id = chat(gateway, one).headers["gateway-request-id"]
    gateway.wait_for_rows(1, "request_id = ?", request_id)  # the other worker may be asked
    call = f"/gateway/v1/calls/{request_id}"
    assert gateway.call("GET", call, token=one).status == 200
    assert gateway.call("GET", call, token=other).refusal == "object_unknown"
    assert gateway.call("GET", call).refusal == "object_unknown"


def test_a_bound_family(gateway: Gateway) -> None:
    """I15: a bound parent proves itself to delegate, and each child proves itself with the key that it was given."""
    prover, own = Prover(), Prover()
    parent = gateway.token(cnf=prover.cnf)
    refused(ask(gateway, parent), 400, "invalid_dpop_proof", "proof_invalid")

    def bound() -> Reply:
        headers = {"DPoP": prover.proof("POST", gateway.url + TOKEN)}
        reply = ask(gateway, parent, headers=headers, name="bound", req_cnf=json.dumps({"jwk": own.jwk()}))
        prover.learn(reply.headers)
        return reply

    refused(bound(), 400, "use_dpop_nonce", "proof_invalid")
    told = bound().json()
    assert told["token_type"] == "DPoP"
    token = told["access_token"]
    assert chat(gateway, token).refusal == "proof_invalid"

    def call() -> Reply:
        reply = gateway.call("POST", CHAT, BODY, headers=own.headers("POST", gateway.url + CHAT, token), token=None)
        own.learn(reply.headers)
        return reply

    assert call().refusal == "proof_invalid"  # it needs the nonce
    reply = call()
    assert reply.status == 200, reply.body
    stolen = gateway.call("POST", CHAT, BODY, headers=prover.headers("POST", gateway.url + CHAT, token), token=None)
    assert stolen.refusal == "proof_invalid"
    (row,) = gateway.wait_for_rows(1, "request_id = ?", reply.headers["gateway-request-id"])
    assert row["assurance"] == "bound"


def test_stopping_a_parent_stops_its_children(gateway: Gateway) -> None:
    """Whatever is stopped above a child stops it on every worker, and nothing else; then it may go on."""
    parent = gateway.token(jti="t-parent")
    first = child(gateway, parent, name="left")
    second = child(gateway, first, name="below")
    aside = child(gateway, gateway.token(jti="t-other"), name="right")
    for path, stopped, going in (
        ("agents/procurement", [parent, first, second, aside], []),
        ("agents/procurement%2Fleft", [first, second], [parent, aside]),
        ("tokens/t-parent", [parent, first, second], [aside]),
        ("issuers/gateway", [first, second, aside], [parent]),
    ):
        gateway.admin("POST", f"/admin/v1/{path}/stop")
        try:
            for token in stopped:
                assert [chat(gateway, token).refusal for _ in range(4)] == ["agent_stopped"] * 4, path
                refused(ask(gateway, token, name="new"), 403, "access_denied", "agent_stopped")
            assert [chat(gateway, token).status for token in going] == [200] * len(going), path
        finally:
            gateway.admin("POST", f"/admin/v1/{path}/start")
    assert chat(gateway, second).status == 200


def test_a_stopped_run_has_no_new_children(gateway: Gateway) -> None:
    """A run that is stopped, by itself or with the parent that a token names, hands nothing on; then it may again."""
    for stopped in ("run-halted", "run-above"):
        gateway.admin("POST", f"/admin/v1/runs/{stopped}/stop")
    of_run = gateway.token(jti="t-halted", run="run-halted")
    below = gateway.token(jti="t-below", run="run-below", parent_run="run-above")
    for token, headers in (("", {"Gateway-Run": "run-halted"}), (of_run, {}), (below, {})):
        refused(ask(gateway, token, headers=headers, name="late"), 403, "access_denied", "agent_stopped")
    gateway.admin("POST", "/admin/v1/runs/run-halted/start")
    assert chat(gateway, child(gateway, of_run, name="late")).status == 200


def test_rotation(gateway: Gateway) -> None:
    """`passgate keys rotate`: the next token has another key, the ones before still count, on every worker."""
    before = child(gateway, name="early")
    (first, *_), command = kids(gateway), ("keys", "rotate", "--admin", gateway.admin_url)
    said = gateway.command(*command).stdout
    after = kids(gateway)
    assert after[1] == first
    assert said.strip().endswith(after[0])
    later = child(gateway, name="late")
    for token in (before, later) * 4:
        assert chat(gateway, token).status == 200
    nobody = gateway.command("keys", "rotate", check=False)
    assert (nobody.returncode, "no gateway serves" in nobody.stderr) == (2, True)


def test_a_restart_keeps_tokens_and_children(gateway: Gateway) -> None:
    """Keys and counts are on disk, the keys for nobody else's eyes: after a restart everything goes on as it was."""
    run = {"Gateway-Run": "order-30"}
    tokens = [child(gateway, name=f"n{number}", headers=run) for number in range(3)]
    published = kids(gateway)
    file = gateway.folder / "var" / "keys" / "tokens.json"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file.parent, file)] == [0o700, 0o600]
    gateway.kill()
    gateway.start()
    assert kids(gateway) == published
    assert [chat(gateway, token).status for token in tokens] == [200] * 3
    refused(ask(gateway, name="n3", headers=run), 400, "invalid_request", "run_limit")
    assert child(gateway, name="n2", headers=run)


def test_where_only_a_token_names_the_run(tmp_path: Path) -> None:
    """`runs.source: claim`: a header does not become a signed claim by way of a child."""
    with Gateway(tmp_path, config={"runs": {"source": "claim"}}) as strict:
        refused(ask(strict, headers={"Gateway-Run": "order-1"}), 400, "invalid_request", "run_conflict")
        token = child(strict, strict.token(run="order-1"))
        assert chat(strict, token).headers["gateway-run"] == "order-1"


def test_keys_that_others_can_read(tmp_path: Path) -> None:
    """S10: the gateway does not start on a signing key that others may have read, and says what to do."""
    with Gateway(tmp_path) as first:
        assert child(first)
    (tmp_path / "var" / "keys" / "tokens.json").chmod(0o644)
    second = Gateway(tmp_path)
    with pytest.raises(AssertionError, match="can be read by others: run `chmod 600"):
        second.__enter__()
    assert second.process.returncode == 2


def kids(gateway: Gateway) -> list[str]:
    """The ids of the published keys, the one that signs first."""
    keys = gateway.call("GET", "/.well-known/jwks.json", token=None).json()["keys"]
    assert all("d" not in key for key in keys)
    return [key["kid"] for key in keys]
