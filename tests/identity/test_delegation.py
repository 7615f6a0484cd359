"""Delegation: a child has what its parent has, or less, and rests on everything that its parent rests on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.call import Call
from gateway.core.errors import Refusal
from gateway.core.principal import ASSURANCE, Principal, StopKey
from gateway.core.run import RunLimits
from gateway.identity import delegation
from gateway.identity.api_keys import key_digest, new_key
from gateway.identity.delegation import HISTORY, LONGEST, check_reach, may_reach
from gateway.identity.settings import AgentSettings
from gateway.identity.token_request import ACCESS_TOKEN, MAX_FORM, TOKEN_TYPES, read_form
from tests.identity.door import PUBLIC_URL, Door, issuer_settings
from tests.identity.family import FORM, Desk, form, request
from tests.simulator.authority import Authority
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer
from tests.simulator.prover import Prover

STEADY = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
"""A busy machine fails no property."""

ROOT = "spiffe://acme.example/agent/procurement"


@pytest.fixture
def desk(door: Door, tmp_path: Path) -> Desk:
    return Desk(door, tmp_path)


@pytest.fixture
def root(issuer: Issuer, clock: SetClock) -> str:
    """The token of an agent that acts for a user."""
    return issuer.token(clock.time, sub="user/anna", act={"sub": ROOT}, jti="t-root", scope="read write")


def llm(model: str) -> Call:
    return Call("llm", "openai", "chat", "POST", model=model)


def tool(name: str) -> Call:
    return Call("tool", "http", "tool", "POST", tool=name)


# -- what a child is


def test_a_child_is_its_parents_agent(desk: Desk, root: str) -> None:
    """The child keeps agent, team and user, has its parent in front of its name, and nobody's rank but its own."""
    parent = desk.door.admits(root)
    child = desk.child(root, name="billing")
    assert (child.agent, child.on_behalf_of, child.vouched_by) == (parent.agent, "user/anna", "dev")
    assert (child.issuer, child.iss, child.subject) == ("gateway", PUBLIC_URL, f"{ROOT}/billing")
    assert (child.depth, child.chain, child.root) == (1, (ROOT,), parent.owner)
    assert child.scope == frozenset(("read", "write"))
    assert (child.assurance, child.tools, child.models) == ("bearer", None, None)
    assert child.owner != parent.owner
    assert parent.depth == 0


def test_a_grandchild_names_all_above_it(desk: Desk, root: str) -> None:
    """Each step down is one name more; the chain is history, latest first, and whatever is stopped above stops it."""
    first = desk.grants(root, name="billing")
    parent, child = desk.door.admits(first), desk.child(first, name="check-1")
    assert child.subject == f"{ROOT}/billing/check-1"
    assert (child.depth, child.chain) == (2, (f"{ROOT}/billing", ROOT))
    assert child.on_behalf_of == "user/anna"
    assert child.stops == {
        StopKey("agent", "procurement"),
        StopKey("agent", "procurement/billing"),
        StopKey("agent", "procurement/billing/check-1"),
        StopKey("issuer", "gateway"),
        StopKey("issuer", "dev"),
        StopKey("token", "t-root"),
        StopKey("token", parent.token_id),
        StopKey("token", child.token_id),
    }


def test_delegating_makes_no_user(desk: Desk, issuer: Issuer, clock: SetClock) -> None:
    """I19: the child of an agent that acts on its own acts for nobody, however deep."""
    alone = issuer.token(clock.time)
    first = desk.grants(alone, name="a")
    assert desk.door.admits(first).on_behalf_of == ""
    assert desk.child(first, name="b").on_behalf_of == ""


def test_an_admin_in_the_history_is_history(desk: Desk, issuer: Issuer, clock: SetClock) -> None:
    """I18: a nested `act` that names an admin changes neither who the child is nor what it may."""
    nested = {"sub": ROOT, "act": {"sub": "admin", "act": {"sub": "spiffe://acme.example/agent/treasury"}}}
    plain = desk.child(issuer.token(clock.time, sub="user/anna", act={"sub": ROOT}), name="a")
    child = desk.child(issuer.token(clock.time, sub="user/anna", act=nested), name="a")
    assert child.chain == (ROOT, "admin", "spiffe://acme.example/agent/treasury")
    for field in ("agent", "subject", "on_behalf_of", "owner", "depth", "scope", "tools", "models", "assurance"):
        assert getattr(child, field) == getattr(plain, field)


def test_a_token_that_names_its_actor_is_not_handed_on(desk: Desk, issuer: Issuer, clock: SetClock) -> None:
    """RFC 8693 §4.4: where `may_act` says who may act, no other party does; the agent itself still may."""
    token = issuer.token(clock.time, may_act={"sub": "somebody/else"})
    refusal = desk.refuses(token, name="reader")
    assert (refusal.code, refusal.status, refusal.fields["parameter"]) == ("scope_exceeded", 400, "subject_token")
    assert "may_act" in refusal.sentence
    assert desk.door.admits(token).subject == issuer.subject


def test_a_long_history_is_cut(desk: Desk, issuer: Issuer, clock: SetClock) -> None:
    """A root with a long history of its own still delegates; what is oldest is left out, the root never."""
    act: dict[str, object] = {"sub": "first"}
    for number in range(40):
        act = {"sub": f"actor-{number}", "act": act}
    child = desk.child(issuer.token(clock.time, sub="user/anna", act={"sub": ROOT, "act": act}), name="a")
    assert len(child.chain) == HISTORY
    assert child.chain[:2] == (ROOT, "actor-39")


def test_the_token_is_an_access_token(desk: Desk, root: str, clock: SetClock) -> None:
    """RFC 9068 §2.2 and RFC 8693 §4: the claims have their standard places; another issuer's subject says whose."""
    wanted, answer = desk.wants(root, name="billing", client_id="worker", tools="pay.* git.read", expires_in=600)
    claims = wanted.claims
    assert (claims["iss"], claims["sub"], claims["aud"]) == (PUBLIC_URL, "user/anna", "https://gateway.example")
    assert (claims["client_id"], claims["scope"]) == ("worker", "read write")
    assert claims["act"] == {"sub": f"{ROOT}/billing", "act": {"sub": ROOT, "iss": "https://issuer.example"}}
    assert (claims["exp"], claims["iat"]) == (int(clock.time) + 600, int(clock.time))
    assert answer == {
        "access_token": answer["access_token"],
        "issued_token_type": ACCESS_TOKEN,
        "token_type": "Bearer",
        "expires_in": 600,
        "scope": "read write",
    }


def test_without_a_name_it_gets_one(desk: Desk, root: str) -> None:
    """Two children without a name are two children."""
    assert desk.child(root).subject != desk.child(root).subject


def test_a_transactions_facts_are_handed_on(clock: SetClock, tmp_path: Path) -> None:
    """What a transaction token says of its business stays as it is, all the way down."""
    issuer = Issuer()
    door = Door(
        issuer,
        clock=clock,
        settings=[issuer_settings(issuer, kinds=("txn-token",))],
        agents=[AgentSettings(id="a", issuer="dev", subject=ROOT)],
    )
    context = {"order": {"id": "Ä1", "lines": [1, 2.5, None]}, "amount": 10**30, "agreed": True, "notes": {}}
    claims = issuer.claims(clock.time, sub="user/anna", req_wl=ROOT, txn="txn-1", scope="pay", tctx=context)
    token = issuer.sign(issuer.header(typ="txntoken+jwt"), claims)
    desk = Desk(door, tmp_path)
    child = desk.child(desk.grants(token, name="a"), name="b")
    assert child.context == door.admits(token).context
    assert child.run == "txn-1"


# -- what it may not be


@pytest.mark.parametrize(
    ("parameter", "value", "error"),
    [
        ("scope", "read admin", "invalid_scope"),
        ("tools", "pay.charge git.read", "invalid_request"),
        ("tools", "pay*", "invalid_request"),
        ("tools", "*", "invalid_request"),
        ("models", "gpt-5", "invalid_request"),
        ("models", "gpt-4*", "invalid_request"),
        ("depth", 4, "invalid_request"),
        ("expires_in", 3000, "invalid_request"),
        ("expires_in", 0, "invalid_request"),
        ("audience", "https://other.example", "invalid_target"),
        ("resource", "https://other.example/api", "invalid_target"),
        ("resource", ["https://gateway.example", "https://other.example/api"], "invalid_target"),
    ],
)
def test_widening_is_refused_and_named(desk: Desk, root: str, parameter: str, value: object, error: str) -> None:
    """Whatever is more than the parent has is refused with the word of its RFC, and says which parameter it was."""
    parent = desk.grants(
        root, name="a", scope="read", tools="pay.charge pay.refund*", models="gpt-4o", depth=2, expires_in=1800
    )
    more: dict[str, Any] = {parameter: value}
    refusal = desk.refuses(parent, **more)
    named = "audience" if parameter == "resource" else parameter
    assert (refusal.code, refusal.status, refusal.fields["error"]) == ("scope_exceeded", 400, error)
    assert refusal.fields["parameter"] == named
    assert refusal.sentence.startswith(f"{named}: ")


def test_narrowing_is_what_it_is_for(desk: Desk, root: str) -> None:
    """Less in every field is granted as it was asked for."""
    parent = desk.grants(root, name="a", scope="read", tools="pay.*", models="gpt-*", depth=2, expires_in=1800)
    asked: dict[str, Any] = {
        "scope": "read",
        "tools": "pay.charge pay.refund*",
        "models": "gpt-4o",
        "depth": 0,
        "expires_in": 60,
    }
    child = desk.child(parent, name="b", audience="https://gateway.example", **asked)
    assert (set(child.scope or ()), child.tools, child.models) == ({"read"}, ("pay.charge", "pay.refund*"), ("gpt-4o",))
    assert dict(child.limits) == {"depth": 2}
    assert child.expires == desk.door.clock.time + 60


def test_what_is_not_asked_for_is_handed_on_as_it_is(desk: Desk, issuer: Issuer, clock: SetClock) -> None:
    """Whoever asks for nothing gets what the parent has: its tools, models, scope and limits, and not all there are."""
    limits = {"steps": 9, "tokens": 5000}
    parent = desk.grants(issuer.token(clock.time, scope="read", limits=limits), tools="pay.*", models="gpt-4o")
    child = desk.child(parent)
    assert (child.tools, child.models, child.scope) == (("pay.*",), ("gpt-4o",), frozenset(("read",)))
    assert dict(child.limits) == limits


def test_a_token_without_scope_has_none_to_hand_on(desk: Desk, issuer: Issuer, clock: SetClock) -> None:
    """A scope is a grant: where the parent has none, asking for one would make it out of nothing."""
    assert desk.refuses(issuer.token(clock.time), scope="admin").fields["error"] == "invalid_scope"
    assert desk.child(issuer.token(clock.time)).scope is None


@pytest.mark.parametrize(("by_token", "by_config", "levels"), [(None, 2, 2), (1, 4, 1), (3, 2, 2), (0, None, 0)])
def test_depth(
    desk: Desk, issuer: Issuer, clock: SetClock, by_token: int | None, by_config: int | None, levels: int
) -> None:
    """Delegation ends at the lesser of the token's and the configuration's depth, and says so."""
    desk.limits = RunLimits(depth=by_config)
    token = issuer.token(clock.time, **({} if by_token is None else {"limits": {"depth": by_token}}))
    for level in range(levels):
        token = desk.grants(token, name=f"n{level}")
    refusal = desk.refuses(token, name="one-more")
    assert (refusal.code, refusal.fields["limit"], refusal.fields["parameter"]) == ("run_limit", "depth", "depth")
    assert refusal.sentence.startswith("depth: ")


def test_depth_that_was_asked_for_ends_it(desk: Desk, root: str) -> None:
    """`depth=0` means no children below; `depth=1` means one more level."""
    assert desk.refuses(desk.grants(root, name="a", depth=0), name="b").code == "run_limit"
    child = desk.grants(desk.grants(root, name="a", depth=1), name="b")
    assert desk.refuses(child, name="c").code == "run_limit"


def test_lifetime(desk: Desk, issuer: Issuer, clock: SetClock) -> None:
    """As long as the parent's and an hour at most where nothing is asked; never longer than its parent."""
    short = issuer.token(clock.time, exp=int(clock.time) + 90)
    assert desk.child(short).expires == clock.time + 90
    long = issuer.token(clock.time, exp=int(clock.time) + 12 * 3600)
    assert desk.child(long).expires == clock.time + 3600
    clock.pass_(100)
    assert desk.refuses(short).code == "identity_expired"
    assert desk.child(long, expires_in=12 * 3600 - 100).expires == clock.time + 12 * 3600 - 100
    assert desk.refuses(long, expires_in=12 * 3600 - 99).fields["parameter"] == "expires_in"


def test_an_expired_parent_has_nothing_to_hand_on(desk: Desk, issuer: Issuer, clock: SetClock) -> None:
    """Within the skew a parent's token still counts for calls; a child of it would live past its end."""
    token = issuer.token(clock.time, exp=int(clock.time) + 5)
    clock.pass_(10)
    desk.door.admits(token)
    assert desk.refuses(token).code == "identity_expired"


def test_keys_for_development_delegate_for_twelve_hours(issuer: Issuer, clock: SetClock, tmp_path: Path) -> None:
    """An API key does not end; its children do, have its low assurance, and go with it."""
    key = new_key()
    agents = [AgentSettings(id="dev-agent", key_sha256=(key_digest(key),))]
    door = Door(issuer, clock=clock, agents=agents)
    desk = Desk(door, tmp_path)
    token = desk.grants(key, name="a", expires_in=LONGEST)
    child = door.admits(token)
    assert (child.agent.id, child.assurance, child.vouched_by) == ("dev-agent", "key", "api-key")
    assert desk.refuses(key, expires_in=LONGEST + 1).fields["parameter"] == "expires_in"
    other = Door(issuer, clock=clock, agents=[AgentSettings(id="dev-agent", key_sha256=(key_digest(new_key()),))])
    other.identity.adopt({"gateway": desk.keys.jwks})
    other.refuses(token, code="agent_unknown")


NAMES = ("pay.charge", "pay.refund", "pay.refund_all", "git.read", "payroll.run", "*x")
PATTERNS = ("pay.charge", "pay.refund", "pay.refund*", "pay.*", "pay*", "p*", "*", "git.read")
few = st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3).map(lambda found: " ".join(dict.fromkeys(found)))
scopes = st.lists(st.sampled_from(("a", "b", "c")), min_size=1, unique=True).map(" ".join)
forms = st.fixed_dictionaries(
    {},
    optional={
        "tools": few,
        "models": few,
        "scope": scopes,
        "depth": st.integers(0, 5),
        "expires_in": st.integers(0, 5000),
    },
)


def reach(principal: Principal, field: str) -> set[str]:
    """Which of the names it may use."""
    allowed: Iterable[str] | None = getattr(principal, field)
    if allowed is None:
        return set(NAMES)
    calls = {name: llm(name) if field == "models" else tool(name) for name in NAMES}

    def may(call: Call) -> bool:
        try:
            check_reach(principal, call)
        except Refusal:
            return False
        return True

    return {name for name, call in calls.items() if may(call)}


@STEADY
@given(steps=st.lists(forms, min_size=1, max_size=6), scope=st.none() | scopes, pause=st.integers(0, 900))
def test_whatever_a_chain_asks_for_it_never_gains(
    steps: list[dict[str, Any]], scope: str | None, pause: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In every field the child's rights are within its parent's, whatever a chain of exchanges asks for."""
    issuer, clock = Issuer(), SetClock()
    desk = Desk(Door(issuer, clock=clock), tmp_path_factory.mktemp("keys"))
    token = issuer.token(
        clock.time, sub="user/anna", act={"sub": ROOT}, limits={"steps": 9, "depth": 3}, scope=scope or ...
    )
    parent = desk.door.admits(token)
    for number, step in enumerate(steps):
        clock.pass_(pause)
        try:
            token = desk.grants(token, name=f"n{number}", **step)
        except Refusal as refusal:
            assert refusal.code in {"scope_exceeded", "run_limit", "identity_expired"}  # noqa: PT017 - or it is granted
            continue
        child = desk.door.admits(token)
        for field in ("tools", "models"):
            assert reach(child, field) <= reach(parent, field)
            if field in step:
                assert reach(child, field) <= {name for name in NAMES if covered(name, str(step[field]).split(" "))}
        assert (child.scope or set()) <= (parent.scope or set())
        assert child.expires <= parent.expires
        assert all(dict(child.limits)[name] <= limit for name, limit in parent.limits)
        assert ASSURANCE.index(child.assurance) <= ASSURANCE.index(parent.assurance)
        assert (child.agent, child.on_behalf_of, child.vouched_by) == (parent.agent, "user/anna", "dev")
        assert child.root == parent.root or parent.depth == 0
        assert child.depth == parent.depth + 1 <= 3
        assert parent.stops < child.stops
        parent = child


def covered(name: str, patterns: list[str]) -> bool:
    """What a pattern means, said in another way."""
    return any(
        pattern == name or (pattern[-1] == "*" and name[: len(pattern) - 1] == pattern[:-1]) for pattern in patterns
    )


# -- what it reaches


def test_reach(desk: Desk, root: str) -> None:
    """A delegated token uses what was handed on and no more; the refusal names what that is."""
    child = desk.child(root, tools="pay.refund*", models="gpt-4o")
    check_reach(child, tool("pay.refund_all"))
    check_reach(child, llm("gpt-4o"))
    check_reach(child, Call("own", "own", "own_run", "GET"))
    for call, field in ((tool("pay.charge"), "tool"), (llm("gpt-4o-mini"), "model")):
        with pytest.raises(Refusal) as caught:
            check_reach(child, call)
        assert (caught.value.code, caught.value.status) == ("scope_exceeded", 403)
        assert field in caught.value.fields
        assert caught.value.fields["allowed"] == list((child.tools if field == "tool" else child.models) or ())
    assert may_reach(child, "gpt-4o")
    assert not may_reach(child, "gpt-4o-mini")
    check_reach(desk.door.admits(root), tool("pay.charge"))


# -- reading it back


@pytest.mark.parametrize(
    "changes",
    [
        {"root": {"iss": "https://issuer.example", "sub": "spiffe://acme.example/agent/other"}},
        {"root": {"iss": "https://issuer.example", "sub": ROOT[:-1]}},
        {"root": {"iss": "https://other.example", "sub": ROOT}},
        {"root": {"iss": "https://gateway.example", "sub": ROOT}},
        {"root": {"iss": "https://issuer.example", "sub": ROOT, "more": 1}},
        {"root": ROOT},
        {"root": ...},
        {"vouched_by": "gateway"},
        {"vouched_by": "corp"},
        {"vouched_by": ...},
        {"depth": 0},
        {"depth": 2},
        {"depth": 2, "act": {"sub": f"{ROOT}/billing/below"}},  # it names one token above it, and there are two
        {"depth": True},
        {"depth": "1"},
        {"depth": ...},
        {"assurance": "root"},
        {"assurance": ...},
        {"parents": []},
        {"parents": "t-root"},
        {"parents": [1]},
        {"parents": ...},
        {"tools": []},
        {"tools": "pay.*"},
        {"tools": ["pay.* x"]},
        {"models": [""]},
        {"models": None},
        {"agent": ...},
        {"act": ...},
        {"act": {"sub": ROOT}},
        {"act": {"sub": f"{ROOT}/"}},
        {"act": {"sub": f"{ROOT}/a:b"}},
        {"act": {"sub": f"{ROOT}/billing/x"}},
        {"act": {"sub": "billing"}},
        {"client_id": ...},
        {"jti": ...},
        {"iat": ...},
        {"aud": "https://other.example"},
        {"aud": f"{PUBLIC_URL}/mcp/github"},
        {"cnf": {"jkt": "short"}},
        {"tctx": "text"},
        {"limits": {"unknown": 1}},
        {"exp": 1_800_000_000 + LONGEST + 1},
    ],
)
def test_its_own_tokens_are_read_strictly(desk: Desk, root: str, changes: dict[str, Any]) -> None:
    """Even under the gateway's own signature a token with another root, or a claim out of shape, is nobody's."""
    desk.door.admits(desk.forged(root))
    desk.door.refuses(desk.forged(root, **changes))


def test_the_agent_must_still_be_there(desk: Desk, root: str, issuer: Issuer, clock: SetClock) -> None:
    """A token of an agent that was taken out of the registry, or is another subject's now, ends with that."""
    token = desk.grants(root, name="a")
    desk.door.refuses(desk.forged(root, agent="treasury"), code="agent_unknown")
    for agent in (
        AgentSettings(id="other", issuer="dev", subject=ROOT),
        AgentSettings(id="procurement", issuer="dev", subject="spiffe://acme.example/agent/elsewhere"),
    ):
        door = Door(issuer, clock=clock, agents=[agent])
        door.identity.adopt({"gateway": desk.keys.jwks})
        door.refuses(token, code="agent_unknown")


def test_an_agent_that_has_moved_is_another_agent(desk: Desk, root: str, issuer: Issuer, clock: SetClock) -> None:
    """A token that one issuer vouched for is not the agent's that another one speaks for now, whatever its name."""
    corp = Issuer(name="corp", iss="https://corp.example")
    moved = AgentSettings(id="procurement", issuer="corp", subject=ROOT)
    door = Door(issuer, corp, clock=clock, agents=[moved])
    door.identity.adopt({"gateway": desk.keys.jwks})
    door.refuses(desk.grants(root), code="agent_unknown")


def test_assurance_is_the_least_of_all(desk: Desk, root: str) -> None:
    """What a token says of its parent's assurance lowers its own, and never lifts it above what it proves itself."""
    assert desk.door.admits(desk.forged(root, assurance="mtls")).assurance == "bearer"
    assert desk.door.admits(desk.forged(root, assurance="key")).assurance == "key"


def test_a_subject_has_an_end(issuer: Issuer, clock: SetClock, tmp_path: Path) -> None:
    """A name that would make the subject longer than any may be is refused, and named."""
    desk = Desk(Door(issuer, clock=clock, agents=[AgentSettings(id="a", issuer="dev", subject="agent/*")]), tmp_path)
    token = issuer.token(clock.time, sub="agent/" + "x" * 2000)
    desk.wants(token, name="a" * 41)
    refusal = desk.refuses(token, name="a" * 42)
    assert (refusal.code, refusal.fields["parameter"]) == ("scope_exceeded", "name")


def test_the_issuer_must_still_be_there(desk: Desk, root: str, clock: SetClock) -> None:
    """Taking an issuer out of the configuration ends what was delegated in its name."""
    token = desk.grants(root, name="a")
    corp = Issuer(name="corp", iss="https://corp.example")
    door = Door(corp, clock=clock, agents=[AgentSettings(id="procurement", issuer="corp", subject=ROOT)])
    door.identity.adopt({"gateway": desk.keys.jwks})
    door.refuses(token)
    renamed = Issuer(name="renamed", iss="https://issuer.example")
    door = Door(renamed, clock=clock, agents=[AgentSettings(id="procurement", issuer="renamed", subject=ROOT)])
    door.identity.adopt({"gateway": desk.keys.jwks})
    door.refuses(token)


def test_other_issuers_cannot_say_it(desk: Desk, issuer: Issuer, clock: SetClock) -> None:
    """What means something in the gateway's own tokens means nothing in anybody else's."""
    claims: dict[str, object] = {
        "agent": "treasury",
        "root": {"iss": "https://issuer.example", "sub": "spiffe://acme.example/agent/treasury"},
        "vouched_by": "corp",
        "depth": -7,
        "assurance": "mtls",
        "tools": ["*"],
        "models": ["*"],
        "parents": ["t-9"],
        "tctx": {"approved": True},
    }
    plain, loud = desk.door.admits(issuer.token(clock.time)), desk.door.admits(issuer.token(clock.time, **claims))
    assert loud == plain


def test_other_issuers_cannot_sign_as_the_gateway(desk: Desk, issuer: Issuer, root: str) -> None:
    """I11: claims that name the gateway as their issuer count under the gateway's own keys alone."""
    claims = desk.wants(root, name="a")[0].claims
    for kid in ("key-1", desk.keys.key.kid):
        desk.door.refuses(Issuer(alg="ES256", kid=kid).sign({"alg": "ES256", "kid": kid, "typ": "at+jwt"}, claims))
    desk.door.refuses(issuer.sign(issuer.header(), claims))


def test_without_keys_nothing_is_known(issuer: Issuer, clock: SetClock, desk: Desk, root: str) -> None:
    """A worker that has not heard of the gateway's keys yet says that it is not the token's fault."""
    token = desk.grants(root, name="a")
    Door(issuer, clock=clock).refuses(token, code="identity_source_unavailable")


def test_children_that_read_alike_are_not_alike(clock: SetClock, tmp_path: Path) -> None:
    """I24: owners differ where the roots do, though the subjects of their children are the same text."""
    dev, corp = Issuer(subject="agent/a"), Issuer(name="corp", iss="https://corp.example", subject="agent/a")
    agents = [
        AgentSettings(id="one", issuer="dev", subject="agent/a"),
        AgentSettings(id="two", issuer="corp", subject="agent/a"),
        AgentSettings(id="three", issuer="dev", subject="agent/a/b"),
    ]
    desk = Desk(Door(dev, corp, clock=clock, agents=agents), tmp_path)
    first = desk.child(desk.grants(dev.token(clock.time), name="b"), name="c")
    second = desk.child(desk.grants(corp.token(clock.time), name="b"), name="c")
    third = desk.child(dev.token(clock.time, sub="agent/a/b"), name="c")
    assert first.subject == second.subject == third.subject == "agent/a/b/c"
    assert len({first.owner, second.owner, third.owner}) == 3
    again = desk.child(desk.grants(dev.token(clock.time), name="b"), name="c")
    assert again.owner == first.owner


# -- the child's key


def test_keys_of_children(desk: Desk, root: str) -> None:
    """`req_cnf` names the child's key: as a public JWK, as its thumbprint, or as a certificate's."""
    prover = Prover()
    for asked in ({"jwk": prover.jwk()}, {"jkt": prover.thumbprint}):
        wanted, told = desk.wants(root, req_cnf=json.dumps(asked))
        assert wanted.claims["cnf"] == {"jkt": prover.thumbprint}
        assert told["token_type"] == "DPoP"
    wanted, told = desk.wants(root, req_cnf=json.dumps({"x5t#S256": prover.thumbprint}))
    assert (wanted.claims["cnf"], told["token_type"]) == ({"x5t#S256": prover.thumbprint}, "Bearer")
    desk.door.refuses(desk.grants(root, req_cnf=json.dumps({"jkt": prover.thumbprint})), code="proof_invalid")


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "{}",
        "[]",
        '"jkt"',
        '{"jkt": "short"}',
        '{"jkt": 1}',
        '{"jkt": "' + "A" * 42 + 'B"}',  # not canonical
        '{"kid": "a"}',
        '{"jkt": "' + "A" * 43 + '", "x5t#S256": "' + "A" * 43 + '"}',
        '{"jwk": {}}',
        '{"jwk": "x"}',
        '{"jwk": {"kty": "oct", "k": "AAAA"}}',
        json.dumps({"jwk": Prover().private_jwk()}),
        json.dumps({"jwk": {**Prover().jwk(), "use": "enc"}}),
        json.dumps({"jwk": {**Prover().jwk(), "alg": "HS256"}}),
        json.dumps({"jwk": {**Prover().jwk(), "crv": "P-192"}}),
    ],
)
def test_a_key_that_is_none(desk: Desk, root: str, asked: str) -> None:
    """A key that could not be proven is refused and named, never left out; private parts are not repeated."""
    if not asked:
        assert "cnf" not in desk.wants(root, req_cnf=asked)[0].claims  # RFC 6749 §3.2: no value, not there
        return
    refusal = desk.refuses(root, req_cnf=asked)
    assert (refusal.code, refusal.fields["parameter"]) == ("request_malformed", "req_cnf")
    assert '"d"' not in str(refusal)


def proven(desk: Desk, prover: Prover, token: str, **changes: object) -> Any:  # noqa: ANN401 - a head
    """A request with a proof; the nonce is learnt from the first refusal, as a client does."""
    for _ in range(2):
        proof = prover.proof("POST", f"{PUBLIC_URL}/oauth/token", None, desk.door.clock.time, **changes)
        head = request(("DPoP", proof))
        try:
            desk.wants(token, head=head)
        except Refusal as refusal:
            if refusal.fields.get("error") != "use_dpop_nonce":
                raise
            prover.learn({name.lower(): value for name, value in refusal.headers})
    proof = prover.proof("POST", f"{PUBLIC_URL}/oauth/token", None, desk.door.clock.time, **changes)
    return request(("DPoP", proof))


def test_a_proof_names_the_childs_key(desk: Desk, root: str) -> None:
    """RFC 9449 §5: the key of the request's proof becomes the child's; it needs no `ath`."""
    prover = Prover()
    wanted, told = desk.wants(root, head=proven(desk, prover, root))
    assert wanted.claims["cnf"] == prover.cnf
    assert wanted.claims["assurance"] == "bearer"  # no more than the parent's
    assert told["token_type"] == "DPoP"


def test_a_bound_parent_proves_itself_and_its_child_is_bound(desk: Desk, issuer: Issuer, clock: SetClock) -> None:
    """I15: at the token endpoint too a bound token is worth nothing without its key; its child has a key as well."""
    prover, child = Prover(), Prover()
    bound = issuer.token(clock.time, cnf=prover.cnf)
    assert desk.refuses(bound).code == "proof_invalid"
    assert desk.refuses(bound, req_cnf=json.dumps(child.cnf)).code == "proof_invalid"
    with pytest.raises(Refusal, match="proof_invalid"):
        proven(desk, Prover(), bound)  # another key
    head = proven(desk, prover, bound)
    wanted, _ = desk.wants(bound, head=head)
    assert (wanted.claims["cnf"], wanted.claims["assurance"]) == (prover.cnf, "bound")
    assert desk.refuses(bound, head=head).code == "proof_invalid"  # a proof is good once
    wanted, _ = desk.wants(bound, head=proven(desk, prover, bound), req_cnf=json.dumps(child.cnf))
    assert wanted.claims["cnf"] == child.cnf


def test_a_parent_with_a_certificate(issuer: Issuer, tmp_path: Path) -> None:
    """RFC 8705: a parent that is bound to its certificate shows it, and its child has that one or a key of its own."""
    clock = SetClock(time.time())
    desk = Desk(Door(issuer, clock=clock), tmp_path)
    authority, prover = Authority(), Prover()
    shown, other = authority.svid(), authority.svid()
    bound = issuer.token(clock.time, cnf={"x5t#S256": shown.thumbprint})
    for head in (request(), request(certificate=other.der)):
        assert desk.refuses(bound, head=head).code == "proof_invalid"
        assert desk.refuses(bound, head=head, req_cnf=json.dumps(prover.cnf)).code == "proof_invalid"
    wanted, told = desk.wants(bound, head=request(certificate=shown.der))
    assert wanted.claims["cnf"] == {"x5t#S256": shown.thumbprint}
    assert (wanted.claims["assurance"], told["token_type"]) == ("mtls", "Bearer")
    wanted, told = desk.wants(bound, head=request(certificate=shown.der), req_cnf=json.dumps(prover.cnf))
    assert wanted.claims["cnf"] == prover.cnf
    assert (wanted.claims["assurance"], told["token_type"]) == ("bound", "DPoP")


def test_a_bound_parent_that_proved_nothing_has_no_child(desk: Desk, issuer: Issuer, clock: SetClock) -> None:
    """I15: where no proof names the child's key, that of a bound parent has to be named: it never has the parent's."""
    bound = issuer.token(clock.time, cnf=Prover().cnf)
    parent = desk.door.identity.inspect(bound).principal
    assert parent is not None
    asked, limits = read_form(request(), form(bound)), RunLimits()
    with pytest.raises(Refusal, match="req_cnf: "):
        delegation.child(
            parent, asked, own=desk.door.identity.own, run=None, proven=None, limits=limits, now=clock.time
        )


def test_a_proof_for_another_request(desk: Desk, issuer: Issuer, root: str, clock: SetClock) -> None:
    """A proof that was made for a call, or for another token, is none at the token endpoint."""
    prover = Prover()
    proven(desk, prover, root)
    for url, ath in (
        (f"{PUBLIC_URL}/v1/chat/completions", None),
        (f"{PUBLIC_URL}/oauth/token", issuer.token(clock.time)),
    ):
        proof = prover.proof("POST", url, ath, clock.time)
        assert desk.refuses(root, head=request(("DPoP", proof))).fields["error"] == "invalid_dpop_proof"
    assert desk.refuses(root, head=request(("DPoP", "x"), ("DPoP", "y"))).fields["error"] == "invalid_dpop_proof"


def test_who_must_be_bound_cannot_delegate_unbound(issuer: Issuer, clock: SetClock, tmp_path: Path) -> None:
    """Where the configuration wants a proof of an agent, a token that cannot be proven hands nothing on."""
    agents = [AgentSettings(id="procurement", issuer="dev", subject=issuer.subject, require_proof=True)]
    desk = Desk(Door(issuer, clock=clock, agents=agents), tmp_path)
    token = issuer.token(clock.time)
    assert desk.refuses(token).code == "proof_invalid"
    with pytest.raises(Refusal, match="proof_invalid"):
        proven(desk, Prover(), token)


# -- the form


def test_the_shapes_of_the_rfc(desk: Desk, root: str) -> None:
    """RFC 8693 appendix A: the request of A.1.1 with this gateway as its resource; that of A.2.1 names an actor."""
    jwt = "urn:ietf:params:oauth:token-type:jwt"
    _, told = desk.wants(root, subject_token_type=jwt, resource="https://gateway.example", requested_token_type=jwt)
    assert told.keys() == {"access_token", "issued_token_type", "token_type", "expires_in", "scope"}
    assert told["issued_token_type"] == jwt
    refusal = desk.refuses(root, subject_token_type=jwt, actor_token=root, actor_token_type=jwt)
    assert refusal.fields == {"error": "invalid_request", "parameter": "actor_token"}


@pytest.mark.parametrize(
    ("changes", "parameter", "error"),
    [
        ({"grant_type": ...}, "grant_type", "invalid_request"),
        ({"grant_type": ""}, "grant_type", "invalid_request"),
        ({"grant_type": "client_credentials"}, "grant_type", "unsupported_grant_type"),
        ({"subject_token_type": ...}, "subject_token_type", "invalid_request"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:saml2"}, "subject_token_type", "invalid_request"),
        (
            {"requested_token_type": "urn:ietf:params:oauth:token-type:id_token"},
            "requested_token_type",
            "invalid_request",
        ),
        ({"actor_token_type": TOKEN_TYPES[0]}, "actor_token_type", "invalid_request"),
        ({"budget": "5 USD"}, "budget", "invalid_request"),
        ({"name": "a/b"}, "name", "invalid_request"),
        ({"name": "a:b"}, "name", "invalid_request"),
        ({"name": ".."}, "name", "invalid_request"),
        ({"name": "a" * 129}, "name", "invalid_request"),
        ({"scope": "read  write"}, "scope", "invalid_scope"),
        ({"scope": 'a"b'}, "scope", "invalid_scope"),
        ({"tools": "pay.* "}, "tools", "invalid_request"),
        ({"tools": "*.charge"}, "tools", "invalid_request"),
        ({"models": "g*t"}, "models", "invalid_request"),
        ({"depth": "-1"}, "depth", "invalid_request"),
        ({"depth": "1.0"}, "depth", "invalid_request"),
        ({"expires_in": "٣"}, "expires_in", "invalid_request"),
        ({"expires_in": "1e3"}, "expires_in", "invalid_request"),
        ({"client_id": "a\nb"}, "client_id", "invalid_request"),
        ({"client_id": "a" * 257}, "client_id", "invalid_request"),
        ({"name": ["a", "b"]}, "name", "invalid_request"),
        ({"name": ["a", "a"]}, "name", "invalid_request"),
        ({"whatever": ["", "a"]}, "whatever", "invalid_request"),
    ],
)
def test_forms_that_are_refused(desk: Desk, root: str, changes: dict[str, Any], parameter: str, error: str) -> None:
    """What is known and wrong is named, with the word of RFC 6749 §5.2; nothing twice (§3.2)."""
    refusal = desk.refuses(root, **changes)
    assert (refusal.code, refusal.status) == ("request_malformed", 400)
    assert refusal.fields == {"error": error, "parameter": parameter}
    assert refusal.sentence.startswith(f"{parameter}: ")


@pytest.mark.parametrize(
    "body", [b"grant_type", b"a=%zz", b"a=%ff", b"a=\xc3\xa4", b"a=1 2", b"a=1&&b=2", b"&".join([b"x=1"] * 65)]
)
def test_bodies_that_are_no_forms(body: bytes) -> None:
    """A body that two readers could read differently is no form."""
    with pytest.raises(Refusal) as caught:
        read_form(request(), body)
    assert caught.value.fields == {"error": "invalid_request", "parameter": "body"}


def test_a_form_is_small_and_says_that_it_is_one(root: str) -> None:
    """16 KiB at most, `application/x-www-form-urlencoded`, and nothing in the URL, where logs would keep it."""
    with pytest.raises(Refusal, match="request_too_large"):
        read_form(request(), b"a=" + b"x" * MAX_FORM)
    good = request(("Content-Type", "text/plain"))
    assert read_form(good, form(root)).token == root  # the first one counts
    for head in (
        request(query=f"subject_token={root}"),
        request(query="grant_type=x"),
    ):
        with pytest.raises(Refusal, match="query: "):
            read_form(head, form(root))


@pytest.mark.parametrize(
    ("media_type", "fine"),
    [
        (FORM[1], True),
        (f"{FORM[1]};charset=UTF-8", True),
        (f'{FORM[1]}; charset="utf-8"', True),
        (f"{FORM[1]}; charset=latin-1", False),
        ("application/json", False),
        ("multipart/form-data; boundary=x", False),
    ],
)
def test_media_types(root: str, media_type: str, fine: bool) -> None:  # noqa: FBT001 - a table
    """Only a form is read, and only as UTF-8."""
    head = request()
    head.headers["Content-Type"] = media_type  # type: ignore[index]  # a multidict, of which `Headers` tells the reads
    if fine:
        assert read_form(head, form(root)).token == root
        return
    with pytest.raises(Refusal, match="Content-Type: "):
        read_form(head, form(root))


def test_what_is_not_known_is_ignored(desk: Desk, root: str) -> None:
    """RFC 6749 §3.2: an unknown parameter changes nothing, and neither does a known one without a value."""
    plain = desk.wants(root, name="a")[0].claims
    other = desk.wants(root, name="a", color="blue", scope="", tools="", depth="", agent="treasury", sub="admin")[
        0
    ].claims
    assert {name: value for name, value in plain.items() if name != "jti"} == {
        name: value for name, value in other.items() if name != "jti"
    }


def test_who_sends_what_to_say_who_asks(desk: Desk, root: str, issuer: Issuer, clock: SetClock) -> None:
    """The token in the form says who asks; a header may repeat it, and nothing else may say anything."""
    other = issuer.token(clock.time, jti="t-2")
    for headers in (
        [("Authorization", f"Bearer {root}")],
        [("Authorization", f"DPoP {root}")],
        [("x-api-key", root)],
        [],
    ):
        desk.wants(root, head=request(*headers))
    for headers in ([("Authorization", f"Bearer {other}")], [("x-api-key", other)]):
        assert desk.refuses(root, head=request(*headers)).code == "identity_conflict"
    twice = ("Authorization", f"Bearer {root}")
    assert desk.refuses(root, head=request(twice, twice)).code == "identity_conflict"
    assert desk.refuses(root, head=request(("Authorization", f"Token {root}"))).code == "identity_invalid"
    basic = [desk.refuses(root, head=request(("Authorization", "Basic YTpi")))]
    basic += [desk.refuses(root, client_secret="x"), desk.refuses(root, client_assertion="x")]
    for refusal in basic:
        assert (refusal.status, refusal.fields["error"]) == (401, "invalid_client")
        assert ("WWW-Authenticate", 'Basic realm="passgate"') in refusal.headers
    missing = desk.refuses("")
    assert (missing.code, missing.status, missing.fields["error"]) == ("identity_missing", 400, "invalid_request")
    assert desk.refuses("nonsense").code == "identity_invalid"
    mcp = issuer.token(clock.time, aud=f"{PUBLIC_URL}/mcp/github")
    assert desk.refuses(mcp).code == "identity_invalid"  # a child would have the whole gateway
