"""A plausible value for a JSON Schema: what the demo model writes as tool arguments and as structured output.

Values come from the conversation where they can (`A1`, `1200`, `EUR` in "charge order A1, 1200 EUR"), else
from the schema, and always satisfy it for the keywords that tool definitions use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_MAX_DEPTH: Final = 12
_REFERENCE: Final = re.compile(r"\b(?=[A-Za-z0-9_-]*\d)(?=[A-Za-z0-9_-]*[A-Za-z])[A-Za-z0-9_-]+\b")
_NUMBER: Final = re.compile(r"(?<![A-Za-z0-9_.-])-?\d{1,12}(?:\.\d{1,6})?(?![A-Za-z0-9_-])")
_CURRENCY: Final = re.compile(r"\b(?:EUR|USD|GBP|CHF|JPY|SEK|NOK|DKK|PLN)\b")
_ADDRESS: Final = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
_PLACE: Final = re.compile(r"\b(?:in|at|to|for) ([A-Z][\w-]+)")
_FORMATS: Final = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


@dataclass(slots=True)
class Hints:
    """What of a conversation can become a value, and how many values may still be made (schemas can multiply)."""

    text: str
    left: int = 5_000

    def find(self, pattern: re.Pattern[str]) -> str | None:
        """The first mention of something."""
        found = pattern.search(self.text)
        return found[found.lastindex or 0] if found else None


def example(schema: object, hints: Hints) -> Any:  # noqa: ANN401 -- any JSON value
    """A value that the schema accepts; for a schema it cannot make sense of, `null`."""
    return _value(schema, schema if isinstance(schema, Mapping) else {}, hints, "", 0)


def _value(schema: object, root: Mapping[str, Any], hints: Hints, name: str, depth: int) -> Any:  # noqa: ANN401
    if schema is True:
        return name or "anything"
    hints.left -= 1
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH or hints.left < 0:
        return None
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    if schema.get("enum"):
        return _mentioned(schema["enum"], hints)
    inner = _inner(schema, root)
    return _plain(schema, root, hints, name, depth) if inner is None else _value(inner, root, hints, name, depth + 1)


def _inner(schema: Mapping[str, Any], root: Mapping[str, Any]) -> object | None:
    """The schema that one speaks through: its reference, or itself joined with its first alternative."""
    if "$ref" in schema:
        return _resolve(str(schema["$ref"]), root)
    for keyword in ("anyOf", "oneOf", "allOf"):
        first = next(iter(schema.get(keyword) or ()), None)
        if isinstance(first, Mapping):
            return {key: value for key, value in schema.items() if key != keyword} | dict(first)
    return None


def _plain(schema: Mapping[str, Any], root: Mapping[str, Any], hints: Hints, name: str, depth: int) -> Any:  # noqa: ANN401
    """A value by its type; what is deep keeps to what is required, so that recursive schemas end."""
    shallow = depth < _MAX_DEPTH // 2
    match _kind(schema):
        case "object":
            properties = schema.get("properties") or {}
            wanted = [key for key in properties if shallow or key in schema.get("required", ())]
            return {key: _value(properties[key], root, hints, key, depth + 1) for key in wanted}
        case "array":
            least = schema.get("minItems", 0)
            count = max(1, least) if shallow else least
            return [_value(schema.get("items", True), root, hints, name, depth + 1) for _ in range(min(count, 100))]
        case "string":
            return _text(schema, hints, name)
        case kind:
            number = _number(schema, hints)
            return {"integer": int(number), "number": number, "boolean": True}.get(kind)


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        return next((str(one) for one in kind if one != "null"), "null")
    return str(kind)


def _resolve(reference: str, root: Mapping[str, Any]) -> object:
    found: object = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step and isinstance(found, Mapping):
            found = found.get(step.replace("~1", "/").replace("~0", "~"))
    return found


def _mentioned(options: list[Any], hints: Hints) -> Any:  # noqa: ANN401
    text = hints.text.lower()
    return next((one for one in options if isinstance(one, str) and one and one.lower() in text), options[0])


def _number(schema: Mapping[str, Any], hints: Hints) -> int | float:
    said = hints.find(_NUMBER)
    value = (float(said) if "." in said else int(said)) if said else 1
    low, high = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + 1
    if "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"] - 1
    if low is not None and value < low:
        value = low
    return high if high is not None and value > high else value


def _text(schema: Mapping[str, Any], hints: Hints, name: str) -> str:
    if schema.get("format") in _FORMATS:
        return (hints.find(_ADDRESS) if schema["format"] == "email" else None) or _FORMATS[schema["format"]]
    lower = name.lower()
    if lower.endswith(("id", "reference", "number")):
        value = hints.find(_REFERENCE) or "A1"
    elif "currency" in lower:
        value = hints.find(_CURRENCY) or "EUR"
    elif lower in {"to", "recipient", "email", "from"}:
        value = hints.find(_ADDRESS) or "someone@example.com"
    elif lower in {"city", "location", "place", "country"}:
        value = hints.find(_PLACE) or "Berlin"
    else:
        value = f"demo {name}".strip()
    value = value.ljust(min(int(schema.get("minLength", 0)), 1000), ".")
    return value[: schema["maxLength"]] if "maxLength" in schema else value
