"""The tables, as numbered migrations: each runs in one transaction and is never changed once released.

`PRAGMA user_version` holds the number of the last one that ran, `PRAGMA application_id` says whose
file it is. Tables are STRICT (SQLite 3.37), so that no real number can ever stand in a column of
money. Times are whole microseconds since the epoch.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from gateway.state.durable import StoreRefused

APPLICATION_ID: Final = 0x50617373  # "Pass"

_LEDGER: Final = """
CREATE TABLE ledger (
  seq INTEGER PRIMARY KEY,
  time INTEGER NOT NULL,
  request_id TEXT NOT NULL,
  run TEXT NOT NULL,
  step INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  kind TEXT NOT NULL,
  agent TEXT NOT NULL,
  issuer TEXT NOT NULL,
  subject TEXT NOT NULL,
  assurance TEXT NOT NULL,
  key_id TEXT NOT NULL,
  chain TEXT NOT NULL,
  team TEXT NOT NULL,
  cost_center TEXT NOT NULL,
  tags TEXT NOT NULL,
  on_behalf_of TEXT NOT NULL,
  decision_id TEXT NOT NULL,
  provider TEXT NOT NULL,
  model TEXT NOT NULL,
  served_model TEXT NOT NULL,
  tool TEXT NOT NULL,
  dialect TEXT NOT NULL,
  input_tokens INTEGER NOT NULL,
  cached_input_tokens INTEGER NOT NULL,
  cache_write_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  reasoning_tokens INTEGER NOT NULL,
  audio_tokens INTEGER NOT NULL,
  image_tokens INTEGER NOT NULL,
  price_version TEXT NOT NULL,
  cost_nano_usd INTEGER NOT NULL,
  list_cost_nano_usd INTEGER NOT NULL,
  avoided_nano_usd INTEGER NOT NULL,
  avoided_reason TEXT NOT NULL,
  held_nano_usd INTEGER NOT NULL,
  outcome TEXT NOT NULL,
  estimated INTEGER NOT NULL,
  upstream_request_id TEXT NOT NULL,
  iss TEXT NOT NULL,
  status INTEGER NOT NULL,
  code TEXT NOT NULL,
  duration_us INTEGER NOT NULL,
  UNIQUE (request_id, attempt)
) STRICT
"""
# An attempt of a request is one row, whatever became of it: attempts count from 1, the gateway's own
# word about a request (a refusal, an answer from memory) is attempt 0. Posting it again has no effect.

_RUNS: Final = """
CREATE TABLE runs (
  iss TEXT NOT NULL,
  subject TEXT NOT NULL,
  id TEXT NOT NULL,
  opened INTEGER NOT NULL,
  last INTEGER NOT NULL,
  parent TEXT,
  depth INTEGER NOT NULL DEFAULT 0,
  last_step INTEGER NOT NULL DEFAULT 0,
  steps INTEGER NOT NULL DEFAULT 0,
  tool_calls INTEGER NOT NULL DEFAULT 0,
  tokens INTEGER NOT NULL DEFAULT 0,
  cost_nano_usd INTEGER NOT NULL DEFAULT 0,
  children INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (iss, subject, id)
) STRICT, WITHOUT ROWID
"""

_STOPS: Final = """
CREATE TABLE stops (
  seq INTEGER PRIMARY KEY,
  time INTEGER NOT NULL,
  action TEXT NOT NULL CHECK (action IN ('stop', 'start')),
  kind TEXT NOT NULL,
  id TEXT NOT NULL,
  reason TEXT NOT NULL,
  operator TEXT NOT NULL
) STRICT
"""
# What operators stopped and started again. Rows are only added: the last one about a thing says how it stands.

_CHILDREN: Final = """
CREATE TABLE children (
  iss TEXT NOT NULL,
  subject TEXT NOT NULL,
  run TEXT NOT NULL,
  child TEXT NOT NULL,
  PRIMARY KEY (iss, subject, run, child)
) STRICT, WITHOUT ROWID
"""
# The agents that were delegated to in a run, by their subject: a token that is asked for again makes no second child.

_ATTESTATIONS: Final = """
CREATE TABLE attestations (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  attester TEXT NOT NULL,
  id TEXT NOT NULL,
  step TEXT NOT NULL,
  outcome TEXT NOT NULL,
  about TEXT NOT NULL,
  iss TEXT NOT NULL,
  subject TEXT NOT NULL,
  run TEXT NOT NULL,
  received INTEGER NOT NULL,
  record BLOB NOT NULL,
  UNIQUE (attester, id)
) STRICT
"""
# `about` is the subject that is attested, in its one spelling; `iss` and `subject` say whose the run is. Where its
# attester posted it nobody can tell: then `iss` is empty and `subject` is whom it is for. `record` is MessagePack.

_USES: Final = """
CREATE TABLE uses (
  scope TEXT NOT NULL,
  key TEXT NOT NULL,
  holder TEXT NOT NULL,
  time INTEGER NOT NULL,
  PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID
"""
# What was used up, once for all: `holder` is the request, or the approval that it is kept for.

_APPROVALS: Final = """
CREATE TABLE approvals (
  id TEXT PRIMARY KEY,
  status TEXT NOT NULL,
  created INTEGER NOT NULL,
  expires INTEGER NOT NULL,
  changed INTEGER NOT NULL,
  iss TEXT NOT NULL,
  subject TEXT NOT NULL,
  on_behalf_of TEXT NOT NULL,
  run TEXT NOT NULL,
  operation TEXT NOT NULL,
  digest TEXT NOT NULL,
  previous TEXT NOT NULL,
  votes TEXT NOT NULL DEFAULT '[]',
  request_id TEXT NOT NULL DEFAULT '',
  told TEXT NOT NULL DEFAULT '',
  ask BLOB NOT NULL,
  args BLOB NOT NULL,
  outcome BLOB
) STRICT, WITHOUT ROWID
"""
# `ask` and `outcome` are MessagePack, `args` the canonical arguments; `votes` is a JSON array of who decided what, when
# and why; `request_id` is the call that carries it out; `told` is the last event that the webhook has acknowledged.

_CHECKPOINTS: Final = """
CREATE TABLE checkpoints (
  seq INTEGER PRIMARY KEY,
  time INTEGER NOT NULL,
  hash TEXT NOT NULL,
  signed TEXT NOT NULL
) STRICT
"""
# The decision log up to line `seq` ends in `hash`; `signed` says the same as a JWS of the gateway's audit key.

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        f"PRAGMA application_id = {APPLICATION_ID}",
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
        _LEDGER,
        "CREATE INDEX ledger_by_time ON ledger (time)",
        "CREATE INDEX ledger_by_run ON ledger (iss, subject, run) WHERE run <> ''",
        _RUNS,
    ),
    (
        _CHILDREN,
        _STOPS,
        "CREATE TABLE seen (agent TEXT PRIMARY KEY, time INTEGER NOT NULL) STRICT, WITHOUT ROWID",
        "INSERT INTO seen SELECT agent, max(time) FROM ledger GROUP BY agent",
    ),
    (
        _ATTESTATIONS,
        "CREATE INDEX attestations_by_run ON attestations (iss, subject, run)",
        "CREATE INDEX attestations_by_step ON attestations (step, received) WHERE outcome <> 'passed'",
        _USES,
        "CREATE INDEX uses_by_holder ON uses (holder)",
        _APPROVALS,
        "CREATE INDEX approvals_by_call ON approvals (iss, subject, run, operation, digest, created)",
        "CREATE INDEX approvals_by_status ON approvals (status, expires)",
        "CREATE INDEX approvals_by_change ON approvals (changed)",
        "CREATE INDEX approvals_pending ON approvals (iss, subject) WHERE status = 'pending'",
        _CHECKPOINTS,
    ),
)
VERSION: Final = len(MIGRATIONS)


def version_of(conn: sqlite3.Connection, name: str) -> int:
    """The schema version of a Passgate database, 0 for an empty file.

    Raises `StoreRefused` for what is not ours and for what a newer release wrote.
    """
    try:
        (owner,) = conn.execute("PRAGMA application_id").fetchone()
        (version,) = conn.execute("PRAGMA user_version").fetchone()
        (tables,) = conn.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise StoreRefused(f"{name} is not a Passgate database; name another file.") from None
        raise
    if owner != APPLICATION_ID and (owner, version, tables) != (0, 0, 0):
        raise StoreRefused(f"{name} is not a Passgate database; name another file.")
    if version > VERSION:
        raise StoreRefused(
            f"{name} was written by a newer Passgate (schema {version}, this one knows {VERSION}); use that release."
        )
    return int(version)


def migrate(conn: sqlite3.Connection, name: str) -> None:
    """Bring the tables up to `VERSION`; a crash leaves those migrations that were committed, whole."""
    for number in range(version_of(conn, name), VERSION):
        conn.execute("BEGIN IMMEDIATE")
        try:
            for statement in MIGRATIONS[number]:
                conn.execute(statement)
            conn.execute(f"PRAGMA user_version = {number + 1}")
            conn.execute("COMMIT")
        except BaseException:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            raise
