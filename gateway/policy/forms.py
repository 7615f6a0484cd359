"""How the single values of a policy file are written."""

from __future__ import annotations

import re
from typing import Annotated, Final

from gateway.settings.types import Misfit, Pattern, shortened
from gateway.settings.yaml import ScalarNode

_NAME: Final = r"[^*\x00-\x1f\x7f]"
_LONGEST: Final = 256
_LONGEST_EXPRESSION: Final = 4000
_OPERATION: Final = rf"(?!\.){_NAME}+?\.{_NAME}+"

Entry = Annotated[
    str,
    Pattern("an entry", rf"(?!$){_NAME}{{0,{_LONGEST - 1}}}\*?", 'an exact name, a beginning that ends in "*", or any'),
]
"""Exact, or ending in `*`; `any` matches all."""


class ToolEntry:
    """A tool as a rule names it: `server.operation`, a beginning with `*`, or `any`."""

    example: str = 'SERVER.OPERATION, "SERVER.*" or any'
    hole: Final = ""
    form: str = rf"any|{_NAME}*\*|{_OPERATION}"

    def read(self, scalar: ScalarNode) -> str:
        """The text itself; the first dot splits, so a server alone would match nothing."""
        text = scalar.text
        if scalar.kind == "text" and len(text) <= _LONGEST:
            if re.fullmatch(self.form, text):
                return text
            if text and not set(text) & set("*."):
                raise Misfit(f"{shortened(text)} alone matches no tool", self._meant(text))
        raise Misfit(f"{shortened(text)} is not a tool", f"write {self.example}")

    def _meant(self, server: str) -> str:
        return f'write "{server}.*" for all its operations, or {server}.NAME for one'

    def schema(self) -> dict[str, object]:
        """A string with a dot, or with a `*` at its end."""
        return {"type": "string", "maxLength": _LONGEST, "pattern": f"^(?:{self.form})$"}


class OneTool(ToolEntry):
    """One operation of one tool, with no `*`: what is attested must be certain."""

    example = "SERVER.OPERATION, one of each"
    form = rf"(?!any$){_OPERATION}"

    def _meant(self, server: str) -> str:
        return f"write {server}.NAME for one of its operations"


class GrammarVersion:
    """The version of the grammar: there is one."""

    example: Final = "1"
    hole: Final = 1

    def read(self, scalar: ScalarNode) -> int:
        """The number 1."""
        if (scalar.kind, scalar.text) != ("int", "1"):
            raise Misfit(f"version {shortened(scalar.text)} is not known", "write version: 1")
        return 1

    def schema(self) -> dict[str, object]:
        """The number 1."""
        return {"const": 1}


class Expression:
    """An expression in CEL; its text is compiled when the file is loaded."""

    example: Final = "an expression in quotes, such as 'args.amount <= 1000'"
    hole: Final = ""

    def read(self, scalar: ScalarNode) -> str:
        """The text; what YAML takes for a number or a truth is one in CEL too."""
        if not scalar.text.strip() or scalar.kind == "null":
            raise Misfit("the expression is missing", f"write {self.example}")
        if len(scalar.text) > _LONGEST_EXPRESSION:
            raise Misfit(f"the expression is longer than {_LONGEST_EXPRESSION} characters", "make several rules of it")
        return scalar.text

    def schema(self) -> dict[str, object]:
        """A string; a number or a truth stands for itself."""
        return {"type": ["string", "boolean", "integer"], "maxLength": _LONGEST_EXPRESSION}


class FactPath:
    """A fact by its path."""

    example: Final = "a fact such as args.card"
    hole: Final = ""
    _FORM: Final = r"[a-z]+(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*"

    def read(self, scalar: ScalarNode) -> str:
        """The path; `args` alone means all arguments."""
        if scalar.kind == "text" and len(scalar.text) <= _LONGEST and re.fullmatch(self._FORM, scalar.text):
            return scalar.text
        raise Misfit(f"{shortened(scalar.text)} is not a fact", f"write {self.example}")

    def schema(self) -> dict[str, object]:
        """A string of names with dots between."""
        return {"type": "string", "maxLength": _LONGEST, "pattern": f"^{self._FORM}$"}


class Approver:
    """Who may approve: a group of operators, or one of them."""

    example: Final = '"group:NAME", or the id of an operator'
    hole: Final = ""
    _FORM: Final = r"group:[^\x00-\x1f\x7f]{1,200}|[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

    def read(self, scalar: ScalarNode) -> str:
        """The text itself."""
        if scalar.kind == "text" and re.fullmatch(self._FORM, scalar.text):
            return scalar.text
        raise Misfit(f"{shortened(scalar.text)} does not say who may approve", f"write {self.example}")

    def schema(self) -> dict[str, object]:
        """A string, with `group:` in front where it is one."""
        return {"type": "string", "pattern": f"^(?:{self._FORM})$"}
