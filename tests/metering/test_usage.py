"""Usage figures of many providers end up in the same columns, to the token, or are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.usage import Usage
from gateway.metering.estimate import estimate
from gateway.metering.usage import MAX_TOKENS, UsageError, normalise

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine fails no property."""

PLAIN = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        (PLAIN, Usage(100, output_tokens=20)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage()),
        (
            {
                **PLAIN,
                "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 7, "image_tokens": 3},
                "completion_tokens_details": {
                    "reasoning_tokens": 12,
                    "audio_tokens": 2,
                    "image_tokens": 1,
                    "accepted_prediction_tokens": 4,
                    "rejected_prediction_tokens": 4,
                },
            },
            Usage(100, 60, 0, 20, 12, 7, 2, 3, 1),
        ),
        ({**PLAIN, "prompt_tokens_details": {"cache_write_tokens": 90}}, Usage(100, 0, 90, 20)),  # OpenRouter
        (
            {**PLAIN, "prompt_tokens_details": {"cache_write_tokens": 98, "cached_tokens": 98}},  # Gemini by OpenRouter
            Usage(100, 98, 98, 20),
        ),
        ({**PLAIN, "num_cached_tokens": 99}, Usage(100, 99, 0, 20)),  # Mistral
        ({**PLAIN, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36}, Usage(100, 64, 0, 20)),  # DeepSeek
        ({**PLAIN, "cached_tokens": 32}, Usage(100, 32, 0, 20)),  # Moonshot
        ({**PLAIN, "cached_tokens": 32, "prompt_tokens_details": {"cached_tokens": 30}}, Usage(100, 30, 0, 20)),
        ({**PLAIN, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 6}, Usage(100, 5, 6, 20)),
        (
            {**PLAIN, "queue_time": 0.1, "prompt_time": 0.1, "completion_time": 0.2, "total_time": 0.3},
            Usage(100, 0, 0, 20),
        ),
        ({**PLAIN, "cost": 0.01, "cost_details": {"x": None}, "is_byok": True}, Usage(100, 0, 0, 20)),  # OpenRouter
        ({**PLAIN, "prompt_tokens_details": None, "completion_tokens_details": None}, Usage(100, 0, 0, 20)),
        # Google: reasoning is in the total alone.
        ({"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109}, Usage(35, output_tokens=74)),
        # xAI: reasoning is named, and not in completion_tokens.
        (
            {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 135,
                "prompt_tokens_details": {"text_tokens": 32, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 6},
                "completion_tokens_details": {"reasoning_tokens": 94},
                "num_sources_used": 0,
            },
            Usage(32, 6, 0, 103, 94),
        ),
        # The same without a total: reasoning cannot be part of fewer tokens.
        (
            {"prompt_tokens": 1, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 94}},
            Usage(1, 0, 0, 103, 94),
        ),
        ({"prompt_tokens": 9, "total_tokens": 9}, Usage(9)),
        ({"completion_tokens": 4, "total_tokens": 9}, Usage(5, output_tokens=4)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 0}, Usage(9, output_tokens=4)),
    ],
)
def test_each_providers_figures_are_read(raw: dict[str, Any], usage: Usage) -> None:
    """Every known field of every provider lands in its column, and nothing is left unaccounted for."""
    assert normalise(raw) == (usage, ())


@pytest.mark.parametrize("raw", [None, {}, {"prompt_tokens": None}, {"total_tokens": 9}, {"prompt_tokens": 9}])
def test_missing_usage_is_none_and_not_zero(raw: object) -> None:
    """B07: usage that is not there is None, so that it gets estimated; an explicit zero is zero."""
    assert normalise(raw) == (None, ())
    assert normalise({"prompt_tokens": 0, "completion_tokens": 0})[0] == Usage()


@pytest.mark.parametrize(
    "name",
    [
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "num_cached_tokens",
        "prompt_tokens_details.cached_tokens",
        "prompt_tokens_details.cache_write_tokens",
        "prompt_tokens_details.audio_tokens",
        "completion_tokens_details.reasoning_tokens",
        "completion_tokens_details.image_tokens",
    ],
)
@pytest.mark.parametrize("figure", [-1, -0.5, 1.5, True, "12", [12], {"n": 1}, MAX_TOKENS + 1, 10**30, 1e300])
def test_what_is_no_count_is_refused(name: str, figure: object) -> None:
    """B07: a negative, fractional, absurd or non-numeric figure is an error that names the field, never a charge."""
    raw: dict[str, Any] = dict(PLAIN)
    parent, _, leaf = name.rpartition(".")
    if parent:
        raw[parent] = {leaf: figure}
    else:
        raw[leaf] = figure
    with pytest.raises(UsageError, match=leaf):
        normalise(raw)


@pytest.mark.parametrize(
    "raw",
    [[], "x", 7, {**PLAIN, "prompt_tokens_details": 3}, {**PLAIN, "prompt_tokens_details": {"cached_tokens": 101}}],
)
def test_what_cannot_be_usage_is_refused(raw: object) -> None:
    """B07: usage that is no object, or counts more cached tokens than there are, is an error."""
    with pytest.raises(UsageError):
        normalise(raw)


@pytest.mark.parametrize(
    ("extra", "names"),
    [
        ({"magic_tokens": 5}, ("magic_tokens",)),
        ({"magic_tokens": 0}, ("magic_tokens",)),
        ({"prompt_tokens_details": {"holo_tokens": 1}}, ("prompt_tokens_details.holo_tokens",)),
        (
            {"completion_tokens_details": {"a": 0, "b": {}}},
            ("completion_tokens_details.a", "completion_tokens_details.b"),
        ),
        ({"server_tool_use_details": {"web_search_requests": 1}}, ("server_tool_use_details",)),
        ({"server_tool_use_details": {"web_search_requests": 0, "tool_calls_executed": None}}, ()),
        ({"server_tool_use_details": {"dreams": 0}}, ("server_tool_use_details",)),
        ({"server_tool_use_details": {}}, ("server_tool_use_details",)),
        ({"num_sources_used": 3}, ("num_sources_used",)),
        ({"num_sources_used": 0}, ()),
        ({"prompt_tokens_details": {"video_tokens": 0}}, ()),
        ({"prompt_tokens_details": {"video_tokens": 9}}, ("prompt_tokens_details.video_tokens",)),
    ],
)
def test_what_is_not_accounted_for_is_named(extra: dict[str, Any], names: tuple[str, ...]) -> None:
    """An unknown field, or one that costs and has no column, is reported by name and never vanishes."""
    assert normalise({**PLAIN, **extra}) == (Usage(100, output_tokens=20), names)


counts = st.integers(0, 10_000)


@STEADY
@given(counts, counts, counts, st.booleans(), st.booleans())
def test_totals_hold(given_: int, made: int, reasoning: int, apart: bool, floats: bool) -> None:  # noqa: FBT001  generated
    """Whether reasoning is counted within or beside the completion, the total holds; `12.0` is 12."""
    within = made + reasoning
    raw: dict[str, Any] = {
        "prompt_tokens": given_,
        "completion_tokens": made if apart else within,
        "total_tokens": given_ + within,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    if floats:
        raw = {name: float(value) if isinstance(value, int) else value for name, value in raw.items()}
        raw["completion_tokens_details"] = {"reasoning_tokens": float(reasoning)}
    usage, _ = normalise(raw)
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == (given_, within, reasoning)
    assert usage.total == raw["total_tokens"]
    assert all(type(figure) is int for figure in (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens))


figures = st.none() | st.integers(-5, MAX_TOKENS + 5) | st.floats() | st.booleans() | st.text(max_size=3)
fields = st.sampled_from(
    [
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "cached_tokens",
        "reasoning_tokens",
        "num_cached_tokens",
        "x",
    ]
)


@STEADY
@given(st.dictionaries(fields, figures) | st.dictionaries(st.just("prompt_tokens_details"), figures))
def test_no_figures_make_a_negative_count(raw: dict[str, Any]) -> None:
    """B07: whatever a provider sends, a count is within bounds or the usage is refused."""
    try:
        usage, _ = normalise(raw)
    except UsageError:
        return
    if usage is not None:
        assert 0 <= usage.cached_input_tokens <= usage.input_tokens <= MAX_TOKENS
        assert 0 <= usage.reasoning_tokens <= usage.output_tokens <= 2 * MAX_TOKENS


def test_an_estimate_is_a_bound_and_says_so() -> None:
    """B07: without usage, bytes bound the tokens, and the row is flagged."""
    assert estimate(340, 12) == Usage(input_tokens=340, output_tokens=12, estimated=True)
