"""The examples of the standards, as they are printed there: those that can count do, all others are refused.

None of the tokens was made for a gateway. So the signatures are verified apart from the claims, and of the
claims each test says what is read in them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.core.principal import Principal
from gateway.core.sources import KeptSources
from gateway.identity import Identity
from gateway.identity.jose import from_base64url
from gateway.identity.keys import JWT_SVIDS, read_jwks, thumbprint
from gateway.identity.settings import AgentSettings, IdentitySettings, IssuerSettings, KeySettings
from tests.identity.door import Door, issuer_settings
from tests.identity.jws import holds
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer

# RFC 7515 appendix A: one payload, signed in several ways. A.1 is RFC 7519 §3.1 too, and A.5 is RFC 7519 §6.1.
JOE = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
EXPIRES = 1300819380
A1 = f"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{JOE}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
A2 = (
    f"eyJhbGciOiJSUzI1NiJ9.{JOE}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W"
    "2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN"
    "9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrB"
    "p0igcN_IoypGlUPQGe77Rw"
)
A2_KEY = {
    "kty": "RSA",
    "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yR"
    "T-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXB"
    "dQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9ia"
    "GNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
    "e": "AQAB",
}
A3_SIGNATURE = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
A3 = f"eyJhbGciOiJFUzI1NiJ9.{JOE}.{A3_SIGNATURE}"
A3_KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
A4 = (
    "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_"
    "7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn"
)
A4_KEY = {
    "kty": "EC",
    "crv": "P-521",
    "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
    "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
}
NONE = "eyJhbGciOiJub25lIn0"
A5 = f"{NONE}.{JOE}."
A7 = json.dumps(
    {
        "payload": JOE,
        "protected": "eyJhbGciOiJFUzI1NiJ9",
        "header": {"kid": "e9bc097a-ce51-4036-9562-d2ade882db0d"},
        "signature": A3_SIGNATURE,
    }
)
# RFC 8037 appendix A.
ED25519 = (
    "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iyl"
    "Gjg5BhVsPt9g7sVvpAr_MuM0KAg"
)
ED25519_KEY = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}

SIGNED = {
    "RFC 7515 A.2": (A2, A2_KEY),
    "RFC 7515 A.3": (A3, A3_KEY),
    "RFC 7515 A.4": (A4, A4_KEY),
    "RFC 8037 A.4": (ED25519, ED25519_KEY),
}
HOUR = 3600


@pytest.mark.parametrize("example", SIGNED)
def test_a_signature_that_is_printed_holds_with_its_key_alone(example: str) -> None:
    """I3: each example verifies with its key, with the key said for its algorithm, and with no other example's."""
    token, key = SIGNED[example]
    alg = json.loads(from_base64url(token.split(".")[0]))["alg"]
    assert holds(token, key)
    assert holds(token, {**key, "alg": alg, "use": "sig", "key_ops": ["verify"]})
    assert not any(holds(token, other) for other in (A2_KEY, A3_KEY, A4_KEY, ED25519_KEY) if other is not key)
    assert not holds(token, {**key, "use": "enc"})
    assert not holds(token, {**key, "key_ops": ["sign"]})


@pytest.mark.parametrize("example", SIGNED)
def test_a_signature_that_is_printed_holds_for_its_very_bytes(example: str) -> None:
    """I1: with any one character of header, payload or signature changed, cut off or doubled nothing holds."""
    token, key = SIGNED[example]
    for at in range(0, len(token), 7):
        assert not holds(token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :], key)
        assert not holds(token[:at] + token[at + 1 :], key)
        assert not holds(token[:at] + token[at] + token[at:], key)
    head, payload, _ = token.split(".")
    assert not holds(f"{head}.{payload}.", key)
    assert not holds(f"{NONE}.{payload}.", key)


def joe(key: dict[str, str], *, now: float) -> Identity:
    """A gateway that knows the issuer `joe` of RFC 7515 by this key, at that time."""
    file = Path("joe.json")
    issuer = IssuerSettings(name="joe", iss="joe", algs=("RS256", "ES256"), typ=("JWT",), keys=KeySettings(file=file))
    return Identity.build(
        IdentitySettings(audience="https://gateway.example", issuers=(issuer,)),
        [AgentSettings(id="joe", issuer="joe", subject="joe")],
        KeptSources({str(file): json.dumps({"keys": [key]}).encode()}, {}, {}),
        SetClock(now),
        None,
    )


@pytest.mark.parametrize(("token", "key"), [(A2, A2_KEY), (A3, A3_KEY)], ids=["A.2", "A.3"])
def test_a_good_signature_is_not_enough(token: str, key: dict[str, str]) -> None:
    """I7: the tokens of RFC 7515 pass the steps up to the signature, and are refused for what they do not say."""
    inspection = joe(key, now=EXPIRES - HOUR).inspect(token)
    assert inspection.passed(1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 13)
    assert {finding.what for finding in inspection.findings if finding.outcome == "refused"} == {"typ", "aud"}
    late = joe(key, now=EXPIRES + HOUR).inspect(token)
    assert {finding.what for finding in late.findings if finding.outcome == "refused"} == {"typ", "aud", "expiry"}


@pytest.mark.parametrize(("token", "alg"), [(A1, "HS256"), (A5, "none")], ids=["RFC 7519 §3.1", "RFC 7519 §6.1"])
def test_a_mac_and_no_signature_are_refused_for_that(token: str, alg: str) -> None:
    """I1: the first example of RFC 7519 is a MAC and the last one unsigned; both are refused for their `alg`."""
    inspection = joe(A3_KEY, now=EXPIRES - HOUR).inspect(token)
    (refusal,) = [finding for finding in inspection.findings if finding.step == 7]
    assert refusal.outcome == "refused"
    assert refusal.found == f"alg {alg!r} is not accepted from issuer joe"
    assert not holds(token, A2_KEY, A3_KEY)


def test_other_serialisations_are_no_tokens(clock: SetClock) -> None:
    """I6: the JSON form of RFC 7515 appendix A.7, with a good signature in it, is not read."""
    door = Door(Issuer(), clock=clock)
    assert "three canonical base64url segments" in (door.refuses(A7).detail or "")
    assert not holds(A7, A3_KEY)


@pytest.mark.parametrize(
    ("key", "name"),
    [(ED25519_KEY, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")],
    ids=["RFC 8037 A.3"],
)
def test_thumbprints(key: dict[str, str], name: str) -> None:
    """A key's own name is that of the standard, whatever else the JWK says (RFC 7638 §3)."""
    assert thumbprint({**key, "kid": "x", "use": "sig", "alg": "EdDSA"}) == name
    found = read_jwks(json.dumps({"keys": [key]}).encode()).find(None, "EdDSA")
    assert found is not None
    assert found.id == name


ISSUER_8693 = Issuer(name="sts", iss="https://issuer.example.com", kid="16")
FIGURE_5 = {
    "aud": "https://consumer.example.com",
    "iss": "https://issuer.example.com",
    "exp": 1443904177,
    "nbf": 1443904077,
    "sub": "user@example.com",
    "act": {"sub": "admin@example.com"},
}
FIGURE_6 = {
    "aud": "https://service26.example.com",
    "iss": "https://issuer.example.com",
    "exp": 1443904100,
    "nbf": 1443904000,
    "sub": "user@example.com",
    "act": {"sub": "https://service16.example.com", "act": {"sub": "https://service77.example.com"}},
}


def read_claims(claims: dict[str, Any], *subjects: str) -> Principal:
    """Who it is, by these claims, where these subjects are registered."""
    agents = [AgentSettings(id=f"agent-{n}", issuer="sts", subject=subject) for n, subject in enumerate(subjects)]
    door = Door(ISSUER_8693, clock=SetClock(claims["nbf"] + 1.0), agents=agents, audience=claims["aud"])
    return door.admits(ISSUER_8693.sign(ISSUER_8693.header(), claims))


def test_the_actor_of_rfc_8693() -> None:
    """RFC 8693 §4.1, figure 5: admin acts, for the user."""
    principal = read_claims(FIGURE_5, "user@example.com", "admin@example.com")
    assert (principal.agent.id, principal.subject) == ("agent-1", "admin@example.com")
    assert (principal.on_behalf_of, principal.chain) == ("user@example.com", ())


def test_the_chain_of_rfc_8693() -> None:
    """I18: RFC 8693 §4.1, figure 6: the outermost actor is who acts; the one within is history and nothing else."""
    principal = read_claims(FIGURE_6, "https://service77.example.com", "https://service16.example.com")
    assert (principal.agent.id, principal.subject) == ("agent-1", "https://service16.example.com")
    assert (principal.on_behalf_of, principal.chain) == ("user@example.com", ("https://service77.example.com",))


def test_the_access_token_of_rfc_9068() -> None:
    """RFC 9068 §2.2: its example is a token of its kind, its `typ` in whatever case; scopes are read."""
    iss = "https://authorization-server.example.com/"
    issuer = Issuer(name="as", iss=iss, alg="RS256", kid="RjEwOwOA", kind="at+jwt")
    claims = {
        "iss": iss,
        "sub": "5ba552d67",
        "aud": "https://rs.example.com/",
        "exp": 1639528912,
        "iat": 1618354090,
        "jti": "dbe39bf3a3ba4238a513f51d6e1691c4",
        "client_id": "s6BhdRkqt3",
        "scope": "openid profile reademail",
    }
    door = Door(
        issuer,
        clock=SetClock(1618354091.0),
        settings=[issuer_settings(issuer, max_lifetime=366 * 86_400.0)],
        agents=[AgentSettings(id="client", issuer="as", claims={"client_id": "s6BhdRkqt3"})],
        audience="https://rs.example.com/",
    )
    principal = door.admits(issuer.sign({"typ": "at+JWT", "alg": "RS256", "kid": "RjEwOwOA"}, claims))
    assert (principal.agent.id, principal.subject, principal.key_id) == ("client", "5ba552d67", "RjEwOwOA")
    assert principal.scope == frozenset({"openid", "profile", "reademail"})
    assert principal.token_id == "dbe39bf3a3ba4238a513f51d6e1691c4"


WORKLOAD = "spiffe://example.org/myservice"


@pytest.mark.parametrize("typ", ["JWT", "JOSE", ...])
@pytest.mark.parametrize("audience", ["reports", "spiffe://example.org/reports"])
def test_the_shapes_of_a_jwt_svid(typ: object, audience: str) -> None:
    """JWT-SVID §2.3 and §3.2: `typ` is JWT, JOSE or absent, and the audiences that it suggests are audiences."""
    issuer = Issuer(alg="ES256", kind="jwt-svid", subject=WORKLOAD, audience=audience)
    settings = [issuer_settings(issuer, trust_domain="example.org")]
    clock = SetClock()
    door = Door(issuer, clock=clock, settings=settings, audience=audience)
    for aud in (audience, [audience]):
        claims = issuer.claims(clock.time, aud=aud, iss=..., jti=..., iat=...)
        assert door.admits(issuer.sign(issuer.header(typ=typ), claims)).subject == WORKLOAD
    several = issuer.claims(clock.time, aud=[audience, "spiffe://example.org/other"])
    door.refuses(issuer.sign(issuer.header(typ=typ), several))
    door.refuses(issuer.sign(issuer.header(typ=typ, x5t="x"), issuer.claims(clock.time)))


def test_the_bundle_of_the_spiffe_standard() -> None:
    """Trust Domain and Bundle, appendix A: sequence and hint are read, and X.509 roots verify no JWT-SVID."""
    root = {**A2_KEY, "use": "x509-svid", "x5c": ["<base64 DER encoding of Certificate #1>"]}
    bundle = {"spiffe_sequence": 1, "spiffe_refresh_hint": 2419200, "keys": [root]}
    keys = read_jwks(json.dumps(bundle).encode(), JWT_SVIDS)
    assert (len(keys), keys.sequence, keys.refresh_hint) == (0, 1, 2419200)
    signing = {**A3_KEY, "use": "jwt-svid", "kid": "1"}
    assert len(read_jwks(json.dumps({**bundle, "keys": [root, signing]}).encode(), JWT_SVIDS)) == 1
