"""JSON Schemas of arguments."""

from __future__ import annotations

import json

import pytest

from gateway.core.errors import Refusal
from gateway.tools.schema import MAX_SCHEMA_BYTES, SchemaError, compile_schema
from tests.simulator.canned import canned_upstream
from tests.tools.payments import CHARGE_SCHEMA, read, tools

GOOD = {"order_id": "A1", "amount": 100, "currency": "EUR"}


def refusal_for(args: dict[str, object]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        compile_schema(json.dumps(CHARGE_SCHEMA).encode()).check(args)
    return caught.value


def test_good_arguments_pass() -> None:
    """Arguments that the schema accepts become a call."""
    assert read(tools.find("payments", "POST", "/charge"), json.dumps(GOOD).encode()).args == GOOD


def test_wrong_arguments_never_become_a_call() -> None:
    """A request whose arguments the operation's schema refuses ends while it is read."""
    with pytest.raises(Refusal, match="arguments_invalid"):
        read(tools.find("payments", "POST", "/charge"), json.dumps(GOOD | {"amount": "100"}).encode())


@pytest.mark.parametrize(
    ("change", "pointer", "expected", "got"),
    [
        ({"amount": "100"}, "/amount", "an integer", "a string of 3 characters"),
        ({"amount": 1.5}, "/amount", "an integer", "a number"),
        ({"amount": 0}, "/amount", "another value (the value is less than the minimum of 1)", "an integer"),
        ({"currency": "GBP"}, "/currency", 'one of ["EUR", "USD"]', "a string of 3 characters"),
        ({"currency": None}, "/currency", 'one of ["EUR", "USD"]', "null"),
        ({"extra/~": 1}, "/extra~1~0", "no such argument", "one"),
        ({"order_id": ["A1"]}, "/order_id", "a string", "an array of 1"),
    ],
)
def test_wrong_argument_is_pointed_at(change: dict[str, object], pointer: str, expected: str, got: str) -> None:
    """A wrong argument is named by its JSON pointer, with what was expected and what kind of thing came."""
    refusal = refusal_for(GOOD | change)
    assert (refusal.code, refusal.status) == ("arguments_invalid", 422)
    assert refusal.fields == {"pointer": pointer, "expected": expected, "got": got}
    assert pointer in refusal.sentence


def test_missing_argument_is_pointed_at() -> None:
    """What is missing is named where it should stand."""
    refusal = refusal_for({"order_id": "A1", "amount": 1})
    assert refusal.fields == {"pointer": "/currency", "expected": "a value", "got": "nothing"}


def test_values_are_never_quoted() -> None:
    """S18: an argument may be a secret, so no value gets into a refusal, whatever keyword refuses it."""
    canary = "canary-5021"
    schema = {
        "properties": {
            "a": {"type": "integer"}, "b": {"format": "email"}, "c": {"pattern": "^x$"}, "d": {"maxLength": 2},
            "e": {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "f": {"not": {"type": "string"}}, "g": False,
            "h": {"enum": [1]}, "i": {"const": 1}, "j": {"uniqueItems": True}, "k": {"contains": {"type": "integer"}},
            "l": {"propertyNames": {"maxLength": 2}},
        }
    }  # fmt: skip
    compiled = compile_schema(json.dumps(schema).encode())
    for name in schema["properties"]:
        value: object = {"j": [canary, canary], "k": [canary], "l": {canary: 1}}.get(name, canary)
        if name == "b":
            continue  # formats are annotations in 2020-12
        with pytest.raises(Refusal) as caught:
            compiled.check({name: value})
        assert canary not in f"{caught.value} {caught.value.fields} {caught.value.detail}"


async def test_remote_reference_is_never_fetched() -> None:
    """S15: a `$ref` to another place is a mistake at load, and that place hears nothing of it."""
    async with canned_upstream() as upstream:
        for schema in (
            {"$ref": f"{upstream.url}/schema.json"},
            {"$id": f"{upstream.url}/a", "properties": {"x": {"$ref": "b"}}},
            {"$dynamicRef": f"{upstream.url}/schema.json"},
            {"$schema": f"{upstream.url}/meta"},
            {"properties": {"x": {"$ref": "file:///etc/hostname"}}},
            {"properties": {"x": {"$ref": "other.json"}}},
        ):
            with pytest.raises(SchemaError):
                compile_schema(json.dumps(schema).encode())
        assert upstream.requests == []


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"not json", b'{"type": "objekt"}', b'{"pattern": "("}', b'{"type": "object", "type": "array"}',
        b'{"$schema": "http://json-schema.org/draft-07/schema#"}', b'{"$ref": "#/nowhere"}', b"[" * 100_000,
        b"{}" + b" " * MAX_SCHEMA_BYTES, b"\xff",
    ],
)  # fmt: skip
def test_unusable_schema_is_a_mistake(data: bytes) -> None:
    """A schema that is no JSON Schema 2020-12, or too large, is a mistake at load with a sentence."""
    with pytest.raises(SchemaError, match="schema"):
        compile_schema(data)


@pytest.mark.parametrize("pattern", [r"(a)\1", r"^(?=a)(a+)+$", r"(?<=a)b", "(x{1000}){1000}"])
def test_pattern_that_could_run_away_is_a_mistake(pattern: str) -> None:
    """S19: patterns are for a linear-time engine; one that needs backtracking or much memory is refused at load."""
    with pytest.raises(SchemaError, match="cannot be used"):
        compile_schema(json.dumps({"properties": {"x": {"pattern": pattern}}}).encode())


def test_hostile_array_is_refused_at_its_first_mistake() -> None:
    """P3: of 200,000 wrong elements only the first is reported; collecting all would hold everybody up."""
    compiled = compile_schema(json.dumps({"properties": {"x": {"items": {"type": "integer"}}}}).encode())
    with pytest.raises(Refusal) as caught:
        compiled.check({"x": ["no"] * 200_000})
    assert caught.value.fields["pointer"] == "/x/0"
