"""Attestations that are wrong in one thing, at a real listener: each is refused by its own reason, and nobody pays.

Beside every attack stands what it was changed from: the same call with the good attestation goes through.
"""

from __future__ import annotations

import json
import time
import unicodedata
from typing import Any

import pytest

from tests.attacks.stage import AUDITOR
from tests.attacks.till import PAID, Order, Till, required, why
from tests.simulator.attester import Attester

HOUR = 3600


def pays(till: Till, order: Order, **call: Any) -> None:  # noqa: ANN401 - what `Till.pay` takes
    """The good attestation for an order lets it be paid, once."""
    run, before = till.run(), till.paid(order)
    reply = till.pay(order, till.attests(order, run), run=run, **call)
    assert (reply.status, reply.refusal) == (200, "")
    assert till.paid(order) == before + 1


def refuses(till: Till, reason: str, *attacks: dict[str, Any], order: Order | None = None) -> None:
    """An attestation with any of these changes opens nothing, for the reason given; without them it does."""
    for changes in attacks:
        asked, run = order or till.order(), till.run()
        attack = till.attests(**{"order": asked, "run": run, **changes})
        refused(till, reason, attack, asked, run)
        pays(till, asked)


def refused(till: Till, reason: str, attack: str, order: Order, run: str) -> None:
    """A payment with this attestation is refused for that reason alone, and the decision log has it."""
    before = till.paid(order)
    reply = till.pay(order, attack, run=run)
    assert why(reply) == required(reason)
    told = reply.json()["gateway"]
    assert (told["step"], told["subject"]["order_id"]) == ("fraud-check", order["order_id"])
    assert [(one["rule"], one["clause"], one["code"]) for one in told["reasons"]] == [
        ("till/pay", "requires[0]", reason)
    ]
    assert till.paid(order) == before
    record = till.decision(reply)
    assert (record["effect"], record["code"]) == ("deny", "attestation_required")
    assert [one["code"] for one in record["reasons"]] == [reason]


def signed(till: Till, order: Order, run: str, *, by: str = "fraud-service", **header: object) -> str:
    """A good attestation under a header with members changed."""
    attester = till.attesters[by]
    return attester.sign(attester.header(**header), attester.claims(subject=order, run=run))


# -- what it is about


def test_another_run(till: Till) -> None:
    """W1, S09: an attestation of another run is refused, presented now or in that run before; without a run, too."""
    refuses(till, "other_run", {"run": "somewhere-else"}, {"run": "run"}, {"run": "RUN-1"})
    order, run = till.order(), till.run()
    attested = till.attests(order, run)
    assert till.pay(order, attested, run=run).status == 200
    refused(till, "other_run", attested, order, till.run())
    assert why(till.pay(order, run=till.run())) == required("none")
    assert why(till.pay(order, attested)) == required("no_run")
    assert till.paid(order) == 1


def test_another_order(till: Till) -> None:
    """W2, W3: the same run and another order, a cent more, a cent less, another currency, or a part left out."""
    for name, other in (("order_id", "A0"), ("amount", 1001), ("amount", 999), ("currency", "JPY"), ("currency", ...)):
        order = till.order()
        about = {key: value for key, value in {**order, name: other}.items() if value is not ...}
        refuses(till, "subject_mismatch", {"subject": about}, order=order)
    refuses(till, "subject_mismatch", {"subject": {}})


@pytest.mark.parametrize("attested", ["1000", True, 1001, "1000.0", "1e3", " 1000"])
def test_another_type(till: Till, attested: object) -> None:
    """W4: what looks like the amount and is of another type, or another spelling of it, is another amount."""
    order = till.order()
    refuses(till, "subject_mismatch", {"subject": {**order, "amount": attested}}, order=order)


@pytest.mark.parametrize("asked", ["1000.0", "1e3", "1000.00000000000001", "null", "[1000]", '{"n": 1000}'])
def test_an_amount_that_nothing_can_attest(till: Till, asked: str) -> None:
    """W4: a call with a float, null or a list in place of the amount is about nothing that was attested."""
    order, run = till.order(), till.run()
    body = json.dumps(order).replace("1000", asked).encode()
    carried = {"Workflow-Attestation": till.attests(order, run)}
    reply = till.gateway.call("POST", f"/r/{run}/tools/bank/pay", body, headers=carried)
    assert why(reply) == required("bind")
    missing = {name: value for name, value in order.items() if name != "amount"}
    assert why(till.pay(missing, run=run)) == required("bind")
    assert not till.paid(order)
    pays(till, order)


@pytest.mark.parametrize("written", ['"1000"', "true", "1000.5", "-1000"])
def test_an_amount_of_another_type_in_the_call(till: Till, written: str) -> None:
    """W4: nor does the call get by with text, a truth value or another number where an integer was attested."""
    order, run = till.order(), till.run()
    body = json.dumps(order).replace("1000", written).encode()
    carried = {"Workflow-Attestation": till.attests(order, run)}
    reply = till.gateway.call("POST", f"/r/{run}/tools/bank/pay", body, headers=carried)
    assert why(reply) == required("bind" if "." in written else "subject_mismatch")
    assert not till.paid(order)


def test_a_float_attests_nothing(till: Till) -> None:
    """W4: an attestation about a float, null or a list is none at all."""
    for amount in (1000.0, 1e300, None, [1000], {"n": 1}, 2**53 + 1):
        order = till.order()
        refuses(till, "malformed", {"subject": {**order, "amount": amount}}, order=order)


def test_an_order_that_stands_twice(till: Till) -> None:
    """W5: the order's id twice, plain, escaped, in another case, or in path and body: 400, and nobody pays either."""
    good, bad = till.order(), till.order()
    run = till.run()
    carried = {"Workflow-Attestation": till.attests(good, run)}
    body = json.dumps(good)[:-1]
    spellings = ["order_id", r"order\u005fid", "Order_Id", "ORDER_ID", r"\u006frder_id"]
    for name in spellings:
        twice = f'{body},"{name}":"{bad["order_id"]}"}}'.encode()
        reply = till.gateway.call("POST", f"/r/{run}/tools/bank/pay", twice, headers=carried)
        assert why(reply)[:2] == (400, "request_malformed"), name
    place = f"/r/{run}/tools/bank/orders/{good['order_id']}"
    amount, euros = {"amount": 1000}, "?currency=EUR"
    for path, rest in (
        (place + euros, {**amount, "order_id": bad["order_id"]}),
        (place + euros, {**amount, "currency": "EUR"}),
        (f"{place}{euros}&currency=EUR", amount),
        (f"{place}{euros}&currency=JPY", amount),
        (f"{place}{euros}&order_id={bad['order_id']}", amount),
        (f"{place}?Currency=EUR", amount),
    ):
        reply = till.gateway.call("POST", path, rest, headers=carried)
        assert why(reply)[:2] == (400, "request_malformed"), path
    assert not till.paid(good)
    assert not till.paid(bad)
    till.upstream.says(f"/bank/orders/{good['order_id']}{euros}", PAID)
    assert till.gateway.call("POST", place + euros, amount, headers=carried).status == 200
    assert till.paid(good) == 1


def test_a_subject_that_stands_twice(till: Till) -> None:
    """W5: nor is there an attestation whose members stand twice, the same or another."""
    order, run = till.order(), till.run()
    attester = till.attesters["fraud-service"]
    header, claims = json.dumps(attester.header()), json.dumps(attester.claims(subject=order, run=run))
    extras = [f',"run":"{run}"', ',"outcome":"passed"', ',"subject":{}', r',"s\u0075bject":{}']
    twice = [f"{claims[:-1]}{extra}}}" for extra in extras]
    twice.append(claims.replace('"order_id"', '"order_id": "A0", "order_id"'))
    for text in twice:
        forged = attester.signer.sign_bytes(header.encode(), text.encode())
        reply = till.pay(order, forged, run=run)
        assert why(reply) == required("malformed"), text
    assert not till.paid(order)
    pays(till, order)


def test_a_look_alike(till: Till) -> None:
    """W6: Cyrillic letters, other widths, invisible ones and the other normal form are other orders."""
    order = till.order(order_id="Caf\u00e9-A1")
    assert unicodedata.normalize("NFD", order["order_id"]) != order["order_id"]
    alike = [
        "Caf\u00e9-\u04101",
        "Caf\u00e9-\uff211",
        "Caf\u00e9-A1\u200b",
        "Cafe\u0301-A1",
        "caf\u00e9-A1",
        "Caf\u00e9-A\u0661",
    ]
    refuses(till, "subject_mismatch", *({"subject": {**order, "order_id": other}} for other in alike), order=order)


# -- what it says, and who says it


@pytest.mark.parametrize("outcome", ["failed", "error", "skipped"])
def test_another_outcome(till: Till, outcome: str) -> None:
    """W7: a check that failed, broke or was left out opens nothing."""
    refuses(till, "outcome", {"outcome": outcome})


def test_an_outcome_that_is_none(till: Till) -> None:
    """W7: unknown words and other spellings are no outcomes."""
    outcomes: list[Any] = ["Passed", "PASSED", "passed ", "ok", "", True, None, ["passed"], 1, ...]
    refuses(till, "malformed", *({"outcome": outcome} for outcome in outcomes))


def test_an_attester_of_other_steps(till: Till) -> None:
    """W8: whoever attests something else attests no fraud check, and another step's attestation is none of this one."""
    refuses(till, "step_not_allowed", {"by": "mail-service"})
    refuses(till, "none", {"by": "mail-service", "step": "mail-sent"}, {"step": "mail-sent"}, {"step": "Fraud-Check"})


def test_an_attester_whose_word_the_rule_does_not_take(till: Till) -> None:
    """W8: it may attest the step, and this rule has others in mind."""
    refuses(till, "attester", {"by": "second-desk"})


def test_an_agent_vouches_for_itself(till: Till) -> None:
    """W9: what the calling agent signs itself, in its own name, the gateway's or an attester's, opens nothing."""
    issuer = till.gateway.issuer
    for iss, reason in (
        (issuer.iss, "unknown_attester"),
        (issuer.subject, "unknown_attester"),
        ("procurement", "unknown_attester"),
        ("gateway", "unknown_attester"),
        ("fraud-service", "signature"),
        ("FRAUD-SERVICE", "unknown_attester"),
        ("fraud-service ", "unknown_attester"),
    ):
        order, run = till.order(), till.run()
        claims = till.attesters["fraud-service"].claims(subject=order, run=run, iss=iss)
        for kid in (issuer.kid, "fraud-service-1"):
            own = issuer.sign(issuer.header(typ="wf-attestation+jwt", kid=kid), claims)
            refused(till, reason, own, order, run)
        pays(till, order)
    order, run = till.order(), till.run()
    assert why(till.pay(order, till.token(run=run), run=run)) == required("malformed")


def test_for_another_agent(till: Till) -> None:
    """W20, S08: what was attested for one agent opens nothing to another one, nor to its own child, in any run."""
    order, run = till.order(), till.run()
    auditor = till.token(AUDITOR)
    attested = till.attests(order, run)
    assert why(till.pay(order, attested, run=run, token=auditor)) == required("other_agent")
    assert why(till.posts(attested, token=auditor)) == (403, "policy_denied", "other_agent")
    assert till.posts(attested).status == 201
    assert why(till.pay(order, run=run, token=auditor)) == required("none")
    assert not till.paid(order)
    assert till.pay(order, run=run).status == 200
    assert why(till.pay(order, run=run, token=auditor)) == required("none")
    own = till.attests(order, run, agent=AUDITOR)
    assert till.pay(order, own, run=run, token=auditor).status == 200
    child = till.child()
    assert why(till.pay(order, attested, run=run, token=child)) == required("other_agent")
    assert why(till.pay(order, run=run, token=child)) == required("none")
    refuses(till, "other_agent", {"agent": AUDITOR}, {"agent": "auditor"}, {"agent": "Procurement"}, {"agent": "*"})
    assert till.paid(order) == 2


# -- when


def test_too_early_and_too_late(till: Till) -> None:
    """W10: expired, of the future beyond the skew, too old though still valid, or valid for too long."""
    now = int(time.time())
    refuses(till, "expired", {"iat": now - 600, "exp": now - 60}, {"iat": now - 120, "exp": now - 31})
    refuses(till, "not_yet", {"iat": now + 90, "exp": now + 300}, {"nbf": now + 90})
    refuses(till, "too_old", {"iat": now - 15 * 60 - 5, "exp": now + 300})
    refuses(till, "lifetime", {"exp": now + HOUR + 60}, {"iat": now - 12 * HOUR, "exp": now + HOUR})
    order = till.order()
    good: list[dict[str, Any]] = [
        {"iat": now - 14 * 60, "exp": now + 60},
        {"iat": now + 5, "exp": now + 60},
        {"nbf": now},
    ]
    for times in good:
        run = till.run()
        assert till.pay(order, till.attests(order, run, **times), run=run).status == 200


def test_times_that_are_none(till: Till) -> None:
    """W10: without an end, with an end before its beginning, or with text, fractions and truth values for times."""
    now = int(time.time())
    odd: list[Any] = [..., None, str(now + 300), now + 300.5, True, -1, 10**30]
    refuses(
        till, "malformed", *({"exp": exp} for exp in odd), {"iat": ...}, {"iat": str(now)}, {"exp": now - 1, "iat": now}
    )


def test_it_expires_while_it_is_stored(till: Till) -> None:
    """W10: what was handed in within the skew is no longer good for a call after its end."""
    order, run, now = till.order(), till.run(), int(time.time())
    assert till.posts(till.attests(order, run, iat=now - 100, exp=now - 5)).status == 201
    assert why(till.pay(order, run=run)) == required("expired")
    late = till.attests(order, run, iat=now - 100, exp=now - 60)  # and beyond the skew it is not even taken
    assert why(till.posts(late)) == why(till.posts(late, token="")) == (403, "policy_denied", "expired")
    assert till.posts(till.attests(order, run, iat=now - 100, exp=now + 60)).status == 201
    assert till.pay(order, run=run).status == 200
    assert till.paid(order) == 1


# -- how it is signed and written


HEADERS: Any = {
    "typ": ("malformed", ..., "JWT", "at+jwt", "wf-attestation", "", None),
    "alg": ("signature", "none", "None", "HS256", "ES256", "RS256", "", None),
    "kid": ("signature", "second-desk-1", "nobody", "", 7),
    "crit": ("malformed", ["exp"], []),
    "jwk": ("malformed", Attester("fraud-service").signer.jwk()),
    "jku": ("malformed", "https://evil.example/keys"),
    "x5c": ("malformed", ["MIIB"]),
}


def test_a_downgraded_header(till: Till) -> None:
    """W16: another type, another algorithm, a key or rules of its own, or a `kid` that leads to somebody else's key."""
    for name, (reason, *values) in HEADERS.items():
        for value in values:
            order, run = till.order(), till.run()
            refused(till, reason, signed(till, order, run, **{name: value}), order, run)
    order, run = till.order(), till.run()
    good = signed(till, order, run)
    head, body, tail = good.split(".")
    for forged in (
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{good}=",
        f"{head}.{body}.{tail[::-1]}",
        f"{head}.{body}.AAAA",
    ):
        assert why(till.pay(order, forged, run=run))[:2] == (403, "attestation_required")
    elsewhere = signed(till, till.order(), run)
    refused(till, "signature", f"{head}.{body}.{elsewhere.rpartition('.')[2]}", order, run)
    fraud, other = till.attesters["fraud-service"], till.attesters["second-desk"].signer
    theirs = other.sign(fraud.header(kid=other.kid), fraud.claims(subject=order, run=run))
    refused(till, "signature", theirs, order, run)
    assert not till.paid(order)
    assert till.pay(order, good, run=run).status == 200


def test_another_gateways(till: Till) -> None:
    """W19: what was attested for another gateway, or for others too, opens nothing at this one."""
    ours = till.attesters["fraud-service"].audience
    others: list[Any] = [
        "https://other.example",
        f"{ours}/",
        ours.upper(),
        [ours, "https://other.example"],
        [],
        "",
        None,
        ...,
    ]
    refuses(till, "audience", *({"aud": aud} for aud in others))


def test_a_changed_byte(till: Till) -> None:
    """S09: whichever part of a good attestation is touched, it is none, and the same in order is one."""
    order, run = till.order(), till.run()
    good = till.attests(order, run)
    for at in range(0, len(good), 37):
        forged = f"{good[:at]}{'A' if good[at] != 'A' else 'B'}{good[at + 1 :]}"
        assert why(till.pay(order, forged, run=run))[:2] == (403, "attestation_required")
    assert not till.paid(order)
    assert till.pay(order, good, run=run).status == 200
