"""The kinds of token, each a row of one table, and how the claims of a row are read.

All kinds share the steps of `tokens.py`; what sets one apart stands in `KINDS`. Which kind a token is
follows from its issuer and its `typ` alone (RFC 8725 §3.11), so nothing that was signed for another
use is ever read by the rules of this one. Lines that refuse end with the number of their step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Final

from gateway.core.ids import RUN_ID
from gateway.core.run import RunLimits
from gateway.identity.spiffe import spiffe_id

Claims = Mapping[str, object]


class Flaw(Exception):
    """Why a token is refused, for the log; never for whoever sent it."""


AT_JWT: Final = "at+jwt"
MAX_NAME: Final = 2048  # as SPIFFE bounds its ids; also what fits beside the rest of a 7 KiB token
MAX_TIME: Final = 253_402_300_799  # the last second of the year 9999
MAX_DEPTH: Final = 8  # of a transaction's context

_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NAMESPACE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123 label
_ACCOUNT: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")  # RFC 1123 subdomain
_LIMITS: Final = frozenset(field.name for field in fields(RunLimits))


def _workload(claims: Claims, trust_domain: str) -> str:
    """JWT-SVID §3.1: the subject is a workload of the issuer's own trust domain, never the domain itself (I13)."""
    sub = claims.get("sub")
    try:
        workload = spiffe_id(sub if isinstance(sub, str) else "")
    except ValueError as error:
        return f"sub {shown(sub)} is no SPIFFE ID: it {error}"
    if workload.trust_domain != trust_domain:
        return f"sub {shown(sub)} is of another trust domain than {trust_domain}"
    return "" if workload.path else f"sub {shown(sub)} names the trust domain and no workload in it"


def _service_account(claims: Claims, _: str) -> str:
    """What the cluster says twice must agree; both names are DNS names, so that no `:` moves between them."""
    there = claims.get("kubernetes.io")
    namespace = there.get("namespace") if isinstance(there, dict) else None
    account = there.get("serviceaccount") if isinstance(there, dict) else None
    name = account.get("name") if isinstance(account, dict) else None
    if not (
        isinstance(namespace, str)
        and isinstance(name, str)
        and _NAMESPACE.fullmatch(namespace)
        and _ACCOUNT.fullmatch(name)
    ):
        return "kubernetes.io has no namespace and serviceaccount.name that are DNS names"
    if claims.get("sub") != f"system:serviceaccount:{namespace}:{name}":
        return f"sub {shown(claims.get('sub'))} is not the service account {name} of namespace {namespace}"
    return ""


@dataclass(frozen=True, slots=True)
class Kind:
    """One row: what a token of this kind must have, and what its claims mean."""

    name: str
    types: frozenset[str] = frozenset()  # the `typ`s, as `media_type` writes them; empty: the issuer's setting
    untyped: bool = False  # whether `typ` may be absent
    header: frozenset[str] | None = None  # the only header members; `None`: any that no step refuses
    without: frozenset[str] = frozenset()  # algorithms that it may never use
    required: tuple[str, ...] = ()  # beyond `aud`, `exp` and who it is about, which every token must have
    agent: str = "sub"  # the claim that names the agent
    user: str = ""  # the claim that names on whose behalf it acts
    acts: bool = False  # whether `act` says it instead, where it stands: then `agent` names the user (RFC 8693 §4.1)
    run: tuple[str, ...] = ("run",)  # the claims that name the run; they agree
    context: str = ""  # the claim with the transaction's facts
    rule: Callable[[Claims, str], str] | None = None  # what else is wrong, given the issuer's trust domain; or ""


_RFC_9068: Final = ("client_id", "iat", "jti")  # and `iss`, by which it was found
_OF_JWT: Final = frozenset({"jwt"})

KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("jwt", acts=True),
        # RFC 9068 §2.2 and §4.
        Kind("at+jwt", frozenset({AT_JWT}), required=_RFC_9068, acts=True),
        # JWT-SVID §2 and §3; §2.1 lists algorithms, and EdDSA is not among them.
        Kind(
            "jwt-svid",
            frozenset({"jwt", "jose"}),
            untyped=True,
            header=frozenset({"alg", "kid", "typ"}),
            without=frozenset({"EdDSA"}),
            rule=_workload,
        ),
        # What the TokenRequest API of Kubernetes signs.
        Kind("k8s", _OF_JWT, untyped=True, rule=_service_account),
        # draft-ietf-oauth-transaction-tokens-10, "Txn-Token Format".
        Kind(
            "txn-token",
            frozenset({"txntoken+jwt"}),
            required=("iat", "txn", "scope"),
            agent="req_wl",
            user="sub",
            run=("txn", "run"),
            context="tctx",
        ),
        # Our own, for sub-agents: an access token that always says who acts.
        Kind("gateway", frozenset({AT_JWT}), required=(*_RFC_9068, "act"), acts=True, context="tctx"),
    )
}
"""Every kind of token; `x509-svid` is none."""


def kinds_by_type(kinds: Iterable[str], types: Iterable[str]) -> dict[str | None, Kind]:
    """Which kind a `typ` means at an issuer of these kinds; `None` stands for no `typ`.

    `types` are those of its kind `jwt`. A kind that has its `typ` for itself comes before that one.
    """
    found: dict[str | None, Kind] = {}
    for kind in sorted((KINDS[name] for name in kinds if name in KINDS), key=lambda kind: bool(kind.types)):
        found |= dict.fromkeys(kind.types or map(media_type, types), kind)
        if kind.untyped:
            found[None] = kind
    return found


def media_type(typ: str) -> str:
    """A `typ` as it is compared: no case, and `application/` may be left out (RFC 7515 §4.1.9)."""
    return typ.lower().removeprefix("application/")


# Readers: each gives what it says, or raises `Flaw`.


def read_agent(kind: Kind, claims: Claims) -> tuple[str, str, tuple[str, ...]]:
    """The agent, on whose behalf it acts, and the earlier actors, latest first.

    The outermost `act` is who acts now. One with an `iss` of its own is another issuer's subject:
    this issuer cannot speak for it, whatever the name. Whoever is his own subject acts for nobody (I19).
    """
    agent = read_name(claims, kind.agent)
    if "act" not in claims:
        user = read_name(claims, kind.user) if kind.user else ""
        return agent, "" if user == agent else user, ()
    if not kind.acts:  # 14
        raise Flaw(f"act has no meaning in a token of kind {kind.name}, so that it is unclear who acts")
    actors: list[str] = []
    part = claims
    while "act" in part:
        act = part["act"]
        if not isinstance(act, dict):  # 14
            raise Flaw("act is not an object")
        part = act
        actors.append(read_name(part, "sub"))
        if len(actors) == 1 and part.get("iss", claims.get("iss")) != claims.get("iss"):  # 14
            raise Flaw("the acting party (act) is of another issuer")
    return actors[0], "" if agent == actors[0] else agent, tuple(actors[1:])


def read_name(claims: Claims, name: str) -> str:
    """A claim that is a name."""
    value = claims.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or _UNPRINTABLE.search(value):  # 14
        raise Flaw(f"{name} is not printable text of 1 to {MAX_NAME} characters")
    return value


def read_run(claims: Claims, *names: str) -> str | None:
    """The id of a run or an incarnation that one of these claims names, or several alike; `None` where none does."""
    found = None
    for name in names:
        if name in claims:
            value = claims[name]
            if not isinstance(value, str) or not RUN_ID.fullmatch(value):  # 14
                raise Flaw(f"{name} is not an id of 1 to 128 letters, digits and ._~:@+=-")
            if found is not None and value != found:  # 14
                raise Flaw(f"{' and '.join(names)} name different runs")
            found = value
    return found


def read_scope(claims: Claims) -> frozenset[str] | None:
    """The names in `scope` (RFC 8693 §4.2), `None` where it does not stand."""
    if "scope" not in claims:
        return None
    value = claims["scope"]
    if not isinstance(value, str) or _UNPRINTABLE.search(value):  # 14
        raise Flaw("scope is not text of names between spaces")
    return frozenset(value.split(" ")) - {""}


def read_limits(claims: Claims) -> tuple[tuple[str, int], ...]:
    """The limits that the issuer set; one that is not known cannot be kept, so the token is refused."""
    limits = claims.get("limits", {})
    if not isinstance(limits, dict):  # 14
        raise Flaw("limits is not an object")
    for name, value in limits.items():
        if name not in _LIMITS or type(value) is not int or not 0 <= value <= MAX_TIME:  # 14
            raise Flaw(f"limits has {shown(name)}, which is not a run's limit or not a whole number")
    return tuple(sorted(limits.items()))


_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})


def read_context(kind: Kind, claims: Claims) -> Mapping[str, object]:
    """The facts of the transaction, which nobody can change any more."""
    if not kind.context or kind.context not in claims:
        return _NOTHING
    value = claims[kind.context]
    if not isinstance(value, dict):  # 14
        raise Flaw(f"{kind.context} is not an object")
    return MappingProxyType({name: _frozen(member, MAX_DEPTH) for name, member in value.items()})


def _frozen(value: object, depth: int) -> object:
    if not depth:  # 14
        raise Flaw(f"the transaction's context is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        return MappingProxyType({name: _frozen(member, depth - 1) for name, member in value.items()})
    return tuple(_frozen(member, depth - 1) for member in value) if isinstance(value, list) else value


def lacking(kind: Kind, claims: Claims) -> list[str]:
    """The required claims that are not there, or say nothing."""
    return [name for name in kind.required if claims.get(name) in (None, "")]


def shown(value: object) -> str:
    """What a token says, short and escaped for a log line; of anything but text only the type."""
    if value is None:
        return "(none)"
    return repr(value[:100]) if isinstance(value, str) else type(value).__name__
