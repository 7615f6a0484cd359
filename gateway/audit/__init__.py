"""The decision log: one line for each decision, chained by hashes, vouched for by signed checkpoints.

`record` says what is written down of a decision, `chain` how lines follow on each other, `writer` appends them,
`checkpoint` signs how far the chain has come, `verify` finds what was changed since, `find` reads it again.
"""

from gateway.audit.find import find_record, read_records
from gateway.audit.record import DecisionRecord, call_digest, decision_record

__all__ = ["DecisionRecord", "call_digest", "decision_record", "find_record", "read_records"]
