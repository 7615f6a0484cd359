"""JSON Schemas of arguments (2020-12), compiled at load, checked on every call.

A schema comes from the operator's file and never fetches anything: remote and file references are mistakes
at load (S15). Its patterns run on a linear-time engine, so that an argument cannot make one run away (S19).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

import jsonschema_rs

from gateway.core.errors import Refusal
from gateway.dialects.json_body import JsonLimits, NotStrict, read

MAX_SCHEMA_BYTES: Final = 256 * 1024
_PATTERN_BYTES: Final = 1 << 20
_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_EXPECTED_CHARACTERS: Final = 300
_NAME_CHARACTERS: Final = 64

_KINDS: Final[dict[type, str]] = {
    type(None): "null", bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "an array",
    dict: "an object",
}  # fmt: skip


class SchemaError(ValueError):
    """A schema that cannot be used: the sentence says why."""


class ArgumentSchema:
    """What the arguments of one operation must look like."""

    __slots__ = ("_validator",)

    def __init__(self, validator: jsonschema_rs.Draft202012Validator) -> None:
        """Take a compiled validator; `compile_schema` makes one."""
        self._validator = validator

    def check(self, args: Mapping[str, object]) -> None:
        """Raise `Refusal` (`arguments_invalid`) with the first mistake: JSON pointer, expected, got.

        Only the first, because collecting all of a hostile 200,000-element array takes seconds. `got` says
        the kind and size of a value, never the value: an argument may be a secret, and refusals are logged.
        """
        try:
            self._validator.validate(args)
        except jsonschema_rs.ValidationError as error:
            pointer, expected, got = _explain(error)
        else:
            return
        raise Refusal(
            "arguments_invalid",
            f"at {pointer or 'the arguments'}: expected {expected}, got {got}; correct the arguments and call again",
            fields={"pointer": pointer, "expected": expected, "got": got},
        )


def compile_schema(data: bytes) -> ArgumentSchema:
    """Compile a schema file; raises `SchemaError`."""
    if len(data) > MAX_SCHEMA_BYTES:
        raise SchemaError(f"the schema is larger than {MAX_SCHEMA_BYTES >> 10} KiB")
    try:
        schema = read(data, JsonLimits())
    except NotStrict as wrong:
        raise SchemaError(f"the schema {wrong}") from None
    if not isinstance(schema, dict):
        raise SchemaError("the schema is not a JSON object")
    if schema.get("$schema", _DRAFT) not in {_DRAFT, _DRAFT + "#"}:
        raise SchemaError(f"the schema's $schema is not {_DRAFT}")
    try:
        return ArgumentSchema(
            jsonschema_rs.Draft202012Validator(
                schema,
                offline=True,
                mask="the value",
                pattern_options=jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES),
            )
        )
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        cause = str(error).partition("\n")[0]
        raise SchemaError(f"the schema cannot be used: {_short(cause, _EXPECTED_CHARACTERS)}") from None


def _explain(error: jsonschema_rs.ValidationError) -> tuple[str, str, str]:
    path = [*error.instance_path]
    keyword, value = error.kind.name, error.kind.value
    got = _kind(error.instance)
    match keyword:
        case "type":
            expected = " or ".join(_article(name) for name in value)
        case "required":
            path.append(value)
            expected, got = "a value", "nothing"
        case "additionalProperties" | "unevaluatedProperties":
            path.append(_short(str(value[0]), _NAME_CHARACTERS))
            expected, got = "no such argument", "one"
        case "enum":
            expected = "one of " + json.dumps(value, ensure_ascii=False)
        case "const":
            expected = json.dumps(value, ensure_ascii=False)
        case "propertyNames":  # the one message in which the mask leaves a part of the instance
            expected = "only names that the schema allows"
        case "falseSchema":
            expected = "nothing here"
        case _:
            # The message speaks of "the value" and of the schema: the mask keeps the instance out of it.
            expected = f"another value ({error.message})"
    pointer = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
    return pointer, _short(expected, _EXPECTED_CHARACTERS), got


def _kind(value: object) -> str:
    name = _KINDS.get(type(value), "a value")
    match value:
        case str():
            return f"{name} of {len(value)} characters"
        case list() | dict():
            return f"{name} of {len(value)}"
        case _:
            return name


def _article(name: str) -> str:
    return name if name == "null" else ("an " if name[0] in "aio" else "a ") + name


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
