"""An approved call happens once, on what it rests on: whatever is withdrawn, stopped, repeated or killed meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.attacks.desk import CLERK, RULES, Desk
from tests.attacks.till import PAID, WORKERS, Order, required, why
from tests.simulator.gateway import Reply, eventually
from tests.simulator.upstream import Do, Script, answer, held_back

IN_DOUBT = (424, "step_in_doubt")
JSON = ("Content-Type", "application/json")
BODY = {"amount": 1000}
NO_KEYS = b'{"keys": []}'


def ago(seconds: int) -> int:
    """Epoch seconds, so many before now."""
    return int(time.time()) - seconds


# -- what a held call rests on


def test_what_a_held_call_rests_on_is_kept_for_it(desk: Desk) -> None:
    """W11: an attestation that a held call will use up is nobody else's meanwhile, approved or not; nor after that."""
    order, run = desk.order(), desk.run()
    checked = desk.attests(order, run)
    name = desk.held(order, checked, run=run, by="each")

    def others() -> None:
        for presented in ((), (checked,)):
            assert why(desk.ask(order, *presented, run=run, by="once")) == required("consumed")

    others()
    assert desk.held(order, run=run, by="each") == name
    desk.decide(name)
    others()
    assert desk.ask(order, run=run, by="each").status == 200
    others()
    assert desk.paid(order) == 1


@pytest.mark.parametrize("end", ["denied", "expired"])
def test_where_it_ends_unsent_it_is_free(desk: Desk, end: str) -> None:
    """W11, H6: denied or too late, a call that was not sent leaves its attestation to others, and finds it gone."""
    order, run = desk.order(), desk.run()
    name = desk.held(order, desk.attests(order, run), run=run, by="each")
    if end == "denied":
        desk.decide(name, "deny")
    else:
        desk.decide(name)
        desk.age(name, minutes=31)
    assert desk.status(name) == end
    eventually(lambda: desk.ask(order, run=run, by="once").status == 200, "it is not given back")
    expected = ("policy_denied", "") if end == "denied" else ("attestation_required", "consumed")
    assert why(desk.ask(order, run=run, by="each"))[1:] == expected
    assert desk.paid(order) == 1


def test_when_nobody_needs_to_be_asked_any_more(desk: Desk) -> None:
    """W11: what was kept for an approval is the call's own when it needs none: it goes through, and uses it up."""
    orders, run = [desk.order(), desk.order()], desk.run()
    names = [desk.held(order, desk.attests(order, run), run=run, by="each") for order in orders]
    desk.decide(names[1])
    with desk.ruled(RULES.replace("{approvers:", "{when: args.amount > 1000, approvers:")):
        for order, name in zip(orders, names, strict=True):
            assert desk.ask(order, run=run, by="each").status == 200
            assert desk.status(name) == "cancelled"
            for way in ("each", "once"):
                assert why(desk.ask(order, run=run, by=way)) == required("consumed")
    for order in orders:
        assert why(desk.ask(order, run=run, by="each")) == required("consumed")
        assert desk.paid(order) == 1


def test_one_of_two_that_want_it_at_once(desk: Desk) -> None:
    """W11: a call to be held and one to be sent ask for one attestation at the same moment: one of both gets it."""
    for _ in range(8):
        order, run = desk.order(), desk.run()
        checked = desk.attests(order, run)
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(desk.ask, order, checked, run=run, by=way) for way in ("each", "once")]
            held, sent = (why(one.result()) for one in asked)
        first = ((403, "approval_required", ""), required("consumed"))
        assert (held, sent) in (first, (required("consumed"), (200, "", "")))
        assert desk.paid(order) == (sent[0] == 200)


# -- what is taken back while it is held


def test_a_failure_that_comes_while_it_is_held(desk: Desk) -> None:
    """W13, H4: a check that is taken back after the call was held keeps it back, though a person says yes."""
    order, run = desk.order(), desk.run()
    checked = desk.attests(order, run, iat=ago(60))
    with desk.waiting(order, checked, run=run, by="pay") as (name, reply):
        assert desk.posts(desk.attests(order, run, iat=ago(30), outcome="failed")).status == 201
        desk.decide(name)
        assert why(reply.result()) == required("superseded")
    for presented in ((), (checked,)):
        assert why(desk.ask(order, *presented, run=run, by="pay")) == required("superseded")
    assert not desk.paid(order)
    assert desk.ask(order, desk.attests(order, run, iat=ago(5)), run=run, by="pay").status == 200
    assert desk.paid(order) == 1


def test_a_key_that_is_taken_out_while_it_is_held(desk: Desk) -> None:
    """W24, H4: what an attester had signed counts no more at the yes once its key is out, waiting or coming again."""
    now, later, run = desk.order(), desk.order(), desk.run()
    file = desk.gateway.folder / "leaving-desk.json"
    good = file.read_bytes()
    desk.approved(later, desk.attests(later, run, by="leaving-desk"), run=run, by="pay")
    with desk.waiting(now, desk.attests(now, run, by="leaving-desk"), run=run, by="pay") as (name, reply):
        file.write_bytes(NO_KEYS)
        try:
            assert desk.gateway.reload() == []
            desk.decide(name)
            assert why(reply.result()) == required("revoked")
            assert why(desk.ask(later, run=run, by="pay")) == required("revoked")
        finally:
            file.write_bytes(good)
            assert desk.gateway.reload() == []
    assert (desk.paid(now), desk.paid(later)) == (0, 0)
    assert desk.ask(later, run=run, by="pay").status == 200


@contextlib.contextmanager
def stopped(desk: Desk) -> Iterator[None]:
    """The agent is stopped meanwhile."""
    assert desk.gateway.admin("POST", "/admin/v1/agents/procurement/stop", {"reason": "mischief"})["effective"]
    try:
        yield
    finally:
        desk.gateway.admin("POST", "/admin/v1/agents/procurement/start")


def test_a_stopped_agent_has_no_use_for_it(desk: Desk) -> None:
    """S08, H4: with a yes in hand a stopped agent is refused on every worker; once it is started the yes is there."""
    order = desk.order()
    name = desk.approved(order)
    with stopped(desk):
        for alone in desk.workers():
            with alone:
                assert why(desk.ask(order))[:2] == (403, "agent_stopped")
    assert (desk.status(name), desk.paid(order)) == ("approved", 0)
    assert desk.ask(order).status == 200


def test_it_is_stopped_while_it_is_held(desk: Desk) -> None:
    """H4: whose connection is held open when it is stopped is told so then, and a later yes carries nothing out."""
    order, run = desk.order(), desk.run()
    with desk.waiting(order, run=run) as (name, reply):
        with stopped(desk):
            assert why(reply.result())[:2] == (403, "agent_stopped")
            desk.decide(name)
        assert desk.paid(order) == 0
    assert desk.ask(order, run=run).status == 200
    assert desk.paid(order) == 1


# -- twins


@dataclass
class Sent:
    """An approved call that the bank has heard of, and answers when it is told to go on."""

    order: Order
    way: str
    name: str
    reply: Future[Reply]
    go_on: threading.Event


@contextlib.contextmanager
def sent(desk: Desk, script: Script = PAID) -> Iterator[Sent]:
    """Such a call."""
    go_on = threading.Event()
    order, way = desk.order_of(held_back(list(script), 0, go_on))
    name = desk.approved(BODY, by=way)
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(desk.ask, BODY, by=way)
        try:
            eventually(lambda: desk.paid(order), "it is not sent")
            yield Sent(order, way, name, reply, go_on)
        finally:
            go_on.set()


def test_twins_get_the_very_answer(desk: Desk) -> None:
    """H5: while it is under way they are told to come back, later the answer, byte for byte, on every worker."""
    script = [answer(b'{"id": "\xc3\xa9",\n "n": 1.0}', JSON, ("ETag", '"7"'), ("X-Request-Id", "bank-1"))]
    with sent(desk, script) as call:
        for alone in desk.workers():
            with alone:
                twin = desk.ask(BODY, by=call.way)
            assert why(twin)[:2] == (409, "step_in_progress")
            assert 1 <= int(twin.headers["retry-after"]) <= 30
        call.go_on.set()
        first = call.reply.result()
    assert (first.status, first.headers["etag"]) == (200, '"7"')
    for alone in desk.workers():
        with alone:
            twin = desk.ask(BODY, by=call.way)
        assert (twin.status, twin.body, twin.headers["gateway-replayed"][:10]) == (200, first.body, "true; age=")
        for header in ("content-type", "etag", "x-request-id"):
            assert twin.headers.get(header) == first.headers.get(header)
        (row,) = desk.gateway.wait_for_rows(1, "request_id = ?", twin.headers["gateway-request-id"])
        assert (row["outcome"], row["cost_nano_usd"]) == ("replayed", 0)
    assert desk.paid(call.order) == 1


def test_an_answer_that_is_too_large_to_be_kept(desk: Desk) -> None:
    """H5: 256 KiB are told again; of one byte more twins are told that it happened (410), and it does not again."""
    for size, expected in ((256 * 1024, (200, "", "")), (256 * 1024 + 1, (410, "step_expired", ""))):
        order, way = desk.order_of([answer(b'"' + b"a" * (size - 2) + b'"', JSON)])
        name = desk.approved(BODY, by=way)
        assert len(desk.ask(BODY, by=way).body) == size
        for alone in desk.workers():
            with alone:
                assert why(desk.ask(BODY, by=way)) == expected
        assert (desk.status(name), desk.paid(order)) == ("consumed", 1)


BROKEN: dict[str, Script] = {
    "resets": [Do.RESET],
    "closes": [Do.CLOSE],
    "fails": [answer(b"{}", JSON, status="500 Oops")],
    "is busy": [answer(b"{}", JSON, status="503 Busy")],
    "breaks off": [answer(b'{"paid": true}', JSON)[:-1], Do.CLOSE],
}


def test_what_may_have_happened_does_not_happen_again(desk: Desk) -> None:
    """H5, W12: when the bank has heard of it and gave no answer that counts nobody sends it again: 424 from then on."""
    order = desk.order()
    asked = [(order, "late", order, desk.approved(order, by="late"))]
    for script in BROKEN.values():
        one, way = desk.order_of(script)
        asked.append((one, way, BODY, desk.approved(BODY, by=way)))
    for one, way, body, name in asked:
        first = desk.ask(body, by=way)
        assert first.refusal.startswith("upstream_")
        assert first.headers["x-should-retry"] == "false"
        assert why(desk.ask(body, by=way))[:2] == IN_DOUBT
        assert desk.status(name) == "failed"
        assert desk.admin("POST", f"/{name}/approve", desk.signed(CLERK))[0] == 400
        assert why(desk.ask(body, by=way))[:2] == IN_DOUBT
        assert desk.paid(one) == 1


def test_what_was_never_sent_may_be_sent(desk: Desk) -> None:
    """H5, W12: where the connection is refused the yes stands as before, however often."""
    order = desk.order()
    name = desk.approved(order, by="shut/each")
    for _ in range(3):
        assert why(desk.ask(order, by="shut/each"))[:2] == (503, "upstream_unavailable")
        eventually(lambda: desk.status(name) == "approved", "it is not given back")


def test_an_agent_that_hangs_up(desk: Desk) -> None:
    """H5: who leaves while it is carried out finds the answer when it comes again, and nothing happens twice."""
    go_on = threading.Event()
    order, way = desk.order_of(held_back(PAID, 0, go_on))
    name = desk.approved(BODY, by=way)
    body = json.dumps(BODY).encode()
    head = f"POST /r/r1/tools/bank/{way} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {desk.token()}\r\n"
    with socket.create_connection(("127.0.0.1", desk.gateway.port)) as leaving:
        leaving.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        eventually(lambda: desk.paid(order), "it is not sent")
    go_on.set()
    eventually(lambda: desk.status(name) == "consumed", "what came of it is not kept")
    assert desk.ask(BODY, by=way).json() == {"paid": True}
    assert desk.paid(order) == 1


# -- whoever dies


def test_its_worker_dies(desk: Desk) -> None:
    """H5, H11: SIGKILL of the worker that carries it out: twins get 424 everywhere, and what it used is used up."""
    order, run = desk.order(), desk.run()
    desk.upstream.says("/bank/each", [Do.HANG])
    try:
        name = desk.approved(order, desk.attests(order, run), run=run, by="each")
        worker, alone = desk.gateway.worker_pids()[0], next(desk.workers())
        with ThreadPoolExecutor(1) as pool:
            with alone:
                lost = pool.submit(desk.ask, order, run=run, by="each")
                eventually(lambda: desk.paid(order), "it is not sent")
            os.kill(worker, signal.SIGKILL)
            with contextlib.suppress(OSError):  # however a client words that its connection broke
                lost.result()
    finally:
        desk.upstream.says("/bank/each", PAID)
    eventually(lambda: desk.status(name) == "failed", "nobody gave it up for lost")
    eventually(lambda: len(desk.gateway.worker_pids()) == WORKERS, "no successor")
    for alone in desk.workers():
        with alone:
            assert why(desk.ask(order, run=run, by="each"))[:2] == IN_DOUBT
            assert why(desk.ask(order, run=run, by="once")) == required("consumed")
    assert desk.paid(order) == 1


def test_the_gateway_dies(desk: Desk) -> None:
    """H11: SIGKILL of the supervisor: what waits waits, a yes is a yes, what was under way happened once at most."""
    waits, yes, run = desk.order(), desk.order(), desk.run()
    waiting, approved = desk.held(waits, run=run), desk.approved(yes, run=run)
    with sent(desk) as answered, sent(desk, [Do.CLOSE]) as unanswered:
        desk.gateway.kill()
        answered.go_on.set()
        desk.gateway.start()
        assert why(desk.ask(BODY, by=unanswered.way))[:2] == IN_DOUBT
    for told in (answered.reply.result(), unanswered.reply.result()):
        assert why(told)[:2] == IN_DOUBT  # and not that it may be sent again
        assert told.headers["x-should-retry"] == "false"
    assert desk.held(waits, run=run) == waiting
    assert desk.ask(yes, run=run).body == desk.ask(yes, run=run).body == b'{"paid": true}'
    assert desk.status(approved) == "consumed"
    told = desk.ask(BODY, by=answered.way)
    assert why(told)[:2] in {(200, ""), IN_DOUBT}
    assert why(desk.ask(BODY, by=unanswered.way))[:2] == IN_DOUBT
    assert [desk.paid(one) for one in (waits, yes, answered.order, unanswered.order)] == [0, 1, 1, 1]
