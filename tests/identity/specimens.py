"""A good token of each kind, at the door that it is for, and what each of its members means.

`meaning` is a second reading of the rules, by members instead of steps: it shares no code with the gateway, so that
the two cannot agree on a mistake. What stands in none of its tables means nothing: whatever an issuer writes there,
the caller is the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeGuard

from msgspec import structs

from gateway.core.errors import Refusal
from gateway.core.principal import Principal, StopKey
from gateway.identity.settings import AgentSettings
from tests.identity.door import CHAT, PUBLIC_URL, Alone, Door, head, issuer_settings
from tests.identity.family import Desk
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer

ACCOUNT: Final = "system:serviceaccount:pay:buyer"
USER: Final = "user/anna"
SKEW, LONGEST = 30, 12 * 3600
Members = dict[str, Any]


@dataclass
class Specimen:
    """A good token with its signer, its door, and who its bearer is there."""

    signer: Issuer
    kind: str
    door: Door
    runner: asyncio.Runner = field(repr=False)
    header: Members
    claims: Members
    token: str = field(init=False, repr=False)
    principal: Principal = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Sign it; it must be good."""
        self.token = self.signer.sign(self.header, self.claims)
        principal = self.judge(self.token)
        assert principal is not None
        self.principal = principal

    @property
    def now(self) -> float:
        """When all of this happens."""
        return self.door.clock.time

    def judge(self, token: str, name: str = "Authorization") -> Principal | None:
        """Who the bearer of a token is, `None` where it is refused; nothing else may happen."""
        request = head((name, f"Bearer {token}" if name == "Authorization" else token))
        try:
            return self.runner.run(self.door.identity.identify(request, CHAT, Alone()))
        except Refusal:
            return None

    def __str__(self) -> str:
        return f"{self.kind} {self.signer.alg}"


SPECIMENS: Final = (
    ("jwt", "EdDSA"), ("jwt", "ES256"), ("jwt", "RS256"), ("jwt", "ES512"), ("jwt", "PS256"),
    ("at+jwt", "EdDSA"), ("at+jwt", "ES256"), ("at+jwt", "RS256"),
    ("jwt-svid", "ES256"), ("jwt-svid", "RS256"),
    ("k8s", "ES256"), ("k8s", "RS256"),
    ("txn-token", "EdDSA"), ("txn-token", "ES256"), ("txn-token", "RS256"),
    ("gateway", "ES256"),
)  # fmt: skip
"""Each kind with the algorithms that it is tried with."""


def specimen(kind: str, alg: str, folder: Path, runner: asyncio.Runner) -> Specimen:
    """A good token; `folder` is for the keys of the gateway's own."""
    clock = SetClock()
    if kind == "gateway":
        return _delegated(folder, clock, runner)
    issuer = Issuer(alg=alg, kind=kind, subject=ACCOUNT if kind == "k8s" else Issuer.subject)
    wanted = {"azp": "app-7"} if kind == "jwt" else {}
    agents = [AgentSettings(id="procurement", issuer="dev", subject=issuer.subject, claims=wanted)]
    door = Door(issuer, clock=clock, agents=agents, settings=[issuer_settings(issuer, algs=(alg,))])
    sets_apart: dict[str, Members] = {"k8s": {"nbf": int(clock.time)}, "txn-token": {"limits": {"steps": 9}}}
    more = sets_apart.get(kind, {})
    if kind in {"jwt", "at+jwt"}:
        act = {"sub": issuer.subject, "act": {"sub": "planner"}}
        more = {"sub": USER, "act": act, "run": "r-1", "inc": "i-1", "parent_run": "r-0", "scope": "pay read", **wanted}
    return Specimen(issuer, kind, door, runner, issuer.header(), issuer.claims(clock.time, **more))


def _delegated(folder: Path, clock: SetClock, runner: asyncio.Runner) -> Specimen:
    """A child's token as the gateway makes it, with a key that a test may sign with too."""
    root, own = Issuer(), Issuer(name="gateway", iss=PUBLIC_URL, alg="ES256", kid="own-1")
    desk = Desk(Door(root, clock=clock), folder)
    parent = root.token(clock.time, sub=USER, act={"sub": root.subject}, scope="pay read", limits={"depth": 3})
    wanted, _ = desk.wants(parent, name="worker", tools="pay.* look", models="gpt-4o")
    desk.door.identity.adopt({"gateway": own.jwks()})
    header, claims = {"alg": "ES256", "typ": "at+jwt", "kid": "own-1"}, json.loads(json.dumps(wanted.claims))
    return Specimen(own, "gateway", desk.door, runner, header, claims)


# -- what members mean

_COMMON: Final = {"iss", "aud", "exp", "iat", "nbf", "jti", "cnf", "sub", "act", "inc", "parent_run", "scope", "limits"}
READ: Final[Mapping[str, frozenset[str]]] = {
    "jwt": frozenset(_COMMON | {"run", "azp"}),  # `azp`: the registry asks for it, as for any claim that it names
    "at+jwt": frozenset(_COMMON | {"run", "client_id"}),
    "jwt-svid": frozenset(_COMMON | {"run"}),
    "k8s": frozenset(_COMMON | {"run", "kubernetes.io"}),
    "txn-token": frozenset(_COMMON | {"run", "txn", "req_wl", "tctx"}),
    "gateway": frozenset(
        _COMMON | {"run", "client_id", "tctx", "agent", "root", "vouched_by", "depth", "assurance", "parents", "tools"}
        | {"models"}
    ),
}  # fmt: skip
"""The claims that mean something, by kind; every other one means nothing."""
_TYPES: Final[dict[str, set[str | None]]] = {
    "jwt": {"at+jwt", "jwt"}, "at+jwt": {"at+jwt"}, "jwt-svid": {"jwt", "jose", None}, "k8s": {"jwt", None},
    "txn-token": {"txntoken+jwt"}, "gateway": {"at+jwt"},
}  # fmt: skip
_NEEDED: Final[dict[str, tuple[str, ...]]] = {
    "at+jwt": ("client_id", "iat", "jti"),
    "txn-token": ("iat", "txn", "scope"),
}
_NEEDED["gateway"] = (*_NEEDED["at+jwt"], "act")
_LIMITS: Final = {"steps", "tool_calls", "tokens", "duration", "depth", "children"}
_RUN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~:@+=-]{0,127}")
_CHILD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~@+=-]{0,127}")
_PATTERN: Final = re.compile(r"[!#-)+-\[\]-~]+\*?|\*")  # no space, quote or backslash; a star at the end alone
_LAST_SECOND: Final = 253_402_300_799


class Nobody(Exception):
    """A token of these members is refused."""


def need(fact: object) -> None:
    """Go on if it is so."""
    if not fact:
        raise Nobody


def meaning(one: Specimen, header: Members, claims: Members, token: str) -> Principal:
    """Who the bearer of a signed token of these members is; raises `Nobody`."""
    _read_header(one, header)
    need(all(claims.get(name) not in (None, "") for name in _NEEDED.get(one.kind, ())))
    expires = _times(one, claims)
    subject, user, chain = _actors(one.kind, claims)
    need("cnf" not in claims)  # none of these tokens comes with a proof
    need(claims.get("aud") in (Issuer.audience, [Issuer.audience]))
    need(claims.get("iss", one.signer.iss if one.kind == "jwt-svid" else None) == one.signer.iss)
    signed = token.rpartition(".")[0]
    token_id = _name(claims["jti"]) if "jti" in claims else hashlib.sha256(signed.encode()).hexdigest()
    limits, runs = claims.get("limits", {}), {claims[name] for name in ("run", "txn") if _names_run(one, claims, name)}
    need(isinstance(limits, dict) and all(name in _LIMITS and _count(value) for name, value in limits.items()))
    need(len(runs) < 2)
    found: dict[str, Any] = {
        "subject": subject,
        "on_behalf_of": "" if user == subject else user,
        "chain": chain,
        "token_id": token_id,
        "expires": float(expires),
        "run": _run(runs.pop()) if runs else None,
        "incarnation": _run(claims["inc"]) if "inc" in claims else None,
        "parent_run": _run(claims["parent_run"]) if "parent_run" in claims else None,
        "scope": _scope(claims),
        "limits": tuple(sorted(limits.items())),
        "context": _context(one.kind, claims),
    }
    if one.kind == "gateway":
        found |= _child(claims, subject, token_id)
    else:
        need(subject == one.principal.subject)  # the only one that is registered
        need(one.kind != "jwt" or claims.get("azp") == "app-7")
        need(one.kind != "k8s" or _service_account(claims))
        found["stops"] = frozenset(
            (StopKey("agent", "procurement"), StopKey("issuer", "dev"), StopKey("token", token_id))
        )
    return structs.replace(one.principal, **found)


def _read_header(one: Specimen, header: Members) -> None:
    need(not header.keys() & {"crit", "jku", "jwk", "x5u", "x5c"})
    need(one.kind != "jwt-svid" or header.keys() <= {"alg", "kid", "typ"})
    need(header.get("alg") == one.signer.alg)
    need(header.get("kid", one.signer.kid) == one.signer.kid)
    typ = header.get("typ")
    need(isinstance(typ, str) if "typ" in header else None in _TYPES[one.kind])
    need(not isinstance(typ, str) or typ.lower().removeprefix("application/") in _TYPES[one.kind])


def _times(one: Specimen, claims: Members) -> int:
    exp, iat, nbf = (_second(claims.get(name, default)) for name, default in (("exp", None), ("iat", 0), ("nbf", 0)))
    need(max(iat, nbf) <= one.now + SKEW and max(iat, nbf) < exp and one.now < exp + SKEW)
    need(exp - (iat if "iat" in claims else one.now + SKEW) <= LONGEST)
    return exp


def _actors(kind: str, claims: Members) -> tuple[str, str, tuple[str, ...]]:
    if kind not in {"jwt", "at+jwt", "gateway"}:
        need("act" not in claims)
        agent = _name(claims.get("req_wl" if kind == "txn-token" else "sub"))
        return agent, _name(claims.get("sub")) if kind == "txn-token" else "", ()
    actors, part = [_name(claims.get("sub"))], claims
    while "act" in part:
        if not isinstance(part["act"], dict):
            raise Nobody
        part = part["act"]
        need(len(actors) > 1 or part.get("iss", claims.get("iss")) == claims.get("iss"))
        actors.append(_name(part.get("sub")))
    user, *acting = actors
    return (acting[0], user, tuple(acting[1:])) if acting else (user, "", ())


def _service_account(claims: Members) -> bool:
    there = claims.get("kubernetes.io")
    if not isinstance(there, dict) or not isinstance(there.get("serviceaccount"), dict):
        return False
    return (there.get("namespace"), there["serviceaccount"].get("name")) == ("pay", "buyer")


def _child(claims: Members, subject: str, token_id: str) -> Members:
    """What the gateway's own tokens say beyond others'."""
    need(claims.get("root") == {"iss": "https://issuer.example", "sub": Issuer.subject})
    need((claims.get("vouched_by"), claims.get("agent")) == ("dev", "procurement"))
    need(type(claims.get("depth")) is int and claims["depth"] == 1)
    path, _, name = subject.rpartition("/")
    need(path == Issuer.subject and _CHILD.fullmatch(name))
    assurance, parents = claims.get("assurance"), claims.get("parents")
    need(isinstance(assurance, str) and assurance in {"key", "bearer", "bound", "mtls"})
    need(isinstance(parents, list) and parents and all(isinstance(one, str) and one for one in parents))
    lists: Members = {field: _patterns(claims[field]) for field in ("tools", "models") if field in claims}
    stops = {("agent", "procurement"), ("agent", f"procurement/{name}"), ("issuer", "gateway"), ("issuer", "dev")}
    stops |= {("token", one) for one in (token_id, *(parents or ()))}
    user = claims["sub"]
    return {
        "tools": None,
        "models": None,
        **lists,
        "assurance": "key" if assurance == "key" else "bearer",
        "stops": frozenset(StopKey(*stop) for stop in stops),
        "on_behalf_of": "" if user in {Issuer.subject, subject} else user,
    }


def _patterns(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise Nobody
    need(all(isinstance(one, str) and _PATTERN.fullmatch(one) for one in value))
    return tuple(value)


def _second(value: object) -> int:
    if type(value) is not int or not _count(value):
        raise Nobody
    return value


def _count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= _LAST_SECOND


def _name(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 2048:
        raise Nobody
    need(not any(letter < " " or "\x7f" <= letter <= "\x9f" or letter in "\u2028\u2029" for letter in value))
    return value


def _names_run(one: Specimen, claims: Members, name: str) -> bool:
    if name not in claims or (name == "txn" and one.kind != "txn-token"):
        return False
    need(isinstance(claims[name], str))
    return True


def _run(value: object) -> str:
    if not isinstance(value, str) or not _RUN.fullmatch(value):
        raise Nobody
    return value


def _scope(claims: Members) -> frozenset[str] | None:
    if "scope" not in claims:
        return None
    if claims["scope"] == "":
        return frozenset()
    need(isinstance(claims["scope"], str))
    letters = claims["scope"].replace(" ", "")
    need(not letters or (_name(letters[:2048]) and all(_name(letter) for letter in letters)))
    return frozenset(name for name in claims["scope"].split(" ") if name)


def _context(kind: str, claims: Members) -> Mapping[str, object]:
    if kind not in {"txn-token", "gateway"} or "tctx" not in claims:
        return {}
    need(isinstance(claims["tctx"], dict))
    return {name: _frozen(value, 8) for name, value in claims["tctx"].items()}


def _frozen(value: object, room: int) -> object:
    need(room)
    if isinstance(value, dict):
        return {name: _frozen(part, room - 1) for name, part in value.items()}
    return tuple(_frozen(part, room - 1) for part in value) if isinstance(value, list) else value
