"""What the gateway attests from an answer that it saw: the outcome, the subject, and when it says nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.attestation import OUTCOMES
from gateway.policy import Observation
from tests.policy.scene import ORDER, read

VERDICT = 'result.verdict == "pass" ? "passed" : "failed"'
SUBJECT = "{order_id: args.order_id, amount: args.amount, currency: args.currency}"


def observing(outcome: str = VERDICT, subject: str = SUBJECT) -> Observation:
    """One observation of fraud.check."""
    text = "version: 1\npolicy: p\nrules:\n  - {id: r, effect: deny, match: {}}\nobserve:\n"
    (one,) = read(
        f"{text}  - {{step: check, tool: fraud.check, outcome: '{outcome}', subject: {subject}}}\n"
    ).observations("fraud.check")
    return one


@pytest.mark.parametrize(
    ("outcome", "result", "said"),
    [
        (VERDICT, {"verdict": "pass"}, "passed"),
        (VERDICT, {"verdict": "suspicious"}, "failed"),
        (VERDICT, {"verdict": None}, "failed"),
        (VERDICT, {}, "error"),
        (VERDICT, [], "error"),
        (VERDICT, None, "error"),
        (VERDICT, "pass", "error"),
        ("result.outcome", {"outcome": "skipped"}, "skipped"),
        ("result.outcome", {"outcome": "Passed"}, "error"),
        ("result.outcome", {"outcome": "passed "}, "error"),
        ("result.outcome", {"outcome": True}, "error"),
        ("result.outcome", {"outcome": ["passed"]}, "error"),
        ('"passed"', {"order_id": "A1"}, "passed"),
        ('"passed"', {"order_id": "A2"}, "error"),
        ('"passed"', {"order_id": None}, "error"),
        ('"passed"', {"amount": 100}, "passed"),
        ('"passed"', {"amount": 100.0}, "error"),
        ('"passed"', {"amount": "100"}, "error"),
        ('"passed"', {"nested": {"order_id": "A2"}}, "passed"),
    ],
)
def test_the_outcome_is_one_of_four_words(outcome: str, result: object, said: str) -> None:
    """W7: any other word, no word at all, and an answer that speaks of another order are an error."""
    assert observing(outcome).attest(ORDER, result) == (said, ORDER)


@pytest.mark.parametrize(
    ("args", "left"),
    [
        ({**ORDER, "amount": 100.0}, {"order_id", "currency"}),
        ({**ORDER, "amount": None}, {"order_id", "currency"}),
        ({**ORDER, "amount": [100]}, {"order_id", "currency"}),
        ({**ORDER, "order_id": "x" * 1025}, {"amount", "currency"}),
        ({"order_id": "A1"}, {"order_id"}),
    ],
)
def test_what_cannot_be_attested_is_left_out_and_the_outcome_is_an_error(args: dict[str, Any], left: set[str]) -> None:
    """W4: a float, a null, a list, an endless text or nothing never become a subject, and never a success."""
    attested = observing().attest(args, {"verdict": "pass"})
    assert attested is not None
    assert attested[0] == "error"
    assert set(attested[1]) == left


def test_without_any_subject_nothing_is_attested() -> None:
    """Where no part of the subject can be read there is nothing to speak of; where none is named the run is meant."""
    assert observing().attest({}, {"verdict": "pass"}) is None
    assert observing(subject="{}").attest({}, {"verdict": "pass"}) == ("passed", {})


def test_a_subject_may_come_from_the_answer() -> None:
    """What the tool itself names is attested with its type."""
    one = observing(subject="{order_id: args.order_id, score: result.score, clean: result.clean}")
    assert one.attest(ORDER, {"verdict": "pass", "score": 7, "clean": True}) == (
        "passed",
        {"order_id": "A1", "score": 7, "clean": True},
    )


def test_only_the_tool_that_is_named_is_observed() -> None:
    """Observations are found by the exact name of the tool, several of one tool together."""
    lines = "".join(
        f"  - {{step: s{n}, tool: {tool}, outcome: '\"passed\"'}}\n" for n, tool in enumerate(("a.b", "a.b", "a.bc"))
    )
    loaded = read(f"version: 1\npolicy: p\nrules:\n  - {{id: r, effect: deny, match: {{}}}}\nobserve:\n{lines}")
    assert [one.step for one in loaded.observations("a.b")] == ["s0", "s1"]
    assert loaded.observations("A.b") == loaded.observations("a") == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["order_id", "verdict", "x"]), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["order_id", "amount", "currency"]), JSON), JSON)
def test_whatever_comes_is_a_word_and_scalars(args: dict[str, object], result: object) -> None:
    """No arguments and no answer make anything but one of four words and exact scalars; success needs all of it."""
    attested = observing().attest(args, result)
    if attested is None:
        return
    outcome, subject = attested
    assert outcome in OUTCOMES
    assert all(type(value) in {str, int, bool} and args[name] is value for name, value in subject.items())
    assert outcome != "passed" or (set(subject) == {"order_id", "amount", "currency"} and isinstance(result, dict))
