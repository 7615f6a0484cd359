"""Attestations as in-toto statements in DSSE envelopes: what the envelope says is what was signed, by its attester."""

from __future__ import annotations

import json

from tests.attacks.till import Till, required, why
from tests.simulator.attester import Attester


def test_an_envelope_with_another_label_or_key(till: Till) -> None:
    """W16: a DSSE envelope whose `payloadType` is swapped, with or without a new signature, or whose `keyid` lies."""
    fraud, second = till.attesters["fraud-service"], till.attesters["second-desk"]
    order, run = till.order(), till.run()
    statement = fraud.statement(subject=order, run=run)
    payload = json.dumps(statement).encode()
    for swapped in ("application/json", "application/vnd.in-toto+json ", "application/vnd.passgate.policy-bundle+json"):
        for signatures in ([fraud.signature(payload)], [fraud.signature(payload, swapped)]):
            envelope = fraud.enveloped(statement, payloadType=swapped, signatures=signatures)
            assert why(till.posts(envelope, token="")) == (400, "request_malformed", "malformed")
            assert why(till.posts(envelope)) == (401, "identity_invalid", "")
    theirs = second.signature(payload)
    own = fraud.signature(payload)
    for lied in (theirs, {**theirs, "keyid": fraud.signer.kid}, {**own, "keyid": second.signer.kid}):
        envelope = fraud.enveloped(statement, signatures=[lied])
        assert why(till.posts(envelope, token="")) == (403, "policy_denied", "signature")
        assert why(till.posts(envelope)) == (401, "identity_invalid", "")
    assert why(till.pay(order, run=run)) == required("none")
    assert why(till.pay(order, json.dumps(fraud.enveloped(statement)), run=run))[1] in {
        "attestation_required",
        "request_malformed",
    }
    assert not till.paid(order)
    assert till.posts(fraud.enveloped(statement), token="").status == 201
    assert till.pay(order, run=run).status == 200


def test_only_a_stranger_has_signed(till: Till) -> None:
    """W17: of several signatures the attester's own must hold; that a stranger's or another desk's does is nothing."""
    fraud, second, stranger = till.attesters["fraud-service"], till.attesters["second-desk"], Attester("stranger")
    order, run = till.order(), till.run()
    statement = fraud.statement(subject=order, run=run)
    payload = json.dumps(statement).encode()
    broken = fraud.signature(b"something else")
    valid = [second.signature(payload), stranger.signature(payload)]
    for signatures in (valid, [broken, *valid], [*valid, broken], [broken, broken], []):
        verdict = why(till.posts(fraud.enveloped(statement, signatures=signatures), token=""))
        assert verdict in {(403, "policy_denied", "signature"), (400, "request_malformed", "malformed")}
        assert verdict[2] == "malformed" or signatures
    assert why(till.pay(order, run=run)) == required("none")
    good = fraud.enveloped(statement, signatures=[*valid, broken, fraud.signature(payload)])
    assert till.posts(good, token="").status == 201
    assert till.pay(order, run=run).status == 200
    assert till.paid(order) == 1
