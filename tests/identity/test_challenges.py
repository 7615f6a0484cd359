"""`WWW-Authenticate`: both schemes every time, the error where it belongs, and where to read more."""

from __future__ import annotations

import pytest

from gateway.core.errors import Refusal
from gateway.identity.challenges import challenges

ORIGIN = "https://gateway.example"
METADATA = 'resource_metadata="https://gateway.example/.well-known/oauth-protected-resource"'
ALGS = 'algs="EdDSA ES256 ES384 ES512 RS256 RS384 RS512 PS256 PS384 PS512"'


def said(code: str, **fields: object) -> list[str]:
    """The challenges of a refusal, in order."""
    found = challenges(Refusal(code, "what is wrong; what to do", fields=fields), ORIGIN)
    assert {name for name, _ in found} == {"WWW-Authenticate"}
    return [value for _, value in found]


def test_nothing_was_presented() -> None:
    """RFC 6750 §3.1: who brought nothing is told of no error, only what to bring and where to get it."""
    assert said("identity_missing") == [f'Bearer realm="passgate", {METADATA}', f"DPoP {ALGS}"]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("identity_invalid", "invalid_token"),
        ("identity_expired", "invalid_token"),
        ("identity_conflict", "invalid_request"),
        ("proof_invalid", "invalid_token"),
    ],
)
def test_a_wrong_credential(code: str, error: str) -> None:
    """What is wrong with a credential is said for both schemes: either may have been used."""
    bearer, dpop = said(code)
    assert bearer.startswith(f'Bearer realm="passgate", error="{error}", error_description="')
    assert bearer.endswith(f'", {METADATA}')
    assert dpop.startswith(f'DPoP error="{error}", error_description="')
    assert dpop.endswith(f'", {ALGS}')


@pytest.mark.parametrize("error", ["use_dpop_nonce", "invalid_dpop_proof"])
def test_a_wrong_proof(error: str) -> None:
    """RFC 9449 §7.1, §9: what is wrong with a proof comes first and is said for DPoP alone."""
    dpop, bearer = said("proof_invalid", error=error)
    assert dpop.startswith(f'DPoP error="{error}", error_description="')
    assert dpop.endswith(f'", {ALGS}')
    assert bearer == f'Bearer realm="passgate", {METADATA}'
