"""Finding the rules that can concern a call, so that ten thousand rules cost no more than the handful that apply.

Each rule is filed under who it speaks of (its agents, else its teams, else everybody) and what it
speaks of (its models, tools or hosted tools, else everything). A call is looked up under the names it carries and
under those of their beginnings that some rule uses. What is found is a superset: the rule itself
has the last word.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Final

from gateway.policy.rules import Facts, Rule

_Key = tuple[str, str]  # the name of a fact, and an entry as it is written in a rule
_ALL: Final[_Key] = ("", "")
_MOST_PLACES: Final = 1024  # a rule of many agents and many tools is filed under the longer list alone


class Index:
    """A set of rules, filed by who and by what."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        """File every rule; they are found again in the order in which they come."""
        self._places: dict[_Key, dict[_Key, list[tuple[int, Rule]]]] = {}
        lengths: dict[str, set[int]] = defaultdict(set)
        for rank, rule in enumerate(rules):
            who = _keys(rule, "agent") or _keys(rule, "team") or [_ALL]
            what = _keys(rule, "model") or _keys(rule, "tool") or _keys(rule, "hosted_tools") or [_ALL]
            if len(who) * len(what) > _MOST_PLACES:
                who, what = (who, [_ALL]) if len(who) > len(what) else ([_ALL], what)
            for a, b in product(who, what):
                self._places.setdefault(a, {}).setdefault(b, []).append((rank, rule))
            for fact, entry in (*who, *what):
                if entry.endswith("*"):
                    lengths[fact].add(len(entry) - 1)
        self._lengths = {fact: tuple(sorted(found)) for fact, found in lengths.items()}

    def candidates(self, facts: Facts) -> list[Rule]:
        """The rules that can match, each once, in the order in which they were filed."""
        what = [_ALL]
        if facts.model:
            what += self._names("model", facts.model)
        elif facts.tool:
            what += self._names("tool", facts.tool)
        for hosted in facts.hosted_tools:
            what += self._names("hosted_tools", hosted)
        found: set[tuple[int, Rule]] = set()
        for a in (_ALL, *self._names("agent", facts.agent), *self._names("team", facts.team)):
            places = self._places.get(a)
            if places is not None:
                for b in what:
                    found.update(places.get(b, ()))
        return [rule for _, rule in sorted(found)]

    def parts(self) -> Iterator[object]:
        """What it is made of, to be freed piece by piece."""
        for places in self._places.values():
            yield from places.values()

    def _names(self, fact: str, value: str) -> list[_Key]:
        """The keys under which a value can be filed: itself, and its beginnings that some rule uses."""
        lengths = self._lengths.get(fact)
        if lengths is None:
            return [(fact, value)]
        return [(fact, value), *((fact, value[:n] + "*") for n in lengths if n <= len(value))]


def _keys(rule: Rule, fact: str) -> list[_Key]:
    entries = rule.entries(fact)
    if entries is None:
        return []
    return [(fact, text) for text in (*sorted(entries.exact), *(prefix + "*" for prefix in entries.prefixes))]
