"""The arguments of a tool call: what they are made of, and what is refused."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import Refusal
from gateway.tools import Tools
from gateway.tools.arguments import fold, merge, read_query, write_query
from gateway.tools.settings import OperationSettings
from tests.tools.payments import build, read, tools

GOOD = {"order_id": "A1", "amount": 100, "currency": "EUR"}


def refused(
    tools: Tools, path: str, body: bytes = b"", query: str = "", headers: dict[str, str] | None = None
) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read(tools.find("payments", "POST", path), body, query=query, headers=headers)
    return caught.value


def test_arguments_come_from_three_places() -> None:
    """Path variables, declared query parameters and the members of the JSON body are one object."""
    call = read(tools.find("payments", "POST", "/orders/A1/refund"), b'{"reason": "late"}', query="notify=yes+please")
    assert call.args == {"order_id": "A1", "notify": "yes please", "reason": "late"}
    assert (call.kind, call.tool, call.repeat, call.method) == ("tool", "payments.refund", "with_key", "POST")
    assert call.body == b'{"reason": "late"}'


def test_call_without_body_is_fine() -> None:
    """A call whose arguments are all in the path needs neither a body nor a content type."""
    call = read(tools.find("payments", "GET", "/orders/A1"), method="GET", headers={})
    assert (call.args, call.content_type) == ({"order_id": "A1"}, "")


@pytest.mark.parametrize(
    "body",
    [
        b'{"order_id": "A2"}',  # also a path variable
        b'{"Order_ID": "A2"}',  # a path variable to a reader without case
        b'{"notify": true}',  # a query parameter
        b'{"reason": 1, "reason": 2}',  # W5: the gateway would read one, the tool the other
        b'{"reason": 1, "Reason": 2}',
        b'{"x": [{"a": {"stra\xc3\x9fe": 1, "STRASSE": 2}}]}',
        b'{"\xc3\xa9": 1, "e\xcc\x81": 2}',  # W6: composed and decomposed
        b'{"\\u212Aey": 1, "key": 2}',  # the Kelvin sign is a K to some
    ],
)
def test_name_in_two_places_is_400(body: bytes) -> None:
    """W5, W6: no name may stand twice, not even in another case or Unicode form, at any depth."""
    assert refused(tools, "/orders/A1/refund", body).code == "request_malformed"


@pytest.mark.parametrize(
    "query",
    ["silent=1", "notify=1&notify=2", "NOTIFY=1", "order_id=A2", "notify=a;b", "notify=%ff", "notify=%", "notify=ü"],
)
def test_undeclared_or_repeated_query_is_400(query: str) -> None:
    """A query parameter is declared, stands once, and is plain or validly percent-encoded."""
    assert refused(tools, "/orders/A1/refund", query=query).code == "request_malformed"


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 2**64, 10**100])
def test_integer_beyond_2_to_53_is_400(number: int) -> None:
    """An integer that other languages would round is refused, also deep inside."""
    refusal = refused(tools, "/orders/A1/refund", json.dumps({"x": [{"n": number}]}).encode())
    assert (refusal.code, refusal.fields) == ("request_malformed", {"argument": "n"})


def test_largest_integers_pass() -> None:
    """2^53 and its negative are still the same number everywhere."""
    body = json.dumps({"most": 2**53, "least": [-(2**53)]}).encode()
    assert read(tools.find("payments", "POST", "/orders/A1/refund"), body).args["most"] == 2**53


@pytest.mark.parametrize("body", [b"[1]", b'"x"', b"null", b"1", b"true"])
def test_body_that_is_no_object_is_400(body: bytes) -> None:
    """Only an object has members that can become arguments."""
    assert refused(tools, "/charge", body).code == "request_malformed"


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "application/json+x", "application/json; charset=latin-1", ""],
)
def test_other_media_type_is_400(content_type: str) -> None:
    """A body is read as what it says it is, and only the declared media type in UTF-8 is taken."""
    refusal = refused(tools, "/charge", json.dumps(GOOD).encode(), headers={"Content-Type": content_type})
    assert refusal.code == "request_malformed"
    assert "application/json" in refusal.sentence


def test_missing_media_type_is_400() -> None:
    """A body without a content type says nothing of what it is."""
    assert refused(tools, "/charge", json.dumps(GOOD).encode(), headers={}).code == "request_malformed"


def test_media_type_parameters_pass_as_they_came() -> None:
    """The usual spellings of JSON in UTF-8 are the declared media type, and are sent on as they came."""
    written = 'Application/JSON; charset="UTF-8"'
    call = read(tools.find("payments", "POST", "/charge"), json.dumps(GOOD).encode(), headers={"Content-Type": written})
    assert call.content_type == written


def test_raw_body_is_not_parsed() -> None:
    """With `body: raw` the body passes as it is and gives no arguments."""
    operation = OperationSettings(method="PUT", path="/files/{name}", body="raw", media_type="text/csv")
    match = build({"put": operation}).find("payments", "PUT", "/files/a.csv")
    call = read(match, b'{"name": "b', headers={"Content-Type": "text/csv; charset=latin-1"})
    assert (call.args, call.body) == ({"name": "a.csv"}, b'{"name": "b')


def test_control_names_in_arguments_are_data() -> None:
    """S07: names that steer some gateways are plain data to a tool, and change neither path nor headers."""
    body = {"reason": "x", "base_url": "http://evil.example", "headers": {"authorization": "x"}, "user_config": {}}
    call = read(tools.find("payments", "POST", "/orders/A1/refund"), json.dumps(body).encode())
    assert call.args == body | {"order_id": "A1"}


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.text(max_size=20)))
def test_query_survives_being_written_anew(args: dict[str, str]) -> None:
    """S05: what was decided on is what is sent: written and read again, a query is the same."""
    written = write_query(args, ("a", "b", "c"))
    assert written.isascii()
    assert read_query(written, frozenset({"a", "b", "c"})) == args


@settings(deadline=None)
@given(st.text(min_size=1, max_size=12))
def test_folds_agree_on_unicode_forms(name: str) -> None:
    """W6: composed, decomposed, upper and lower spellings of a name that casefold alike are one name."""
    assert fold(unicodedata.normalize("NFD", name)) == fold(unicodedata.normalize("NFC", name))
    assert fold(fold(name)) == fold(name)


@settings(deadline=None)
@given(
    st.recursive(
        st.integers(-(2**60), 2**60) | st.text(max_size=3) | st.none() | st.booleans() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
        max_leaves=8,
    )
)
def test_every_nested_integer_is_looked_at(value: object) -> None:
    """A body is refused exactly when it holds an integer beyond ±2^53 or twins, however deep."""

    def bad(part: object) -> bool:
        if isinstance(part, dict):
            return len({fold(key) for key in part}) < len(part) or any(map(bad, part.values()))
        if isinstance(part, list):
            return any(map(bad, part))
        return isinstance(part, int) and not isinstance(part, bool) and abs(part) > 2**53

    try:
        merge({}, {}, {"x": value}, frozenset())
        refused_it = False
    except Refusal:
        refused_it = True
    assert refused_it == bad(value)
