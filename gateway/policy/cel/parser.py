"""From text to tree: precedence climbing over the tokens (langdef.md of the CEL specification, "Syntax").

1. Whatever the text, the answer is a tree or a `CelMistake`: nothing recurses deeper than `MAX_DEPTH` levels.
2. `a && b && c` is one node with three operands, so that a long row is not a deep tree.

What it refuses to know: types, names that exist.
"""

from __future__ import annotations

from typing import Final, NoReturn

from gateway.policy.cel.errors import CelMistake
from gateway.policy.cel.lexer import Token, tokens
from gateway.policy.cel.syntax import Call, ListLiteral, Literal, Logic, Macro, MapLiteral, Name, Node, Select
from gateway.policy.cel.values import MAX_INT

MAX_DEPTH: Final = 32
MAX_NODES: Final = 1000
MACROS: Final = {"all": (1,), "exists": (1,), "exists_one": (1,), "map": (1, 2), "filter": (1,)}
"""Macros, with how many arguments may follow the variable."""

_KEYWORDS: Final = frozenset({"in", "true", "false", "null"})
_CONSTANTS: Final = {"true": True, "false": False, "null": None}
_RESERVED: Final = frozenset({
    "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "namespace",
    "package", "return", "var", "void", "while",
})  # fmt: skip
_BINARY: Final = {
    "*": 4, "/": 4, "%": 4, "+": 3, "-": 3,
    "==": 2, "!=": 2, "<": 2, "<=": 2, ">": 2, ">=": 2, "in": 2,
}  # fmt: skip
_TYPES: Final = frozenset({"google.protobuf.Timestamp", "google.protobuf.Duration"})
_INSTEAD: Final = {"and": "write &&", "or": "write ||", "not": "write !", "is": "write ==", "True": "write true"}


def parse(text: str) -> Node:
    """The tree of a text; raises `CelMistake`."""
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = tokens(text)
        self._next = 0
        self._nodes = 0
        self._nesting = -1  # the whole is not nested

    def whole(self) -> Node:
        node = self._expression()
        if self._token.kind != "end":
            self._unexpected("an operator or the end")
        return node

    @property
    def _token(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._token
        self._next += 1
        return token

    def _accept(self, *signs: str) -> Token | None:
        """The next token where it is one of these signs (or `in`)."""
        token = self._token
        if token.kind in {"sign", "name"} and token.text in signs:
            return self._take()
        return None

    def _expect(self, sign: str, instead: str) -> Token:
        return self._accept(sign) or self._unexpected(instead)

    def _unexpected(self, wanted: str) -> NoReturn:
        token = self._token
        shown = f"unexpected {token.text[:40]}" if token.text else "the expression ends too early"
        raise CelMistake(shown, token.start, _INSTEAD.get(token.text) or f"here is place for {wanted}")

    def _made(self, node: Node, *parts: Node) -> Node:
        """Count a node and its depth."""
        self._nodes += 1
        node.depth = max((part.depth + 1 for part in parts), default=0)
        if node.depth > MAX_DEPTH:
            raise CelMistake(f"the expression is nested deeper than {MAX_DEPTH} levels", node.at, "split the rule")
        if self._nodes > MAX_NODES:
            raise CelMistake(f"the expression has more than {MAX_NODES} parts", node.at, "split the rule")
        return node

    def _expression(self) -> Node:
        self._nesting += 1
        if self._nesting > MAX_DEPTH:
            raise CelMistake(
                f"the expression is nested deeper than {MAX_DEPTH} levels", self._token.start, "split the rule"
            )
        test = self._logic("||")
        if sign := self._accept("?"):
            then = self._logic("||")
            self._expect(":", "the : of the condition")
            other = self._expression()
            test = self._call("_?_:_", sign, test, then, other)
        self._nesting -= 1
        return test

    def _logic(self, sign: str) -> Node:
        operands = [self._operand(sign)]
        at = self._token.start
        while self._accept(sign):
            operands.append(self._operand(sign))
        if len(operands) == 1:
            return operands[0]
        node = Logic(sign=sign, operands=operands, start=operands[0].start, end=operands[-1].end, at=at)
        return self._made(node, *operands)

    def _operand(self, sign: str) -> Node:
        return self._logic("&&") if sign == "||" else self._binary(2)

    def _binary(self, least: int) -> Node:
        left = self._unary()
        while (binds := _BINARY.get(self._token.text, 0)) >= least and self._token.kind in {"sign", "name"}:
            sign = self._take()
            right = self._binary(binds + 1)
            left = self._call("@in" if sign.text == "in" else f"_{sign.text}_", sign, left, right)
        return left

    def _call(self, function: str, sign: Token, *operands: Node) -> Node:
        node = Call(
            function=function, operands=list(operands), start=operands[0].start, end=operands[-1].end, at=sign.start
        )
        return self._made(node, *operands)

    def _unary(self) -> Node:
        signs: list[Token] = []
        while sign := self._accept("!", "-"):
            signs.append(sign)
        token = self._token
        if signs and signs[-1].text == "-" and token.kind == "literal" and type(token.value) in {int, float}:
            self._take()
            minus = signs.pop()
            literal = Literal(value=-token.value, start=minus.start, end=token.end, at=minus.start)  # type: ignore[operator]
            node = self._members(self._made(literal))
        else:
            node = self._members(self._primary())
        for sign in reversed(signs):
            node = self._made(
                Call(function=f"{sign.text}_", operands=[node], start=sign.start, end=node.end, at=sign.start), node
            )
        return node

    def _members(self, node: Node) -> Node:
        """What follows an operand: `.field`, `.function(…)`, `[key]`."""
        while sign := self._accept(".", "["):
            if sign.text == "[":
                key = self._expression()
                close = self._expect("]", "a ]")
                call = Call(function="_[_]", operands=[node, key], start=node.start, end=close.end, at=sign.start)
                node = self._made(call, node, key)
                continue
            name = self._token
            if name.kind == "quoted":
                self._take()
                node = self._select(node, name._replace(text=name.text.strip("`")))
                continue
            if name.kind != "name" or name.text in _KEYWORDS:
                self._unexpected('a name; other keys are written with brackets, args["order-id"]')
            self._take()
            node = self._receiver_call(node, name) if self._accept("(") else self._select(node, name)
        return node

    def _select(self, operand: Node, name: Token) -> Node:
        node = Select(operand=operand, field=name.text, start=operand.start, end=name.end, at=name.start)
        return self._made(node, operand)

    def _receiver_call(self, receiver: Node, name: Token) -> Node:
        arguments, end = self._list(")")
        if name.text in MACROS:
            return self._macro(receiver, name, arguments, end)
        operands = [receiver, *arguments]
        call = Call(function=name.text, operands=operands, receiver=True, start=receiver.start, end=end, at=name.start)
        return self._made(call, *operands)

    def _macro(self, source: Node, name: Token, arguments: list[Node], end: int) -> Node:
        if len(arguments) - 1 not in MACROS[name.text]:
            given = "condition, value" if len(MACROS[name.text]) > 1 else "condition"
            raise CelMistake(f"{name.text} is not called like this", name.start, f"write .{name.text}(x, {given})")
        variable, *rest = arguments
        if not isinstance(variable, Name) or variable.absolute:
            raise CelMistake(f"the first argument of {name.text} is the name of a variable", variable.at, "write x")
        macro = Macro(
            kind=name.text, source=source, variable=variable.name, arguments=rest,
            start=source.start, end=end, at=name.start,
        )  # fmt: skip
        return self._made(macro, source, *rest)

    def _list(self, closing: str) -> tuple[list[Node], int]:
        """Expressions with commas between them up to the closing sign, and where that ends."""
        found: list[Node] = []
        close = self._accept(closing)
        while close is None:
            if closing == "]" and not found and self._accept(","):
                close = self._expect("]", "a ]")
                break
            found.append(self._expression())
            close = self._accept(closing)
            if close is None:
                self._expect(",", f"a comma or {closing}")
                close = self._accept(closing) if closing == "]" else None
        return found, close.end

    def _primary(self) -> Node:
        token = self._token
        if token.kind == "literal":
            return self._literal(self._take())
        if token.kind == "name" and token.text in _CONSTANTS:
            self._take()
            return self._made(Literal(value=_CONSTANTS[token.text], start=token.start, end=token.end, at=token.start))
        if self._accept("("):
            node = self._expression()
            node.start, node.end = token.start, self._expect(")", "a )").end
            return node
        if self._accept("["):
            items, end = self._list("]")
            return self._made(ListLiteral(items=items, start=token.start, end=end, at=token.start), *items)
        if self._accept("{"):
            return self._map(token)
        return self._named(token.start, absolute=self._accept(".") is not None)

    def _literal(self, token: Token) -> Node:
        if type(token.value) is int and token.value > MAX_INT:
            raise CelMistake("the number does not fit into 64 bits", token.start, "write a double, such as 1e30")
        return self._made(Literal(value=token.value, start=token.start, end=token.end, at=token.start))

    def _map(self, opening: Token) -> Node:
        entries: list[tuple[Node, Node]] = []
        close = self._accept("}")
        while close is None:
            if not entries and self._accept(","):
                close = self._expect("}", "a }")
                break
            key = self._expression()
            self._expect(":", "the : between key and value")
            entries.append((key, self._expression()))
            close = self._accept("}")
            if close is None:
                self._expect(",", "a comma or }")
                close = self._accept("}")
        parts = [part for entry in entries for part in entry]
        return self._made(MapLiteral(entries=entries, start=opening.start, end=close.end, at=opening.start), *parts)

    def _named(self, start: int, *, absolute: bool) -> Node:
        token = self._token
        if token.kind != "name" or token.text in _KEYWORDS:
            self._unexpected("a value")
        if token.text in _RESERVED:
            raise CelMistake(f"{token.text} is a reserved word", token.start, "no variable or function has this name")
        self._take()
        token = self._qualified(token)
        if self._token.text == "{" and self._token.kind == "sign":
            raise CelMistake("messages are not supported", token.start, 'write a map, {"key": value}')
        if not self._accept("("):
            return self._made(Name(name=token.text, absolute=absolute, start=start, end=token.end, at=token.start))
        arguments, end = self._list(")")
        if token.text == "has" and not absolute:
            return self._has(token, arguments, end)
        call = Call(function=token.text, operands=arguments, start=start, end=end, at=token.start)
        return self._made(call, *arguments)

    def _qualified(self, token: Token) -> Token:
        """The one token of a type's name that has dots in it."""
        words = [other.text for other in self._tokens[self._next : self._next + 4]]
        name = ".".join(["google", *words[1::2]])
        if token.text != "google" or words[::2] != [".", "."] or name not in _TYPES:
            return token
        self._next += 4
        return token._replace(text=name, end=self._tokens[self._next - 1].end)

    def _has(self, token: Token, arguments: list[Node], end: int) -> Node:
        if len(arguments) != 1 or not isinstance(arguments[0], Select) or arguments[0].test:
            raise CelMistake("has() asks for one member", token.start, 'write has(args.name), or "a-name" in args')
        found = arguments[0]
        found.test, found.start, found.end = True, token.start, end
        return found
