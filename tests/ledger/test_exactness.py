"""No float touches money: a walk over the syntax trees of what keeps, sums and tells it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "gateway"
EXACT = [
    "core/money.py",
    "core/row.py",
    "ledger/posting.py",
    "ledger/poster.py",
    "ledger/report.py",
    "ledger/export.py",
    "ledger/calls.py",
    "state/schema.py",
]


def floats_in(source: str) -> list[str]:
    """Float literals, `float(…)` and divisions that make floats; `/` on `Decimal` is exact and is let be."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Constant(value=float()):
                found.append(f"line {node.lineno}: {node.value!r}")
            case ast.Call(func=ast.Name(id="float")):
                found.append(f"line {node.lineno}: float()")
            case ast.BinOp(op=ast.Div(), left=ast.Call(func=ast.Name(id="Decimal"))):
                pass
            case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
                found.append(f"line {node.lineno}: /")
            case _:
                pass
    return found


@pytest.mark.parametrize("name", EXACT)
def test_money_is_whole_numbers(name: str) -> None:
    """Neither a float nor a true division stands in the modules that handle money."""
    assert floats_in((ROOT / name).read_text()) == []


def test_the_walk_sees_floats() -> None:
    """The walk itself finds what it looks for."""
    assert len(floats_in("a = 1.5\nb = float(a)\nc = 1 / 2\nd = Decimal(1) / 2\nc /= 3")) == 4
