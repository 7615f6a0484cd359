"""The shape of the code: floors, names, sizes, no mocks, no float near money."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.tree import ROOT, modules, tracked

ALL_CODE = ("gateway", "tests", "benchmarks", "scripts")
MOST_LINES = 500
SAYS_NOTHING = re.compile(r"(util|helper|common|base|misc|manager)s?")
MONEY = re.compile(r"nano|femto|usd|cost|price|spend|amount", re.IGNORECASE)
JOINS = (
    ast.BinOp, ast.UnaryOp, ast.Compare, ast.IfExp, ast.BoolOp, ast.NamedExpr, ast.keyword, ast.arg,
    ast.Assign, ast.AugAssign, ast.AnnAssign,
)  # fmt: skip


def test_imports_go_down_the_floors_only() -> None:
    """Every contract of import-linter in pyproject.toml holds."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_has_a_name_that_says_nothing() -> None:
    """No file or folder is called utils, helpers, common, base, misc or manager."""
    found = [path for path in tracked(new=True) for part in path.parts if SAYS_NOTHING.fullmatch(part.split(".")[0])]
    assert found == []


def test_a_long_file_says_why_it_is_one_file() -> None:
    """A file of more than 500 lines gives its reason in its docstring, with the word "because"."""
    long = [
        f"{path}: {len(text.splitlines())} lines"
        for path, tree, text in modules("gateway", "benchmarks", "scripts")
        if len(text.splitlines()) > MOST_LINES and "because" not in (ast.get_docstring(tree) or "")
    ]
    assert long == []


def test_nothing_is_mocked_or_patched() -> None:
    """Tests use real parts and simulators: no `unittest.mock`, no attribute of ours replaced under a test."""
    found = [
        f"{path}:{node.lineno}"
        for path, tree, _ in modules(*ALL_CODE)
        for node in ast.walk(tree)
        if (isinstance(node, ast.Import) and any(re.match(r"(unittest\.)?mock\b", name.name) for name in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module in {"unittest", "unittest.mock", "mock", "pytest_mock"})
        or (isinstance(node, ast.Attribute) and ast.unparse(node) == "monkeypatch.setattr")
    ]
    assert found == []


def test_refusals_read_alike() -> None:
    """The sentence of a `Refusal` stands behind its code: it starts in lower case and ends without a full stop."""
    found = [
        f"{path}:{node.lineno}: {said}"
        for path, tree, _ in modules("gateway")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Refusal" and len(node.args) > 1
        for said in _written(node.args[1])
        if said.endswith(".") or re.match(r"[A-Z][a-z]", said)
    ]
    assert found == []


def _written(node: ast.expr) -> Iterator[str]:
    """The texts that an expression may give, with a dash for each part that is not written there."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join("-" if isinstance(part, ast.FormattedValue) else "".join(_written(part)) for part in parts)
        case ast.IfExp(body=body, orelse=orelse):
            yield from _written(body)
            yield from _written(orelse)


def test_no_float_touches_money() -> None:
    """No expression that names money holds a float or divides into one; the exposition of metrics does, once."""
    found = [(str(path), code) for path, tree, _ in modules("gateway") for code in _floats_near_money(tree)]
    assert found == [("gateway/telemetry/metrics.py", "amount / NANO_PER_USD")]


def test_the_search_for_floats_finds_them() -> None:
    """The forms in which a float could slip into money are all found, and integers, Decimals and times are not."""
    assert [*_found("cost = tokens * 0.5"), *_found("cost_nano = total / 3"), *_found("x = float(price)")] == [
        "tokens * 0.5", "total / 3", "float(price)",
    ]  # fmt: skip
    assert list(_found("def pay(usd: float): ...")) == ["float"]
    assert list(_found("def usd() -> float: ...")) == ["usd"]
    assert list(_found("row(spend=held + 1.0)")) == ["held + 1.0"]
    assert list(_found("cost = int(Decimal(femto) / 1_000_000)\ndeadline = now + 5.0\nrate(price, at=0.5)")) == []


def _found(code: str) -> Iterator[str]:
    return _floats_near_money(ast.parse(code))


def _floats_near_money(tree: ast.Module) -> Iterator[str]:
    above = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.returns and "float" in _names(node.returns) and MONEY.search(node.name):
                yield node.name
            continue
        if not _makes_float(node):
            continue
        whole: ast.AST = node
        while isinstance(above.get(whole), JOINS):
            whole = above[whole]
        if any(MONEY.search(name) for name in _names(whole)):
            value = next((part for part in (node, above[node]) if isinstance(part, ast.BinOp)), node)
            yield ast.unparse(value)


def _makes_float(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=float()):
            return True
        case ast.Call(func=ast.Name(id="float")):
            return True
        case ast.BinOp(left=ast.Call(func=ast.Name(id="Decimal")), op=ast.Div()):
            return False
        case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
            return True
        case ast.Name(id="float"):
            return True
    return False


def _names(node: ast.AST) -> set[str]:
    found = set()
    for part in ast.walk(node):
        match part:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                found.add(name)
    return found
