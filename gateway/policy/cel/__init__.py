"""Expressions in policies: a subset of CEL (the Common Expression Language), compiled to closures.

`compile_cel(text, environment, expects=BOOL)` gives a `Program` or raises `CelMistake`;
`Program.evaluate(activation)` gives a value or raises `CelError`. docs/cel.md has the language.
"""

from decimal import Decimal

from gateway.policy.cel.declared import (
    BOOL,
    BYTES,
    DECIMAL,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    NULL,
    STRING,
    TIMESTAMP,
    UINT,
    CelType,
    Environment,
    list_of,
    map_of,
    object_of,
)
from gateway.policy.cel.errors import CelError, CelMistake
from gateway.policy.cel.program import Clause, Deferred, Program, compile_cel
from gateway.policy.cel.values import Duration, Timestamp, UInt

__all__ = [
    "BOOL",
    "BYTES",
    "DECIMAL",
    "DOUBLE",
    "DURATION",
    "DYN",
    "INT",
    "NULL",
    "STRING",
    "TIMESTAMP",
    "UINT",
    "CelError",
    "CelMistake",
    "CelType",
    "Clause",
    "Decimal",
    "Deferred",
    "Duration",
    "Environment",
    "Program",
    "Timestamp",
    "UInt",
    "compile_cel",
    "list_of",
    "map_of",
    "object_of",
]
