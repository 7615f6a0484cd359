"""What must not be lost, and the engine that keeps it.

`sqlite.Store` is the engine of one machine: one process writes, everybody may read. What is asked
of an engine is `Durable`: a unit of work goes in, and its result comes back after it is on disk.
`runs` holds the statements about the table of runs, `schema` the tables and how older ones are
brought up to date.
"""

from gateway.state.durable import Durable, StoreError, StoreRefused, StoreUnavailable, Work
from gateway.state.runs import Runs
from gateway.state.sqlite import Store, read_only

__all__ = ["Durable", "Runs", "Store", "StoreError", "StoreRefused", "StoreUnavailable", "Work", "read_only"]
