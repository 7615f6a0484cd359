# ruff: noqa: INP001 -- a script, not a package
"""Write what the pages about policies take from the code: docs/facts.md, and the tables of docs/policies.md.

docs/policies.md is written by hand but for the table below each `<!-- table: NAME -->`: the keys of a part of the
grammar, which mean what the docstrings of their fields say, or the reasons for which a clause does not hold.
`make schema` runs this, and a test keeps both pages current.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from gateway.policy.cases import Given, Moment, PolicyTest, Usd
from gateway.policy.files import (
    ApproveEntry,
    AttestationEntry,
    MatchEntry,
    ObligationsEntry,
    ObserveEntry,
    PolicyFile,
    RequirementEntry,
    RuleEntry,
)
from gateway.policy.forms import Approver, Expression, FactPath, GrammarVersion, OneTool, ToolEntry
from gateway.policy.requirements import REASONS
from gateway.policy.situation import facts_reference
from gateway.settings.shapes import (
    Choice,
    Either,
    Flag,
    Formed,
    ListOf,
    MapOf,
    Member,
    Record,
    Shape,
    field_docs,
    members,
)

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
PAGE: Final = DOCS / "policies.md"
FACTS: Final = DOCS / "facts.md"

PARTS: Final = {
    "policy": PolicyFile,
    "rule": RuleEntry,
    "match": MatchEntry,
    "requirement": RequirementEntry,
    "attestation": AttestationEntry,
    "approve": ApproveEntry,
    "obligations": ObligationsEntry,
    "observe": ObserveEntry,
    "test": PolicyTest,
    "given": Given,
}
_OWN_TABLE: Final = {cls: name for name, cls in PARTS.items()}
_TABLE: Final = re.compile(r"(?<=<!-- table: )([a-z]+) -->\n+(?:\|.*\n)*")
_FACTS: Final = """\
# Facts

What a [condition](cel.md) of a rule may read: in `when`, in `approve.when`, and on the right side of `bind`. A name \
that is not here is a mistake when the file is loaded. `observe` reads `args` and `result`, the tool's answer, alone.

A fact that a call does not have (an argument, a tag, the run of a call outside any) is missing, and a condition that \
reads it has no value: an allow rule does not grant, a deny rule denies, a require rule does not hold. \
`has(args.note)` and `has(run.id)` ask first.

{table}
`args` of a tool are its path variables, its declared query parameters and the members of its JSON body; of a model \
the request itself (`args.messages`, `args.tools`, …). Values are as the agent sent them, and what the operation's \
`arguments` schema does not require may be missing. A whole number is an `int`, any other a `double`; they compare by \
value, but `bind` tells them apart. Let amounts be whole, in minor units; `decimal(args.amount)` reads one that comes \
as text.

`call.repeat` and `call.region` are what the configuration says of the tool or provider. `attestations` are those of \
this run and agent that count at this moment; `requires` asks more of one than that it is there \
([what](policies.md#binding)).

`make schema` writes this page, from the table that conditions are checked against.
"""


def facts() -> str:
    """docs/facts.md."""
    return _FACTS.format(table=facts_reference())


def page(text: str) -> str:
    """docs/policies.md with current tables."""
    return _TABLE.sub(lambda found: f"{found[1]} -->\n\n{_table(found[1])}", text)


def _table(name: str) -> str:
    if name == "reasons":
        rows = [f"| `{code}` | {said} |" for code, said in REASONS.items()]
        return "\n".join(("| code | says |", "|---|---|", *rows, ""))
    head = ("| key | written | means | without it |", "|---|---|---|---|")
    return "\n".join((*head, *_rows(PARTS[name], ""), ""))


def _rows(cls: type, path: str) -> Iterator[str]:
    """A line for each key of a part; parts without a table of their own are put in here."""
    docs = field_docs(cls)
    for key, member in members(cls).items():
        name, below = f"{path}{key}", _below(member.shape)
        inside = below is not None and below not in _OWN_TABLE
        says = docs[member.name].replace("|", "\\|").replace("\n", " ")
        if not (inside and isinstance(member.shape, Record)):
            yield f"| `{name}` | {_written(member.shape)} | {says} | {_without(cls, member)} |"
        if inside and below is not None:
            yield from _rows(below, f"{name}[]." if isinstance(member.shape, ListOf) else f"{name}.")


def _below(shape: Shape) -> type | None:
    """The part that stands below a key."""
    match shape:
        case Record(cls):
            return cls
        case ListOf(item=item):
            return _below(item)
        case Either(options=options):
            return next(filter(None, map(_below, options)), None)
    return None


def _written(shape: Shape) -> str:
    match shape:
        case Choice(words=words):
            return ", ".join(f"`{word}`" for word in words if word)
        case Flag():
            return "`true`, `false`"
        case ListOf(item=item):
            return f"list: {_written(item)}"
        case MapOf(value=value):
            return f"map: {_written(value)}"
        case Record(cls):
            return f"[{_OWN_TABLE[cls]}](#{_OWN_TABLE[cls]})" if cls in _OWN_TABLE else "map"
        case Either(options=options):
            return " or ".join(map(_written, options))
        case Formed(form=form):
            return _FORMS.get(type(form)) or _NOUNS.get(getattr(form, "noun", ""), "text")
    return "any"


_FORMS: Final[Mapping[type, str]] = {
    Expression: "[CEL](cel.md)",
    FactPath: "a [fact](facts.md)",
    ToolEntry: "`SERVER.OPERATION`, `SERVER.*` or `any`",
    OneTool: "`SERVER.OPERATION`",
    Approver: "`group:NAME` or an id",
    GrammarVersion: "`1`",
    Moment: '`"2026-11-20T10:00:00Z"`',
    Usd: '`"1.50"`',
}
_NOUNS: Final = {
    "a name": "a name",
    "a step's name": "a name",
    "an entry": "exact, `BEGINNING*` or `any`",
    "a duration": "a duration",
    "a count": "a number",
}


def _without(cls: type, member: Member) -> str:
    """What holds without a key; nothing where its meaning says so."""
    if member.required:
        return "**needed**"
    value = member.default(cls)
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str | int) and value not in ("", 0):
        return f"`{value}`"
    return _TIMES.get((cls, member.name), "")


_TIMES: Final[Mapping[tuple[type, str], str]] = {
    (ApproveEntry, "expires"): "`30m`",
    (Given, "now"): "`2026-01-01T00:00:00Z`",
}

if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
    FACTS.write_text(facts())
