"""What an attestation must be, one attack after the other."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from gateway.attestations.verifier import MAX_ATTESTATION
from gateway.core.attestation import Attestation
from gateway.core.run import RunKey
from tests.attestations.board import NAMES, RUN, Board, attester_settings, key_file
from tests.identity.mutants import SEED, Source, changed_text
from tests.simulator.attester import AGENT, ORDER, Attester
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer, b64, mac


def good(attester: Attester, clock: SetClock, **claims: Any) -> str:  # noqa: ANN401 - as `Attester.claims`
    """An attestation that is right but for these claims."""
    return attester.attest(now=clock.time, **claims)


def test_of_two_in_one_second_the_one_that_did_not_pass_is_newer(attester: Attester, board: Board) -> None:
    """W13: `iat` is in whole seconds, and what the gateway saw is not: the doubt is held against the call."""
    passed, failed = (board.counts(good(attester, board.clock, outcome=outcome)) for outcome in ("passed", "failed"))
    assert failed.at - passed.at == 999_999


@pytest.mark.parametrize("alg", ["EdDSA", "ES256"])
def test_a_good_attestation_says_what_was_signed(alg: str, clock: SetClock) -> None:
    """Whoever is believed about a step attests it: to whom, in which run, about what, and until when."""
    attester = Attester(alg=alg)
    text = good(attester, clock, jti="a1", evidence_hash="sha-256:00", unknown={"x": [1.5]})
    found = Board(attester, clock=clock).counts(text)
    start = round(clock.time) * 1_000_000
    assert found == Attestation(
        by="fraud-service",
        id="a1",
        step="fraud-check",
        outcome="passed",
        subject=dict(ORDER),
        agent=AGENT,
        run="r1",
        at=start,
        expires=start + 300_000_000,
        source="presented",
        key=found.key,
        evidence_hash="sha-256:00",
        digest=found.digest,
    )
    assert len(found.key) == len(found.digest) == 43


@pytest.mark.parametrize("outcome", ["passed", "failed", "error", "skipped"])
def test_every_outcome_is_recorded(outcome: str, attester: Attester, board: Board) -> None:
    """W7: what did not pass is an attestation too, and says so; that it does not open anything is the rule's to say."""
    assert board.counts(good(attester, board.clock, outcome=outcome)).outcome == outcome


@pytest.mark.parametrize("outcome", ["Passed", "PASSED", "pass", "ok", "", None, True, ["passed"], ...])
def test_other_words_for_an_outcome(outcome: object, attester: Attester, board: Board) -> None:
    """W7: a word that nobody agreed on is no outcome."""
    board.refuses(good(attester, board.clock, outcome=outcome), "malformed")


def test_a_long_one_is_not_looked_at(attester: Attester, board: Board) -> None:
    """W22: more than 7 KiB is refused before anything is decoded, also where the rest would be right."""
    text = good(attester, board.clock, note="x" * MAX_ATTESTATION)
    assert "longer" in board.refuses(text, "malformed").detail


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", None, "HS256", "RS256", "ES384", ["EdDSA"], ...])
def test_an_algorithm_that_is_not_taken(alg: object, attester: Attester, board: Board) -> None:
    """W16: two algorithms sign attestations; no other name is taken, with a good signature and without one."""
    text = attester.sign(attester.header(alg=alg), attester.claims(now=board.clock.time))
    board.refuses(text, "signature")
    board.refuses(text.rpartition(".")[0] + ".", "signature")


def test_the_public_key_as_a_shared_secret(attester: Attester, board: Board) -> None:
    """W16: HS256 over any spelling of the public key is refused."""
    parts = attester.header(alg="HS256"), attester.claims(now=board.clock.time)
    signed = ".".join(b64(json.dumps(part).encode()) for part in parts)
    for secret in attester.signer.public_spellings():
        board.refuses(f"{signed}.{mac(secret, signed)}", "signature")


@pytest.mark.parametrize(
    "typ",
    ["JWT", "at+jwt", "wf-attestation", "dpop+jwt", "wf-attestation+jwt ", "", None, 1, ["wf-attestation+jwt"], ...],
)
def test_another_type(typ: object, attester: Attester, board: Board) -> None:
    """W16: whatever else an attester signs (tokens, proofs, receipts) is no attestation."""
    text = attester.sign(attester.header(typ=typ), attester.claims(now=board.clock.time))
    board.refuses(text, "malformed")


@pytest.mark.parametrize("typ", ["WF-Attestation+JWT", "application/wf-attestation+jwt"])
def test_the_type_as_a_media_type(typ: str, attester: Attester, board: Board) -> None:
    """A `typ` is a media type: its case does not matter, and `application/` may stand in front (RFC 7515 §4.1.9)."""
    board.counts(attester.sign(attester.header(typ=typ), attester.claims(now=board.clock.time)))


@pytest.mark.parametrize("name", ["crit", "jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256"])
def test_it_brings_its_own_rules_or_keys(name: str, attester: Attester, board: Board) -> None:
    """W16: nothing in the header says how to believe it, whatever its value and whoever signed it."""
    thief = Attester()
    for signer in (attester, thief):
        for value in (signer.signer.jwk(), ["b64"], "https://evil.example/keys", None):
            text = signer.sign(attester.header(**{name: value}), attester.claims(now=board.clock.time))
            assert name in board.refuses(text, "malformed").detail


@pytest.mark.parametrize("iss", ["gateway", "procurement", AGENT, "Fraud-Service", "fraud-service ", "", None, 1, ...])
def test_somebody_who_attests_nothing(iss: object, attester: Attester, board: Board) -> None:
    """W9: nobody but a configured attester attests; least of all who calls itself the gateway."""
    board.refuses(good(attester, board.clock, iss=iss), "unknown_attester")


def test_the_agent_signs_its_own_precondition(attester: Attester, board: Board) -> None:
    """W9: the key that signs the agent's tokens signs no attestation, under its own name and under the attester's."""
    issuer = Issuer(kid=attester.signer.kid)
    for changes in ({}, {"iss": issuer.iss}, {"iss": AGENT}, {"iss": "procurement"}):
        text = issuer.sign(attester.header(), attester.claims(now=board.clock.time, **changes))
        board.refuses(text, "unknown_attester" if changes else "signature")


def test_one_attester_signs_for_another(clock: SetClock) -> None:
    """W8: who is believed about one step is not believed about another's, in neither's name."""
    fraud, auditor = Attester("fraud-service"), Attester("auditor")
    board = Board(fraud, auditor, clock=clock)
    board.counts(good(fraud, clock))
    board.counts(good(auditor, clock, step="audit"))
    assert "audit" in board.refuses(good(auditor, clock), "step_not_allowed").detail
    in_its_name = auditor.sign(fraud.header(), fraud.claims(now=clock.time))
    under_its_own_key = auditor.sign(auditor.header(), fraud.claims(now=clock.time))
    for text in (in_its_name, under_its_own_key):
        board.refuses(text, "signature")


@pytest.mark.parametrize("step", ["Fraud-Check", "fraud", "fraud-check2", "payment"])
def test_a_step_that_is_not_its(step: str, attester: Attester, board: Board) -> None:
    """W8: its word counts for the steps of `may_attest`, letter by letter."""
    refused = board.refuses(good(attester, board.clock, step=step), "step_not_allowed")
    assert refused.step == step
    assert refused.signed


@pytest.mark.parametrize("step", ["", " fraud-check", "fraud check", "x" * 129, None, 1, ["fraud-check"], ...])
def test_a_step_without_a_name(step: object, attester: Attester, board: Board) -> None:
    """A step is named, by one name."""
    assert board.refuses(good(attester, board.clock, step=step), "malformed").step == ""


def test_a_key_that_is_not_there(attester: Attester, board: Board) -> None:
    """W16: `kid` names a key of this attester, or nothing is looked up; without one the only key that fits is meant."""
    for kid in ("other", "", None, 1, ["fraud-service-1"], "fraud-service-1 "):
        text = attester.sign(attester.header(kid=kid), attester.claims(now=board.clock.time))
        if kid is None:
            board.counts(text)
        else:
            board.refuses(text, "signature")
    board.counts(attester.sign(attester.header(kid=...), attester.claims(now=board.clock.time)))


def test_a_revoked_key(attester: Attester, clock: SetClock) -> None:
    """W24: once its key is taken out of the file nothing that it signed counts, new or recorded before."""
    text = good(attester, clock)
    before = Board(attester, clock=clock).counts(text)
    renewed = Attester()
    after = Board(attester, clock=clock, files={str(key_file("fraud-service")): renewed.jwks()})
    after.refuses(text, "signature")
    assert after.attesters.standing([before])[0] == ()
    nobody = Board(attester, clock=clock, files={str(key_file("fraud-service")): b'{"keys": []}'})
    nobody.refuses(text, "signature")
    assert "none of them counts" in str(nobody.attesters.warnings[0])


@pytest.mark.parametrize(
    "aud",
    [
        *(..., None, "", 1, "https://other.example", "https://gateway.example/", "https://GATEWAY.example"),
        ["https://gateway.example", "https://other.example"],
        ["https://gateway.example", "https://gateway.example"],
        [["https://gateway.example"]],
        [],
    ],
)
def test_another_gateway(aud: object, attester: Attester, board: Board) -> None:
    """W19: what was attested to another gateway, or to several, is not attested here."""
    board.refuses(good(attester, board.clock, aud=aud), "audience")


def test_a_list_with_this_gateway_alone(attester: Attester, board: Board) -> None:
    """`aud` may be a list of one (RFC 7519 §4.1.3)."""
    board.counts(good(attester, board.clock, aud=["https://gateway.example"]))


@pytest.mark.parametrize(
    ("times", "code"),
    [
        ({"iat": 0, "exp": 1}, ""),
        ({"iat": 30, "exp": 31}, ""),
        ({"iat": 31, "exp": 60}, "not_yet"),
        ({"iat": 0, "exp": 60, "nbf": 31}, "not_yet"),
        ({"iat": 0, "exp": 60, "nbf": -9}, ""),
        ({"iat": 86_400, "exp": 86_401}, "not_yet"),
        ({"iat": -600, "exp": -29}, ""),
        ({"iat": -600, "exp": -30}, "expired"),
        ({"iat": -3600, "exp": 0}, ""),
        ({"iat": -3601, "exp": 0}, "lifetime"),
        ({"iat": 0, "exp": 10 * 365 * 86_400}, "lifetime"),
        ({"iat": 10, "exp": 10}, "malformed"),
        ({"iat": 10, "exp": 0}, "malformed"),
    ],
)
def test_its_time(times: dict[str, int], code: str, attester: Attester, board: Board) -> None:
    """W10: from `iat` to `exp`, within the clocks' skew of 30 s, and not for longer than an hour here."""
    start = round(board.clock.time)
    text = good(attester, board.clock, **{name: start + value for name, value in times.items()})
    if code:
        board.refuses(text, code)
    else:
        board.counts(text)


@pytest.mark.parametrize("name", ["iat", "exp", "nbf"])
@pytest.mark.parametrize(
    "value", ["1800000100", 1800000100.0, True, -1, 10**15, None, [1800000100], {}, "NaN", "1.8e9", ...]
)
def test_a_time_that_is_none(name: str, value: object, attester: Attester, board: Board) -> None:
    """W10: times are whole seconds; what has none has no end, or no beginning."""
    if name == "nbf" and value is ...:
        return  # it may be left out, as nearly all do
    board.refuses(good(attester, board.clock, **{name: value}), "malformed")


def test_it_expires_while_nobody_looks(attester: Attester, board: Board) -> None:
    """W10: the same text counts until it expires, and not after."""
    text = good(attester, board.clock)
    board.counts(text)
    board.clock.pass_(331)
    assert board.refuses(text, "expired").step == "fraud-check"


@pytest.mark.parametrize("name", ["jti", "sub", "run"])
@pytest.mark.parametrize("value", ["", None, 1, ["a"], "a\nb", "a\x00", "\u2028", "x" * 2049, ...])
def test_a_name_that_is_none(name: str, value: object, attester: Attester, board: Board) -> None:
    """What identifies is text that fits into a log and a table, or it is refused."""
    board.refuses(good(attester, board.clock, **{name: value}), "malformed")


@pytest.mark.parametrize("name", ["evidence_hash", "prev"])
@pytest.mark.parametrize("value", ["", None, 1, {"sha-256": "x"}, "x" * 257, "a\nb"])
def test_an_optional_name_that_is_none(name: str, value: object, attester: Attester, board: Board) -> None:
    """What may be left out is right where it stands."""
    board.refuses(good(attester, board.clock, **{name: value}), "malformed")


@pytest.mark.parametrize("prev", ["A" * 42, "A" * 44, "A" * 42 + "B", "A" * 42 + "=", "sha-256:" + "A" * 43])
def test_an_earlier_one_that_nothing_can_be(prev: str, attester: Attester, board: Board) -> None:
    """W18: what one builds on is named by a SHA-256 in its one spelling."""
    board.counts(good(attester, board.clock, prev="A" * 43))
    assert "prev" in board.refuses(good(attester, board.clock, prev=prev), "malformed").detail


def test_another_agent(attester: Attester, board: Board) -> None:
    """W20: what is attested for one agent is of no use to another; it may be called by its id or by its subject."""
    board.counts(good(attester, board.clock, agent="procurement"))
    for agent in ("support", f"{AGENT}/child", AGENT.upper(), "*"):
        board.refuses(good(attester, board.clock, agent=agent), "other_agent")
    board.refuses(good(attester, board.clock), "other_agent", names=("support",))


def test_another_run(attester: Attester, board: Board) -> None:
    """W1: replayed in another run it does not count; posted by its attester it says itself which run it means."""
    text = good(attester, board.clock, run="r2")
    assert "r2" in board.refuses(text, "other_run").detail
    assert board.counts(text, run=RunKey(*RUN[:2], "r2")).run == "r2"
    posted = board.counts(text, names=None, run=None)
    assert (posted.run, posted.source, posted.agent) == ("r2", "posted", AGENT)


@pytest.mark.parametrize(
    "subject",
    [
        {"amount": 1000.0},
        {"amount": None},
        {"amount": 1 << 53 | 1},
        {"amount": -(1 << 53) - 1},
        {"order": {"id": "A1"}},
        {"order": ["A1"]},
        {f"n{number}": number for number in range(33)},
        {"note": "x" * 2048},
        ["A1"],
        "A1",
        None,
        ...,
    ],
    ids=lambda subject: str(subject)[:30],
)
def test_a_subject_that_has_two_readings(subject: object, attester: Attester, board: Board) -> None:
    """W4: a float, a number beyond ±2^53, what is nested, missing or too large is nothing that could be compared."""
    board.refuses(good(attester, board.clock, subject=subject), "malformed")


def test_a_number_is_what_it_was_written_as(attester: Attester, board: Board) -> None:
    """W3, W4: `1000`, `"1000"` and `true` are three values; `1000.0` and `1e3` are none."""
    header = json.dumps(attester.header()).encode()
    claims = json.dumps(attester.claims(now=board.clock.time, subject={"amount": 0}))

    def written(amount: str) -> str:
        return attester.signer.sign_bytes(header, claims.replace('"amount": 0', f'"amount": {amount}').encode())

    values = [board.counts(written(amount)).subject["amount"] for amount in ("1000", '"1000"', "true", "-0")]
    assert [(type(value), value) for value in values] == [(int, 1000), (str, "1000"), (bool, True), (int, 0)]
    for amount in ("1000.0", "1e3", "1E3", "1000.00", "NaN", "01000", "0x3e8", "+1000"):
        board.refuses(written(amount), "malformed")


def test_look_alikes_stay_apart(attester: Attester, board: Board) -> None:
    """W6: names and values that look alike, or are equal once normalised, are not made equal."""
    subject = {"order_id": "Ä1", "order_id\u200b": "Ä1", "örder": "A\u0308", "ORDER_ID": "\u0430"}
    assert board.counts(good(attester, board.clock, subject=subject)).subject == subject


def test_members_that_stand_twice(attester: Attester, board: Board) -> None:
    """W5: a member that stands twice, also in the subject or spelled with an escape, is refused."""
    header, claims = json.dumps(attester.header()), json.dumps(attester.claims(now=board.clock.time))
    board.counts(attester.signer.sign_bytes(header.encode(), claims.encode()))
    for extra in ('"outcome":"passed"', '"\\u006futcome":"passed"', '"x":{"order_id":1,"order_id":2}'):
        board.refuses(attester.signer.sign_bytes(header.encode(), f"{claims[:-1]},{extra}}}".encode()), "malformed")
    twice = claims.replace('"order_id": "A1"', '"order_id": "A1", "order_id": "A2"')
    board.refuses(attester.signer.sign_bytes(header.encode(), twice.encode()), "malformed")
    board.refuses(attester.signer.sign_bytes(f'{header[:-1]},"kid":"x"}}'.encode(), claims.encode()), "malformed")


@pytest.mark.parametrize("alg", ["EdDSA", "ES256"])
def test_every_flipped_byte(alg: str, clock: SetClock) -> None:
    """S09, W2: whichever byte of a signed attestation is another one, it does not count."""
    attester = Attester(alg=alg)
    board = Board(attester, clock=clock)
    text = good(attester, clock)
    for at in range(len(text)):
        for bit in (1, 2, 0x20, 0x80):
            changed = text[:at] + chr(ord(text[at]) ^ bit) + text[at + 1 :]
            assert not isinstance(board.attesters.examine(changed, NAMES, RUN), Attestation), (at, bit)


@pytest.mark.parametrize("alg", ["EdDSA", "ES256"])
def test_mutants(alg: str, clock: SetClock) -> None:
    """S09, W16: whatever is done to its text, it says what was signed or nothing at all."""
    attester, thief = Attester(alg=alg), Attester(alg=alg)
    board = Board(attester, clock=clock)
    text, other = good(attester, clock, jti="a1"), good(attester, clock, jti="a2", outcome="failed")
    signed = [board.counts(one) for one in (text, other)]
    rng = random.Random(SEED)  # noqa: S311 - no secret
    for _ in range(800):
        how, changed = changed_text(rng, Source(text, other, attester.signer, thief.signer))
        verdict = board.attesters.examine(changed, NAMES, RUN)
        assert not isinstance(verdict, Attestation) or verdict in signed, f"{how}, PASSGATE_SEED={SEED}: {changed!r}"


def test_all_that_is_wrong_is_said(attester: Attester, board: Board) -> None:
    """Who inspects one hears every reason; the first of them is the one that it is refused for."""
    text = good(attester, board.clock, aud="https://other.example", step="audit", outcome="ok", subject={"x": 1.5})
    _, results = board.attesters.inspect(text, ("support",), "r9")
    wrong = {result.step.number for result in results if result.problem}
    assert wrong == {10, 14, 15, 17, 18}
    assert {result.step.number for result in results if result.waits_for} == {16}
    _, results = board.attesters.inspect(good(attester, board.clock), NAMES, "r1")
    assert not any(result.problem or result.waits_for for result in results)
    assert [result.step.number for result in results] == sorted(result.step.number for result in results)
    for odd in ("", "x", "{", "{}", "a.b.c", good(attester, board.clock)[:-1]):
        _, results = board.attesters.inspect(odd, None, None)
        assert any(result.problem for result in results)


def test_a_longer_life(attester: Attester, clock: SetClock) -> None:
    """W10: how long one may hold at most is said for each attester."""
    board = Board(attester, clock=clock, settings=[attester_settings(attester, max_lifetime=60.0)])
    start = round(clock.time)
    board.counts(good(attester, clock, exp=start + 60))
    board.refuses(good(attester, clock, exp=start + 61), "lifetime")
