"""Approvals: who must say yes to a held call, who may, and how it is shown to whom.

What is kept and who waits is the supervisor's (`process/approving.py`); this is what both sides reckon with.
"""

from __future__ import annotations

from gateway.approvals.binding import approval_ask, approval_key, canonical_arguments
from gateway.approvals.refusing import not_carried_out

__all__ = ["approval_ask", "approval_key", "canonical_arguments", "not_carried_out"]
