"""Who did what, and on whose authority: the ledger, the log and the command that asks say the same."""

from __future__ import annotations

import json
from typing import Any

from tests.simulator.gateway import Gateway, eventually
from tests.simulator.issuer import Issuer

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
USER = "user/alice of the audit"
PLANNER = "spiffe://acme.example/agent/planner"


def logged(gateway: Gateway, request_id: str) -> dict[str, Any]:
    """The call's access line, once it is there."""
    eventually(lambda: request_id in (gateway.folder / "log.ndjson").read_text(), f"no line of {request_id}")
    (line,) = (line for line in gateway.log() if line["event"] == "call" and line["request_id"] == request_id)
    return line


def test_every_call_of_an_agent_says_on_whose_authority_it_was(gateway: Gateway) -> None:
    """A call that was served and one that policy refused: row, line and report name issuer, user, chain and key."""
    subject = gateway.issuer.subject
    token = gateway.token(sub=USER, act={"sub": subject, "act": {"sub": PLANNER}}, jti="t-audit")
    replies = {
        model: gateway.call("POST", CHAT, {"model": model, "messages": HELLO}, token=token)
        for model in ("sim-small", "forbidden")
    }
    assert [(reply.status, reply.refusal) for reply in replies.values()] == [(200, ""), (403, "policy_denied")]
    authority = {
        "agent": "procurement", "issuer": "dev", "subject": subject, "on_behalf_of": USER, "chain": PLANNER,
        "assurance": "bearer", "key_id": "key-1",
    }  # fmt: skip
    rows = {row["request_id"]: row for row in gateway.wait_for_rows(2, "on_behalf_of = ?", USER)}
    for reply in replies.values():
        request_id = reply.headers["gateway-request-id"]
        assert authority.items() <= rows[request_id].items()
        assert (authority | {"token_id": "t-audit"}).items() <= logged(gateway, request_id).items()
    asked = ("--by", ",".join(authority), "--where", f"on_behalf_of={USER}", "--since", "1h", "--format", "json")
    (line,) = json.loads(gateway.command("spend", "report", *asked).stdout)["lines"]
    assert (authority | {"calls": 2, "refused_calls": 1}).items() <= line.items()


def test_a_forged_token_puts_no_ones_name_on_record(gateway: Gateway) -> None:
    """I1: a token of a key that is not the issuer's leaves no row, and its line has the cause but no agent."""
    forged = Issuer().token(sub="forged by a stranger")
    reply = gateway.call("POST", CHAT, {"model": "sim-small", "messages": HELLO}, token=forged)
    assert reply.refusal == "identity_invalid"
    line = logged(gateway, reply.headers["gateway-request-id"])
    assert not {"agent", "issuer", "subject", "on_behalf_of", "key_id", "token_id"} & line.keys()
    assert line["detail"] == "the signature is not that of key key-1 of issuer dev"
    assert gateway.rows("request_id = ?", line["request_id"]) == []
