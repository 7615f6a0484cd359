"""Verify a signed token (JWS compact, RFC 7515; JWT, RFC 7519; access token, RFC 9068) in numbered steps.

What is known of a token grows from type to type, and only the step between makes the next one:
`UnverifiedToken` is a shape in which nothing may be believed, `SignedClaims` were said by a
configured issuer, `ValidClaims` were said for this gateway and hold now.

 1  at most 7 KiB                                     nobody buys our time with a long token
 2  three canonical base64url segments                one token has one spelling (S03)
 3  header and claims are strict JSON objects         two readers see the same members (I6)
 4  no `crit` `jku` `jwk` `x5u` `x5c`                 a token never brings its own key or rules (I4, I5, S02)
 5  `iss` is a configured issuer's, character by character                              (I12)
 6  `alg` is in the issuer's list, which holds only asymmetric ones                      (I1, I2)
 7  `typ` is in the issuer's list                     nothing else that the issuer signs is a token (I10)
 8  the key is that issuer's and made for this `alg`  (I3, I11)
 9  the signature holds                               (I1; S01, S02, S04)
10  `exp` `iat` `nbf` are whole seconds, in order     (I8)
11  the lifetime is within the issuer's               (I9)
12  one audience, and it is this gateway              (I7)
13  no `cnf`: a bound token is not a bearer token     (I16)
14  names are text that fits into a log               `sub`, `act`, `jti`, `run`, `inc`, `parent_run`, `scope`, `limits`
15  it has not expired                                last, so that "expired" means "all else was right"

All causes but the last share one public sentence, for whoever probes; the log has the cause.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final

from gateway.core.clock import Clock, rfc3339
from gateway.core.errors import Refusal
from gateway.core.ids import RUN_ID
from gateway.core.run import RunLimits
from gateway.identity.algorithms import ALGORITHMS
from gateway.identity.jose import from_base64url, from_json
from gateway.identity.keys import KeySet, PublicKey

MAX_TOKEN: Final = 7 * 1024
MAX_NAME: Final = 2048  # as SPIFFE bounds its ids; also what fits beside the rest of a 7 KiB token
MAX_TIME: Final = 253_402_300_799  # the last second of the year 9999
SENTENCE: Final = (
    "the agent token is not valid here; send a current one that a configured issuer signed for this gateway, in a "
    "header (`Authorization: Bearer TOKEN`, `x-api-key` or `x-goog-api-key`), never in the URL; "
    "the gateway's log has the cause under this request id"
)

_FOREIGN_KEYS: Final = ("crit", "jku", "jwk", "x5u", "x5c")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LIMITS: Final = frozenset(field.name for field in fields(RunLimits))


def invalid(detail: str) -> Refusal:
    """The one refusal for every cause; `detail` goes to the log."""
    challenge = 'Bearer realm="passgate", error="invalid_token", error_description="The access token is not valid here"'
    return Refusal("identity_invalid", SENTENCE, detail=detail, headers=(("WWW-Authenticate", challenge),))


def expired(at: int) -> Refusal:
    """The token was right and its time is over: the caller can renew it (RFC 6750 §3.1)."""
    challenge = 'Bearer realm="passgate", error="invalid_token", error_description="The access token expired"'
    return Refusal(
        "identity_expired",
        f"the agent token expired at {rfc3339(at)}; get a new one from its issuer and send the call again",
        fields={"expired_at": rfc3339(at)},
        headers=(("WWW-Authenticate", challenge),),
    )


@dataclass(frozen=True, slots=True)
class Issuer:
    """What is accepted from one configured issuer."""

    name: str
    iss: str
    algs: frozenset[str]
    types: frozenset[str]  # as `media_type` writes them
    max_lifetime: float  # seconds
    keys: KeySet


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A token's parts after steps 1 to 4; whoever sent it may have made them up."""

    header: Mapping[str, object]
    claims: Mapping[str, object]
    signed: bytes  # the signing input (RFC 7515 §5.2)
    signature: bytes

    @classmethod
    def read(cls, text: str) -> UnverifiedToken:
        """Take a token apart; raises `Refusal`."""
        if len(text) > MAX_TOKEN:  # 1
            raise invalid(f"the token is longer than {MAX_TOKEN} characters")
        try:  # 2
            head, body, tail = text.split(".")
            parts = from_base64url(head), from_base64url(body), from_base64url(tail)
        except ValueError:
            raise invalid("the token is not three canonical base64url segments") from None
        header, claims = _members(parts[0], "header"), _members(parts[1], "claims")  # 3
        if foreign := [name for name in _FOREIGN_KEYS if name in header]:  # 4
            raise invalid(f"the token's header has {', '.join(foreign)}")
        return cls(header, claims, f"{head}.{body}".encode(), parts[2])


@dataclass(frozen=True, slots=True)
class SignedClaims:
    """Claims that a configured issuer signed (steps 5 to 9), whether they are for us or not."""

    issuer: Issuer
    key: PublicKey
    claims: Mapping[str, object]
    digest: str  # SHA-256 of the signing input: unlike the signature it has one form (S03)


@dataclass(frozen=True, slots=True)
class ValidClaims:
    """Claims that were made for this gateway and hold now (steps 10 to 15)."""

    issuer: Issuer
    key: PublicKey
    claims: Mapping[str, object]
    token_id: str
    subject: str
    on_behalf_of: str
    chain: tuple[str, ...]
    expires: int  # epoch seconds
    mcp_server: str | None  # the only MCP server that the token is for; `None`: the whole gateway
    run: str | None
    incarnation: str | None
    parent_run: str | None
    scope: frozenset[str] | None
    limits: tuple[tuple[str, int], ...]


class Verifier:
    """The steps, with what they compare against; holds no state that changes."""

    def __init__(
        self, issuers: Sequence[Issuer], *, audience: str, public_url: str | None, skew: float, clock: Clock
    ) -> None:
        self._issuers = {issuer.iss: issuer for issuer in issuers}
        self._audience = audience
        self._mcp_prefix = f"{public_url.rstrip('/')}/mcp/" if public_url else None
        self._skew = skew
        self._clock = clock

    def verify(self, text: str) -> ValidClaims:
        """All steps in order; raises `Refusal`, and nothing else whatever the text is."""
        return self.validate(self.check_signature(UnverifiedToken.read(text)))

    def check_signature(self, token: UnverifiedToken) -> SignedClaims:
        """Take steps 5 to 9: who signed this."""
        iss, alg, typ, kid = token.claims.get("iss"), *(token.header.get(name) for name in ("alg", "typ", "kid"))
        issuer = self._issuers.get(iss) if isinstance(iss, str) else None
        if issuer is None:  # 5
            raise invalid(f"iss {_shown(iss)} is no configured issuer's")
        if not isinstance(alg, str) or alg not in issuer.algs:  # 6
            raise invalid(f"alg {_shown(alg)} is not accepted from issuer {issuer.name}")
        if not isinstance(typ, str) or media_type(typ) not in issuer.types:  # 7
            raise invalid(f"typ {_shown(typ)} is not accepted from issuer {issuer.name}")
        if "kid" in token.header and not isinstance(kid, str):
            raise invalid("kid is not a string")
        key = issuer.keys.find(kid if isinstance(kid, str) else None, alg)
        if key is None:  # 8
            raise invalid(f"issuer {issuer.name} has no key for kid {_shown(kid)} and alg {alg}")
        if not ALGORITHMS[alg].verifies(token.signed, key.key, token.signature):  # 9
            raise invalid(f"the signature is not that of key {key.id} of issuer {issuer.name}")
        return SignedClaims(issuer, key, token.claims, hashlib.sha256(token.signed).hexdigest())

    def validate(self, signed: SignedClaims) -> ValidClaims:
        """Take steps 10 to 15: is it for us, and now."""
        claims = signed.claims
        now = self._clock.now()
        exp, iat, nbf = _time(claims, "exp"), _time(claims, "iat"), _time(claims, "nbf")
        if exp is None:  # 10
            raise invalid("exp is missing")
        if max(iat or 0, nbf or 0) > now + self._skew:
            raise invalid("the token is not valid yet (iat or nbf lies ahead)")
        if max(iat or 0, nbf or 0) >= exp:
            raise invalid("the token ends before it begins")
        longest = signed.issuer.max_lifetime
        if (exp - iat > longest) if iat is not None else (exp - now > longest + self._skew):  # 11
            raise invalid(f"the token's lifetime is above max_lifetime of issuer {signed.issuer.name}")
        server = self._mcp_server(claims.get("aud"))  # 12
        if "cnf" in claims:  # 13
            raise invalid("the token is bound to a key (cnf), and proofs of possession are not built yet")
        subject, on_behalf_of, chain = _actors(claims)  # 14
        valid = ValidClaims(
            issuer=signed.issuer,
            key=signed.key,
            claims=claims,
            token_id=_name(claims, "jti") if "jti" in claims else signed.digest,
            subject=subject,
            on_behalf_of=on_behalf_of,
            chain=chain,
            expires=exp,
            mcp_server=server,
            run=_run_id(claims, "run"),
            incarnation=_run_id(claims, "inc"),
            parent_run=_run_id(claims, "parent_run"),
            scope=_scope(claims),
            limits=_limits(claims),
        )
        if now >= exp + self._skew:  # 15
            raise expired(exp)
        return valid

    def _mcp_server(self, aud: object) -> str | None:
        """The MCP server that the only audience names, `None` where it is the gateway; a list of one is fine."""
        if isinstance(aud, list) and len(aud) == 1:
            aud = aud[0]
        if isinstance(aud, str):
            if aud == self._audience:
                return None
            if self._mcp_prefix is not None and aud.startswith(self._mcp_prefix):
                return aud[len(self._mcp_prefix) :]
        raise invalid(f"aud {_shown(aud)} is not this gateway alone")


def media_type(typ: str) -> str:
    """A `typ` as it is compared: no case, and `application/` may be left out (RFC 7515 §4.1.9)."""
    return typ.lower().removeprefix("application/")


def _members(data: bytes, part: str) -> dict[str, object]:
    try:
        return from_json(data)
    except ValueError as error:
        raise invalid(f"the token's {part} cannot be read: it {error}") from None


def _time(claims: Mapping[str, object], name: str) -> int | None:
    value = claims.get(name)
    if name not in claims:
        return None
    if type(value) is not int or not 0 <= value <= MAX_TIME:  # a bool is an int to isinstance
        raise invalid(f"{name} is not a whole number of seconds")
    return value


def _name(claims: Mapping[str, object], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or _UNPRINTABLE.search(value):
        raise invalid(f"{name} is not printable text of 1 to {MAX_NAME} characters")
    return value


def _actors(claims: Mapping[str, object]) -> tuple[str, str, tuple[str, ...]]:
    """The agent, on whose behalf it acts, and the earlier actors, latest first (RFC 8693 §4.1).

    The outermost `act` is who acts now. One with an `iss` of its own is another issuer's subject:
    this issuer cannot speak for it, whatever the name.
    """
    subject = _name(claims, "sub")
    if "act" not in claims:
        return subject, "", ()
    actors: list[str] = []
    part: Mapping[str, object] = claims
    while "act" in part:
        act = part["act"]
        if not isinstance(act, dict):
            raise invalid("act is not an object")
        part = act
        actors.append(_name(part, "sub"))
        if len(actors) == 1 and part.get("iss", claims["iss"]) != claims["iss"]:
            raise invalid("the acting party (act) is of another issuer")
    return actors[0], subject, tuple(actors[1:])


def _run_id(claims: Mapping[str, object], name: str) -> str | None:
    if name not in claims:
        return None
    value = claims[name]
    if not isinstance(value, str) or not RUN_ID.fullmatch(value):
        raise invalid(f"{name} is not an id of 1 to 128 letters, digits and ._~:@+=-")
    return value


def _scope(claims: Mapping[str, object]) -> frozenset[str] | None:
    if "scope" not in claims:
        return None
    value = claims["scope"]
    if not isinstance(value, str) or _UNPRINTABLE.search(value):
        raise invalid("scope is not text of names between spaces (RFC 8693 §4.2)")
    return frozenset(value.split(" ")) - {""}


def _limits(claims: Mapping[str, object]) -> tuple[tuple[str, int], ...]:
    """The limits that the issuer set; one that is not known cannot be kept, so the token is refused."""
    limits = claims.get("limits", {})
    if not isinstance(limits, dict):
        raise invalid("limits is not an object")
    for name, value in limits.items():
        if name not in _LIMITS or type(value) is not int or not 0 <= value <= MAX_TIME:
            raise invalid(f"limits has {_shown(name)}, which is not a run's limit or not a whole number")
    return tuple(sorted(limits.items()))


def _shown(value: object) -> str:
    """What a token says, short and escaped for a log line; of anything but text only the type."""
    return repr(value[:100]) if isinstance(value, str) else type(value).__name__
