"""The statements about what was used up: an attestation, or what a rule lets happen once for a subject.

What is taken stays taken, whoever asks again and in whichever run, until its holder gives it back. Every function is
a part of one unit of work, so that all of it is taken or nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

from gateway.core.attestation import Use
from gateway.core.errors import Refusal

_ONCE: Final = "once"  # the scope of an attestation, as `core.attestation.Use` says
_HOLDER: Final = "SELECT holder FROM uses WHERE scope = ? AND key = ?"
_TAKE: Final = "INSERT INTO uses (scope, key, holder, time) VALUES (?, ?, ?, ?)"
_RELEASE: Final = "DELETE FROM uses WHERE holder = ?"


def take(conn: sqlite3.Connection, holder: str, uses: Iterable[Use], time: int) -> None:
    """Use all of it up; `holder` may have taken some of it before. `time` is epoch microseconds.

    Raises `Refusal` (`attestation_required`, reason `consumed`) where somebody else has taken one: then the unit of
    work that this is a part of must end, and nothing is taken.
    """
    for use in uses:
        held = conn.execute(_HOLDER, use).fetchone()
        if held is None:
            conn.execute(_TAKE, (*use, holder, time))
        elif held[0] != holder:
            raise _consumed(use, approval=held[0].startswith("apr_"))


def release(conn: sqlite3.Connection, holder: str) -> None:
    """Give back all that this holder has taken."""
    conn.execute(_RELEASE, (holder,))


def _consumed(use: Use, *, approval: bool) -> Refusal:
    """`approval`: what has taken it was held for one, is held still, or was carried out."""
    reserved = ", or is reserved for a call that waits for a person" if approval else ""
    if use.scope == _ONCE:
        sentence = f"attestation {use.key} was used by another call already{reserved}; get a new one"
        return Refusal("attestation_required", sentence, fields={"reason": "consumed", "attestation": use.key})
    sentence = f"rule {use.scope} lets this happen once, and it has happened for {use.key} already{reserved}"
    return Refusal(
        "attestation_required", sentence, fields={"reason": "consumed", "rule": use.scope, "subject": use.key}
    )
