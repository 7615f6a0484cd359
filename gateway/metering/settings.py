"""What can be set about prices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, ClassVar

from gateway.settings.types import Day, Pattern, UsdPerMillion

PricedModel = Annotated[
    str,
    Pattern(
        "a provider and a model",
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}/[!-)+-~]{0,199}\*?",
        "PROVIDER/MODEL, or PROVIDER/sim-*",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSettings:
    """What a model costs from a day on, in USD per million tokens."""

    NOT_BUILT: ClassVar[Mapping[str, str]] = {"per_call": "prices per call are not built yet"}

    from_: Annotated[date, Day()] | None = None
    """The first day (UTC) of these prices; without it they hold since ever."""
    input: UsdPerMillion | None = None
    """Input tokens."""
    cached_input: UsdPerMillion | None = None
    """Input tokens read from the provider's cache."""
    cache_write: UsdPerMillion | None = None
    """Input tokens written to the provider's cache."""
    output: UsdPerMillion | None = None
    """Output tokens."""
    reasoning: UsdPerMillion | None = None
    """Output tokens spent on reasoning."""
    audio_input: UsdPerMillion | None = None
    """Audio tokens that came in."""
    audio_output: UsdPerMillion | None = None
    """Audio tokens that went out."""
    image_input: UsdPerMillion | None = None
    """Image tokens that came in."""
    image_output: UsdPerMillion | None = None
    """Image tokens that went out."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """A price names a price; zero is one."""
        if all(getattr(self, name) is None for name in self.__slots__ if name != "from_"):
            yield "", "no price is named", 'give at least `input` and `output`; what is free costs "0"'
