"""HTTP tools: operations, their arguments, and the upstreams behind them.

A call's way through this part: `Tools.find` (which operation), `tool_read` (its arguments, checked),
`tool_request` (what the tool gets), `tool_judge` (what its answer's status means), `tool_answer_headers` (what
of it passes back). `Operation.credential` is the upstream's credential and the watch that it does not come back.
"""

from gateway.tools.exchange import Outgoing, tool_answer_headers, tool_judge, tool_read, tool_request
from gateway.tools.operations import Match, Operation, Tools, mistakes

__all__ = [
    "Match",
    "Operation",
    "Outgoing",
    "Tools",
    "mistakes",
    "tool_answer_headers",
    "tool_judge",
    "tool_read",
    "tool_request",
]
