"""Public keys of an issuer, read strictly from a JWK set (RFC 7517).

Ignored, as RFC 7517 §5 asks, are keys that cannot concern us: another `kty`, curve, `alg` or
`use`, `key_ops` without `verify`. Everything else that is odd is a mistake and the whole file is
refused: a key that half fits is how a wrong one gets trusted. A set without keys is valid and
means that nobody is known: that is how an issuer revokes all of them.

A SPIFFE bundle is such a set too, with keys of another `use`, a sequence number and a hint when to
fetch it again (SPIFFE Trust Domain and Bundle §4).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.identity.algorithms import ALGORITHMS, CURVES, algorithms_for
from gateway.identity.jose import base64url, from_base64url, from_json
from gateway.identity.roca import has_roca_flaw

MAX_KEYS: Final = 1000
MAX_KID: Final = 256
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192  # a longer one buys nothing and makes every verification slow
MAX_RSA_EXPONENT_BITS: Final = 64  # it is 65537 nearly everywhere; a long one makes verifying as slow as signing

SIGNATURES: Final = frozenset({"sig"})
"""The `use` of keys that verify JWTs (RFC 7517 §4.2); a key that names none counts as one of them."""
JWT_SVIDS: Final = frozenset({"jwt-svid"})
"""The `use` of keys that verify JWT-SVIDs; here a key must name it (SPIFFE Trust Domain and Bundle §4.2.2)."""

_PRIVATE: Final = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")  # RFC 7518 §6.2.2, §6.3.2, §6.4.1
_THUMBPRINT: Final = {"OKP": ("crv", "kty", "x"), "EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}

AnyPublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class KeyMistake(NamedTuple):
    """One thing that is wrong in a key file: where (a path into the JSON), what, and what to do."""

    path: str
    problem: str
    remedy: str


class KeyMistakes(Exception):
    """A key file cannot be used; `mistakes` lists everything that is wrong with it."""

    def __init__(self, mistakes: Sequence[KeyMistake]) -> None:
        super().__init__("; ".join(f"{path}: {problem}" for path, problem, _ in mistakes))
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key that may verify tokens of its issuer, for exactly these algorithms."""

    kid: str  # empty: the file gives it none
    thumbprint: str  # RFC 7638
    algs: frozenset[str]
    key: AnyPublicKey

    @property
    def id(self) -> str:
        """What logs and the ledger call this key."""
        return self.kid or self.thumbprint

    @property
    def identity(self) -> tuple[str, str, frozenset[str]]:
        """What makes it the same key in another reading of its set: no name for another key, no key for another use."""
        return self.kid, self.thumbprint, self.algs


class KeySet:
    """The keys of one issuer, found by what a token's header says. It never changes; another takes its place."""

    def __init__(
        self, keys: Sequence[PublicKey], *, sequence: int | None = None, refresh_hint: float | None = None
    ) -> None:
        """`sequence` and `refresh_hint` (seconds) are a SPIFFE bundle's, `None` where it says nothing."""
        self.sequence = sequence
        self.refresh_hint = refresh_hint
        self.thumbprints = frozenset(key.thumbprint for key in keys)
        self._all = tuple(keys)
        self._by_kid = {key.kid: key for key in keys if key.kid}
        self._identities = frozenset(key.identity for key in keys)

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, key: PublicKey) -> bool:
        """Whether this very key is in it, whichever reading it comes from."""
        return key.identity in self._identities

    def fits(self, algs: frozenset[str]) -> bool:
        """Whether any key of it can verify one of these algorithms."""
        return any(not algs.isdisjoint(key.algs) for key in self._all)

    def find(self, kid: str | None, alg: str) -> PublicKey | None:
        """The one key that may have signed: the named one, or the only one that fits the algorithm."""
        if kid is not None:
            key = self._by_kid.get(kid)
            return key if key is not None and alg in key.algs else None
        fitting = [key for key in self._all if alg in key.algs]
        return fitting[0] if len(fitting) == 1 else None


def key_uses(kinds: Collection[str]) -> frozenset[str]:
    """Which keys of its set an issuer of these kinds of credential signs with, for `read_jwks`."""
    svids = JWT_SVIDS if "jwt-svid" in kinds else frozenset()
    return svids | (SIGNATURES if set(kinds) - {"jwt-svid", "x509-svid"} else frozenset())


def read_jwks(data: bytes, uses: frozenset[str] = SIGNATURES) -> KeySet:
    """Read the keys of these uses from a JWK set or SPIFFE bundle.

    Raises `KeyMistakes` with all of its mistakes and never repeats a private value.
    """
    try:
        whole = from_json(data)
    except ValueError as error:
        raise KeyMistakes([KeyMistake("", f"cannot be read: it {error}", "write a JWK set")]) from None
    entries = whole.get("keys")
    if not isinstance(entries, list):
        raise KeyMistakes([KeyMistake("keys", "a JWK set needs a list of keys", 'write {"keys": [...]}')])
    if len(entries) > MAX_KEYS:
        raise KeyMistakes([KeyMistake("keys", f"more than {MAX_KEYS} keys", "remove those that are not in use")])
    keys: list[PublicKey] = []
    mistakes: list[KeyMistake] = []
    for number, entry in enumerate(entries):
        path = f"keys[{number}]"
        try:
            key = _read_key(entry, path, uses)
        except KeyMistakes as found:
            mistakes += found.mistakes
            continue
        if key is None:
            continue
        if key.kid and any(key.kid == other.kid for other in keys):
            mistakes.append(KeyMistake(f"{path}.kid", f"{key.kid!r} names an earlier key too", "give each its own kid"))
        keys.append(key)
    sequence, hint = (_number(whole, name, mistakes) for name in ("spiffe_sequence", "spiffe_refresh_hint"))
    if mistakes:
        raise KeyMistakes(mistakes)
    return KeySet(keys, sequence=sequence, refresh_hint=hint)


def read_jwk(entry: object, alg: str) -> PublicKey:
    """Read a key that came alone, to verify with this `alg`; raises `KeyMistakes`."""
    key = _read_key(entry, "jwk", SIGNATURES)
    if key is None or alg not in key.algs:
        raise _mistake("jwk", f"is no key to verify {alg} with", "sign with the key that it is")
    return key


def _number(bundle: Mapping[str, object], name: str, mistakes: list[KeyMistake]) -> int | None:
    """A member that only SPIFFE bundles have (SPIFFE Trust Domain and Bundle §4.1.1, §4.1.2)."""
    value = bundle.get(name)
    if type(value) is int and value >= 0:  # a bool is an int to isinstance
        return value
    if name in bundle:
        mistakes.append(KeyMistake(name, "is not a whole number", "export the bundle again from its trust domain"))
    return None


def _read_key(entry: object, path: str, uses: frozenset[str]) -> PublicKey | None:
    """One entry of a set; `None` where it does not concern us."""
    if not isinstance(entry, dict):
        raise _mistake(path, "a key must be a JSON object", "write a JWK")
    if private := [name for name in _PRIVATE if name in entry]:
        problem = f"holds private members ({', '.join(private)})"
        raise _mistake(path, problem, "keep only the public ones here, and replace the key: others may have read it")
    kty, crv, kid = entry.get("kty"), entry.get("crv", ""), entry.get("kid", "")
    if not isinstance(kty, str):
        raise _mistake(f"{path}.kty", "every key names its type", "add kty: OKP, EC or RSA")
    algs = _algs(entry, kty, crv, path, uses)
    if not algs:
        return None
    if entry.get("use") in JWT_SVIDS and not kid:
        raise _mistake(f"{path}.kid", "every jwt-svid key has a kid", "export the bundle again from its trust domain")
    if not isinstance(kid, str) or len(kid) > MAX_KID or ("kid" in entry and not kid):
        raise _mistake(f"{path}.kid", f"must be a string of 1 to {MAX_KID} characters", "correct kid or remove it")
    try:
        public = _public_key(entry, kty, crv)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _mistake(path, f"is not a usable {kty} key: {error}", "export it again from its issuer") from None
    return PublicKey(kid, thumbprint(entry), algs, public)


def _algs(entry: Mapping[str, object], kty: str, crv: object, path: str, uses: frozenset[str]) -> frozenset[str]:
    """What the key may verify; empty where that is nothing that we know, or want here."""
    operations = entry.get("key_ops", ["verify"])
    use = entry.get("use", "sig")
    if not isinstance(use, str) or use not in uses or not isinstance(operations, list) or "verify" not in operations:
        return frozenset()
    algs = algorithms_for(kty, crv)
    if "alg" not in entry or not algs:
        return algs
    alg = entry["alg"]
    if not isinstance(alg, str) or (alg in ALGORITHMS and alg not in algs):
        raise _mistake(
            f"{path}.alg",
            f"does not go with kty {kty}" + (f" and crv {crv}" if crv else ""),
            "correct alg or remove it",
        )
    return algs & {alg}


def _mistake(path: str, problem: str, remedy: str) -> KeyMistakes:
    return KeyMistakes([KeyMistake(path, problem, remedy)])


def _public_key(jwk: Mapping[str, object], kty: str, crv: str) -> AnyPublicKey:
    """The key itself; raises `ValueError` where the numbers are none (RFC 7518 §6.2, §6.3; RFC 8037 §2)."""
    if kty == "OKP":
        return ed25519.Ed25519PublicKey.from_public_bytes(_octets(jwk, "x"))
    if kty == "EC":
        curve = CURVES[crv]()
        size = (curve.key_size + 7) // 8
        x, y = _octets(jwk, "x"), _octets(jwk, "y")
        if len(x) != size or len(y) != size:
            raise ValueError(f"x and y must be {size} bytes long")
        return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), curve).public_key()
    n, e = int.from_bytes(_octets(jwk, "n")), int.from_bytes(_octets(jwk, "e"))
    if not MIN_RSA_BITS <= n.bit_length() <= MAX_RSA_BITS:
        raise ValueError(f"{n.bit_length()} bits, where {MIN_RSA_BITS} to {MAX_RSA_BITS} are accepted")
    if e.bit_length() > MAX_RSA_EXPONENT_BITS:
        raise ValueError(f"an exponent of {e.bit_length()} bits, where {MAX_RSA_EXPONENT_BITS} are accepted")
    if has_roca_flaw(n):
        raise ValueError("it was made by a flawed generator (CVE-2017-15361), and others can sign with it")
    return rsa.RSAPublicNumbers(e, n).public_key()


def _octets(jwk: Mapping[str, object], member: str) -> bytes:
    value = jwk.get(member)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{member} is missing")
    try:
        return from_base64url(value)
    except ValueError:
        raise ValueError(f"{member} is not canonical base64url") from None


def thumbprint(jwk: Mapping[str, object]) -> str:
    """The key's own name: the SHA-256 of its required members (RFC 7638), base64url."""
    required = {name: jwk[name] for name in _THUMBPRINT[str(jwk["kty"])]}
    text = json.dumps(required, separators=(",", ":"), sort_keys=True)
    return base64url(hashlib.sha256(text.encode()).digest())
