"""Delegation (RFC 8693): what a child's token says, and what it means when it comes back.

1. A child has what its parent has, or less: in every field what is asked for is compared with what the
   parent's own verified token allows, and what would be more is refused and named.
2. A child is its parent's agent: the same owner, team and category, so that every rule for the parent
   holds for it. Its subject is its parent's and its own name; who calls is never read from the history.
3. Delegating makes no user out of nothing: `on_behalf_of` is the user of the token that it began with.
4. Whatever can be stopped above a child stops it: its token names them all.
5. A token is read back as strictly as it was made, and what it rests on must still be there: the
   issuer that it began with, and the agent. Only the gateway's own issuer gives these claims a meaning.

Pure: the supervisor counts and signs (`process/granting.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from msgspec import structs

from gateway.core.call import Call
from gateway.core.errors import Refusal
from gateway.core.ids import new_id
from gateway.core.principal import ASSURANCE, Binding, Principal, StopKey, assured
from gateway.core.run import RunLimits, RunRef
from gateway.identity import api_keys
from gateway.identity.kinds import AT_JWT, KINDS, MAX_NAME, Claims, Flaw, read_name
from gateway.identity.principals import of_token
from gateway.identity.registry import Entry, one_segment
from gateway.identity.token_request import CHILD, PATTERN, Asked
from gateway.identity.tokens import Issuer, ValidClaims, expired, invalid

GATEWAY: Final = "gateway"
"""The name of the gateway's own issuer."""
ALG: Final = "ES256"
LONGEST: Final = 12 * 3600
"""Seconds that a child's token may live at most, so that a replaced key is soon not needed any more."""
USUAL: Final = 3600
"""Seconds that it lives where nothing else is asked."""
HISTORY: Final = 16
"""How many actors before the child a token names; the root's own history is cut beyond it."""


@dataclass(frozen=True, slots=True)
class OwnIssuer:
    """The gateway as an issuer: `iss`, the `aud` of its tokens, and what else names this very gateway."""

    iss: str
    audience: str
    resources: frozenset[str]

    @classmethod
    def of(cls, audience: str, public_url: str | None) -> OwnIssuer:
        """As the configuration says it; without a public URL the audience is all that names the gateway."""
        iss = public_url or audience
        return cls(iss, audience, frozenset((iss, audience)))

    def issuer(self) -> Issuer:
        """What is accepted from it, once its keys are there."""
        return Issuer(
            name=GATEWAY,
            iss=self.iss,
            algs=frozenset((ALG,)),
            kinds={AT_JWT: KINDS["gateway"]},
            max_lifetime=LONGEST,
            keys=None,
            fetched=True,
        )


class Wanted(NamedTuple):
    """A child's token before it is signed."""

    claims: dict[str, object]
    subject: str
    run: RunRef | None  # the run that counts it as a child; its owner is the root
    lives: int  # seconds


def child(
    parent: Principal,
    asked: Asked,
    *,
    own: OwnIssuer,
    run: RunRef | None,
    proven: str | None,
    limits: RunLimits,
    now: float,
) -> Wanted:
    """What the child of `parent` that was asked for may be; raises `Refusal` where it would be more than its parent.

    `run` is the parent's run, where its call names one; `proven` is the thumbprint of the key that the
    request's DPoP proof was signed with; `limits` are those of runs in the configuration.
    """
    for audience in asked.audiences:
        if audience not in own.resources:
            sentence = f"{audience[:100]!r} is not this gateway, and tokens for others are not given out"
            raise _more("audience", sentence, "invalid_target")
    root = parent.root or parent.owner
    subject = f"{parent.subject}/{asked.name or new_id('sub')[:20]}"
    if len(subject) > MAX_NAME:
        raise _more("name", f"the child's subject would be longer than {MAX_NAME} characters")
    binding = _binding(parent, asked.binding, proven)
    allowed = dict(parent.limits)
    if (deepest := _deepest(parent, asked.depth, limits)) is not None:
        allowed["depth"] = deepest
    expires = _expires(parent, asked.expires_in, now)
    scope = _scope(parent, asked.scope)
    tools = _within("tools", parent.tools, asked.tools)
    models = _within("models", parent.models, asked.models)
    assurance = min(parent.assurance, assured(binding), key=ASSURANCE.index)
    optional: dict[str, object | None] = {
        "scope": " ".join(sorted(scope)) if scope is not None else None,
        "cnf": {binding.method: binding.thumbprint} if binding else None,
        "run": run.key.id if run else None,
        "inc": run.incarnation if run else None,
        "parent_run": parent.parent_run if run else None,
        "limits": allowed or None,
        "tools": tools,
        "models": models,
        "tctx": _thawed(parent.context) or None,
    }
    claims: dict[str, object] = {
        "iss": own.iss,
        "sub": parent.on_behalf_of or root[1],
        "aud": own.audience,
        "exp": expires,
        "iat": int(now),
        "jti": new_id("tok"),
        "client_id": asked.client_id or subject,
        "act": {"sub": subject, "act": _history(parent, root[0])},
        "agent": parent.agent.id,
        "root": {"iss": root[0], "sub": root[1]},
        "vouched_by": parent.vouched_by,
        "depth": parent.depth + 1,
        "assurance": assurance,
        "parents": sorted(key.id for key in parent.stops if key.kind == "token"),
        **{name: value for name, value in optional.items() if value is not None},
    }
    return Wanted(claims, subject, run, expires - int(now))


def answer(wanted: Wanted, token: str, asked: Asked) -> dict[str, object]:
    """The successful answer of the token endpoint (RFC 8693 §2.2.1, RFC 9449 §5)."""
    claims = wanted.claims
    cnf = claims.get("cnf")
    told: dict[str, object] = {
        "access_token": token,
        "issued_token_type": asked.issued_token_type,
        "token_type": "DPoP" if isinstance(cnf, dict) and "jkt" in cnf else "Bearer",
        "expires_in": wanted.lives,
    }
    return told | ({"scope": claims["scope"]} if "scope" in claims else {})


class Delegates:
    """Reads tokens of the gateway's own issuer back; `entries` are the registered agents."""

    def __init__(self, own: OwnIssuer, entries: Iterable[Entry], issuers: Mapping[str, str]) -> None:
        """`issuers` are the names of the configured ones by their own identifier; API keys vouch for roots too."""
        self.own = own
        self._entries = {entry.agent.id: entry for entry in entries}
        self._issuers = {**issuers, api_keys.IDENTIFIER: api_keys.ISSUER}

    def principal(self, valid: ValidClaims) -> Principal:
        """Who the child is; raises `Refusal` (`identity_invalid`, `agent_unknown`)."""
        try:
            return self._read(valid)
        except Flaw as flaw:
            raise invalid(f"a token of the gateway's own: {flaw}") from None

    def _read(self, valid: ValidClaims) -> Principal:
        claims = valid.claims
        owner = claims.get("root")
        if not isinstance(owner, dict) or owner.keys() != {"iss", "sub"}:
            raise Flaw("root is not an object of iss and sub")
        root = read_name(owner, "iss"), read_name(owner, "sub")
        vouched_by = read_name(claims, "vouched_by")
        if self._issuers.get(root[0]) != vouched_by:
            raise Flaw(f"issuer {vouched_by}, with which the delegation began, is not configured any more")
        names = valid.subject.removeprefix(f"{root[1]}/").split("/")
        depth = claims.get("depth")
        below = valid.subject.startswith(f"{root[1]}/") and all(map(CHILD.fullmatch, names))
        if not below or type(depth) is not int or depth != len(names):  # a bool is an int to isinstance
            raise Flaw("the subject is not its root's followed by as many names as it is deep")
        assurance = read_name(claims, "assurance")
        if assurance not in ASSURANCE:
            raise Flaw("assurance is none that there is")
        agent_id = read_name(claims, "agent")
        entry = self._entries.get(agent_id)
        parents = _texts(claims, "parents")
        if parents is None or len(parents) < len(names):
            raise Flaw("parents does not name the token of each parent")
        if entry is None or not _is_of(entry, vouched_by, root[1], parents):
            raise Refusal(
                "agent_unknown",
                f"the token was delegated by agent {agent_id}, which is not registered any more with this subject; "
                "ask an operator to add it under `agents:`, or get a token of another agent",
                fields={"issuer": vouched_by, "subject": root[1]},
            )
        path = [agent_id, *("/".join((agent_id, *names[: number + 1])) for number in range(len(names)))]
        tokens = (valid.token_id, *parents)
        return structs.replace(
            of_token(valid, entry.agent),
            assurance=min(assurance, assured(valid.binding), key=ASSURANCE.index),
            on_behalf_of="" if valid.on_behalf_of == root[1] else valid.on_behalf_of,
            depth=len(names),
            vouched_by=vouched_by,
            root=root,
            tools=_patterns(claims, "tools"),
            models=_patterns(claims, "models"),
            stops=frozenset(
                {StopKey("agent", one) for one in path}
                | {StopKey("issuer", one) for one in (valid.issuer.name, vouched_by)}
                | {StopKey("token", one) for one in tokens}
            ),
        )


def check_reach(principal: Principal, call: Call) -> None:
    """A child uses only what was handed on to it; raises `Refusal` (`scope_exceeded`)."""
    field, name, allowed = (
        ("models", call.model, principal.models) if call.kind == "llm" else ("tools", call.tool, principal.tools)
    )
    if allowed is None or call.kind == "own" or _covered(name, allowed):
        return
    raise Refusal(
        "scope_exceeded",
        f"the token was delegated for {field} {_listed(allowed)}, and {name[:100]!r} is none of them; "
        "use one of these, or have the parent delegate more",
        fields={field[:-1]: name[:200], "allowed": list(allowed)},
    )


def may_reach(principal: Principal, model: str) -> bool:
    """Whether a model is among those that were handed on; for lists."""
    return principal.models is None or _covered(model, principal.models)


# -- narrowing, a field each


def _binding(parent: Principal, asked: Binding | None, proven: str | None) -> Binding | None:
    """The child's key: the one that was asked for, else the request's own; a bound parent's child has one."""
    if asked is not None:
        return asked
    if proven is not None:
        return Binding("jkt", proven)
    if parent.binding is not None and parent.binding.method == "jkt":
        raise _more("req_cnf", "the parent's token is bound to a key, so the child's must be; name the child's key")
    return parent.binding


def _deepest(parent: Principal, asked: int | None, limits: RunLimits) -> int | None:
    """The depth that nobody below the child may exceed, `None` where nothing but the configuration says so."""
    most, depth = limits.narrowed(parent.limits).depth, parent.depth + 1
    if most is not None and depth > most:
        raise Refusal(
            "run_limit",
            f"depth: an agent may delegate to a depth of {most}, and this would be {depth}; have the limit raised: "
            "it is the token's, or runs.limits.depth of the configuration",
            fields={"limit": "depth", "allowed": most, "used": depth - 1, "parameter": "depth"},
        )
    if asked is None:
        return dict(parent.limits).get("depth")
    if most is not None and depth + asked > most:
        raise _more("depth", f"the child may have children to a depth of {most - depth} below it at most")
    return depth + asked


def _expires(parent: Principal, asked: int | None, now: float) -> int:
    left = math.floor(parent.expires - now)
    if left < 1:
        raise expired(int(parent.expires))
    most = min(left, LONGEST)
    if asked is not None and not 1 <= asked <= most:
        raise _more("expires_in", f"the child's token may live for 1 to {most} s, as long as the parent's at most")
    return int(now) + (asked or min(most, USUAL))


def _scope(parent: Principal, asked: frozenset[str] | None) -> frozenset[str] | None:
    """A token without `scope` has none to hand on."""
    if asked is None:
        return parent.scope
    if extra := sorted(asked - (parent.scope or frozenset())):
        raise _more("scope", f"the parent's token does not have {' '.join(extra)[:200]}", "invalid_scope")
    return asked


def _within(field: str, parent: tuple[str, ...] | None, asked: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if asked is None or parent is None:
        return asked if parent is None else parent
    if extra := [pattern for pattern in asked if not _covered(pattern, parent)]:
        raise _more(field, f"the parent may not use {_listed(extra)}; it may use {_listed(parent)}")
    return asked


def _covered(name: str, patterns: Iterable[str]) -> bool:
    """Whether all that a name or pattern stands for is within one of the patterns."""
    return any(name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern for pattern in patterns)


def not_to_be_handed_on() -> Refusal:
    """The refusal of a token with `may_act`: whoever it names, a child that is only now made up is not meant."""
    return _more(
        "subject_token",
        "its claim `may_act` says who alone may act for its subject, and that is no child of its agent; "
        "ask its issuer for one without",
    )


def _more(parameter: str, sentence: str, error: str = "invalid_request") -> Refusal:
    """The refusal of what would be more than the parent has."""
    fields: dict[str, object] = {"error": error, "parameter": parameter}
    return Refusal("scope_exceeded", f"{parameter}: {sentence}", fields=fields, status=400)


# -- reading and writing claims


def _history(parent: Principal, root_iss: str) -> dict[str, object]:
    """The earlier actors as nested `act` (RFC 8693 §4.1), latest outermost; the root's says whose subject it is."""
    actors = (parent.subject, *parent.chain)[: max(HISTORY, parent.depth + 1)]
    nested: dict[str, object] = {}
    for place, name in reversed(list(enumerate(actors))):
        of = {"iss": root_iss} if place == parent.depth else {}
        nested = {"sub": name, **of, **({"act": nested} if nested else {})}
    return nested


def _is_of(entry: Entry, issuer: str, subject: str, parents: tuple[str, ...]) -> bool:
    """Whether the root is still this agent, as far as it can be told without the claims of the root's own token."""
    if issuer == api_keys.ISSUER:
        return entry.agent.id == subject and not set(entry.keys).isdisjoint(parents)
    return entry.issuer == issuer and entry.subject in {subject, one_segment(subject), ""}


def _thawed(value: object) -> object:
    """A transaction's context as JSON writes it."""
    if isinstance(value, Mapping):
        return {name: _thawed(member) for name, member in value.items()}
    return [_thawed(member) for member in value] if isinstance(value, tuple) else value


def _texts(claims: Claims, name: str) -> tuple[str, ...] | None:
    if name not in claims:
        return None
    value = claims[name]
    if not isinstance(value, list) or not value or not all(isinstance(one, str) and one for one in value):
        raise Flaw(f"{name} is not a list of names")
    return tuple(value)


def _patterns(claims: Claims, name: str) -> tuple[str, ...] | None:
    patterns = _texts(claims, name)
    if patterns is not None and not all(map(PATTERN.fullmatch, patterns)):
        raise Flaw(f"{name} is not a list of names that may end in *")
    return patterns


def _listed(names: Iterable[str]) -> str:
    """Names for a sentence, cut where there are many."""
    text = ", ".join(names)
    return text if len(text) <= 300 else f"{text[:300]}…"  # noqa: PLR2004 - a few lines
