"""What tokens cost: dated prices in whole numbers, found by provider, model and time.

1. A price is read from decimal text and kept as femto-USD a token; a cost is summed in femto-USD
   and rounded once, half to even, to nano-USD. No float touches it.
2. The config's own prices beat the book; an exact name beats the longest beginning.
3. Of dated prices the last one that has begun counts; a price with hours (UTC) counts within them.
4. A price that is not known is `None`, never zero: whoever asks decides what that means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from gateway.core.money import per_million_tokens, to_nano
from gateway.core.usage import Usage

if TYPE_CHECKING:
    from gateway.metering.settings import PriceSettings

SHIPPED: Final = Path(__file__).with_name("prices.json")
"""The maintained book; `scripts/refresh_prices.py` writes it."""

_LONGEST_NAME: Final = 200  # characters of a model's name; a longer one has no price
_KNOWN_ENTRIES: Final = 4096
_WHOLE: Final = 1_000_000_000  # a discount is kept in billionths
_SECONDS_A_DAY: Final = 86_400


class Card(NamedTuple):
    """Femto-USD for one token of each kind (as a number also nano-USD for a million of them)."""

    input: int
    cached_input: int
    cache_write: int
    output: int
    reasoning: int
    audio_input: int
    audio_output: int
    image_input: int
    image_output: int


_BASE: Final = dict.fromkeys(Card._fields, "input") | dict.fromkeys(
    ("output", "reasoning", "audio_output", "image_output"), "output"
)
"""Which price stands in for one that is not given."""


@dataclass(frozen=True, slots=True)
class Rate:
    """The prices of one model at one time.

    `version` names where they come from: `book-2026-11-20`, `config`, `config-2026-01-01` (the
    entry's `from`). `assumed` are the token kinds without a price of their own: they cost what
    plain input or output costs. `tiers` replace the prices of the whole call once its input is
    longer than so many tokens; the highest stands first.
    """

    version: str
    card: Card
    tiers: tuple[tuple[int, Card], ...] = ()
    assumed: tuple[str, ...] = ()

    def cost(self, usage: Usage) -> int:
        """The list cost in nano-USD.

        Kinds that a provider reports beyond the total are cut at it, the dearer kinds (audio, image)
        served first, so that nobody's odd sums make a call cheap. What was written to a cache and read
        from it in the same call costs both. A negative count is none.
        """
        total = max(usage.input_tokens, 0)
        card = self.card
        for above, tier in self.tiers:
            if total > above:
                card = tier
                break
        femto, left = _served(
            total,
            (usage.input_audio_tokens, card.audio_input),
            (usage.input_image_tokens, card.image_input),
        )
        written = min(max(usage.cache_write_tokens, 0), left)
        read = min(max(usage.cached_input_tokens, 0), left)
        femto += written * card.cache_write + read * card.cached_input
        femto += max(left - written - read, 0) * card.input
        generated, left = _served(
            max(usage.output_tokens, 0),
            (usage.output_audio_tokens, card.audio_output),
            (usage.output_image_tokens, card.image_output),
            (usage.reasoning_tokens, card.reasoning),
        )
        return to_nano(femto + generated + left * card.output)


def _served(left: int, *kinds: tuple[int, int]) -> tuple[int, int]:
    """What kinds of tokens (count, price) cost out of a total, in femto-USD, and what of the total is left."""
    femto = 0
    for tokens, price in kinds:
        if tokens > 0:
            part = min(tokens, left)
            left -= part
            femto += part * price
    return femto, left


class _Dated(NamedTuple):
    """A rate, from when on, and within which hours of a day it counts (seconds from midnight UTC)."""

    rate: Rate
    start: int = 0
    hours: tuple[int, int] | None = None

    def active(self, at: int) -> bool:
        """Whether it counts at that second."""
        if at < self.start:
            return False
        if self.hours is None:
            return True
        begin, end = self.hours
        second = at % _SECONDS_A_DAY
        return begin <= second < end if begin <= end else second >= begin or second < end


_Prices = tuple[_Dated, ...]  # the last one that is active counts


class _Names:
    """The models of one provider: names that are exact, and patterns, the longest first."""

    def __init__(self) -> None:
        self.exact: dict[str, _Prices] = {}
        self._patterns: list[tuple[int, Callable[[str], object], _Prices]] = []

    def add(self, name: str, prices: _Prices, digit: str = "") -> None:
        """Add a name; `*` at an end is anything, and a character may stand for a digit."""
        regex = re.escape(name).replace(r"\*", ".*")
        if digit:
            regex = regex.replace(re.escape(digit), "[0-9]")
        if regex == re.escape(name):
            self.exact.setdefault(name, prices)
            return
        self._patterns.append((len(name.strip("*")), re.compile(regex, re.DOTALL).fullmatch, prices))
        self._patterns.sort(key=lambda pattern: -pattern[0])

    def find(self, name: str) -> _Prices | None:
        """The prices of a name, `None` when nothing matches."""
        found = self.exact.get(name)
        if found is not None:
            return found
        return next((prices for _, matches, prices in self._patterns if matches(name)), None)


class PriceBook:
    """The shipped prices and the config's own."""

    def __init__(self, version: str, hosts: dict[str, str], models: dict[str, dict[str, _Prices]]) -> None:
        """Use `load`."""
        self.version = version
        self._hosts = hosts
        self._models = models
        self._books: dict[str, _Names] = {}
        self._overrides: dict[str, _Names] = {}
        self._known: dict[tuple[str, str, str], _Prices] = {}

    @classmethod
    def load(cls, data: bytes, overrides: Mapping[str, tuple[PriceSettings, ...]]) -> PriceBook:
        """Read the book (the content of `SHIPPED`) and the config's `prices`.

        Those are keyed `provider/model` or `provider/beginning*`, the provider by its name in the config.
        Raises `ValueError` with a sentence that names the key when one cannot be used.
        """
        content = json.loads(data)
        version = str(date.fromisoformat(content["version"]))
        hosts: dict[str, str] = {}
        models: dict[str, dict[str, _Prices]] = {}
        books: dict[str, _Names] = {}
        for name, provider in content["providers"].items():
            hosts |= dict.fromkeys(provider["hosts"], name)
            models[name], books[name] = {}, _Names()
            for model, entry in provider["models"].items():
                prices = tuple(_from_book(price, f"book-{version}") for price in entry["prices"])
                models[name][model] = prices
                for pattern in entry["names"]:
                    books[name].add(pattern, prices, digit="#")
                for pattern in entry.get("except", ()):
                    books[name].add(pattern, ())
        book = cls(version, hosts, models)
        book._books = books
        for key, entries in overrides.items():
            provider, slash, model = key.partition("/")
            if not (provider and slash and model) or "*" in model[:-1]:
                raise ValueError(f"prices: {key!r} is not provider/model or provider/beginning*")
            prices = tuple(sorted((_from_settings(key, entry) for entry in entries), key=lambda dated: dated.start))
            if len({dated.start for dated in prices}) < len(prices):
                raise ValueError(f"prices: {key!r} has two entries that begin on the same day")
            book._overrides.setdefault(provider, _Names()).add(model, prices)
        return book

    def rate(self, provider: str, price_book: str, model: str, at: float) -> Rate | None:
        """The prices of a model at a time (epoch seconds), `None` when they are not known.

        `provider` is its name in the config, where overrides look; `price_book` the book's name
        of a provider, empty when there is none; `model` the name that the provider knows.
        """
        key = (provider, price_book, model)
        prices = self._known.get(key)
        if prices is None:
            prices = self._find(provider, price_book, model)
            if len(self._known) >= _KNOWN_ENTRIES:
                self._known.clear()
            if len(model) <= _LONGEST_NAME:
                self._known[key] = prices
        for dated in reversed(prices):
            if (dated.start == 0 and dated.hours is None) or dated.active(int(at)):
                return dated.rate
        return None

    def _find(self, provider: str, price_book: str, model: str) -> _Prices:
        """The book's prices, then the config's, which therefore count where they have begun."""
        if len(model) > _LONGEST_NAME:
            return ()
        overrides, book = self._overrides.get(provider), self._books.get(price_book)
        own = overrides.find(model) if overrides is not None else None
        shipped = book.find(model.lower()) or book.find(_dashed(model.lower())) if book is not None else None
        return (shipped or ()) + (own or ())

    def age_seconds(self, now: float) -> int:
        """How old the shipped book is."""
        return int(now) - _epoch(date.fromisoformat(self.version))

    def book_of_host(self, host: str) -> str:
        """The book's name of the provider whose API is at that host, empty when it has none."""
        return self._hosts.get(host, "")

    def name_of(self, provider: str, price_book: str | None, base_url: str) -> str:
        """A provider's name in the book: the configured one, else that of its address's host, else its own."""
        return price_book or self.book_of_host(urlsplit(base_url).hostname or "") or provider

    def listed(self) -> Iterator[tuple[str, str]]:
        """All (price book, model) that the shipped book lists."""
        return ((name, model) for name, models in self._models.items() for model in models)

    def listed_rate(self, price_book: str, model: str, at: float) -> Rate | None:
        """The shipped prices of a model by the name under which `listed` gives it."""
        prices = self._models.get(price_book, {}).get(model, ())
        return next((dated.rate for dated in reversed(prices) if dated.active(int(at))), None)


def discount_billionths(share: Decimal) -> int:
    """A discount (`Decimal("0.15")` is 15%) as a whole number of billionths, for `net_cost`."""
    if not 0 <= share <= 1:
        raise ValueError(f"{share} is not a discount between 0 and 1")
    scaled = share * _WHOLE
    if scaled != int(scaled):
        raise ValueError(f"a discount of {share} is finer than a billionth")
    return int(scaled)


def net_cost(list_nano: int, billionths: int) -> int:
    """A list cost in nano-USD less a discount, rounded half to even."""
    if not billionths:
        return list_nano
    whole, rest = divmod(list_nano * (_WHOLE - billionths), _WHOLE)
    return whole + (2 * rest > _WHOLE or (2 * rest == _WHOLE and whole % 2 == 1))


_COMPACT_DATE: Final = re.compile(r"-(20[0-9]{2})(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])$")


def _dashed(model: str) -> str:
    """`gpt-5.2-20251211`, as some clients write it, is `gpt-5.2-2025-12-11` in the book."""
    return _COMPACT_DATE.sub(r"-\1-\2-\3", model)


def _epoch(day: date) -> int:
    return (day.toordinal() - date(1970, 1, 1).toordinal()) * _SECONDS_A_DAY


def _card(prices: Mapping[str, Decimal]) -> Card:
    """All prices of a card; output may have none (embeddings), other kinds cost what their base does."""
    femto = {part: per_million_tokens(price) for part, price in prices.items()}
    base = {"input": femto["input"], "output": femto.get("output", 0)}
    return Card(**{part: femto.get(part, base[_BASE[part]]) for part in Card._fields})


def _assumed(prices: Mapping[str, Decimal]) -> tuple[str, ...]:
    return tuple(part for part in Card._fields if part not in prices)


def _decimals(entry: Mapping[str, str]) -> dict[str, Decimal]:
    return {part: Decimal(entry[part]) for part in Card._fields if part in entry}


def _from_book(entry: Mapping[str, Any], version: str) -> _Dated:
    prices = _decimals(entry)
    tiers = sorted(((tier["above"], _card(_decimals(tier))) for tier in entry.get("tiers", ())), reverse=True)
    start = _epoch(date.fromisoformat(entry["from"])) if "from" in entry else 0
    begin, dash, end = entry.get("hours", "").partition("-")
    hours = (_second(begin), _second(end)) if dash else None
    return _Dated(Rate(version, _card(prices), tuple(tiers), _assumed(prices)), start, hours)


def _second(time: str) -> int:
    hour, _, minute = time.partition(":")
    return int(hour) * 3600 + int(minute) * 60


def _from_settings(key: str, entry: PriceSettings) -> _Dated:
    prices = {part: price for part in Card._fields if (price := getattr(entry, part)) is not None}
    if "input" not in prices or "output" not in prices:
        raise ValueError(f'prices: {key!r} needs both input and output; what is free costs "0"')
    version = "config" if entry.from_ is None else f"config-{entry.from_}"
    return _Dated(Rate(version, _card(prices), (), _assumed(prices)), _epoch(entry.from_) if entry.from_ else 0)
