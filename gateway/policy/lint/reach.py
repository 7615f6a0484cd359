"""Rules beside rules: conditions that another rule lets calls pass by, and rules that never decide anything."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from gateway.core.principal import ASSURANCE
from gateway.policy.files import MatchEntry
from gateway.policy.lint.findings import Linted, PlacedPolicy, PlacedRule
from gateway.policy.lint.known import Known, meets

_LISTS: Final = (
    "agents", "teams", "categories", "issuers", "kinds", "models", "tools", "hosted_tools", "dialects", "providers",
)  # fmt: skip
_WHAT: Final = ("models", "tools", "hosted_tools")


def check_reach(policies: Sequence[PlacedPolicy], known: Known, found: Linted) -> None:
    """Errors of guards that stand open, warnings of rules that a deny rule always beats."""
    enforced = [placed for policy in policies for placed in policy.placed if placed.rule.enforced]
    allowing = [placed for placed in enforced if placed.entry.effect == "allow"]
    plain = _Filed(placed for placed in allowing if not placed.rule.conditional)
    for placed in allowing:
        if placed.rule.conditional and not found.errors.full:
            _check_guard(placed, plain, known, found)
    denying = _Filed(one for one in enforced if one.entry.effect == "deny" and not one.rule.conditional)
    for placed in allowing:
        beats = next((deny for deny in denying.near(placed) if _within(placed.entry.match, deny.entry.match)), None)
        if beats is not None and not found.warnings.full:
            problem = f"rule {beats.rule.hit.name} denies all that this allows"
            found.warn(placed.binder, (*placed.path, "id"), problem, "remove one of the two, or narrow the deny rule")


def _check_guard(guarded: PlacedRule, plain: _Filed, known: Known, found: Linted) -> None:
    """An allow rule with conditions guards nothing where another one grants the same without any."""
    for other in plain.near(guarded):
        what = _both(guarded.entry.match, other.entry.match, known)
        if what:
            problem = (
                f"this allows {what} without a condition, which rule {guarded.rule.hit.name} allows only with its own"
            )
            remedy = "put the conditions into a require rule, which binds all, or let the two match different calls"
            found.error(other.binder, (*other.path, "match"), problem, remedy)


class _Filed:
    """Rules by what they speak of, so that not every one is held against every other."""

    def __init__(self, rules: Iterable[PlacedRule]) -> None:
        self._exact: dict[str, list[PlacedRule]] = defaultdict(list)
        self._wide: list[tuple[str, PlacedRule]] = []
        self._all: list[PlacedRule] = []
        for placed in rules:
            entries = _what(placed.entry.match)
            if not entries:
                self._all.append(placed)
            for entry in entries:
                if entry.endswith("*") or entry == "any":
                    self._wide.append((entry, placed))
                else:
                    self._exact[entry].append(placed)

    def near(self, other: PlacedRule) -> Iterator[PlacedRule]:
        """Those that speak of something that the other speaks of too, each once."""
        seen: dict[int, PlacedRule] = {id(placed): placed for placed in self._all}
        for entry in _what(other.entry.match):
            if entry.endswith("*") or entry == "any":
                for name, those in self._exact.items():
                    if meets(entry, name):
                        seen.update((id(placed), placed) for placed in those)
            else:
                seen.update((id(placed), placed) for placed in self._exact.get(entry, ()))
            seen.update((id(placed), placed) for name, placed in self._wide if meets(entry, name))
        return iter(seen.values())


def _what(match: MatchEntry) -> list[str]:
    return [entry for key in _WHAT for entry in getattr(match, key)]


def _both(one: MatchEntry, other: MatchEntry, known: Known) -> str:
    """What some call that both match is granted by both; nothing where there is no such call."""
    if not one.kinds_matched() & other.kinds_matched():
        return ""
    if not all(_overlap(getattr(one, key), getattr(other, key)) for key in _LISTS):
        return ""
    if known.registry is not None and not any(
        _of(one, name, agent.team, agent.category) and _of(other, name, agent.team, agent.category)
        for name, agent in known.registry.items()
    ):
        return ""
    shared = (
        min((mine, theirs), key=lambda entry: entry == "any" or entry.endswith("*"))
        for key in _WHAT
        for mine in getattr(one, key)
        for theirs in getattr(other, key)
        if meets(mine, theirs)
    )
    return next(shared, "")


def _overlap(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether some value fits both keys; a missing key does not narrow."""
    return not one or not other or any(meets(mine, theirs) for mine in one for theirs in other)


def _of(match: MatchEntry, agent: str, team: str, category: str) -> bool:
    """Whether calls of an agent can match."""
    wanted = ((match.agents, agent), (match.teams, team), (match.categories, category))
    return all(not entries or any(meets(entry, value) for entry in entries) for entries, value in wanted)


def _within(one: MatchEntry, other: MatchEntry) -> bool:
    """Whether every call that one matches matches the other too."""
    if ASSURANCE.index(one.min_assurance) < ASSURANCE.index(other.min_assurance):
        return False
    if other.hosted_tools and not one.hosted_tools:
        return False
    return all(_covered(getattr(one, key), getattr(other, key)) for key in _LISTS if key != "kinds") and (
        one.kinds_matched() <= other.kinds_matched()
    )


def _covered(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether whatever fits a key of one rule fits that of the other."""
    if not other or any(entry in {"any", "*"} for entry in other):
        return True
    return bool(one) and all(any(_covers(wide, entry) for wide in other) for entry in one)


def _covers(wide: str, entry: str) -> bool:
    if entry == wide:
        return True
    return wide.endswith("*") and entry != "any" and entry.removesuffix("*").startswith(wide[:-1])
