"""Google's own implementation of CEL in C++ (cel-expr-python), asked the same questions in the same words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cel_expr_python import cel

from gateway.policy.cel import CelType, Duration, Timestamp, UInt
from gateway.policy.cel.values import TypeValue, kind_of

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS: Final = {
    "NULL": "null_type", "TIMESTAMP": "google.protobuf.Timestamp", "DURATION": "google.protobuf.Duration",
}  # fmt: skip
_TYPES: Final = {
    "dyn": cel.Type.DYN, "null_type": cel.Type.NULL, "bool": cel.Type.BOOL, "int": cel.Type.INT, "uint": cel.Type.UINT,
    "double": cel.Type.DOUBLE, "string": cel.Type.STRING, "bytes": cel.Type.BYTES,
    "google.protobuf.Timestamp": cel.Type.TIMESTAMP, "google.protobuf.Duration": cel.Type.DURATION,
}  # fmt: skip


class Failed(Exception):
    """An expression that does not compile, or has no value."""


def _type(ours: CelType) -> Any:  # noqa: ANN401 # the binding has no types of its own
    parameters = [_type(parameter) for parameter in ours.parameters]
    if ours.name == "list":
        return cel.Type.List(*parameters)
    return cel.Type.Map(*parameters) if ours.name == "map" else _TYPES[ours.name]


def _handed(value: object) -> object:
    """A value as the binding takes it."""
    match value:
        case Timestamp():
            return EPOCH + timedelta(microseconds=value.ns // 1000)
        case Duration():
            return timedelta(microseconds=value.ns // 1000)
        case list():
            return [_handed(item) for item in value]
        case dict():
            return {key: _handed(item) for key, item in value.items()}
    return value


def _name(theirs: str) -> str:
    bare, _, _ = theirs.partition("<")
    return _KINDS.get(bare, bare.lower())


def _taken(value: Any) -> object:  # noqa: ANN401 # as above
    """A value of the binding as one of ours; raises `Failed` for an error.

    It is never asked for a plain `None`, of which it counts one reference too few each time.
    """
    kind = value.type().name()
    if kind == "NULL":
        return None
    if kind.startswith("LIST"):
        return [_taken(item) for item in value.value()]
    if kind.startswith("MAP"):
        return {key: _taken(item) for key, item in value.value().items()}
    plain = value.plain_value()
    match kind:
        case "ERROR":
            raise Failed(plain)
        case "UINT":
            return UInt(plain)
        case "BYTES":
            return bytes(plain)
        case "TIMESTAMP":
            return Timestamp((plain - EPOCH) // timedelta(microseconds=1) * 1000)
        case "DURATION":
            return Duration(plain // timedelta(microseconds=1) * 1000)
        case "TYPE":
            return TypeValue(_name(plain.name()))
    return plain


class Oracle:
    """The other implementation with some variables."""

    def __init__(self, variables: Mapping[str, CelType]) -> None:
        """Declare the same names."""
        self._env = cel.NewEnv(variables={name: _type(declared) for name, declared in variables.items()})

    def facts(self, facts: Mapping[str, object]) -> Any:  # noqa: ANN401 # as above
        """Facts, ready for any number of expressions."""
        return self._env.Activation({name: _handed(value) for name, value in facts.items()})

    def compile(self, text: str, *, checked: bool = True) -> Any:  # noqa: ANN401 # as above
        """A compiled expression, with types or without; raises `Failed`."""
        try:
            return self._env.compile(text, not checked)
        except Exception as error:  # noqa: BLE001 # the binding raises what it likes
            raise Failed(str(error)) from None

    @staticmethod
    def evaluate(expression: Any, facts: Any) -> object:  # noqa: ANN401 # as above
        """A value in our terms; raises `Failed`."""
        try:
            value = expression.eval(facts)
        except RuntimeError as error:
            raise Failed(str(error)) from None
        return _taken(value)


def same(ours: object, theirs: object) -> bool:
    """Whether two values are the same, as far as the binding shows it: times to the microsecond; NaN is itself."""
    if kind_of(ours) != kind_of(theirs):
        return False
    match ours, theirs:
        case float(), float():
            return repr(ours) == repr(theirs) or (math.isnan(ours) and math.isnan(theirs))
        case ((Timestamp() | Duration()), (Timestamp() | Duration())):
            return abs(ours.ns - theirs.ns) < 1000
        case list(), list():
            return len(ours) == len(theirs) and all(map(same, ours, theirs))
        case dict(), dict():
            return ours.keys() == theirs.keys() and all(same(value, theirs[key]) for key, value in ours.items())
    return ours == theirs
