"""How a person is asked and an agent is told: inert, once, by who is logged in, and with nothing to be repeated."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import openai
import pytest

from tests.attacks.desk import Desk, approval_of
from tests.attacks.stage import AUDITOR
from tests.attacks.till import WORKERS, Order, why
from tests.simulator.gateway import eventually
from tests.simulator.load import Client, Got
from tests.simulator.provider import completion, streamed
from tests.simulator.soak import SECONDS
from tests.simulator.webhook import SECRET, Delivery

HELD = (403, "approval_required")


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


class Crowd:
    """Connections of one agent, shared out among all workers, which ask for the same at the same moment."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._clients = [Client(desk.gateway.port, desk.token()) for _ in range(CONNECTIONS)]

    async def __aenter__(self) -> Self:
        for number, alone in enumerate(self._desk.workers()):
            with alone:
                arriving = self._clients[number::WORKERS]
                await asyncio.gather(*(client.request("GET", "/v1/models") for client in arriving))
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(client.close() for client in self._clients))

    async def ask(self, body: bytes) -> list[Got]:
        """What each of them is told."""
        asked = (client.request("POST", "/r/many/tools/bank/large", body) for client in self._clients)
        return await asyncio.gather(*asked)


async def many(desk: Desk, body: bytes, times: int) -> None:
    """Ask so often: all are told the same, and so are the approvers, once."""
    async with Crowd(desk) as crowd:
        told = [got for _ in range(times // CONNECTIONS) for got in await crowd.ask(body)]
    assert len(told) == times
    assert {(got.status, got.headers["gateway-refusal"]) for got in told} == {HELD}
    (name,) = {json.loads(got.body)["gateway"]["approval"]["id"] for got in told}
    assert desk.pending("many") == [name]
    eventually(lambda: ("approval.pending", name) in desk.receiver.heard, "nobody was told")
    assert [one for one in desk.receiver.heard if one[1] == name] == [("approval.pending", name)]
    desk.decide(name)


async def race(desk: Desk, orders: Sequence[Order]) -> None:
    """Of each order that is approved all ask at the same moment, and once more."""
    async with Crowd(desk) as crowd:
        for order in orders:
            desk.approved(order, run="many")
            body = json.dumps(order).encode()
            assert {got.status for got in await crowd.ask(body)} <= {200, 409}
            again = await crowd.ask(body)
            assert {(got.status, got.body) for got in again} == {(200, b'{"paid": true}')}
            assert all(got.headers["gateway-replayed"].startswith("true; age=") for got in again)


@pytest.mark.soak
def test_many_of_the_same_are_one(desk: Desk) -> None:
    """H10: a thousand identical calls (200 in the short form) on two workers are one question, asked once."""
    order = desk.order()
    asyncio.run(many(desk, json.dumps(order).encode(), 1000 if SECONDS else 200))
    assert not desk.paid(order)


@pytest.mark.soak
def test_many_that_come_again_are_one(desk: Desk) -> None:
    """H5: of fifty on two workers that come again at the same moment one is carried out, and all get its answer."""
    orders = [desk.order() for _ in range(100 if SECONDS else 8)]
    asyncio.run(race(desk, orders))
    assert {desk.paid(order) for order in orders} == {1}


def test_nobody_buries_what_others_ask(desk: Desk) -> None:
    """H10: an agent that asks for ever other payments is refused after a hundred; whoever else asks is heard."""
    child = desk.child()
    for _ in range(100):
        desk.held(desk.order(), token=child)
    reply = desk.ask(desk.order(), token=child)
    assert why(reply)[:2] == (429, "rate_limited")
    assert 1 <= int(reply.headers["retry-after"]) <= 30
    for token in ("", desk.token(AUDITOR), desk.child()):
        assert desk.held(desk.order(), token=token)


# -- H12: what a client makes of it


class Sdk:
    """The official SDK as it comes, with its retries, in a run of its own; it counts what it sends."""

    def __init__(self, desk: Desk) -> None:
        self.run = desk.run()
        self.sent = 0
        http = openai.DefaultHttpxClient(event_hooks={"request": [self._count]})
        base = f"{desk.gateway.url}/r/{self.run}/v1"
        self.client = openai.OpenAI(base_url=base, api_key=desk.token(), http_client=http)

    def _count(self, _: object) -> None:
        self.sent += 1

    def chat(self, model: str, **more: Any) -> Any:  # noqa: ANN401 - a completion, or a stream of its parts
        """Ask a model."""
        return self.client.chat.completions.create(model=model, messages=[{"role": "user", "content": "pay"}], **more)


@pytest.fixture
def sdk(desk: Desk) -> Iterator[Sdk]:
    sdk = Sdk(desk)
    with sdk.client:
        yield sdk


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_sdk_does_not_repeat_what_waits(desk: Desk, sdk: Sdk, *, stream: bool) -> None:
    """H12: a model whose calls are held: one request, a 403 that is not retried; approved, the very same call works."""
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
        assert sdk.chat(model, stream=False).choices[0].message.content == "all paid"
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


# -- what others are told


def test_what_the_webhook_is_told(desk: Desk) -> None:
    """H12, S18: signed, and again after the receiver was down; neither its secret nor arguments stand anywhere else."""
    canary = "4111-2203-8871"
    body = {**desk.order(), "card": canary}
    began = (desk.gateway.folder / "log.ndjson").stat().st_size
    desk.receiver.status = 503
    try:
        name = desk.held(body)
        eventually(lambda: _of(desk, name), "nobody is told")
        desk.gateway.wait_for("webhook_failed", since=began)
    finally:
        desk.receiver.status = 200
    eventually(lambda: ("approval.pending", name) in desk.receiver.heard, "it is not told again")
    desk.decide(name)
    eventually(lambda: ("approval.approved", name) in desk.receiver.heard, "the decision is not told")
    assert desk.ask(body).status == 200
    ids: dict[str, list[int]] = {}
    for one in _of(desk, name):
        assert one.genuine
        assert canary not in json.dumps(one.event)
        ids.setdefault(one.id, []).append(one.status)
    pending, approved = ids.values()
    assert (set(pending[:-1]), pending[-1], approved) == ({503}, 200, [200])
    _nowhere(desk, canary)


def _of(desk: Desk, name: str) -> list[Delivery]:
    """What the receiver was told of an approval."""
    return [one for one in list(desk.receiver.deliveries) if one.event["data"]["id"] == name]


def _nowhere(desk: Desk, canary: str) -> None:
    """Neither the secret of the webhook nor what an agent said is in what the gateway tells or writes down."""
    secret = SECRET.removeprefix("whsec_").encode()
    told = [
        (desk.gateway.folder / "log.ndjson").read_bytes(),
        repr(desk.gateway.metrics()).encode(),
        json.dumps(desk.admin("GET", "")[1]).encode(),
        json.dumps(desk.gateway.admin("GET", "/admin/v1/status")).encode(),
        desk.gateway.ready()[1].encode(),
        *(file.read_bytes() for file in (desk.gateway.folder / "var" / "audit").iterdir()),
    ]
    kept = [file.read_bytes() for file in (desk.gateway.folder / "var").rglob("*") if file.is_file()]
    assert not [text for text in told if canary.encode() in text]
    assert not [text for text in (*told, *kept) if secret in text or base64.b64decode(secret) in text]
