"""The language, by example: what an expression gives, and where it has no value.

test_against_google.py looks for what nobody thought of; here stands what the documents promise.
"""

from __future__ import annotations

import math
from decimal import Decimal

import pytest

from gateway.policy.cel import (
    DYN,
    INT,
    STRING,
    TIMESTAMP,
    CelError,
    Duration,
    Environment,
    Timestamp,
    UInt,
    compile_cel,
    list_of,
    map_of,
)
from gateway.policy.cel.values import TypeValue, kind_of

ENVIRONMENT = Environment({"args": map_of(STRING, DYN), "n": INT, "names": list_of(STRING), "now": TIMESTAMP, "x": DYN})
FACTS = {
    "args": {
        "amount": 250_000, "currency": "EUR", "rate": 0.5, "note": None, "price": "12.50", "order-id": "A1",
        "zone": "Europe/Berlin",
        "items": [{"sku": "a", "n": 2}, {"sku": "b", "n": 0}], "deep": {"a": {"b": [1, 2, 3]}},
        "huge": 10**5000, "digits": "1" * 500,
    },
    "n": 3, "names": ["ann", "bob"], "now": Timestamp.at(1_795_168_800.5), "x": "é\U0001f600",
}  # fmt: skip


def agrees(text: str, expected: object) -> None:
    """The expression gives this value, of this type."""
    found = compile_cel(text, ENVIRONMENT).evaluate(FACTS)
    assert kind_of(found) == kind_of(expected), text
    assert repr(found) == repr(expected), text


def fails(text: str) -> None:
    """The expression compiles, and has no value."""
    program = compile_cel(text, ENVIRONMENT)
    with pytest.raises(CelError):
        program.evaluate(FACTS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0x7fFF", 32767), ("-9223372036854775808", -(2**63)), ("-0x8000000000000000", -(2**63)), ("7u", UInt(7)),
        ("18446744073709551615u", UInt(2**64 - 1)), ("0xFFu", UInt(255)), (".5e1", 5.0), ("1e3", 1000.0),
        ("1e400", math.inf), (r"'a\n\t\\\'\?\`\a'", "a\n\t\\'?`\a"),
        (r"'\x41\101\u00e9\U0001F600'", "AA\xe9\U0001f600"), (r"r'\n'", "\\n"), (r"R'''a'b\'''", "a'b\\"),
        ('"""a"b\nc"""', 'a"b\nc'), ("''", ""), (r"b'\xff\377é'", b"\xff\xff\xc3\xa9"), (r"bR'\x'", b"\\x"),
        ("B''", b""), ("null", None), ("true", True), ("[1, 'a', [],]", [1, "a", []]),
        ("{'a': 1, 2: [],}", {"a": 1, 2: []}), ("[,]", []), ("{,}", {}), ("// c\n 1 // d", 1),
    ],
)  # fmt: skip
def test_literals(text: str, expected: object) -> None:
    """Each form of a literal stands for its value."""
    agrees(text, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3 - 4", 3), ("-2 - -3", 1), ("--n", 3), ("-7 / 2", -3), ("7 / -2", -3), ("-7 % 2", -1), ("7 % -2", 1),
        ("9223372036854775807 + 0", 2**63 - 1), ("2u * 3u - 6u", UInt(0)), ("7u / 2u + 7u % 2u", UInt(4)),
        ("1.0 / 0.0", math.inf), ("-1.0 / 0.0", -math.inf), ("1.0 / -0.0", -math.inf), ("0.0 / 0.0", math.nan),
        ("-(0.0)", -0.0), ("1e308 * 10.0", math.inf), ("'a' + 'b'", "ab"), (r"b'a' + b'\xff'", b"a\xff"),
        ("[1] + [] + [2]", [1, 2]), ("n < 2 ? 'few' : n < 5 ? 'some' : 'many'", "some"), ("!true == false", True),
        ("1 < 2 == true", True), ("1 + 1 in [2] && !(3 in [])", True), ("args.deep.a['b'][n - 1]", 3),
        ("[1, 2][dyn(1.0)] + [1][dyn(0u)]", 3), ("{1: 'a'}[dyn(1.0)] + {'k': 'b'}.k", "ab"), ("args.`order-id`", "A1"),
        ("has(args.`order-id`)", True), ("{'for': 2}.for", 2), (".n + [5].map(n, .n + n)[0]", 11),
        ("{true: 1, 1: 2}[true] + {true: 1, 1: 2}[1]", 3), ("{true: 'a'}.map(k, k)", [True]),
        ("{true: [1]}", {True: [1]}),
    ],
)  # fmt: skip
def test_operators(text: str, expected: object) -> None:
    """Operators bind as CEL has it, and numbers are as wide as CEL has them."""
    agrees(text, expected)


@pytest.mark.parametrize(
    "text",
    [
        "9223372036854775807 + 1", "-(-9223372036854775808)", "-9223372036854775808 - n", "4611686018427387904 * 2",
        "-9223372036854775808 / -1", "-9223372036854775808 % -1", "n / 0", "n % 0", "0u - 1u", "1u / 0u",
        "18446744073709551615u + 1u", "[1][1]", "[1][-1]", "[1][dyn(0.5)]", "[1][dyn(true)]", "{1: 2}[2]",
        "{1: 2}[dyn(true)]", "{true: 1}[dyn(1)]", "args.nothing", "args['nothing']", "args.amount.more",
        "args.items.more", "args.note.more", "has(args.amount.more)", "has(args.nothing.more)", "x + 1", "1 < x",
        "-x", "!x", "x ? 1 : 2", "x && true", "false || x", "x in dyn(5)", "{n: 1, 3: 2}", "{dyn(1.0): 1}",
        "{dyn(null): 1}", "{1: 1, dyn(1u): 2}", "x.all(y, true)", "dyn(1).map(y, y)", "[1].all(y, dyn(1))",
        "[1].filter(y, dyn('a'))", "dyn([1]) < dyn([2])", "dyn(null) < dyn(null)", "dyn(type(1)) < dyn(type(1))",
        "dyn(1) + dyn(1.0)", "dyn(1) + dyn(1u)", "dyn('a') + dyn(b'a')", "x.getHours()", "size(dyn(1))", "args.huge",
        "args.huge + 1", "{true: 1, 1: 2}", "[{'a': {0: 1, false: 2}}]", "string(args.huge)", "double(args.huge)",
        "args.huge < 1.5", "uint(args.huge)",
    ],
)  # fmt: skip
def test_errors(text: str) -> None:
    """What has no value is an error, whatever the types were at load."""
    fails(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1/0 == 1 && false", False), ("false && 1/0 == 1", False), ("1/0 == 1 || true", True), ("x || true", True),
        ("true && args.no || 1/0 == 1 || n == 3", True), ("args.no == 1 && args.no == 2", None), ("x && false", False),
        ("1/0 == 1 || false", None), ("true && 1/0 == 1", None), ("[0, 1].exists(y, 1 / y == 1)", True),
        ("[0, 2].exists(y, 1 / y == 1)", None), ("[0, 1].all(y, 1 / y == 2)", False),
        ("[0, 1].all(y, 1 / y == 1)", None), ("[1, 0].exists_one(y, 1 / y == 1)", None),
        ("[1, 2, 1].exists_one(y, y == 2)", True), ("[1, 2, 1].exists_one(y, y == 1)", False), ("[].all(y, y)", True),
        ("[].exists(y, y)", False), ("true ? 1 : 1/0", 1), ("false ? 1 : 1/0", None),
        ("has(args.no) && args.no.deep", False), ("has(args.no) ? args.no : 'none'", "none"), ("[1/0]", None),
        ("{'a': 1/0}", None), ("[[1/0 == 1]][0][0] || true", True),
    ],
)  # fmt: skip
def test_errors_that_do_not_matter(text: str, expected: object) -> None:
    """`&&`, `||`, `all` and `exists` ignore an error on either side where the other decides; nothing else does."""
    fails(text) if expected is None else agrees(text, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dyn(1) == 1.0", True), ("dyn(1) == 1u", True), ("dyn(1) == true", False), ("dyn(1) == '1'", False),
        ("dyn('a') == b'a'", False), ("dyn(null) == 0", False), ("dyn([1, 2.0]) == [1.0, dyn(2)]", True),
        ("dyn([1]) == [true]", False), ("{'a': dyn(1)} == {'a': 1.0}", True), ("dyn({1: 1}) == {1u: 1}", True),
        ("{'a': 1} == {'b': 1}", False), ("0.0 / 0.0 == 0.0 / 0.0", False), ("[0.0 / 0.0] == [0.0 / 0.0]", False),
        ("0.0 == -0.0", True), ("null == dyn(null)", True), ("type(1) == int", True), ("type(1) == type(1u)", False),
        ("dyn(9007199254740993) == 9007199254740992.0", True), ("9223372036854775807 < 9223372036854775808.0", False),
        ("n < 3.5 && 2.5 < n && n >= 3u", True), ("-1 < dyn(18446744073709551615u)", True), ("0.0 / 0.0 < 1", False),
        ("'a' < 'b' && b'a' < b'b' && false < true", True), ("'\U0001f600' > '\uffff'", True), ("'Z' < 'a'", True),
        ("'e\u0301' == '\u00e9'", False), ("x in ['é\U0001f600']", True), ("dyn(1.0) in [1, 2]", True),
        ("x in [1, 'a']", False), ("dyn(true) in [1]", False), ("'sku' in args.items[0]", True),
        ("dyn(1u) in {1: 2}", True), ("n in [1, 2, 3]", True), ("args.note == null", True),
        ("null in [dyn(1), null]", True),
    ],
)  # fmt: skip
def test_equality_and_order(text: str, expected: object) -> None:
    """Numbers are equal across types, nothing else is; text has the order of its code points."""
    agrees(text, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("args.items.all(i, i.n < 3)", True), ("args.items.map(i, i.n > 0, i.sku)", ["a"]),
        ("names.filter(s, s != 'ann')", ["bob"]), ("args.items.map(i, i.n).exists(k, k == 0)", True),
        ("{'a': 1, 'b': 2}.all(k, k < 'c')", True), ("{'b': 1, 'a': 2}.map(k, k)", ["b", "a"]),
        ("args.items[0].filter(k, k == 'n')", ["n"]), ("[[1, 2], [3]].map(y, y.map(z, z * 2))", [[2, 4], [6]]),
        ("[1, 2].map(y, [3].map(y, y)[0] + y)", [4, 5]),
        ("[1, 2].map(y, names.map(s, s + string(y)))", [["ann1", "bob1"], ["ann2", "bob2"]]), ("[].map(y, y.more)", []),
    ],
)  # fmt: skip
def test_comprehensions(text: str, expected: object) -> None:
    """Comprehensions go through lists and keys of maps; an inner variable hides an outer one."""
    agrees(text, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size(x) + x.size()", 4), (r"size(b'\xff\x00') + size([1]) + {'a': 1}.size()", 4), ("size('e\u0301')", 2),
        ("'abc'.contains('') && x.contains('\U0001f600')", True),
        ("'abc'.startsWith('ab') && 'abc'.endsWith('')", True), ("'abc'.startsWith('abcd')", False),
        ("'ÄbC'.lowerAscii() + 'äBc'.upperAscii()", "ÄbcäBC"), ("' \u3000a b\\n'.trim()", "a b"),
        ("matches('abc', 'b.$') && !'abc'.matches('^b')", True),
        ("int('-12') + int(1.9) + int(-1.9) + int(3u) + int('+5')", -4), ("int(9223372036854774784.0)", 2**63 - 1024),
        ("int(timestamp('1969-12-31T23:59:59.5Z'))", -1), ("uint('5') + uint(7) + uint(1.9)", UInt(13)),
        ("double('-1.5e2') + double(2) + double(1u)", -147.0), ("double('inf')", math.inf), ("double('NaN')", math.nan),
        ("string(1) + string(2u) + string(true) + string(b'a') + string('b')", "12trueab"), ("string(1e6)", "1e+06"),
        ("string(123456.5) + string(0.1) + string(-0.0) + string(1e-5) + string(5e-324)", "123456.50.1-01e-055e-324"),
        ("string(1.0 / 0.0) + string(-1.0 / 0.0) + string(0.0 / 0.0)", "inf-infnan"), ("bytes('é')", b"\xc3\xa9"),
        ("['true', 'TRUE', 'True', 't', '1'].all(y, bool(y)) && !['false', 'f', '0'].exists(y, bool(y))", True),
        ("type(n)", TypeValue("int")), ("type([1]) == list && type({}) == map && type(type(1)) == type", True),
        ("type(null) == null_type && type(b'') == bytes && type(1.0) == double", True), ("dyn(n)", 3),
        ("type(now) == google.protobuf.Timestamp && type(now - now) == google.protobuf.Duration", True),
        ("int(5) + size(string('ab')) + size(bytes(b'a'))", 8),
        ("bool(true) && double(1.0) == 1.0 && uint(1u) == 1u", True),
    ],
)  # fmt: skip
def test_functions(text: str, expected: object) -> None:
    """Each function gives what the specification says."""
    agrees(text, expected)


@pytest.mark.parametrize(
    "text",
    [
        "int('')", "int(' 1')", "int('1 ')", "int('0x1')", "int('1_0')", "int('1.0')", "int('\uff19')",
        "int('9223372036854775808')", "int(9.3e18)", "int(-9223372036854775808.0)", "int(0.0 / 0.0)",
        "int(1.0 / 0.0)", "int(18446744073709551615u)", "uint(-1)", "uint('-0')", "uint(-0.5)",
        "uint(18446744073709551615.0)", "double('')", "double('1_0')", "double('0x1p3')", "double(' 1')",
        "double(args.digits)", "bool('yes')", "bool('T')", "bool('')", r"string(b'\xff')", "string(dyn(null))",
        "string(dyn([]))", "int(dyn(true))", "bool(dyn(1))", "duration(dyn(5))", "timestamp(dyn(1.5))",
        "bytes(dyn(1))",
    ],
)  # fmt: skip
def test_what_does_not_convert(text: str) -> None:
    """A conversion that would lose or guess something is an error."""
    fails(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("decimal('1.50') == decimal('1.5')", True), ("decimal(args.price) <= decimal('12.50')", True),
        ("decimal('0.1') + decimal('0.2') == decimal('0.3')", True), ("decimal('2.50') * 2 - 1", Decimal("4.00")),
        ("3 - decimal('0.01')", Decimal("2.99")), ("2 * decimal('1.5') == 3 && 3 == 2u * decimal('1.5')", True),
        ("decimal(7u) + decimal(-7) == 0", True), ("n < decimal('3.01') && decimal('2.99') < dyn(n)", True),
        ("dyn(decimal('1')) in [1]", True), ("dyn(decimal('1')) == '1'", False), ("string(decimal('-0.50'))", "-0.50"),
        ("type(decimal(1)) == decimal", True), ("[decimal('1')] == [decimal('1.0')]", True),
        ("decimal('-12345678901234567890.123456789')", Decimal("-12345678901234567890.123456789")),
        ("decimal(decimal('1')) > 0", True),
    ],
)  # fmt: skip
def test_decimals(text: str, expected: object) -> None:
    """Decimals are exact, and meet integers."""
    agrees(text, expected)


@pytest.mark.parametrize(
    "text",
    [
        "decimal(args.rate)", "decimal(dyn(1.5))", "decimal('1') == dyn(1.0)", "decimal('1') < dyn(1.5)",
        "dyn(1.5) >= decimal('1')", "decimal('1') + dyn(1.0)", "[dyn(decimal('1'))] == [dyn(1.0)]",
        "dyn(decimal('1')) in [1.0]", "{dyn(decimal('1')): 1}", "decimal(x)", "decimal(string('1e5'))",
        "decimal(string(''))", "decimal(string('.5'))", "decimal(string(' 1'))", "decimal(string('1.'))",
        "decimal(string('NaN'))", "decimal(string('+1'))", "decimal(string('\uff11'))", "dyn(decimal('4')) / 2",
        "[9, 9, 9].map(y, decimal('999999999999999999999999999999.9')).map(d, d * d * d)", "-dyn(decimal('1'))",
        "decimal(args.huge)",
    ],
)  # fmt: skip
def test_what_no_decimal_is(text: str) -> None:
    """A decimal never meets a double, is read from digits alone, and never loses one."""
    fails(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("timestamp('2026-11-20T10:00:00Z')", Timestamp.at(1_795_168_800)),
        ("timestamp('2026-11-20t12:00:00.5+02:00')", Timestamp.at(1_795_168_800.5)),
        ("timestamp(1795168800) == timestamp('2026-11-20T08:30:00-01:30')", True),
        ("duration('1h30m')", Duration.of(5400)), ("duration('-1.5s') == duration('-1500ms')", True),
        ("duration('1h1h') + duration('.5us')", Duration(7_200_000_000_500)), ("duration('1.9ns')", Duration(1)),
        ("duration('0') == duration('-0')", True), ("duration('+1m')", Duration.of(60)),
        ("now - timestamp('2026-11-20T10:00:00Z') == duration('500ms')", True),
        ("now + duration('1h') - now", Duration.of(3600)),
        ("duration('1h') + now > now && now - duration('1h') < now", True),
        ("duration('1m') - duration('90s') < duration('0')", True),
        ("string(now) + string(timestamp('0001-01-01T00:00:00Z'))", "2026-11-20T10:00:00.500Z0001-01-01T00:00:00Z"),
        ("string(timestamp('2026-11-20T10:00:00.1234567899Z'))", "2026-11-20T10:00:00.123456789Z"),
        ("string(duration('1m1ms')) + string(duration('-1h')) + string(duration('1us'))", "60.001s-3600s0.000001s"),
        ("now.getFullYear() * 100 + now.getMonth()", 202610), ("now.getDate() * 100 + now.getDayOfMonth()", 2019),
        ("now.getDayOfWeek() * 1000 + now.getDayOfYear()", 5323), ("now.getHours('Europe/Berlin')", 11),
        ("now.getHours('+05:30') * 100 + now.getMinutes('+05:30')", 1530), ("now.getHours('-09:30')", 0),
        ("now.getHours('02:00')", 12), ("now.getMilliseconds() + now.getSeconds()", 500),
        ("timestamp('2026-07-01T22:30:00Z').getDate('Europe/Berlin')", 2),
        ("timestamp('1960-01-01T00:00:00.25Z').getMilliseconds('Asia/Kolkata')", 250),
        ("timestamp('0001-01-01T00:00:00Z').getFullYear('-02:00')", 0),
        ("timestamp('0001-01-01T00:00:00Z').getHours('America/New_York')", 19),
        ("timestamp('9999-12-31T23:59:59Z').getFullYear('+02:00')", 10000),
        ("timestamp('9999-12-31T23:59:59Z').getDayOfYear('Asia/Tokyo')", 0),
        ("timestamp('2024-12-31T12:00:00Z').getDayOfYear()", 365),
        ("timestamp('2026-03-29T01:00:00Z').getHours('Europe/Berlin')", 3), ("duration('-3730.5s').getHours()", -1),
        ("duration('-3730.5s').getMinutes()", -62), ("duration('-3730.5s').getSeconds()", -3730),
        ("duration('-3730.5s').getMilliseconds()", -500), ("now.getHours(args.zone)", 11),
    ],
)  # fmt: skip
def test_times(text: str, expected: object) -> None:
    """Moments and lengths of time, to the nanosecond, in any time zone."""
    agrees(text, expected)


@pytest.mark.parametrize(
    "text",
    [
        "", "2026-11-20", "2026-11-20T10:00:00", "2026-11-20 10:00:00Z", "2026-11-20T24:00:00Z",
        "2026-11-20T10:00:60Z", "2026-02-29T10:00:00Z", "2026-1-20T10:00:00Z", "2026-11-20T10:00:00.Z",
        "2026-11-20T10:00:00+24:00", "2026-11-20T10:00:00+0200", "2026-11-20T10:00:00+02:60", "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z", "0001-01-01T00:00:00+00:01", f"2026-11-20T10:00:00.{'1' * 60}Z",
        "9999-12-31T23:59:59-00:01", " 2026-11-20T10:00:00Z", "\uff12026-11-20T10:00:00Z",
    ],
)  # fmt: skip
def test_texts_that_are_no_timestamp(text: str) -> None:
    """A text that is no moment of the calendar is an error; as a literal it is a mistake (test_checking.py)."""
    fails(f"timestamp(dyn('{text}'))")


@pytest.mark.parametrize(
    "text", ["", "1", "1d", "h", "1h ", "1e3s", "--1h", "1µs", "inf", "2562048h", ".s", "1h 1m", "0h" * 40]
)
def test_texts_that_are_no_duration(text: str) -> None:
    """A text that is no length of time, or one that is too long, is an error."""
    fails(f"duration(dyn('{text}'))")


@pytest.mark.parametrize(
    "text",
    [
        "timestamp('9999-12-31T23:59:59Z') + duration('1s')", "timestamp('0001-01-01T00:00:00Z') - duration('1ns')",
        "timestamp('9999-12-31T23:59:59Z') - timestamp('0001-01-01T00:00:00Z')",
        "duration('2562047h') + duration('1h')", "duration('-2562047h') - duration('1h')",
        "timestamp(dyn(253402300800))", "timestamp(dyn(-62135596801))", "now.getHours(x)", "now.getHours(string(''))",
        "now.getHours('Nowhere/' + 'Here')", "now.getHours('../' + 'etc/passwd')",
        "now.getHours('/etc/' + 'localtime')", "now.getHours('+24' + ':00')", "now.getHours('+2' + ':00')",
        "now.getHours('utc' + 'x')", "now.getHours('Europe/' + 'berlin')",
    ],
)  # fmt: skip
def test_times_out_of_range(text: str) -> None:
    """Sums beyond the calendar and zones that nobody has are errors; a zone's name never leads out of the zones."""
    fails(text)
