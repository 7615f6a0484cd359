"""The injected credential and the watch that it does not come back."""

from __future__ import annotations

import base64
import json
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.credential import Injected, leaked

KEY = 'sk-live/4"7+abc123'


@pytest.mark.parametrize(
    "echo",
    [
        f"you sent Bearer {KEY}",
        f"key {KEY} is wrong",
        json.dumps({"echo": KEY}),
        json.dumps({"echo": KEY}).replace("/", "\\/"),
        f"https://upstream.example/?key={quote(KEY, safe='')}",
    ],
)
def test_echoed_credential_is_found(echo: str) -> None:
    """S18: an answer that quotes the credential is recognised, as sent and as JSON and URLs escape it."""
    assert Injected("authorization", f"Bearer {KEY}").leaks(echo.encode())


def test_innocent_answer_is_not_held_back() -> None:
    """An answer that merely resembles the credential passes."""
    assert not Injected("authorization", f"Bearer {KEY}").leaks(b"Bearer sk-live/ is how keys begin")


def test_password_of_basic_credential_is_found() -> None:
    """S18: of a `Basic` credential the password alone is a leak, too."""
    value = "Basic " + base64.b64encode(b"gateway:correct horse").decode()
    assert Injected("authorization", value).leaks(b"no such user with password correct horse")


def test_short_secret_is_not_searched_for() -> None:
    """A form under 8 bytes would be found in innocent answers and is left alone."""
    assert not Injected("x-key", "demo").leaks(b"a demo answer")


@settings(deadline=None)
@given(cut=st.lists(st.integers(0, 60), max_size=6))
def test_leak_across_parts_is_found(cut: list[int]) -> None:
    """S18: a credential that is spread over the parts of a stream is found, wherever it is cut."""
    answer = b"data: before " + KEY.replace('"', '\\"').encode() + b" and after it some more"
    places = [0, *sorted(min(place, len(answer)) for place in cut), len(answer)]
    watch = Injected("authorization", f"Bearer {KEY}").watch()
    found = [watch.leaks(answer[a:b]) for a, b in pairwise(places)]
    assert any(found)


def test_masked_quote_is_redacted_for_the_log() -> None:
    """S18: where a provider quotes a key with its middle masked, not even its beginning gets into the log."""
    credential = Injected("authorization", f"Bearer {KEY}")
    assert credential.redact("wrong key sk-liv***123, see docs") == "wrong key [credential] see docs"
    assert KEY not in credential.redact(f"wrong key {KEY}")


def test_repr_is_mute() -> None:
    """S18: neither the repr of the credential nor the refusal of a leak contains it."""
    credential = Injected("authorization", f"Bearer {KEY}")
    refusal = leaked("tool payments")
    assert "sk-live" not in f"{credential!r} {credential} {refusal} {refusal.detail}"
    assert refusal.code == "upstream_failed"


@pytest.mark.parametrize(
    ("name", "value"),
    [("x-key", "two\r\nlines"), ("x-key", ""), ("x-key", " padded"), ("host", "x"), ("connection", "x")],
)
def test_credential_that_cannot_be_sent_is_refused(name: str, value: str) -> None:
    """S18: a secret that would split a header, or stand in the connection's own, is refused without being quoted."""
    with pytest.raises(ValueError, match="cannot be sent") as caught:
        Injected(name, value)
    assert "lines" not in str(caught.value)
