"""What a settings dataclass asks for: its annotations read once, as the shapes that files may have.

Both the binder and the JSON Schema work from these shapes, so what is accepted and what is documented
cannot differ.

A settings dataclass may declare, as class variables, `NOT_BUILT` (keys of the contract that this release
does not have, each with its sentence) and `SWITCHABLE` (what to call an entry that an unset `${env:NAME?}`
switches off), and as a method `mistakes()`, which yields (key, problem, remedy) for what its fields say
only together.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union

from gateway.settings.types import FROM_DIRECTORY, NON_EMPTY, NOT_NULL, Form, Later, Mark, Pattern, Secret, count

ANY_TEXT = Pattern("text", r"[\s\S]*", "text")


@dataclass(frozen=True, slots=True)
class Formed:
    """A scalar that a form reads."""

    form: Form


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words; `later` are those that are not built yet."""

    words: tuple[str, ...]
    later: frozenset[str]


@dataclass(frozen=True, slots=True)
class FilePath:
    """A path, relative to the file that names it."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """A secret: the only place where `${env:…}` and `${file:…}` are expanded."""


@dataclass(frozen=True, slots=True)
class Anything:
    """Any value, as plain data."""


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list."""

    item: Shape
    non_empty: bool
    from_directory: bool


@dataclass(frozen=True, slots=True)
class MapOf:
    """A mapping whose keys are names that the author chooses."""

    key: Form
    value: Shape
    non_empty: bool


@dataclass(frozen=True, slots=True)
class Record:
    """A mapping whose keys are the fields of a dataclass."""

    cls: type


@dataclass(frozen=True, slots=True)
class Either:
    """One of several shapes, or (where `nullable`) null."""

    options: tuple[Shape, ...]
    nullable: bool


Shape: TypeAlias = Formed | Flag | Choice | FilePath | Hidden | Anything | ListOf | MapOf | Record | Either


@dataclass(frozen=True, slots=True)
class Member:
    """A field of a settings dataclass, as the file sees it."""

    name: str
    key: str  # the name without a trailing underscore, which Python's keywords need
    shape: Shape
    required: bool

    def default(self, cls: type) -> object:
        """A fresh default value; only for members that are not required."""
        for field in dataclasses.fields(cls):
            if field.name == self.name:
                factory = field.default_factory
                return field.default if factory is dataclasses.MISSING else factory()
        raise AssertionError(self.name)


@functools.cache
def members(cls: type) -> dict[str, Member]:
    """The members of a settings dataclass by key."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {}
    for field in dataclasses.fields(cls):
        key = field.name.rstrip("_")
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        found[key] = Member(field.name, key, shape_of(hints[field.name]), required)
    return found


def not_built(cls: type) -> Mapping[str, str]:
    """The keys that a settings dataclass knows but this release does not have."""
    keys: Mapping[str, str] = getattr(cls, "NOT_BUILT", {})
    return keys


def shape_of(hint: Any) -> Shape:  # noqa: ANN401 -- an annotation is any object
    """The shape that an annotation asks for; `TypeError` for what settings do not use."""
    marks: tuple[object, ...] = ()
    if typing.get_origin(hint) is Annotated:
        hint, *rest = typing.get_args(hint)
        marks = tuple(rest)
    for mark in marks:
        if isinstance(mark, Form):
            return Formed(mark)
        if not isinstance(mark, (Later, Mark)):
            raise TypeError(f"{mark!r} is neither a form nor a mark")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in {Union, types.UnionType}:
        options = tuple(shape_of(arg) for arg in args if arg is not types.NoneType)
        return Either(options, types.NoneType in args and NOT_NULL not in marks)
    if origin is Literal:
        return Choice(args, frozenset().union(*(mark.values for mark in marks if isinstance(mark, Later))))
    if origin is tuple:
        return ListOf(shape_of(args[0]), NON_EMPTY in marks, FROM_DIRECTORY in marks)
    if origin is Mapping:
        key = shape_of(args[0])
        return MapOf(key.form if isinstance(key, Formed) else ANY_TEXT, shape_of(args[1]), NON_EMPTY in marks)
    if dataclasses.is_dataclass(hint):
        return Record(typing.cast("type", hint))
    return _SIMPLE[hint]


_SIMPLE: dict[object, Shape] = {
    bool: Flag(),
    str: Formed(ANY_TEXT),
    int: Formed(count()),
    Path: FilePath(),
    Secret: Hidden(),
    object: Anything(),
}


@functools.cache
def field_docs(cls: type) -> dict[str, str]:
    """By name, the strings that stand below the fields of a class and of those it inherits from."""
    docs: dict[str, str] = {}
    for owner in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        statements = body.body if isinstance(body, ast.ClassDef) else []
        for field, text in itertools.pairwise(statements):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                    docs[name] = " ".join(doc.split())
    return docs
