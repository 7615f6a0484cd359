"""How attestations come: too many of them, too long, or none at all; no store to ask; and what is sent at last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import resource
import sqlite3
from collections.abc import Iterator

import pytest

from tests.attacks.till import PAID, WORKERS, Till, required, why
from tests.simulator.gateway import Reply, eventually

NAME = "Workflow-Attestation"


def asks(till: Till, order: object, run: str, *lines: str) -> Reply:
    """A payment with the header as often as there are `lines`."""
    headers = [till.bearer(), *((NAME, line) for line in lines)]
    return till.request("POST", f"/r/{run}/tools/bank/pay", headers, json.dumps(order).encode())


def recorded(till: Till, run: str) -> int:
    """How many attestations the store has of a run."""
    with contextlib.closing(sqlite3.connect(till.gateway.folder / "var" / "passgate.db")) as conn:
        return int(conn.execute("SELECT count(*) FROM attestations WHERE run = ?", (run,)).fetchone()[0])


# -- too much


def test_five_in_the_header(till: Till) -> None:
    """W22: more than four, in one line or in many, are 400 however good they are, and none of them is looked at."""
    order, run = till.order(), till.run()
    five = [till.attests(order, run) for _ in range(5)]
    for lines in (five, [", ".join(five)], [",".join(five[:3]), ",".join(five[3:])], ["x"] * 5):
        reply = asks(till, order, run, *lines)
        assert why(reply) == (400, "request_malformed", "")
        assert reply.json()["gateway"]["limit"] == 4
    assert not recorded(till, run)
    assert not till.paid(order)
    assert asks(till, order, run, five[0], ", ".join(five[1:4])).status == 200
    assert recorded(till, run) == 4


def test_a_long_header(till: Till) -> None:
    """W22: above 7 KiB together it is 431, and a head above 16 KiB is, whatever is in it."""
    order, run = till.order(), till.run()
    good = till.attests(order, run)
    padded = till.attests(order, run, note="x" * 6000)
    for lines in ([good, "x" * 7168], [padded], [f"{good},{' ' * 7168},{good}"], [good, "," * 7168]):
        reply = asks(till, order, run, *lines)
        assert why(reply)[:2] == (431, "headers_too_large")
    assert asks(till, order, run, "x" * 33 * 1024).status == 431
    assert not recorded(till, run)
    assert not till.paid(order)
    assert asks(till, order, run, good, f",, {' ' * 100},").status == 200


def test_a_large_body(till: Till) -> None:
    """W22: 33 KiB or seventeen attestations in a body are refused whole, before the first of them is looked at."""
    order, run = till.order(), till.run()
    good = [till.attests(order, run) for _ in range(17)]
    for token in ("", None):
        reply = till.posts(*good, token=token)
        assert why(reply)[:2] == ((400, "request_malformed") if token is not None else (401, "identity_missing"))
        reply = till.posts(good[0], "x" * 33 * 1024, token=token)
        assert why(reply) == (413, "request_too_large", "")
        assert till.posts("x" * 17, token=token).status in {400, 401}
    assert not recorded(till, run)
    assert why(till.pay(order, run=run)) == required("none")
    assert till.posts(*good[:16], token="").status == 201
    assert recorded(till, run) == 16
    assert till.pay(order, run=run).status == 200


# -- nothing


def test_a_stripped_header(till: Till) -> None:
    """W15: a header that a proxy has dropped, emptied, renamed or put elsewhere is no attestation."""
    order, run = till.order(), till.run()
    good = till.attests(order, run)
    reply = till.gateway.call("POST", f"/r/{run}/tools/bank/pay", order)
    assert why(reply) == required("none")
    assert "Workflow-Attestation" not in json.dumps(reply.json())
    assert why(asks(till, order, run, "")) == required("none")
    assert why(asks(till, order, run, " , ,")) == required("none")
    for name in ("X-Workflow-Attestation", "Workflow_Attestation", "X-Forwarded-Workflow-Attestation"):
        reply = till.gateway.call("POST", f"/r/{run}/tools/bank/pay", order, headers={name: good})
        assert why(reply)[1] in {"attestation_required", "request_malformed"}
    assert not till.paid(order)
    assert asks(till, order, run, good).status == 200
    assert not any(one.header(NAME) for one in till.upstream.everything())


# -- no store


@contextlib.contextmanager
def without_table(till: Till, name: str) -> Iterator[None]:
    """The store has lost a table, and finds it again."""
    file = till.gateway.folder / "var" / "passgate.db"
    with contextlib.closing(sqlite3.connect(file, isolation_level=None, timeout=20)) as conn:
        conn.execute(f"ALTER TABLE {name} RENAME TO lost")
        try:
            yield
        finally:
            conn.execute(f"ALTER TABLE lost RENAME TO {name}")


@contextlib.contextmanager
def without_writes(till: Till) -> Iterator[None]:
    """The kernel refuses every write of the supervisor to a file, as a full disk does."""
    pid = till.gateway.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def test_a_store_that_cannot_say_what_was_attested(till: Till) -> None:
    """W14: 503 that says why, and nothing happens: not with an attestation in hand, nor with one handed in before."""
    order, run = till.order(), till.run()
    good = till.attests(order, run)
    before = till.order()
    assert till.posts(till.attests(before, run)).status == 201
    with without_table(till, "attestations"):
        for asked, attestations in ((order, [good]), (before, []), (order, [])):
            for way in ("pay", "once", "each", "large"):
                reply = till.pay(asked, *attestations, run=run, by=f"bank/{way}")
                assert why(reply) == (503, "store_unavailable", "attestation_store_unavailable")
                assert 1 <= int(reply.headers["retry-after"]) <= 30
        assert why(till.posts(good))[:2] == (503, "store_unavailable")
        assert till.chat(till.model()).status == 200  # whoever needs no attestation is none the worse
    assert not till.paid(order)
    assert not till.paid(before)
    assert till.pay(order, good, run=run).status == 200
    assert till.pay(before, run=run).status == 200


@pytest.mark.parametrize("way", ["once", "each"])
def test_a_store_that_cannot_say_what_is_used_up(till: Till, way: str) -> None:
    """W14: what cannot be used up is not sent."""
    order, run = till.order(), till.run()
    good = till.attests(order, run)
    with without_table(till, "uses"):
        assert why(till.pay(order, good, run=run, by=f"bank/{way}"))[:2] == (503, "store_unavailable")
    assert not till.paid(order)
    assert till.pay(order, good, run=run, by=f"bank/{way}").status == 200
    assert till.paid(order) == 1


def test_a_store_that_takes_nothing(till: Till) -> None:
    """W14: with a full disk no payment is made, for whatever was attested before or is presented now."""
    order, run = till.order(), till.run()
    assert till.posts(till.attests(order, run)).status == 201
    with without_writes(till):
        for way in ("once", "pay", "each"):
            for attestations in ([till.attests(order, run)], []):
                assert why(till.pay(order, *attestations, run=run, by=f"bank/{way}"))[:2] == (503, "store_unavailable")
    assert not till.paid(order)
    eventually(lambda: till.gateway.ready()[0] == 200, "it does not recover")
    for alone in till.workers():
        with alone:
            eventually(lambda: till.pay(order, run=run).status == 200, "a worker lets nobody in any more")
    assert till.paid(order) == WORKERS


# -- what is sent


BODIES = [
    b' { "order_id" : "%b",\n\t"amount":1000 , "currency":"EUR" } ',
    b'{"currency":"EUR","amount":1000,"order_id":"%b"}',
    rb'{"order_id":"%b","\u0061mount":1000,"currency":"E\u0055R"}',
    b'{"order_id":"%b","amount":1000,"currency":"EUR","note":"\xc3\xa9\\/ \\u00e9","n":1.50,"e":1E2,"z":-0}',
]


@pytest.mark.parametrize("body", BODIES)
def test_what_was_decided_on_is_what_is_sent(till: Till, body: bytes) -> None:
    """W21: the bank gets the very bytes that were decided on, whatever their spelling, and the log has their digest."""
    order, run = till.order(), till.run()
    written = body % order["order_id"].encode()
    headers = [till.bearer(), (NAME, till.attests(order, run))]
    reply = till.request("POST", f"/r/{run}/tools/bank/pay", headers, written)
    assert (reply.status, till.paid(order)) == (200, 1)
    heard = till.upstream.everything()[-1]
    assert heard.body == written
    digest = hashlib.sha256(f"POST\n/r/{run}/tools/bank/pay\n\n".encode() + heard.body).hexdigest()
    assert till.decision(reply)["call_digest"] == f"sha256:{digest}"
    query = f"/r/{run}/tools/bank/orders/{order['order_id']}?curren%63y=%45UR"
    till.upstream.says(f"/bank/orders/{order['order_id']}?currency=EUR", PAID)
    reply = till.request("POST", query, headers, b'{"amount":1000}')
    assert (reply.status, till.paid(order)) == (200, 2)  # a query is written anew from what was decided on


KINDS = [
    "text/plain",
    "application/x-www-form-urlencoded",
    "application/json; charset=utf-16",
    "application/jsonx",
    "application/json, text/plain",
    "multipart/form-data; boundary=x",
    "",
]


def test_a_body_that_others_would_read_otherwise(till: Till) -> None:
    """W5, W21: another media type, another encoding, a byte order mark: what cannot be decided on is not sent."""
    order, run = till.order(), till.run()
    body, path = json.dumps(order).encode(), f"/r/{run}/tools/bank/pay"
    headers = [till.bearer(), (NAME, till.attests(order, run))]
    for kind in KINDS:
        reply = till.request("POST", path, [*headers, ("Content-Type", kind)], body)
        assert why(reply)[:2] == (400, "request_malformed"), kind
    for coding in ("gzip", "identity, gzip", "x"):
        reply = till.request("POST", path, [*headers, ("Content-Encoding", coding)], body)
        assert why(reply)[:2] == (415, "encoding_unsupported"), coding
    for other in (b"\xef\xbb\xbf" + body, body.decode().encode("utf-16"), body + body, body + b"\0", b"\0" + body):
        assert why(till.request("POST", path, headers, other))[:2] == (400, "request_malformed")
    assert not till.paid(order)
    assert till.request("POST", path, headers, body).status == 200


def test_no_way_round(till: Till) -> None:
    """P12, P13: by whichever address and header the tool is called, the rule about it asks for the same."""
    run = till.run()
    ways: list[tuple[str, list[tuple[str, str]]]] = [
        (f"/r/{run}/tools/bank/pay/", []),
        (f"/r/{run}/i/1/tools/bank/pay", []),
        (f"/r/{run[:-1]}%{ord(run[-1]):02X}/tools/bank/pay", []),
        ("/tools/bank/pay", [("Gateway-Run", run)]),
        (f"/r/{run}/tools/bank/pay", [("X-HTTP-Method-Override", "GET"), ("X-Original-URL", "/tools/bank/check")]),
    ]
    for path, headers in ways:
        order = till.order()
        body, attested = json.dumps(order).encode(), (NAME, till.attests(order, run))
        reply = till.request("POST", path, [till.bearer(), *headers], body)
        assert why(reply)[:2] == (403, "attestation_required"), path
        assert not till.paid(order)
        assert till.request("POST", path, [till.bearer(), attested, *headers], body).status == 200, path
        assert till.paid(order) == 1
