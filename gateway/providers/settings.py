"""What can be set about LLM providers."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, ClassVar, Literal

from gateway.outbound.settings import TimeoutOverrides
from gateway.settings.types import NON_EMPTY, Later, Name, Percent, Secret, Text, Url


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingSettings:
    """Which account the provider bills, for exports."""

    account_id: Text | None = None
    """The billing account's id."""
    account_name: Text | None = None
    """The billing account's name."""
    invoice_issuer: Text | None = None
    """Who writes the invoice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """One LLM upstream."""

    SWITCHABLE: ClassVar[str] = "provider"

    dialects: Annotated[tuple[Annotated[Literal["openai"], Later("anthropic", "gemini")], ...], NON_EMPTY]
    """Which APIs it speaks."""
    base_url: Annotated[str, Url(demo=True)]
    """As that provider's SDK writes it, or `builtin:demo`."""
    api_key: Secret | None = None
    """Its key; agents never see it."""
    on_disconnect: Literal["abort", "drain"] = "abort"
    """What happens upstream when an agent hangs up outside a run; inside one the answer is always drained."""
    price_book: Name | None = None
    """Whose prices in the shipped price book apply, where that is not the provider's own name."""
    discount: Annotated[Decimal, Percent()] = Decimal(0)
    """What is taken off the list prices."""
    billing: BillingSettings | None = None
    """Which account the provider bills."""
    timeouts: TimeoutOverrides = field(default_factory=TimeoutOverrides)
    """Its own deadlines."""
    expose_limits: bool = False
    """Whether agents see its rate-limit headers (they describe the shared key)."""
    allow_internal: bool = False
    """Whether it may have a private or loopback address."""
    region: Text = ""
    """Where it processes data, in words of your own such as `eu`; conditions read it as `call.region`."""
