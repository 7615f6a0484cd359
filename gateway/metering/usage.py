"""A provider's usage figures, read into the ledger's token counts.

Providers that speak the OpenAI dialect agree on `prompt_tokens`, `completion_tokens` and
`total_tokens` and on little else. The tables below say what each further field means; a field that is
in none of them is reported by name, never dropped in silence. A figure that cannot be a count of
tokens is a `UsageError`: the caller meters such an answer as if it had no usage, and raises the alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from gateway.core.usage import Usage

MAX_TOKENS: Final = 1_000_000_000
"""No single call uses more than this of anything; a higher figure is a mistake or an attack."""


class UsageError(ValueError):
    """A usage field holds what cannot be a count of tokens; the sentence names the field."""


_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})

_TOP: Final = frozenset(
    {
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
        "num_cached_tokens",  # Mistral
        "prompt_cache_hit_tokens",  # DeepSeek
        "prompt_cache_miss_tokens",  # DeepSeek: the rest of prompt_tokens
        "cached_tokens",  # Moonshot, Together
        "cache_read_input_tokens",  # Anthropic models behind an OpenAI-shaped address
        "cache_creation_input_tokens",
        "reasoning_tokens",  # Perplexity
        "queue_time",  # Groq, in seconds
        "prompt_time",
        "completion_time",
        "total_time",
        # What OpenRouter, xAI and Perplexity reckon themselves; money is ours to reckon, from the price book.
        "cost",
        "cost_details",
        "cost_in_usd_ticks",
        "is_byok",
        "search_context_size",
    }
)
_CACHED: Final = ("num_cached_tokens", "prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")
"""Where providers say beside the prompt's details what of it was cached."""
_PROMPT: Final = frozenset(
    {
        "text_tokens",  # xAI: what is neither audio nor image
        "cached_tokens",
        "cache_write_tokens",  # OpenRouter
        "cache_creation_tokens",
        "audio_tokens",
        "image_tokens",
    }
)
_COMPLETION: Final = frozenset(
    {
        "text_tokens",
        "reasoning_tokens",
        "audio_tokens",
        "image_tokens",
        "accepted_prediction_tokens",  # OpenAI: part of completion_tokens
        "rejected_prediction_tokens",  # OpenAI: part of completion_tokens, billed as such
    }
)
_UNPRICED: Final = frozenset(
    {
        "num_sources_used",  # xAI: live search
        "num_search_queries",  # Perplexity
        "citation_tokens",  # Perplexity
        "prompt_audio_seconds",  # Mistral
        "prompt_tokens_details.video_tokens",  # OpenRouter: part of prompt_tokens
        "completion_tokens_details.video_tokens",
        "server_tool_use.web_search_requests",  # OpenRouter
        "server_tool_use_details.web_search_requests",
        "server_tool_use_details.tool_calls_requested",
        "server_tool_use_details.tool_calls_executed",
    }
)
"""What may cost beside or beyond tokens and has no column: silent at zero, reported by name above it."""


def normalise(raw: object, dialect: str = "openai") -> tuple[Usage | None, tuple[str, ...]]:
    """Read a usage object into token counts, and name the fields that the counts do not account for.

    The counts are `None` where the provider gave none: the object is missing, or has neither
    `prompt_tokens` nor `completion_tokens` nor what they follow from. An explicit zero is zero.
    Raises `UsageError` for a figure that is no count, `KeyError` for a dialect without a reader.
    """
    return _READERS[dialect](raw)


def _openai(raw: object) -> tuple[Usage | None, tuple[str, ...]]:
    if raw is None:
        return None, ()
    if not isinstance(raw, dict):
        raise UsageError("usage is not an object")
    prompt = _details(raw, "prompt_tokens_details")
    completion = _details(raw, "completion_tokens_details")
    unaccounted = _unaccounted(raw, prompt, completion)

    total = _count(raw, "total_tokens")
    stated_input = _count(raw, "prompt_tokens")
    stated_output = _count(raw, "completion_tokens")
    if stated_input is None and stated_output is not None and total is not None:
        stated_input = max(0, total - stated_output)
    if stated_output is None and stated_input is not None and total is not None:
        stated_output = max(0, total - stated_input)
    if stated_input is None or stated_output is None:
        return None, unaccounted

    reasoning = _count(completion, "reasoning_tokens") or _count(raw, "reasoning_tokens") or 0
    usage = Usage(
        input_tokens=stated_input,
        cached_input_tokens=_cached(raw, prompt),
        cache_write_tokens=_first(prompt, "cache_write_tokens", "cache_creation_tokens")
        or _first(raw, "cache_creation_input_tokens"),
        output_tokens=_output(stated_input, stated_output, reasoning, total),
        reasoning_tokens=reasoning,
        input_audio_tokens=_first(prompt, "audio_tokens"),
        output_audio_tokens=_first(completion, "audio_tokens"),
        input_image_tokens=_first(prompt, "image_tokens"),
        output_image_tokens=_first(completion, "image_tokens"),
    )
    # Each alone: what is written to a cache and read from it in one call is in both (Gemini by OpenRouter).
    if max(usage.cached_input_tokens, usage.cache_write_tokens) > usage.input_tokens:
        raise UsageError("more tokens are said to be cached than prompt_tokens counts")
    return usage, unaccounted


_READERS: Final[dict[str, Callable[[object], tuple[Usage | None, tuple[str, ...]]]]] = {"openai": _openai}


def _output(given: int, made: int, reasoning: int, total: int | None) -> int:
    """All tokens that were generated, the reasoning ones included.

    xAI leaves reasoning out of `completion_tokens`, and so does Google, which does not even name it
    at its OpenAI-shaped address; both have it in `total_tokens`.
    """
    if total is not None and total > given + made:
        made = total - given
    return made if reasoning <= made else made + reasoning


def _cached(raw: Mapping[str, object], prompt: Mapping[str, object]) -> int:
    """The cached part of the prompt; where a provider says it twice and differently, the lower (dearer) figure."""
    cached = _count(prompt, "cached_tokens")
    if not raw.keys().isdisjoint(_CACHED):
        said = [figure for name in _CACHED if (figure := _count(raw, name)) is not None]
        cached = min(said if cached is None else [cached, *said], default=None)
    return cached or 0


def _details(raw: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = raw.get(name)
    if value is None:
        return _NOTHING
    if not isinstance(value, dict):
        raise UsageError(f"{name} is not an object")
    return value


def _first(source: Mapping[str, object], *names: str) -> int:
    for name in names:
        if name in source and (figure := _count(source, name)) is not None:
            return figure
    return 0


def _count(source: Mapping[str, object], name: str) -> int | None:
    """A count of tokens, `None` when missing or null. An integral float (`12.0`) is that integer."""
    value = source.get(name)
    if value is None:
        return None
    if type(value) is float and value.is_integer() and value <= MAX_TOKENS:
        value = int(value)
    if type(value) is not int:
        raise UsageError(f"{name} is not a whole number")
    if value < 0:
        raise UsageError(f"{name} is negative")
    if value > MAX_TOKENS:
        raise UsageError(f"{name} is beyond {MAX_TOKENS}")
    return value


def _unaccounted(
    raw: Mapping[str, object], prompt: Mapping[str, object], completion: Mapping[str, object]
) -> tuple[str, ...]:
    """Names of fields that are unknown, or that say something above zero for which there is no column."""
    if raw.keys() <= _TOP and prompt.keys() <= _PROMPT and completion.keys() <= _COMPLETION:
        return ()
    names = [name for name in raw.keys() - _TOP if not _silent(name, raw[name])]
    for parent, details, known in (
        ("prompt_tokens_details", prompt, _PROMPT),
        ("completion_tokens_details", completion, _COMPLETION),
    ):
        odd = details.keys() - known
        names += [f"{parent}.{name}" for name in odd if not _silent(f"{parent}.{name}", details[name])]
    return tuple(sorted(names))


def _silent(path: str, value: object) -> bool:
    """Whether a field is one that costs only above zero, and is not above it."""
    if isinstance(value, Mapping):
        return bool(value) and all(_silent(f"{path}.{name}", inner) for name, inner in value.items())
    return path in _UNPRICED and (value is None or value == 0)
