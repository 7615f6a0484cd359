"""Hostile texts and hostile facts: there is an answer soon, and nothing is touched but what was asked for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.cel import BOOL, DYN, INT, STRING, CelError, CelMistake, Environment, compile_cel, map_of
from gateway.policy.cel.errors import OutOfBudget
from gateway.policy.cel.lexer import MAX_TEXT
from gateway.policy.cel.parser import MAX_DEPTH
from gateway.policy.cel.values import MAX_STEPS
from tests.identity.mutants import Cases
from tests.policy.cel.expressions import VARIABLES, Maker

ENVIRONMENT: Final = Environment({"args": map_of(STRING, DYN), "n": INT})
PIECES: Final = (
    "args", ".", "a", "n", "(", ")", "[", "]", "{", "}", ",", ":", "?", "+", "-", "!", "&&", "||", "==", "<", "in",
    "1", "1u", "1.5", "'a'", "b'a'", "null", "true", "has", "size", "all", "exists", "map", "matches", "(x, ", "\\",
    '"', "'''", "`a`", " ", "//", "0x", "1e", "google", "protobuf", "Timestamp", "for", "\n", "é", "\x00", "decimal",
    "type", "dyn",
)  # fmt: skip


@pytest.fixture(scope="module")
def huge() -> dict[str, object]:
    """Arguments as an agent may send them: long texts, long lists, many names."""
    numbers = list(range(200_000))
    named = dict.fromkeys(map(str, numbers), 0)
    return {
        "big": "a" * 2_000_000, "other": "a" * 5_000_000, "bytes": b"a" * 3_000_000,
        "text": "a" * 2000, "same": "".join(["a"] * 2000),
        "l": numbers, "l2": [*numbers], "m": named, "m2": {**named},
        "s": numbers[:120], "p": numbers[:9000], "p2": numbers[:9000],
    }  # fmt: skip


def gives_up(text: str, args: dict[str, object]) -> None:
    """The expression compiles, and its evaluation is given up."""
    program = compile_cel(text, ENVIRONMENT)
    with pytest.raises(OutOfBudget):
        program.evaluate({"args": args, "n": 1})


@settings(max_examples=300, deadline=None)
@given(st.text() | st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_any_text_compiles_or_is_a_mistake(text: str) -> None:
    """Whatever the text, the answer is a program or a mistake at a place in it; a program has a value or an error."""
    place = 0
    try:
        compile_cel(text, ENVIRONMENT).evaluate({"args": {"a": [1, {"a": "a"}]}, "n": 1})
    except CelMistake as mistake:
        place = mistake.position
    except CelError:
        pass
    assert 0 <= place <= len(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000 + "1" + ")" * 5000, "(" * 2000, "[" * 2000, "{1: " * 1000, "!" * 4000 + "true", "-" * 4000 + "n",
        "n" + ".a" * 2000, "args" + ".a" * 40, "args" + "[0]" * 1000, "true ? 1 : " * 300 + "1", "size(" * 700,
        "1" + "+1" * 2000, "1" + " == 1" * 700, "args.all(x, " * 300, "has(" * 900, "'" + "a" * 5000, "x" * 5000,
        "1" * 5000, "a" * 1_000_000, "(" * 1_000_000, "\\" * 1_000_000, "'" * 4096, "b" * 4095 + "'", "1u" * 2000,
        "[" + "1," * 1100 + "]", "//" + " " * 5000, "0x" + "f" * 4000, "1e" + "9" * 4000 + "x",
    ],
)  # fmt: skip
def test_texts_without_end(text: str) -> None:
    """Deep, long and endless texts are mistakes."""
    with pytest.raises(CelMistake):
        compile_cel(text, ENVIRONMENT)


def test_what_the_specification_asks_for_fits() -> None:
    """Expressions of the size that each implementation has to take are taken, and 32 levels of each kind of nesting."""
    assert compile_cel(" || ".join(["n == 2"] * 100 + ["true"]), ENVIRONMENT).evaluate({"n": 1}) is True
    assert compile_cel("(" * MAX_DEPTH + "n" + ")" * MAX_DEPTH, ENVIRONMENT).evaluate({"n": 1}) == 1
    assert compile_cel("!" * MAX_DEPTH + "true", ENVIRONMENT).evaluate({}) is True
    assert compile_cel("true ? 1 : " * 24 + "1", ENVIRONMENT).evaluate({}) == 1
    assert compile_cel("1" + " + 1" * MAX_DEPTH, ENVIRONMENT).evaluate({}) == 1 + MAX_DEPTH
    assert compile_cel(" " * (MAX_TEXT - 1) + "1", ENVIRONMENT).evaluate({}) == 1
    with pytest.raises(CelMistake, match="longer than 4096 characters"):
        compile_cel(" " * MAX_TEXT + "1", ENVIRONMENT)
    deep = "[1].all(x, " * 12 + "true" + ")" * 12
    assert compile_cel(deep, ENVIRONMENT).evaluate({}) is True


@pytest.mark.parametrize(
    "text",
    [
        "args.l.all(x, x >= 0)", "args.l.exists(x, x < 0)", "args.l.exists_one(x, x < 0)",
        "size(args.l.map(x, x)) > 0", "size(args.l.filter(x, true)) > 0",
        "args.l.all(x, args.l.all(y, args.l.all(z, x >= 0)))", "args.m.all(k, k != '')",
        "args.s.all(x, args.s.all(y, args.s.all(z, true)))",
        "args.s.map(x, args.s.map(y, x)).all(z, z.all(w, args.s.all(v, true)))",
    ],
)  # fmt: skip
def test_comprehensions_have_steps(text: str, huge: dict[str, object]) -> None:
    """P4: however comprehensions are nested, and however long the lists that an agent sends, 10,000 steps are all."""
    gives_up(text, huge)


def test_steps_are_counted_one_by_one() -> None:
    """P4: exactly so many steps are taken; nested ones count together."""
    program = compile_cel("args.l.all(x, x >= 0)", ENVIRONMENT)
    assert program.evaluate({"args": {"l": [0] * MAX_STEPS}}) is True
    with pytest.raises(OutOfBudget):
        program.evaluate({"args": {"l": [0] * (MAX_STEPS + 1)}})
    nested = compile_cel("args.l.all(x, args.l.all(y, true))", ENVIRONMENT)
    assert nested.evaluate({"args": {"l": [0] * 99}}) is True
    with pytest.raises(OutOfBudget):
        nested.evaluate({"args": {"l": [0] * 100}})
    assert program.evaluate({"args": {"l": [-1] * 1_000_000}}) is False  # an end that is found early is an end


@pytest.mark.parametrize(
    "text",
    [
        "args.big.contains('x') || args.big.contains('y') || args.big.contains('z')",
        "args.big + args.big + args.big == ''", "args.big.matches('b')",
        "args.big > args.other || args.big > args.other || args.big > args.other",
        "args.big.lowerAscii().upperAscii().trim() == ''", "size(bytes(args.big)) + size(string(args.bytes)) > 0",
        "-1 in args.l", "args.l == args.l2", "args.l + args.l2 == []", "args.m == args.m2",
        "args.p.map(x, args.text + args.text).size() > 0", "args.p.exists(x, args.text.contains('x'))",
        "args.p.all(x, args.text == args.same)", "args.p.all(x, args.text <= args.same)",
        "args.p.all(x, size([x, x, x, x, x, x, x, x, x, x, x, x, x, x]) > 0)", "args.p.all(x, args.p == args.p2)",
        "args.p.all(x, size({'a': [x, x, x, x, x, x, x, x, x, x, x, x, x], 'b': x}) > 0)",
        "args.p.all(x, !args.text.matches('^(a|aa)*b'))", "args.p.all(x, args.text.startsWith(args.same))",
        "args.p.all(x, args.text.endsWith(args.same))",
        "args.p.exists(x, timestamp(x).getHours('Nowhere/' + string(x)) > 0)",
        "timestamp(n).getHours(args.other) > 0", "args.p.all(x, args.text.trim() != '')",
    ],
)  # fmt: skip
def test_work_has_an_end(text: str, huge: dict[str, object]) -> None:
    """P4: looking at and making more than a few million characters or a hundred thousand items is given up."""
    gives_up(text, huge)


def test_giving_up_is_final(huge: dict[str, object]) -> None:
    """P4: no operator ignores that an evaluation was given up, unless another one decided before."""
    long = {"args": huge}
    for text in (
        "args.l.all(x, true) || true", "[1].exists(y, args.l.all(x, true)) || true",
        "[0, 1].all(y, args.l.all(x, true)) && false", "[1, 2].exists(y, y == 2 || args.l.all(x, true))",
        "-1 in args.l || true", "[0, 1].exists(y, y == 1 ? true : -1 in args.l)",
        "[0, 1].all(y, y == 1 ? false : -1 in args.l)",
    ):  # fmt: skip
        with pytest.raises(OutOfBudget):
            compile_cel(text, ENVIRONMENT).evaluate(long)
    assert compile_cel("true || args.l.all(x, true)", ENVIRONMENT).evaluate(long) is True


def test_values_nested_without_end() -> None:
    """Comparing and returning values that are nested 5,000 deep is given up, and reading beside them is not."""
    deep: object = []
    other: object = []
    for _ in range(5000):
        deep, other = [deep], [other]
    facts = {"args": {"a": deep, "b": other, "n": 1}}
    for text in ("args.a == args.b", "args.a in [args.b]", "{'x': args.a}"):
        with pytest.raises(OutOfBudget):
            compile_cel(text, ENVIRONMENT).evaluate(facts)
    assert compile_cel("args.n == 1 && size(args.a) == 1", ENVIRONMENT).evaluate(facts) is True


class Untouchable(dict[str, object]):
    """Arguments that may only be asked for the names that a rule names."""

    def _touched(self, *_: object) -> NoReturn:
        raise AssertionError("somebody looked at all arguments")

    __iter__ = __len__ = __contains__ = keys = values = items = get = copy = _touched


def test_what_is_not_named_is_not_touched() -> None:
    """P3: an evaluation asks the arguments for the names in the rule, and looks at nothing else."""
    program = compile_cel(
        'args.amount <= 1000000 && args.currency in ["EUR", "USD"] && !has(args.more)', ENVIRONMENT, expects=BOOL
    )
    args = Untouchable(amount=5, currency="EUR", huge=Untouchable())
    assert program.evaluate({"args": args}) is True
    args["amount"] = 2_000_000
    assert program.evaluate({"args": args}) is False
    assert [clause.value for clause in program.explain({"args": args})] == [False, True, True]


def wrong_facts(rng: random.Random, maker: Maker) -> Iterator[dict[str, object]]:
    """Facts in which most names have a value of another one's type."""
    while True:
        facts = maker.facts()
        values = list(facts.values())
        rng.shuffle(values)
        yield dict(zip(facts, values, strict=True))


@pytest.mark.soak
def test_facts_of_any_type_are_judged() -> None:
    """Whatever the facts are, an expression has a value or an error, within its budgets."""
    cases, environment = Cases("expressions with wrong facts", short=400, long=20_000), Environment(VARIABLES)
    maker = Maker(cases.rng)
    facts = wrong_facts(cases.rng, maker)
    for _ in cases:
        try:
            program = compile_cel(maker.expression(), environment)
            program.evaluate(next(facts))
        except CelMistake:
            cases.counts["mistakes"] += 1
        except CelError:
            cases.counts["errors"] += 1
        else:
            cases.counts["values"] += 1
    assert min(cases.counts["errors"], cases.counts["values"]) > 80
