"""Where a call goes: `Router` finds the targets behind a name, an errand carries the call to them."""

from gateway.routing.errand import FREE, Charge, Dispatch, Errand, LlmErrand, Pricing, ToolErrand
from gateway.routing.router import Route, Router

__all__ = ["FREE", "Charge", "Dispatch", "Errand", "LlmErrand", "Pricing", "Route", "Router", "ToolErrand"]
