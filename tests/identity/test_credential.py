"""Where a credential may stand, and that there is only one."""

from __future__ import annotations

import pytest

from gateway.core.call import Address, Head
from gateway.core.errors import Refusal
from gateway.core.principal import Principal
from gateway.identity.challenges import challenges
from tests.identity.door import CHAT, PUBLIC_URL, Door, head, identify
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer

GEMINI = Address("gemini", "generate", "/gemini/v1beta/models/m:generateContent")
TOOL = Address("http", "tool", "/tools/store/items")


@pytest.fixture
def token(issuer: Issuer, clock: SetClock) -> str:
    return issuer.token(clock.time)


def ask(door: Door, request: Head, address: Address = CHAT) -> Principal | Refusal:
    """What the door says to this head."""
    try:
        return identify(door.identity, request, address)
    except Refusal as refusal:
        return refusal


def code(door: Door, request: Head, address: Address = CHAT) -> str:
    """The code of the refusal; empty where there is none."""
    answer = ask(door, request, address)
    return answer.code if isinstance(answer, Refusal) else ""


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *(("Authorization", form) for form in ("Bearer {}", "bearer {}", "BEARER {}", "Bearer   {}")),
        *(("x-api-key", "{}"), ("X-Api-Key", "{}"), ("x-goog-api-key", "{}")),
    ],
)
def test_headers_that_sdks_use(name: str, form: str, door: Door, token: str) -> None:
    """The token may stand in any of three headers, since SDKs mix them; names and scheme have no case."""
    assert code(door, head((name, form.format(token)))) == ""


def test_same_value_twice(door: Door, token: str) -> None:
    """Coding agents send one key in several headers: equal values count as one, empty ones not at all."""
    both = head(("Authorization", f"Bearer {token}"), ("x-api-key", token), ("x-goog-api-key", token))
    assert code(door, both) == ""
    assert code(door, head(("Authorization", ""), ("x-api-key", token), ("x-goog-api-key", ""))) == ""


def test_different_values(door: Door, token: str, clock: SetClock, issuer: Issuer) -> None:
    """Two different credentials are refused and both headers named, also where both are valid."""
    other = issuer.token(clock.time, jti="t-2")
    refusal = ask(door, head(("Authorization", f"Bearer {token}"), ("x-api-key", other)))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.status) == ("identity_conflict", 401)
    assert refusal.fields == {"headers": ["Authorization", "x-api-key"]}
    assert all(name in refusal.sentence for name in ("Authorization", "x-api-key"))
    assert token not in str(refusal)
    assert code(door, head(("x-api-key", token), ("x-goog-api-key", other))) == "identity_conflict"
    assert code(door, head(("x-api-key", token), ("x-api-key", other))) == "identity_conflict"


@pytest.mark.parametrize("second", ["Bearer {}", "Basic dXNlcjpwdw==", ""])
def test_two_authorization_headers(second: str, door: Door, token: str) -> None:
    """I23: two `Authorization` headers are refused, whatever they hold: parts could read different ones."""
    twice = head(("Authorization", f"Bearer {token}"), ("authorization", second.format(token)))
    assert code(door, twice) == "identity_conflict"


@pytest.mark.parametrize("address", [CHAT, GEMINI])
@pytest.mark.parametrize("query", ["key={}", "access_token={}", "a=1&KEY={}", "%6bey={}", "key=", "alt=sse&key=x"])
def test_credential_in_the_url(query: str, address: Address, door: Door, token: str) -> None:
    """I23: a token in the query is refused, alone and beside a good header; it would stand in every log."""
    query = query.format(token)
    assert code(door, head(query=query), address) == "identity_invalid"
    assert code(door, head(("Authorization", f"Bearer {token}"), query=query), address) == "identity_invalid"


def test_query_of_a_tool(door: Door, token: str) -> None:
    """I23: a tool may have a parameter named `key`, but never the caller's token in its query."""
    bearer = ("Authorization", f"Bearer {token}")
    assert code(door, head(bearer, query="key=shelf-1&page=2"), TOOL) == ""
    assert code(door, head(bearer, query="access_token=x"), TOOL) == "identity_invalid"
    assert code(door, head(bearer, query=f"key={token}"), TOOL) == "identity_invalid"
    assert code(door, head(bearer, query=f"note={token}")) == "identity_invalid"
    assert code(door, head(bearer, query="alt=sse&%FF=\udcff&&=&a"), CHAT) == ""


def test_no_credential(door: Door) -> None:
    """Whoever sends none is told where it belongs and how to get one, by RFC 6750 §3.1 without an error code."""
    for request in (
        head(),
        head(("Authorization", "Bearer")),
        head(("Authorization", "Bearer ")),
        head(("x-api-key", "")),
    ):
        refusal = ask(door, request)
        assert isinstance(refusal, Refusal)
        assert (refusal.code, refusal.status) == ("identity_missing", 401)
        assert "passgate token mint" in refusal.sentence
        assert "error" not in challenges(refusal, PUBLIC_URL)[0][1]  # RFC 6750 §3.1: nothing was wrong yet


@pytest.mark.parametrize("form", ["Basic {}", "{}", "Bearer {0}, Bearer {0}", "Bearer\t{}", "DPoP\t{}", "Token {}"])
def test_other_schemes(form: str, door: Door, token: str) -> None:
    """I16: a token under any scheme but `Bearer` and `DPoP` is never taken as a plain bearer token."""
    assert code(door, head(("Authorization", form.format(token)))) == "identity_invalid"
    assert code(door, head(("Authorization", form.format(token)), ("x-api-key", token))) in {
        "identity_invalid",
        "identity_conflict",
    }


def test_other_headers_are_no_credentials(door: Door, token: str) -> None:
    """I17: a cookie, a proxy's credential or a client certificate in a header identifies nobody."""
    for name in ("Cookie", "Proxy-Authorization", "api-key", "X-Forwarded-Client-Cert", "X-Client-Cert", "Gateway-Run"):
        assert code(door, head((name, f"Bearer {token}"))) == "identity_missing"
