# ruff: noqa: INP001 -- a script, not a package
"""Refresh the shipped price book from the facts of the `genai-prices` package.

    python scripts/refresh_prices.py [--check]

Writes `gateway/metering/prices.json` when a price or a model name has changed and gives it today's
date as its version; otherwise the file stays as it is. `--check` writes nothing and exits 1 when
the file is behind. Update the facts first: `pip install --upgrade genai-prices`.

What is taken: standard prices of text, cached, audio and image tokens, with their dates, hours and
input-length tiers. What is left out: batch, priority and flex prices, searches, seconds of audio,
and models that are not priced by the token.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from datetime import time

    from genai_prices.types import ConditionalPrice, MatchLogic, ModelInfo, ModelPrice, TieredPrices

BOOK: Final = Path(__file__).parent.parent / "gateway" / "metering" / "prices.json"

PROVIDERS: Final = {
    "openai": ("openai", ["api.openai.com"]),
    "anthropic": ("anthropic", ["api.anthropic.com"]),
    "google": ("google", ["generativelanguage.googleapis.com", "aiplatform.googleapis.com"]),
    "groq": ("groq", ["api.groq.com"]),
    "mistral": ("mistral", ["api.mistral.ai"]),
    "xai": ("x-ai", ["api.x.ai"]),
    "deepseek": ("deepseek", ["api.deepseek.com"]),
}
"""The book's name of a provider: the source's name, and the hosts of its API."""

PARTS: Final = {
    "input": "input_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "output": "output_mtok",
    "audio_input": "input_audio_mtok",
    "audio_output": "output_audio_mtok",
    "image_input": "input_image_mtok",
    "image_output": "output_image_mtok",
}
"""The book's name of a token kind: the source's name."""

_NOT_SPEECH: Final = "^(?!.*-[tT][tT][sS](?:$|-))"
_DATED: Final = (
    (r"\d{4}-\d{2}-\d{2}", "####-##-##"),
    (r"\d{8}", "########"),
    (r"\d", "#"),
)


def facts() -> dict[str, Any]:
    """The providers of the book, as the installed `genai-prices` has them, in the book's form."""
    from genai_prices.data import providers  # a tool of development only

    known = {provider.id: provider for provider in providers}
    return {
        name: {"hosts": hosts, "models": _models(known[source].models)} for name, (source, hosts) in PROVIDERS.items()
    }


def _models(models: list[ModelInfo]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    claimed: set[str] = set()
    for model in models:
        entries = [entry for entry in map(_entry, _conditional(model.prices)) if entry is not None]
        names = [name for name in _names(model.match) if name not in claimed]  # the source takes the first that matches
        claimed.update(names)
        if entries and names:
            but = {"except": excluded} if (excluded := _excluded(model.match)) else {}
            found[model.id] = {"names": sorted(names), **but, "prices": entries}
    return dict(sorted(found.items()))


def _conditional(prices: ModelPrice | list[ConditionalPrice]) -> list[tuple[Any, ModelPrice]]:
    return [(part.constraint, part.prices) for part in prices] if isinstance(prices, list) else [(None, prices)]


def _entry(conditional: tuple[Any, ModelPrice]) -> dict[str, Any] | None:
    """One dated entry, or `None` when it has no price by the token."""
    constraint, prices = conditional
    values = {part: getattr(prices, source) for part, source in PARTS.items()}
    given = {part: value for part, value in values.items() if value is not None}
    if "input" not in given:
        return None
    entry: dict[str, Any] = {}
    if constraint is not None:
        if hasattr(constraint, "start_date"):
            entry["from"] = constraint.start_date.isoformat()
        else:
            entry["hours"] = f"{_hour(constraint.start_time)}-{_hour(constraint.end_time)}"
    entry |= {part: _text(getattr(value, "base", value)) for part, value in given.items()}
    starts = sorted({tier.start for value in given.values() for tier in getattr(value, "tiers", ())})
    if starts:
        entry["tiers"] = [
            {"above": start} | {part: _text(_at(value, start)) for part, value in given.items()} for start in starts
        ]
    return entry


def _at(value: Decimal | TieredPrices, start: int) -> Decimal:
    """What a part costs once the input is longer than `start` tokens."""
    if isinstance(value, Decimal):
        return value
    prices = [tier.price for tier in value.tiers if tier.start <= start]
    return prices[-1] if prices else value.base


def _hour(at: time) -> str:
    if at.utcoffset():
        raise SystemExit(f"{at} is not in UTC: teach this script about it")
    return at.strftime("%H:%M")


def _text(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _names(match: MatchLogic) -> list[str]:
    """A match of the source as names of the book: `*` at an end is anything, `#` is a digit."""
    kind, operand = next(iter(match.__dict__.items()))
    if kind == "or_":
        return [name for part in operand for name in _names(part)]
    if kind == "and_":  # see `_excluded`
        return _names(operand[0])
    plain = {"equals": "{}", "starts_with": "{}*", "ends_with": "*{}", "contains": "*{}*"}
    if kind in plain:
        return [plain[kind].format(operand.lower())]
    if kind == "regex":
        return _names_of_regex(operand)
    raise SystemExit(f"the source matches by {kind}: teach this script about it")


def _excluded(match: MatchLogic) -> list[str]:
    """What a match of the source leaves out although a name's beginning fits: speech models, where it does."""
    kind, operand = next(iter(match.__dict__.items()))
    if kind == "or_":
        return [name for part in operand for name in _excluded(part)]
    if kind != "and_":
        return []
    start, condition = operand
    if getattr(start, "starts_with", None) is None or getattr(condition, "regex", None) != _NOT_SPEECH:
        raise SystemExit(f"the source matches by {match!r}: teach this script about it")
    return [f"{start.starts_with}*-tts", f"{start.starts_with}*-tts-*"]


def _names_of_regex(regex: str) -> list[str]:
    name = regex.removeprefix("^")
    end = "" if name.endswith("$") else "*"
    name = name.removesuffix("$")
    for digits, form in _DATED:
        name = name.replace(digits, form)
    forms = [name.replace("[-@]", sign) for sign in "-@"] if "[-@]" in name else [name]
    forms = [form.replace("\\.", ".") + end for form in forms]
    if any(not re.fullmatch(r"[a-z0-9.#/@:-]+\*?", form) for form in forms):
        raise SystemExit(f"the source matches by {regex!r}: teach this script about it")
    return forms


def written(book: dict[str, Any]) -> str:
    """The book as its file has it: a line for each model, so that a change reads well in a diff."""
    lines = ["{"]
    lines += [f" {json.dumps(key)}: {json.dumps(book[key])}," for key in ("version", "unit", "source")]
    lines.append(' "providers": {')
    for name, provider in book["providers"].items():
        lines.append(f'  {json.dumps(name)}: {{"hosts": {json.dumps(provider["hosts"])}, "models": {{')
        models = [f"   {json.dumps(model)}: {json.dumps(entry)}" for model, entry in provider["models"].items()]
        lines += [line + "," for line in models[:-1]] + [models[-1], "  }},"]
    lines[-1] = "  }}"
    return "\n".join([*lines, " }", "}", ""])


def refreshed(present: dict[str, Any] | None) -> dict[str, Any]:
    """The book with the source's facts; the present one where they are the same."""
    providers = facts()
    if present is not None and present["providers"] == providers:
        return present
    return {
        "version": datetime.now(UTC).date().isoformat(),
        "unit": "USD per million tokens",
        "source": f"genai-prices {version('genai-prices')}",
        "providers": providers,
    }


def main() -> int:
    """Refresh or check the file; exit 1 when `--check` finds it behind."""
    parser = argparse.ArgumentParser(description="Refresh the shipped price book.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when the book is behind")
    arguments = parser.parse_args()
    present = json.loads(BOOK.read_text()) if BOOK.exists() else None
    book = refreshed(present)
    models = sum(len(provider["models"]) for provider in book["providers"].values())
    if book == present:
        print(f"{BOOK.name} {book['version']} is up to date: {models} models")
        return 0
    if arguments.check:
        print(f"{BOOK.name} is behind: run python scripts/{Path(__file__).name}")
        return 1
    BOOK.write_text(written(book))
    print(f"{BOOK.name} {book['version']} written: {models} models")
    return 0


if __name__ == "__main__":
    sys.exit(main())
