"""What must be found out before a call can be decided."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from gateway.policy.rules import Rule

_EVER: Final = 3650 * 86400.0
_LONGEST_HOLD: Final = 31 * 86400.0  # an approval waits 30 days at most, and ages count from when it was held


class Needs(NamedTuple):
    """What must be known before a call can be decided."""

    attested: bool = False  # some rule asks for attestations
    in_earnest: bool = False  # one of those is no shadow rule
    across: tuple[tuple[str, float], ...] = ()  # steps of which other runs count, each with how many seconds back
    asks: bool = False  # some rule may ask for an approval


NO_NEEDS: Final = Needs()


def needs_of(rules: Iterable[Rule]) -> Needs:
    """What a call must be asked about; what shadow rules ask a person is only counted."""
    attested = in_earnest = asks = False
    across: dict[str, float] = {}
    for rule in rules:
        asks |= rule.approval is not None and rule.enforced
        wants = bool(rule.requires) or any(path[0] == "attestations" for path in rule.reads)
        attested |= wants
        in_earnest |= wants and rule.enforced
        for leaf in rule.attested:
            if leaf.across:
                across[leaf.step] = max(across.get(leaf.step, 0.0), leaf.max_age or _EVER)
    held = _LONGEST_HOLD if asks else 0.0
    return Needs(attested, in_earnest, tuple((step, min(age + held, _EVER)) for step, age in across.items()), asks)
