"""What an upstream's status means."""

from __future__ import annotations

import pytest

from gateway.core.errors import Repeat
from gateway.core.fault import fault


@pytest.mark.parametrize("status", [200, 201, 204, 400, 404, 405, 409, 410, 413, 415, 422, 451])
def test_answers_about_the_request_pass(status: int) -> None:
    """Results and errors about the request itself pass as they came."""
    assert fault("provider p", status, None, about_us=False, detail="") is None


@pytest.mark.parametrize("status", [401, 402, 403, 429])
def test_credential_trouble_is_ours(status: int) -> None:
    """An upstream that refuses our credential never makes the agent look at its own: 502, not 401, and an alert."""
    found = fault("provider p", status, "5", about_us=True, detail="the body")
    assert found is not None
    assert (found.refusal.code, found.refusal.status, found.alert) == ("upstream_credential", 502, True)
    assert found.refusal.repeat is Repeat.USELESS
    assert found.refusal.detail == "the body"
    assert "the body" not in found.refusal.sentence


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (408, "upstream_timeout"), (429, "upstream_unavailable"), (500, "upstream_failed"), (501, "upstream_failed"),
        (502, "upstream_failed"), (503, "upstream_unavailable"), (504, "upstream_timeout"),
        (529, "upstream_unavailable"), (599, "upstream_failed"),
    ],
)  # fmt: skip
def test_trouble_keeps_its_status(status: int, code: str) -> None:
    """408, 429 and 5xx keep their status under a code of ours, and another target may be asked."""
    found = fault("provider p", status, None, about_us=False, detail="")
    assert found is not None
    assert (found.refusal.code, found.refusal.status, found.elsewhere) == (code, status, True)
    assert found.refusal.repeat is Repeat.LATER


@pytest.mark.parametrize("given", ["60", "Fri, 20 Nov 2026 10:00:00 GMT"])
def test_retry_after_is_kept(given: str) -> None:
    """The upstream's own `retry-after` passes, longer than ours would be or as a date, and stands alone."""
    found = fault("provider p", 429, given, about_us=False, detail="")
    assert found is not None
    assert found.refusal.headers == (("retry-after", given),)
    assert found.refusal.repeat is Repeat.UNSAID


@pytest.mark.parametrize("given", ["-1", "1e9", "999999999", "soon\r\nx: y", ""])
def test_strange_retry_after_is_not_kept(given: str) -> None:
    """A `retry-after` that is neither seconds nor a date is replaced by our own hint."""
    found = fault("provider p", 503, given, about_us=False, detail="")
    assert found is not None
    assert found.refusal.headers == ()
    assert found.refusal.repeat is Repeat.LATER


@pytest.mark.parametrize("status", [0, 100, 199, 300, 302, 304, 307, 308, 600, 999])
def test_redirects_and_nonsense_fail(status: int) -> None:
    """R12: a redirect is neither followed nor passed on, and a status that is none is a failure."""
    found = fault("provider p", status, None, about_us=False, detail="")
    assert found is not None
    assert (found.refusal.code, found.refusal.status) == ("upstream_failed", 502)
