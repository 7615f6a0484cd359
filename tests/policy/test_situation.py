"""The facts that conditions may read: one table, from which types and the page come."""

from __future__ import annotations

import pytest

from gateway.policy.cel import BOOL, CelMistake, compile_cel
from gateway.policy.situation import ENVIRONMENT, FACTS, Activation, View, facts_reference
from tests.policy.scene import attested, call, moment


def test_every_fact_of_the_table_has_a_value_of_its_type() -> None:
    """What the table promises is there, in a call that has all of it, and can be compared with itself."""
    view = View(moment(call({"x": 1}), attested()))
    for fact in FACTS:
        assert compile_cel(f"{fact.path} == {fact.path}", ENVIRONMENT, expects=BOOL).evaluate(view.facts) is True


def test_the_table_is_all_there_is() -> None:
    """A name that the table does not have is a mistake when the policy is loaded, and what is made has no more."""
    view = View(moment(call(), attested()))
    made = {name: view.facts[name] for name in {fact.path.partition(".")[0] for fact in FACTS}}
    for name, value in made.items():
        declared = {fact.path.partition(".")[2] for fact in FACTS if fact.path.startswith(f"{name}.")}
        assert not declared or isinstance(value, dict)
        assert not isinstance(value, dict) or not declared or set(value) == declared
    for path in ("agent.env", "run.owner", "call.args", "principal.token", "request", "args.x.y && agents"):
        with pytest.raises(CelMistake):
            compile_cel(path, ENVIRONMENT)


def test_a_fact_is_made_when_it_is_read() -> None:
    """What no condition reads is not made; what is read twice is made once."""
    facts = View(moment(call(), attested())).facts
    assert isinstance(facts, Activation)
    assert dict(facts) == {}
    assert facts["agent"] is facts["agent"]
    assert list(facts) == ["agent"]


def test_the_page_has_every_fact_with_its_type() -> None:
    """The table of the documentation is made from the same list."""
    lines = facts_reference().splitlines()
    assert len(lines) == len(FACTS) + 2
    assert (
        "| `run.spend_usd` | decimal | What the run has cost before this call, in USD. Missing outside a run. |"
        in lines
    )
    assert any(line.startswith("| `agent.tags` | map(string, string) |") for line in lines)
    assert any(line.startswith("| `now` | timestamp |") for line in lines)
    assert any("age duration" in line for line in lines)
