"""The page about conditions is about this compiler: its functions, its limits, its examples."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.policy.cel import BOOL, compile_cel
from gateway.policy.cel.arithmetic import DIGITS
from gateway.policy.cel.automaton import MAX_STATES
from gateway.policy.cel.checker import TYPES
from gateway.policy.cel.functions import FUNCTIONS, METHODS
from gateway.policy.cel.lexer import MAX_TEXT
from gateway.policy.cel.operators import OPERATORS
from gateway.policy.cel.parser import MACROS, MAX_DEPTH, MAX_NODES
from gateway.policy.cel.pattern import MAX_PATTERN
from gateway.policy.cel.values import ITEM, MAX_STEPS, MAX_WORK
from gateway.policy.cel.values import MAX_DEPTH as MAX_VALUE_DEPTH
from gateway.policy.situation import ENVIRONMENT

PAGE = (Path(__file__).parents[3] / "docs/cel.md").read_text()


def section(name: str) -> str:
    """What stands under a heading."""
    return PAGE.split(f"## {name}\n")[1].split("\n## ")[0]


def test_every_function_is_named() -> None:
    """Functions, methods and macros of the compiler, and no others, stand in the tables, called as they are called."""
    told = section("Functions")
    called = set(re.findall(r"`(\w+)\(", told))
    getters = {name for name in called if name.startswith("get")}
    assert called - getters == FUNCTIONS.keys()
    assert set(re.findall(r"`\w\.(\w+)\(", told)) | getters == METHODS.keys()
    assert set(re.findall(r"`l\.(\w+)\(", section("Macros"))) == MACROS.keys()


def test_every_type_and_operator_is_named() -> None:
    """The table of values has all types, that of operators all operators."""
    types = set(re.findall(r"^\| `([\w.]+)`", section("Values"), re.MULTILINE))
    assert types == TYPES.keys() - {"type"} | {"dyn"}
    signs = {name.strip("_@") for name in OPERATORS} - {"[_]", "?_:"}
    told = section("Operators").replace("\\|", "|")
    assert [sign for sign in signs if f"`{sign}`" not in told and f"`{sign}a`" not in told] == []


def test_the_limits_are_the_limits() -> None:
    """Each number of the table is that of the code."""
    told = section("Limits")
    for number in (
        MAX_TEXT,
        MAX_NODES,
        MAX_DEPTH,
        MAX_PATTERN,
        MAX_STATES,
        MAX_STEPS,
        MAX_WORK,
        ITEM,
        MAX_VALUE_DEPTH,
        DIGITS,
    ):
        assert re.search(rf"(?<![\d,]){number:,}(?![\d,])", told), number


def test_the_examples_are_conditions() -> None:
    """Every line of an example is a condition over the facts that rules have."""
    lines = [line for block in re.findall(r"```cel\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert len(lines) == 11
    for line in lines:
        assert compile_cel(line, ENVIRONMENT, expects=BOOL).type == BOOL, line
