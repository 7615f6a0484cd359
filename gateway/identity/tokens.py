"""Verify a signed token (JWS compact, RFC 7515; JWT, RFC 7519) in numbered steps.

What is known of a token grows from type to type: in an `UnverifiedToken` nothing may be believed, each
step only writes down what it found; `ValidClaims` are made by `Verifier.verify` alone, after all of them.

 1  at most 7 KiB                                     nobody buys our time with a long token
 2  three canonical base64url segments                one token has one spelling (S03)
 3  header and claims are strict JSON objects         two readers see the same members (I6)
 4  no `crit` `jku` `jwk` `x5u` `x5c`                 a token never brings its own key or rules (I4, I5, S02)
 5  `iss` is a configured issuer's, character by character                              (I12)
 6  `typ` and header are of a kind that it issues     nothing else that it signs is a token (I10)
 7  `alg` is one that it may use, and never `none` or one with a shared secret          (I1, I2)
 8  the key is that issuer's and made for this `alg`  (I3, I11)
 9  the signature holds                               (I1; S01, S02, S04)
10  `exp` `iat` `nbf` are whole seconds, in order     (I8)
11  the lifetime is within the issuer's               (I9)
12  one audience, and it is this gateway              (I7)
13  `cnf` is one key that a request can prove to have a bound token is not a bearer token (I15, I16)
14  names are text that fits into a log, ids are ids  what restricts is understood or refused (I18, S06)
15  what its kind demands is there                    a name has one spelling and is the issuer's to give (I13)
16  it has not expired                                last, so that "expired" means "all else was right"

`jwt-svid` tokens may go without `iss`: then the trust domain of `sub` says whose they are. What else differs from
kind to kind stands in `kinds.py`. All causes but the last share one public sentence, for whoever probes; the log
has the cause. `verify` stops at the first step that refuses, `examine` takes all of them: one list of checks, two
ways through it. They stand in one file, longer than others, so that all of them are read at once.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple, Self, TypeGuard

from gateway.core.clock import Clock, rfc3339
from gateway.core.errors import Refusal
from gateway.core.principal import PROVABLE, Binding
from gateway.identity.algorithms import ALGORITHMS
from gateway.identity.jose import from_base64url, from_json
from gateway.identity.keys import SIGNATURES, KeySet, PublicKey, key_uses
from gateway.identity.kinds import (
    KINDS,
    MAX_TIME,
    Claims,
    Flaw,
    Kind,
    kinds_by_type,
    lacking,
    media_type,
    read_agent,
    read_context,
    read_limits,
    read_name,
    read_run,
    read_scope,
    shown,
)
from gateway.identity.settings import IssuerSettings
from gateway.identity.spiffe import SCHEME

MAX_TOKEN: Final = 7 * 1024
SENTENCE: Final = (
    "the agent token is not valid here; send a current one that a configured issuer signed for this gateway, in a "
    "header (`Authorization: Bearer TOKEN`, `x-api-key` or `x-goog-api-key`), never in the URL; "
    "the gateway's log has the cause under this request id"
)

_HEADERS: Final = 256  # that are kept read: an issuer signs all of its tokens under the same few
_header_bytes: Final = functools.lru_cache(_HEADERS)(from_base64url)
_FOREIGN_KEYS: Final = ("crit", "jku", "jwk", "x5u", "x5c")
_THUMBPRINT: Final = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")  # 32 bytes in canonical base64url


@functools.lru_cache(_HEADERS)
def _header_members(data: bytes) -> Claims:
    return MappingProxyType(from_json(data))


def invalid(detail: str) -> Refusal:
    """The one refusal for every cause; `detail` goes to the log."""
    return Refusal("identity_invalid", SENTENCE, detail=detail)


class KeyUnknown(Refusal):
    """Step 8 and no other: the token is so far in order, and the issuer has no such key that may be used now.

    Where the issuer's keys are fetched, they may have changed since.
    """

    def __init__(self, issuer: Issuer, kid: object, alg: str) -> None:
        """Refuse the token; where the issuer has no keys at all it is not the token's fault, and this says so."""
        wanted = f"issuer {issuer.name} has no key for kid {shown(kid)} and alg {alg}"
        if issuer.keys is None:
            sentence = f"the keys of issuer {issuer.name} cannot be fetched now, so its tokens cannot be verified; "
            super().__init__("identity_source_unavailable", f"{sentence}retry shortly", detail=wanted)
        else:
            refusal = invalid(wanted)
            super().__init__(refusal.code, refusal.sentence, detail=wanted)
        self.issuer = issuer


def expired(at: int) -> Refusal:
    """The token was right and its time is over: the caller can renew it (RFC 6750 §3.1)."""
    return Refusal(
        "identity_expired",
        f"the agent token expired at {rfc3339(at)}; get a new one from its issuer and send the call again",
        detail=f"the token expired at {rfc3339(at)}",
        fields={"expired_at": rfc3339(at)},
    )


@dataclass(slots=True, eq=False, kw_only=True)
class Issuer:
    """What is accepted from one configured issuer; nothing of it changes but `keys`, which are replaced as a whole."""

    name: str
    iss: str
    algs: frozenset[str]
    kinds: Mapping[str | None, Kind]  # by `typ`, see `kinds_by_type`
    max_lifetime: float  # seconds
    keys: KeySet | None  # `None`: they are fetched, and there are none that may be used now
    uses: frozenset[str] = SIGNATURES  # which keys of a set are its, see `read_jwks`
    fetched: bool = False  # whether `keys` come by `Identity.adopt`, and from nowhere else
    trust_domain: str = ""  # of the workloads that it may name; empty: it names none by SPIFFE ID
    any_iss: bool = False  # its tokens are known by their trust domain, whatever `iss` they name

    @classmethod
    def of(cls, settings: IssuerSettings, keys: KeySet | None) -> Self:
        """As it is configured; `keys` are those of `key_uses(settings.kinds)`."""
        kinds = kinds_by_type(settings.kinds, settings.typ)
        return cls(
            name=settings.name,
            iss=settings.identifier,
            algs=frozenset(settings.algs).difference(*(kind.without for kind in kinds.values())),
            kinds=kinds,
            max_lifetime=settings.max_lifetime,
            keys=keys,
            uses=key_uses(settings.kinds),
            fetched=settings.fetched,
            trust_domain=settings.trust_domain or "",
            any_iss=not settings.iss,
        )


@dataclass(slots=True, eq=False)
class UnverifiedToken:
    """A token on its way through the steps; whoever sent it may have made all of it up.

    A step reads what earlier ones found; what none has found yet is not there.
    """

    text: str = field(repr=False)
    now: float  # epoch seconds: one moment for all steps
    segments: tuple[bytes, bytes, bytes] = field(init=False, repr=False)
    header: Claims = field(init=False)
    claims: Claims = field(init=False)
    issuer: Issuer = field(init=False)
    kind: Kind = field(init=False)
    alg: str = field(init=False)
    key: PublicKey = field(init=False)
    exp: int = field(init=False)
    begins: int = field(init=False)  # the later of `iat` and `nbf`
    mcp_server: str | None = field(init=False)
    binding: Binding | None = field(init=False)
    actors: tuple[str, str, tuple[str, ...]] = field(init=False)
    token_id: str = field(init=False)
    runs: tuple[str | None, str | None, str | None] = field(init=False)
    scope: frozenset[str] | None = field(init=False)
    limits: tuple[tuple[str, int], ...] = field(init=False)
    context: Mapping[str, object] = field(init=False)

    @property
    def signed(self) -> bytes:
        """The signing input (RFC 7515 §5.2)."""
        return self.text[: self.text.rindex(".")].encode()


class ValidClaims(NamedTuple):
    """Claims that a configured issuer signed, that were made for this gateway and hold now."""

    issuer: Issuer
    kind: Kind
    key: PublicKey
    claims: Claims
    token_id: str  # `jti`, else the SHA-256 of the signing input: unlike the signature it has one form (S03)
    subject: str
    on_behalf_of: str
    chain: tuple[str, ...]
    expires: int  # epoch seconds
    mcp_server: str | None  # the only MCP server that the token is for; `None`: the whole gateway
    binding: Binding | None
    run: str | None
    incarnation: str | None
    parent_run: str | None
    scope: frozenset[str] | None
    limits: tuple[tuple[str, int], ...]
    context: Mapping[str, object]


class Step(NamedTuple):
    """One check; a step may have several of them."""

    number: int
    what: str  # what it looks at
    check: Callable[[UnverifiedToken], None]  # raises `Flaw`, or a `Refusal` of its own
    needs: tuple[int, ...] = ()  # the steps without whose finds it cannot judge


class Result(NamedTuple):
    """What `Verifier.examine` says of one check."""

    step: Step
    problem: str = ""  # why it refuses; for the log and for the token's owner, never for whoever sent it
    waits_for: tuple[int, ...] = ()  # the failed steps without which it cannot judge


class Verifier:
    """The steps, with what they compare against; of that, only the issuers' keys change."""

    def __init__(
        self, issuers: Sequence[Issuer], *, audience: str, public_url: str | None, skew: float, clock: Clock
    ) -> None:
        self.issuers = {issuer.name: issuer for issuer in issuers}
        self._issuers = {issuer.iss: issuer for issuer in issuers}
        svids = {one.trust_domain: one for one in issuers if KINDS["jwt-svid"] in one.kinds.values()}
        self._without_iss = svids
        self._any_iss = {domain: issuer for domain, issuer in svids.items() if issuer.any_iss}
        self.audience = audience
        self._mcp_prefix = f"{public_url.rstrip('/')}/mcp/" if public_url else None
        self.skew = skew
        self._clock = clock
        self.steps: Final = (
            Step(1, "length", self._length),
            Step(2, "segments", self._segments),
            Step(3, "JSON", self._json, (2,)),
            Step(4, "header", self._header, (3,)),
            Step(5, "iss", self._issuer, (3,)),
            Step(6, "typ", self._kind, (5,)),
            Step(7, "alg", self._algorithm, (5,)),
            Step(8, "kid", self._key, (7,)),
            Step(9, "signature", self._signature, (8,)),
            Step(10, "exp", self._end, (3,)),
            Step(10, "iat, nbf", self._beginning, (3,)),
            Step(10, "order", self._order, (10,)),
            Step(11, "lifetime", self._lifetime, (5, 10)),
            Step(12, "aud", self._audiences, (3,)),
            Step(13, "cnf", self._binding, (3,)),
            Step(14, "sub, act", self._actors, (6,)),
            Step(14, "jti", self._token_id, (3,)),
            Step(14, "run", self._runs, (6,)),
            Step(14, "scope", self._scope, (3,)),
            Step(14, "limits", self._limits, (3,)),
            Step(14, "context", self._context, (6,)),
            Step(15, "kind", self._demands, (6,)),
            Step(16, "expiry", self._expiry, (10,)),
        )
        self._checks = tuple(step.check for step in self.steps)

    def verify(self, text: str) -> ValidClaims:
        """All steps in order; raises `Refusal`, and nothing else whatever the text is."""
        token = UnverifiedToken(text, self._clock.now())
        try:
            for check in self._checks:
                check(token)
        except Flaw as flaw:
            raise invalid(str(flaw)) from None
        subject, on_behalf_of, chain = token.actors
        run, incarnation, parent_run = token.runs
        return ValidClaims(
            issuer=token.issuer,
            kind=token.kind,
            key=token.key,
            claims=token.claims,
            token_id=token.token_id,
            subject=subject,
            on_behalf_of=on_behalf_of,
            chain=chain,
            expires=token.exp,
            mcp_server=token.mcp_server,
            binding=token.binding,
            run=run,
            incarnation=incarnation,
            parent_run=parent_run,
            scope=token.scope,
            limits=token.limits,
            context=token.context,
        )

    def examine(self, text: str) -> tuple[UnverifiedToken, list[Result]]:
        """What every single check says, for whoever wants to know all that is wrong; nothing becomes valid by it."""
        token = UnverifiedToken(text, self._clock.now())
        results: list[Result] = []
        failed: set[int] = set()
        for step in self.steps:
            problem, waits_for = "", tuple(number for number in step.needs if number in failed)
            if not waits_for:
                try:
                    step.check(token)
                except (Flaw, Refusal) as found:
                    problem = getattr(found, "detail", None) or getattr(found, "sentence", None) or str(found)
            if problem or waits_for:
                failed.add(step.number)
            results.append(Result(step, problem, waits_for))
        return token, results

    def _length(self, token: UnverifiedToken) -> None:
        if len(token.text) > MAX_TOKEN:  # 1
            raise Flaw(f"the token is longer than {MAX_TOKEN} characters")

    def _segments(self, token: UnverifiedToken) -> None:
        try:  # 2
            head, body, tail = token.text.split(".")
            token.segments = _header_bytes(head), from_base64url(body), from_base64url(tail)
        except ValueError:
            raise Flaw("the token is not three canonical base64url segments") from None

    def _json(self, token: UnverifiedToken) -> None:
        part = "header"
        try:  # 3
            token.header = _header_members(token.segments[0])
            part = "claims"
            token.claims = from_json(token.segments[1])
        except ValueError as error:
            raise Flaw(f"the token's {part} cannot be read: it {error}") from None

    def _header(self, token: UnverifiedToken) -> None:
        if foreign := [name for name in _FOREIGN_KEYS if name in token.header]:  # 4
            raise Flaw(f"the token's header has {', '.join(foreign)}")

    def _issuer(self, token: UnverifiedToken) -> None:
        iss, sub = token.claims.get("iss", ""), token.claims.get("sub")
        issuer = self._issuers.get(iss) if isinstance(iss, str) else None
        if issuer is None and isinstance(iss, str) and isinstance(sub, str) and sub.startswith(SCHEME):
            by_domain = self._any_iss if "iss" in token.claims else self._without_iss
            issuer = by_domain.get(sub[len(SCHEME) :].partition("/")[0])
        if issuer is None:  # 5
            nor = f", nor is the trust domain of sub {shown(sub)}" if str(sub).startswith(SCHEME) else ""
            raise Flaw(f"iss {shown(token.claims.get('iss'))} is no configured issuer's{nor}")
        token.issuer = issuer

    def _kind(self, token: UnverifiedToken) -> None:
        typ, kinds = token.header.get("typ"), token.issuer.kinds
        kind = (
            kinds.get(media_type(typ)) if isinstance(typ, str) else None if "typ" in token.header else kinds.get(None)
        )
        if kind is None:  # 6
            raise Flaw(f"typ {shown(typ)} is not accepted from issuer {token.issuer.name}")
        if kind.header is not None and not token.header.keys() <= kind.header:  # 6
            more = ", ".join(sorted(token.header.keys() - kind.header))
            raise Flaw(f"the token's header has {more[:100]!r}, which no {kind.name} has")
        token.kind = kind

    def _algorithm(self, token: UnverifiedToken) -> None:
        alg = token.header.get("alg")
        if not isinstance(alg, str) or alg not in token.issuer.algs:  # 7
            raise Flaw(f"alg {shown(alg)} is not accepted from issuer {token.issuer.name}")
        token.alg = alg

    def _key(self, token: UnverifiedToken) -> None:
        kid, issuer = token.header.get("kid"), token.issuer
        if "kid" in token.header and not isinstance(kid, str):  # 8
            raise Flaw("kid is not a string")
        key = issuer.keys.find(kid if isinstance(kid, str) else None, token.alg) if issuer.keys is not None else None
        if key is None:  # 8
            raise KeyUnknown(issuer, kid, token.alg)
        token.key = key

    def _signature(self, token: UnverifiedToken) -> None:
        if not ALGORITHMS[token.alg].verifies(token.signed, token.key.key, token.segments[2]):  # 9
            raise Flaw(f"the signature is not that of key {token.key.id} of issuer {token.issuer.name}")

    def _end(self, token: UnverifiedToken) -> None:
        exp = token.claims.get("exp")
        if not _is_time(exp):  # 10
            raise Flaw("exp is missing, or not a whole number of seconds")
        token.exp = exp

    def _beginning(self, token: UnverifiedToken) -> None:
        token.begins = 0
        for name in ("iat", "nbf"):
            begins = token.claims.get(name, 0)
            if not _is_time(begins):  # 10
                raise Flaw(f"{name} is not a whole number of seconds")
            if begins > token.now + self.skew:  # 10
                raise Flaw(f"the token is not valid yet: {name} is {rfc3339(begins)}")
            token.begins = max(token.begins, begins)

    def _order(self, token: UnverifiedToken) -> None:
        if token.begins >= token.exp:  # 10
            raise Flaw("the token ends before it begins")

    def _lifetime(self, token: UnverifiedToken) -> None:
        iat, longest = token.claims.get("iat"), token.issuer.max_lifetime
        lives = token.exp - (iat if _is_time(iat) else token.now + self.skew)
        if lives > longest:  # 11
            raise Flaw(f"the token lives for {lives:g} s, which is above max_lifetime of issuer {token.issuer.name}")

    def _audiences(self, token: UnverifiedToken) -> None:
        aud, prefix = token.claims.get("aud"), self._mcp_prefix
        if isinstance(aud, list) and len(aud) == 1:
            aud = aud[0]
        token.mcp_server = None
        if aud != self.audience and prefix is not None and isinstance(aud, str) and aud.startswith(prefix):
            token.mcp_server = aud[len(prefix) :]
        elif aud != self.audience:  # 12
            raise Flaw(f"aud {shown(aud)} is not this gateway alone")

    def _binding(self, token: UnverifiedToken) -> None:
        token.binding = None
        if "cnf" in token.claims:
            token.binding = read_binding(token.claims["cnf"])
            if token.binding is None:  # 13
                raise Flaw("cnf is not one of jkt and x5t#S256 alone, with the SHA-256 of a key")

    def _actors(self, token: UnverifiedToken) -> None:
        token.actors = read_agent(token.kind, token.claims)  # 14

    def _token_id(self, token: UnverifiedToken) -> None:
        if "jti" in token.claims:
            token.token_id = read_name(token.claims, "jti")  # 14
        else:
            token.token_id = hashlib.sha256(token.signed).hexdigest()

    def _runs(self, token: UnverifiedToken) -> None:
        run = read_run(token.claims, *token.kind.run)  # 14
        token.runs = run, read_run(token.claims, "inc"), read_run(token.claims, "parent_run")  # 14

    def _scope(self, token: UnverifiedToken) -> None:
        token.scope = read_scope(token.claims)  # 14

    def _limits(self, token: UnverifiedToken) -> None:
        token.limits = read_limits(token.claims)  # 14

    def _context(self, token: UnverifiedToken) -> None:
        token.context = read_context(token.kind, token.claims)  # 14

    def _demands(self, token: UnverifiedToken) -> None:
        if missing := lacking(token.kind, token.claims):  # 15
            raise Flaw(f"a token of kind {token.kind.name} needs {', '.join(missing)}")
        if token.kind.rule and (problem := token.kind.rule(token.claims, token.issuer.trust_domain)):  # 15
            raise Flaw(problem)

    def _expiry(self, token: UnverifiedToken) -> None:
        if token.now >= token.exp + self.skew:  # 16
            raise expired(token.exp)


def _is_time(value: object) -> TypeGuard[int]:
    """Whether it is epoch seconds; a bool is an int to isinstance."""
    return type(value) is int and 0 <= value <= MAX_TIME


def read_binding(cnf: object) -> Binding | None:
    """The one key that a `cnf` binds to (RFC 7800 §3.1), `None` where that cannot be understood or proven."""
    if isinstance(cnf, dict) and len(cnf) == 1:
        ((method, thumbprint),) = cnf.items()
        if method in PROVABLE and isinstance(thumbprint, str) and _THUMBPRINT.fullmatch(thumbprint):
            return Binding(method, thumbprint)
    return None
