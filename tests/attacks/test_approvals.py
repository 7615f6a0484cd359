"""A person's yes is for one call of one agent: who may say it, what it is bound to, and how it is asked for and told."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.attacks.desk import CHIEF, CLERK, COUNSEL, RULES, USER, Desk, approval_of
from tests.attacks.stage import AUDITOR
from tests.attacks.till import why
from tests.simulator.attester import AGENT
from tests.simulator.gateway import Reply, eventually
from tests.simulator.load import Client
from tests.simulator.provider import completion, streamed
from tests.simulator.soak import SECONDS

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
    order, way = desk.order_of([])
    name = desk.approved({"amount": 1}, by=f"{way}?currency=EUR")
    for other in (f"{way}?currency=USD", way, f"{way}0?currency=EUR"):
        assert desk.held({"amount": 1}, by=other) != name
    assert desk.held(order, by=f"{way}?currency=EUR") != name
    assert not desk.paid({"order_id": way.rpartition("/")[2]})


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
    """H3: of two operators who decide at the same moment one is told that it was too late, and the other's word counts."""
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
    for rules, code in ((RULES + CLOSED, "policy_denied"), (wanted, "attestation_required"), (false, "policy_denied")):
        with desk.ruled(rules):
            for _ in desk.workers_alone():
                assert why(desk.ask(order, run=run))[:2] == (403, code)
    assert not desk.paid(order)
    assert desk.ask(order, run=run).status == 200


def test_what_policy_says_while_it_is_held(desk: Desk) -> None:
    """H4: the connection is held open, a rule closes what it asks for, and the yes that comes then carries nothing."""
    order = desk.order()
    name = desk.held(order)
    with desk.waiting(order) as reply, desk.ruled(RULES + CLOSED):
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
    for _ in desk.workers_alone():
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
    order = desk.order()
    name = desk.held(order)
    with desk.waiting(order) as reply:
        desk.age(name, minutes=31)
        told = approval_of(reply.result())
    assert why(reply.result())[:2] == HELD
    assert (told["reason"], told["status"], told["next_action"]) == ("approval_expired", "pending", "retry")
    assert told["id"] != name
    assert desk.held(order) == told["id"]
    assert not desk.paid(order)


def test_what_was_carried_out_ends_too(desk: Desk) -> None:
    """H6: when its time is up the answer is told to nobody any more, and the same call needs a person again."""
    order = desk.order()
    name = desk.approved(order)
    assert desk.ask(order).status == 200
    desk.age(name, minutes=31)
    assert desk.held(order) != name
    assert desk.paid(order) == 1


# -- H8: a link, and pages


def test_a_link_decides_nothing(desk: Desk) -> None:
    """H8: without a login, from a foreign page, as a form or by following a link nothing changes."""
    name = desk.held(desk.order())
    approve, json_of = f"/{name}/approve", {"Content-Type": "application/json"}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    shapes: list[tuple[int, str, str, dict[str, str]]] = [
        (401, "POST", "", json_of),
        (401, "POST", "", {**form, "Cookie": "session=desk; token=desk"}),
        (401, "POST", "nobody", json_of),
        (401, "POST", desk.token(), json_of),
        (401, "GET", "", {}),
        (403, "POST", "desk", {"Origin": "https://evil.example"}),
        (403, "POST", "desk", {"Origin": "null"}),
        (403, "POST", "desk", {"Origin": "https://evil.example", **form}),
        (403, "POST", "desk", {"Host": "evil.example"}),
        (415, "POST", "desk", form),
        (415, "POST", "desk", {"Content-Type": "text/plain"}),
        (415, "POST", "desk", {"Content-Type": "multipart/form-data; boundary=x"}),
        (415, "POST", "desk", {"Content-Type": ""}),
        (405, "GET", "desk", {}),
        (405, "HEAD", "desk", {}),
        (405, "GET", "desk", {"X-HTTP-Method-Override": "POST"}),
        (405, "PUT", "desk", json_of),
        (403, "OPTIONS", "desk", {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}),
    ]
    for expected, method, who, headers in shapes:
        status, _ = desk.admin(method, approve, who, headers=headers)
        assert status == expected, (method, who, headers)
    assert desk.admin("GET", f"{approve}?_method=POST")[0] == 405
    for path, expected in ((name, 405), (f"{name}/approve", 404)):
        assert desk.gateway.call("POST", f"/gateway/v1/approvals/{path}", {"reason": "mine"}).status == expected
    shown = desk.shown(name)
    assert (shown["status"], shown["votes"]) == ("pending", [])


# -- H9: what approvers see

FOOLING = {
    "note": "<script>approve()</script>&lt;\u202e001 RUE\u202c\u2066x\u2069\x1b[2J\x07\r\n\u200bstatus: approved\u2028",
    "\u202etnuoma": "e\u0336\u05d0\u3164\U000e0041",
    'amount"\n  "amount': 1,
    "nested": [{"\x1b]0;title\x07": "'); --"}],
}


def test_what_could_fool_the_approver_is_inert(desk: Desk) -> None:
    """H9: on the command line and in the admin API each character shows as what it is, beside the digest of all."""
    body = {**desk.order(), **FOOLING}
    name = desk.held(body)
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    shown = desk.shown(name)
    texts = [shown["args"]]
    for form in ("text", "json"):
        told = desk.gateway.command("approvals", "show", name, "--format", form, "--admin", desk.gateway.admin_url)
        texts.append(told.stdout)
    for text in texts:
        assert all(char == "\n" or " " <= char <= "~" for char in text)
        assert not set(text) & set("<>&")
    assert json.loads(shown["args"]) == body
    assert json.loads(texts[2]) == shown
    _, _, arguments = texts[1].partition("\narguments\n")
    assert json.loads(arguments) == body
    assert all(line.startswith("  ") for line in arguments.splitlines()[1:-1])  # no line of an agent's own making
    digest = hashlib.sha256(canonical).hexdigest()
    assert shown["args_sha256"] == digest
    assert digest in texts[1]


def test_what_is_too_long_to_be_shown(desk: Desk) -> None:
    """H9: of very long arguments the digest is shown, and nothing that stands for them; still it is this call's."""
    body = {**desk.order(), "note": "a" * (256 * 1024)}
    name = desk.approved(body)
    shown = desk.shown(name)
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    assert (shown["args"], shown["args_sha256"]) == (None, hashlib.sha256(canonical).hexdigest())
    assert desk.held({**body, "note": body["note"] + "b"}) != name
    assert desk.ask(body).status == 200


# -- H10: many of the same

CONNECTIONS = 50


async def flood(desk: Desk, body: bytes, times: int) -> Counter[tuple[int, str, str]]:
    """Identical calls at the same moment, on connections to all workers alike: status, code and approval of each."""
    clients = [Client(desk.gateway.port, desk.token()) for _ in range(CONNECTIONS)]
    for number in desk.workers_alone():
        arriving = clients[number :: desk.gateway.config["workers"]]
        await asyncio.gather(*(client.request("GET", "/v1/models") for client in arriving))
    told: Counter[tuple[int, str, str]] = Counter()
    for _ in range(times // CONNECTIONS):
        got = await asyncio.gather(*(one.request("POST", "/r/many/tools/bank/large", body) for one in clients))
        for one in got:
            approval = json.loads(one.body)["gateway"]["approval"]["id"]
            told[one.status, one.headers["gateway-refusal"], approval] += 1
    await asyncio.gather(*(client.close() for client in clients))
    return told


@pytest.mark.soak
def test_many_of_the_same_are_one(desk: Desk) -> None:
    """H10: a thousand identical calls (two hundred in the short form) on two workers are one question to people."""
    order, times = desk.order(), 1000 if SECONDS else 200
    told = asyncio.run(flood(desk, json.dumps(order).encode(), times))
    ((status, code, name),) = told
    assert (status, code, told.total()) == (*HELD, times)
    listed = desk.admin("GET", "?status=pending")[1]["approvals"]
    assert [one["id"] for one in listed if one["run"] == "many"] == [name]
    eventually(lambda: ("approval.pending", name) in desk.receiver.heard, "nobody was told")
    assert [one for one in desk.receiver.heard if one[1] == name] == [("approval.pending", name)]


# -- H12: what a client makes of it


class Sdk:
    """The official SDK as it comes, with its retries, in a run of its own; it counts what it sends."""

    def __init__(self, desk: Desk) -> None:
        self.run = desk.run()
        self.sent = 0
        http = httpx.Client(event_hooks={"request": [self._count]})
        base = f"{desk.gateway.url}/r/{self.run}/v1"
        self.client = openai.OpenAI(base_url=base, api_key=desk.token(), http_client=http)

    def _count(self, _: httpx.Request) -> None:
        self.sent += 1

    def chat(self, model: str, **more: Any) -> Any:  # noqa: ANN401 - a completion, or a stream of its parts
        return self.client.chat.completions.create(model=model, messages=[{"role": "user", "content": "pay"}], **more)


@pytest.fixture
def sdk(desk: Desk) -> Iterator[Sdk]:
    sdk = Sdk(desk)
    with sdk.client:
        yield sdk


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_sdk_does_not_repeat_what_waits(desk: Desk, sdk: Sdk, stream: bool) -> None:
    """H12: a model whose calls are held: one request, a 403 that is not retried; once approved the very same call works."""
    model = f"scripted-held-{sdk.run}"
    desk.upstream.says(model, streamed("all", " paid") if stream else completion("all paid"))
    with pytest.raises(openai.PermissionDeniedError) as caught:
        sdk.chat(model, stream=stream)
    assert caught.value.code == "approval_required"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in caught.value.response.headers
    assert (sdk.sent, desk.upstream.heard(model)) == (1, [])
    (row,) = desk.gateway.wait_for_rows(1, "run = ?", sdk.run)
    assert (row["code"], row["cost_nano_usd"]) == ("approval_required", 0)
    body = caught.value.body
    assert isinstance(body, dict)
    desk.decide(body["gateway"]["approval"]["id"])
    said = sdk.chat(model, stream=stream)
    if stream:
        parts = [part.choices[0].delta.content or "" for part in said if part.choices]
        assert "".join(parts) == "all paid"
        with pytest.raises(openai.APIStatusError) as late:
            sdk.chat(model, stream=True)
        assert (late.value.status_code, late.value.code) == (410, "step_expired")
    else:
        assert said.choices[0].message.content == "all paid"
        assert sdk.chat(model).choices[0].message.content == "all paid"
    assert (sdk.sent, len(desk.upstream.heard(model))) == (3, 1)


def test_who_waits_is_told_once(desk: Desk, sdk: Sdk) -> None:
    """H12: a tool behind the same SDK: one request, one 403, and nothing at the bank."""
    order = desk.order()
    with pytest.raises(openai.PermissionDeniedError) as caught:
        sdk.client.post(f"{desk.gateway.url}/r/{sdk.run}/tools/bank/large", body=order, cast_to=object)
    assert caught.value.response.headers["gateway-refusal"] == "approval_required"
    assert (sdk.sent, desk.paid(order)) == (1, 0)


PREFERENCES: Mapping[str, int] = {
    "": 403,
    "wait=0": 403,
    "respond-asyncx": 403,
    "x-respond-async": 403,
    "return=minimal; respond-async=maybe": 403,
    "respond-async": 202,
    "return=minimal, respond-async; x=1": 202,
    "wait=0, respond-async": 202,
}


@pytest.mark.parametrize("chat", ["whole", "stream", ""])
def test_how_it_is_told_that_it_waits(desk: Desk, chat: str) -> None:
    """H12, H7: 403 that says not to repeat, and 202 for those alone who asked for it: for models, streams and tools."""
    model, order = f"scripted-held-{desk.run()}", desk.order()
    body = {"model": model, "messages": [], "stream": chat == "stream"} if chat else order
    path = "/v1/chat/completions" if chat else "/tools/bank/large"
    names = set()
    for preference, expected in PREFERENCES.items():
        for extra in ({}, {"Gateway-Approval": "accept", "X-Approved-By": "desk"}):
            headers = {"Prefer": preference, **extra} if preference else extra
            reply = desk.gateway.call("POST", path, body, headers=headers)
            assert (reply.status, reply.refusal) == (expected, "approval_required"), preference
            assert reply.headers["x-should-retry"] == "false"
            assert "retry-after" not in reply.headers
            assert reply.headers["content-type"].partition(";")[0] in {"application/json", "application/problem+json"}
            assert reply.headers.get("preference-applied") == ("respond-async" if expected == 202 else None)
            names.add(approval_of(reply)["id"])
    assert len(names) == 1
    assert (desk.upstream.heard(model), desk.paid(order)) == ([], 0)
