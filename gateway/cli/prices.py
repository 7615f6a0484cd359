"""`passgate prices`: what tokens cost, by the shipped book and the config's own prices."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.cli import DONE, WrongUse, load_settings

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.metering.prices import Card, PriceBook, Rate

NOT_KNOWN: Final = 1

_LISTED: Final = ("input", "cached_input", "cache_write", "output")
_LIST_EXAMPLE: Final = "example: passgate prices list --provider anthropic"
_SHOW_EXAMPLE: Final = "example: passgate prices show gpt-4o --at 2026-06-01"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `prices` and what is below it."""
    prices = commands.add_parser("prices", help="what tokens cost", epilog=_SHOW_EXAMPLE)
    below = prices.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = below.add_parser("list", help="all prices: the shipped book's and the config's own", epilog=_LIST_EXAMPLE)
    listing.add_argument("--provider", metavar="NAME", help="only this provider's")
    _add_shared(listing)
    listing.set_defaults(run=_list)
    show = below.add_parser("show", help="the prices of one model", epilog=_SHOW_EXAMPLE)
    show.add_argument("model", metavar="MODEL", help="a model as the provider knows it, or PROVIDER/MODEL")
    _add_shared(show)
    show.set_defaults(run=_show)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--at", metavar="DATE", help="on that day, or at that time (RFC 3339, UTC); default: now")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--config", metavar="FILE", help="default: PASSGATE_CONFIG, or config.yaml where there is one")


def _list(given: argparse.Namespace) -> int:
    book, settings = _load(given)
    at = _time(given.at)
    own = [tuple(key.split("/", 1)) for key in settings.prices] if settings else []
    rows = [(name, model, book.rate(name, "", model.removesuffix("*"), at)) for name, model in own]
    rows += [(name, model, book.listed_rate(name, model, at)) for name, model in book.listed()]
    found = [(name, model, rate) for name, model, rate in rows if rate and given.provider in (None, name)]
    if not found:
        names = ", ".join(sorted({name for name, _, _ in rows}))
        print(f"passgate: there are no prices of {given.provider}; there are some of {names}.", file=sys.stderr)
        return NOT_KNOWN
    if given.format == "json":
        print(json.dumps([_plain(*row) for row in found], indent=2))
        return DONE
    print(f"{'USD per million tokens':<48}{''.join(f'{kind:>14}' for kind in _LISTED)}  version")
    for name, model, rate in found:
        prices = "".join(f"{_usd(rate.card, kind):>14}" for kind in _LISTED)
        print(f"{f'{name}/{model}':<48}{prices}  {rate.version}{'  dearer when long' if rate.tiers else ''}")
    return DONE


def _show(given: argparse.Namespace) -> int:
    book, settings = _load(given)
    at = _time(given.at)
    found = _rates(book, settings, given.model, at)
    if not found:
        print(f"passgate: no price is known for {given.model}; add one under `prices` in the config.", file=sys.stderr)
        return NOT_KNOWN
    if given.format == "json":
        print(json.dumps([_plain(*row) for row in found], indent=2))
        return DONE
    for provider, model, rate in found:
        print(f"{provider}/{model}  ({rate.version}; USD per million tokens)")
        for kind in rate.card._fields:
            print(f"  {kind:<13} {_usd(rate.card, kind):>10}{'  no price of its own' if kind in rate.assumed else ''}")
        for above, card in reversed(rate.tiers):
            changed = (f"{kind} {_usd(card, kind)}" for kind in card._fields if kind not in rate.assumed)
            print(f"  above {above} input tokens: {', '.join(changed)}")
    return DONE


def _rates(book: PriceBook, settings: Settings | None, model: str, at: float) -> list[tuple[str, str, Rate]]:
    """The model's price at each provider of the config and in each book that has one."""
    places = {name: name for name, _ in book.listed()}
    if settings:
        for name, provider in settings.providers.items():
            places[name] = book.name_of(name, provider.price_book, provider.base_url)
    first, slash, rest = model.partition("/")
    if slash and first in places:
        places, model = {first: places[first]}, rest
    rates = ((name, model, book.rate(name, place, model, at)) for name, place in places.items())
    return [(name, model, rate) for name, model, rate in rates if rate is not None]


def _usd(card: Card, kind: str) -> str:
    from gateway.core.money import usd_text

    return usd_text(getattr(card, kind))


def _plain(provider: str, model: str, rate: Rate) -> dict[str, object]:
    def card(prices: Card) -> dict[str, str]:
        return {kind: _usd(prices, kind) for kind in prices._fields}

    tiers = [{"above_input_tokens": above, "usd_per_million": card(prices)} for above, prices in reversed(rate.tiers)]
    return {
        "provider": provider,
        "model": model,
        "price_version": rate.version,
        "usd_per_million": card(rate.card),
        "assumed": list(rate.assumed),
        "tiers": tiers,
    }


def _load(given: argparse.Namespace) -> tuple[PriceBook, Settings | None]:
    """The book with the config's own prices, and the config's settings where there is a config."""
    from gateway.metering.prices import SHIPPED, PriceBook

    file = given.config or os.environ.get("PASSGATE_CONFIG")
    settings = load_settings(file or "config.yaml") if file or Path("config.yaml").exists() else None
    try:
        return PriceBook.load(SHIPPED.read_bytes(), settings.prices if settings else {}), settings
    except ValueError as error:
        raise WrongUse(f"passgate: {error}.") from None


def _time(text: str | None) -> float:
    if text is None:
        return time.time()
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise WrongUse(f"passgate: --at {text} is not a date; write 2026-06-01 or 2026-06-01T12:00:00Z.") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
