"""Runs: whose run a call belongs to, and what that run has used up.

`name_run` reads the run's name off a call (pure). `Register` keeps the counters and belongs to the
supervisor, so that N workers count once; a worker reaches it through an `Entrance`, and a call holds
its place in the run as a `Step`.
"""

from gateway.runs.naming import name_run, run_key
from gateway.runs.register import Entered, Entrance, Register
from gateway.runs.step import Step

__all__ = ["Entered", "Entrance", "Register", "Step", "name_run", "run_key"]
