"""Inspecting a token: all that is wrong with it, by the very checks that refuse it at the door."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import Refusal
from gateway.core.sources import KeptSources
from gateway.identity import Identity
from gateway.identity.inspect import REMEDIES, Inspection
from gateway.identity.settings import AgentSettings, IdentitySettings, KeySettings
from tests.identity.door import PUBLIC_URL, Door, issuer_settings, mcp
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer, b64

NOBODYS = "iss (none) is no configured issuer's"
THUMBPRINT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


def refusing(inspection: Inspection) -> list[int]:
    """The steps that refuse, each once."""
    return sorted({finding.step for finding in inspection.findings if finding.outcome == "refused"})


def unjudged(inspection: Inspection) -> list[int]:
    """The steps that could not judge, each once."""
    return sorted({finding.step for finding in inspection.findings if finding.outcome == "not judged"})


def test_a_good_token(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """Nothing is found against a good token, and it is told whose it is."""
    inspection = door.identity.inspect(issuer.token(clock.time, run="r-1"))
    assert inspection.accepted
    assert not inspection.refused
    assert inspection.principal == door.admits(issuer.token(clock.time, run="r-1"))
    assert [finding.step for finding in inspection.findings if finding.step <= 16] == sorted(
        finding.step for finding in inspection.findings if finding.step <= 16
    )
    assert {finding.step for finding in inspection.findings} == {*range(1, 18), 19}


def test_all_reasons_at_once(issuer: Issuer, clock: SetClock) -> None:
    """A token with something wrong at every step that can be judged without the others has them all told."""
    claims = issuer.claims(
        clock.time,
        iat=int(clock.time) - 90_000,
        exp=int(clock.time) - 3600,
        aud="https://other.example",
        cnf={"kid": "x"},
        sub="",
        jti=7,
        run="a/b",
        scope=["x"],
        limits=[],
    )
    token = issuer.sign(issuer.header(jku="https://evil.example", alg="HS256", typ="at+jwt"), claims)
    inspection = Door(issuer, clock=clock).identity.inspect(token)
    assert refusing(inspection) == [4, 7, 11, 12, 13, 14, 16]
    assert [finding.what for finding in inspection.findings if finding.step == 14 and finding.outcome == "refused"] == [
        *("sub, act", "jti", "run", "scope", "limits"),
    ]
    assert unjudged(inspection) == [8, 9]
    assert all(finding.found and finding.remedy for finding in inspection.findings if finding.outcome == "refused")


@pytest.mark.parametrize(
    ("text", "refused", "judged"),
    [
        ("x" * 8000, [1, 2], [1, 2]),
        ("a.b.c", [2], [1, 2]),
        (f"{b64(b'[]')}.{b64(b'{}')}.{b64(b'x')}", [3], [1, 2, 3]),
        (f"{b64(b'{}')}.{b64(b'{}')}.{b64(b'x')}", [5, 10, 12], [1, 2, 3, 4, 5, 10, 12, 13, 14]),
    ],
)
def test_what_cannot_be_judged(text: str, refused: list[int], judged: list[int], door: Door) -> None:
    """A step that needs what an earlier one did not find says so, and neither refuses nor lets through."""
    inspection = door.identity.inspect(text)
    assert refusing(inspection) == refused
    assert sorted({one.step for one in inspection.findings if one.outcome != "not judged"}) == judged
    assert not inspection.accepted
    for finding in inspection.findings:
        if finding.outcome == "not judged":
            assert "step" in finding.found


def test_whose_a_refused_token_would_be(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """An expired or unsigned token is still told whose it would be; that makes nobody of it."""
    for token in (issuer.token(clock.time - 90_000), Issuer().token(clock.time)):
        inspection = door.identity.inspect(token)
        assert inspection.agent is not None
        assert inspection.agent.id == "procurement"
        assert inspection.principal is None
    stranger = door.identity.inspect(issuer.token(clock.time - 90_000, sub="nobody"))
    assert refusing(stranger) == [16, 17]
    assert stranger.agent is None


def test_nobodys_token(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """That no agent is registered for a token is one reason, and nothing calls a forged one valid."""
    good, forged = (one.token(clock.time, sub="user/nobody") for one in (issuer, Issuer()))
    for token, refused in ((good, [17]), (forged, [9, 17])):
        findings = [one for one in door.identity.inspect(token).findings if one.outcome == "refused"]
        assert [one.step for one in findings] == refused
        assert findings[-1].found == "no agent is registered for subject 'user/nobody' of issuer 'dev'"


def test_a_claim_that_is_not_there(issuer: Issuer, clock: SetClock) -> None:
    """It is told in no programming language's words; a workload of nobody's trust domain is named."""
    door = Door(issuer, clock=clock)
    for claims, said in (
        ({"iss": ..., "sub": "user/x"}, NOBODYS),
        (
            {"iss": ..., "sub": "spiffe://A.example/x"},
            f"{NOBODYS}, nor is the trust domain of sub 'spiffe://A.example/x'",
        ),
    ):
        findings = door.identity.inspect(issuer.token(clock.time, **claims)).findings
        assert [one.found for one in findings if one.step == 5] == [said]
    untyped = door.identity.inspect(issuer.sign(issuer.header(typ=...), issuer.claims(clock.time)))
    assert [one.found for one in untyped.findings if one.step == 6] == ["typ (none) is not accepted from issuer dev"]


def test_what_the_door_asks_beyond_the_token(issuer: Issuer, clock: SetClock) -> None:
    """An unknown agent, an address that the token is not for, a missing binding are reasons too."""
    strict = Door(issuer, clock=clock, settings=[issuer_settings(issuer, require_proof=True)])
    assert refusing(strict.identity.inspect(issuer.token(clock.time))) == [19]
    assert strict.identity.inspect(issuer.token(clock.time, cnf={"jkt": THUMBPRINT})).accepted
    door = Door(issuer, clock=clock)
    assert refusing(door.identity.inspect(issuer.token(clock.time, sub="nobody"))) == [17]
    token = issuer.token(clock.time, aud=f"{PUBLIC_URL}/mcp/github")
    assert door.identity.inspect(token, mcp("github")).accepted
    assert refusing(door.identity.inspect(token, mcp("files"))) == [18]
    twice = [AgentSettings(id=one, issuer="dev", subject=sub) for one, sub in (("a", "x/y"), ("b", "x/*"))]
    ambiguous = Door(issuer, clock=clock, agents=twice).identity.inspect(issuer.token(clock.time, sub="x/y"))
    assert refusing(ambiguous) == [17]


def test_keys_that_only_a_running_gateway_has(issuer: Issuer, clock: SetClock) -> None:
    """Where an issuer's keys are fetched nothing can be said of the signature without them, and that is said."""
    fetched = issuer_settings(issuer, keys=KeySettings(url="https://issuer.example/jwks"))
    agents = [AgentSettings(id="procurement", issuer="dev", subject=issuer.subject)]
    identity = Identity.build(
        IdentitySettings(audience=issuer.audience, issuers=(fetched,)),
        agents,
        KeptSources({}, {}, {}),
        clock,
        PUBLIC_URL,
    )
    inspection = identity.inspect(issuer.token(clock.time))
    assert (inspection.keys_of, refusing(inspection), unjudged(inspection)) == ("dev", [], [8, 9])
    assert any("--keys dev=FILE" in finding.remedy for finding in inspection.findings)
    identity.adopt({"dev": issuer.jwks()})
    assert identity.inspect(issuer.token(clock.time)).accepted
    identity.adopt({"dev": Issuer().jwks()})
    inspection = identity.inspect(issuer.token(clock.time))
    assert (inspection.keys_of, refusing(inspection)) == ("", [9])


def test_every_step_has_a_remedy(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """Whatever step refuses, the report says what to do, with the names of this configuration."""
    steps = {finding.step for finding in door.identity.inspect(issuer.token(clock.time), mcp("x")).findings}
    assert steps == set(REMEDIES) == set(range(1, 20))
    (audience,) = (
        finding for finding in door.identity.inspect(issuer.token(clock.time, aud="x")).findings if finding.remedy
    )
    assert issuer.audience in audience.remedy


def test_inspecting_lets_nobody_in(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """An inspected token is not remembered: at the door it is verified as any other."""
    token = issuer.token(clock.time, exp=int(clock.time) + 5)
    assert door.identity.inspect(token).accepted
    clock.pass_(60)
    door.refuses(token, code="identity_expired")


ISSUER, CLOCK = Issuer(), SetClock()
DOOR = Door(ISSUER, clock=CLOCK)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.just(THUMBPRINT) | st.just(ISSUER.subject),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["sub", "act", "jkt", "iss"]), inner),
    max_leaves=5,
)
CLAIMS = ["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "act", "run", "scope", "limits", "cnf", "tctx", "txn"]
HEADER = ["alg", "typ", "kid", "crit", "jwk", "x"]


@given(
    st.dictionaries(st.sampled_from(CLAIMS), VALUES, max_size=3),
    st.dictionaries(st.sampled_from(HEADER), VALUES, max_size=2),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_one_set_of_checks(claims: dict[str, Any], header: dict[str, Any], signed: bool) -> None:  # noqa: FBT001 - drawn
    """Whatever stands in a token, the report finds something against it exactly where the door refuses it."""
    signer = ISSUER if signed else Issuer()
    token = signer.sign_bytes(
        json.dumps(ISSUER.header() | header).encode("utf-8", "surrogatepass"),
        json.dumps(ISSUER.claims(CLOCK.time) | claims).encode("utf-8", "surrogatepass"),
    )
    inspection = DOOR.identity.inspect(token)
    assert inspection.accepted is not inspection.refused
    refusal = None
    try:
        assert DOOR.admits(token) == inspection.principal
    except Refusal as raised:
        refusal = raised
    if refusal is None or refusal.code == "proof_invalid":  # the second is valid, and its bearer proves nothing
        assert inspection.accepted
    else:
        assert (refusal.detail or refusal.sentence) in {finding.found for finding in inspection.findings}
        assert inspection.refused
