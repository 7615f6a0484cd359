# ruff: noqa: INP001 -- a script, not a package
"""Write the tables of docs/configuration.md: every key of each section, from the settings themselves.

The page is written by hand but for the table below each `<!-- keys: SECTION, … -->`. What a key means is the
description in the JSON Schema (the docstring of the setting); what holds without it is the default of the dataclass.
`make schema` runs this, and a test keeps the page current.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from gateway.config import Settings, config_schema
from gateway.settings.types import Bind

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
_TOLD_ONCE: Final = {"TimeoutOverrides"}  # as `timeouts`
_TABLE: Final = re.compile(r"(?<=<!-- keys: )([a-z_, ]+) -->\n+(?:\|.*\n)*")
_HEAD: Final = "| key | is | without it |\n|---|---|---|\n"

Schema = Mapping[str, Any]


def page(text: str) -> str:
    """The page with current tables."""
    return _TABLE.sub(lambda found: f"{found[1]} -->\n\n{_table(found[1].split(', '))}", text)


def _table(sections: list[str]) -> str:
    schema: Schema = config_schema()
    classes = dict(_classes(Settings))
    tops = {field.name: field for field in fields(Settings)}

    def keys(key: str, part: Schema, own: Field[Any]) -> Iterator[str]:
        below, suffix = _below(part)
        if below is None:
            yield f"| `{key}` | {part['description'].replace('|', '/')}{_choices(part)} | {_default(own, part)} |"
            return
        owns = {field.name.removesuffix("_"): field for field in fields(classes[below])}
        for name, inner in schema["$defs"][below]["properties"].items():
            if not inner["description"].startswith("Not built yet"):
                yield from keys(f"{key}{suffix}.{name}", inner, owns[name])

    return _HEAD + "".join(
        f"{row}\n" for name in sections for row in keys(name, schema["properties"][name], tops[name])
    )


def _below(part: Schema) -> tuple[str | None, str]:
    """Which settings stand below a key, and how one gets there: `[]` for each of a list, `.*` for each of a map."""
    for one in (part, *part.get("anyOf", ())):
        if "$ref" in one:
            name = one["$ref"].rpartition("/")[2]
            return None if name in _TOLD_ONCE else name, ""
        for inner, step in ((one.get("items"), "[]"), (one.get("additionalProperties"), ".*")):
            if inner and (found := _below(inner))[0]:
                return found[0], step + found[1]
    return None, ""


def _classes(hint: Any) -> Iterator[tuple[str, type]]:  # noqa: ANN401 - an annotation may be anything
    """All settings that an annotation leads to, by name."""
    if isinstance(hint, type) and is_dataclass(hint) and hint.__module__.endswith(("settings", "config")):
        yield hint.__name__, hint
        for inner in get_type_hints(hint).values():
            yield from _classes(inner)
    for inner in get_args(hint):
        yield from _classes(inner)


def _choices(described: Schema) -> str:
    """What may be chosen, where that is a list of words."""
    parts = [described, *described.get("anyOf", ()), described.get("items", {})]
    words = [word for part in parts for word in part.get("enum", ()) if isinstance(word, str)]
    missing = [f"`{word}`" for word in words if f"`{word}`" not in described["description"]]
    return f" One of {', '.join(missing)}." if len(missing) > 1 else ""


def _default(own: Field[Any], described: Schema) -> str:
    """How the value would be written that holds without an entry."""
    value = own.default_factory() if own.default_factory is not MISSING else own.default
    if value is MISSING:
        return "**needed**"
    if value is None or value in ("", (), {}) or is_dataclass(value):
        return ""
    return f"`{_written(value, str(described))}`"


def _written(value: object, described: str) -> str:
    if isinstance(value, Bind):  # a tuple, too
        return str(value)
    if isinstance(value, Path) and "sqlite:" in described:
        return f"sqlite:{value}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return next(f"{int(value) // size}{unit}" for unit, size in _SPANS if not value % size)
    if "KiB" in described:
        return next(f"{int(str(value)) // size} {unit}" for unit, size in _SIZES if not int(str(value)) % size)
    return str(value)


_SPANS: Final = (("h", 3600), ("m", 60), ("s", 1))
_SIZES: Final = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))

if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
