"""From nodes to settings: every mistake is collected, none ends the reading.

Where a value is wrong the complaint is made and a *hole* takes its place (an empty text, a zero, an empty
list), so that the rest is still checked. What is returned beside complaints is therefore good for
further checks only and must never be used to run anything.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Final, Protocol, TypeAlias, TypeVar, cast

from gateway.core.sources import Sources
from gateway.settings.complaints import Complaints, Place
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
    Member,
    Record,
    Shape,
    members,
    not_built,
)
from gateway.settings.types import Misfit, Secret, shortened
from gateway.settings.yaml import MappingNode, Node, ScalarNode, SequenceNode, document

T = TypeVar("T")
Steps: TypeAlias = tuple[str | int, ...]

_EXPANSION: Final = re.compile(r"\$\$|\$\{([^}]*)\}?")
_VARIABLE: Final = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]{0,127})(\?)?")


class _Checked(Protocol):
    """A settings dataclass that checks what its fields say only together."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """(key, problem, remedy) of each; a key may be dotted, or empty for the whole."""
        ...


class Binder:
    """Binds nodes to dataclasses.

    `complaints` grows with what is wrong; `off` with the entries that are switched off by an unset
    variable (by path, as a public sentence); `secret_files` with the files that secrets came from.
    """

    def __init__(self, complaints: Complaints, sources: Sources | None = None) -> None:
        """Without `sources` nothing is expanded, and a `${` is plain text."""
        self.complaints = complaints
        self.off: dict[str, str] = {}
        self.secret_files: list[Path] = []
        self._sources = sources
        self._places: dict[Steps, Place] = {}
        self._unset: list[str] | None = None  # a list while inside an entry that can be switched off

    def bind(self, node: Node, cls: type[T], path: Steps = ()) -> T:
        """The value of a settings dataclass; use it to run only if no complaint was made."""
        self._places.setdefault((), node)
        return cast("T", self._bind(node, Record(cls), path))

    def complain(self, path: Steps, problem: str, remedy: str) -> None:
        """Complain about a setting by its path, at its place or at that of the nearest thing around it."""
        self.complaints.add(self.place(path), path_text(path), problem, remedy)

    def place(self, path: Steps) -> Place:
        """Where a setting stands, or the nearest thing around it."""
        while path and path not in self._places:
            path = path[:-1]
        return self._places[path]

    def _bind(self, node: Node, shape: Shape, path: Steps) -> object:
        self._places[path] = node
        match shape:
            case Either():
                return self._either(node, shape, path)
            case Record(cls) if isinstance(node, MappingNode):
                return self._record(node, cls, path)
            case MapOf() if isinstance(node, MappingNode):
                return self._map(node, shape, path)
            case ListOf() if isinstance(node, SequenceNode):
                return self._list(list(node.items), shape, path)
            case ListOf(from_directory=True) if isinstance(node, MappingNode):
                return self._list(self._from_directory(node, path), shape, path)
            case Anything():
                return plain(node)
            case Formed() | Flag() | Choice() | FilePath() | Hidden() if isinstance(node, ScalarNode):
                try:
                    return self._scalar(node, shape)
                except Misfit as misfit:
                    self.complain(path, misfit.problem, misfit.remedy)
            case _:
                self.complain(path, f"this is {_found(node)}", f"write {describe(shape)}")
        return hole(shape)

    def _scalar(self, node: ScalarNode, shape: Shape) -> object:
        if isinstance(shape, Hidden):
            return self._secret(node)
        if self._sources is not None and "${" in node.text:
            raise Misfit("`${…}` is expanded in secrets only", "write the value itself")
        match shape:
            case Formed(form):
                return form.read(node)
            case Flag() if node.kind == "bool":
                return node.text == "true"
            case Choice(words) if node.text in words:
                return node.text
            case Choice(words, later) if node.text in later:
                raise Misfit(f"{node.text} is not built yet", f"use {' or '.join(words)}")
            case Choice(words, later):
                close = _close(node.text, {*words, *later})
                remedy = f"{close} known here: {', '.join(words)}" if close else f"use {' or '.join(words)}"
                raise Misfit(f"{shortened(node.text)} is not among the choices", remedy)
            case FilePath() if node.kind == "text" and node.text and "\0" not in node.text:
                return Path(node.file).parent / node.text
        raise Misfit(f"this is {_found(node)}", f"write {describe(shape)}")

    def _either(self, node: Node, shape: Either, path: Steps) -> object:
        if isinstance(node, ScalarNode) and node.kind == "null" and shape.nullable:
            return None
        fitting = [option for option in shape.options if _fits(node, option)]
        for option in fitting:
            if isinstance(option, Choice) and isinstance(node, ScalarNode) and node.text in option.words:
                return node.text
        if fitting:
            return self._bind(node, fitting[-1], path)
        self.complain(path, f"this is {_found(node)}", f"write {describe(shape)}")
        return hole(shape)

    def _record(self, node: MappingNode, cls: type, path: Steps) -> object:
        """A dataclass: its keys, what is missing, its own checks, and whether it is switched off."""
        around, mistakes_before = self._unset, self.complaints.total
        switchable: str | None = getattr(cls, "SWITCHABLE", None)
        if switchable:
            self._unset = []
        values = self._members(node, cls, path)
        bound = cls(**values)
        if self.complaints.total == mistakes_before and hasattr(cls, "mistakes"):
            for key, problem, remedy in cast("_Checked", bound).mistakes():
                self.complain((*path, *(step for step in key.split(".") if step)), problem, remedy)
        if switchable and self._unset:
            self.off[path_text(path)] = f"{switchable} {path[-1]} is off: {' and '.join(self._unset)} unset"
        self._unset = around
        return bound

    def _members(self, node: MappingNode, cls: type, path: Steps) -> dict[str, object]:
        known, later = members(cls), not_built(cls)
        values: dict[str, object] = {}
        asks_later = False
        for key, (key_node, value) in node.entries.items():
            if key in known:
                shape = known[key].shape
                values[known[key].name] = self._bind(value, shape, (*path, key))
                asks_later |= isinstance(shape, Choice) and isinstance(value, ScalarNode) and value.text in shape.later
            elif key in later:
                if not (isinstance(value, ScalarNode) and (value.kind, value.text) in _ASKS_NOTHING):
                    self.complaints.add(key_node, path_text((*path, key)), later[key], "remove the key")
                    asks_later = True
            else:
                close = "" if self.complaints.full else _close(key, {*known, *later})
                remedy = f"{close or 'remove it;'} known here: {', '.join([*known, *later])}"
                self.complaints.add(key_node, path_text((*path, shortened_key(key))), "unknown key", remedy)
        for key, member in known.items():
            if member.name not in values:
                values[member.name] = self._absent(node, cls, member, (*path, key), quiet=asks_later)
        return values

    def _absent(self, node: MappingNode, cls: type, member: Member, path: Steps, *, quiet: bool) -> object:
        """The default of a member, or a complaint (`quiet` where another mistake is likely the reason)."""
        if member.required:
            if not quiet:
                self.complaints.add(
                    node, path_text(path), "is missing", f"add `{member.key}`, {describe(member.shape)}"
                )
            return hole(member.shape)
        if isinstance(member.shape, Record):
            return self._bind(MappingNode(node.file, node.line, node.column, {}), member.shape, path)
        default = member.default(cls)
        return Path(node.file).parent / default if isinstance(default, Path) else default

    def _list(self, items: list[Node], shape: ListOf, path: Steps) -> tuple[object, ...]:
        if not items and shape.non_empty:
            self.complain(path, "the list is empty", "name at least one, or remove the key where it may be left out")
        bound = [(index, self._bind(item, shape.item, (*path, index))) for index, item in enumerate(items)]
        return tuple(value for index, value in bound if path_text((*path, index)) not in self.off)

    def _map(self, node: MappingNode, shape: MapOf, path: Steps) -> dict[str, object]:
        if not node.entries and shape.non_empty:
            self.complain(path, "the mapping is empty", "name at least one, or remove the key where it may be left out")
        bound: dict[str, object] = {}
        for key, (key_node, value) in node.entries.items():
            try:
                shape.key.read(key_node)
            except Misfit as misfit:
                self.complaints.add(key_node, path_text((*path, shortened_key(key))), misfit.problem, misfit.remedy)
            result = self._bind(value, shape.value, (*path, key))
            if path_text((*path, key)) not in self.off:
                bound[key] = result
        return bound

    def _from_directory(self, node: MappingNode, path: Steps) -> list[Node]:
        """The entries of all files of `{dir: PATH}`; each file is a list of them, or one."""
        folder = node.entries.get("dir", (None, None))[1]
        if (
            len(node.entries) != 1
            or not isinstance(folder, ScalarNode)
            or folder.kind != "text"
            or self._sources is None
        ):
            self.complain(path, "this is a mapping", "write a list of entries, or {dir: PATH}")
            return []
        items: list[Node] = []
        try:
            for name in self._sources.listdir(Path(node.file).parent / folder.text, _is_yaml):
                found = document(self._sources.read(name), str(name), self.complaints)
                if isinstance(found, SequenceNode):
                    items += found.items
                elif found is not None and found != MappingNode(str(name), 1, 1, {}):
                    items.append(found)
        except (OSError, ValueError) as error:
            self.complain(path, f"cannot be read: {error}", "correct the path")
        return items

    def _secret(self, node: ScalarNode) -> Secret:
        if node.kind != "text":
            raise Misfit("a secret must be text", "put it in quotes, or better write ${env:NAME}")
        if self._sources is None:
            raise Misfit("a secret cannot stand here", "remove it")
        unset_before = len(self._unset or ())
        text = _EXPANSION.sub(lambda found: self._expanded(found, node), node.text)
        if len(self._unset or ()) == unset_before and (not text or not text.isprintable()):
            raise Misfit("the secret is empty or holds control characters", "it must be one line of text")
        return Secret(text)

    def _expanded(self, found: re.Match[str], node: ScalarNode) -> str:
        sources = cast("Sources", self._sources)
        if found[0] == "$$":
            return "$"
        inside = found[1] if found[0].endswith("}") else ""
        if variable := _VARIABLE.fullmatch(inside):
            name, optional = variable[1], variable[2] is not None
            value = sources.environment(name)
            if value:
                return value
            if optional and self._unset is not None:
                self._unset.append(name)
                return ""
            if optional:
                raise Misfit(f"{name} is unset, and nothing here can be switched off", f"remove the ? and set {name}")
            raise Misfit(f"the environment variable {name} is unset", f"set it, or write ${{env:{name}?}}")
        kind, _, name = inside.partition(":")
        if kind == "file" and name and "\0" not in name:
            path = Path(node.file).parent / name
            try:
                text = sources.read(path).decode()
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is not UTF-8 text"
                raise Misfit(f"the file {path} cannot be read: {reason}", "correct the path or the file") from None
            self.secret_files.append(path)
            return text.removesuffix("\n").removesuffix("\r")
        raise Misfit("this `${…}` cannot be expanded", "write ${env:NAME}, ${env:NAME?} or ${file:PATH}; $$ for a $")


def bind(node: Node, cls: type[T], complaints: Complaints) -> T:
    """The value of a settings dataclass without secrets; mistakes go to `complaints`."""
    return Binder(complaints).bind(node, cls)


_ASKS_NOTHING: Final = {("null", "null"), ("null", "~"), ("null", ""), ("bool", "false")}
"""Values under which a key that is not built yet asks for nothing, so that it may stand."""


def path_text(path: Steps) -> str:
    """A path as people write it: `agents[0].issuer`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def plain(node: Node) -> object:
    """A node as plain data; decimals are `Decimal`."""
    match node:
        case MappingNode():
            return {key: plain(value) for key, (_, value) in node.entries.items()}
        case SequenceNode():
            return [plain(item) for item in node.items]
        case ScalarNode(text=text, kind="int"):
            return int(text)
        case ScalarNode(text=text, kind="decimal"):
            return Decimal(text)
        case ScalarNode(text=text, kind="bool"):
            return text == "true"
        case ScalarNode(kind="null"):
            return None
    return node.text


def hole(shape: Shape) -> object:
    """What stands for a value that is wrong: empty, but of a type that further checks can read."""
    match shape:
        case Flag():
            return False
        case Choice(words):
            return words[0]
        case FilePath():
            return Path()
        case Hidden():
            return Secret("")
        case ListOf():
            return ()
        case MapOf():
            return {}
        case Record(cls):
            return cls(**{m.name: hole(m.shape) if m.required else m.default(cls) for m in members(cls).values()})
        case Either(options, nullable):
            return None if nullable else hole(options[0])
        case Formed(form):
            return form.hole
    return None


def describe(shape: Shape) -> str:
    """What to write, in a few words."""
    match shape:
        case Flag():
            return "true or false"
        case Choice(words):
            return " or ".join(words)
        case FilePath():
            return "a path"
        case Hidden():
            return "a secret such as ${env:NAME}"
        case ListOf():
            return "a list"
        case MapOf() | Record():
            return "a mapping"
        case Either(options):
            return " or ".join(describe(option) for option in options)
        case Formed(form):
            return form.example
    return "a value"


def shortened_key(key: str) -> str:
    """A key as quoted in a path."""
    return key if len(key) <= 60 else f"{key[:40]}…"  # noqa: PLR2004 -- a line's worth


def _fits(node: Node, shape: Shape) -> bool:
    """Whether a node is of the kind that a shape asks for, so that its complaint is the one to make."""
    if isinstance(node, MappingNode):
        return isinstance(shape, (Record, MapOf))
    return isinstance(shape, ListOf) == isinstance(node, SequenceNode) and not isinstance(shape, (Record, MapOf))


def _found(node: Node) -> str:
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    return "empty" if node.kind == "null" else f"the text {shortened(node.text)}" if node.kind == "text" else node.text


def _is_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _close(word: str, known: set[str]) -> str:
    """`did you mean …?` where something known is spelled alike, else nothing."""
    close = difflib.get_close_matches(word[:60], sorted(known), n=1)
    return f"did you mean `{close[0]}`?" if close else ""
