"""The two encodings of JOSE: one spelling each."""

from __future__ import annotations

import base64
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.identity.jose import base64url, from_base64url

ALPHABET = string.ascii_letters + string.digits + "-_"
NEARLY = st.text(st.one_of(st.sampled_from(ALPHABET), st.sampled_from("+/= \n\r\t\0.é\udc80")), max_size=12)


@given(st.binary(max_size=100))
def test_what_is_encoded_comes_back(data: bytes) -> None:
    """Any bytes have a spelling without padding, and it is read."""
    assert from_base64url(base64url(data)) == data
    assert set(base64url(data)) <= set(ALPHABET)


@given(st.text(ALPHABET, max_size=12) | NEARLY)
@example("AA==")
@example("AB")
@example("AAB")
@example("A")
@example("+/")
def test_every_other_spelling_is_refused(text: str) -> None:
    """S03: padding, stray bits, white space, the plain alphabet: what is not the one spelling of its bytes is none."""
    plain = b""
    try:
        plain = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        canonical = base64.urlsafe_b64encode(plain).decode().rstrip("=") == text
    except ValueError:
        canonical = False
    if canonical:
        assert from_base64url(text) == plain
    else:
        with pytest.raises(ValueError, match=r"."):
            from_base64url(text)
