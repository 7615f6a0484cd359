"""The raw path decides: what is served, what is refused, and what would have worked."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.errors import Refusal
from gateway.dialects.addresses import ALLOW, INVENTORY, missing, resolve

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine fails no property."""


@pytest.mark.parametrize(
    ("method", "path", "dialect", "operation", "variables"),
    [
        ("POST", "/v1/chat/completions", "openai", "chat", {}),
        ("GET", "/v1/models", "openai", "models", {}),
        ("GET", "/v1/models/gpt-4o", "openai", "model", {"id": "gpt-4o"}),
        ("GET", "/v1/models/openai/gpt-oss-120b", "openai", "model", {"id": "openai/gpt-oss-120b"}),
        ("GET", "/v1/models/a%20b%2525", "openai", "model", {"id": "a b%25"}),
        ("HEAD", "/v1", "openai", "prefix", {}),
        ("POST", "/tools/payments/charge", "http", "tool", {"tool": "payments", "path": "/charge"}),
        ("DELETE", "/tools/pay%6Dents/a/b%20c", "http", "tool", {"tool": "pay%6Dents", "path": "/a/b%20c"}),
        ("GET", "/tools/payments", "http", "tool", {"tool": "payments", "path": "/"}),
        ("POST", "/gateway/v1/attestations", "own", "attest", {}),
        ("GET", "/gateway/v1/runs/r1", "own", "own_run", {"run": "r1"}),
        ("GET", "/gateway/v1/runs/a%3Ab", "own", "own_run", {"run": "a:b"}),
        ("GET", "/gateway/v1/calls/req_01", "own", "own_call", {"request_id": "req_01"}),
        ("GET", "/gateway/v1/approvals/apr_01", "own", "own_approval", {"id": "apr_01"}),
        ("GET", "/.well-known/jwks.json", "well_known", "jwks", {}),
        ("GET", "/.well-known/oauth-protected-resource", "well_known", "protected_resource", {}),
        ("GET", "/.well-known/oauth-authorization-server", "well_known", "authorization_server", {}),
        ("POST", "/oauth/token", "oauth", "token", {}),
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_every_served_address_is_found(
    method: str, path: str, dialect: str, operation: str, variables: dict[str, str], slash: str
) -> None:
    """Each address of the contract is found, with one trailing slash as well."""
    found = resolve(method, path + slash)
    assert (found.dialect, found.operation, found.path) == (dialect, operation, path)
    assert dict(found.variables) == variables
    assert found.run is None


def test_the_inventory_is_what_resolves() -> None:
    """Every line of the inventory leads to its own operation, and only the contract's are anonymous."""
    for line in INVENTORY:
        path = line.template.replace("{id...}", "m").replace("{path...}", "p")
        path = path.replace("{tool}", "t").replace("{run}", "r").replace("{request_id}", "q").replace("{id}", "a")
        assert resolve("PUT" if line.method == "*" else line.method, path).operation == line.operation
    assert {(line.method, line.template) for line in INVENTORY if line.anonymous} == {
        ("HEAD", "/v1"),
        ("GET", "/.well-known/jwks.json"),
        ("GET", "/.well-known/oauth-protected-resource"),
        ("GET", "/.well-known/oauth-authorization-server"),
    }


@pytest.mark.parametrize(
    ("path", "run", "incarnation"),
    [
        ("/r/run-1/v1/chat/completions", "run-1", None),
        ("/r/run-1/v1/chat/completions/", "run-1", None),
        ("/r/a%3Ab%40c/i/2/v1/chat/completions", "a:b@c", "2"),
        ("/r/i/i/i/v1/chat/completions", "i", "i"),
    ],
)
def test_a_run_travels_in_the_path(path: str, run: str, incarnation: str | None) -> None:
    """A run and its incarnation are read from the path, percent-decoded once."""
    found = resolve("POST", path)
    assert (found.operation, found.path, found.run, found.incarnation) == (
        "chat",
        "/v1/chat/completions",
        run,
        incarnation,
    )


def test_tools_have_run_prefixes_too() -> None:
    """A tool is reached within a run; its path is what follows."""
    found = resolve("POST", "/r/run-1/i/x/tools/mail/send/now")
    assert (found.operation, dict(found.variables)) == ("tool", {"tool": "mail", "path": "/send/now"})
    assert (found.run, found.incarnation) == ("run-1", "x")


@pytest.mark.parametrize("path", ["/r/-x/v1/models", "/r/a%25b/v1/models", "/r/a%20b/v1/models", "/r/x/i/é/v1/models"])
def test_a_bad_run_id_is_malformed(path: str) -> None:
    """A run or incarnation that is no valid id is a 400, not a run of another name."""
    with pytest.raises(Refusal) as refused:
        resolve("GET", path)
    assert refused.value.code == "request_malformed"


def test_a_run_id_has_128_characters_at_most() -> None:
    """The length limit of a run's id holds in the path."""
    assert resolve("GET", f"/r/{'a' * 128}/v1/models").run == "a" * 128
    with pytest.raises(Refusal, match="valid id"):
        resolve("GET", f"/r/{'a' * 129}/v1/models")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "*",
        "v1/models",
        "http://gateway/v1/models",
        "//v1/models",
        "/v1//models",
        "/v1/models//",
        "/./v1/models",
        "/v1/../v1/models",
        "/v1/models/..",
        "/v1/models/.",
        "/tools/t/../../v1/models",
        "/v1/%2e%2e/models",
        "/v1/models%2Ex",
        "/v1%2fmodels",
        "/v1%2Fmodels",
        "/v1%5cmodels",
        "/v1%5Cmodels",
        "/v1\\models",
        "/v1/models%00",
        "/v1/models%0d%0a",
        "/v1/models%7f",
        "/v1/models\x00",
        "/v1/mod\r\nels",
        "/v1/modèls",
        "/v1/models%zz",
        "/v1/models%4",
        "/v1/models#x",
        "/v1/models?x",
        "/v1/mo dels",
        '/v1/mo"dels',
        "/v1/models\n",
        "/v1/chat/completions\n",
    ],
)
def test_paths_that_two_readers_could_read_in_two_ways_are_refused(path: str) -> None:
    """S05, P13: dot segments, double slashes, absolute form and encoded separators are 400 and never looked up."""
    with pytest.raises(Refusal) as refused:
        resolve("GET", path)
    assert refused.value.code == "request_malformed"
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "path",
    ["/V1/chat/completions", "/v1/Chat/completions", "/v1/chat/completions.", "/v1/chat/completions;x=1", "/v1/chat"],
)
def test_variants_are_other_paths(path: str) -> None:
    """S05, P13: case, a trailing dot and path parameters make another path; it is not the known one."""
    assert resolve("POST", path).operation == ""


@STEADY
@given(st.text(alphabet="/.%25eEfFcC\\v1modelstoor;?#\x00é ", max_size=24))
def test_what_resolves_is_what_came(path: str) -> None:
    """S05: whatever is found, the raw path ends in exactly what was decided on, or it is refused as a whole."""
    try:
        found = resolve("GET", path)
    except Refusal as refused:
        assert refused.code == "request_malformed"  # noqa: PT017  both outcomes are right, for different paths
        return
    assert path.removesuffix("/").endswith(found.path.removesuffix("/"))
    assert not {"", ".", ".."}.intersection(path.removesuffix("/").split("/")[1:])
    lowered = path.lower()
    assert not any(bad in lowered for bad in ("%2e", "%2f", "%5c", "%00", "\\", "\x00", "é", "?", "#"))


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/a/b", "GET"),
        ("HEAD", "/v1/models", "GET"),
        ("GET", "/v1", "HEAD"),
        ("POST", "/.well-known/jwks.json", "GET"),
        ("PUT", "/r/x/v1/chat/completions", "POST"),
    ],
)
def test_another_method_is_not_allowed(method: str, path: str, allow: str) -> None:
    """A method that an address does not name is 405 and says which it names."""
    found = resolve(method, path)
    assert found.operation == ""
    assert found.variables[ALLOW] == allow
    refusal = missing(found)
    assert (refusal.code, refusal.status) == ("method_not_allowed", 405)
    assert ("allow", allow) in refusal.headers


@pytest.mark.parametrize(
    ("path", "dialect", "hint"),
    [
        ("/chat/completions", "openai", "…/v1"),
        ("/models", "openai", "…/v1"),
        ("/v1/v1/chat/completions", "openai", "…/v1"),
        ("/openai/v1/chat/completions", "own", "…/v1"),
        ("/r/run-1/chat/completions", "openai", "…/r/run-1/v1"),
        ("/r/run-1/i/2/v1/v1/models", "openai", "…/r/run-1/i/2/v1"),
        ("/v1/tools/payments/charge", "openai", "…/tools"),
        ("/v1/completions", "openai", "/v1 as base_url"),
        ("/nothing", "own", "/v1 as base_url"),
        ("/", "own", "…/v1"),
        ("/r/run-1", "own", "…/r/run-1/v1"),
        ("/tools", "http", "/tools/{tool}"),
        ("/v1/responses", "openai", "not served by this version yet"),
        ("/v1/embeddings", "openai", "not served by this version yet"),
        ("/v1/messages", "openai", "not served by this version yet"),
        ("/anthropic/v1/messages", "anthropic", "not served by this version yet"),
        ("/gemini/v1beta/models/x:generateContent", "gemini", "not served by this version yet"),
        ("/mcp", "mcp", "not served by this version yet"),
        ("/gateway/v1/budget", "own", "not served by this version yet"),
        ("/r/run-1/gateway/v1/runs/run-1", "own", "without the run in front: /gateway/v1/runs/run-1"),
    ],
)
def test_an_unknown_path_names_what_would_have_worked(path: str, dialect: str, hint: str) -> None:
    """What is not served is 404 in the dialect of its prefix, with the base URL that would have worked."""
    found = resolve("POST", path) if not path.endswith("models") else resolve("GET", path)
    if "/gateway/v1/runs" in path:
        found = resolve("GET", path)
    assert (found.operation, found.dialect) == ("", dialect)
    refusal = missing(found, "https://gateway.example")
    assert (refusal.code, refusal.status) == ("route_unknown", 404)
    assert hint.replace("…", "https://gateway.example") in refusal.sentence
    assert "…" not in refusal.sentence


def test_a_long_wrong_path_is_answered_at_once() -> None:
    """A path of thousands of segments is looked through for a hint only so far."""
    found = resolve("GET", "/a" * 4000 + "/chat/completions")
    assert (found.operation, found.hint) == ("", "")
