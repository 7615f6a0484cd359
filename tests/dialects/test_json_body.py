"""One strict parse: what two parsers could read in two ways is refused, and so is what takes long to read."""

from __future__ import annotations

import gc
import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.errors import Refusal
from gateway.dialects import json_body
from gateway.dialects.json_body import JsonLimits, NotStrict, check, edit, insert, member_spans, parse, replace, windows
from tests.simulator.records import oddly

LIMITS = JsonLimits()
WIDE = JsonLimits(depth=200, keys=10_000_000, elements=100_000_000, digits=100_000)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
tricky = st.text(alphabet='\\"[]{}:,7', max_size=12)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | tricky,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine fails no property."""
objects = st.dictionaries(texts, values, max_size=5)


def refused(body: bytes, limits: JsonLimits = LIMITS) -> Refusal:
    with pytest.raises(Refusal) as caught:
        parse(body, limits)
    assert caught.value.code == "request_malformed"
    return caught.value


@STEADY
@given(values, st.integers(0, 2**30))
def test_every_json_value_is_read_as_it_is(value: object, seed: int) -> None:
    """Whatever the whitespace and the escapes, the value is the one that was written."""
    assert parse(oddly(value, seed), LIMITS) == value


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b'\xef\xbb\xbf{"a":1}', "byte order mark"),
        ('{"a":1}'.encode("utf-16"), "byte order mark"),
        (b'{"a":NaN}', "not strict JSON"),
        (b'{"a":Infinity}', "not strict JSON"),
        (b'{"a":-Infinity}', "not strict JSON"),
        (b'{"a":1e999}', "out of range"),
        (b'{"a":"\xff"}', "not UTF-8 at byte 6"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a":"\\ud800"}', "half a surrogate pair"),
        (b'{"a":"\\udc00"}', "not strict JSON"),
        (b'{"a":"\\ud83d\\u0041"}', "half a surrogate pair"),
        (b'{"\\uD83Dx":1}', "half a surrogate pair"),
        (b'{"a":1} {}', "trailing"),
        (b'{"a":1}\x00', "trailing"),
        (b'{"a":1,}', "not strict JSON"),
        (b"{'a':1}", "not strict JSON"),
        (b'{"a":01}', "not strict JSON"),
        (b'{"a":"\n"}', "not strict JSON"),
        (b'{"a":1', "not strict JSON"),
        (b'// no\n{"a":1}', "not strict JSON"),
    ],
)
def test_what_is_not_strict_json_is_refused(body: bytes, says: str) -> None:
    """R06: NaN, lone surrogates, byte order marks, other encodings and trailing bytes are 400 and say what is wrong."""
    assert says in refused(body).sentence


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
        b'{"x":{"y":[{"a":1,"b":2,"a":1}]}}',
        b'{"a:":1,"b":"::","a:":2}',
        b'{"a":1,"a":"\\u003a"}',
        b'{"a":":","a":"\\u003A\\u003a"}',
        b'{"a\\u003a":1,"a:":"x"}',
    ],
)
def test_a_member_that_is_there_twice_is_refused(body: bytes) -> None:
    """R06, J16: two members of one name, also after unescaping, are 400; no parser's choice is forwarded."""
    assert "twice" in refused(body).sentence


@pytest.mark.parametrize(
    "body",
    [b'{"a":":\\u003a","b":{"a":1}}', b'{"a\\u003A":1,"a":2}', b'{"a":"\\\\u003a","b":1}', b'[{"a":1},{"a":1}]'],
)
def test_members_that_are_there_once_are_not_taken_for_twice(body: bytes) -> None:
    """Colons in text, escaped or not, and equal names in other objects are no duplicates."""
    assert parse(body, LIMITS) == json.loads(body)


@STEADY
@given(st.lists(st.tuples(texts | st.sampled_from(["a", "b:", "\\"]), values), max_size=6), st.integers(0, 2**30))
def test_duplicates_are_found_exactly(members: list[tuple[str, object]], seed: int) -> None:
    """An object is refused as having a member twice exactly when it has."""
    body = b"{" + b",".join(oddly({name: value}, seed + at)[1:-1] for at, (name, value) in enumerate(members)) + b"}"
    if len({name for name, _ in members}) == len(members):
        assert parse(body, LIMITS) == dict(members)
    else:
        assert "twice" in refused(body).sentence


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "limits.json_depth"),
        (b"[" * 100_000, "limits.json_depth"),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "limits.json_depth"),
        (b"[" * 65 + b"]" * 65, "limits.json_depth"),
        (rb'["\\",' + b"[" * 70 + b"]" * 70 + b"]", "limits.json_depth"),  # a string that ends in a backslash
        (rb'["\"",' + b"[" * 70 + b"]" * 70 + b"]", "limits.json_depth"),
        (b'{"a":' * 65 + b"[" + b"]" + b"}" * 65, "limits.json_depth"),
        (b"{" + b",".join(b'"k%d":1' % i for i in range(100_001)) + b"}", "limits.json_keys"),
        (b"[" + b"{},{}," * 600_000 + b"{}]", "limits.json_elements"),
        (b"[" + b"1," * 2_000_001 + b"1]", "limits.json_elements"),
    ],
)
def test_what_is_over_a_limit_is_refused_before_it_is_parsed(body: bytes, key: str) -> None:
    """R06, P6: depth, members and elements beyond a limit are 400 and name the limit's config key."""
    with pytest.raises(Refusal) as caught:
        check(body, LIMITS)
    assert caught.value.fields["config"] == key
    assert key in caught.value.sentence


@pytest.mark.parametrize("digits", [401, 4_301, 1_000_000])
def test_endless_integers_are_refused(digits: int) -> None:
    """R06: an integer of a million digits is 400 without being converted."""
    assert "digits" in refused(b'{"a":' + b"7" * digits + b"}").sentence
    assert "digits" in refused(b'["x",' + b"1" * digits + b"]").sentence


def test_what_is_within_the_limits_passes() -> None:
    """The limits themselves are allowed, and what stands in strings does not count."""
    for body in (
        b"[" * 64 + b"]" * 64,
        b"{" + b",".join(b'"k%d":1' % i for i in range(100_000)) + b"}",
        b'{"a":' + b"7" * 400 + b"}",
        json.dumps({"digits": "7" * 5_000, "code": "{[" * 5_000, "quote": '\\"[' * 999}).encode(),
        json.dumps({"keys": ":" * 200_000}).encode(),
        json.dumps({"many": ["[" * 70, "]" * 70] * 50}).encode(),
    ):
        assert parse(body, LIMITS) == json.loads(body)


@STEADY
@given(values, st.integers(1, 6), st.integers(0, 9), st.integers(0, 40), st.integers(2, 30))
def test_counting_in_windows_agrees_with_counting_the_value(
    value: object, depth: int, keys: int, elements: int, window: int
) -> None:
    """However a body is cut into windows, it is over a limit exactly when its value is."""
    body = json.dumps(value).encode()
    limits = JsonLimits(depth=depth, keys=keys, elements=elements)
    deep, members, commas, brackets = _shape(value)
    over = deep > depth or members > keys or commas + brackets > elements
    try:
        for _ in json_body._count(body, limits, window):
            pass
    except NotStrict:
        assert over
    else:
        assert not over


@pytest.mark.parametrize("size", range(2, 50))
def test_a_window_never_parts_an_escape(size: int) -> None:
    """R06: wherever a window ends among backslashes and quotes, what is inside a string stays inside."""
    body = rb'["\\\" [[[[[[ \" ,,,, \\", [[1]], "\\\\"]'
    list(json_body._count(body, JsonLimits(depth=3, elements=5), size))
    for limits in (JsonLimits(depth=2), JsonLimits(elements=4)):
        with pytest.raises(NotStrict):
            list(json_body._count(body, limits, size))


def test_an_integer_across_windows_is_one() -> None:
    """R06: an endless integer is found where one window ends within it and another begins."""
    for digits, size in ((401, 400), (401, 50), (1_000, 300)):
        with pytest.raises(NotStrict, match="digits"):
            list(json_body._count(b'["x",' + b"7" * digits + b"]", LIMITS, size))
    assert list(json_body._count(b"[" + (b"7" * 400 + b",") * 9 + b"7]", LIMITS, 50))


def _shape(value: object) -> tuple[int, int, int, int]:
    """Depth, members, commas and brackets of a value."""
    if not isinstance(value, dict | list):
        return 0, 0, 0, 0
    inner = [_shape(member) for member in (value.values() if isinstance(value, dict) else value)]
    own = len(value) if isinstance(value, dict) else 0
    deep = max((shape[0] for shape in inner), default=0)
    return (
        deep + 1,
        own + sum(shape[1] for shape in inner),
        max(0, len(value) - 1) + sum(shape[2] for shape in inner),
        1 + sum(shape[3] for shape in inner),
    )


@STEADY
@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u0d8a1 e.-', max_size=60).map(str.encode))
def test_no_bytes_get_past_but_json(body: bytes) -> None:
    """Arbitrary bytes are a value or a refusal, never another error; and a value is what the standard library reads."""
    try:
        value = parse(body, LIMITS)
    except Refusal:
        return
    assert value == json.loads(body)


def test_a_large_body_is_counted_in_windows() -> None:
    """R07: the scan of a 10 MB prompt gives way to others dozens of times, and the prompt comes out whole."""
    body = b'{"messages":["' + b"a" * 10_000_000 + b'"]}'
    assert sum(1 for _ in windows(body, LIMITS)) >= 38
    assert parse(body, LIMITS, checked=True) == {"messages": ["a" * 10_000_000]}


def test_a_hostile_body_never_makes_one_long_step() -> None:
    """R06: quotes, backslashes and brackets without end are counted window by window as well."""
    for body in (b'"' * 4_000_000, b"\\" * 4_000_001, b'\\"' * 2_000_000):
        assert sum(1 for _ in windows(body, LIMITS)) >= 15
    assert not list(windows(b"]" * 4_000_000, LIMITS))  # malformed: the parser stops at its first byte
    refused(b"]" * 4_000_000)


def test_the_collector_is_on_again_after_a_large_body() -> None:
    """Reading a large body without the cyclic collector leaves it as it was, also when the body is refused."""
    body = b"[" + b"[]," * 500_000 + b"1]"
    assert isinstance(parse(body, LIMITS), list)
    assert gc.isenabled()
    refused(body + b"x")
    assert gc.isenabled()


@STEADY
@given(objects, st.integers(0, 2**30), texts, values)
def test_an_edit_changes_one_member_and_no_other_byte(
    value: dict[str, object], seed: int, name: str, other: object
) -> None:
    """A member replaced or added by its bytes: the value differs in that member alone, all other bytes stay."""
    body = oddly(value, seed)
    text = json.dumps(other).encode()
    edited = edit(body, {name: text})
    assert parse(edited, WIDE) == {**value, name: other}
    if name in value:
        start, end = member_spans(body)[name]
        assert edited == body[:start] + text + body[end:]
        assert parse(body[start:end], WIDE) == value[name]
    else:
        at = body.index(b"{") + 1
        assert edited.startswith(body[:at])
        assert edited.endswith(body[at:])


@STEADY
@given(objects, st.integers(0, 2**30))
def test_several_edits_at_once(value: dict[str, object], seed: int) -> None:
    """Many members changed in one go end up each in its own place."""
    changes: dict[str, object] = {name: f"new {at}" for at, name in enumerate(value)}
    changes["and one more"] = None
    body = edit(oddly(value, seed), {name: json.dumps(new).encode() for name, new in changes.items()})
    assert parse(body, WIDE) == {**value, **changes}


def test_edits_stay_at_the_top_level() -> None:
    """A member of the same name further down, or in a string, is not the one that is replaced."""
    body = b' { "a" : {"model":"inner"} , "t":"\\"model\\":1", "\\u006dodel"\n:\t"x" , "z": 1.0 } '
    assert replace(body, {"model": b'"y"'}) == body.replace(b'"x"', b'"y"')
    assert insert(b"{ }", {"a": b"1"}) == b'{"a":1 }'
    assert insert(b'{"b":2}', {}) == b'{"b":2}'
    with pytest.raises(ValueError, match="not a JSON object"):
        member_spans(b"[1]")
    with pytest.raises(ValueError, match="two members"):
        member_spans(b'{"a":1,"b":22,"a":333,"c":4}')


def test_scan_and_parse_agree_on_random_damage() -> None:
    """A body with one byte changed is read like the standard library reads it, or refused."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": 'é "x" \\ :'}], "n": 1.5}).encode()
    rng = random.Random(7)  # noqa: S311  damage, no secret
    for _ in range(2_000):
        damaged = bytearray(body)
        damaged[rng.randrange(len(body))] = rng.randrange(256)
        try:
            value = parse(bytes(damaged), LIMITS)
        except Refusal:
            continue
        assert value == json.loads(bytes(damaged))
