"""Whether a call may go on: rules of policy files, default deny."""

from gateway.policy.decide import Matching, PolicySet
from gateway.policy.image import from_image
from gateway.policy.loading import Known, load
from gateway.policy.needs import Needs
from gateway.policy.observations import Observation
from gateway.policy.rules import Facts
from gateway.policy.sentences import explain_refusal
from gateway.policy.situation import Discounted, RunView, Situation

__all__ = [
    "Discounted",
    "Facts",
    "Known",
    "Matching",
    "Needs",
    "Observation",
    "PolicySet",
    "RunView",
    "Situation",
    "explain_refusal",
    "from_image",
    "load",
]
