"""All LLM providers of a configuration, compiled at load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.core.errors import Refusal
from gateway.core.headers import is_header_value
from gateway.outbound.settings import TimeoutSettings
from gateway.outbound.upstream import Upstream
from gateway.providers.exchange import Provider, answers_of, credential_of
from gateway.providers.settings import ProviderSettings
from gateway.settings.types import BUILTIN_DEMO


class Providers:
    """The providers by name, and the reasons why some are off."""

    def __init__(self, providers: Mapping[str, Provider], off: Mapping[str, str]) -> None:
        """Take the providers, and for those that are switched off the sentence that says why."""
        self._providers = dict(providers)
        self._off = dict(off)

    @classmethod
    def build(
        cls,
        settings: Mapping[str, ProviderSettings],
        *,
        timeouts: TimeoutSettings,
        demo_url: str | None = None,
        off: Mapping[str, str] | None = None,
    ) -> Providers:
        """Compile all providers; `demo_url`, the origin of the demo upstream, stands in for `builtin:demo`."""
        return cls({name: _compile(name, it, timeouts, demo_url) for name, it in settings.items()}, off or {})

    def get(self, name: str) -> Provider:
        """A provider; raises `Refusal` (`model_unknown`) for one that is switched off or not there."""
        provider = self._providers.get(name)
        if provider is not None:
            return provider
        if name in self._off:
            raise Refusal("model_unknown", self._off[name])
        raise Refusal("model_unknown", f"there is no provider {name[:64]!r}; see `providers` in the config")

    def __contains__(self, name: str) -> bool:
        """Whether the provider is there and on."""
        return name in self._providers


def mistakes(settings: Mapping[str, ProviderSettings]) -> Iterator[tuple[str, str, str]]:
    """What is wrong with providers beyond what the settings can see: where below `providers`, what, what to do."""
    for name, provider in settings.items():
        if provider.api_key is not None and not is_header_value(provider.api_key.reveal()):
            yield f"{name}.api_key", "is not one line of text without space around it", "correct the secret"


def _compile(name: str, settings: ProviderSettings, timeouts: TimeoutSettings, demo_url: str | None) -> Provider:
    base_url = settings.base_url if settings.base_url != BUILTIN_DEMO else f"{demo_url}/v1"
    key = settings.api_key.reveal() if settings.api_key is not None else ""
    return Provider(
        name=name,
        upstream=Upstream(
            name, base_url, timeouts=timeouts.overridden(settings.timeouts), allow_internal=settings.allow_internal
        ),
        dialects=settings.dialects,
        on_disconnect=settings.on_disconnect,
        credentials={dialect: credential_of(dialect, key) for dialect in settings.dialects} if key else {},
        answers={dialect: answers_of(dialect, expose_limits=settings.expose_limits) for dialect in settings.dialects},
        region=settings.region,
    )
