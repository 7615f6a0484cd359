"""The conformance tests of the CEL specification, those that ask for what is supported here.

Each is run: the expression compiles to the type that is asked for and gives the very value, or fails where it has to.
What asks for a feature that is not here is counted under it, so that nothing is left out in silence.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from gateway.policy.cel import (
    BOOL,
    BYTES,
    DOUBLE,
    DYN,
    INT,
    NULL,
    STRING,
    UINT,
    CelError,
    CelMistake,
    CelType,
    Environment,
    UInt,
    compile_cel,
    list_of,
    map_of,
)
from gateway.policy.cel.declared import DURATION, TIMESTAMP, type_of
from gateway.policy.cel.values import TypeValue, kind_of

FILES: Final = Path(__file__).parents[2] / "vectors/cel"
Case: TypeAlias = dict[str, Any]

_MESSAGES = re.compile(r"[A-Z]\w*\s*(//.*\s*)?\{|object_value|message_type|TestAllTypes|google\.protobuf\.Value")
_STRINGS = re.compile(r"\.(charAt|indexOf|lastIndexOf|replace|split|substring|join|format|reverse)\(|strings\.quote")
LACKS: Final[dict[str, Callable[[Case], object]]] = {
    "messages": lambda case: _MESSAGES.search(json.dumps(case)),
    "optional values": lambda case: "optional" in json.dumps(case),
    "other string functions": lambda case: _STRINGS.search(case["expr"]),
    "names with dots": lambda case: any("." in name for name in [*_named(case, "type_env"), *_named(case, "bindings")]),
    "functions of the host": lambda case: any("function" in entry for entry in case.get("type_env", [])),
}
"""What is not supported here, and how a test shows that it asks for it."""

UNCHECKED: Final = "running without types"
"""Tests that run what the type checker refuses: here everything is checked."""

COUNTS: Final = {
    "basic": {"ran": 41, UNCHECKED: 2},
    "comparisons": {"ran": 330, "messages": 72, UNCHECKED: 4},
    "conversions": {"ran": 109},
    "fields": {"ran": 55, "names with dots": 5},
    "fp_math": {"ran": 30},
    "integer_math": {"ran": 64},
    "lists": {"ran": 39},
    "logic": {"ran": 25, UNCHECKED: 5},
    "macros": {"ran": 44},
    "parse": {"ran": 176, "messages": 26, UNCHECKED: 17},
    "plumbing": {"ran": 5},
    "string": {"ran": 51},
    "string_ext": {"ran": 11, "messages": 3, "other string functions": 202},
    "timestamps": {"ran": 77, "messages": 1},
    "type_deduction": {"ran": 15, "messages": 21, "optional values": 6, "functions of the host": 5},
}

_SCALARS: Final[dict[str, Callable[[Any], object]]] = {
    "null_value": lambda _: None,
    "bool_value": bool,
    "int64_value": int,
    "uint64_value": UInt,
    "double_value": float,
    "string_value": str,
    "bytes_value": base64.b64decode,
    "type_value": TypeValue,
}
_TYPES: Final = {
    "BOOL": BOOL, "INT64": INT, "UINT64": UINT, "DOUBLE": DOUBLE, "STRING": STRING, "BYTES": BYTES,
    "TIMESTAMP": TIMESTAMP, "DURATION": DURATION,
}  # fmt: skip


def _named(case: Case, what: str) -> list[str]:
    return [entry.get("name") or entry.get("key") for entry in case.get(what, [])]


def value_of(tagged: Case) -> object:
    """A value that a test gives or asks for."""
    ((tag, value),) = tagged.items()
    if tag == "list_value":
        return [value_of(item) for item in value.get("values", [])]
    if tag == "map_value":
        return {value_of(entry["key"]): value_of(entry["value"]) for entry in value.get("entries", [])}
    return _SCALARS[tag](value)


def type_named(tagged: Case) -> CelType:
    """A type that a test declares or asks for."""
    ((tag, named),) = tagged.items()
    match tag:
        case "primitive" | "well_known":
            return _TYPES[named]
        case "list_type":
            return list_of(type_named(named["elem_type"]) if named else DYN)
        case "map_type":
            return map_of(type_named(named["key_type"]), type_named(named["value_type"]))
        case "type":
            return type_of(type_named(named) if named else DYN)
    return {"null": NULL, "dyn": DYN}[tag]


def same(got: object, asked: object) -> bool:
    """Whether two values are of one type and equal; not-a-number is itself here, and -0.0 is not 0.0."""
    if kind_of(got) != kind_of(asked):
        return False
    if isinstance(got, float) and isinstance(asked, float):
        return repr(got) == repr(asked)
    if isinstance(got, list) and isinstance(asked, list):
        return len(got) == len(asked) and all(map(same, got, asked))
    if isinstance(got, dict) and isinstance(asked, dict):
        return got.keys() == asked.keys() and all(same(value, asked[key]) for key, value in got.items())
    return got == asked


def outcome(case: Case) -> str:
    """What a test is counted as: that it ran as it should, what it lacks, or how it failed."""
    lacks = [name for name, asks in LACKS.items() if asks(case)]
    if lacks:
        return lacks[0]
    fails, typed = "eval_error" in case, case.get("typed_result", {})
    names = {entry["name"]: type_named(entry["ident"]["type"]) for entry in case.get("type_env", [])}
    facts = {entry["key"]: value_of(entry["value"]["value"]) for entry in case.get("bindings", [])}
    try:
        program = compile_cel(case["expr"], Environment(names))
        if typed and program.type != type_named(typed["deduced_type"]):
            return f"{case['name']} is a {program.type}"
        got = None if case.get("check_only") else program.evaluate(facts)
    except CelMistake as mistake:
        return "ran" if fails else UNCHECKED if case.get("disable_check") else f"{case['name']}: {mistake}"
    except CelError as error:
        return "ran" if fails else f"{case['name']}: {error}"
    asked = value_of(case.get("value") or typed.get("result") or {"bool_value": True})
    return "ran" if not fails and (case.get("check_only") or same(got, asked)) else f"{case['name']} gave {got!r}"


@pytest.mark.parametrize("name", COUNTS)
def test_the_specification(name: str) -> None:
    """All tests of a file pass, but for those that ask for what is not supported, which are counted."""
    cases = json.loads((FILES / f"{name}.json").read_text())
    assert Counter(map(outcome, cases)) == COUNTS[name]


def test_every_file_is_run() -> None:
    """No file of vectors lies there unread."""
    assert {path.stem for path in FILES.iterdir()} == COUNTS.keys()


def test_the_comparison_of_results_tells_them_apart() -> None:
    """What is equal in Python and different in CEL is different here."""
    pairs = ((1, True), (1, 1.0), (1, UInt(1)), (0.0, -0.0), ([1], [True]), ({"a": 1}, {"a": 1.0}), ("a", b"a"))
    assert not any(same(*pair) for pair in pairs)
    assert same(math.nan, math.nan)
    assert same([{"a": [1]}], [{"a": [1]}])
