"""A strict reader of YAML: the 1.2 core schema, positions for every node, and nothing that surprises.

Promises: no object is ever constructed; `NO`, `007`, `0x1F`, `1_000`, `10:30` and dates are text; every
scalar keeps its text, so that amounts are never read through a float; what a reader of the file could
overlook (duplicate keys, aliases, merge keys, tags) is a mistake; a hostile file ends in a complaint,
quickly. PyYAML's parser supplies the events (libyaml where the wheel has it); composing is ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    Event,
    MappingStartEvent,
    ScalarEvent,
)

from gateway.settings.complaints import Complaints

MAX_BYTES: Final = 10 * 1024 * 1024
MAX_DEPTH: Final = 64
MAX_NODES: Final = 200_000

Kind = Literal["text", "int", "decimal", "bool", "null"]

_WORDS: Final[dict[str, Kind]] = {"true": "bool", "false": "bool", "null": "null", "~": "null", "": "null"}
_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,63})")
_DECIMAL: Final = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]{0,63})(?:\.[0-9]{0,63})?|\.[0-9]{1,63})(?:[eE][-+]?[0-9]{1,3})?")
_LOADER: Final[type[yaml.SafeLoader | yaml.CSafeLoader]] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """A single value, as its text and what the core schema says it is."""

    file: str
    line: int
    column: int
    text: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class SequenceNode:
    """A list."""

    file: str
    line: int
    column: int
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class MappingNode:
    """Keys (with the place of each) and their values."""

    file: str
    line: int
    column: int
    entries: dict[str, tuple[ScalarNode, Node]]


Node: TypeAlias = ScalarNode | SequenceNode | MappingNode


def documents(data: bytes, name: str, complaints: Complaints) -> list[Node]:
    """All documents of a file called `name` in complaints.

    What is wrong goes to `complaints`; a syntax error or a broken limit ends the reading, and then no
    document is returned.
    """
    reader = _Reader(name, complaints)
    if len(data) > MAX_BYTES:
        reader.complain("the file is larger than 10 MiB", "split it, or remove what is not needed")
        return []
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reader.line = data.count(b"\n", 0, error.start) + 1
        reader.complain("the file is not UTF-8", "save it as UTF-8")
        return []
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            reader.take(event)
    except _LimitMetError:
        return []
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter two: escapes beyond Unicode
        reader.at(getattr(error, "problem_mark", None))
        problem = " ".join(str(getattr(error, "problem", None) or "a character that YAML does not allow").split())
        reader.complain(
            f"this is not YAML: {problem[:200]}", "correct the syntax; text with : # { [ * & ! wants quotes"
        )
        return []
    return reader.done


def document(data: bytes, name: str, complaints: Complaints) -> Node | None:
    """The one document of a file: an empty mapping where the file is empty, `None` where it cannot be read."""
    complaints_before = complaints.total
    found = documents(data, name, complaints)
    if not found and complaints.total > complaints_before:
        return None
    for extra in found[1:]:
        complaints.add(extra, "", "the file has more than one document", "remove the `---` and what follows it")
    if not found or (isinstance(found[0], ScalarNode) and found[0].kind == "null"):
        return MappingNode(name, 1, 1, {})
    return found[0]


def kind_of(text: str) -> Kind:
    """What the core schema, decimal numbers only, makes of a plain scalar."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return "int"
    return "decimal" if _DECIMAL.fullmatch(text) else "text"


class _Mark(Protocol):
    """A position as both of PyYAML's parsers have it."""

    line: int
    column: int


class _LimitMetError(Exception):
    """Reading stops here; the complaint is made."""


class _Reader:
    """Composes nodes from events on a stack of its own, so that depth costs no recursion."""

    def __init__(self, name: str, complaints: Complaints) -> None:
        """Start before the first event."""
        self.name = name
        self.complaints = complaints
        self.line = self.column = 1
        self.done: list[Node] = []
        self._open: list[tuple[CollectionStartEvent, list[Node]]] = []
        self._nodes = 0

    def complain(self, problem: str, remedy: str) -> None:
        """Complain about the current position."""
        self.complaints.add(self, "", problem, remedy)

    @property
    def file(self) -> str:
        """The file's name: with `line` and `column` this makes the reader a place."""
        return self.name

    def at(self, mark: _Mark | None) -> None:
        """Move on to a mark of PyYAML's, which counts from 0."""
        if mark is not None:
            self.line, self.column = mark.line + 1, mark.column + 1

    def take(self, event: Event) -> None:
        """Put one event where it belongs."""
        if isinstance(event, CollectionEndEvent):
            start, items = self._open.pop()
            self.at(start.start_mark)
            self._add(self._mapping(items) if isinstance(start, MappingStartEvent) else self._sequence(items))
        elif isinstance(event, (ScalarEvent, AliasEvent, CollectionStartEvent)):
            self.at(event.start_mark)
            self._guard(event)
            if isinstance(event, CollectionStartEvent):
                self._open.append((event, []))
            else:
                self._add(self._scalar(event))

    def _guard(self, event: ScalarEvent | AliasEvent | CollectionStartEvent) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES or len(self._open) > MAX_DEPTH:
            what = f"more than {MAX_NODES} values" if self._nodes > MAX_NODES else f"more than {MAX_DEPTH} levels"
            self.complain(f"the file has {what}", "make it smaller")
            raise _LimitMetError
        anchor = event.anchor
        if isinstance(event, AliasEvent):
            self.complain(f"the alias *{(anchor or '')[:40]} is not allowed", "write the value out, or quote the text")
        elif anchor is not None:
            self.complain(f"the anchor &{anchor[:40]} is not allowed", "remove it, or quote the text")
        if not isinstance(event, AliasEvent) and (tag := event.tag) is not None:
            self.complain(f"the tag {tag[:60]} is not allowed", "remove it, or quote the text")

    def _add(self, node: Node) -> None:
        (self._open[-1][1] if self._open else self.done).append(node)

    def _scalar(self, event: ScalarEvent | AliasEvent) -> ScalarNode:
        if isinstance(event, AliasEvent):
            return ScalarNode(self.name, self.line, self.column, "", "null")
        event.value.encode()  # a lone surrogate is a `ValueError`, as other impossible characters are
        kind = "text" if event.style else kind_of(event.value)
        return ScalarNode(self.name, self.line, self.column, event.value, kind)

    def _sequence(self, items: list[Node]) -> SequenceNode:
        return SequenceNode(self.name, self.line, self.column, tuple(items))

    def _mapping(self, items: list[Node]) -> MappingNode:
        entries: dict[str, tuple[ScalarNode, Node]] = {}
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, ScalarNode):
                self.complaints.add(key, "", "a key must be text, not a list or a mapping", "quote it")
            elif key.kind != "text":
                self.complaints.add(key, "", f"the key `{key.text[:60]}` is not text", f'write "{key.text[:60]}"')
            elif key.text == "<<":
                self.complaints.add(key, "", "merge keys are not allowed", "write the entries out")
            elif key.text in entries:
                first = entries[key.text][0].line
                problem = f"the key `{key.text[:60]}` stands twice (first in line {first})"
                self.complaints.add(key, "", problem, "remove one of them")
            else:
                entries[key.text] = (key, value)
        return MappingNode(self.name, self.line, self.column, entries)
