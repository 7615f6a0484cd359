"""What differs between two folders of policies in what they mean: rules that were added, removed, changed.

Rules are compared by what they say, key by key. The order of files, rules, entries and conditions, the layout and the
comments of files and of expressions make no difference; which file a rule stands in makes none either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Final, NamedTuple

from gateway.core.sources import Sources
from gateway.policy.cel.errors import CelMistake
from gateway.policy.cel.lexer import tokens
from gateway.policy.documents import read_policies
from gateway.policy.files import RuleEntry
from gateway.settings.complaints import Place

_ALL: Final = frozenset({"any", "*"})


class Change(NamedTuple):
    """One difference. `place` is where it stands now, or stood where it was removed."""

    kind: str  # added | removed | changed
    rule: str  # POLICY/RULE; of an observation POLICY/observe STEP of TOOL
    keys: tuple[str, ...]  # what of it changed
    place: Place


class _Said(NamedTuple):
    content: Mapping[str, object]
    place: Place


def compare(old: Path, new: Path, sources: Sources, mode: str) -> list[Change]:
    """The differences from `old` to `new`, by rule; `mode` is the configuration's. Of files with mistakes nothing."""
    before, after = (dict(_read(folder, sources, mode)) for folder in (old, new))
    changes = [Change("added", name, (), after[name].place) for name in after.keys() - before.keys()]
    changes += [Change("removed", name, (), before[name].place) for name in before.keys() - after.keys()]
    for name in before.keys() & after.keys():
        was, now = before[name].content, after[name].content
        keys = tuple(sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key)))
        if keys:
            changes.append(Change("changed", name, keys, after[name].place))
    return sorted(changes, key=lambda change: change.rule)


def _read(folder: Path, sources: Sources, mode: str) -> Iterator[tuple[str, _Said]]:
    for policy, binder in read_policies(folder, sources):
        for number, rule in enumerate(policy.rules):
            content = _rule(rule) | {"mode": rule.mode or policy.mode or mode}
            yield f"{policy.policy}/{rule.id}", _Said(content, binder.place(("rules", number)))
        for number, one in enumerate(policy.observe):
            name = f"{policy.policy}/observe {one.step} of {one.tool}"
            yield name, _Said(_flat(one, ""), binder.place(("observe", number)))


def _rule(rule: RuleEntry) -> dict[str, object]:
    """What a rule says, without its name."""
    content = _flat(rule, "")
    del content["id"]
    return content


def _flat(entry: object, path: str) -> dict[str, object]:
    """The members of an entry and of what is below it by their paths; what is not said is left out."""
    found: dict[str, object] = {}
    for field in fields(entry):  # type: ignore[arg-type] # an entry is a dataclass
        name, value = field.name.rstrip("_"), getattr(entry, field.name)
        if is_dataclass(value) and name != "requires":
            found |= _flat(value, f"{path}{name}.")
        elif value not in (None, "", (), {}) and not (path == "match." and _matches_all(value)):
            found[path + name] = _content(name, value)
    return found


def _matches_all(entries: object) -> bool:
    """Whether a list of entries says nothing, since one of them matches everything."""
    return isinstance(entries, tuple) and not _ALL.isdisjoint(map(str, entries))


def _content(name: str, value: object) -> object:
    """A value in a form that two spellings share."""
    if isinstance(value, str):
        return _expression(value) if name in {"when", "outcome"} else value
    if isinstance(value, Mapping):
        return sorted((key, _expression(str(item))) for key, item in value.items())
    if isinstance(value, tuple):
        return sorted(repr(_content(name, item)) for item in value)
    if is_dataclass(value):
        return sorted(_flat(value, "").items())
    return value


def _expression(text: str) -> str:
    """An expression without its white space and comments."""
    try:
        return " ".join(token.text for token in tokens(text))
    except CelMistake:
        return text
