"""What an approval is bound to: the same call has the same key, any other call another one."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.approvals import approval_key, canonical_arguments
from gateway.approvals.binding import MOST_ARGUMENTS
from gateway.core.call import Call
from gateway.core.principal import Agent, Principal
from gateway.core.run import RunKey, RunRef
from tests.approvals.held import CHARGE, PRINCIPAL, ask, run_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
OBJECT = st.dictionaries(st.text(), JSON, max_size=5)


def of(args: dict[str, Any]) -> Call:
    return replace(CHARGE, args=args)


def alike(one: object, other: object) -> bool:
    """Whether two JSON values are the same, type for type and digit for digit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return repr(one) == repr(other)


@given(OBJECT, OBJECT)
def test_two_arguments_have_one_text_only_if_they_are_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """H1: the canonical text tells apart whatever is different, and nothing that is the same."""
    assert (canonical_arguments(of(one)) == canonical_arguments(of(other))) == alike(one, other)


@given(OBJECT, st.randoms(use_true_random=False))
def test_the_order_of_members_makes_no_difference(args: dict[str, Any], random: Any) -> None:  # noqa: ANN401 - Random
    """Members in another order are the same arguments, and the text is JSON of the same value."""
    shuffled = dict(random.sample(list(args.items()), len(args)))
    text = canonical_arguments(of(shuffled))
    assert text == canonical_arguments(of(args))
    assert alike(json.loads(text), args)


def test_numbers_that_differ_in_type_are_two() -> None:
    """`1`, `1.0`, `true` and `"1"` are four arguments, and no large integer is rounded into another."""
    texts = {canonical_arguments(of({"amount": amount})) for amount in (1, 1.0, True, "1", 2**53, 2**53 + 1)}
    assert len(texts) == 6


def test_a_body_that_is_not_read_is_bound_by_its_digest() -> None:
    """Two raw bodies are two calls, also with the same arguments in path and query, and whatever their media type."""
    raw = replace(CHARGE, raw=True, args={"name": "a"}, body=b"%PDF-1", content_type="application/json")
    (shown,) = {canonical_arguments(raw)}
    assert json.loads(shown)["body"] == {
        "bytes": 6,
        "content_type": "application/json",
        "sha256": hashlib.sha256(b"%PDF-1").hexdigest(),
    }
    assert canonical_arguments(replace(raw, body=b"%PDF-2")) != shown


CHILD = Principal(
    Agent("procurement"),
    "gateway",
    "https://gateway.example",
    "agent/procurement/reader",
    "bearer",
    "k",
    "t",
    0.0,
    chain=("agent/procurement", "user/agent-starter"),
    run="order-17",
    root=("https://issuer.example", "agent/root"),
    depth=1,
)


@pytest.mark.parametrize(
    "other",
    [
        approval_key(PRINCIPAL, replace(CHARGE, args={"order_id": "A2", "amount": 100}), run_of(PRINCIPAL)),
        approval_key(PRINCIPAL, replace(CHARGE, tool="payments.refund"), run_of(PRINCIPAL)),
        approval_key(PRINCIPAL, CHARGE, run_of(PRINCIPAL, "order-18")),
        approval_key(PRINCIPAL, CHARGE, None),
        approval_key(replace(PRINCIPAL, subject="agent/other"), CHARGE, run_of(PRINCIPAL)),
        approval_key(replace(PRINCIPAL, iss="https://other.example"), CHARGE, run_of(PRINCIPAL)),
        approval_key(replace(PRINCIPAL, on_behalf_of="user/ben"), CHARGE, run_of(PRINCIPAL)),
        approval_key(PRINCIPAL, replace(CHARGE, kind="llm", model="sim-a", dialect="openai"), run_of(PRINCIPAL)),
    ],
    ids=["arguments", "operation", "run", "no run", "subject", "issuer", "user", "kind"],
)
def test_another_call_is_another_key(other: object) -> None:
    """H1, I24: whoever, for whom, where, what and with what: any of it that differs makes another approval."""
    assert other != approval_key(PRINCIPAL, CHARGE, run_of(PRINCIPAL))


def test_the_same_call_is_the_same_key() -> None:
    """A later token of the same agent, another spelling of the body and another request mean the same approval."""
    later = replace(PRINCIPAL, token_id="t2", key_id="k2", expires=0.0, assurance="bound")
    call = replace(CHARGE, body=b'{ "amount": 100, "order_id": "A1" }')
    assert approval_key(later, call, run_of(later)) == approval_key(PRINCIPAL, CHARGE, run_of(PRINCIPAL))


def test_a_childs_own_run_is_not_its_roots_run_of_the_same_id() -> None:
    """A delegated agent may be in its root's run, or in one of its own with the same id: these are two."""
    roots = RunRef(RunKey("https://issuer.example", "agent/root", "order-17"), None, "claim")
    own = RunRef(RunKey(*CHILD.owner, "order-17"), None, "header")
    assert approval_key(CHILD, CHARGE, roots).run == "agent/root/order-17"
    assert approval_key(CHILD, CHARGE, own).run == "order-17"


def test_a_childs_parents_are_all_that_stand_above_it() -> None:
    """Nobody who called it into being is left out: the chain, and the root."""
    assert ask(CHILD).parents == ("agent/procurement", "user/agent-starter", "agent/root")


def test_approvers_are_kept_in_one_order() -> None:
    """Rules in another order, or one rule twice, ask for the same people."""
    one = ask(approvers=(("group:b", "group:a"), ("ceo",), ("ceo",))).approvers
    assert one == ask(approvers=(("ceo",), ("group:a", "group:b", "group:a"))).approvers
    assert one == (("ceo",), ("group:a", "group:b"))


def test_arguments_that_are_too_long_are_bound_and_not_kept() -> None:
    """Beyond 256 KiB the digest is all that is kept, and it still tells two calls apart."""
    long, longer = ({"text": "a" * size} for size in (MOST_ARGUMENTS, MOST_ARGUMENTS + 1))
    assert ask(args=long).args == ask(args=longer).args == b""
    assert ask(args=long).key.digest != ask(args=longer).key.digest
    assert ask(args={"text": "a"}).args == b'{"text":"a"}'
    assert ask(args={"text": "a"}).key.digest == hashlib.sha256(b'{"text":"a"}').hexdigest()
