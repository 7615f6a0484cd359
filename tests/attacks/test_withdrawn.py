"""What was attested and holds no longer: a later check says otherwise, a key is taken out, an answer is old."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.attacks.stage import AUDITOR
from tests.attacks.till import Till, required, why
from tests.simulator.attester import AGENT
from tests.simulator.gateway import eventually


def now(after: int = 0) -> int:
    """Epoch seconds, so many from now."""
    return int(time.time()) + after


# -- W13: the attester changes its mind


@pytest.mark.parametrize("outcome", ["failed", "error", "skipped"])
def test_a_later_failure_that_the_agent_leaves_out(till: Till, outcome: str) -> None:
    """W13: the attester posts itself that the check failed; the agent goes on presenting the older one in vain."""
    order, run = till.order(), till.run()
    passed = till.attests(order, run, iat=now(-60))
    failed = till.attests(order, run, iat=now(-30), outcome=outcome)
    assert till.posts(failed).status == 201
    assert why(till.pay(order, run=run)) == required("outcome")
    for attestations in ([passed], [], [passed, passed]):
        reply = till.pay(order, *attestations, run=run)
        assert why(reply) == required("superseded")
        assert [one["code"] for one in till.decision(reply)["reasons"]] == ["superseded"]
    assert not till.paid(order)
    assert till.pay(order, till.attests(order, run, iat=now(-10)), run=run).status == 200  # checked again
    assert till.paid(order) == 1


def test_a_failure_that_comes_after_what_was_accepted(till: Till) -> None:
    """W13: what was good for one call is not for the next one, once its attester or another one says so."""
    for by, agent in (("fraud-service", AGENT), ("second-desk", AGENT), ("fraud-service", "procurement")):
        order, run = till.order(), till.run()
        passed = till.attests(order, run)
        assert till.pay(order, passed, run=run).status == 200
        assert till.posts(till.attests(order, run, by=by, agent=agent, outcome="failed", iat=now(1))).status == 201
        assert why(till.pay(order, passed, run=run)) == required("superseded")
        assert why(till.pay(order, run=run)) == required("superseded")
        assert till.paid(order) == 1


def test_at_the_same_time_the_failure_counts(till: Till) -> None:
    """W13: two words of one second: the one that closes is the newer."""
    order, run, at = till.order(), till.run(), now(-5)
    assert till.posts(till.attests(order, run, outcome="failed", iat=at)).status == 201
    assert why(till.pay(order, till.attests(order, run, iat=at), run=run)) == required("superseded")
    assert not till.paid(order)


def test_a_failure_that_names_less(till: Till) -> None:
    """W13: a failure that says nothing of the amount, or of anything, is about this order too."""
    for subject in ("order_id", ""):
        order, run = till.order(), till.run()
        about = {name: value for name, value in order.items() if name == subject}
        assert till.posts(till.attests(about, run, outcome="failed", iat=now(-5))).status == 201
        assert why(till.pay(order, till.attests(order, run, iat=now(-10)), run=run)) == required("superseded")
        assert not till.paid(order)


def test_what_the_gateway_saw_is_taken_back_too(till: Till) -> None:
    """W13: a check that the gateway observed counts, until an attester posts later that it failed."""
    order, run = till.order(), till.run()
    assert till.gateway.call("POST", f"/r/{run}/tools/bank/check", order).status == 200
    assert till.pay(order, run=run).status == 200
    assert till.posts(till.attests(order, run, outcome="failed", iat=now(2))).status == 201
    assert why(till.pay(order, run=run)) == required("superseded")
    assert till.paid(order) == 1


def test_a_failure_of_something_else_closes_nothing(till: Till) -> None:
    """W13: a failure of another order, run or agent, an older one, or one that is not signed is none of this call's."""
    order, run = till.order(), till.run()
    passed = till.attests(order, run, iat=now(-10))
    others: list[dict[str, Any]] = [
        {"order": till.order()},
        {"order": {**order, "amount": 1}},
        {"run": till.run()},
        {"agent": AUDITOR},
        {"iat": now(-20)},
        {"by": "mail-service", "step": "mail-sent"},
    ]
    for other in others:
        failed = till.attests(**{"order": order, "run": run, "iat": now(), "outcome": "failed", **other})
        assert till.posts(failed).status == 201, other
    assert till.posts(f"{till.attests(order, run, outcome='failed')[:-6]}AAAAAA").status == 401
    assert why(till.posts(till.attests(order, run, by="mail-service", outcome="failed")))[2] == "step_not_allowed"
    assert till.pay(order, passed, run=run).status == 200
    assert till.paid(order) == 1


def test_an_id_says_one_thing(till: Till) -> None:
    """W13: under the id of a failure nothing else can be presented, and a failure cannot take another's id."""
    order, run = till.order(), till.run()
    failed = till.attests(order, run, outcome="failed", jti=f"{run}-a")
    assert till.posts(failed).status == 201
    reply = till.pay(order, till.attests(order, run, jti=f"{run}-a"), run=run)
    assert why(reply) == (400, "request_malformed", "replayed")
    assert why(
        till.pay(order, till.attests(order, run, jti=f"{run}-a", by="leaving-desk", iat=now(-9)), run=run)
    ) == required("superseded")
    assert not till.paid(order)


# -- W24: a key is taken out


def keys(till: Till, by: str, text: bytes) -> None:
    """The file of an attester's keys says something else."""
    (till.gateway.folder / f"{by}.json").write_bytes(text)


def test_a_key_that_was_taken_out(till: Till) -> None:
    """W24: within two looks nothing that it signed opens anything: not what is presented, nor what was accepted."""
    desk, run = "leaving-desk", till.run()
    good = till.attesters[desk].jwks()
    held, fresh, approved = till.order(), till.order(), till.order()
    stored = till.attests(held, run, by=desk)
    assert till.pay(held, stored, run=run).status == 200
    assert till.pay(approved, till.attests(approved, run, by=desk), run=run).status == 200
    seen = till.gateway.log()
    keys(till, desk, b'{"keys": []}')
    eventually(lambda: _reloaded(till) > sum(line["event"] == "reloaded" for line in seen), "nobody looks", 8)
    for alone in till.workers():
        with alone:
            assert why(till.pay(held, run=run)) == required("revoked")
            assert why(till.pay(held, stored, run=run))[2] in {"revoked", "signature"}
            unseen = till.run()
            assert why(till.pay(fresh, till.attests(fresh, unseen, by=desk), run=unseen)) == required("signature")
            assert why(till.pay(approved, run=run)) == required("revoked")
            assert till.posts(till.attests(fresh, run, by=desk)).status == 401
            order, own = till.order(), till.run()  # another desk's word counts as before
            assert till.pay(order, till.attests(order, own), run=own).status == 200
    assert (till.paid(held), till.paid(fresh), till.paid(approved)) == (1, 0, 1)
    keys(till, desk, good)
    eventually(lambda: till.pay(held, run=run).status == 200, "it is not taken back", 8)


def _reloaded(till: Till) -> int:
    return sum(line["event"] == "reloaded" for line in till.gateway.log())


# -- W23: what is kept of an answer


def approve(till: Till, held: Any) -> str:  # noqa: ANN401 - a reply
    """A person lets a held call go on."""
    assert why(held)[:2] == (403, "approval_required")
    name = str(held.json()["gateway"]["approval"]["id"])
    till.gateway.admin("POST", f"/admin/v1/approvals/{name}/approve", {"reason": "known"})
    return name


def test_nothing_is_served_without_its_attestation(till: Till) -> None:
    """W23: an answer of before is for whoever may have it now: the same agent, run and call, and still attested."""
    order, run = till.order(), till.run()
    passed = till.attests(order, run, iat=now(-30))
    approve(till, till.pay(order, passed, run=run, by="bank/large"))
    first = till.pay(order, run=run, by="bank/large")
    assert (first.status, first.json(), till.paid(order)) == (200, {"paid": True}, 1)
    again = till.pay(order, run=run, by="bank/large")
    assert (again.status, again.body, again.headers["gateway-replayed"][:10]) == (200, first.body, "true; age=")

    auditor = till.token(AUDITOR)
    assert why(till.pay(order, run=run, by="bank/large", token=auditor)) == required("none")
    own = till.attests(order, run, agent=AUDITOR)
    assert why(till.pay(order, own, run=run, by="bank/large", token=auditor))[:2] == (403, "approval_required")
    elsewhere = till.run()
    assert why(till.pay(order, run=elsewhere, by="bank/large")) == required("none")
    assert why(till.pay(order, passed, run=elsewhere, by="bank/large")) == required("other_run")
    attested = till.attests(order, elsewhere)
    assert why(till.pay(order, attested, run=elsewhere, by="bank/large"))[:2] == (403, "approval_required")
    other = {**order, "amount": 1001}
    assert why(till.pay(other, run=run, by="bank/large")) == required("subject_mismatch")

    assert till.posts(till.attests(order, run, outcome="failed", iat=now(-20))).status == 201
    assert why(till.pay(order, run=run, by="bank/large")) == required("superseded")
    assert why(till.pay(order, passed, run=run, by="bank/large")) == required("superseded")
    assert till.paid(order) == 1


def test_a_rule_that_was_added_meanwhile(till: Till) -> None:
    """W23: a deny rule of today keeps back what was allowed, approved and answered yesterday."""
    order, run = till.order(), till.run()
    approve(till, till.pay(order, till.attests(order, run), run=run, by="bank/large"))
    assert till.pay(order, run=run, by="bank/large").status == 200
    barred = json.dumps(f"has(args.order_id) && args.order_id == '{order['order_id']}'")
    rule = f"{{id: barred, effect: deny, match: {{tools: [bank.large]}}, when: {barred}}}"
    file = till.gateway.folder / "policies" / "barred.yaml"
    file.write_text(f"version: 1\npolicy: barred\nrules: [{rule}]\n")
    try:
        assert till.gateway.reload() == []
        for alone in till.workers():
            with alone:
                reply = till.pay(order, run=run, by="bank/large")
                assert why(reply)[:2] == (403, "policy_denied")
                assert "gateway-replayed" not in reply.headers
    finally:
        file.unlink()
        assert till.gateway.reload() == []
    assert till.pay(order, run=run, by="bank/large").headers["gateway-replayed"].startswith("true; age=")
    assert till.paid(order) == 1
