"""Whether a call may go on: rules of policy files, default deny."""

from gateway.policy.decide import PolicySet, explain_refusal
from gateway.policy.loading import Known, load
from gateway.policy.rules import Facts

__all__ = ["Facts", "Known", "PolicySet", "explain_refusal", "load"]
