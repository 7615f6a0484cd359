"""A compiled expression: its value for some facts, what it reads, and why it is what it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from gateway.policy.cel.arithmetic import an_int
from gateway.policy.cel.checker import check
from gateway.policy.cel.compiler import compiled
from gateway.policy.cel.declared import DYN, CelType, Environment, fits, settled
from gateway.policy.cel.errors import CelError, CelMistake
from gateway.policy.cel.parser import parse
from gateway.policy.cel.syntax import Logic, MapLiteral, Node, parts, path_of
from gateway.policy.cel.times import write_duration, write_timestamp
from gateway.policy.cel.values import MAX_UINT, MIN_INT, Closure, Duration, Frame, Timestamp, kind_of, plain

_SHOWN: Final = 60  # characters of a value in an explanation


class Clause(NamedTuple):
    """One operand of an expression's top-level `&&` or `||` (the whole, where there is none), evaluated alone."""

    text: str
    value: object  # `None` where there is an error
    error: str  # empty where there is a value
    read: tuple[tuple[tuple[str, ...], str], ...]  # the paths that it reads, each with its value, shortened


def compile_cel(text: str, environment: Environment, *, expects: CelType | None = None) -> Program:
    """A program from text whose names `environment` declares, of type `expects`; raises `CelMistake`."""
    tree = parse(text)
    slots = check(tree, text, environment)
    if expects is not None and not fits(expects, tree.type, {}):
        raise CelMistake(f"the expression is of type {settled(tree.type)}, and has to be of type {expects}", tree.start)
    return Program(text, tree, slots, expects)


class Program:
    """An expression, ready to be evaluated any number of times.

    `type` is what it gives, as far as that is known at load. `reads` are all paths that it can read:
    ("args", "amount"), or ("attestations",) where it reads more of something than single members.
    """

    def __init__(self, text: str, tree: Node, slots: int, expects: CelType | None) -> None:
        """Compile a checked tree."""
        self.text = text
        self.type = settled(tree.type)
        self.reads = frozenset(_paths(tree))
        self._slots = slots
        self._expects = expects.name if expects is not None and expects.name != "dyn" else None
        self._run = compiled(tree)
        self._makes_maps = any(isinstance(node, MapLiteral) for node in _below(tree))
        self._clauses = tree.operands if isinstance(tree, Logic) else [tree]

    def evaluate(self, activation: Mapping[str, object]) -> object:
        """The value for these facts; raises `CelError`.

        Only what the expression names is touched. A fact is found by its name, a member by `[name]`.
        """
        value = self._run(Frame(activation, self._slots))
        kind = kind_of(value)
        if self._expects is not None and kind != self._expects:
            raise CelError(f"the expression gave a value of type {kind}, and not of {self._expects}")
        if kind == "int":
            return an_int(value)  # type: ignore[arg-type] # by kind
        return plain(value) if self._makes_maps else value

    def explain(self, activation: Mapping[str, object]) -> list[Clause]:
        """What each operand of the top-level `&&` or `||` gives, and from which values."""
        return [self._clause(node, compiled(node), activation) for node in self._clauses]

    def _clause(self, node: Node, run: Closure, activation: Mapping[str, object]) -> Clause:
        value, error = None, ""
        try:
            value = plain(run(Frame(activation, self._slots)))
        except CelError as problem:
            error = str(problem)
        read = tuple((path, _shown(path, activation)) for path in sorted(set(_paths(node))))
        return Clause(self.text[node.start : node.end], value, error, read)


class Deferred(Program):
    """An expression that was checked before, as `compile_cel` does, and is compiled when it is first evaluated."""

    def __init__(  # without the tree that its base is made of
        self, text: str, environment: Environment, *, expects: CelType | None, reads: frozenset[tuple[str, ...]]
    ) -> None:
        """`reads` is what the checked program reads."""
        self.text = text
        self.reads = reads
        self.type = expects if expects is not None else DYN
        self._environment = environment
        self._wanted = expects
        self._program: Program | None = None

    def evaluate(self, activation: Mapping[str, object]) -> object:
        """See `Program`."""
        return (self._program or self._compile()).evaluate(activation)

    def explain(self, activation: Mapping[str, object]) -> list[Clause]:
        """See `Program`."""
        return (self._program or self._compile()).explain(activation)

    def _compile(self) -> Program:
        self._program = compile_cel(self.text, self._environment, expects=self._wanted)
        return self._program


def _below(node: Node) -> Iterator[Node]:
    yield node
    for part in parts(node):
        yield from _below(part)


def _paths(node: Node) -> Iterator[tuple[str, ...]]:
    path = path_of(node)
    if path is not None:
        yield path
        return
    for part in parts(node):
        yield from _paths(part)


def _shown(path: tuple[str, ...], activation: Mapping[str, object]) -> str:
    """A value on one line, shortened; lists and maps by their size."""
    found: object = activation
    try:
        for step in path:
            found = found[step]  # type: ignore[index] # what has no members raises
    except (KeyError, TypeError):
        return "missing"
    match found:
        case str() | bytes():
            return repr(found) if len(found) <= _SHOWN else f"{found[:_SHOWN]!r}…"
        case list() | Mapping():
            return f"a {kind_of(found)} of {len(found)}"
        case Timestamp():
            return write_timestamp(found)
        case Duration():
            return write_duration(found)
        case None | bool():
            return {None: "null", True: "true", False: "false"}[found]
        case int() if not MIN_INT <= found <= MAX_UINT:
            return "a number beyond 64 bits"
    return str(found)
