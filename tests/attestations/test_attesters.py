"""Who attests what: what the configuration says, what a request carries, and what stands of what was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace
from multidict import CIMultiDict

from gateway.attestations import AttestersMistakes
from gateway.attestations.settings import AttesterKeys, AttesterSettings
from gateway.core.attestation import GATEWAY, Attestation
from gateway.core.call import Head
from gateway.core.errors import Refusal
from tests.attestations.board import NAMES, RUN, Board, attester_settings, key_file
from tests.simulator.attester import AGENT, Attester
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer


def head(*values: str) -> Head:
    """A request with these headers `Workflow-Attestation`."""
    headers: Any = CIMultiDict([("Workflow-Attestation", value) for value in values])
    return Head("POST", "/tools/payments/charge", "", headers, "127.0.0.1")


def fallen(board: Board, *attestations: Attestation) -> list[tuple[str, str]]:
    """The ids of those that count no more, each with its code."""
    standing, gone = board.attesters.standing(attestations)
    assert len(standing) + len(gone) == len(attestations)
    return [(one.id, "") for one in standing] + [("", one.code) for one in gone]


# -- the header


def test_a_header_without_any(board: Board) -> None:
    """W15: a call that carries none presents none, and nothing else is read as one."""
    assert board.attesters.read_header(head()) == []
    assert board.attesters.read_header(head("", " , ,,\t")) == []


def test_a_header_with_several(board: Board) -> None:
    """The header may repeat, and be a list; both are the same (RFC 9110 §5.3)."""
    for values in (["a.b.c, d.e.f", "g.h.i"], ["a.b.c", "d.e.f", "g.h.i"], ["a.b.c ,\td.e.f,,g.h.i,"]):
        assert board.attesters.read_header(head(*values)) == ["a.b.c", "d.e.f", "g.h.i"]


@pytest.mark.parametrize("values", [["a"] * 5, ["a,a,a,a,a"], ["a,a", "a,a,a"], [",".join("a" * 100)]])
def test_a_header_with_too_many(values: list[str], board: Board) -> None:
    """W22: four may come with a call; more are refused before one of them is read."""
    with pytest.raises(Refusal) as caught:
        board.attesters.read_header(head(*values))
    assert (caught.value.code, caught.value.status, caught.value.fields) == ("request_malformed", 400, {"limit": 4})
    assert "POST /gateway/v1/attestations" in caught.value.sentence


@pytest.mark.parametrize("values", [["x" * 7169], ["x" * 4000, "x" * 3169], [" " * 7169], ["," * 7169]])
def test_a_header_that_is_too_long(values: list[str], board: Board) -> None:
    """W22: 7 KiB of them may come with a call, all together; more are refused before one of them is read."""
    with pytest.raises(Refusal) as caught:
        board.attesters.read_header(head(*values))
    assert (caught.value.code, caught.value.status, caught.value.fields) == ("headers_too_large", 431, {"limit": 7168})
    assert board.attesters.read_header(head("x" * 7168)) == ["x" * 7168]


@given(st.text(st.characters(), max_size=300).filter(lambda text: text.count(",") < 4))
@example("\udcff.\udcff.\udcff")
@example("{\udcff}")
def test_anything_in_a_header(text: str) -> None:
    """Whatever stands there is examined, and does not count."""
    board = Board(Attester(), clock=SetClock())
    for one in board.attesters.read_header(head(text)):
        assert not isinstance(board.attesters.examine(one, NAMES, RUN), Attestation)


# -- what stands of what was recorded


def test_what_stands(clock: SetClock) -> None:
    """W8, W24: attester, step and key are asked again whenever something rests on what was recorded."""
    attester, auditor = Attester(), Attester("auditor")
    board = Board(attester, auditor, clock=clock)
    fraud = board.counts(attester.attest(now=clock.time, jti="fraud"))
    audit = board.counts(auditor.attest(now=clock.time, jti="audit", step="audit"))
    seen = Attestation(by=GATEWAY, id="seen", step="x", outcome="passed", subject={}, agent=AGENT, run="r1", at=1)
    assert fallen(board, fraud, audit, seen) == [("seen", ""), ("fraud", ""), ("audit", "")]
    alone = Board(attester, clock=clock)
    assert fallen(alone, fraud, audit, seen) == [("seen", ""), ("fraud", ""), ("", "revoked")]
    keys = AttesterKeys(file=key_file("fraud-service"))
    limits = AttesterSettings(name="fraud-service", keys=keys, may_attest=("limit-check",))
    elsewhere = Board(attester, clock=clock, settings=[limits])
    (gone,) = elsewhere.attesters.standing([fraud])[1]
    assert (gone.code, gone.step) == ("revoked", "fraud-check")
    assert "may not attest" in gone.detail


def test_nobody_but_the_gateway_is_the_gateway(board: Board, attester: Attester) -> None:
    """W9: a name that is nearly the gateway's is nobody's."""
    said = board.counts(attester.attest(now=board.clock.time))
    for name in ("Gateway", "gateway ", "", "gateway2"):
        assert fallen(board, replace(said, by=name)) == [("", "revoked")]


def test_a_chain(board: Board, attester: Attester) -> None:
    """W18: one that builds on an earlier one counts only where that one stands, and is not newer."""
    now = board.clock.time
    first = board.counts(attester.attest(now=now, jti="first"))
    second = board.counts(attester.attest(now=now + 5, jti="second", prev=first.digest))
    third = board.counts(attester.attest(now=now + 9, jti="third", prev=second.digest))
    assert fallen(board, third, first, second) == [("first", ""), ("second", ""), ("third", "")]
    assert fallen(board, first, third) == [("first", ""), ("", "chain")]
    assert fallen(board, second, third) == [("", "chain"), ("", "chain")]
    newer = replace(first, at=second.at + 1)
    assert fallen(board, second, newer) == [("first", ""), ("", "chain")]
    other_run = replace(first, run="r2")
    assert fallen(board, other_run, second) == [("first", ""), ("", "chain")]
    revoked = replace(first, key="another")
    assert fallen(board, revoked, second) == [("", "revoked"), ("", "chain")]
    unchained = Attestation(by=GATEWAY, id="seen", step="x", outcome="passed", subject={}, agent=AGENT, run="r1", at=1)
    assert fallen(board, unchained, second) == [("seen", ""), ("", "chain")]


@pytest.mark.parametrize("outcome", ["failed", "error", "skipped"])
def test_a_broken_chain_hides_nothing(outcome: str, board: Board, attester: Attester) -> None:
    """W13, W18: whoever withholds the earlier one does not get rid of a later one that did not pass."""
    said = board.counts(attester.attest(now=board.clock.time, outcome=outcome, prev="A" * 43))
    assert fallen(board, said) == [(said.id, "")]


# -- the configuration


def mistakes(*attesters: Attester, **given: Any) -> str:  # noqa: ANN401 - as `Board`
    """What is wrong with it, a line each."""
    with pytest.raises(AttestersMistakes) as caught:
        Board(*attesters, clock=SetClock(), **given)
    return str(caught.value)


def test_a_key_that_signs_tokens_attests_nothing() -> None:
    """W9: a key of an issuer is refused as an attester's when the configuration is read, whatever it is called."""
    issuer = Issuer()
    attester = Attester(kid="another-name")
    attester.signer.key = issuer.key
    said = mistakes(attester, issuers=[issuer])
    assert "keys/fraud-service.json:1: " in said
    assert "of issuer dev too" in said
    Board(attester, clock=SetClock(), issuers=[Issuer()])


def test_a_key_of_two_attesters() -> None:
    """W8: whoever could sign for both could attest the steps of both, so each has a key of its own."""
    one, two = Attester("fraud-service"), Attester("auditor")
    two.signer.key = one.signer.key
    assert "attester auditor has a key that is of attester fraud-service too" in mistakes(one, two)


def test_keys_that_cannot_be_read() -> None:
    """Everything that is wrong with the key files is said at once, with the file and what to do."""
    one, two = Attester("fraud-service"), Attester("auditor")
    gone = attester_settings(Attester("nobody"))
    private = one.jwks().replace(b'"kty"', b'"d": "x", "kty"')
    said = mistakes(
        two,
        settings=[attester_settings(one), attester_settings(two), gone],
        files={str(key_file("fraud-service")): private, str(key_file("auditor")): b"[]"},
    )
    assert said.count("\n") == 2
    assert "keys/fraud-service.json:1: keys[0]: holds private members" in said
    assert "keys/auditor.json:1: " in said
    assert "the keys of attester nobody cannot be read" in said
    assert "passgate keys new --file keys/nobody.json" in said


def test_the_name_of_the_gateway_is_taken() -> None:
    """W9: no attester is called as the gateway calls itself."""
    keys = AttesterKeys(file=Path("k.json"))
    assert list(AttesterSettings(name=GATEWAY, keys=keys, may_attest=("x",)).mistakes())
    assert not list(AttesterSettings(name="gate", keys=keys, may_attest=("x",)).mistakes())
