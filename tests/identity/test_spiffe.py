"""SPIFFE IDs: one name has one spelling."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.identity.spiffe import MAX_ID, MAX_TRUST_DOMAIN, SpiffeId, spiffe_id

GOOD = {
    "spiffe://acme.example": SpiffeId("acme.example", ""),
    "spiffe://acme.example/agent/procurement": SpiffeId("acme.example", "/agent/procurement"),
    "spiffe://k8s-west.example.com/ns/staging/sa/default": SpiffeId("k8s-west.example.com", "/ns/staging/sa/default"),
    "spiffe://example.com/9eebccd2-12bf-40a6-b262-65fe0487d453": SpiffeId(
        "example.com", "/9eebccd2-12bf-40a6-b262-65fe0487d453"
    ),
    "spiffe://trust_domain_name.example.com/A.b_C-9": SpiffeId("trust_domain_name.example.com", "/A.b_C-9"),
    "spiffe://10.2.3.4/x": SpiffeId("10.2.3.4", "/x"),
    "spiffe://a/...": SpiffeId("a", "/..."),
    "spiffe://a/.x/..y": SpiffeId("a", "/.x/..y"),
    f"spiffe://{'d' * MAX_TRUST_DOMAIN}/x": SpiffeId("d" * MAX_TRUST_DOMAIN, "/x"),
    f"spiffe://a/{'x' * (MAX_ID - 11)}": SpiffeId("a", "/" + "x" * (MAX_ID - 11)),
}

BAD = {
    "": "begin",
    "acme.example/x": "begin",
    "SPIFFE://acme.example/x": "begin",
    "Spiffe://acme.example/x": "begin",
    "spiffe:/acme.example/x": "begin",
    "spiffe:acme.example/x": "begin",
    "https://acme.example/x": "begin",
    " spiffe://acme.example/x": "begin",
    "spiffe://": "trust domain",
    "spiffe:///x": "trust domain",
    "spiffe://ACME.example/x": "trust domain",
    "spiffe://acme.example:443/x": "trust domain",
    "spiffe://user@acme.example/x": "trust domain",
    "spiffe://user:word@acme.example/x": "trust domain",
    "spiffe://acme%2eexample/x": "trust domain",
    "spiffe://[::1]/x": "trust domain",
    "spiffe://acme.example?x": "trust domain",
    "spiffe://acme.example#x": "trust domain",
    "spiffe://bücher.example/x": "trust domain",
    "spiffe://acme.example\n": "trust domain",
    "spiffe://acme .example/x": "trust domain",
    f"spiffe://{'d' * (MAX_TRUST_DOMAIN + 1)}/x": "trust domain",
    "spiffe://acme.example/": "slash at its end",
    "spiffe://acme.example/x/": "slash at its end",
    "spiffe://acme.example//x": "empty",
    "spiffe://acme.example/x//y": "empty",
    "spiffe://acme.example/.": "dot segment",
    "spiffe://acme.example/x/../y": "dot segment",
    "spiffe://acme.example/..": "dot segment",
    "spiffe://acme.example/./x": "dot segment",
    "spiffe://acme.example/%2e%2e/x": "characters",
    "spiffe://acme.example/a%62": "characters",
    "spiffe://acme.example/x?y=z": "characters",
    "spiffe://acme.example/x#y": "characters",
    "spiffe://acme.example/x y": "characters",
    "spiffe://acme.example/x\n": "characters",
    "spiffe://acme.example/x\x00": "characters",
    "spiffe://acme.example/x:y": "characters",
    "spiffe://acme.example/x~y": "characters",
    "spiffe://acme.example/x\\y": "characters",
    "spiffe://acme.example/ü": "characters",
    "spiffe://acme.example/\u0661": "characters",
    f"spiffe://a/{'x' * (MAX_ID - 10)}": "longer",
}


@pytest.mark.parametrize("text", GOOD)
def test_an_id(text: str) -> None:
    """The specification's own examples and the edges of its grammar are read as they are."""
    assert spiffe_id(text) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_id(text: str) -> None:
    """I13: another case, a port, a user, an escape, a dot segment, a slash too many: no SPIFFE ID, and it says why."""
    with pytest.raises(ValueError, match=BAD[text]):
        spiffe_id(text)


GRAMMAR = re.compile(r"spiffe://([a-z0-9._-]{1,255})((?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)*)")
PIECES = [
    "spiffe://",
    "acme.example",
    "/",
    "..",
    ".",
    "x",
    "A",
    "%2e",
    ":",
    "@",
    "?",
    "#",
    " ",
    "\n",
    "é",
    "-",
    "_",
    "~",
]


@given(st.lists(st.sampled_from(PIECES), max_size=9).map("".join) | st.text(max_size=30))
@example("spiffe://acme.example/x")
@settings(max_examples=500, deadline=None)
def test_the_grammar_and_nothing_else(text: str) -> None:
    """I13: whatever the text, it is an id exactly where the grammar of the specification says so."""
    for candidate in (text, f"spiffe://acme.example/{text}"):
        try:
            found = spiffe_id(candidate)
        except ValueError:
            assert not GRAMMAR.fullmatch(candidate)
        else:
            match = GRAMMAR.fullmatch(candidate)
            assert match
            assert found == (match[1], match[2])
            assert f"spiffe://{found.trust_domain}{found.path}" == candidate
