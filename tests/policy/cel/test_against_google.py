"""What this compiler makes of an expression is what Google's implementation in C++ makes of it.

Expressions are made up at random, thousands of them on each run: both refuse one, or both take it; and where both
take it, both find the same value or both find none. What differs is listed below, each with its reason.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import pytest

from gateway.policy.cel import CelError, CelMistake, Environment, Program, compile_cel
from tests.identity.mutants import SEED, Cases
from tests.policy.cel.expressions import VARIABLES, Maker
from tests.policy.cel.oracle import Failed, Oracle, same

MOST: Final = 0.02  # of all expressions: what one reason may excuse

_NUMBERS: Final = r"'_[<>]=?_' applied to '\((int|uint|double), (int|uint|double)\)'"


class Found(NamedTuple):
    """What one implementation makes of an expression and some facts."""

    value: object
    error: str  # empty where there is a value


REFUSED_THERE: Final[dict[str, Callable[[str, str], object]]] = {
    "numbers of different types have an order, as cel-go has it": lambda _, said: re.search(_NUMBERS, said),
    "the items of an empty list or map are of any type": lambda text, _: re.search(r"\[\]|\{\}", text),
    "an item that is dyn makes the list or map one of dyn": lambda text, _: re.search(r"[\[{]", text),
    "what is dyn may be a decimal, so dyn + int is dyn": lambda text, _: re.search(r" [-+*] ", text),
}
"""What compiles here and not there, by the text and what they say. Evaluated without types, it has to agree."""

REFUSED_HERE: Final[dict[str, Callable[[str, str], object]]] = {
    "a key that no map can have is a mistake": lambda _, said: "a key of a map" in said,
    "!! is two negations: of a double it is a mistake": lambda text, _: "!!" in text,
    "a conversion that none implements is a mistake": lambda _, said: re.match(
        r"\w+ does not take \((null_type|int|google.protobuf.Duration)\)", said
    ),
    "a literal that is no time is a mistake": lambda _, said: "is out of range" in said,
}
"""What compiles there and not here, by the text and what is said here."""

DIFFERENT: Final[dict[str, Callable[[Found, Found], object]]] = {
    "an error in a map literal is ignored where another operand decides, as any other": lambda ours, theirs: (
        not ours.error and "ALREADY_EXISTS" in theirs.error
    ),
    "!! is two negations: of what is no bool it is an error": lambda ours, theirs: (
        ours.error.startswith("the operand of !") and not theirs.error
    ),
    "an int and a uint that are equal are one key": lambda ours, theirs: (
        re.match(r"the map has the key \d+ twice", ours.error) and not theirs.error
    ),
    "a map with the keys true and 1 cannot leave as a dict": lambda ours, theirs: (
        "which cannot be told apart" in ours.error and not theirs.error
    ),
    "there is no int(bool), as the specification has it": lambda ours, theirs: (
        ours.error == "int does not take (bool)" and not theirs.error
    ),
    "a number has no white space around it, as cel-go has it": lambda ours, theirs: (
        ours.error.startswith(("the text is no number", "the text is no integer")) and not theirs.error
    ),
}
"""Values that differ, by what is found here and there."""


class Comparison:
    """Both implementations, the same facts, and what became of the expressions."""

    def __init__(self, rng: random.Random, counts: Counter[str]) -> None:
        """Make the facts that all expressions are evaluated with."""
        self.maker, self.counts = Maker(rng), counts
        self._environment, self._oracle = Environment(VARIABLES), Oracle(VARIABLES)
        self._facts = [(facts, self._oracle.facts(facts)) for facts in (self.maker.facts() for _ in range(40))]
        self.wrong: list[str] = []

    def compare(self, text: str) -> bool:
        """Compare one expression, with four sets of facts; always true."""
        ours, mistake = self._ours(text)
        theirs, refusal = self._theirs(text)
        several = self.maker.some(self._facts, 4)
        if ours is None and (refusal or all(self._their_value(theirs, handed).error for _, handed in several)):
            self.counts["refused in both"] += 1
        elif ours is None:
            self._excuse(REFUSED_HERE, text, text, mistake)
        else:
            if refusal:
                self._excuse(REFUSED_THERE, text, text, refusal)
            for facts, handed in several:
                self._judge(text, self._our_value(ours, facts), self._their_value(theirs, handed))
        return True

    def _judge(self, text: str, ours: Found, theirs: Found) -> None:
        if ours.error and theirs.error:
            self.counts["an error in both"] += 1
        elif not ours.error and not theirs.error and same(ours.value, theirs.value):
            self.counts["the same value"] += 1
        else:
            self._excuse(DIFFERENT, text, ours, theirs)

    def _excuse(self, table: Mapping[str, Callable[..., object]], text: str, *said: object) -> None:
        """Count under the reason that applies; where none does, something is wrong."""
        reason = next((reason for reason, applies in table.items() if applies(*said)), None)
        if reason is None:
            self.wrong.append(f"{text}: {said}")
        else:
            self.counts[reason] += 1

    def _ours(self, text: str) -> tuple[Program | None, str]:
        try:
            return compile_cel(text, self._environment), ""
        except CelMistake as mistake:
            return None, str(mistake)

    def _theirs(self, text: str) -> tuple[Any, str]:
        """Their expression, without types where it is refused with them."""
        try:
            return self._oracle.compile(text), ""
        except Failed as failed:
            try:
                return self._oracle.compile(text, checked=False), str(failed)
            except Failed:
                return None, str(failed)

    @staticmethod
    def _our_value(program: Program, facts: Mapping[str, object]) -> Found:
        try:
            return Found(program.evaluate(facts), "")
        except CelError as error:
            return Found(None, str(error))

    def _their_value(self, expression: Any, handed: Any) -> Found:  # noqa: ANN401 # the binding has no types
        try:
            return Found(self._oracle.evaluate(expression, handed), "")
        except Failed as failed:
            return Found(None, str(failed))


@pytest.mark.soak
def test_expressions_made_up_at_random(capsys: pytest.CaptureFixture[str]) -> None:
    """Thousands of expressions with four sets of facts each, in the long form 100,000 values, come out alike."""
    cases = Cases("expressions", short=2000, long=30_000)
    comparison = Comparison(cases.rng, cases.counts)
    expressions = sum(1 for _ in cases if comparison.compare(comparison.maker.expression()))
    with capsys.disabled():
        print(cases)
    assert comparison.wrong == [], f"PASSGATE_SEED={SEED}"
    assert cases.counts["the same value"] + cases.counts["an error in both"] > 5000
    assert cases.counts["the same value"] > 3000
    for reason in (*REFUSED_THERE, *REFUSED_HERE, *DIFFERENT):
        assert cases.counts[reason] <= MOST * expressions, f"PASSGATE_SEED={SEED}: {reason}"
