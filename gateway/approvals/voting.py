"""Who may say yes or no to a held call, and what their votes come to.

1. Each rule that asks needs one vote of its approvers; the vote of an operator counts for every rule whose approvers it
   is one of. One no is a no.
2. Nobody approves a call of their own: neither the agent that makes it, nor one above it, nor its owner, nor the user
   on whose behalf it is.
3. An operator votes once. Saying the same again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, Protocol, TypeAlias

from msgspec.structs import replace

from gateway.core.approval import Approval, ApprovalAsk, Vote
from gateway.core.errors import Refusal

Verdict: TypeAlias = Literal["approve", "deny"]
GROUP: Final = "group:"
"""What stands before a group's name; an approver without it is an operator's id."""
_NAMED: Final = 20
"""Operators that a refusal names."""
_PAST: Final = {"approve": "approved", "deny": "denied"}


class Voter(Protocol):
    """An operator, as far as it matters here."""

    @property
    def id(self) -> str: ...  # noqa: D102 - the id in the configuration
    @property
    def groups(self) -> Iterable[str]: ...  # noqa: D102 - the groups of approvers that it belongs to
    @property
    def subject(self) -> str: ...  # noqa: D102 - what names it in tokens, if anything does


def counts(ask: ApprovalAsk, voter: Voter) -> tuple[int, ...]:
    """For which groups of `ask.approvers` an operator can speak: none where it may not vote."""
    if _concerned(ask, voter):
        return ()
    names = {voter.id, *(GROUP + group for group in voter.groups)}
    return tuple(place for place, group in enumerate(ask.approvers) if names.intersection(group))


def missing(approval: Approval) -> list[list[str]]:
    """The approvers of whom one has yet to say yes, for each rule that still waits."""
    heard = {place for vote in approval.votes for place in vote.counts}
    return [list(group) for place, group in enumerate(approval.ask.approvers) if place not in heard]


def who_could(ask: ApprovalAsk, voters: Iterable[Voter]) -> list[str]:
    """The ids of those who may vote."""
    return [voter.id for voter in voters if counts(ask, voter)]


def vote(
    approval: Approval, voter: Voter, verdict: Verdict, reason: str, now: float, voters: Iterable[Voter] = ()
) -> Approval:
    """The approval after an operator's vote; the very same where it says so again.

    `voters` are all operators that have the role; a refusal names those who could. Raises `Refusal`:
    `scope_exceeded` for who may not vote, `request_malformed` where nothing is left to vote on.
    """
    places = counts(approval.ask, voter)
    if not places:
        raise _not_yours(approval.ask, voter, who_could(approval.ask, voters))
    own = next((one for one in approval.votes if one.operator == voter.id), None)
    if own is not None and own.decision == verdict:
        return approval
    status = approval.status_at(now)
    if status != "pending":
        by = ", ".join(one.operator for one in approval.votes)
        sentence = f"nothing is left to decide: this approval is {status}{f', decided by {by}' if by else ''}"
        raise Refusal("request_malformed", sentence, fields={"status": status})
    if own is not None:
        sentence = f"you have {_PAST[own.decision]} it already, and an operator votes once; others may still deny it"
        raise Refusal("request_malformed", sentence, fields={"status": status})
    said = Vote(operator=voter.id, decision=verdict, at=now, reason=reason, counts=places)
    after = replace(approval, votes=(*approval.votes, said))
    if verdict == "deny":
        return replace(after, status="denied")
    return replace(after, status="approved") if not missing(after) else after


def _concerned(ask: ApprovalAsk, voter: Voter) -> bool:
    """Whether the call is an operator's own affair; names are compared without their case."""
    own = (ask.agent, ask.owner, ask.key.subject, ask.key.on_behalf_of, *ask.parents)
    names = {voter.id.casefold(), voter.subject.casefold()} - {""}
    return not names.isdisjoint(name.casefold() for name in own)


def _not_yours(ask: ApprovalAsk, voter: Voter, could: list[str]) -> Refusal:
    who = " and ".join(" or ".join(group) for group in ask.approvers)
    if _concerned(ask, voter):
        sentence = f"this call is your own affair, and nobody approves those; it needs {who}"
    else:
        sentence = f"this call needs {who}, and {voter.id} is not among them"
    if could:
        listed = ", ".join(could[:_NAMED]) + (f" … ({len(could)} in all)" if len(could) > _NAMED else "")
        sentence = f"{sentence}; ask {listed}"
    else:
        sentence = f"{sentence}; nobody is who may decide: give an operator the role approver and the group"
    approvers = [list(group) for group in ask.approvers]
    return Refusal("scope_exceeded", sentence, fields={"approvers": approvers, "may_decide": could[:_NAMED]})
