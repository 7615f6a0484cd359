"""Which rows of the ledger are meant: the columns that reports and exports go by, and what must stand in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

DIMENSIONS: Final[dict[str, str]] = {
    "agent": "agent",
    "team": "team",
    "cost_center": "cost_center",
    "model": "model",
    "served_model": "served_model",
    "provider": "provider",
    "tool": "tool",
    "dialect": "dialect",
    "run": "run",
    "kind": "kind",
    "issuer": "issuer",
    "subject": "subject",
    "on_behalf_of": "on_behalf_of",
    "chain": "chain",
    "assurance": "assurance",
    "key_id": "key_id",
    "outcome": "outcome",
    "code": "code",
    "request_id": "request_id",
    "decision_id": "decision_id",
    "day": "strftime('%Y-%m-%d', time / 1000000, 'unixepoch')",
    "month": "strftime('%Y-%m', time / 1000000, 'unixepoch')",
}
"""What rows can be told apart by, and the SQL of it. Nothing a user types becomes SQL."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What must stand in which column: every column counts, and of the texts for one column any.

    A text that ends in `*` stands for all that begin like it, as in policies; the empty one for a column
    that is empty.
    """

    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def sql(self) -> str:
        """Conditions to put behind those of a period; the values are `parameters`."""
        return "".join(
            f" AND ({' OR '.join(_condition(DIMENSIONS[name], text) for text in texts)})"
            for name, texts in self.columns.items()
        )

    @property
    def parameters(self) -> tuple[str | int, ...]:
        """The values that `sql` leaves open, in their order."""
        return tuple(
            value
            for texts in self.columns.values()
            for text in texts
            for value in ((len(text) - 1, text[:-1]) if text.endswith("*") else (text,))
        )

    def __str__(self) -> str:
        """As a person wrote it, to stand behind a period: ` where tool=payments.*`."""
        words = [f"{name}={text}" for name, texts in self.columns.items() for text in texts]
        return f" where {', '.join(words)}" if words else ""


ALL: Final = Filter()
"""Every row passes."""


def read_filter(words: Sequence[str]) -> Filter:
    """What `--where COLUMN=TEXT`, given any number of times, asks for; raises `ValueError` with a sentence."""
    columns: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, separator, text = word.partition("=")
        if not separator or name not in DIMENSIONS:
            raise ValueError(f"--where {word!r} is not COLUMN=TEXT with a column of {', '.join(DIMENSIONS)}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"--where {word!r} is not UTF-8") from None
        columns[name] = (*columns.get(name, ()), text)
    return Filter(columns)


def _condition(column: str, text: str) -> str:
    # LIKE knows no case and GLOB has wildcards of its own; comparing the beginning has neither.
    return f"substr({column}, 1, ?) = ?" if text.endswith("*") else f"{column} = ?"
