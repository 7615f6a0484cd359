"""Held calls on real processes: who may decide, what the agent is told, and one execution whatever dies meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, Final

import pytest

from tests.simulator.ageing import age
from tests.simulator.gateway import Gateway, Reply, eventually
from tests.simulator.provider import ScriptedProvider
from tests.simulator.upstream import Do, answer
from tests.simulator.webhook import SECRET, Receiver

PATH = "/bank/pay"
PAID = [answer(b'{"paid":true}', ("Content-Type", "application/json"))]
AUDITOR = "spiffe://acme.example/agent/auditor"
OPERATORS: Final = {
    "desk": {"roles": ["approver"], "groups": ["finance"]},
    "lawyer": {"roles": ["approver"], "groups": ["legal"]},
    "reader": {"roles": ["viewer"], "groups": ["finance"]},
    "owner": {"roles": ["operator"], "groups": ["finance"]},
}
POLICY: Final = """version: 1
policy: bank
rules:
  - {id: may-pay, effect: allow, match: {tools: ["bank.*"]}}
  - id: large
    effect: require
    match: {tools: [bank.pay]}
    approve: {when: 'args.amount > 100', approvers: ["group:finance"], expires: 30m}
"""
CLOSED: Final = """  - {id: closed, effect: deny, match: {tools: [bank.pay]}}
"""
_orders: Final = count(1)


@pytest.fixture(scope="module")
def bank() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        yield running


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, bank: ScriptedProvider, receiver: Receiver) -> Iterator[Gateway]:
    agents = {"procurement": "spiffe://acme.example/agent/procurement", "auditor": AUDITOR}
    config = {
        "workers": 2,
        "agents": [{"id": name, "issuer": "dev", "subject": who, "owner": "owner"} for name, who in agents.items()],
        "operators": [{"id": name, "token_sha256": digest(name), **rest} for name, rest in OPERATORS.items()],
        "webhooks": {"approvals": receiver.config},
        **bank.behind(),
    }
    with Gateway(tmp_path_factory.mktemp("gateway"), config, {"bank.yaml": POLICY}) as running:
        yield running


@pytest.fixture
def gateway(shared: Gateway, bank: ScriptedProvider) -> Gateway:
    bank.says(PATH, PAID)
    return shared


def secret(name: str) -> str:
    return f"{name}-token-" + "x" * 40


def digest(name: str) -> str:
    return hashlib.sha256(secret(name).encode()).hexdigest()


def order(amount: int = 900) -> dict[str, object]:
    """A payment that nobody has asked for yet."""
    return {"order_id": f"A{next(_orders)}", "amount": amount}


def pay(gateway: Gateway, body: object, *, prefer: str = "", token: str = "", run: str = "r1") -> Reply:
    headers = {"Prefer": prefer} if prefer else None
    return gateway.call("POST", f"/r/{run}/tools/bank/pay", body, headers=headers, token=token)


def held(gateway: Gateway, body: object, **options: str) -> str:
    """The id of the approval that a call waits for."""
    reply = pay(gateway, body, **options)
    assert (reply.status, reply.refusal) == (403, "approval_required"), reply.body
    return str(reply.json()["gateway"]["approval"]["id"])


def admin(
    gateway: Gateway, method: str, path: str, who: str = "desk", body: object = None, headers: Mapping[str, str] = {}
) -> tuple[int, dict[str, Any]]:
    """Ask the admin API as this operator, or as nobody."""
    sent = {"Content-Type": "application/json", **headers}
    if who:
        sent["Authorization"] = f"Bearer {secret(who)}"
    data = json.dumps(body or {}).encode() if method == "POST" else None
    request = urllib.request.Request(gateway.admin_url + path, method=method, data=data, headers=sent)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310 - loopback
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def decide(gateway: Gateway, name: str, verdict: str = "approve", who: str = "desk") -> dict[str, Any]:
    status, told = admin(gateway, "POST", f"/admin/v1/approvals/{name}/{verdict}", who, {"reason": "looked at it"})
    assert status == 200, told
    return told


def status_of(gateway: Gateway, name: str) -> str:
    return str(admin(gateway, "GET", f"/admin/v1/approvals/{name}", "reader")[1]["status"])


def test_a_call_is_held_approved_and_carried_out_once(
    gateway: Gateway, bank: ScriptedProvider, receiver: Receiver
) -> None:
    """H5: held, told to the approvers, approved, carried out; the next identical call gets the very answer of it."""
    body, before = order(), len(bank.heard(PATH))
    name = held(gateway, body)
    assert held(gateway, body) == name
    told = decide(gateway, name)
    assert (told["status"], json.loads(told["args"])) == ("approved", body)
    first, again = pay(gateway, body), pay(gateway, body)
    assert (first.status, first.body) == (again.status, again.body) == (200, b'{"paid":true}')
    assert len(bank.heard(PATH)) == before + 1
    assert status_of(gateway, name) == "consumed"
    eventually(lambda: ("approval.approved", name) in receiver.heard, "the approval was not told")
    assert all(one.genuine and str(body["order_id"]) not in json.dumps(one.event) for one in receiver.deliveries)
    assert {"pending", "approved", "executing", "consumed"} <= {
        line["status"] for line in gateway.log() if line["event"] == "approval" and line["id"] == name
    }
    text = (gateway.folder / "log.ndjson").read_text()
    assert SECRET not in text
    assert gateway.metrics()['passgate_approvals_total{status="consumed"}'] >= 1


def test_what_needs_no_approval_is_not_held(gateway: Gateway) -> None:
    """Below the amount that policy names nobody is asked."""
    assert pay(gateway, order(100)).status == 200


@pytest.mark.parametrize(
    ("change", "run"), [({"amount": 901}, "r1"), ({"note": "x"}, "r1"), ({}, "r2")], ids=["amount", "member", "run"]
)
def test_an_approval_is_for_this_call(gateway: Gateway, change: dict[str, object], run: str) -> None:
    """H1: with other arguments, or in another run, the approved call is another one and waits anew."""
    body = order()
    name = held(gateway, body)
    decide(gateway, name)
    assert held(gateway, {**body, **change}, run=run) != name
    assert pay(gateway, body).status == 200


def test_an_approval_of_another_agent_is_unknown(gateway: Gateway) -> None:
    """H2, I24: the owner reads how it stands; to any other agent it is what an id that does not exist is."""
    body = order()
    name = held(gateway, body)
    mine = gateway.call("GET", f"/gateway/v1/approvals/{name}")
    assert (mine.status, mine.json()["status"], mine.json()["next_action"]) == (200, "pending", "retry")
    token = gateway.token(sub=AUDITOR)
    replies = [gateway.call("GET", f"/gateway/v1/approvals/{one}", token=token) for one in (name, "apr_0")]
    assert {reply.status for reply in replies} == {404}
    one, other = (reply.body.replace(reply.headers["x-request-id"].encode(), b"") for reply in replies)
    assert one == other
    assert held(gateway, body, token=token) != name


@pytest.mark.parametrize(
    ("who", "says"),
    [
        ("lawyer", "lawyer is not among them; ask desk"),
        ("owner", "your own affair"),
        ("reader", "needs the role approver"),
    ],
)
def test_who_may_not_decide_is_told_who_could(gateway: Gateway, who: str, says: str) -> None:
    """H3: not who is outside the group, nor the owner of the agent whatever the role, nor who has no role."""
    name = held(gateway, order())
    for verdict in ("approve", "deny"):
        status, told = admin(gateway, "POST", f"/admin/v1/approvals/{name}/{verdict}", who, {"reason": "mine"})
        assert (status, told["code"]) == (403, "scope_exceeded")
        assert says in told["detail"]
    assert status_of(gateway, name) == "pending"


@pytest.mark.parametrize(
    ("who", "headers", "expected"),
    [
        ("", {}, 401),
        ("stranger", {}, 401),
        ("desk", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("desk", {"Content-Type": "text/plain"}, 415),
        ("desk", {"Origin": "https://evil.example"}, 403),
        ("desk", {"Host": "evil.example"}, 403),
        ("", {"Cookie": "session=desk", "Content-Type": "application/x-www-form-urlencoded"}, 401),
    ],
    ids=["no login", "unknown", "form", "text", "foreign page", "rebound name", "cookie"],
)
def test_a_stolen_link_decides_nothing(gateway: Gateway, who: str, headers: Mapping[str, str], expected: int) -> None:
    """H8: the address of an approval is no login, and no page can make an operator's browser decide."""
    name = held(gateway, order())
    assert admin(gateway, "POST", f"/admin/v1/approvals/{name}/approve", who, headers=headers)[0] == expected
    assert status_of(gateway, name) == "pending"


def test_only_reading_is_a_get(gateway: Gateway) -> None:
    """H8: a link that is followed, or an image that is loaded, decides nothing."""
    name = held(gateway, order())
    assert admin(gateway, "GET", f"/admin/v1/approvals/{name}/approve")[0] == 405


def test_what_was_denied_is_refused(gateway: Gateway, bank: ScriptedProvider) -> None:
    """A no holds: identical calls are refused, the agent can read why, and another yes comes too late."""
    body, before = order(), len(bank.heard(PATH))
    name = held(gateway, body)
    decide(gateway, name, "deny")
    reply = pay(gateway, body)
    assert (reply.status, reply.refusal) == (403, "policy_denied")
    assert reply.json()["gateway"]["approval"]["reason"] == "approval_denied"
    told = gateway.call("GET", f"/gateway/v1/approvals/{name}").json()
    assert (told["status"], told["by"], told["message"]) == ("denied", ["desk"], "looked at it")
    assert admin(gateway, "POST", f"/admin/v1/approvals/{name}/approve")[0] == 400
    assert len(bank.heard(PATH)) == before


def test_a_plain_client_is_never_told_to_repeat(gateway: Gateway) -> None:
    """H7, H12: pending is a 403 that nobody retries; 202 only where it was asked for; a client's own yes is no yes."""
    body = order()
    reply = pay(gateway, body)
    assert (reply.status, reply.headers["x-should-retry"]) == (403, "false")
    assert "retry-after" not in reply.headers
    reply = pay(gateway, body, prefer="respond-async")
    assert (reply.status, reply.refusal) == (202, "approval_required")
    assert reply.headers["location"].endswith(f"/gateway/v1/approvals/{held(gateway, body)}")
    assert reply.headers["preference-applied"] == "respond-async"
    accepted = gateway.call(
        "POST", "/r/r1/tools/bank/pay", body, headers={"Gateway-Approval": "accept", "Prefer": 'action="accept"'}
    )
    assert accepted.refusal == "approval_required"


@pytest.mark.parametrize(("verdict", "expected"), [("approve", 200), ("deny", 403)])
def test_who_waits_is_answered_when_it_is_decided(gateway: Gateway, verdict: str, expected: int) -> None:
    """`Prefer: wait` holds the connection until the decision, on whichever worker it is."""
    body = order()
    name = held(gateway, body)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(pay, gateway, body, prefer="wait=20") for _ in range(3)]
        eventually(lambda: sum(w["inflight"] for w in workers(gateway)) >= 3, "nobody waits")
        decide(gateway, name, verdict)
        statuses = [one.result().status for one in waiting]
    assert expected in statuses
    assert set(statuses) <= {expected, 409}  # a twin comes while the first is being carried out


def workers(gateway: Gateway) -> list[dict[str, Any]]:
    return list(admin(gateway, "GET", "/admin/v1/status")[1]["workers"])


def test_waiting_ends_and_nothing_has_happened(gateway: Gateway) -> None:
    """Nobody decides within the second that the client gives it: it is told what it is told without waiting."""
    assert pay(gateway, order(), prefer="wait=1").refusal == "approval_required"


def test_two_retries_at_once_are_one_execution(gateway: Gateway, bank: ScriptedProvider) -> None:
    """H5: while the first is carried out its twins get 409 with a time to wait, afterwards its answer."""
    body, before = order(), len(bank.heard(PATH))
    bank.says(PATH, [0.5, *PAID])
    decide(gateway, held(gateway, body))
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda _: pay(gateway, body), range(6)))
    assert sorted({(reply.status, reply.refusal) for reply in replies}) == [(200, ""), (409, "step_in_progress")]
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in replies if reply.status == 409)
    assert pay(gateway, body).body == b'{"paid":true}'
    assert len(bank.heard(PATH)) == before + 1


def test_a_policy_that_became_tighter_counts(gateway: Gateway) -> None:
    """H4: an approval is no licence: what policy forbids by the time of the retry is refused all the same."""
    body = order()
    name = held(gateway, body)
    decide(gateway, name)
    gateway.policies = {"bank.yaml": POLICY + CLOSED}
    gateway.write_policies()
    assert admin(gateway, "POST", "/admin/v1/reload", "owner")[1]["reloaded"]
    try:
        assert pay(gateway, body).refusal == "policy_denied"
    finally:
        gateway.policies = {"bank.yaml": POLICY}
        gateway.write_policies()
        assert admin(gateway, "POST", "/admin/v1/reload", "owner")[1]["reloaded"]
    assert pay(gateway, body).status == 200


def test_other_approvers_are_asked_anew(gateway: Gateway) -> None:
    """H4: when policy names other people, what the first ones approved is cancelled and the others are asked."""
    body = order()
    name = held(gateway, body)
    decide(gateway, name)
    gateway.policies = {"bank.yaml": POLICY.replace("group:finance", "group:legal")}
    gateway.write_policies()
    assert admin(gateway, "POST", "/admin/v1/reload", "owner")[1]["reloaded"]
    try:
        other = held(gateway, body)
        assert (other != name, status_of(gateway, name)) == (True, "cancelled")
        decide(gateway, other, who="lawyer")
        assert pay(gateway, body).status == 200
    finally:
        gateway.policies = {"bank.yaml": POLICY}
        gateway.write_policies()
        assert admin(gateway, "POST", "/admin/v1/reload", "owner")[1]["reloaded"]


def test_what_approvers_see_is_inert(gateway: Gateway) -> None:
    """H9: markup and bidi controls in arguments reach operators as escapes, on the command line too."""
    body = {**order(), "note": "<b>\u202e001 RUE</b>\x1b[2J"}
    name = held(gateway, body)
    shown = admin(gateway, "GET", f"/admin/v1/approvals/{name}")[1]
    assert json.loads(shown["args"]) == body
    assert shown["args_sha256"] == hashlib.sha256(
        json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    ).hexdigest()  # fmt: skip
    assert not set(shown["args"]) & {"<", ">", "\u202e", "\x1b"}


def test_many_identical_calls_ask_once(gateway: Gateway) -> None:
    """H10: identical calls from many connections to both workers are one question to the approvers."""
    body = order()
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: held(gateway, body), range(60)))
    assert len(names) == 1
    pending = admin(gateway, "GET", "/admin/v1/approvals?status=pending")[1]["approvals"]
    assert [one["id"] for one in pending].count(names.pop()) == 1


def test_workers_that_die_while_they_carry_it_out_leave_doubt(gateway: Gateway, bank: ScriptedProvider) -> None:
    """Killed with the request upstream, nobody knows: twins get 424, and no call is sent a second time."""
    body, before = order(), len(bank.heard(PATH))
    bank.says(PATH, [Do.HANG])
    name = held(gateway, body)
    decide(gateway, name)
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(pay, gateway, body)
        eventually(lambda: len(bank.heard(PATH)) == before + 1, "it was not sent")
        for one in workers(gateway):
            os.kill(one["pid"], signal.SIGKILL)
        with contextlib.suppress(Exception):  # however a client words that its connection broke
            lost.result()
    eventually(lambda: status_of(gateway, name) == "failed", "nobody gave it up for lost")
    eventually(lambda: len(workers(gateway)) == 2 and all(one["serving"] for one in workers(gateway)), "no successor")
    bank.says(PATH, PAID)
    reply = pay(gateway, body)
    assert (reply.status, reply.refusal) == (424, "step_in_doubt")
    assert len(bank.heard(PATH)) == before + 1


def test_a_kill_and_a_start_later_everything_stands(gateway: Gateway, receiver: Receiver) -> None:
    """H6, H11: pending and approved survive a SIGKILL; half an hour later both are over, and the agent is told so."""
    waits, approved, kept = order(), order(), order()
    names = [held(gateway, body) for body in (waits, approved, kept)]
    decide(gateway, names[1])
    gateway.kill()
    gateway.start()
    assert held(gateway, waits) == names[0]
    assert pay(gateway, approved).status == 200
    decide(gateway, names[2])
    gateway.stop()
    age(gateway.folder, minutes=31)
    gateway.start()
    eventually(lambda: status_of(gateway, names[0]) == "expired", "it did not expire")
    told = gateway.call("GET", f"/gateway/v1/approvals/{names[0]}").json()
    assert (told["reason"], told["next_action"]) == ("approval_expired", "request")
    reply = pay(gateway, kept)
    assert reply.refusal == "approval_required"
    assert reply.json()["gateway"]["approval"]["reason"] == "approval_expired"
    assert reply.json()["gateway"]["approval"]["id"] not in names
    eventually(lambda: ("approval.expired", names[0]) in receiver.heard, "the expiry was not told")
    with contextlib.closing(sqlite3.connect(gateway.folder / "var" / "passgate.db")) as conn:
        assert conn.execute("SELECT count(*) FROM approvals WHERE status = 'executing'").fetchone() == (0,)


def test_an_answer_whose_headers_are_no_text_is_kept_all_the_same(gateway: Gateway, bank: ScriptedProvider) -> None:
    """A tool that sends bytes in a header which no UTF-8 text has does not leave its approved call in doubt."""
    body = order()
    bank.says(PATH, [b'HTTP/1.1 200 OK\r\nContent-Disposition: a; name="\xe9"\r\nContent-Length: 2\r\n\r\n{}'])
    name = held(gateway, body)
    decide(gateway, name)
    assert (pay(gateway, body).status, pay(gateway, body).body) == (200, b"{}")
    assert status_of(gateway, name) == "consumed"
