"""What `passgate policy` found, for people, for programs, and as annotations of a GitHub workflow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from gateway.policy.trace import ClauseTrace
    from gateway.settings import Complaint

FORMATS: Final = ("text", "json", "github")
_TRUTH: Final = {True: "yes", False: "no", None: "error"}


class Finding(NamedTuple):
    """Something at a place of a file; `text` may have several lines."""

    severity: str  # error | warning | notice
    file: str
    line: int
    title: str
    text: str

    @classmethod
    def of(cls, severity: str, complaint: Complaint) -> Finding:
        """A complaint as a finding."""
        text = f"{complaint.problem}; {complaint.remedy}"
        return cls(severity, complaint.file, complaint.line, complaint.path, text)


def report(findings: Iterable[Finding], form: str, summary: str, **more: object) -> None:
    """Print findings and a last line; `more` joins what programs get."""
    found = list(findings)
    if form == "json":
        print(json.dumps({"findings": [one._asdict() for one in found], **more}, indent=2, ensure_ascii=False))
        return
    for one in found:
        print(github(one) if form == "github" else text(one))
    print(summary)


def text(one: Finding) -> str:
    """A finding for a reader."""
    label = "" if one.severity == "error" else f"{one.severity}: "
    title = f"{one.title}: " if one.title else ""
    return f"{label}{one.file}:{one.line}: {title}{one.text}"


def github(one: Finding) -> str:
    """A finding as a workflow command of GitHub Actions, which shows it beside the line of the file.

    In a message `%` and line ends are escaped, in a property also `:` and `,`: a file can neither break the line nor
    begin another command (docs.github.com, "Workflow commands for GitHub Actions").
    """
    properties: Mapping[str, str] = {"file": _below_here(one.file), "line": str(one.line), "title": one.title}
    said = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in properties.items() if value)
    return f"::{one.severity} {said}::{_escaped(one.text)}"


def _escaped(value: str, more: str = "") -> str:
    """`%` first, or what stands for the others would be escaped again."""
    for character in f"%\r\n{more}":
        value = value.replace(character, f"%{ord(character):02X}")
    return value


def _below_here(file: str) -> str:
    """A file as the repository names it: a workflow's steps run in the repository's folder."""
    path = Path(file).absolute()
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else file


def clause_lines(clause: ClauseTrace) -> Iterator[str]:
    """A clause of a rule with its verdict, why that is so, and what its parts give of which facts."""
    yield f"{'?' if clause.unknown else _TRUTH[clause.value]:<5} {clause.clause}: {clause.text}"
    if clause.unknown:
        yield f"      the log does not have {', '.join(clause.unknown)}"
    elif clause.said:
        yield f"      {clause.said}"
    if len(clause.operands) > 1 or clause.value is not True:
        for one in clause.operands:
            facts = ", ".join(f"{path} = {shown}" for path, shown in one.read)
            why = f"   ({facts})" if facts else ""
            lacks = any(path in clause.unknown for path, _ in one.read)
            error = f": {one.error}" if one.error and not lacks else ""
            yield f"      {'?' if lacks else _TRUTH[one.value]:<5} {one.text}{why}{error}"


def counted(number: int, noun: str) -> str:
    """`no mistakes`, `1 mistake`, `2 mistakes`."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
