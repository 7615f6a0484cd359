"""Whatever is done to a token, it is exactly what was signed or refused; what means nothing changes nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import Refusal
from tests.identity.door import Door
from tests.identity.mutants import SEED, Cases, Source, changed_members, changed_text
from tests.identity.specimens import READ, SPECIMENS, Nobody, Specimen, meaning, specimen
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer, changed

DOOR = Door(Issuer(), clock=SetClock())
HEADERS = ("Authorization", "x-api-key", "x-goog-api-key")


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as running:
        yield running


@pytest.fixture(scope="module")
def specimens(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> list[Specimen]:
    return [specimen(kind, alg, tmp_path_factory.mktemp("keys"), runner) for kind, alg in SPECIMENS]


def source(one: Specimen) -> Source:
    """The specimen with another good token of its signer, and a thief with a key of his own."""
    other = one.signer.sign(one.header, {**one.claims, "jti": "t-2", "note": "x"})
    assert one.judge(other) is not None
    return Source(one.token, other, one.signer, Issuer(alg=one.signer.alg, kid=one.signer.kid, kind=one.signer.kind))


@pytest.mark.soak
def test_no_change_of_the_text_is_accepted(specimens: list[Specimen], capsys: pytest.CaptureFixture[str]) -> None:
    """I1, I2, I4, I5, I6, S01, S03: a token that was changed in any way is refused; only its own text is the token."""
    cases, sources = Cases("changes of a token's text", short=3000), [source(one) for one in specimens]
    for number in cases:
        one, of = specimens[number % len(specimens)], sources[number % len(specimens)]
        how, text = changed_text(cases.rng, of)
        name = cases.rng.choice(HEADERS)
        found = one.judge(text, name)
        same = (text.strip(" ") if name == "Authorization" else text) == of.token
        expected = one.principal if same else None
        assert found == expected, f"seed {SEED}, case {number}: {one}, {how}, {name}: {text!r}"
        cases.counts["the same text" if same else how] += 1
    with capsys.disabled():
        print(cases)
    assert len(cases.counts) == 11
    assert cases.counts["the same text"] < cases.counts.total() / 10


@pytest.mark.soak
def test_what_an_issuer_signs_means_what_it_says(specimens: list[Specimen], capsys: pytest.CaptureFixture[str]) -> None:
    """I8, I10, I18: of members that the issuer itself changed each is refused, or means what it says, or nothing."""
    cases = Cases("members that the issuer signed", short=2000)
    for number in cases:
        one = specimens[number % len(specimens)]
        made = changed_members(cases.rng, one.header, one.claims)
        token = one.signer.sign_bytes(made.head, made.body)
        expected = None
        if made.strict and len(token) <= 7 * 1024:
            try:
                expected = meaning(one, made.header, made.claims, token)
            except Nobody:
                expected = None
        found = one.judge(token)
        assert found == expected, f"seed {SEED}, case {number}: {one}: {made.head!r} {made.body!r}"
        if made.strict and made.names and not made.names & READ[one.kind] and len(token) <= 7 * 1024:
            assert found == one.principal, f"seed {SEED}, case {number}: {one}: {made.names} mean something"
        outcome = "refused" if found is None else "mean nothing" if found == one.principal else "mean something"
        cases.counts[outcome] += 1
    with capsys.disabled():
        print(cases)
    assert min(cases.counts[name] for name in ("refused", "mean nothing", "mean something")) > cases.counts.total() / 20


def test_the_other_signature_of_a_token(specimens: list[Specimen]) -> None:
    """S03: of the two ECDSA signatures (r, s) and (r, n - s) both hold, for the same caller with the same stops.

    Issuers give out either: about half of all good signatures have the larger `s`, so none can be refused. What is
    stopped is the token's id, which is no part of the signature.
    """
    mirrored = [one for one in specimens if one.signer.alg in {"ES256", "ES512"}]
    assert {one.kind for one in mirrored} == {kind for kind, _ in SPECIMENS}
    for one in mirrored:
        needs_id = one.kind in {"at+jwt", "gateway"}
        for jti in ("t-7",) if needs_id else ("t-7", ...):
            token = one.signer.sign(one.header, changed(one.claims, {"jti": jti}))
            other = one.signer.mirrored(token)
            assert other != token
            principal = one.judge(token)
            assert principal is not None
            assert one.judge(other) == principal


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text(text: str) -> None:
    """S06: any text at all is refused and breaks nothing."""
    with pytest.raises(Refusal):
        DOOR.admits(text)
