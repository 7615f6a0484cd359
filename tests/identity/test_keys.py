"""Key files are read strictly: what half fits is a mistake, what does not concern us is left alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.sources import KeptSources
from gateway.identity import Identity, IdentityMistakes
from gateway.identity.keys import (
    JWT_SVIDS,
    SIGNATURES,
    KeyMistakes,
    KeySet,
    PublicKey,
    key_uses,
    read_jwks,
    thumbprint,
)
from gateway.identity.settings import IdentitySettings
from tests.identity.door import issuer_settings
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer, b64, new_private_key, number

ED, EC = Issuer(kid="ed").jwk(), Issuer(kid="ec", alg="ES256").jwk()


@pytest.fixture(scope="module")
def rsa() -> dict[str, str]:
    return Issuer(kid="rsa", alg="RS256").jwk()


def read(*keys: object) -> KeySet:
    """A set of these keys."""
    return read_jwks(json.dumps({"keys": keys}).encode())


def mistakes(*keys: object) -> str:
    """All that is wrong with a set of these keys."""
    with pytest.raises(KeyMistakes) as caught:
        read(*keys)
    return str(caught.value)


def without(jwk: Mapping[str, object], *names: str, **changes: object) -> dict[str, object]:
    """A key with members left out and changed."""
    return {name: value for name, value in {**jwk, **changes}.items() if name not in names}


def found(keys: KeySet, kid: str | None, alg: str) -> PublicKey:
    """The key that must be there."""
    key = keys.find(kid, alg)
    assert key is not None
    return key


def test_a_set_of_three(rsa: dict[str, str]) -> None:
    """Each key verifies what its type and its `alg` are made for, and nothing else (I3)."""
    keys = read(ED, EC, rsa)
    assert [found(keys, kid, alg).id for kid, alg in (("ed", "EdDSA"), ("ec", "ES256"), ("rsa", "RS256"))] == [
        "ed",
        "ec",
        "rsa",
    ]
    for kid, alg in (
        ("ed", "ES256"),
        ("ec", "ES384"),
        ("rsa", "PS256"),
        ("rsa", "RS512"),
        ("ec", "HS256"),
        ("x", "EdDSA"),
    ):
        assert keys.find(kid, alg) is None


def test_key_without_alg(rsa: dict[str, str]) -> None:
    """I3: a key that names no `alg` is bound by its type and curve."""
    keys = read(without(ED, "alg"), without(EC, "alg"), without(rsa, "alg"))
    assert found(keys, "ed", "EdDSA").algs == frozenset({"EdDSA"})
    assert found(keys, "ec", "ES256").algs == frozenset({"ES256"})
    assert found(keys, "rsa", "PS384").algs == frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})


def test_token_without_kid(rsa: dict[str, str]) -> None:
    """A token without `kid` is verified only where one key fits its `alg`: nothing is tried out."""
    second = Issuer(kid="ed-2").jwk()
    keys = read(ED, EC, rsa)
    assert found(keys, None, "ES256").id == "ec"
    assert read(ED, second).find(None, "EdDSA") is None
    assert keys.find(None, "ES384") is None
    nameless = read(without(ED, "kid"))
    assert found(nameless, None, "EdDSA").id == thumbprint(ED)
    assert nameless.find("", "EdDSA") is None
    assert nameless.find(thumbprint(ED), "EdDSA") is None


def test_keys_that_do_not_concern_us(rsa: dict[str, str]) -> None:
    """Unknown types, curves, algorithms and uses are left alone (RFC 7517 §5), also under a `kid` that is in use."""
    strangers: list[Any] = [
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "x", "kid": "ed"},
        without(ED, crv="X25519"),
        without(ED, crv=["Ed25519"]),
        without(EC, crv="secp256k1", alg="ES256K"),
        without(rsa, use="enc"),
        without(rsa, use="jwt-svid"),
        without(rsa, alg="RSA-OAEP-256"),
        without(ED, key_ops=["sign"]),
        without(ED, key_ops="verify"),
    ]
    assert len(read(*strangers)) == 0
    assert len(read(*strangers, ED)) == 1
    assert len(read(without(ED, "use", key_ops=["verify"], extra=1))) == 1
    assert len(read()) == 0


def test_private_members_are_named_and_never_shown(rsa: dict[str, str]) -> None:
    """S02: a private key in a public file is a mistake that says so, without the key."""
    secret = "c2VjcmV0LXZhbHVl"
    for jwk in (ED, EC, rsa):
        said = mistakes(without(jwk, d=secret))
        assert "private members (d)" in said
        assert secret not in said
    said = mistakes({"kty": "oct", "k": secret, "kid": "shared"}, without(rsa, p=secret, q=secret))
    assert "keys[0]: holds private members (k)" in said
    assert "keys[1]: holds private members (p, q)" in said
    assert secret not in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": ...}, "x is missing"),
        ({"x": ""}, "x is missing"),
        ({"x": 1}, "x is missing"),
        ({"x": "AA"}, "keys[0]: is not a usable"),
        ({"x": ED["x"] + "="}, "x is not canonical base64url"),
        ({"kid": ""}, "keys[0].kid"),
        ({"kid": 1}, "keys[0].kid"),
        ({"kid": None}, "keys[0].kid"),
        ({"kid": "x" * 257}, "keys[0].kid"),
        ({"kty": ...}, "keys[0].kty"),
        ({"kty": 1}, "keys[0].kty"),
        ({"alg": "ES256"}, "keys[0].alg"),
        ({"alg": "RS256"}, "keys[0].alg"),
        ({"alg": None}, "keys[0].alg"),
        ({"alg": ["EdDSA"]}, "keys[0].alg"),
    ],
)
def test_a_key_that_half_fits(change: dict[str, object], said: str) -> None:
    """I3: a key with a missing, foreign or contradictory member refuses the whole file and says where."""
    left_out = [name for name, value in change.items() if value is ...]
    assert said in mistakes(without(ED, *left_out, **change))


def test_points_and_numbers_that_are_none(rsa: dict[str, str]) -> None:
    """A point off its curve, coordinates of another length and short RSA keys are mistakes."""
    zero = b64(bytes(31) + b"\x01")
    assert "keys[0]: is not a usable EC key" in mistakes(without(EC, x=zero))
    assert "32 bytes" in mistakes(without(EC, y=b64(bytes(33))))
    big = ec.generate_private_key(ec.SECP384R1()).public_key().public_numbers()
    assert "32 bytes" in mistakes(without(EC, x=b64(big.x.to_bytes(48)), y=b64(big.y.to_bytes(48))))
    short: Any = new_private_key("RS256", 1024)
    assert "1024 bits" in mistakes(without(rsa, n=number(short.public_key().public_numbers().n)))
    assert "16384 bits" in mistakes(without(rsa, n=number((1 << 16383) | 1)))
    assert "not a usable RSA key" in mistakes(without(rsa, e=number(1)))


def test_all_mistakes_at_once() -> None:
    """A file's mistakes are listed together, and a `kid` that stands twice is one of them."""
    said = mistakes(ED, without(ED, "kid"), ED, {}, 5, without(EC, alg="ES384"))
    assert said.count("keys[") == 4
    assert "keys[2].kid: 'ed' names an earlier key too" in said


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": null}', b"-----BEGIN PUBLIC KEY-----", b"\xff", b"[" * 9000],
    ids=range(8),
)
def test_what_is_no_set(data: bytes) -> None:
    """What is not a JWK set is a mistake, never an empty set."""
    with pytest.raises(KeyMistakes):
        read_jwks(data)


def test_duplicate_members() -> None:
    """I6: a key file in which a member stands twice is refused."""
    key = json.dumps(ED)
    for data in (f'{{"keys": [{key}], "keys": []}}', f'{{"keys": [{key[:-1]}, "kid": "x"}}]}}'):
        with pytest.raises(KeyMistakes, match="duplicate"):
            read_jwks(data.encode())


def test_too_many_keys() -> None:
    """A file of more keys than anybody needs is refused before they are read."""
    assert "more than 1000" in mistakes(*[{}] * 1001)


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["keys", "kty", "crv", "x", "y", "n", "e", "kid", "alg", "use", "key_ops", "d"]), inner
            )
        ),
    ).map(lambda value: json.dumps({"keys": [value]}).encode())
)
def test_any_file(data: bytes) -> None:
    """Whatever stands in a key file, reading it gives keys or a list of mistakes."""
    for uses in (SIGNATURES, JWT_SVIDS):
        with suppress(KeyMistakes):
            assert len(read_jwks(data, uses)) == 0


# -- SPIFFE bundles (SPIFFE Trust Domain and Bundle §4)

SVID = without(EC, use="jwt-svid", kid="svid")
X509 = without(EC, "kid", "alg", use="x509-svid", x5c=["MIIB"])


def bundle(*keys: object, **members: object) -> KeySet:
    """What a verifier of JWT-SVIDs reads in a bundle of these keys."""
    return read_jwks(json.dumps({"keys": keys, **members}).encode(), JWT_SVIDS)


def test_keys_of_a_bundle(rsa: dict[str, str]) -> None:
    """I3: JWT-SVIDs are verified with `jwt-svid` keys alone; others of the bundle and unknown ones are left alone."""
    keys = bundle(X509, SVID, without(rsa, "use"), ED, without(rsa, use="wit-svid"), {"kty": "AKP", "use": "jwt-svid"})
    assert len(keys) == 1
    assert found(keys, "svid", "ES256").kid == "svid"
    assert len(bundle()) == 0
    both = read_jwks(json.dumps({"keys": [SVID, ED, X509]}).encode(), SIGNATURES | JWT_SVIDS)
    assert [both.find(kid, alg) is not None for kid, alg in (("svid", "ES256"), ("ed", "EdDSA"))] == [True, True]
    assert len(both) == 2


def test_a_key_of_a_bundle_has_a_name() -> None:
    """A `jwt-svid` key without `kid` refuses the bundle; an X.509 authority needs none."""
    for nameless in (without(SVID, "kid"), SVID | {"kid": ""}, SVID | {"kid": None}):
        with pytest.raises(KeyMistakes, match=r"keys\[1\]\.kid"):
            bundle(X509, nameless)


def test_numbers_of_a_bundle() -> None:
    """A bundle's sequence and refresh hint are whole numbers or not there."""
    keys = bundle(SVID, spiffe_sequence=12, spiffe_refresh_hint=300)
    assert (keys.sequence, keys.refresh_hint) == (12, 300)
    assert (bundle(SVID).sequence, bundle(SVID).refresh_hint) == (None, None)
    for odd in (-1, 1.5, "12", True, None, [1]):
        for name in ("spiffe_sequence", "spiffe_refresh_hint"):
            with pytest.raises(KeyMistakes, match=f"{name}: is not a whole number"):
                bundle(SVID, **{name: odd})


@pytest.mark.parametrize(
    ("kinds", "uses"),
    [
        (["jwt"], {"sig"}),
        (["at+jwt", "txn-token"], {"sig"}),
        (["k8s"], {"sig"}),
        (["jwt-svid"], {"jwt-svid"}),
        (["jwt-svid", "x509-svid"], {"jwt-svid"}),
        (["jwt-svid", "at+jwt"], {"jwt-svid", "sig"}),
        (["x509-svid"], set()),
    ],
    ids=str,
)
def test_whose_keys_count(kinds: list[str], uses: set[str]) -> None:
    """Which keys of a set an issuer signs with follows from the kinds of credential that it gives out."""
    assert key_uses(kinds) == uses


def test_the_same_key_in_two_readings(rsa: dict[str, str]) -> None:
    """I22: a key is the same where name, numbers and algorithms are; whatever differs makes it another one."""
    key = found(read(ED, rsa), "rsa", "RS256")
    assert key in read(rsa)
    assert key in read(ED, rsa | {"use": "sig", "x5t": "anything"})
    other = Issuer(kid="rsa", alg="RS256").jwk()
    for changed in (rsa | {"kid": "rsa-2"}, without(rsa, "alg"), without(rsa, "kid"), rsa | {"n": other["n"]}, ED):
        assert key not in read(changed)


def test_thumbprint() -> None:
    """A key without a name is called by its RFC 7638 thumbprint; this is the example of §3.1."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs"
        "tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn"
        "1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    assert thumbprint({"kty": "RSA", "n": n, "e": "AQAB"}) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_key_files_at_start(issuer: Issuer) -> None:
    """A missing and a broken key file are both reported, each with the file and the remedy."""
    settings = IdentitySettings(
        audience="a", issuers=tuple(issuer_settings(Issuer(name=name, iss=name)) for name in ("one", "two", "three"))
    )
    files = {"keys/one.json": b'{"keys": [{}]}', "keys/three.json": issuer.jwks()}
    with pytest.raises(IdentityMistakes) as caught:
        Identity.build(settings, [], KeptSources(files, {}, {}), SetClock(), None)
    first, second = caught.value.complaints
    assert (Path(first.file), first.path) == (Path("keys/one.json"), "keys[0].kty")
    assert Path(second.file) == Path("keys/two.json")
    assert "passgate keys new --issuer two" in second.remedy
