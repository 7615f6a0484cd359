"""The catalogue of attacks against the tests: which of its ids are named, and which wait."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TESTS: Final = Path(__file__).resolve().parents[1]
_ID: Final = re.compile(r"\b[A-Z]\d{1,2}\b")
_LINE: Final = re.compile(r"([A-Z]\d{1,2})( in part)?: (\S.{9,})")


@dataclass(frozen=True)
class Catalogue:
    """`ids` are all of it, `waiting` and `in_part` what `uncovered.txt` says, `named` where tests name an id."""

    ids: tuple[str, ...]
    waiting: dict[str, str]
    in_part: dict[str, str]
    named: dict[str, set[str]]

    def summary(self) -> str:
        """One line with the count."""
        whole = len(self.ids) - len(self.waiting) - len(self.in_part)
        return (
            f"attacks: {whole} of {len(self.ids)} covered, {len(self.in_part)} in part, {len(self.waiting)} waiting "
            "(tests/attacks/uncovered.txt)"
        )


def read() -> Catalogue:
    """Read both lists and every docstring; raises `ValueError` for a line of `uncovered.txt` that is none."""
    waiting: dict[str, str] = {}
    in_part: dict[str, str] = {}
    for line in (_TESTS / "attacks" / "uncovered.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None or found[1] in waiting or found[1] in in_part:
            raise ValueError(f"uncovered.txt: not `ID: reason` or `ID in part: what waits`, or there twice: {line!r}")
        (in_part if found[2] else waiting)[found[1]] = found[3]
    ids = tuple((_TESTS / "attacks" / "ids.txt").read_text().split())
    named: dict[str, set[str]] = {}
    for file in sorted(_TESTS.rglob("test_*.py")):
        for test, text in _docstrings(file):
            for name in _ID.findall(text):
                named.setdefault(name, set()).add(f"{file.relative_to(_TESTS)}::{test}")
    return Catalogue(ids, waiting, in_part, named)


def _docstrings(file: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.name, ast.get_docstring(node) or ""
