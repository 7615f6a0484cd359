"""The vectors of Project Wycheproof for JSON Web Signatures, JSON Web Keys and the signatures under them.

What is valid there verifies here and nothing else does; the exceptions are named one by one.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from gateway.core.errors import Refusal
from gateway.identity.algorithms import ALGORITHMS
from gateway.identity.jose import from_base64url
from gateway.identity.keys import KeyMistakes
from gateway.identity.roca import has_roca_flaw
from tests.identity.door import Door
from tests.identity.jws import holds, public_key, vectors, verifies
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer, b64

SIGNATURES = vectors("json_web_signature_test.json")
KEYS = vectors("json_web_key_test.json")

# Their key names another `alg` than the token: PS256 beside PS384, and ES521, which does not exist. A key is used with
# its own `alg` alone (RFC 7517 §4.4). Without that member, as RFC 7520 has the keys, the tokens verify.
OTHER_ALG = {346, 347, 350, 351}
EC_FILES = {
    "ES256": ("ecdsa_secp256r1_sha256_p1363_test.json", "P-256", 32),
    "ES384": ("ecdsa_secp384r1_sha384_p1363_test.json", "P-384", 48),
    "ES512": ("ecdsa_secp521r1_sha512_p1363_test.json", "P-521", 66),
}


def keys_of(group: dict[str, Any]) -> list[dict[str, Any]]:
    """The keys that verify; those of a MAC are given as private ones alone."""
    given = group.get("public") or group["private"]
    keys: list[dict[str, Any]] = given.get("keys", [given])
    return keys


def is_mac(group: dict[str, Any]) -> bool:
    """Whether all its keys are shared secrets."""
    return all(key["kty"] == "oct" for key in keys_of(group))


def test_signatures() -> None:
    """I2: of 401 JWSs those with a good signature of the key verify; a MAC never does, whoever made it."""
    wrong, seen = [], Counter[str]()
    for group in SIGNATURES:
        for test in group["tests"]:
            mac = is_mac(group)
            expected = test["result"] == "valid" and not mac and test["tcId"] not in OTHER_ALG
            seen["MAC" if mac else test["result"]] += 1
            if holds(test["jws"], *keys_of(group)) is not expected:
                wrong.append((test["tcId"], test["comment"]))
    assert wrong == []
    assert seen == {"valid": 36, "invalid": 325, "MAC": 40}


def test_a_key_is_used_with_its_own_algorithm_alone() -> None:
    """I3: RFC 7520's own examples verify once the key does not name another algorithm than the token."""
    groups = [group for group in SIGNATURES if group["tests"][0]["tcId"] in OTHER_ALG]
    assert len(groups) == len(OTHER_ALG)
    for group in groups:
        (test,), (key,) = group["tests"], keys_of(group)
        assert not holds(test["jws"], key)
        assert holds(test["jws"], {name: value for name, value in key.items() if name != "alg"})


def test_keys() -> None:
    """I3: of 26 key sets with a token the sound one verifies it; a mixed, weak or mislabelled one never does."""
    wrong, seen = [], Counter[str]()
    for group in KEYS:
        (keys, mac) = keys_of(group), is_mac(group)
        for test in group["tests"]:
            seen["MAC" if mac else test["result"]] += 1
            if holds(test["jws"], *keys) is not (test["result"] == "valid" and not mac):
                wrong.append((test["tcId"], group["comment"], test["comment"]))
    assert wrong == []
    assert seen == {"valid": 1, "invalid": 11, "MAC": 14}


def test_a_key_of_the_flawed_generator_is_refused() -> None:
    """A key that anybody can factor (CVE-2017-15361) is no key, and the mistake says why; others are not taken."""
    (flawed,) = [keys_of(group)[0] for group in KEYS if group["comment"] == "jws_rsa_roca_key"]
    with pytest.raises(KeyMistakes, match="CVE-2017-15361"):
        public_key("RS256", flawed)
    sound = [key for group in SIGNATURES for key in keys_of(group) if key["kty"] == "RSA" and "use" in key]
    moduli = {int.from_bytes(from_base64url(key["n"])) for key in sound}
    assert len(moduli) >= 4
    assert not any(map(has_roca_flaw, moduli))


def test_whatever_is_presented_is_refused_and_nothing_breaks(clock: SetClock) -> None:
    """I6: each of the tokens, at the door of a gateway that knows another issuer, is a refusal and no failure."""
    door = Door(Issuer(), clock=clock)
    for group in SIGNATURES + KEYS:
        for test in group["tests"]:
            with pytest.raises(Refusal):
                door.admits(test["jws"])


def test_ed25519() -> None:
    """Ed25519 signatures, malleable, truncated and with points of small order among them."""
    wrong, seen = [], Counter[str]()
    for group in vectors("ed25519_test.json"):
        key = public_key("EdDSA", group["publicKeyJwk"])
        for test in group["tests"]:
            seen[test["result"]] += 1
            if verified("EdDSA", key, test) is not (test["result"] == "valid"):
                wrong.append((test["tcId"], test["comment"]))
    assert wrong == []
    assert seen == {"valid": 88, "invalid": 63}


@pytest.mark.parametrize("alg", EC_FILES)
def test_ecdsa(alg: str) -> None:
    """ECDSA signatures as JWS writes them: too long, too short, zero, out of range, another form of encoding."""
    file, curve, size = EC_FILES[alg]
    wrong, seen = [], Counter[str]()
    for group in vectors(file):
        x, y = (b64(int(group["publicKey"][name], 16).to_bytes(size)) for name in ("wx", "wy"))
        key = public_key(alg, {"kty": "EC", "crv": curve, "x": x, "y": y})
        for test in group["tests"]:
            seen[test["result"]] += 1
            if verified(alg, key, test) is not (test["result"] == "valid"):
                wrong.append((test["tcId"], test["comment"]))
    assert wrong == []
    assert seen["valid"] == 9
    assert seen["invalid"] >= 87


def test_every_algorithm_meets_a_vector() -> None:
    """No algorithm is accepted that has no published signature here."""
    named = {group["comment"].upper() for group in SIGNATURES}
    assert ALGORITHMS.keys() - EC_FILES.keys() - {"EdDSA"} <= named


def verified(alg: str, key: Any, test: dict[str, Any]) -> bool:  # noqa: ANN401 - a key of any type
    """Whether the signature of a vector holds."""
    return verifies(alg, bytes.fromhex(test["msg"]), key, bytes.fromhex(test["sig"]))
