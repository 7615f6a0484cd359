"""Which run a call belongs to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.core.call import Address, Head
from gateway.core.errors import Refusal
from gateway.core.ids import RUN_ID
from gateway.core.principal import Agent, Principal
from gateway.runs import name_run, run_key


def delegated(run: str | None = None) -> Principal:
    """A child of `agent/a`."""
    root = ("https://issuer.example", "agent/a")
    return Principal(
        Agent("a"),
        "gateway",
        "https://gateway.example",
        "agent/a/x",
        "bearer",
        "k",
        "t",
        0.0,
        run=run,
        depth=1,
        root=root,
    )


def principal(run: str | None = None, incarnation: str | None = None) -> Principal:
    return Principal(
        Agent("a"),
        "dev",
        "https://issuer.example",
        "agent/a",
        "bearer",
        "k",
        "t",
        0.0,
        run=run,
        incarnation=incarnation,
    )


def head(**headers: str) -> Head:
    return Head(
        "POST", "/v1/chat/completions", "", CIMultiDict({k.replace("_", "-"): v for k, v in headers.items()}), "::1"
    )


def at(run: str | None = None, incarnation: str | None = None) -> Address:
    return Address("openai", "chat", "/v1/chat/completions", run=run, incarnation=incarnation)


def test_a_call_that_names_no_run_has_none() -> None:
    """Nothing is guessed."""
    assert name_run(principal(), head(), at()) is None


@pytest.mark.parametrize(
    ("given_by", "source"),
    [
        ((principal(run="r1"), head(), at()), "claim"),
        ((principal(), head(), at(run="r1")), "url"),
        ((principal(), head(gateway_run="r1"), at()), "header"),
        ((principal(run="r1"), head(gateway_run="r1"), at(run="r1")), "claim"),
    ],
)
def test_each_source_can_name_the_run(given_by: tuple[Principal, Head, Address], source: str) -> None:
    """The claim, the URL and the header name it; those that agree are one."""
    run = name_run(*given_by)
    assert run is not None
    assert (run.key.id, run.source) == ("r1", source)
    assert run.key[:2] == ("https://issuer.example", "agent/a")


@pytest.mark.parametrize(
    ("who", "asked", "address"),
    [
        (principal(run="r1"), head(gateway_run="r2"), at()),
        (principal(run="r1"), head(), at(run="r2")),
        (principal(), head(gateway_run="r1"), at(run="r2")),
        (principal(incarnation="i1"), head(gateway_run="r", gateway_incarnation="i2"), at()),
    ],
)
def test_sources_that_disagree_are_refused(who: Principal, asked: Head, address: Address) -> None:
    """Two names for one thing are a conflict, never a choice."""
    with pytest.raises(Refusal) as refused:
        name_run(who, asked, address)
    assert refused.value.code == "run_conflict"


def test_only_a_claim_counts_where_the_config_says_so() -> None:
    """With runs.source: claim an agent cannot pick its run."""
    with pytest.raises(Refusal) as refused:
        name_run(principal(), head(gateway_run="r1"), at(), claim_only=True)
    assert refused.value.code == "run_conflict"
    named = name_run(principal(run="r1"), head(gateway_run="r1"), at(), claim_only=True)
    assert named is not None


def test_a_client_header_names_a_run_only_where_nothing_else_does() -> None:
    """runs.from_headers is a last source, and never the only truth."""
    asked = head(x_session_id="s1")
    assert name_run(principal(), asked, at()) is None
    run = name_run(principal(), asked, at(), from_headers=["x-session-id"])
    assert run is not None
    assert run.source == "client-header"
    other = name_run(principal(run="r1"), asked, at(), from_headers=["x-session-id"])
    assert other is not None
    assert other.key.id == "r1"


@given(st.text(max_size=200))
def test_the_header_takes_ids_and_nothing_else(text: str) -> None:
    """S06: whatever a header carries, it is an id of the documented form or a refusal."""
    asked = Head("POST", "/", "", CIMultiDict({"gateway-run": text}), "::1")
    code = ""
    try:
        run = name_run(principal(), asked, at())
    except Refusal as refusal:
        code = refusal.code
    else:
        assert run is not None
        assert RUN_ID.fullmatch(run.key.id)
    assert code in {"", "request_malformed"}


def test_a_delegated_token_enters_its_roots_run() -> None:
    """The run in the token's signed claim is the root's; one that only the call names is the child's own."""
    run = name_run(delegated(run="r1"), head(), at())
    assert run is not None
    assert run.key == ("https://issuer.example", "agent/a", "r1") == run_key(delegated(run="r1"), "r1")
    own = name_run(delegated(), head(gateway_run="r1"), at())
    assert own is not None
    assert own.key == (*delegated().owner, "r1") == run_key(delegated(), "r1") == run_key(delegated(run="r2"), "r1")
    assert own.key != (*principal().owner, "r1")
    assert run_key(principal(run="r1"), "r1") == (*principal().owner, "r1")
