"""Who may say yes or no, and what the votes come to."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.approvals.voting import counts, missing, vote, who_could
from gateway.core.approval import MOVES, Approval
from gateway.core.errors import Refusal
from tests.approvals.held import DESK, NOW, Operator, pending
from tests.approvals.test_binding import CHILD

FINANCE, LEGAL = frozenset({"finance"}), frozenset({"legal"})
LAWYER = Operator("lawyer", LEGAL)
BOTH = Operator("both", FINANCE | LEGAL)
TWO = (("group:finance",), ("group:legal",))


def refused(approval: Approval, voter: Operator, verdict: Literal["approve", "deny"] = "approve") -> Refusal:
    with pytest.raises(Refusal) as raised:
        vote(approval, voter, verdict, "", NOW, [DESK, LAWYER])
    return raised.value


def test_one_approver_is_enough_for_one_rule() -> None:
    """The vote is kept with who, when and why, and the approval is approved."""
    after = vote(pending(), DESK, "approve", "checked", NOW + 5)
    assert after.status == "approved"
    (said,) = after.votes
    assert (said.operator, said.decision, said.at, said.reason, said.counts) == (
        "desk",
        "approve",
        NOW + 5,
        "checked",
        (0,),
    )


def test_each_rule_that_asks_needs_one_of_its_approvers() -> None:
    """Two rules wait for both groups in whichever order; one operator of both speaks for both."""
    half = vote(pending(approvers=TWO), LAWYER, "approve", "", NOW)
    assert (half.status, missing(half)) == ("pending", [["group:finance"]])
    assert vote(half, DESK, "approve", "", NOW).status == "approved"
    assert vote(pending(approvers=TWO), BOTH, "approve", "", NOW).status == "approved"


def test_one_no_is_a_no() -> None:
    """Whoever of the approvers denies ends it, also after another one has approved."""
    half = vote(pending(approvers=TWO), LAWYER, "approve", "", NOW)
    assert vote(half, DESK, "deny", "no", NOW).status == "denied"
    assert vote(pending(approvers=TWO), LAWYER, "deny", "", NOW).status == "denied"


def test_an_operator_votes_once() -> None:
    """Saying the same again changes nothing, whatever has become of it; saying the contrary is refused."""
    half = vote(pending(approvers=TWO), LAWYER, "approve", "", NOW)
    assert vote(half, LAWYER, "approve", "again", NOW) is half
    assert "an operator votes once" in refused(half, LAWYER, "deny").sentence
    whole = vote(half, DESK, "approve", "", NOW)
    for status in ("approved", "executing", "consumed", "expired"):
        assert vote(replace(whole, status=status), DESK, "approve", "", NOW).status == status


@pytest.mark.parametrize("status", [status for status in MOVES if status != "pending"])
def test_what_is_decided_stays_decided(status: str) -> None:
    """Once it is not pending any more nobody else votes, and the refusal says how it stands."""
    refusal = refused(replace(pending(), status=status), DESK, "deny")
    assert refusal.code == "request_malformed"
    assert refusal.fields == {"status": status}


def test_nobody_votes_when_time_is_up() -> None:
    """H6: at the very moment an approval ends nobody can give it any more, also before that is written down."""
    late = pending(expires=60.0)
    with pytest.raises(Refusal, match="this approval is expired"):
        vote(late, DESK, "approve", "", NOW + 60.0)
    assert vote(late, DESK, "approve", "", NOW + 59.999999).status == "approved"


def test_only_the_named_approvers_vote() -> None:
    """H3: an operator of another group is refused, and told who could; a group's name is no operator's id."""
    refusal = refused(pending(), LAWYER)
    assert refusal.code == "scope_exceeded"
    assert refusal.sentence == "this call needs group:finance, and lawyer is not among them; ask desk"
    assert refusal.fields == {"approvers": [["group:finance"]], "may_decide": ["desk"]}
    assert refused(pending(), Operator("finance")).status == 403
    assert refused(pending(approvers=(("ceo",),)), Operator("x", frozenset({"ceo"}))).status == 403
    assert vote(pending(approvers=(("ceo",),)), Operator("ceo"), "approve", "", NOW).status == "approved"


def test_where_nobody_may_vote_the_refusal_says_so() -> None:
    """A group without members is named, with what to do about it."""
    assert "nobody is who may decide" in refused(pending(approvers=(("group:board",),)), DESK).sentence


@pytest.mark.parametrize(
    "name", ["procurement", "payments@acme.example", "agent/procurement", "user/anna", "PAYMENTS@Acme.example"]
)
@pytest.mark.parametrize("verdict", ["approve", "deny"])
def test_nobody_decides_about_a_call_of_their_own(name: str, verdict: Literal["approve", "deny"]) -> None:
    """H3: not the agent, its owner or the user, by the operator's id or by what names it in tokens, in any case."""
    asked = replace(pending().ask, owner="Payments@ACME.example")
    for operator in (Operator(name, FINANCE), Operator("desk", FINANCE, subject=name)):
        assert "your own affair" in refused(replace(pending(), ask=asked), operator, verdict).sentence


@pytest.mark.parametrize("name", ["agent/procurement", "user/agent-starter", "agent/root"])
def test_no_parent_approves_for_its_child(name: str) -> None:
    """H3: whoever stands above a delegated agent is as little its approver as the agent is."""
    assert refused(pending(principal=CHILD), Operator("desk", FINANCE, subject=name)).code == "scope_exceeded"


def test_a_nameless_owner_is_nobody() -> None:
    """An agent without an owner does not make operators without a subject its owner."""
    without = replace(pending(), ask=replace(pending().ask, owner=""))
    assert vote(without, DESK, "approve", "", NOW).status == "approved"


def test_who_could_is_who_may() -> None:
    """The operators that a refusal names are those whose vote would count."""
    voters = [DESK, LAWYER, BOTH, Operator("payments@acme.example", FINANCE)]
    assert who_could(pending().ask, voters) == ["desk", "both"]
    assert counts(pending(approvers=TWO).ask, BOTH) == (0, 1)


NAMES = st.sampled_from(["group:a", "group:b", "group:c", "ann", "ben"])
RULES = st.lists(st.lists(NAMES, min_size=1, max_size=3).map(tuple), min_size=1, max_size=3).map(tuple)
VOTERS = st.builds(
    Operator, st.sampled_from(["ann", "ben", "cem", "dee"]), st.frozensets(st.sampled_from("abc"), max_size=2)
)
VERDICTS: st.SearchStrategy[Literal["approve", "deny"]] = st.sampled_from(["approve", "approve", "approve", "deny"])


@given(RULES, st.lists(st.tuples(VOTERS, VERDICTS), max_size=8))
def test_votes_come_to_what_the_rules_ask(
    rules: tuple[tuple[str, ...], ...], said: list[tuple[Operator, Literal["approve", "deny"]]]
) -> None:
    """Approved means that every rule has a yes of its own approvers and nobody said no, each operator counted once."""
    approval = pending(approvers=rules)
    yes: dict[str, set[str]] = {}
    no = False
    for voter, verdict in said:
        names = {voter.id, *(f"group:{group}" for group in voter.groups)}
        counted = approval.status == "pending" and voter.id not in yes and any(names.intersection(r) for r in rules)
        try:
            approval = vote(approval, voter, verdict, "", NOW)
        except Refusal:
            assert not counted
            continue
        if counted and verdict == "approve":
            yes[voter.id] = names
        no = no or (counted and verdict == "deny")
    agreed = all(any(names.intersection(rule) for names in yes.values()) for rule in rules)
    assert approval.status == ("denied" if no else "approved" if agreed else "pending")
