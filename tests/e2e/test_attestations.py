"""Attestations through a real gateway of two workers: presented, posted, forged, replayed, used up, revoked."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.simulator.attester import Attester
from tests.simulator.gateway import Gateway, Reply

POLICY = """version: 1
policy: payments
rules:
  - {id: may-pay, effect: allow, match: {tools: ["payments.*"]}}
  - id: fraud-check-first
    effect: require
    match: {tools: [payments.charge]}
    requires:
      - attestation: {step: fraud-check, attested_by: [fraud-service], max_age: 15m, consume: per_subject,
                      bind: {order_id: args.order_id, amount: args.amount, currency: args.currency}}
"""
ATTESTER = Attester()
AUDITOR = Attester("auditor")
CONFIG: dict[str, Any] = {
    "workers": 2,
    "tools": {
        "payments": {
            "kind": "http",
            "base_url": "builtin:demo",
            "operations": {"charge": {"method": "POST", "path": "/charge", "repeat": "never"}},
        }
    },
    "attesters": [
        {"name": "fraud-service", "keys": {"file": "fraud.json"}, "may_attest": ["fraud-check"]},
        {"name": "auditor", "keys": {"file": "auditor.json"}, "may_attest": ["audit"]},
    ],
}
_orders = itertools.count(1)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("attestations")
    (folder / "fraud.json").write_bytes(ATTESTER.jwks())
    (folder / "auditor.json").write_bytes(AUDITOR.jwks())
    with Gateway(folder, CONFIG, {"payments.yaml": POLICY}) as running:
        yield running


@pytest.fixture
def order() -> dict[str, Any]:
    """An order that no other test has paid for."""
    return {"order_id": f"A{next(_orders)}", "amount": 1000, "currency": "EUR"}


def checked(order: dict[str, Any], **claims: Any) -> str:  # noqa: ANN401 - as `Attester.claims`
    """An attestation that an order passed, in the run that is its own."""
    return ATTESTER.attest(**{"run": f"r-{order['order_id']}", "subject": order, **claims})


def charge(gateway: Gateway, order: dict[str, Any], *presented: str, run: str = "") -> Reply:
    """Pay for an order, in its own run where no other is named, with these attestations in the header."""
    headers = {"Workflow-Attestation": ", ".join(presented)} if presented else {}
    path = f"/r/{run or 'r-' + order['order_id']}/tools/payments/charge"
    return gateway.call("POST", path, order, headers=headers)


def reason(reply: Reply) -> str:
    """Why it was refused, by the attestation that it needed."""
    assert (reply.status, reply.refusal) == (403, "attestation_required"), reply.body
    told = reply.json()["gateway"]
    assert told["step"] == "fraud-check"
    return str(told["reason"])


def charged(gateway: Gateway, order: dict[str, Any]) -> int:
    """How often the tool itself has charged for it."""
    lines = (gateway.folder / "var" / "demo" / "effects.ndjson").read_text().splitlines()
    return sum(json.loads(line)["arguments"].get("order_id") == order["order_id"] for line in lines)


def post(gateway: Gateway, *attestations: object, token: str | None = "") -> Reply:
    """Hand them in."""
    return gateway.call("POST", "/gateway/v1/attestations", {"attestations": list(attestations)}, token=token)


def test_it_needs_one_and_needs_it_once(gateway: Gateway, order: dict[str, Any]) -> None:
    """S04, W11, W15: without one the payment is refused; with one it is made once, whatever is presented again."""
    assert reason(charge(gateway, order)) == "none"
    text = checked(order)
    assert charge(gateway, order, text).status == 200
    assert reason(charge(gateway, order, text)) == "consumed"
    assert reason(charge(gateway, order)) == "consumed"
    again = checked(order, run="r2")
    assert reason(charge(gateway, order, again, run="r2")) == "consumed"
    assert charged(gateway, order) == 1


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"run": "r2"}, "other_run"),
        ({"subject": {"order_id": "other", "amount": 1000, "currency": "EUR"}}, "subject_mismatch"),
        ({"subject": {"amount": 999}}, "subject_mismatch"),
        ({"subject": {"amount": "1000"}}, "subject_mismatch"),
        ({"subject": {"amount": 1000.0}}, "malformed"),
        ({"subject": {"currency": "USD"}}, "subject_mismatch"),
        ({"subject": {"currency": "\u0415UR"}}, "subject_mismatch"),
        ({"outcome": "failed"}, "outcome"),
        ({"outcome": "skipped"}, "outcome"),
        ({"outcome": "Passed"}, "malformed"),
        ({"step": "audit"}, "none"),
        ({"iss": "procurement"}, "unknown_attester"),
        ({"iss": "gateway"}, "unknown_attester"),
        ({"iat": 1_700_000_000, "exp": 1_700_000_300}, "expired"),
        ({"aud": "https://other.example"}, "audience"),
        ({"agent": "support"}, "other_agent"),
    ],
    ids=str,
)
def test_one_that_does_not_fit(claims: dict[str, Any], why: str, gateway: Gateway, order: dict[str, Any]) -> None:
    """W1, W2, W3, W4, W6, W7, W8, W9, W10, W19, W20: the payment is refused, says why, and is not made."""
    text = checked(order, **{**claims, "subject": {**order, **claims.get("subject", {})}})
    assert reason(charge(gateway, order, text)) == why
    assert charged(gateway, order) == 0


def test_forged_ones(gateway: Gateway, order: dict[str, Any]) -> None:
    """W8, W9, S09: signed by the agents' issuer, by another attester or by a stranger it is no attestation."""
    claims = ATTESTER.claims(subject=order, run=f"r-{order['order_id']}")
    issuer = gateway.issuer
    for text in (
        issuer.sign(ATTESTER.header(kid=issuer.kid), claims),
        issuer.sign(ATTESTER.header(), claims),
        AUDITOR.sign(ATTESTER.header(), claims),
        AUDITOR.sign(AUDITOR.header(), claims),
        Attester().sign(ATTESTER.header(), claims),
    ):
        assert reason(charge(gateway, order, text)) == "signature"
    assert reason(charge(gateway, order, gateway.token())) == "malformed"
    assert charged(gateway, order) == 0


def test_fifty_at_once(gateway: Gateway, order: dict[str, Any]) -> None:
    """W11: fifty calls over both workers present the same one at the same time, and exactly one payment is made."""
    text = checked(order)
    with ThreadPoolExecutor(50) as pool:
        replies = list(pool.map(lambda _: charge(gateway, order, text), range(50)))
    assert sorted(reply.status for reply in replies) == [200, *[403] * 49]
    assert {reason(reply) for reply in replies if reply.status == 403} == {"consumed"}
    assert charged(gateway, order) == 1


def test_presented_beforehand(gateway: Gateway, order: dict[str, Any]) -> None:
    """What was handed in before needs no header, whichever worker the call comes to, and in either form."""
    dsse = json.loads(ATTESTER.dsse(subject=order, run=f"r-{order['order_id']}"))
    reply = post(gateway, dsse)
    assert (reply.status, reply.json()["attestations"][0]["new"]) == (201, True)
    assert reason(charge(gateway, {**order, "amount": 1001})) == "subject_mismatch"
    assert charge(gateway, order).status == 200


def test_a_failure_that_the_agent_leaves_out(gateway: Gateway, order: dict[str, Any]) -> None:
    """W13: the attester posts it itself, and then the earlier pass counts no more, presented again or not."""
    passed = checked(order)
    assert post(gateway, passed).status == 201
    assert post(gateway, checked(order, outcome="failed"), token=None).status == 201
    for presented in ((), (passed,)):
        assert reason(charge(gateway, order, *presented)) == "superseded"
    assert charged(gateway, order) == 0


def test_each_posts_its_own(gateway: Gateway, order: dict[str, Any]) -> None:
    """W8: two attesters do not share a post, though an agent may present what several have said."""
    texts = [checked(order), AUDITOR.attest(step="audit", subject=order, run=f"r-{order['order_id']}")]
    reply = post(gateway, *texts, token=None)
    assert (reply.status, reply.refusal) == (400, "request_malformed")
    assert "auditor and fraud-service" in reply.json()["detail"]
    assert [one["new"] for one in post(gateway, *texts).json()["attestations"]] == [True, True]


def test_a_chain_with_a_gap(gateway: Gateway, order: dict[str, Any]) -> None:
    """W18: one that builds on another counts once that one is presented too."""
    first = checked(order, subject={"order_id": "draft"})
    digest = "".join(line.split()[-1] for line in verified(gateway, first) if line.startswith("digest"))
    second = checked(order, prev=digest)
    assert reason(charge(gateway, order, second)) == "chain"
    assert charge(gateway, order, first).status == 200


def verified(gateway: Gateway, text: str) -> list[str]:
    return gateway.command("attest", "verify", text).stdout.splitlines()


def test_too_many_and_too_much(gateway: Gateway, order: dict[str, Any]) -> None:
    """W22: above a limit nothing is looked at: 400 beyond 4 in a header and 16 in a body, 431 and 413 for size."""
    text = checked(order)
    reply = charge(gateway, order, *[text] * 5)
    assert (reply.status, reply.refusal) == (400, "request_malformed")
    reply = charge(gateway, order, "x" * 7169)
    assert (reply.status, reply.refusal) == (431, "headers_too_large")
    for token in ("", None):
        reply = post(gateway, *["x"] * 17, token=token)
        assert (reply.status, reply.refusal) == (
            (400, "request_malformed") if token == "" else (401, "identity_missing")
        )
        reply = post(gateway, "x" * 33 * 1024, token=token)
        assert (reply.status, reply.refusal) == (413, "request_too_large")
    assert charge(gateway, order, text).status == 200


def test_it_is_counted_and_written_down(gateway: Gateway, order: dict[str, Any]) -> None:
    """What was recorded is in the metrics and in the log; what was refused is in the log with its reason."""
    sample = 'passgate_attestations_total{outcome="passed",source="posted",step="fraud-check"}'
    before = gateway.metrics().get(sample, 0)
    assert post(gateway, checked(order, jti="written"), token=None).status == 201
    assert gateway.metrics()[sample] == before + 1
    (line,) = [
        line for line in gateway.log() if line.get("event") == "attestation_recorded" and line["id"] == "written"
    ]
    assert (line["attester"], line["run"], line["source"]) == ("fraud-service", f"r-{order['order_id']}", "posted")


def test_a_key_that_is_taken_out(gateway: Gateway, order: dict[str, Any]) -> None:
    """W24: with its key all that it had signed counts no more, recorded or not; what the new one signs does."""
    renewed = Attester()
    assert post(gateway, checked(order)).status == 201
    try:
        (gateway.folder / "fraud.json").write_bytes(renewed.jwks())
        assert gateway.admin("POST", "/admin/v1/reload")["reloaded"]
        for presented in ((), (checked(order),)):
            assert reason(charge(gateway, order, *presented)) in {"revoked", "signature"}
        assert post(gateway, checked(order), token=None).status == 401
        new = renewed.attest(subject=order, run=f"r-{order['order_id']}")
        assert charge(gateway, order, new).status == 200
    finally:
        (gateway.folder / "fraud.json").write_bytes(ATTESTER.jwks())
        assert gateway.admin("POST", "/admin/v1/reload")["reloaded"]
