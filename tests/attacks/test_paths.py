"""What was decided on is what is dispatched: paths, methods, hosts and names that mean two things to two readers."""

from __future__ import annotations

import itertools
import re

import pytest

from tests.attacks.stage import AUDITOR, Stage, compact
from tests.simulator.upstream import answer

DETOURS = [
    "/tools/bank/pay/../erase/A1",
    "/tools/bank/pay/%2e%2e/erase/A1",
    "/tools/bank/pay/%2E%2E%2Ferase/A1",
    "/tools/bank/pay/..%2ferase/A1",
    "/tools/bank/./erase/A1",
    "/tools/bank//erase/A1",
    "//tools/bank/erase/A1",
    "/tools/bank/look/..;/erase/A1",
    "/tools/bank/look/A1;/../erase",
    "/tools/bank/erase%5cA1",
    "/tools/bank\\erase/A1",
    "/tools/bank/er%61se/A1",
    "/tools/bank/%65rase/A1",
    "/tools/bank/ERASE/A1",
    "/tools/bank/erase./A1",
    "/tools/bank/erase/A1/.",
    "/tools/bank/erase%00/A1",
    "/tools/bank/erase%2fA1",
    "/tools/vault/look/A1",
    "/tools/Bank/pay/A1",
    "/tools/bank%2Fpay/A1",
    "/tools/bank%2Epay",
    "/tools/bank.pay",
    "/tools/b%61nk/pay/A1",
    "/r/x/tools/bank/erase/A1",
    "/r/x/i/1/tools/vault/pay/A1",
    "/r/..%2f/tools/bank/erase/A1",
    "/v1/../tools/bank/erase/A1",
    "/.well-known/jwks.json/../../tools/bank/erase/A1",
    "/v1/models/..%2f..%2ftools%2fbank",
    "http://vault.example/tools/bank/pay/A1",
    "http://127.0.0.1/tools/bank/erase/A1",
    "/tools/bank/pay/A1#/erase",
    "*",
]

TWO_READINGS = re.compile(r"//|/\.{1,2}(?:/|$)|%(?:2e|2f|5c|00)|[\\#]", re.IGNORECASE)
"""What is refused wherever it stands in a path; absolute-form has its own two slashes."""


@pytest.mark.parametrize(("path", "method"), list(itertools.product(DETOURS, ("POST", "GET"))))
def test_no_detour_leads_to_what_is_not_allowed(stage: Stage, path: str, method: str) -> None:
    """S05, P12, P13: dot segments, slashes, encodings, case, absolute-form: refused, and no upstream hears of it."""
    before = len(stage.upstream.seen())
    reply = stage.request(method, path, [stage.bearer()], b"{}")
    assert reply.status in {400, 403, 404, 405}, reply.body
    if TWO_READINGS.search(path):
        assert (reply.status, reply.refusal) == (400, "request_malformed")
    assert reply.refusal in {
        "request_malformed",
        "policy_denied",
        "tool_unknown",
        "route_unknown",
        "method_not_allowed",
        "model_unknown",
    }
    assert len(stage.upstream.seen()) == before


SPELLINGS = [
    "A1", "a1", "A1.", "A1~", "A%20B", "%41%31", "A;x=1", "A:1", "A@1", "%F0%9F%91%8B", "A%2B1", "erase", "(A)",
    "A%3B1", "A%23x", "A%3Fx",
]  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_is_allowed_is_what_is_dispatched(stage: Stage, spelling: str) -> None:
    """S05: a path variable reaches the tool as it was spelled, under the path of what was decided on."""
    stage.upstream.says(f"/bank/pay/{spelling}", [answer(b"{}")])
    for suffix in ("", "/"):
        reply = stage.request("POST", f"/tools/bank/pay/{spelling}{suffix}", [stage.bearer()], b"{}")
        if reply.refusal:
            assert reply.status == 400
            assert not stage.upstream.heard(f"/bank/pay/{spelling}")
            continue
        assert reply.status == 200
        assert stage.row(reply)["tool"] == "bank.pay"
        assert stage.upstream.heard(f"/bank/pay/{spelling}")[-1].line == f"POST /bank/pay/{spelling} HTTP/1.1"
    if spelling == "A1":
        assert len(stage.upstream.heard("/bank/pay/A1")) == 2


OVERRIDES = [
    ("X-HTTP-Method-Override", "DELETE"),
    ("X-HTTP-Method", "DELETE"),
    ("X-Method-Override", "GET"),
    ("X-Original-URL", "/tools/bank/erase/A1"),
    ("X-Rewrite-URL", "/tools/bank/erase/A1"),
    ("X-Forwarded-Prefix", "/tools/bank/erase"),
    ("X-Forwarded-Host", "vault.example"),
    ("Forwarded", "host=vault.example"),
]


@pytest.mark.parametrize(("name", "value"), OVERRIDES)
def test_a_header_overrides_nothing(stage: Stage, name: str, value: str) -> None:
    """P13: method and path are those of the request line, here and at the tool, whatever a header says."""
    stage.upstream.says("/bank/pay/P13", [answer(b"{}")])
    reply = stage.request("POST", "/tools/bank/pay/P13", [stage.bearer(), (name, value)], b"{}")
    assert reply.status == 200
    assert stage.row(reply)["tool"] == "bank.pay"
    heard = stage.upstream.heard("/bank/pay/P13")[-1]
    assert heard.line == "POST /bank/pay/P13 HTTP/1.1"
    assert heard.header(name) is None
    erased = stage.request("POST", "/tools/bank/erase/A1", [stage.bearer(), (name, "/tools/bank/pay/P13")], b"{}")
    assert (erased.status, erased.refusal) == (403, "policy_denied")


@pytest.mark.parametrize(
    "host", ["gw.example/#", "gw.example/?", "127.0.0.1@vault.example", "vault.example", "127.0.0.1.vault.example", ""]
)
def test_a_foreign_host_leads_nowhere(stage: Stage, host: str) -> None:
    """S05: a Host that is not ours is refused before anything is asked, and names nothing that is dispatched."""
    before = len(stage.upstream.seen())
    reply = stage.request("POST", "/tools/bank/pay/S05", [stage.bearer(), ("Host", host)], b"{}")
    assert reply.status in {400, 403, 421}
    assert reply.refusal
    assert len(stage.upstream.seen()) == before


def test_a_parameter_that_no_operation_declares(stage: Stage) -> None:
    """P13: a query parameter that is not the operation's (`_method`, a second `memo`) is 400, not passed on."""
    for query in ("_method=DELETE", "memo=a&memo=b", "memo=a&MEMO=b", "order=B2"):
        reply = stage.gateway.call("POST", f"/tools/bank/pay/P13b?{query}", b"{}")
        assert (reply.status, reply.refusal) == (400, "request_malformed"), query
    assert b"/bank/pay/P13b" not in stage.upstream.seen()


def test_a_names_look_alike_is_another_name(stage: Stage) -> None:
    """P12: case, encodings and look-alikes of an allowed model are other models; of an allowed tool, other tools."""
    model = stage.model()
    alike = [model.upper(), f" {model}", f"{model}\u200b", model.replace("e", "\u0435"), f"\uff53{model[1:]}"]
    for name in alike:
        reply = stage.chat(name)
        assert reply.refusal in {"model_unknown", "request_malformed"} or stage.upstream.heard(name), name
    for tool in ("Bank", "bank%20", "b\u0430nk".encode().hex(), "bank%E2%80%8B"):
        assert stage.gateway.call("POST", f"/tools/{tool}/pay/A1", b"{}").status in {400, 404}
    assert not stage.upstream.heard(model)


def test_one_agents_right_is_not_anothers(stage: Stage) -> None:
    """P12: the tool that one agent may call is refused to another, in a run of that name too."""
    body = compact({})
    for prefix in ("", "/r/procurement", "/r/job-1/i/procurement"):
        reply = stage.gateway.call("POST", f"{prefix}/tools/bank/pay/A9", body, token=stage.token(AUDITOR))
        assert (reply.status, reply.refusal) == (403, "policy_denied")
        assert stage.row(reply)["outcome"] == "refused"
    assert not stage.upstream.heard("/bank/pay/A9")
