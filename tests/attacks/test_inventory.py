"""Every address that agents are served at identifies, decides, meters and records; the anonymous ones are listed here.

The addresses come from the gateway's own table, so one that is added and skips a step turns this red; one
that is added with a variable or a body of its own needs an example here, and is red until it has one.
"""

from __future__ import annotations

import random
import re
import string
from typing import Any, Final
from urllib.parse import urlencode

import pytest

from gateway.dialects.addresses import INVENTORY, Served
from tests.attacks.stage import BARRED, Stage
from tests.simulator.gateway import Reply
from tests.simulator.provider import completion
from tests.simulator.upstream import answer

ANONYMOUS: Final = {
    ("HEAD", "/v1"): 204,
    ("GET", "/.well-known/jwks.json"): 200,
    ("GET", "/.well-known/oauth-protected-resource"): 200,
    ("GET", "/.well-known/oauth-authorization-server"): 200,
}
"""All that anybody may ask for, and what they get."""

EXAMPLES: Final = {"id": "sim-other", "tool": "bank", "path": "look/A1", "run": "job-1", "request_id": "req_unknown"}
"""A value for each variable of a template."""

ALLOWED: Final = {
    ("POST", "/v1/chat/completions"): 200,
    ("GET", "/v1/models"): 200,
    ("GET", "/v1/models/sim-other"): 404,  # no such model: it was decided before it was looked for
    ("GET", "/tools/bank/look/A1"): 200,
    ("POST", "/gateway/v1/attestations"): 400,  # without any: it was decided before its body was read
    ("GET", "/gateway/v1/runs/job-1"): 404,
    ("GET", "/gateway/v1/calls/req_unknown"): 404,
    ("GET", "/gateway/v1/approvals/sim-other"): 404,
    ("POST", "/oauth/token"): 200,
}
"""What an agent gets that may; a new address is entered here with its status."""

COSTS: Final = {"/v1/chat/completions", "/tools/bank/look/A1"}
"""Addresses whose answers may cost something."""

BODIES: Final[dict[str, Any]] = {
    "/v1/chat/completions": {"model": "scripted-inventory", "messages": [{"role": "user", "content": "x"}]},
}

TOKEN: Final = "/oauth/token"
"""The one address whose credential is in the body (RFC 8693 §2.1), so that a missing one is a bad request."""

NOT_SERVED: Final = [
    ("POST", "/v1/responses", "openai"),
    ("POST", "/v1/responses/input_tokens", "openai"),
    ("GET", "/v1/responses/resp_1", "openai"),
    ("DELETE", "/v1/responses/resp_1", "openai"),
    ("POST", "/v1/responses/resp_1/cancel", "openai"),
    ("GET", "/v1/responses", "openai"),
    ("POST", "/v1/embeddings", "openai"),
    ("POST", "/v1/completions", "openai"),
    ("GET", "/v1/files", "openai"),
    ("GET", "/v1/organization/usage", "openai"),
    ("POST", "/anthropic/v1/messages", "anthropic"),
    ("POST", "/anthropic/v1/messages/count_tokens", "anthropic"),
    ("GET", "/anthropic/v1/models", "anthropic"),
    ("HEAD", "/anthropic", "anthropic"),
    ("POST", "/gemini/v1beta/models/gemini-2:generateContent", "gemini"),
    ("GET", "/gemini/v1/models", "gemini"),
    ("POST", "/mcp", "problem"),
    ("GET", "/mcp/github", "problem"),
    ("GET", "/gateway/v1/budget", "problem"),
    ("GET", "/gateway/v1/approvals", "problem"),
    ("GET", "/gateway/v1/runs", "problem"),
    ("GET", "/oauth/token", "oauth"),
    ("POST", "/oauth/authorize", "oauth"),
    ("POST", "/r/job-1/oauth/token", "oauth"),
    ("GET", "/.well-known/oauth-authorization-server/x", "problem"),
    ("GET", "/.well-known/openid-configuration", "problem"),
    ("GET", "/r/job-1/gateway/v1/runs/job-1", "problem"),
    ("GET", "/tools", "problem"),
    ("GET", "/tools/unknown/x", "problem"),
    ("GET", "/", "problem"),
    ("GET", "/metrics", "problem"),
    ("GET", "/healthz", "problem"),
    ("GET", "/admin/v1/status", "problem"),
    ("POST", "/admin/v1/reload", "problem"),
    ("GET", "/console/", "problem"),
    ("OPTIONS", "/v1/chat/completions", "openai"),
    ("GET", "/v1/chat/completions", "openai"),
    ("TRACE", "/v1/models", "openai"),
    ("HEAD", "/.well-known/jwks.json", "problem"),
]
"""What the contract has and this version does not, what other listeners have, and what nobody has."""


def concrete(line: Served) -> tuple[str, str]:
    """A method and a path for a line of the table."""
    path = re.sub(r"\{(\w+)(?:\.\.\.)?\}", lambda found: EXAMPLES[found[1]], line.template)
    return ("GET" if line.method == "*" else line.method), path


def addresses(*, anonymous: bool) -> list[Any]:
    """The lines as parameters; those that may stand below a run in that form too."""
    found = []
    for line in INVENTORY:
        method, path = concrete(line)
        if ((method, path) in ANONYMOUS) == anonymous:
            prefixes = ("", "/r/job-7", "/r/job-7/i/2") if line.under_runs else ("",)
            found += [pytest.param(method, prefix, path, id=f"{method} {prefix}{path}") for prefix in prefixes]
    return found


def ask(stage: Stage, method: str, prefix: str, path: str, subject: str | None) -> Reply:
    stage.upstream.says("scripted-inventory", completion("ok"))
    stage.upstream.says("/bank/look/A1", [answer(b"{}", ("Content-Type", "application/json"))])
    return send(stage, method, prefix, path, None if subject is None else stage.token(subject))


def send(stage: Stage, method: str, prefix: str, path: str, token: str | None) -> Reply:
    """A request with this credential, where its address takes one."""
    if path != TOKEN:
        return stage.gateway.call(method, prefix + path, BODIES.get(path), token=token)
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": token or "",
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return stage.gateway.call(method, prefix + path, urlencode(form).encode(), headers=headers, token=None)


def test_the_anonymous_addresses_are_these() -> None:
    """What the table calls anonymous is what is listed here, word for word."""
    assert {concrete(line) for line in INVENTORY if line.anonymous} == set(ANONYMOUS)


@pytest.mark.parametrize(("method", "prefix", "path"), addresses(anonymous=True))
def test_an_anonymous_address_answers_anybody(stage: Stage, method: str, prefix: str, path: str) -> None:
    """Who asks does not matter, and a bad credential does no harm there."""
    for token in (None, "nonsense"):
        reply = stage.gateway.call(method, prefix + path, token=token)
        assert reply.status == ANONYMOUS[method, path]


@pytest.mark.parametrize(("method", "prefix", "path"), addresses(anonymous=False))
def test_an_address_identifies(stage: Stage, method: str, prefix: str, path: str) -> None:
    """Without a credential and with a forged one it is 401, and nothing reaches an upstream."""
    before = stage.upstream.seen()
    reply = ask(stage, method, prefix, path, None)
    assert (reply.status, reply.refusal) == (400 if path == TOKEN else 401, "identity_missing")
    assert path == TOKEN or reply.headers["www-authenticate"].startswith("Bearer ")
    header, claims, signature = stage.token().split(".")
    forged = f"{header}.{claims}.{signature[::-1]}"
    assert send(stage, method, prefix, path, forged).refusal == "identity_invalid"
    assert stage.upstream.seen() == before


@pytest.mark.parametrize(("method", "prefix", "path"), addresses(anonymous=False))
def test_an_address_decides_and_counts_what_it_refuses(stage: Stage, method: str, prefix: str, path: str) -> None:
    """Under a rule that denies everything it is 403, on the ledger and in the metrics; an upstream hears nothing."""
    seen = stage.upstream.seen()
    refusals = stage.counted("refusals_total", agent="barred", code="policy_denied")
    requests = stage.counted("requests_total", agent="barred", outcome="refused", status="403")
    nameless = stage.counted("requests_total", agent="barred", outcome="refused", status="403", target="")
    reply = ask(stage, method, prefix, path, BARRED)
    assert (reply.status, reply.refusal) == (403, "policy_denied")
    assert reply.headers["gateway-decision-id"].startswith("dec_")
    row = stage.row(reply)
    assert (row["agent"], row["outcome"], row["code"], row["status"]) == ("barred", "refused", "policy_denied", 403)
    assert (row["cost_nano_usd"], row["decision_id"]) == (0, reply.headers["gateway-decision-id"])
    assert stage.counted("refusals_total", agent="barred", code="policy_denied") == refusals + 1
    assert stage.counted("requests_total", agent="barred", outcome="refused", status="403") == requests + 1
    named = path in COSTS  # what was to be called is told, though it was not
    refused_nameless = stage.counted("requests_total", agent="barred", outcome="refused", status="403", target="")
    assert refused_nameless == nameless + (0 if named else 1)
    assert stage.upstream.seen() == seen


@pytest.mark.parametrize(("method", "prefix", "path"), addresses(anonymous=False))
def test_an_address_is_decided_metered_and_recorded(stage: Stage, method: str, prefix: str, path: str) -> None:
    """Where it is allowed a decision stands in the answer, and what may cost is on the ledger and in the metrics."""
    requests = stage.counted("requests_total", agent="procurement")
    reply = ask(stage, method, prefix, path, "")
    assert reply.status == ALLOWED[method, path], reply.body
    assert reply.headers["gateway-decision-id"].startswith("dec_")
    assert len(reply.headers["gateway-policy"]) == 16
    assert stage.counted("requests_total", agent="procurement") == requests + 1
    if path in COSTS:
        row = stage.row(reply)
        assert (row["agent"], row["outcome"], row["run"]) == ("procurement", "complete", "job-7" if prefix else "")
        assert row["price_version"]


@pytest.mark.parametrize(("method", "path", "shape"), NOT_SERVED)
def test_everything_else_identifies_first(stage: Stage, method: str, path: str, shape: str) -> None:
    """A stranger cannot tell what there is: 401 everywhere; an agent gets 404 or 405 in the dialect of the prefix."""
    stranger = stage.gateway.call(method, path, token=None)
    assert (stranger.status, stranger.refusal) == (401, "identity_missing")
    reply = stage.gateway.call(method, path)
    assert (reply.status, reply.refusal) in {
        (404, "route_unknown"),
        (404, "tool_unknown"),
        (405, "method_not_allowed"),
    }
    assert ("allow" in reply.headers) == (reply.status == 405)
    if method == "HEAD":
        return
    for one in (stranger, reply):
        body = one.json()
        told = body if shape in {"problem", "oauth"} else body["error"]
        words = told[{"problem": "detail", "oauth": "error_description"}.get(shape, "message")]
        assert words.startswith(f"{one.refusal}: ")
        assert ("request_id" in body) == (shape == "anthropic")
        assert ("details" in told) == (shape == "gemini")
        assert one.headers["content-type"].startswith("application/problem+json") == (shape == "problem")


def test_a_path_that_nobody_thought_of(stage: Stage) -> None:
    """Random paths below every prefix: 401 without a credential; with one a 404, and never an answer."""
    rng = random.Random(20261120)  # noqa: S311  not a secret
    seen = stage.upstream.seen()
    token = stage.token()
    letters = string.ascii_letters + string.digits + "-._~:@!$&'()*+,;="
    for number in range(60):
        prefix = rng.choice(("", "/v1", "/v1/chat", "/tools", "/tools/bank", "/gateway/v1", "/.well-known", "/r/x"))
        method = rng.choice(("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "PROPFIND"))
        path = f"{prefix}/{number}{''.join(rng.choices(letters, k=rng.randrange(1, 20)))}"
        assert stage.gateway.call(method, path, token=None).status == 401, path
        reply = stage.gateway.call(method, path, token=token)
        assert (reply.status, bool(reply.refusal)) in {(404, True), (405, True)}, path
    assert stage.upstream.seen() == seen
