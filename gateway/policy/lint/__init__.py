"""Lint: policies that can be used, and what in them probably, or certainly, means something else.

Two lists come of it. *Errors* are rules that do not do what they say: a condition that another rule lets calls pass
by, a deny rule that denies what it was not made for, or misses what an agent withholds. *Warnings* are names that
nothing has, rules that never decide, and habits that go wrong.

The line between them and load errors: what has no meaning at all is refused when it is loaded. Lint speaks of rules
that have one, so a gateway starts with them and logs both lists; `passgate check` and `passgate policy lint` take
errors for mistakes. All of it needs the files and what the configuration names, and nothing that runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.policy.lint.facts import check_facts, check_observations
from gateway.policy.lint.findings import Linted, PlacedPolicy
from gateway.policy.lint.known import Arguments, Known, Registered
from gateway.policy.lint.names import check_names
from gateway.policy.lint.reach import check_reach

__all__ = ["Arguments", "Known", "Linted", "PlacedPolicy", "Registered", "lint"]


def lint(policies: Sequence[PlacedPolicy], known: Known) -> Linted:
    """What is to be said of policies that loaded without a mistake."""
    found = Linted()
    check_names(policies, known, found)
    check_facts(policies, known, found)
    check_observations(policies, known, found)
    check_reach(policies, known, found)
    return found
