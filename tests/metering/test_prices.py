"""What tokens cost: the shipped book, the config's own prices, dates, hours, tiers, rounding."""

from __future__ import annotations

import ast
import json
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.usage import Usage
from gateway.metering import prices
from gateway.metering.prices import SHIPPED, Card, PriceBook, Rate, discount_billionths, net_cost
from gateway.metering.settings import PriceSettings

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC).timestamp()


def at(text: str) -> float:
    """Epoch seconds of an RFC 3339 time."""
    return datetime.fromisoformat(text).timestamp()


@pytest.fixture(scope="module", name="book")
def shipped_book() -> PriceBook:
    """The book as it ships."""
    return PriceBook.load(SHIPPED.read_bytes(), {})


def priced(book: PriceBook, provider: str, model: str, when: float = NOW) -> Rate:
    """A rate that must be there."""
    rate = book.rate("unused", provider, model, when)
    assert rate is not None, f"{provider}/{model} has no price"
    return rate


def own(**texts: str) -> PriceSettings:
    """Prices as the config gives them."""
    begin = date.fromisoformat(texts.pop("begin")) if "begin" in texts else None
    return PriceSettings(from_=begin, **{part: Decimal(text) for part, text in texts.items()})


def usage(input_tokens: int = 0, output_tokens: int = 0, **parts: int) -> Usage:
    """Usage with short names: cached, write, reasoning, audio_in, audio_out, image_in, image_out."""
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_input_tokens=parts.get("cached", 0),
        cache_write_tokens=parts.get("write", 0),
        reasoning_tokens=parts.get("reasoning", 0),
        input_audio_tokens=parts.get("audio_in", 0),
        output_audio_tokens=parts.get("audio_out", 0),
        input_image_tokens=parts.get("image_in", 0),
        output_image_tokens=parts.get("image_out", 0),
    )


# USD per million tokens times tokens is micro-USD; times 1000 it is nano-USD. So at 2.50 a token costs 2500 nano-USD.
@pytest.mark.parametrize(
    ("provider", "model", "used", "nano"),
    [
        # input 2.50, cached 1.25, output 10
        ("openai", "gpt-4o", usage(1000, 200), 1000 * 2500 + 200 * 10_000),
        ("openai", "gpt-4o", usage(1000, 200, cached=600), 400 * 2500 + 600 * 1250 + 200 * 10_000),
        ("openai", "gpt-4o", usage(1000, cached=1000), 1000 * 1250),
        ("openai", "gpt-4o", usage(), 0),
        # the same model by its date, and as some clients write dates
        ("openai", "gpt-4o-2024-08-06", usage(1), 2500),
        ("openai", "gpt-4o-20240806", usage(1), 2500),
        ("openai", "GPT-4o", usage(1), 2500),
        # the first gpt-4o cost 5 and 15 and had no price for cached tokens, which therefore cost 5
        ("openai", "gpt-4o-2024-05-13", usage(100, 10, cached=50), 100 * 5000 + 10 * 15_000),
        # input 0.15, cached 0.075, output 0.60; reasoning is output
        ("openai", "gpt-4o-mini", usage(1, 1), 150 + 600),
        ("openai", "gpt-4o-mini", usage(3, 5, cached=1, reasoning=4), 2 * 150 + 75 + 5 * 600),
        # input 2.50, output 10, audio in 32, audio out 64
        (
            "openai",
            "gpt-audio",
            usage(100, 50, audio_in=80, audio_out=40),
            20 * 2500 + 80 * 32_000 + 10 * 10_000 + 40 * 64_000,
        ),
        # input 5, image in 8, output 10, image out 32
        (
            "openai",
            "gpt-image-1.5",
            usage(50, 1000, image_in=40, image_out=990),
            10 * 5000 + 40 * 8000 + 10 * 10_000 + 990 * 32_000,
        ),
        # an embedding has no output: 0.02
        ("openai", "text-embedding-3-small", usage(1_000_000), 20_000_000),
        # input 2.50 / 15 out; above 272,000 tokens of input everything costs 5 / 22.50, cached 0.50
        ("openai", "gpt-5.4", usage(272_000, 1), 272_000 * 2500 + 15_000),
        ("openai", "gpt-5.4", usage(272_001, 1), 272_001 * 5000 + 22_500),
        ("openai", "gpt-5.4-2026-03-05", usage(300_000, 10, cached=299_000), 1000 * 5000 + 299_000 * 500 + 10 * 22_500),
        # input 3, cached 0.30, write 3.75, output 15; above 200,000: 6, 0.60, 7.50, 22.50
        (
            "anthropic",
            "claude-sonnet-4-5-20250929",
            usage(1000, 100, cached=700, write=200),
            100 * 3000 + 700 * 300 + 200 * 3750 + 100 * 15_000,
        ),
        ("anthropic", "claude-sonnet-4-5", usage(200_001, 1, write=200_001), 200_001 * 7500 + 22_500),
        # input 1, cached 0.10, write 1.25, output 5
        (
            "anthropic",
            "claude-haiku-4-5-20251001",
            usage(10, 10, cached=4, write=3),
            3 * 1000 + 4 * 100 + 3 * 1250 + 10 * 5000,
        ),
        # a dated name of a model that is listed by its form: input 5, output 25
        ("anthropic", "claude-opus-5-20260714", usage(1, 1), 5000 + 25_000),
        # input 0.30, cached 0.03, audio 1, output 2.50
        (
            "google",
            "gemini-2.5-flash",
            usage(1000, 10, cached=500, audio_in=100),
            400 * 300 + 500 * 30 + 100 * 1000 + 10 * 2500,
        ),
        # input 1.25 / 10 out; above 200,000: 2.50 / 15
        ("google", "gemini-2.5-pro", usage(200_000, 4, reasoning=3), 200_000 * 1250 + 4 * 10_000),
        ("google", "gemini-2.5-pro-preview-06-05", usage(200_001, 4), 200_001 * 2500 + 4 * 15_000),
        # output 2.50, images out 30
        ("google", "gemini-2.5-flash-image", usage(0, 1300, image_out=1290), 10 * 2500 + 1290 * 30_000),
        # input 0.15, cached 0.075, output 0.60
        ("groq", "openai/gpt-oss-120b", usage(7, 3, cached=2), 5 * 150 + 2 * 75 + 3 * 600),
        # input 0.05, output 0.08
        ("groq", "llama-3.1-8b-instant", usage(1, 1), 50 + 80),
        # input 0.30, cached 0.03, output 0.90
        ("mistral", "codestral-2508", usage(11, 1, cached=10), 300 + 10 * 30 + 900),
        # input 2, output 6, above 199,999: 4 and 12
        ("xai", "grok-4.5", usage(199_999, 1), 199_999 * 2000 + 6000),
        ("xai", "x-ai/grok-4.5-20260701", usage(200_000, 1), 200_000 * 4000 + 12_000),
        # input 0.30, cached 0.075, output 0.50
        ("xai", "grok-3-mini", usage(4, 1, cached=2), 2 * 300 + 2 * 75 + 500),
        # by day (12:00 UTC, within 00:30-16:30): input 0.27, cached 0.07, output 1.10
        ("deepseek", "deepseek-chat", usage(2, 1, cached=1), 270 + 70 + 1100),
        # from 2026-08-17, outside the dear hours: input 0.66, cached 0.022, output 1.98
        ("deepseek", "deepseek-v4-pro", usage(1000, 1, cached=999), 660 + 999 * 22 + 1980),
    ],
)
def test_the_shipped_book_by_hand(book: PriceBook, provider: str, model: str, used: Usage, nano: int) -> None:
    """What each of these calls costs, with the arithmetic spelled out."""
    assert priced(book, provider, model).cost(used) == nano


def test_prices_change_over_at_midnight_utc(book: PriceBook) -> None:
    """o3 cost 10 and 40 until 2025-06-10 and costs 2 and 8 from that day on."""
    assert priced(book, "openai", "o3", at("2025-06-09T23:59:59Z")).cost(usage(1, 1)) == 10_000 + 40_000
    assert priced(book, "openai", "o3", at("2025-06-10T00:00:00Z")).cost(usage(1, 1)) == 2000 + 8000
    assert priced(book, "mistral", "mistral-large-4", at("2026-10-25T00:00:00Z")).cost(usage(100)) == 136_000
    assert priced(book, "mistral", "mistral-large-4", NOW).cost(usage(100)) == 70_000


@pytest.mark.parametrize(
    ("time", "nano"),
    [
        ("00:59:59", 660),
        ("01:00:00", 1320),
        ("03:59:59", 1320),
        ("04:00:00", 660),
        ("06:00:00", 1320),
        ("10:00:00", 660),
    ],
)
def test_prices_change_over_within_a_day(book: PriceBook, time: str, nano: int) -> None:
    """DeepSeek's dear hours are 01:00-04:00 and 06:00-10:00 UTC, their ends exclusive."""
    assert priced(book, "deepseek", "deepseek-v4-pro", at(f"2026-11-20T{time}Z")).cost(usage(1)) == nano


def test_hours_may_cross_midnight() -> None:
    """A price from 22:00 to 02:00 holds late and early, and not at noon."""
    entry = {"names": ["m"], "prices": [{"input": "1"}, {"hours": "22:00-02:00", "input": "3"}]}
    content = {"version": "2026-01-01", "providers": {"p": {"hosts": [], "models": {"m": entry}}}}
    loaded = PriceBook.load(json.dumps(content).encode(), {})
    found = [
        priced(loaded, "p", "m", at(f"2026-01-05T{time}Z")).card.input
        for time in ("21:59:59", "22:00:00", "00:00:00", "01:59:59", "02:00:00", "12:00:00")
    ]
    assert found == [10**9, 3 * 10**9, 3 * 10**9, 3 * 10**9, 10**9, 10**9]


def test_an_unknown_price_is_not_zero(book: PriceBook) -> None:
    """What the book does not know has no rate, whatever part of it is unknown."""
    for provider, model in (
        ("openai", "gpt-0"),
        ("nobody", "gpt-4o"),
        ("", "gpt-4o"),
        ("openai", ""),
        ("openai", "gpt"),
    ):
        assert book.rate("x", provider, model, NOW) is None
    assert book.rate("x", "google", "gemini-2.5-pro-preview-tts-2", NOW) is None, "not every name that begins alike"
    assert book.rate("x", "openai", "gpt-4.5-preview" + "x" * 200, NOW) is None


def test_the_configs_prices_beat_the_book() -> None:
    """They are found by the provider's own name, exact before beginning, the longest beginning first."""
    loaded = PriceBook.load(
        SHIPPED.read_bytes(),
        {
            "mine/gpt-4o": (own(input="1", output="2"),),
            "mine/gpt-*": (own(input="3", output="4"),),
            "mine/gpt-4*": (own(input="5", output="6", cached_input="1"),),
            "mine/org/model": (own(input="7", output="8"),),
            "mine/odd#1": (own(input="9", output="9"),),
        },
    )
    found = {
        model: rate.cost(usage(1)) if (rate := loaded.rate("mine", "openai", model, NOW)) else None
        for model in ("gpt-4o", "gpt-4o-mini", "gpt-5.4", "o3", "org/model", "odd#1", "odd21", "GPT-4o", "gpt", "none")
    }
    assert found == {
        "gpt-4o": 1000,
        "gpt-4o-mini": 5000,
        "gpt-5.4": 3000,
        "o3": 2000,
        "org/model": 7000,
        "odd#1": 9000,
        "odd21": None,
        "GPT-4o": 2500,  # names in the config are exact; the book's own is found
        "gpt": None,
        "none": None,
    }
    other = loaded.rate("other", "openai", "gpt-4o", NOW)
    assert other is not None
    assert (other.cost(usage(1)), other.version) == (2500, f"book-{loaded.version}")


def test_the_configs_prices_have_dates() -> None:
    """The last that has begun counts, whatever their order; before the first the book does."""
    loaded = PriceBook.load(
        SHIPPED.read_bytes(),
        {
            "p/gpt-4o": (
                own(begin="2026-06-01", input="2", output="2"),
                own(begin="2026-01-01", input="1", output="1"),
            ),
            "p/local": (own(begin="2026-06-01", input="2", output="2"), own(input="1", output="1")),
            "p/new": (own(begin="2026-06-01", input="2", output="2"),),
        },
    )

    def source(model: str, when: str) -> str | None:
        rate = loaded.rate("p", "openai", model, at(when))
        return rate.version if rate else None

    assert source("gpt-4o", "2025-12-31T23:59:59Z") == f"book-{loaded.version}"
    assert source("gpt-4o", "2026-01-01T00:00:00Z") == "config-2026-01-01"
    assert source("gpt-4o", "2026-06-01T00:00:00Z") == "config-2026-06-01"
    assert source("local", "2026-05-31T23:59:59Z") == "config"
    assert source("new", "2026-05-31T23:59:59Z") is None


@pytest.mark.parametrize("key", ["gpt-4o", "/gpt-4o", "openai/", "openai/*-mini", "openai/a*b", "openai/**", ""])
def test_a_key_that_names_no_model_is_refused(key: str) -> None:
    """The sentence names the key."""
    with pytest.raises(ValueError, match="is not provider/model"):
        PriceBook.load(SHIPPED.read_bytes(), {key: (own(input="1", output="1"),)})


def test_half_a_price_is_refused() -> None:
    """Without a price for output an override would give it away."""
    for entry in (own(input="1"), own(output="1"), own(cached_input="1")):
        with pytest.raises(ValueError, match="needs both input and output"):
            PriceBook.load(SHIPPED.read_bytes(), {"p/m": (entry,)})


def test_two_prices_of_one_day_are_refused() -> None:
    """It would be a guess which of them counts."""
    with pytest.raises(ValueError, match="begin on the same day"):
        PriceBook.load(SHIPPED.read_bytes(), {"p/m": (own(input="1", output="1"), own(input="2", output="1"))})


def test_every_kind_has_its_own_price() -> None:
    """Nine kinds, nine prices, each counted once."""
    texts = {part: str(number + 1) for number, part in enumerate(Card._fields)}
    loaded = PriceBook.load(SHIPPED.read_bytes(), {"p/m": (own(**texts),)})
    rate = loaded.rate("p", "", "m", NOW)
    assert rate is not None
    assert rate.assumed == ()
    used = usage(1111, 2222, cached=1, write=10, audio_in=100, image_in=500, audio_out=3, image_out=20, reasoning=200)
    input_cost = 500 * 1 + 1 * 2 + 10 * 3 + 100 * 6 + 500 * 8
    output_cost = 1999 * 4 + 200 * 5 + 3 * 7 + 20 * 9
    assert rate.cost(used) == (input_cost + output_cost) * 1000


def test_a_kind_without_a_price_costs_what_its_base_costs_and_says_so() -> None:
    """Cached tokens without a price cost as input, reasoning as output."""
    rate = PriceBook.load(SHIPPED.read_bytes(), {"p/m": (own(input="2", output="3"),)}).rate("p", "", "m", NOW)
    assert rate is not None
    assert rate.assumed == tuple(part for part in Card._fields if part not in ("input", "output"))
    assert rate.cost(usage(10, 10, cached=5, write=2, audio_in=1, reasoning=7, image_out=1)) == 10 * 2000 + 10 * 3000


COUNTS = st.integers(0, 10**7)
USED = st.builds(Usage, *[COUNTS] * 9)
MONEY = st.decimals(0, 1000, places=9)
RATES = st.builds(
    lambda given_prices: prices._from_settings("p/m", PriceSettings(**given_prices)).rate,
    st.fixed_dictionaries(
        {"input": MONEY, "output": MONEY}, optional=dict.fromkeys(Card._fields[1:3] + Card._fields[4:], MONEY)
    ),
)


def by_fractions(rate: Rate, used: Usage) -> int:
    """The same cost by another way: a list of tokens' prices, summed as decimals, rounded once."""

    def split(total: int, wanted: list[tuple[int, int]], base: int) -> Decimal:
        cost, left = Decimal(0), total
        for count, femto in wanted:
            part = min(count, left)
            left -= part
            cost += Decimal(part) * femto
        return cost + Decimal(left) * base

    card = rate.card
    media = [(used.input_audio_tokens, card.audio_input), (used.input_image_tokens, card.image_input)]
    text = max(used.input_tokens - used.input_audio_tokens - used.input_image_tokens, 0)
    written, read = min(used.cache_write_tokens, text), min(used.cached_input_tokens, text)
    cost = split(used.input_tokens - text, media, card.input)
    cost += Decimal(written) * card.cache_write + Decimal(read) * card.cached_input
    cost += Decimal(max(text - written - read, 0)) * card.input
    cost += split(
        used.output_tokens,
        [
            (used.output_audio_tokens, card.audio_output),
            (used.output_image_tokens, card.image_output),
            (used.reasoning_tokens, card.reasoning),
        ],
        card.output,
    )
    return int((cost / 10**6).to_integral_value(ROUND_HALF_EVEN))


def test_what_is_written_to_a_cache_and_read_from_it_in_one_call_costs_both() -> None:
    """Some providers count the same tokens as written and as read, and bill both."""
    rate = PriceBook.load(
        SHIPPED.read_bytes(), {"p/m": (own(input="1", cached_input="2", cache_write="3", output="4"),)}
    )
    found = rate.rate("p", "", "m", NOW)
    assert found is not None
    assert found.cost(usage(10, 0, cached=9, write=9)) == (9 * 2 + 9 * 3) * 1000


@settings(deadline=None)
@given(RATES, USED)
def test_a_cost_is_exact(rate: Rate, used: Usage) -> None:
    """The parts add up to the whole, rounded once, half to even; no token is left out."""
    assert rate.cost(used) == by_fractions(rate, used)


@settings(deadline=None)
@given(RATES, USED, st.integers(0, 10**6))
def test_more_tokens_never_cost_less(rate: Rate, used: Usage, more: int) -> None:
    """Cost grows with input and output, and stays between the cheapest and the dearest token."""
    counts = {name: getattr(used, name) for name in Usage.__struct_fields__}
    grown_in = Usage(**counts | {"input_tokens": used.input_tokens + more})
    grown_out = Usage(**counts | {"output_tokens": used.output_tokens + more})
    cost = rate.cost(used)
    assert 0 <= cost <= rate.cost(grown_in)
    assert cost <= rate.cost(grown_out)
    both = min(used.cached_input_tokens, used.cache_write_tokens, used.input_tokens)  # read and written: costs both
    assert cost * 10**6 <= (used.total + both) * max(rate.card) + 500_000
    assert cost * 10**6 >= used.total * min(rate.card) - 500_000


@settings(deadline=None)
@given(RATES, st.builds(Usage, *[st.integers(-(10**6), 10**6)] * 9))
def test_odd_usage_never_earns_money(rate: Rate, used: Usage) -> None:
    """Negative counts, or parts beyond the total, give no negative cost."""
    assert rate.cost(used) >= 0


@given(st.integers(0, 10**15), st.integers(0, 10**9))
def test_a_discount_is_exact_and_rounds_half_to_even(nano: int, billionths: int) -> None:
    """The net cost is the list cost less the share, to the nano-USD."""
    exact = Decimal(nano) * (10**9 - billionths) / 10**9
    assert net_cost(nano, billionths) == int(exact.to_integral_value(ROUND_HALF_EVEN))


def test_discounts_by_hand() -> None:
    """15% off 1000 is 850; half a nano-USD goes to the even side; beyond 0 to 1 there is no discount."""
    assert net_cost(1000, discount_billionths(Decimal("0.15"))) == 850
    assert net_cost(1, discount_billionths(Decimal("0.5"))) == 0
    assert net_cost(3, discount_billionths(Decimal("0.5"))) == 2
    assert net_cost(12345, discount_billionths(Decimal(0))) == 12345
    assert net_cost(12345, discount_billionths(Decimal(1))) == 0
    for share in ("1.01", "-0.1", "0.12345678901"):
        with pytest.raises(ValueError, match="discount"):
            discount_billionths(Decimal(share))


def test_remembered_prices_are_few(book: PriceBook) -> None:
    """Names that agents make up do not fill the memory."""
    for number in range(5000):
        book.rate("x", "openai", f"made-up-{number}", NOW)
    assert len(book._known) <= 4096
    book.rate("x", "openai", "m" * 100_000, NOW)
    assert not any(len(model) > 200 for _, _, model in book._known)


def test_the_book_is_known_by_the_hosts_of_the_providers(book: PriceBook) -> None:
    """A provider's prices are found by where its API is."""
    assert book.book_of_host("api.openai.com") == "openai"
    assert book.book_of_host("api.x.ai") == "xai"
    assert book.book_of_host("llm.example") == ""


def test_the_book_says_how_old_it_is(book: PriceBook) -> None:
    """Its age counts from the day of its version."""
    midnight = at(f"{book.version}T00:00:00Z")
    assert book.age_seconds(midnight + 90_000) == 90_000


def test_the_shipped_book_lists_the_seven_providers(book: PriceBook) -> None:
    """Each listed model has a price now, and every price is a plain decimal text."""
    listed = list(book.listed())
    assert {name for name, _ in listed} == {"openai", "anthropic", "google", "groq", "mistral", "xai", "deepseek"}
    assert all(book.listed_rate(name, model, NOW) is not None for name, model in listed)
    content = json.loads(SHIPPED.read_bytes(), parse_float=pytest.fail)
    for provider in content["providers"].values():
        for model in provider["models"].values():
            for entry in model["prices"]:
                assert all(isinstance(entry[part], str) for part in Card._fields if part in entry)


@pytest.mark.parametrize("module", ["prices.py", "../core/money.py"])
def test_no_float_touches_money(module: str) -> None:
    """The modules that reckon with money hold no float literal, no float() and no division but of decimals."""
    tree = ast.parse((SHIPPED.parent / module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            assert not isinstance(node.value, float), ast.unparse(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("float", "round"), ast.unparse(node)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            assert "Decimal" in ast.unparse(node), ast.unparse(node)


def skip_unless_made_from_what_is_installed() -> dict[str, Any]:
    """The shipped book's content, where the source that it was made from is here to compare with."""
    content: dict[str, Any] = json.loads(SHIPPED.read_bytes())
    try:
        installed = f"genai-prices {version('genai-prices')}"
    except PackageNotFoundError:
        installed = "none"
    if installed != content["source"]:
        pytest.skip(f"the price book is checked against {content['source']}, installed is {installed}: use pip install")
    return content


def test_the_script_finds_its_own_book_up_to_date() -> None:
    """With the facts it was made from, refreshing changes nothing; a price that differs is a new version."""
    present = skip_unless_made_from_what_is_installed()
    from scripts import refresh_prices

    assert refresh_prices.refreshed(present) is present
    assert refresh_prices.written(present) == SHIPPED.read_text(encoding="utf-8")
    changed = json.loads(SHIPPED.read_text(encoding="utf-8"))
    changed["providers"]["openai"]["models"]["gpt-4o"]["prices"][0]["input"] = "1"
    again = refresh_prices.refreshed(changed)
    assert again["providers"] == present["providers"]
    assert again["version"] == datetime.now(UTC).date().isoformat()


def test_names_resolve_as_the_source_resolves_them(book: PriceBook) -> None:
    """Names with dates, previews and prefixes find the price that `genai-prices` finds, or none where it has none."""
    skip_unless_made_from_what_is_installed()
    from genai_prices.data import providers

    from scripts.refresh_prices import PROVIDERS, _names

    known = {provider.id: provider for provider in providers}
    moment = datetime.fromtimestamp(NOW, UTC)
    checked = 0
    for name, (source, _) in PROVIDERS.items():
        stems = {form.strip("*").replace("#", "2") for model in known[source].models for form in _names(model.match)}
        for stem in sorted(stems):
            for suffix in ("", "-latest", "-2026-01-01", "-20260101", "-preview", "-tts", "-tts-1", "-audio", "x"):
                model = known[source].find_model(stem + suffix)
                price = getattr(model.get_prices(moment), "input_mtok", None) if model else None
                rate = book.rate("x", name, stem + suffix, NOW)
                expected = None if price is None else int(getattr(price, "base", price) * 10**9)
                assert (rate.card.input if rate else None) == expected, f"{name}/{stem}{suffix}"
                checked += 1
    assert checked > 3000
