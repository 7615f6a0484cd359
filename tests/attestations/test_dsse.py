"""An in-toto statement in a DSSE envelope: it attests the same, and has more to swap."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.core.attestation import Attestation
from tests.attestations.board import NAMES, RUN, Board
from tests.simulator.attester import TEST_RESULT, Attester
from tests.simulator.clock import SetClock


def envelope(attester: Attester, clock: SetClock, **claims: Any) -> dict[str, Any]:  # noqa: ANN401 - as `Attester.claims`
    """A good envelope."""
    return attester.enveloped(attester.statement(now=clock.time, **claims))


def stated(attester: Attester, clock: SetClock, **changes: object) -> str:
    """An envelope around a statement with these members changed."""
    return attester.dsse(statement=changes, now=clock.time)


def predicated(attester: Attester, clock: SetClock, **changes: object) -> str:
    """An envelope around a statement whose predicate has these members changed."""
    predicate: Any = attester.statement(now=clock.time)["predicate"]
    whole = {name: value for name, value in {**predicate, **changes}.items() if value is not ...}
    return stated(attester, clock, predicate=whole)


@pytest.mark.parametrize("alg", ["EdDSA", "ES256"])
@pytest.mark.parametrize(("said", "meant"), [("passed", "passed"), ("failed", "failed"), ("warned", "failed")])
def test_it_attests_what_a_jws_does(alg: str, said: str, meant: str, clock: SetClock) -> None:
    """The same claims in either form are the same attestation, but for its digest; a warning is no pass."""
    attester = Attester(alg=alg)
    board = Board(attester, clock=clock)
    found = board.counts(attester.dsse(now=clock.time, outcome=said, jti="a1"))
    same = board.counts(attester.attest(now=clock.time, outcome=meant, jti="a1"))
    assert replace(found, digest="") == replace(same, digest="")
    assert len({found.digest, same.digest, ""}) == 3


@pytest.mark.parametrize("alg", ["EdDSA", "ES256"])
def test_the_type_is_signed(alg: str, clock: SetClock) -> None:
    """W16: what was signed as another type is no statement, under its own type and under in-toto's."""
    attester = Attester(alg=alg)
    board = Board(attester, clock=clock)
    for other in ("application/json", "application/vnd.in-toto.test-result+json", "", "text/plain"):
        good = envelope(attester, clock)
        board.refuses(json.dumps({**good, "payloadType": other}), "malformed")
        payload = base64.b64decode(good["payload"])
        signed = attester.signature(payload, other)
        board.refuses(json.dumps({**good, "signatures": [signed]}), "signature")


@pytest.mark.parametrize(
    "changes",
    [
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"_type": ...},
        {"predicateType": "https://in-toto.io/attestation/svr/v0.2"},
        {"predicateType": f"{TEST_RESULT}/"},
        {"predicateType": ...},
        {"predicate": ...},
        {"predicate": []},
        {"subject": ...},
        {"subject": []},
        {"subject": [{"name": "subject"}]},
        {"subject": [{"digest": {"sha256": "0" * 64}}]},
        {"subject": [{"digest": {"sha512": "0" * 128}}, 7, {"digest": "x"}]},
    ],
)
def test_another_statement(changes: dict[str, object], attester: Attester, board: Board) -> None:
    """W16: only a test result about this very subject is read as one, whoever has signed it."""
    board.refuses(stated(attester, board.clock, **changes), "malformed")


def test_one_of_several_subjects(attester: Attester, board: Board) -> None:
    """A statement is about each of its subjects: the one that is meant is found by its digest."""
    own: Any = attester.statement()["subject"]
    board.counts(stated(attester, board.clock, subject=[{"digest": {"sha256": "0" * 64}}, *own]))


@pytest.mark.parametrize(
    "changes",
    [
        {"result": "passed"},
        {"result": "SKIPPED"},
        {"result": None},
        {"result": ["PASSED"]},
        {"result": ...},
        {"workflowAttestation": ...},
        {"workflowAttestation": {}},
        {"workflowAttestation": "x"},
    ],
)
def test_another_predicate(changes: dict[str, object], attester: Attester, board: Board) -> None:
    """W7: without a result that everybody knows, and without the claims, nothing is attested."""
    (name,) = changes
    said = "predicate.result" if name == "result" else "predicate.workflowAttestation is not an object"
    assert said in board.refuses(predicated(attester, board.clock, **changes), "malformed").detail


def test_the_outcome_has_one_place(attester: Attester, board: Board) -> None:
    """W7: a statement that says `failed` is not made `passed` by what stands beside."""
    claims = attester.claims(now=board.clock.time, outcome="passed")
    board.refuses(predicated(attester, board.clock, result="FAILED", workflowAttestation=claims), "malformed")
    board.counts(predicated(attester, board.clock, result="PASSED", workflowAttestation=claims))


@pytest.mark.parametrize("name", ["aud", "jti", "iat", "exp", "sub", "run", "step", "subject", "iss"])
def test_all_that_a_jws_says_is_said(name: str, attester: Attester, board: Board) -> None:
    """Nothing is taken from anywhere else: a claim that is missing is missing."""
    without: dict[str, Any] = {name: ...}
    verdict = board.attesters.examine(attester.dsse(now=board.clock.time, **without), NAMES, RUN)
    assert not isinstance(verdict, Attestation)


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"aud": "https://other.example"}, "audience"),
        ({"run": "r2"}, "other_run"),
        ({"agent": "support"}, "other_agent"),
        ({"step": "audit"}, "step_not_allowed"),
        ({"iss": "auditor"}, "unknown_attester"),
        ({"exp": 1_700_000_000, "iat": 1_699_999_000}, "expired"),
        ({"subject": {"amount": 1.5}}, "malformed"),
    ],
)
def test_the_same_steps(claims: dict[str, Any], code: str, attester: Attester, board: Board) -> None:
    """W1, W8, W10, W19, W20: what refuses a JWS refuses a statement."""
    board.refuses(attester.dsse(now=board.clock.time, **claims), code)


def test_a_keyid_that_points_elsewhere(clock: SetClock) -> None:
    """W16: a `keyid` narrows which key is tried, and names nobody else's; without one the only key is tried."""
    attester, other = Attester(), Attester("auditor")
    board = Board(attester, other, clock=clock)
    good = envelope(attester, clock)
    (signed,) = good["signatures"]
    for keyid, code in (("auditor-1", "signature"), ("x", "signature"), (7, "malformed"), ("", ""), (None, "")):
        text = json.dumps({**good, "signatures": [{**signed, "keyid": keyid}]})
        if code:
            board.refuses(text, code)
        else:
            board.counts(text)
    board.counts(json.dumps({**good, "signatures": [{"sig": signed["sig"]}]}))


@pytest.mark.parametrize("alg", ["EdDSA", "ES256"])
def test_several_signatures(alg: str, clock: SetClock) -> None:
    """W17: one signature of the attester that it names is needed, and what others have signed beside it is nothing."""
    attester, other, stranger = Attester(alg=alg), Attester("auditor"), Attester("fraud-service")
    board = Board(attester, other, clock=clock)
    good = envelope(attester, clock)
    payload = base64.b64decode(good["payload"])
    own, others = attester.signature(payload), [other.signature(payload), stranger.signature(payload)]
    broken = {**own, "sig": base64.b64encode(b"\0" * 64).decode()}
    for signatures in ([own], [own, *others], [*others, own], [broken, own], [own, own]):
        assert board.counts(json.dumps({**good, "signatures": signatures})).by == "fraud-service"
    for signatures in (others, [others[0]], [others[1]], [broken], [broken, *others]):
        board.refuses(json.dumps({**good, "signatures": signatures}), "signature")
    lists: list[Any] = [[], None, {}, "x", [own] * 17, [None], [{"keyid": own["keyid"]}], [{**own, "sig": "%"}]]
    for odd in lists:
        board.refuses(json.dumps({**good, "signatures": odd}), "malformed")


def test_in_the_name_of_another(clock: SetClock) -> None:
    """W8, W17: whose word it is says the statement, and its signature must be that one's."""
    fraud, auditor = Attester("fraud-service"), Attester("auditor")
    board = Board(fraud, auditor, clock=clock)
    forged = auditor.enveloped(fraud.statement(now=clock.time))
    board.refuses(json.dumps(forged), "signature")
    assert board.counts(auditor.dsse(now=clock.time, step="audit")).by == "auditor"


def test_an_algorithm_that_is_not_taken(clock: SetClock) -> None:
    """W16: the key says which algorithm it is, and a key of another kind signs nothing."""
    attester = Attester(alg="ES512")
    board = Board(attester, clock=clock)
    board.refuses(attester.dsse(now=clock.time), "signature")
    assert "can verify" in str(board.attesters.warnings[0])


def test_base64_in_both_alphabets(attester: Attester, board: Board) -> None:
    """DSSE: signers may use either alphabet, and verifiers take both; here with bytes that are spelled differently."""
    good = envelope(attester, board.clock, subject={"x": "ÿþ??>>~~"})
    payload = json.dumps(json.loads(base64.b64decode(good["payload"])), ensure_ascii=False).encode()
    spelled = base64.b64encode(payload).decode()
    url_safe = spelled.translate(str.maketrans("+/", "-_"))
    assert url_safe != spelled
    for text in (spelled, url_safe):
        board.counts(json.dumps({**good, "payload": text, "signatures": [attester.signature(payload)]}))


@pytest.mark.parametrize("payload", [b"", b"x", b"[]", b"{}", b"\xff", b'{"predicate": {}, "predicate": {}}'])
def test_a_payload_that_is_no_statement(payload: bytes, attester: Attester, board: Board) -> None:
    """W5, W16: the payload is one strict JSON object, or nothing."""
    good = envelope(attester, board.clock)
    text = {**good, "payload": base64.b64encode(payload).decode(), "signatures": [attester.signature(payload)]}
    board.refuses(json.dumps(text), "malformed")


_CLOCK = SetClock()
_ATTESTER = Attester()
_BOARD = Board(_ATTESTER, clock=_CLOCK)
_GOOD = _ATTESTER.dsse(now=_CLOCK.time)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(_GOOD) - 1), st.integers(0, 7))
def test_flipped_bits(at: int, bit: int) -> None:
    """S09: an envelope with another bit is refused, or says what was signed: its signature covers all that it says."""
    changed = _GOOD[:at] + chr(ord(_GOOD[at]) ^ 1 << bit) + _GOOD[at + 1 :]
    verdict = _BOARD.attesters.examine(changed, NAMES, RUN)
    assert not isinstance(verdict, Attestation) or verdict == _BOARD.counts(_GOOD)
