# ruff: noqa: INP001 -- a script, not a package
"""Take the defences of `gateway/identity` out, one at a time, and show which tests turn red.

`make knock-out` prints the table; it fails where something can be taken out and everything stays green. What can be
taken out is found in the code itself: every condition under which something is refused (a `raise`, or what is wrong
given as text), so that none is forgotten. `knock_out.txt` adds what is no such condition: what a step reads strictly
or never takes over, what PyJWT holds beside ours, and what is held twice.

It works on copies of the tree, never on the tree itself.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple

import jwt

ROOT: Final = Path(__file__).resolve().parents[1]
TABLE: Final = ROOT / "scripts" / "knock_out.txt"
_PYJWT: Final = Path(jwt.__file__).parent

_PARTS: Final[Mapping[str, str]] = {
    "tokens.py": "tokens", "kinds.py": "tokens", "spiffe.py": "spiffe", "jose.py": "jose", "keys.py": "keys",
    "proof.py": "proof", "certificates.py": "certificates", "credential.py": "credential", "registry.py": "registry",
    "delegation.py": "delegation", "token_request.py": "delegation", "__init__.py": "door", "operators.py": "operators",
    "utils.py": "pyjwt", "algorithms.py": "pyjwt",
}  # fmt: skip
"""The files of `gateway/identity` and of PyJWT in which something is taken out, and which part they belong to."""
_ONLY: Final[Mapping[str, frozenset[str]]] = {
    "keys.py": frozenset({"read_jwk", "_read_key", "_algs", "_public_key", "_octets"}),
    "registry.py": frozenset({"find", "matching"}),
    "operators.py": frozenset({"verify", "_valid"}),
    "__init__.py": frozenset({"identify_parent", "_find", "_prove", "_recognise", "_verify", "_check_address"}),
}
"""Of these files only these functions: the others read configuration, or answer operators."""
_IN_OTHER_WORDS: Final = frozenset(
    {
        ("tokens.py", "verify"), ("tokens.py", "_segments"), ("tokens.py", "_json"), ("kinds.py", "_workload"),
        ("keys.py", "_read_key"), ("keys.py", "_octets"), ("proof.py", "prove"), ("proof.py", "_read"),
        ("proof.py", "_signer"), ("certificates.py", "read"), ("certificates.py", "verify"),
        ("certificates.py", "_foreign"), ("delegation.py", "principal"), ("token_request.py", "_binding"),
        ("operators.py", "verify"),
    }
)  # fmt: skip
"""Functions whose `except` puts a refusal into other words: what refuses stands elsewhere, or in the table."""
_NUMBERS: Final[Mapping[tuple[str, str], int]] = {
    ("kinds.py", "_workload"): 15, ("kinds.py", "_service_account"): 15, ("spiffe.py", "spiffe_id"): 15,
    ("keys.py", "read_jwk"): 7, ("keys.py", "_read_key"): 7, ("keys.py", "_algs"): 7, ("keys.py", "_public_key"): 7,
}  # fmt: skip
"""Steps of tokens (15) and of proofs (7) whose conditions stand in files of their own."""

_TOKENS: Final = ("tests/attacks/test_forgeries.py", "tests/attacks/test_kinds.py")
_TESTS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "tokens": ("tokens kinds possession delegation", _TOKENS),
    "spiffe": ("spiffe kinds certificates", _TOKENS),
    "jose": ("jose tokens proof", _TOKENS),
    "keys": ("keys proof tokens wycheproof", ()),
    "pyjwt": ("wycheproof vectors tokens kinds", _TOKENS),
    "proof": ("proof possession", ("tests/e2e/test_dpop.py",)),
    "certificates": ("certificates", ("tests/e2e/test_mutual_tls.py",)),
    "credential": ("credential certificates", ()),
    "registry": ("registry", ()),
    "delegation": ("delegation", ()),
    "operators": ("operators", ()),
    "door": ("possession certificates delegation tokens remembering api_keys adopting", ()),
}
"""By part: the files of tests/identity that should notice, and those with a real listener, asked for numbered steps."""

_NUMBER: Final = re.compile(r"# (\d+)(?=;|$)", re.MULTILINE)
_NUMBERED: Final = re.compile(r"^ ?(\d+) {2}\S", re.MULTILINE)
_BLOCK: Final = re.compile(r"^(\S+\.py) (\d+): (.+)\n((?:- .*\n)+)((?:\+ .*\n)*)", re.MULTILINE)
_TWICE: Final = re.compile(r"^held twice: (.+)\n((?:with: .+\n)+)why: (.+)\n", re.MULTILINE)
_RESULT: Final = re.compile(r"^(?:FAILED|ERROR) (\S+\.py)(?:::(.+?))?(?: - (.*))?$", re.MULTILINE)
_LET_IN: Final = re.compile(r"DID NOT RAISE|assert (\()?200|Principal\(")
"""What a test says that was told "yes" where it expected a refusal; the others met another refusal, or an exception."""
_PATIENCE: Final = 600.0
_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Edit(NamedTuple):
    """One defence taken out: a piece of a file, and what stands there instead."""

    file: str  # from the root of the tree
    number: int  # of the step; 0: its part has no numbers
    function: str
    what: str  # the condition, or a sentence
    start: int
    end: int
    new: str

    @property
    def name(self) -> str:
        """What the table calls it, and nothing else."""
        place = self.file.removeprefix("gateway/identity/").removesuffix(".py")
        return f"{place} {self.number or '-'} {self.function}: {self.what}"

    def apply(self, text: str) -> str:
        """The file's text without it."""
        return text[: self.start] + self.new + text[self.end :]


# -- what can be taken out


def edits(root: Path = ROOT) -> list[Edit]:
    """All of them, by file and place; raises `LookupError` where the table does not fit the code."""
    found = [edit for name, part in _PARTS.items() if part != "pyjwt" for edit in _conditions(root, name)]
    for name, number, what, old, new in _BLOCK.findall(_table()):
        file = name if "/" in name else f"gateway/identity/{name}"
        text, old_text, new_text = text_of(root, file), _joined(old), _joined(new)
        if text.count(old_text) != 1:
            raise LookupError(
                f"{TABLE.name}: {file} has {old_text!r} {text.count(old_text)} times, where once is needed"
            )
        start = text.index(old_text)
        above = re.findall(r"^ *(?:async def|def|class) (\w+)", text[:start], re.MULTILINE)
        found.append(Edit(file, int(number), above[-1], what, start, start + len(old_text), new_text))
    return sorted(found, key=lambda edit: (edit.file, edit.start))


def steps() -> dict[str, set[int]]:
    """The numbered steps of each part that has such, as a docstring lists them."""
    found: dict[str, set[int]] = {}
    for name in ("tokens.py", "proof.py", "certificates.py"):
        told = ast.get_docstring(ast.parse(text_of(ROOT, f"gateway/identity/{name}"))) or ""
        found[name] = {int(number) for number in _NUMBERED.findall(told)}
    return found


def part_of(edit: Edit) -> str:
    """Which part a file belongs to."""
    return _PARTS[edit.file.rpartition("/")[2]]


def held_twice() -> dict[str, tuple[list[str], str]]:
    """By name: what has to be taken out as well before anything changes, and why."""
    found = _TWICE.findall(_table())
    return {name: (re.findall("^with: (.+)$", others, re.MULTILINE), why) for name, others, why in found}


def _table() -> str:
    lines = TABLE.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("#"))


def _joined(lines: str) -> str:
    return "\n".join(line[2:] for line in lines.splitlines())


def text_of(root: Path, file: str) -> str:
    """A file of the tree, or of PyJWT where the tree has no copy of it."""
    path = root / file
    return (path if path.is_file() else _PYJWT.parent / file).read_text(encoding="utf-8")


def _conditions(root: Path, name: str) -> Iterator[Edit]:
    """Every condition of a file under which something is refused."""
    source = _Source(text_of(root, f"gateway/identity/{name}"))
    seen: set[ast.AST] = set()
    for node in ast.walk(source.tree):
        function = source.function(node)
        if function is None or (name in _ONLY and function.name not in _ONLY[name]) or not _refuses(node, function):
            continue
        place = source.place(node)
        if isinstance(place, ast.ExceptHandler):
            if (name, function.name) not in _IN_OTHER_WORDS:
                raise LookupError(f"{name}: what does the `except` of {function.name} refuse? say so in {TABLE.name}")
        elif place not in seen:
            seen.add(place)
            start, end = source.span(place.test if isinstance(place, ast.If) else place)
            old = source.text[start:end]
            new = (
                f"False and ({old})"
                if isinstance(place, ast.If)
                else "pass"
                if old.startswith("raise")
                else 'return ""'
            )
            number = source.number(place) or source.steps.get(function.name) or _NUMBERS.get((name, function.name), 0)
            what = " ".join(old.split())
            what = what if len(what) <= 100 else f"{what[:100]}…"  # noqa: PLR2004 - a line
            yield Edit(f"gateway/identity/{name}", number, function.name, what, start, end, new)


def _refuses(node: ast.AST, function: _Function) -> bool:
    """Whether this raises; or gives what is wrong, in a function that gives it as text, and nothing as ''."""
    if isinstance(node, ast.Raise):
        return True
    if not isinstance(node, ast.Return) or function.returns is None or ast.unparse(function.returns) != "str":
        return False
    given = [ast.unparse(part) for part in ast.walk(function) if isinstance(part, ast.Return)]
    return ast.unparse(node) != "return ''" and any(re.search(r"return ''|else ''$", text) for text in given)


class _Source:
    """A file's syntax tree, with the way up and the places in its text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self._above = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self._lines = text.splitlines(keepends=True)
        self.steps: dict[str, int] = {}  # of functions that stand in a table of pairs, number and function
        for node in ast.walk(self.tree):
            match node:
                case ast.Tuple(elts=[ast.Constant(value=int(number)), ast.Name(id=name) | ast.Attribute(attr=name)]):
                    self.steps[name] = number

    def function(self, node: ast.AST) -> _Function | None:
        """The function around it."""
        above = self._above.get(node)
        while above is not None and not isinstance(above, _Function):
            above = self._above.get(above)
        return above

    def place(self, node: ast.AST) -> ast.stmt | ast.ExceptHandler:
        """What lets it be reached: the `if` with it behind its condition, or an `except`; else it is itself."""
        below, above = node, self._above[node]
        while not isinstance(above, _Function | ast.If | ast.ExceptHandler):
            below, above = above, self._above[above]
        if isinstance(above, ast.ExceptHandler) or (isinstance(above, ast.If) and below in above.body):
            return above
        return node if isinstance(node, ast.stmt) else ast.Pass()

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Where it begins and ends in the text."""
        last, column = node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
        return self._at(node.lineno, node.col_offset), self._at(last, column)

    def _at(self, line: int, column: int) -> int:
        before = "".join(self._lines[: line - 1])
        return len(before) + len(self._lines[line - 1].encode()[:column].decode())

    def number(self, node: ast.stmt) -> int:
        """The step that its line names, 0 without one."""
        last = node.body[0].lineno - 1 if isinstance(node, ast.If) else node.lineno
        found = _NUMBER.search("".join(self._lines[node.lineno - 1 : last]))
        return int(found[1]) if found else 0


# -- taking it out


class Red(NamedTuple):
    """A test that fails, and why in a line."""

    test: str
    why: str


@dataclass(frozen=True)
class Tree:
    """A copy of the tree, PyJWT included, that may be broken."""

    root: Path

    @classmethod
    def copied(cls, folder: Path) -> Tree:
        """Copy what git tracks, and what is new."""
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        for name in listed:
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        shutil.copytree(_PYJWT, folder / "jwt", ignore=shutil.ignore_patterns("__pycache__"))
        return cls(folder)

    @contextmanager
    def without(self, taken: Iterable[Edit]) -> Iterator[None]:
        """Take these out for a while."""
        before: dict[Path, str] = {}
        try:
            for edit in sorted(taken, key=lambda edit: -edit.start):  # from the end, so that places stay right
                path = self.root / edit.file
                text = path.read_text(encoding="utf-8")
                before.setdefault(path, text)
                _write(path, edit.apply(text))
            yield
        finally:
            for path, text in before.items():
                _write(path, text)

    def red(self, tests: Iterable[str]) -> list[Red]:
        """The tests that fail now; quick ones, each alone."""
        options = ["-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", "-o", "timeout=40"]
        command = [sys.executable, "-m", "pytest", *options, "-m", "not hypothesis and not soak", *tests]
        environment = {**os.environ, "COLUMNS": "300", "PYTHONPATH": str(self.root)}
        try:
            done = subprocess.run(
                command, cwd=self.root, env=environment, capture_output=True, text=True, check=False, timeout=_PATIENCE
            )
        except subprocess.TimeoutExpired:
            return [Red("all", f"no end within {_PATIENCE:g} s")]
        found = [Red(test or file, why) for file, test, why in _RESULT.findall(done.stdout)]
        return found or ([Red("all", (done.stdout + done.stderr).strip()[-300:])] if done.returncode else [])


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    Path(cache_from_source(str(path))).unlink(missing_ok=True)


class Row(NamedTuple):
    """A line of the table."""

    taken: list[Edit]
    part: list[Red]  # of the tests of its part
    listener: list[Red] | None  # of those with a real listener, `None` where none was asked
    why: str  # why the first of them alone changes nothing; empty: it is the only one

    def __str__(self) -> str:
        lines = [f"{'GREEN: ' if not self.part else ''}{self.taken[0].name}"]
        lines += [f"    and {other.name}: {self.why}" for other in self.taken[1:]]
        for where, red in (("tests", self.part), ("at the listener", self.listener)):
            if red is not None:
                let_in = sum(bool(_LET_IN.search(one.why)) for one in red)
                names = ", ".join(one.test for one in red[:3])
                lines.append(f"    {where}: {len(red)} red, {let_in} let in" + (f": {names}" if red else ""))
        return "\n".join(lines)


def knock_out(tree: Tree, edit: Edit, *, listener: bool = True) -> Row:
    """Take it out of the tree, with what holds the same; run the tests; put it back."""
    names, why = held_twice().get(edit.name, ([], ""))
    taken = [edit, *(other for other in edits(tree.root) if other.name in names)]
    with tree.without(taken):
        part = tree.red(_asked(taken, listener=False))
        at_listener = _asked(taken, listener=True) if listener and edit.number else []
        return Row(taken, part, tree.red(at_listener) if at_listener else None, why)


def _asked(taken: Iterable[Edit], *, listener: bool) -> list[str]:
    """The files with tests that should notice."""
    parts = [_TESTS[part_of(edit)] for edit in taken]
    if listener:
        return sorted({file for _, files in parts for file in files})
    return sorted({f"tests/identity/test_{name}.py" for names, _ in parts for name in names.split()})


def main() -> int:
    """Print the table; 1 where something stayed green, 2 where it cannot be told."""
    parser = argparse.ArgumentParser(prog="python -m scripts.knock_out", description="see which defences are tested")
    parser.add_argument("--jobs", type=int, default=2, help="how many copies of the tree are tested at the same time")
    parser.add_argument("--only", default="", metavar="REGEX", help="only what has such a name")
    parser.add_argument(
        "--no-listener", action="store_true", help="without the tests at a real listener, in half the time"
    )
    parser.add_argument("--list", action="store_true", help="name what can be taken out, and do nothing")
    given = parser.parse_args()
    listener = not given.no_listener
    if given.list:
        print("\n".join(edit.name for edit in edits()))
        return 0
    with ExitStack() as stack:
        trees: SimpleQueue[Tree] = SimpleQueue()
        for _ in range(given.jobs):
            trees.put(Tree.copied(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="knock-out-")))))
        tree = trees.get()
        chosen = [edit for edit in edits(tree.root) if re.search(given.only, edit.name)]
        whole = {file for both in {False, listener} for file in _asked(chosen, listener=both)}
        if red := tree.red(sorted(whole)):
            print(f"nothing is taken out yet, and {len(red)} tests are red: {red[:3]}", file=sys.stderr)
            return 2
        trees.put(tree)

        def row(edit: Edit) -> Row:
            tree = trees.get()
            try:
                return knock_out(tree, edit, listener=listener)
            finally:
                trees.put(tree)

        unnoticed = 0
        for done in stack.enter_context(ThreadPoolExecutor(given.jobs)).map(row, chosen):
            unnoticed += not done.part
            print(done, flush=True)
    print(f"{len(chosen)} taken out, {unnoticed} unnoticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
