"""What is known of the arguments of each operation before anybody calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gateway.core.sources import Sources
from gateway.dialects.json_body import JsonLimits, read
from gateway.tools.settings import OperationSettings, ToolSettings
from gateway.tools.template import VARIABLE


class Declared(NamedTuple):
    """The arguments of an operation."""

    required: frozenset[str]  # every call has them
    names: frozenset[str]
    closed: bool  # there can be no others


def declared_arguments(settings: Mapping[str, ToolSettings], sources: Sources) -> dict[str, Declared]:
    """By `server.operation`; of tools without mistakes."""
    return {
        f"{name}.{key}": _declared(operation, sources)
        for name, tool in settings.items()
        for key, operation in tool.operations.items()
    }


def _declared(operation: OperationSettings, sources: Sources) -> Declared:
    """Path variables are always there; the members of a body only by a schema, whose top level is read."""
    variables = frozenset(VARIABLE.findall(operation.path))
    names = variables | frozenset(operation.query)
    if operation.arguments is None:
        return Declared(variables, names, closed=operation.body == "raw")
    schema = read(sources.read(operation.arguments), JsonLimits())
    if not isinstance(schema, dict):
        return Declared(variables, names, closed=False)
    required, properties = schema.get("required"), schema.get("properties")
    return Declared(
        variables | frozenset(required if isinstance(required, list) else ()),
        names | frozenset(properties if isinstance(properties, dict) else ()),
        schema.get("additionalProperties") is False,
    )
