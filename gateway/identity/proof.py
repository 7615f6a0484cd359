"""Verify a DPoP proof (RFC 9449) in numbered steps: that the sender of this very request has the key.

A token may be stolen from a log, a proof from the wire. Neither is worth anything without the key,
and a proof is good for one request, once:

 1  exactly one `DPoP` header                         two parts never look at two proofs
 2  at most 4 KiB                                     nobody buys our time with a long proof
 3  three canonical base64url segments, strict JSON   one proof has one spelling, and all readers see the same members
 4  `typ` is dpop+jwt                                 nothing else that the key signed is a proof
 5  no `crit` `jku` `x5u` `x5c`                       the key is `jwk` and no other; `kid` is not looked at
 6  `alg` is asymmetric                               no `none`, no secret that both sides know
 7  `jwk` is public, fits `alg`, has a sane size      a key that gives itself away; one that makes verifying slow
 8  its thumbprint is the token's `cnf.jkt`           a stolen token with the thief's own key
 9  `htm` and `htu` are this request's                a proof that was made for another request or another server
10  `ath` is this token's                             a proof that was made for another token of the same key
11  `iat` is now, ± 30 s                              an old proof; one made ahead
12  `jti` is text of 1 to 256 characters              what the guard tells proofs apart by
13  `nonce` is ours, of the last minutes              one made ahead, or for an earlier start, which the guard forgot
14  the signature holds                               all of the above
15  no worker has seen it before                      a replay, at whichever worker

What costs little comes first. Steps 4 to 13 believe nothing of what they read: they only refuse, so
that whoever floods with copied tokens and invented proofs is refused before a signature is computed
(14), and only what passed everything takes room in the guard (15). The nonce comes after the other
members: `use_dpop_nonce` then means that a new nonce is all that is missing, as far as one can tell
before the signature. It is under the signature like the rest, so no order lets an old one through.

`htu` is what the client called: `public_url`, else this listener's scheme and the request's `Host`,
followed by the raw path with its run prefix. Where `public_url` has a path of its own, it stands in
front (`https://corp.example/ai` + `/v1/chat/completions`), as the proxy that takes it away was asked.
Scheme and host are compared without case and default port, the path byte by byte; query and fragment
do not count on either side (§4.3).

All causes share one public sentence; the log has the cause.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from typing import Final, NamedTuple

from gateway.core.call import Head, Headers
from gateway.core.clock import Clock
from gateway.core.errors import Refusal
from gateway.identity.algorithms import ALGORITHMS
from gateway.identity.authority import Authority
from gateway.identity.jose import base64url, from_base64url, from_json
from gateway.identity.keys import KeyMistakes, PublicKey, read_jwk

MAX_PROOF: Final = 4 * 1024
MAX_JTI: Final = 256
WINDOW: Final = 30
"""Seconds by which a client's clock may differ, either way."""
NONCE_SECONDS: Final = 300
"""For how long a nonce is given out; it holds for as long again."""
SENTENCE: Final = (
    "the proof of possession (header `DPoP`, RFC 9449) does not hold; sign a new one for this very request with the "
    "key that the token is bound to: its method and URL, the hash of the token, the time, a fresh `jti` and the "
    "nonce of the answer's `DPoP-Nonce`; the gateway's log has the cause under this request id"
)
NEEDS_NONCE: Final = (
    "the proof of possession must carry the gateway's nonce: sign a new one with the answer's `DPoP-Nonce` as `nonce` "
    "(RFC 9449, section 9) and send the call again"
)
LEFT_OUT: Final = (
    "the token is bound to a key (`cnf.jkt`): send it as `Authorization: DPoP TOKEN`, with a proof that this key "
    "signed in the header `DPoP` (RFC 9449, section 7)"
)
NOT_BOUND: Final = (
    "the token is not bound to a key (`cnf.jkt`), so a proof says nothing of it: send it as `Authorization: Bearer "
    "TOKEN`, or have its issuer give out one that is bound to your key (RFC 9449, section 5)"
)
REQUIRED: Final = (
    "only a token that is bound to a key counts here (`require_proof`): ask its issuer for one with a DPoP proof "
    "(RFC 9449, section 5) or over mutual TLS (RFC 8705), and send each call with the proof; a stolen one is worthless"
)

_KEPT: Final = 1024  # headers that are kept read: a client sends the same one with all of its proofs
_SHAPE: Final = "the proof is not three canonical base64url segments of strict JSON"
_LATE: Final = 5.0  # seconds that a question to the guard may take without an honest proof looking forgotten
_NONE: Final[list[str]] = []
_FOREIGN: Final = ("crit", "jku", "x5u", "x5c")
_URI: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#@]+)([^?#]*)")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


class _Wrong(Exception):
    """A step fails; the text goes to the log."""


class _NeedsNonce(Exception):
    """All that can be told without the signature is right, but for the nonce."""


class _Proof(NamedTuple):
    """A proof's parts after steps 1 to 7; whoever sent it may have made them up."""

    key: PublicKey
    alg: str
    claims: Mapping[str, object]
    signed: bytes  # the signing input (RFC 7515 §5.2)
    signature: bytes


class Proofs:
    """The steps, with what they compare against; the nonces of this start."""

    def __init__(self, *, public_url: str | None, scheme: str, secret: bytes, clock: Clock) -> None:
        """`scheme` is that of the gateway's own listener.

        `secret` is new with every start of the gateway and the same in all workers; what only checks a
        configuration has none and gets one that nobody knows.
        """
        self._public_url, self._scheme, self._clock = public_url, scheme, clock
        self._secret = secret or secrets.token_bytes(32)
        self._period = -1
        self._nonces = ("", "")

    async def prove(
        self, head: Head, token: str, thumbprint: str | None, authority: Authority, *, ath: bool = True
    ) -> str:
        """Take all steps for this request's proof; gives the thumbprint (RFC 7638) of the key that signed it.

        `thumbprint` is the key that the token is bound to, `None` for any. Without `ath` the hash of the
        token may be missing, as at a token endpoint (RFC 9449 §5), but may not be another token's.
        Raises `Refusal`: `proof_invalid`, `overloaded`, or `store_unavailable` where the guard is not reached.
        """
        try:
            proof = _read(head.headers)
            jti, iat = self._claims(proof, head, token, thumbprint, ath=ath)
            _check_signature(proof)
        except _NeedsNonce:
            raise self.refusal(
                "use_dpop_nonce", NEEDS_NONCE, "the proof has no nonce, or one of another time"
            ) from None
        except _Wrong as wrong:
            raise self.refusal("invalid_dpop_proof", SENTENCE, str(wrong)) from None
        jkt = proof.key.thumbprint
        digest = hashlib.sha256(f"{jkt}.{jti}".encode()).digest()
        if not await authority.first_use(digest, iat + WINDOW + _LATE):  # 15
            raise self.refusal("invalid_dpop_proof", SENTENCE, "the proof was used before, or waited too long")
        return jkt

    def nonce(self) -> str:
        """The nonce that proofs should carry from now on."""
        return self._current()[0]

    def left_out(self) -> Refusal:
        """A bound token came without its proof."""
        return self.refusal("invalid_token", LEFT_OUT, "a token with cnf.jkt came as a bearer token")

    def not_bound(self) -> Refusal:
        """A token that no key is bound to came with a proof: what the proof says, says nothing of the token."""
        return self.refusal("invalid_token", NOT_BOUND, "a token without cnf.jkt came with the DPoP scheme")

    def required(self) -> Refusal:
        """A token that no key is bound to came where the configuration wants a bound one."""
        return self.refusal("invalid_token", REQUIRED, "the token is not bound to a key, and require_proof is set")

    def refusal(self, error: str, sentence: str, detail: str) -> Refusal:
        """A `proof_invalid` with the OAuth error that its challenge names, and with the nonce for the next try."""
        nonce = ("DPoP-Nonce", self.nonce())
        return Refusal("proof_invalid", sentence, detail=detail, fields={"error": error}, headers=(nonce,))

    def _current(self) -> tuple[str, str]:
        """The nonces that hold now, the present one first: every worker computes the same, and stores none."""
        period = int(self._clock.now()) // NONCE_SECONDS
        if period != self._period:
            self._period, self._nonces = period, (self._make(period), self._make(period - 1))
        return self._nonces

    def _make(self, period: int) -> str:
        return base64url(hmac.digest(self._secret, b"dpop-nonce %d" % period, "sha256")[:16])

    def _claims(self, proof: _Proof, head: Head, token: str, thumbprint: str | None, *, ath: bool) -> tuple[str, int]:
        """Take steps 8 to 13; gives `jti` and `iat`."""
        claims, now = proof.claims, self._clock.now()
        if thumbprint is not None and not hmac.compare_digest(proof.key.thumbprint.encode(), thumbprint.encode()):  # 8
            raise _Wrong("the proof is of another key than the token's")
        if claims.get("htm") != head.method:  # 9
            raise _Wrong("htm is not this request's method")
        origin = self._public_url or f"{self._scheme}://{head.headers.get('host')}"
        if _address(claims.get("htu")) != _address(origin + head.path):  # 9
            raise _Wrong("htu is not this request's URL")
        if ath or "ath" in claims:  # 10
            expected = base64url(hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest())
            if claims.get("ath") != expected:  # 10
                raise _Wrong("ath is not this token's hash")
        iat = claims.get("iat")
        if type(iat) is not int or not now - WINDOW <= iat <= now + WINDOW:  # 11; a bool is an int to isinstance
            raise _Wrong(f"iat is not a whole second within {WINDOW} of now")
        jti = claims.get("jti")
        if not isinstance(jti, str) or not 1 <= len(jti) <= MAX_JTI:  # 12
            raise _Wrong(f"jti is not text of 1 to {MAX_JTI} characters")
        if claims.get("nonce") not in self._current():  # 13; no secret: whoever asks is told
            raise _NeedsNonce
        return jti, iat


def _read(headers: Headers) -> _Proof:
    """Take steps 1 to 7."""
    found = headers.getall("dpop", _NONE)
    if len(found) != 1:  # 1
        raise _Wrong(f"the request has {len(found)} DPoP headers, where one is needed")
    if len(found[0]) > MAX_PROOF:  # 2
        raise _Wrong(f"the proof is longer than {MAX_PROOF} characters")
    try:  # 3
        first, second, third = found[0].split(".")
        claims, signature = from_json(from_base64url(second)), from_base64url(third)
    except ValueError:
        raise _Wrong(_SHAPE) from None
    key, alg = _signer(first)
    return _Proof(key, alg, claims, f"{first}.{second}".encode(), signature)


@functools.lru_cache(maxsize=_KEPT)
def _signer(header: str) -> tuple[PublicKey, str]:
    """Take steps 3 to 7 for a proof's header: the key and the algorithm."""
    try:
        members = from_json(from_base64url(header))  # 3
    except ValueError:
        raise _Wrong(_SHAPE) from None
    if members.get("typ") != "dpop+jwt":  # 4
        raise _Wrong("typ is not dpop+jwt")
    if foreign := [name for name in _FOREIGN if name in members]:  # 5
        raise _Wrong(f"the proof's header has {', '.join(foreign)}")
    alg = members.get("alg")
    if not isinstance(alg, str) or alg not in ALGORITHMS:  # 6
        raise _Wrong("alg is no asymmetric algorithm that is accepted here")
    try:
        return read_jwk(members.get("jwk"), alg), alg  # 7
    except KeyMistakes as mistakes:
        raise _Wrong(str(mistakes)) from None


def _check_signature(proof: _Proof) -> None:
    if not ALGORITHMS[proof.alg].verifies(proof.signed, proof.key.key, proof.signature):  # 14
        raise _Wrong("the signature is not that of its own jwk")


def _address(uri: object) -> tuple[str, str, str]:
    """What of a URI is compared: scheme, authority without the default port, raw path."""
    match = _URI.match(uri) if isinstance(uri, str) and uri.isascii() else None
    if match is None:  # 9
        raise _Wrong("htu is not an absolute URL")
    scheme, authority, path = match[1].lower(), match[2].lower(), match[3]
    return scheme, authority.removesuffix(_DEFAULT_PORTS.get(scheme, "//")), path or "/"
