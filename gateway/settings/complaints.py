"""What is wrong with a file, where, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

MOST: Final = 100
"""How many complaints are kept; a file with more is not a file that somebody wrote."""


class Place(Protocol):
    """Anything that knows where in a file it stands."""

    @property
    def file(self) -> str:
        """The file as it was named."""
        ...

    @property
    def line(self) -> int:
        """From 1."""
        ...

    @property
    def column(self) -> int:
        """From 1."""
        ...


@dataclass(frozen=True, slots=True, order=True)
class Complaint:
    """One mistake. `path` names the setting (`agents[0].issuer`) and may be empty for the whole file."""

    file: str
    line: int
    column: int
    path: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: "
        return where + (f"{self.path}: " if self.path else "") + f"{self.problem}; {self.remedy}"


@dataclass(slots=True)
class Complaints:
    """Collects mistakes, so that all of a file's are reported together."""

    found: list[Complaint] = field(default_factory=list)
    total: int = 0

    def add(self, place: Place, path: str, problem: str, remedy: str) -> None:
        """Note a mistake; beyond `MOST` it is only counted."""
        self.total += 1
        if not self.full:
            path, problem, remedy = map(_printable, (path, problem, remedy))
            self.found.append(Complaint(place.file, place.line, place.column, path, problem, remedy))

    @property
    def full(self) -> bool:
        """Whether further mistakes are only counted."""
        return len(self.found) >= MOST


def _printable(text: str) -> str:
    """A text that cannot move a terminal's cursor or forge a line: complaints quote what files hold."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)
