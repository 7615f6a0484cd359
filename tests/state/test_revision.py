"""The highest revision of the policies, as it is written down."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from gateway.state.revision import highest_revision, record_revision
from gateway.state.schema import migrate


def test_it_only_rises() -> None:
    """P9: whatever is noted, in whichever order: the highest stays, as a number and not as a text."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        migrate(conn, "memory")
        assert highest_revision(conn) == 0
        for noted, highest in ((9, 9), (10, 10), (3, 10), (10, 10), (11, 11)):
            record_revision(conn, noted)
            assert highest_revision(conn) == highest
