"""What is known of an operation's arguments before anybody calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.core.sources import KeptSources
from gateway.tools.declared import Declared, declared_arguments
from gateway.tools.settings import OperationSettings, ToolSettings

SCHEMA = {"type": "object", "properties": {"id": {}, "amount": {}}, "required": ["amount"]}


def declared(operation: OperationSettings, schema: object = None) -> Declared:
    """Of one operation, with the schema file that it names."""
    tool = ToolSettings(kind="http", base_url="https://x.example", operations={"do": operation})
    sources = KeptSources({"s.json": json.dumps(schema).encode()}, {}, {})
    return declared_arguments({"t": tool}, sources)["t.do"]


@pytest.mark.parametrize(
    ("schema", "required", "closed"),
    [
        (SCHEMA, {"id", "amount"}, False),
        ({**SCHEMA, "additionalProperties": False}, {"id", "amount"}, True),
        ({**SCHEMA, "additionalProperties": {}}, {"id", "amount"}, False),
        ({**SCHEMA, "required": []}, {"id"}, False),
    ],
)
def test_a_schema_declares(schema: object, required: set[str], closed: bool) -> None:  # noqa: FBT001 - a case
    """Required are its required members and the path's variables; others can be where it does not exclude them."""
    operation = OperationSettings(method="POST", path="/x/{id}", query=("page",), arguments=Path("s.json"))
    expected = Declared(frozenset(required), frozenset({"id", "amount", "page"}), closed)
    assert declared(operation, schema) == expected


def test_without_a_schema_only_the_path_is_certain() -> None:
    """A JSON body may hold anything; a raw one has no arguments."""
    operation = OperationSettings(method="POST", path="/x/{id}", query=("page",))
    variable = frozenset({"id"})
    assert declared(operation) == Declared(variable, frozenset({"id", "page"}), closed=False)
    raw = OperationSettings(method="POST", path="/x/{id}", body="raw")
    assert declared(raw) == Declared(variable, variable, closed=True)


@pytest.mark.parametrize("odd", [True, {"required": True, "properties": []}])
def test_an_odd_schema_declares_nothing(odd: object) -> None:
    """What `check` would have refused is not read as if it said something."""
    operation = OperationSettings(method="POST", path="/x", arguments=Path("s.json"))
    assert declared(operation, odd) == Declared(frozenset(), frozenset(), closed=False)
