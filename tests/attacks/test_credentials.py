"""Credentials over the whole way: what an agent shows never goes further, and what is no credential is none."""

from __future__ import annotations

import time

import pytest

from tests.attacks.stage import PROVIDER_KEY, TOOL_KEY, Stage, compact
from tests.simulator.provider import completion
from tests.simulator.upstream import answer

CANARIES = {
    "Cookie": "session=canary-cookie-51",
    "Proxy-Authorization": "Basic canary-proxy-52",
    "OpenAI-Organization": "canary-org-53",
    "OpenAI-Project": "canary-project-54",
    "x-goog-user-project": "canary-project-55",
    "anthropic-workspace-id": "canary-workspace-56",
    "Workflow-Attestation": "canary-attestation-57",
    "Prefer": "canary-prefer-58",
    "Gateway-Anything": "canary-word-59",
    "X-Forwarded-Client-Cert": "canary-cert-60",
    "X-Forwarded-For": "canary-peer-61",
    "X-Custom": "canary-custom-62",
}


def test_the_agents_token_never_reaches_an_upstream(stage: Stage) -> None:
    """I25: an upstream hears no part of the agent's token, its cookies or its words to the gateway."""
    token = stage.token(note="canary-claim-63")
    model = stage.model(completion("ok"))
    stage.upstream.says("/bank/pay/I25", [answer(b"{}")])
    same = {"x-api-key": token, "x-goog-api-key": token, **CANARIES}
    chat = compact({"model": model, "messages": [{"role": "user", "content": "hello"}]})
    assert stage.gateway.call("POST", "/v1/chat/completions", chat, headers=same, token=token).status == 200
    assert stage.gateway.call("POST", "/tools/bank/pay/I25", b"{}", headers=same, token=token).status == 200
    (asked,), (paid,) = stage.upstream.heard(model), stage.upstream.heard("/bank/pay/I25")
    assert asked.header("Authorization") == f"Bearer {PROVIDER_KEY}"
    assert paid.header("X-Upstream-Authorization") == f"Bearer {TOOL_KEY}"
    seen = stage.upstream.seen().lower()
    for secret in [*token.split("."), "canary-"]:
        assert secret.lower().encode() not in seen


def test_a_bound_token_is_no_bearer_token(stage: Stage) -> None:
    """I16: a token that is bound to a key is refused without the proof, by every header."""
    model = stage.model()
    bound = stage.token(cnf={"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"})
    for header in ("Authorization", "x-api-key", "x-goog-api-key"):
        value = f"Bearer {bound}" if header == "Authorization" else bound
        reply = stage.gateway.call(
            "POST", "/v1/chat/completions", {"model": model}, token=None, headers={header: value}
        )
        assert reply.status == 401
        assert reply.refusal.startswith(("identity_", "proof_"))
    assert not stage.upstream.heard(model)


@pytest.mark.parametrize("name", ["X-Forwarded-Client-Cert", "X-SSL-Client-Cert", "ssl-client-cert", "Client-Cert"])
def test_a_client_certificate_in_a_header_is_nobody(stage: Stage, name: str) -> None:
    """I17: an untrusted peer's word on certificates or addresses identifies nobody and changes nothing."""
    words = {name: 'URI="spiffe://acme.example/agent/barred"', "X-Forwarded-For": "10.9.8.7", "X-Real-IP": "10.9.8.7"}
    model = stage.model()
    stranger = stage.gateway.call("POST", "/v1/chat/completions", {"model": model}, token=None, headers=words)
    assert (stranger.status, stranger.refusal) == (401, "identity_missing")
    body = {"model": model, "messages": []}
    row = stage.row(stage.gateway.call("POST", "/v1/chat/completions", body, headers=words))
    assert (row["agent"], row["assurance"]) == ("procurement", "bearer")
    line = next(line for line in stage.lines() if line.get("request_id") == row["request_id"])
    assert line["peer"] == "127.0.0.1"
    assert b"10.9.8.7" not in stage.upstream.seen()


def test_two_credentials_or_one_in_the_url(stage: Stage) -> None:
    """I23: two Authorization headers, two headers that differ, or a token in the query: 401, nothing sent."""
    model = stage.model()
    body = compact({"model": model, "messages": []})
    good, other = stage.token(), stage.token()
    chat, ours = "/v1/chat/completions", ("Authorization", f"Bearer {good}")
    tries = [
        stage.request("POST", chat, [ours, ("Authorization", f"Bearer {other}")], body),
        stage.request("POST", chat, [ours, ours], body),
        stage.request("POST", chat, [ours, ("x-api-key", other)], body),
        stage.request("POST", chat, [("x-api-key", good), ("x-goog-api-key", other)], body),
        stage.request("POST", f"{chat}?access_token={good}", [], body),
        stage.request("POST", f"{chat}?key={good}", [], body),
        stage.request("POST", f"{chat}?key=anything", [ours], body),
        stage.request("POST", f"{chat}?trace={good}", [ours], body),
        stage.request("GET", f"/tools/bank/look/I23?key={good}", [ours]),
    ]
    assert [reply.status for reply in tries] == [401] * len(tries)
    assert {reply.refusal for reply in tries} <= {"identity_conflict", "identity_invalid", "identity_missing"}
    assert tries[0].refusal == tries[2].refusal == "identity_conflict"
    assert not stage.upstream.heard(model)
    assert not stage.upstream.heard("/bank/look/I23")


METACHARACTERS = [
    "' OR pg_sleep(5)--",
    "'; DROP TABLE ledger;--",
    '" OR 1=1 --',
    "%27%20OR%201=1",
    "${jndi:ldap://127.0.0.1/x}",
    "{{7*7}}",
    "$(sleep 5)",
    "`sleep 5`",
    "../../etc/passwd",
    "a\tb",
    "\u202ereversed",
    "x" * 300,
]


@pytest.mark.parametrize("text", METACHARACTERS)
def test_metacharacters_are_only_text(stage: Stage, text: str) -> None:
    """S06: in the bearer, a call id, a run, a model or an argument they are refused or passed as what they are."""
    began = time.monotonic()
    model, before = stage.model(), len(stage.gateway.rows())
    body = compact({"model": model, "messages": []})
    plain = text.encode("utf-8").decode("latin-1")
    if "\t" not in text:
        bearer = stage.request("POST", "/v1/chat/completions", [("Authorization", f"Bearer {plain}")], body)
        assert bearer.status == 401
    run = stage.request("POST", "/v1/chat/completions", [stage.bearer(), ("Gateway-Run", plain)], body)
    assert (run.status, run.refusal) == (400, "request_malformed")
    assert not stage.upstream.heard(model)
    asked = stage.chat(text)
    assert (asked.status, asked.refusal) in {(404, "model_unknown"), (400, "request_malformed")}
    quoted = "".join(f"%{byte:02X}" if byte not in b"./" else chr(byte) for byte in text.encode())
    for path in (f"/gateway/v1/{own}/{quoted}" for own in ("calls", "runs", "approvals")):
        reply = stage.gateway.call("GET", path)
        assert reply.status in {400, 404}
        assert reply.refusal in {"object_unknown", "run_unknown", "request_malformed", "route_unknown"}
    stage.upstream.says(f"/bank/pay/S06?memo={quoted}", [answer(b"{}")])
    stage.gateway.call("POST", f"/tools/bank/pay/S06?memo={quoted}", b"{}")
    assert stage.gateway.call("GET", "/v1/models").status == 200
    assert len(stage.gateway.rows()) >= before  # the table is there
    assert time.monotonic() - began < 20  # nobody slept in a database or a shell: four times five seconds, at least
