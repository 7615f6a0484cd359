"""Whatever is done to a token, it is either exactly what was signed or refused, and nothing else happens."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import Refusal
from tests.identity.door import Door
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer

ISSUER, CLOCK = Issuer(), SetClock()
DOOR = Door(ISSUER, clock=CLOCK)
TOKEN = ISSUER.token(CLOCK.time)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \x00é"


def admitted(token: str) -> bool:
    """Whether the door opens; anything but a principal or a refusal fails the test."""
    try:
        DOOR.admits(token)
    except Refusal:
        return False
    return True


@given(st.integers(0, len(TOKEN) - 1), st.sampled_from(ALPHABET), st.sampled_from(["replace", "insert", "delete"]))
@settings(max_examples=400, deadline=None)
def test_one_character(at: int, character: str, change: str) -> None:
    """I1, S03: no change of a single character leaves a valid token."""
    mutated = TOKEN[:at] + ("" if change == "delete" else character) + TOKEN[at + (change != "insert") :]
    if mutated.strip(" ") != TOKEN:
        assert not admitted(mutated)


@given(st.lists(st.tuples(st.integers(0, len(TOKEN)), st.integers(0, len(TOKEN))), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_pieces(pieces: list[tuple[int, int]]) -> None:
    """I1, S03: no other arrangement of a token's own pieces is a valid token."""
    mutated = "".join(TOKEN[min(piece) : max(piece)] for piece in pieces)
    if mutated != TOKEN:
        assert not admitted(mutated)


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text(text: str) -> None:
    """S06: any text at all is refused and breaks nothing."""
    assert not admitted(text)


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(ISSUER.audience),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["sub", "act", "iss", "x"]), inner),
    max_leaves=6,
)
CLAIMS = ["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "act", "run", "inc", "parent_run", "scope", "limits", "cnf"]


@given(st.dictionaries(st.sampled_from(CLAIMS), VALUES, max_size=4))
@settings(max_examples=400, deadline=None)
def test_any_signed_claims(changes: dict[str, Any]) -> None:
    """I8: whatever an issuer signs, the door answers with a principal or a refusal; it is the agent only by name."""
    token = ISSUER.sign_bytes(
        json.dumps(ISSUER.header()).encode(),
        json.dumps(ISSUER.claims(CLOCK.time) | changes).encode("utf-8", "surrogatepass"),
    )
    if admitted(token):
        principal = DOOR.admits(token)
        assert principal.subject == ISSUER.subject
        assert principal.expires > CLOCK.time - 30


@given(st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "jwk", "x"]), VALUES, min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_any_signed_header(changes: dict[str, Any]) -> None:
    """I3, I5: whatever stands in the header, only the issuer's own algorithm, type and key are accepted."""
    token = ISSUER.sign_bytes(
        json.dumps(ISSUER.header() | changes).encode(), json.dumps(ISSUER.claims(CLOCK.time)).encode()
    )
    if set(changes) - {"x"}:
        assert not admitted(token)
    else:
        admitted(token)
