"""A person's yes is for one call of one agent: what it is bound to, who may say it, and what it is worth later."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.attacks.desk import CHIEF, CLERK, COUNSEL, RULES, USER, Desk, approval_of
from tests.attacks.stage import AUDITOR
from tests.attacks.till import PAID, why
from tests.simulator.attester import AGENT
from tests.simulator.gateway import Reply

HELD = (403, "approval_required")
CLOSED = "  - {id: closed, effect: deny, match: {tools: [bank.large]}}\n"


def for_anna(desk: Desk) -> str:
    """A token of the agent on whose behalf a user has it act."""
    return desk.token(USER, act={"sub": AGENT})


# -- H1: what it is bound to


def test_another_call_waits_anew(desk: Desk) -> None:
    """H1: approved is this very call: with anything in it that differs it waits for an approval of its own."""
    order, run = desk.order(), desk.run()
    name = desk.approved(order, run=run)
    others: list[dict[str, Any]] = [
        {"body": {**order, "amount": 1001}},
        {"body": {**order, "amount": 1000.0}},
        {"body": {**order, "amount": "1000"}},
        {"body": {**order, "order_id": f"{order['order_id']} "}},
        {"body": {**order, "note": ""}},
        {"body": {**order, "amount": [1000]}},
        {"body": {key: order[key] for key in ("order_id", "amount")}},
        {"run": desk.run()},
        {"run": ""},
        {"by": "late"},
        {"token": for_anna(desk)},
        {"token": desk.child()},
        {"token": desk.token(AUDITOR)},
    ]
    asked = [desk.held(**{"body": order, "run": run, **other}) for other in others]
    assert len({name, *asked}) == len(others) + 1
    assert not desk.paid(order)
    spelled = json.dumps(dict(reversed(order.items())), indent=2).replace("A", r"\u0041").encode()
    assert desk.ask(spelled, run=run).status == 200
    assert desk.paid(order) == 1
    assert {desk.status(one) for one in asked} == {"pending"}


def test_what_stands_in_the_path_is_bound_too(desk: Desk) -> None:
    """H1: the path and the query of a call are as much of it as its body."""
    order = desk.order()
    way = f"orders/{order['order_id']}"
    desk.upstream.says(f"/bank/{way}?currency=EUR", PAID)
    name = desk.approved({"amount": 1}, by=f"{way}?currency=EUR")
    others = [(1, f"{way}?currency=USD"), (1, way), (1, f"{way}0?currency=EUR"), (2, f"{way}?currency=EUR")]
    for amount, other in others:
        assert desk.held({"amount": amount}, by=other) != name
    assert not desk.paid(order)
    assert desk.ask({"amount": 1}, by=f"{way}?currency=%45UR").status == 200


# -- H2: whose it is


def test_it_is_nobody_elses(desk: Desk) -> None:
    """H2, I24, S08: an approval of another agent reads as one that never was, also to a parent and its child."""
    child = desk.child()
    mine, childs = desk.held(desk.order()), desk.held(desk.order(), token=child)
    for name, token in ((mine, desk.token(AUDITOR)), (mine, child), (childs, desk.token())):
        theirs, nobodys = (
            desk.gateway.call("GET", f"/gateway/v1/approvals/{one}", token=token) for one in (name, name[::-1])
        )
        assert why(theirs)[:2] == (404, "object_unknown")
        assert _without_ids(theirs) == _without_ids(nobodys)
        assert theirs.headers.keys() == nobodys.headers.keys()
    assert desk.gateway.call("GET", f"/gateway/v1/approvals/{mine}").json()["status"] == "pending"
    assert desk.gateway.call("GET", f"/gateway/v1/approvals/{childs}", token=child).json()["status"] == "pending"


def _without_ids(reply: Reply) -> dict[str, Any]:
    told = dict(reply.json())
    told["gateway"] = {name: value for name, value in told["gateway"].items() if not name.endswith("_id")}
    return told


def test_nobody_rides_on_it(desk: Desk) -> None:
    """H2, I24: the same call by another agent waits for itself, before, while and after the first is carried out."""
    order, run, auditor = desk.order(), desk.run(), desk.token(AUDITOR)
    name = desk.held(order, run=run)
    other = desk.held(order, run=run, token=auditor)
    assert other != name
    desk.decide(name)
    assert desk.held(order, run=run, token=auditor) == other
    assert desk.ask(order, run=run).status == 200
    assert desk.held(order, run=run, token=auditor) == other
    assert desk.held(order, run=run, token=desk.child()) not in {name, other}
    assert desk.paid(order) == 1


# -- H3: who may say it


def test_nobody_decides_of_his_own_affairs(desk: Desk) -> None:
    """H3, I18: neither the agent, nor its owner, nor one above it, nor the user for whom it acts; nor an outsider."""
    anna, child, auditor = for_anna(desk), desk.child(), desk.token(AUDITOR)
    forbidden: list[tuple[str, dict[str, int]]] = [
        ("", {"procurement": 403, "boss": 403, "lawyer": 403, "reader": 403, "root": 403, COUNSEL: 403, AGENT: 401}),
        (anna, {USER: 403, "boss": 403, "procurement": 403, AGENT: 401}),
        (child, {"procurement": 403, "boss": 403, AGENT: 401}),  # its parent is called `procurement`
        (auditor, {CHIEF: 403, COUNSEL: 403, AUDITOR: 401}),
    ]
    for token, who in forbidden:
        name = desk.held(desk.order(), token=token)
        for one, expected in who.items():
            asking = desk.signed(one) if "/" in one else one
            for verdict in ("approve", "deny"):
                status, told = desk.admin("POST", f"/{name}/{verdict}", asking, {"reason": "mine"})
                code = "scope_exceeded" if expected == 403 else "identity_invalid"
                assert (status, told["code"]) == (expected, code), (one, told)
        assert desk.admin("POST", f"/{name}/approve", child)[0] == 401  # the gateway's own signature is no operator's
        shown = desk.shown(name)
        assert (shown["status"], shown["votes"]) == ("pending", [])
        assert not {one.rpartition("/")[2] for one in who} & set(shown["may_decide"])


def test_who_may_decide_may(desk: Desk) -> None:
    """H3: a member of the group does, with a token of his own or a signed one; the user of another call, too."""
    for who in ("desk", desk.signed(CLERK), desk.signed(CHIEF), desk.signed(USER)):
        assert desk.decide(desk.held(desk.order()), who=who)["status"] == "approved"
    assert desk.decide(desk.held(desk.order(), token=desk.token(AUDITOR)), who="boss")["status"] == "approved"


def test_a_yes_and_a_no_at_once(desk: Desk) -> None:
    """H3: of two who decide at the same moment one is told that it was too late, and the other's word counts."""
    for _ in range(5):
        name = desk.held(desk.order())
        with ThreadPoolExecutor(2) as pool:
            votes = [("approve", "desk"), ("deny", desk.signed(CLERK))]
            told = list(pool.map(lambda vote, of=name: desk.admin("POST", f"/{of}/{vote[0]}", vote[1]), votes))
        assert sorted(status for status, _ in told) == [200, 400]
        (verdict,) = (said for status, said in told if status == 200)
        assert desk.status(name) == verdict["status"]
        assert len(desk.shown(name)["votes"]) == 1


# -- H4: what is in force when it is sent


def test_what_policy_says_by_then(desk: Desk) -> None:
    """H4: a yes is no licence: what is forbidden, or asked for beside, when the call comes again keeps it back."""
    order, run = desk.order(), desk.run()
    desk.approved(order, run=run)
    wanted = RULES.replace("tools: [bank.pay]", "tools: [bank.pay, bank.large]")
    false = RULES + "  - {id: cheap, effect: require, match: {tools: [bank.large]}, when: args.amount < 1000}\n"
    with desk.ruled(RULES):
        for rules, code in (
            (RULES + CLOSED, "policy_denied"),
            (wanted, "attestation_required"),
            (false, "policy_denied"),
        ):
            desk.rule(rules)
            assert why(desk.ask(order, run=run))[:2] == (403, code)
        for alone in desk.workers():
            with alone:
                assert why(desk.ask(order, run=run))[:2] == (403, "policy_denied")
    assert not desk.paid(order)
    assert desk.ask(order, run=run).status == 200


def test_what_policy_says_while_it_is_held(desk: Desk) -> None:
    """H4: the connection is held open, a rule closes what it asks for, and the yes that comes then carries nothing."""
    order = desk.order()
    with desk.waiting(order) as (name, reply), desk.ruled(RULES + CLOSED):
        assert not reply.done()
        desk.decide(name)
        assert why(reply.result())[:2] == (403, "policy_denied")
    assert desk.status(name) == "approved"
    assert not desk.paid(order)


def test_other_people_are_asked_by_then(desk: Desk) -> None:
    """H4: where policy wants others, or one more, the yes of the first ones counts no more."""
    stricter = (
        "  - {id: legal, effect: require, match: {tools: [bank.large]}, approve: {approvers: [lawyer, counsel]}}\n"
    )
    order = desk.order()
    name = desk.approved(order)
    with desk.ruled(RULES + stricter):
        both = desk.held(order)
        assert (both != name, desk.status(name)) == (True, "cancelled")
        assert desk.decide(both)["status"] == "pending"
        assert desk.held(order) == both
        assert desk.decide(both, who=desk.signed(COUNSEL))["status"] == "approved"
        assert desk.ask(order).status == 200
    assert desk.admin("POST", f"/{name}/approve", desk.signed(CLERK))[0] == 400
    assert desk.paid(order) == 1


# -- H6: its end


def test_a_yes_ends(desk: Desk) -> None:
    """H6: approved and too late: the next call is told so and asked for anew, and the old yes opens nothing."""
    order = desk.order()
    name = desk.approved(order)
    desk.age(name, minutes=31)
    reply = desk.ask(order)
    told = approval_of(reply)
    assert (why(reply)[:2], told["reason"], told["status"]) == (HELD, "approval_expired", "pending")
    assert told["id"] != name
    mine = desk.gateway.call("GET", f"/gateway/v1/approvals/{name}").json()
    assert (mine["status"], mine["reason"], mine["next_action"]) == ("expired", "approval_expired", "request")
    for verdict in ("approve", "deny"):
        assert desk.admin("POST", f"/{name}/{verdict}", desk.signed(CLERK))[0] == 400
    assert not desk.paid(order)
    desk.decide(told["id"])
    assert desk.ask(order).status == 200


def test_the_end_comes_while_it_is_held(desk: Desk) -> None:
    """H6: whose connection is held open when time is up is told so, with the approval that takes its place."""
    order, run = desk.order(), desk.run()
    with desk.waiting(order, run=run) as (name, reply):
        desk.age(name, minutes=31)
        told = approval_of(reply.result())
    assert why(reply.result())[:2] == HELD
    assert (told["reason"], told["status"], told["next_action"]) == ("approval_expired", "pending", "retry")
    assert told["id"] != name
    assert desk.held(order, run=run) == told["id"]
    assert not desk.paid(order)


def test_what_was_carried_out_ends_too(desk: Desk) -> None:
    """H6: when its time is up the answer is told to nobody any more, and the same call needs a person again."""
    order = desk.order()
    name = desk.approved(order)
    assert desk.ask(order).status == 200
    desk.age(name, minutes=31)
    assert desk.held(order) != name
    assert desk.paid(order) == 1
