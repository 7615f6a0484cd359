"""JSON Schema (2020-12) of settings dataclasses, for editors: from the same shapes that the binder reads."""

from __future__ import annotations

import inspect
from typing import Any, Final

from gateway.settings.shapes import (
    Anything,
    Choice,
    Either,
    FilePath,
    Flag,
    Formed,
    Hidden,
    ListOf,
    MapOf,
    Record,
    Shape,
    field_docs,
    members,
    not_built,
)

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def schema(cls: type, title: str) -> dict[str, Any]:
    """The schema of a file that holds one `cls`; each dataclass is one definition."""
    definitions: dict[str, dict[str, Any]] = {}
    _record(cls, definitions)
    root = definitions.pop(cls.__name__)
    return {"$schema": DIALECT, "title": title, **root, "$defs": dict(sorted(definitions.items()))}


def _record(cls: type, definitions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A reference to the definition of a dataclass, made at its first use."""
    if cls.__name__ not in definitions:
        docs = field_docs(cls)
        properties: dict[str, Any] = {}
        definitions[cls.__name__] = {
            "description": inspect.cleandoc(cls.__doc__ or ""),
            "type": "object",
            "additionalProperties": False,
            "required": [member.key for member in members(cls).values() if member.required],
            "properties": properties,
        }
        for key, member in members(cls).items():
            properties[key] = {"description": docs.get(member.name, ""), **_shape(member.shape, definitions)}
        for key, sentence in not_built(cls).items():
            properties[key] = {"description": f"Not built yet: {sentence}.", "enum": [None, False]}
    return {"$ref": f"#/$defs/{cls.__name__}"}


def _shape(shape: Shape, definitions: dict[str, dict[str, Any]]) -> dict[str, Any]:  # noqa: C901 -- one case for each
    match shape:
        case Formed(form):
            return form.schema()
        case Flag():
            return {"type": "boolean"}
        case Choice(words):
            return {"enum": list(words)}
        case FilePath() | Hidden():
            return {"type": "string", "minLength": 1}
        case Record(cls):
            return _record(cls, definitions)
        case MapOf(key, value, non_empty):
            return {
                "type": "object",
                "minProperties": int(non_empty),
                "propertyNames": key.schema(),
                "additionalProperties": _shape(value, definitions),
            }
        case ListOf(item, non_empty, from_directory):
            listed = {"type": "array", "minItems": int(non_empty), "items": _shape(item, definitions)}
            return {"anyOf": [listed, _DIRECTORY]} if from_directory else listed
        case Either(options, nullable):
            found = [_shape(option, definitions) for option in options]
            if nullable:
                found.append({"type": "null"})
            return found[0] if len(found) == 1 else {"anyOf": found}
        case Anything():
            return {}


_DIRECTORY: Final = {
    "type": "object",
    "additionalProperties": False,
    "required": ["dir"],
    "properties": {"dir": {"type": "string", "minLength": 1, "description": "A directory of YAML files."}},
}
