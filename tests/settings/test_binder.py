"""Binding: what each type accepts, what it says of the rest, and that nothing stops at the first mistake."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.sources import KeptSources
from gateway.settings import Binder, Complaints, Secret, document
from gateway.settings.types import (
    NON_EMPTY,
    Bind,
    BindAddress,
    Bytes,
    Count,
    Day,
    Later,
    NanoUsd,
    Network,
    NetworkRange,
    Percent,
    Seconds,
    Text,
    Url,
    UsdPerMillion,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """A section."""

    SWITCHABLE: ClassVar[str] = "entry"

    key: Secret | None = None
    """A secret."""
    file: Path = Path("default.txt")
    """A path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """One field of every type."""

    NOT_BUILT: ClassVar[Mapping[str, str]] = {"later": "later is not built yet"}

    seconds: Seconds = 1.0
    bytes_: Bytes = 1
    count: Count = 1
    money: NanoUsd = 0
    price: UsdPerMillion | None = None
    percent: Annotated[Decimal, Percent()] = Decimal(0)
    day: Annotated[date, Day()] | None = None
    bind: Annotated[Bind, BindAddress()] | None = None
    network: Annotated[Network, NetworkRange()] | None = None
    url: Annotated[str, Url(demo=True)] | None = None
    text: Text = "x"
    flag: bool = False
    word: Annotated[Literal["one", "two"], Later("three")] = "one"
    either: Literal["auto"] | Count | tuple[Text, ...] = 1
    some: Annotated[tuple[Text, ...], NON_EMPTY] = ("x",)
    secret: Secret | None = None
    inner: Inner = field(default_factory=Inner)
    entries: Mapping[Text, Inner] = field(default_factory=dict)
    low: Count = 0
    high: Count = 10

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """Low is not above high."""
        if self.low > self.high:
            yield "low", "is above `high`", "lower it"


def bound(text: str, **variables: str) -> tuple[Whole, list[str], Binder]:
    files = {"dir/secret.txt": b"s3cret\n", "dir/two.txt": b"s3cret\n\n", "dir/bytes.bin": b"\xff"}
    complaints = Complaints()
    binder = Binder(complaints, KeptSources(files, {}, dict(variables)))
    node = document(text.encode(), "dir/f.yaml", complaints)
    assert node is not None, complaints.found
    return binder.bind(node, Whole), [str(complaint) for complaint in complaints.found], binder


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("seconds: 15m", "seconds", 900.0),
        ("seconds: 250ms", "seconds", 0.25),
        ("seconds: 1.5 h", "seconds", 5400.0),
        ("seconds: 2d", "seconds", 172800.0),
        ("bytes: 32 MiB", "bytes_", 32 * 1024**2),
        ("bytes: 1.5KiB", "bytes_", 1536),
        ("bytes: 3 MB", "bytes_", 3_000_000),
        ("bytes: 7B", "bytes_", 7),
        ("count: 2000000", "count", 2_000_000),
        ("count: 2M", "count", 2_000_000),
        ("count: 100k", "count", 100_000),
        ("count: 1.5k", "count", 1500),
        ("money: 0.01 USD", "money", 10_000_000),
        ("money: 0.000000001 USD", "money", 1),
        ("price: 0.15", "price", Decimal("0.15")),
        ('price: "0.60"', "price", Decimal("0.60")),
        ("percent: 12.5%", "percent", Decimal("0.125")),
        ("day: 2026-01-31", "day", date(2026, 1, 31)),
        ("bind: 127.0.0.1:80", "bind", Bind("127.0.0.1", 80)),
        ('bind: "[::1]:0"', "bind", Bind("::1", 0)),
        ("network: 10.0.0.0/8", "network", ip_network("10.0.0.0/8")),
        ("url: https://a.example/v1/", "url", "https://a.example/v1"),
        ('url: "builtin:demo"', "url", "builtin:demo"),
        ("url: null", "url", None),
        ("flag: true", "flag", True),
        ("either: auto", "either", "auto"),
        ("either: 3", "either", 3),
        ("either: [a, b]", "either", ("a", "b")),
        ("later: null", "flag", False),
        ("later: false", "flag", False),
    ],
)
def test_values_become_what_the_code_computes_with(text: str, name: str, value: object) -> None:
    """Durations are seconds, sizes bytes, money nano-USD, prices exact decimals of their text."""
    whole, mistakes, _ = bound(text)
    assert mistakes == []
    assert getattr(whole, name) == value
    assert type(getattr(whole, name)) is type(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seconds: 15", "'15' is not a duration; write a number with ms, s, m, h or d"),
        ("seconds: -5s", "is not a duration"),
        ("seconds: 0s", "0s is too small; use 1ms or more"),
        ("seconds: null", "is not a duration"),
        ("bytes: 32", "'32' is not a size; write a number with B, KiB"),
        ("bytes: 0.5B", "is not a size"),
        ("count: -1", "is not a count"),
        ("count: 1.5", "is not a count"),
        ("count: 1_000", "is not a count"),
        ("count: 007", "is not a count"),
        ("seconds: 010s", "is not a duration"),
        ("count: 999999999999999", "too large"),
        ("money: 0.01", "is not an amount of money; write an amount with its currency"),
        ("money: 1 EUR", "is not an amount of money"),
        ("money: 0.0000000001 USD", "finer than a nano-USD"),
        ("price: -1", "is not a price"),
        ("price: 1e3", "is not a price"),
        ("price: 0.1000000001", "9 decimal places"),
        ("percent: 101%", "is not a percentage"),
        ("percent: 10", "is not a percentage"),
        ("day: 2026-02-30", "is not a day"),
        ("day: 2026-1-3", "is not a day"),
        ("bind: 127.0.0.1", "is not an address to bind"),
        ("bind: 127.0.0.1:70000", "is not an address to bind"),
        ("bind: example.com:80", "is not an address to bind"),
        ("network: 10.0.0.1/8", "is not a network"),
        ("url: a.example", "is not an http or https address"),
        ("url: ftp://a.example", "is not an http or https address"),
        ("url: https://me:pw@a.example", "may not carry credentials"),
        ("url: https://a.example/?q=1", "may not carry a query"),
        ('url: "https://["', "is not an http or https address"),
        ("text: 12", '`12` is not text; put it in quotes: "12"'),
        ("text: ''", "is not text of 1 to 1000"),
        ("flag: yes", "this is the text 'yes'; write true or false"),
        ("flag: [true]", "this is a list; write true or false"),
        ("word: three", "three is not built yet; use one or two"),
        ("word: tow", "did you mean `two`?"),
        ("some: []", "the list is empty"),
        ("some: a", "write a list"),
        ("either: {}", "this is a mapping; write auto or"),
        ("inner: null", "this is empty; write a mapping"),
        ("secert: x", "unknown key; did you mean `secret`?"),
        ("later: {x: 1}", "later is not built yet; remove the key"),
        ("low: 11", "low: is above `high`; lower it"),
        ("text: ${env:A}", "expanded in secrets only"),
        ("secret: ${env:UNSET}", "the environment variable UNSET is unset; set it, or write"),
        ("secret: ${env:UNSET?}", "nothing here can be switched off"),
        ("secret: ${env:A B}", "cannot be expanded"),
        ("secret: ${vault:x}", "cannot be expanded"),
        ("secret: ${env:A", "cannot be expanded"),
        ("secret: ${file:none.txt}", "the file dir/none.txt cannot be read"),
        ("secret: ${file:bytes.bin}", "cannot be read: it is not UTF-8 text"),
        ("secret: ${file:two.txt}", "empty or holds control characters"),
        ('secret: ""', "empty or holds control characters"),
        ("secret: 1234", "a secret must be text"),
    ],
)
def test_every_mistake_says_what_is_wrong_and_what_to_do(text: str, says: str) -> None:
    """One sentence with file, line, setting, problem and remedy, and no other mistake beside it."""
    _, mistakes, _ = bound("\n" + text)
    assert len(mistakes) == 1, mistakes
    assert mistakes[0].startswith("dir/f.yaml:2: ")
    assert "; " in mistakes[0]
    assert says in mistakes[0]


def test_secrets_come_from_variables_and_files_and_are_never_shown() -> None:
    """A secret is expanded in place, loses one trailing newline, and hides in repr, str and f-strings."""
    whole, mistakes, binder = bound("secret: Bearer ${env:A}-${file:secret.txt}-$$-$x", A="v")
    assert mistakes == []
    assert whole.secret is not None
    assert whole.secret.reveal() == "Bearer v-s3cret-$-$x"
    assert binder.secret_files == [Path("dir/secret.txt")]
    for shown in (repr(whole), str(whole), f"{whole.secret}", repr(whole.secret)):
        assert "s3cret" not in shown
    assert whole.secret == Secret("Bearer v-s3cret-$-$x")
    assert whole.secret != Secret("other")


def test_a_secret_that_is_wrong_is_not_quoted() -> None:
    """The complaint about a secret names the setting, never the text."""
    _, mistakes, _ = bound('secret: "sk-very-secret\\n"')
    assert len(mistakes) == 1
    assert "very" not in mistakes[0]


def test_an_optional_variable_that_is_unset_switches_the_entry_off() -> None:
    """The entry is gone, the reason is kept, its neighbours stay; an empty variable is unset too."""
    whole, mistakes, binder = bound("entries: {a: {key: '${env:NO?}'}, b: {key: '${env:YES?}'}}", NO="", YES="y")
    assert mistakes == []
    assert list(whole.entries) == ["b"]
    assert binder.off == {"entries.a": "entry a is off: NO unset"}


def test_mistakes_in_an_entry_that_is_off_are_still_found() -> None:
    """Whether a variable is set does not decide whether the file is right."""
    _, mistakes, _ = bound("entries: {a: {key: '${env:NO?}', fiel: x}}")
    assert len(mistakes) == 1
    assert "did you mean `file`" in mistakes[0]


def test_paths_are_relative_to_the_file_their_defaults_included() -> None:
    """A path means the same wherever the process was started."""
    whole, _, _ = bound("entries: {a: {file: x/y.txt}, b: {file: /abs.txt}}")
    assert [entry.file for entry in whole.entries.values()] == [Path("dir/x/y.txt"), Path("/abs.txt")]
    assert whole.inner.file == Path("dir/default.txt")


def test_all_mistakes_are_found_at_once() -> None:
    """Nine wrong fields make nine complaints, each in its own line."""
    lines = ["seconds: x", "bytes: x", "count: x", "money: x", "flag: x", "word: x", "some: x", "inner: x", "nope: x"]
    _, mistakes, _ = bound("\n".join(lines))
    assert [int(mistake.split(":")[1]) for mistake in mistakes] == list(range(1, len(lines) + 1))


def test_a_hostile_file_is_complained_about_quickly() -> None:
    """S19: ninety thousand unknown keys end in a hundred complaints."""
    _, mistakes, binder = bound("\n".join(f"k{n}: 1" for n in range(90_000)))
    assert len(mistakes) == 100
    assert binder.complaints.total == 90_000


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text("ab${}:envfile?0s %") | st.floats(allow_nan=False),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["seconds", "bytes", "count", "some", "secret", "inner", "key", "entries", "word"]),
                inner,
            )
        ),
    )
)
def test_no_value_gives_a_traceback(value: object) -> None:
    """Whatever stands in a field, the whole is bound with holes, or right."""
    complaints = Complaints()
    node = document(json.dumps(value).encode(), "dir/f.yaml", complaints)
    if node is not None:
        assert isinstance(Binder(complaints, KeptSources({}, {}, {})).bind(node, Whole), Whole)
