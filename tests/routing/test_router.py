"""From the name that was asked for to the targets behind it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.call import Target
from gateway.core.errors import Refusal
from gateway.routing import Router
from gateway.routing.settings import ModelSettings, OutputTokenSettings, TargetSettings


def to(*targets: tuple[str, str], **limits: int) -> ModelSettings:
    caps = OutputTokenSettings(**limits) if limits else None
    return ModelSettings(
        targets=tuple(TargetSettings(provider=provider, model=model) for provider, model in targets), output_tokens=caps
    )


MODELS = {
    "small": to(("openai", "gpt-4o-mini"), ("groq", "llama"), max=100),
    "sim-*": to(("demo", "")),
    "sim-big-*": to(("other", "")),
    "sim-big-one": to(("exact", "one")),
}
OFF = {"groq": "provider groq is off: GROQ_API_KEY unset"}


@pytest.mark.parametrize(
    ("asked", "route"),
    [
        ("small", "small"),
        ("sim-x", "sim-*"),
        ("sim-big-x", "sim-big-*"),
        ("sim-big-one", "sim-big-one"),
        ("sim-", "sim-*"),
    ],
)
def test_exact_beats_the_longest_beginning(asked: str, route: str) -> None:
    """A name finds its own route, else the one that shares the most with it."""
    assert Router(MODELS, {}).route(asked).name == route


@pytest.mark.parametrize("asked", ["", "nobody", "Small", "sim", "small ", "sim*"])
def test_a_name_that_nothing_matches_is_unknown(asked: str) -> None:
    """Names compare as they are written; the refusal lists nothing that the agent may not see."""
    with pytest.raises(Refusal) as refused:
        Router(MODELS, {}).route(asked)
    assert refused.value.code == "model_unknown"
    assert "gpt-4o-mini" not in refused.value.sentence
    assert "sim-big-one" not in refused.value.sentence


def test_targets_keep_their_order_and_those_that_are_off_are_left_out() -> None:
    """The plan asks in the order of the configuration, and never a provider that is switched off."""
    router = Router(MODELS, OFF)
    assert router.plan(router.route("small"), "small") == (Target("openai", "gpt-4o-mini"),)
    everything = Router(MODELS, {})
    assert [t.provider for t in everything.plan(everything.route("small"), "small")] == ["openai", "groq"]


def test_a_model_whose_providers_are_all_off_says_why() -> None:
    """The caller reads which variable is unset, as an operator does."""
    router = Router({"m": to(("groq", "llama"))}, OFF)
    with pytest.raises(Refusal) as refused:
        router.plan(router.route("m"), "m")
    assert refused.value.code == "model_unknown"
    assert "provider groq is off: GROQ_API_KEY unset" in refused.value.sentence
    assert router.models == ()


@given(st.text(alphabet="abc-*", max_size=12))
def test_a_target_without_a_model_passes_the_name_that_was_asked(rest: str) -> None:
    """Whatever follows the beginning goes upstream as it came."""
    router = Router({"sim-*": to(("demo", ""))}, {})
    asked = f"sim-{rest}"
    assert router.plan(router.route(asked), asked) == (Target("demo", asked),)


def test_the_output_cap_belongs_to_the_route() -> None:
    """A route without limits has no cap; one with limits has them."""
    router = Router(MODELS, {})
    cap = router.route("small").cap
    assert cap is not None
    assert (cap.default, cap.maximum) == (None, 100)
    assert router.route("sim-x").cap is None
