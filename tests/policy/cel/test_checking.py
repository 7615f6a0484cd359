"""What is found at load: mistakes with place and remedy, types, what is read; and why an expression failed."""

from __future__ import annotations

import pytest

from gateway.policy.cel import (
    BOOL,
    DECIMAL,
    DOUBLE,
    DYN,
    INT,
    STRING,
    TIMESTAMP,
    CelError,
    CelMistake,
    CelType,
    Environment,
    Timestamp,
    compile_cel,
    list_of,
    map_of,
    object_of,
)

AGENT = object_of("agent", {"id": STRING, "team": STRING, "owner": STRING, "tags": map_of(STRING, STRING)}, ["owner"])
STEP = object_of("attestation", {"step": STRING, "at": TIMESTAMP})
ENVIRONMENT = Environment(
    {
        "agent": AGENT, "args": map_of(STRING, DYN), "now": TIMESTAMP, "spend": DECIMAL, "share": DOUBLE, "depth": INT,
        "attestations": list_of(STEP),
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("agent.teem == 'a'", "teem", "agent has no member teem; did you mean team?"),
        ("agent.x == 'a'", "x", "agent has no member x; its members are id, owner, tags, team"),
        ("agnt.team", "agnt", "there is no agnt here; did you mean agent?"),
        ("depth.x", "x", "depth is of type int, which has no members"),
        ("attestations.exists(a, a.stepp == 'x')", "stepp", "a has no member stepp; did you mean step?"),
        ("attestations.step", "step", "attestations is of type list(attestation), which has no members"),
        ("sise(args.a) > 1", "sise", "there is no function sise; did you mean size?"),
        ("args.a.startswith('x')", "startswith", "there is no function startswith; did you mean startsWith?"),
        ("contains(args.a, 'x')", "contains", "contains is not called like this; write x.contains()"),
        ("'1'.int()", "int", "int is not called like this; write int(x)"),
        ("depth + '1'", "+", "+ does not take (int, string); it takes (int, int) or (uint, uint) or"),
        ("agent.id == 5", "==", "== does not take (string, int)"),
        ("depth == 1.0", "==", "== does not take (int, double); compare values of one type, with int()"),
        ("args.a.map(x)", "map", "map is not called like this; write .map(x, condition, value)"),
        ("agent.owner == null", "==", "what is of type string is never null; ask has() whether a member is there"),
        ("spend < 1.5", "<", "a decimal never meets a double, which cannot hold most amounts exactly; write decimal("),
        ("spend * share", "*", "a decimal never meets a double"),
        ("decimal(1.5)", "decimal", "a decimal never meets a double"),
        ("spend / 2", "/", "/ does not take (decimal, int)"),
        ("agent.id in 'abc'", "in ", "in does not take (string, string)"),
        ("agent['id']", "[", "[] does not take (agent, string); a list takes an int, a map a key, and of other things"),
        ("depth ? 1 : 2", "?", "? : does not take (int, int, int)"),
        ("true ? 1 : 'a'", "?", "? : does not take (bool, int, string)"),
        ("agent.id && true", "id", "an operand of && has to be a bool, and this is of type string; compare it"),
        ("attestations.all(a, a.step)", "step", "the condition of all has to be a bool, and this is of type string"),
        ("agent.all(a, true)", "all", "agent is of type agent, and all takes a list or a map"),
        ("{1.5: 2}", "1.5", "a key of a map cannot be of type double; write a string"),
        ("has(args)", "has", "has() asks for one member"),
        ("has(args['a'])", "has", "has() asks for one member"),
        ("args.a.all(1, true)", "1", "the first argument of all is the name of a variable"),
        ("args.a.exists(x)", "exists", "exists is not called like this; write .exists(x, condition)"),
        ("now.getHours('Berlin')", "'B", "the time zone is not known here, where names are as Europe/Berlin"),
        ("timestamp('today') < now", "'t", "the text is no timestamp such as 2026-11-20T10:00:00Z"),
        ("now - now < duration('5 minutes')", "'5", "the text is no duration such as 1h30m"),
        ("spend < decimal('1,50')", "'1", "the text is no decimal such as 12.50"),
        ("args.a.matches(args.b)", "b)", "the pattern of matches() has to stand in the expression"),
        ("args.a.matches('(')", "'(", "the pattern has a ( without a )"),
        ("a = 1", "=", "unexpected character =; write == to compare"),
        ("args.a & 1", "&", "unexpected character &; write &&"),
        ("depth > 1 and true", "and", "unexpected and; write &&"),
        ("not true", "true", "unexpected true"),
        ("depth >", "", "the expression ends too early; here is place for a value"),
        ("", "", "the expression ends too early"),
        ("(1", "", "the expression ends too early; here is place for a )"),
        ("[1, 2", "", "the expression ends too early; here is place for a comma or ]"),
        ("size(1,)", ")", "unexpected ); here is place for a value"),
        ("{1}", "}", "unexpected }; here is place for the : between key and value"),
        ("'abc", "'a", "the string does not end; close it with '"),
        ("'a\nb'", "'a", "the string does not end"),
        (r"'\d'", "\\", r"\d is no escape; write \\ for a backslash, or a raw string r'\d'"),
        (r"'\ud800'", "\\", r"\ud800 is no Unicode character"),
        (r"b'\u00e9'", "\\", r"\u00e9 cannot stand in bytes"),
        ("9223372036854775808", "9", "the number does not fit into 64 bits"),
        ("18446744073709551616u", "18", "the number does not fit into 64 bits"),
        ("for > 1", "for", "for is a reserved word"),
        ("args.in", "in", "unexpected in; here is place for a name; other keys are written with brackets"),
        ("Message{a: 1}", "Message", "messages are not supported; write a map"),
        ("args.?a", "?", "unexpected ?"),
        ("1; 2", ";", "unexpected character ;; an expression has no statements"),
        ("\x00", "\x00", "unexpected character U+0000"),
    ],
)  # fmt: skip
def test_mistakes(text: str, place: str, said: str) -> None:
    """A mistake says where it is, what is wrong, and what to do."""
    with pytest.raises(CelMistake) as caught:
        compile_cel(text, ENVIRONMENT)
    assert str(caught.value).startswith(said)
    expected = text.rindex(place) if place else len(text)
    assert caught.value.position == expected, str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("depth", INT), ("depth + 1", INT), ("args.a", DYN), ("args.a + 1", DYN), ("args.a < 1", BOOL),
        ("-args.a", DYN), ("spend * 2", DECIMAL), ("[1, 2]", list_of(INT)), ("[1, 'a']", list_of(DYN)),
        ("[]", list_of(DYN)), ("[] + [1]", list_of(INT)), ("[[], [1]]", list_of(list_of(INT))),
        ("{'a': 1}", map_of(STRING, INT)), ("attestations.map(a, a.at)", list_of(TIMESTAMP)),
        ("attestations.filter(a, true)", list_of(STEP)), ("attestations[0]", STEP), ("agent.tags.env", STRING),
        ("true ? args.a : 'x'", DYN), ("true ? [] : [1]", list_of(INT)), ("depth < 1.5", BOOL),
        ("type(1)", CelType("type", (INT,))), ("args.a[0]", DYN), ("[args.a[0], 1]", list_of(DYN)),
        ("true ? args.a[0] : 1", DYN), ("[[][0], 1]", list_of(INT)),
    ],
)  # fmt: skip
def test_types(text: str, expected: CelType) -> None:
    """The type of an expression is known as far as its parts are."""
    assert compile_cel(text, ENVIRONMENT).type == expected


def test_an_expected_type() -> None:
    """What has to be a bool is one: at load where that is known, else when the value is there."""
    with pytest.raises(CelMistake, match="the expression is of type int, and has to be of type bool"):
        compile_cel("depth + 1", ENVIRONMENT, expects=BOOL)
    with pytest.raises(CelMistake):
        compile_cel("agent.id", ENVIRONMENT, expects=BOOL)
    program = compile_cel("args.a", ENVIRONMENT, expects=BOOL)
    assert program.evaluate({"args": {"a": True}}) is True
    for other in (1, "true", None, [True], 1.0):
        with pytest.raises(CelError, match="and not of bool"):
            program.evaluate({"args": {"a": other}})
    assert compile_cel("args.a", ENVIRONMENT, expects=DYN).evaluate({"args": {"a": "x"}}) == "x"


def test_facts_of_another_type_than_declared_do_no_harm() -> None:
    """A value that is not of its declared type is judged by the type that it has."""
    program = compile_cel("depth <= 5 && agent.id == 'a'", ENVIRONMENT, expects=BOOL)
    for depth in ("1", None, [1], True, object(), b"1"):
        with pytest.raises(CelError):
            program.evaluate({"depth": depth, "agent": {"id": "a"}})
    with pytest.raises(CelError):
        program.evaluate({"depth": 1, "agent": "a"})
    with pytest.raises(CelError, match="has no type in CEL"):
        program.evaluate({"depth": 1, "agent": {"id": {1, 2}}})
    with pytest.raises(CelError, match="agent has no id"):
        program.evaluate({"depth": 1, "agent": {}})
    with pytest.raises(CelError, match="there is no agent"):
        program.evaluate({"depth": 1})


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("args.a.b == 1 && args['c d'].e > 2", {("args", "a", "b"), ("args", "c d", "e")}),
        ("has(agent.owner) && agent.owner == 'x'", {("agent", "owner")}),
        ("attestations.exists(a, a.step == args.step)", {("attestations",), ("args", "step")}),
        ("args.items.all(i, i.n < depth)", {("args", "items"), ("depth",)}),
        ("args.items[depth].n + args.items[0].n", {("args", "items"), ("depth",)}),
        ("size(args) > 1 && 'a' in args", {("args",)}),
        ("[1].all(args, args == 1) && type(1) == int", set()),
        ("[1].all(args, .args.a == 1)", {("args", "a")}),
        (
            "{agent.id: spend}[agent.team] > depth ? now : timestamp(0)",
            {("agent", "id"), ("spend",), ("agent", "team"), ("depth",), ("now",)},
        ),
    ],
)  # fmt: skip
def test_what_is_read(text: str, reads: set[tuple[str, ...]]) -> None:
    """All paths that an expression can read are known at load, whichever it takes at run time."""
    assert compile_cel(text, ENVIRONMENT).reads == reads


def test_what_is_always_there() -> None:
    """A path is certain unless it leads over an optional member or into a map."""
    certain = [("agent",), ("agent", "id"), ("agent", "tags"), ("now",)]
    assert all(map(ENVIRONMENT.certain, certain))
    assert not any(
        map(ENVIRONMENT.certain, [("agent", "owner"), ("agent", "tags", "env"), ("args", "a"), ("nothing",)])
    )


class Lazy(dict[str, object]):
    """Facts whose members are made when they are asked for."""

    def __init__(self) -> None:
        """Nobody has asked yet."""
        super().__init__()
        self.asked: list[str] = []

    def __missing__(self, name: str) -> object:
        self.asked.append(name)
        if name == "owner":
            raise KeyError(name)
        return {"agent": self, "id": "a", "tags": {"env": "prod"}}[name]


def test_facts_are_asked_for_when_they_are_needed() -> None:
    """What an expression does not come to is never asked for."""
    facts = Lazy()
    assert compile_cel("has(agent.owner) || agent.id == 'a' || agent.team == 'b'", ENVIRONMENT).evaluate(facts) is True
    assert facts.asked == ["agent", "owner", "agent", "id"]


def test_why() -> None:
    """An explanation has each operand, what it gives, and the values that it read, shortened."""
    program = compile_cel(
        'args.amount <= 100 && (agent.owner == "x" || depth > 1) && size(args.list) == 2', ENVIRONMENT
    )
    facts = {"args": {"amount": 250, "list": [1, 2]}, "agent": {"id": "a"}, "depth": 1}
    amount, either, size = program.explain(facts)
    assert amount == ("args.amount <= 100", False, "", ((("args", "amount"), "250"),))
    assert either.text == '(agent.owner == "x" || depth > 1)'
    assert (either.value, either.error) == (None, "agent has no owner")
    assert either.read == ((("agent", "owner"), "missing"), (("depth",), "1"))
    assert (size.value, size.read) == (True, ((("args", "list"), "a list of 2"),))
    (whole,) = compile_cel("args.text == now", Environment({"args": DYN, "now": DYN})).explain(
        {"args": {"text": "x" * 1000}, "now": Timestamp(0)}
    )
    assert whole.read == ((("args", "text"), f"'{'x' * 60}'…"), (("now",), "1970-01-01T00:00:00Z"))


def test_a_program_is_of_its_text() -> None:
    """A program knows its text; one program serves any number of facts, and keeps nothing of them."""
    program = compile_cel("[depth].map(x, x + args.n)", ENVIRONMENT)
    assert program.text == "[depth].map(x, x + args.n)"
    assert [program.evaluate({"depth": n, "args": {"n": 1}}) for n in range(3)] == [[1], [2], [3]]
    constant = compile_cel("[1, 2]", ENVIRONMENT)
    found = constant.evaluate({})
    assert isinstance(found, list)
    found.append(3)
    assert constant.evaluate({}) == [1, 2]
