"""From the name that an agent asked for to the targets behind it, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.core.call import Target
from gateway.core.errors import Refusal
from gateway.dialects import OutputCap
from gateway.routing.settings import ModelSettings


@dataclass(frozen=True, slots=True)
class Route:
    """A model name of the config: its targets and the output cap that holds on them."""

    name: str  # as configured: `gpt-4o-mini` or `sim-*`
    targets: tuple[Target, ...]  # a target without a model passes the name that was asked
    cap: OutputCap | None


class Router:
    """The routes of one configuration. `off` tells which providers are switched off, and why."""

    def __init__(self, models: Mapping[str, ModelSettings], off: Mapping[str, str]) -> None:
        """Resolve nothing yet: names with a star are matched when asked for."""
        self._off = off
        self._exact: dict[str, Route] = {}
        prefixes: list[tuple[str, Route]] = []
        for name, settings in models.items():
            targets = tuple(Target(target.provider, target.model or "") for target in settings.targets)
            limits = settings.output_tokens
            route = Route(name, targets, OutputCap(limits.default, limits.max) if limits else None)
            if name.endswith("*"):
                prefixes.append((name[:-1], route))
            else:
                self._exact[name] = route
        self._prefixes = sorted(prefixes, key=lambda entry: -len(entry[0]))  # the longest prefix wins

    @property
    def models(self) -> tuple[str, ...]:
        """The names that can be listed: those without a star and with a provider that is on."""
        return tuple(
            name for name, route in self._exact.items() if any(t.provider not in self._off for t in route.targets)
        )

    def route(self, model: str) -> Route:
        """The route behind a model name; exact beats the longest prefix. Refuses an unknown one, `model_unknown`."""
        route = self._exact.get(model)
        if route is not None:
            return route
        for prefix, candidate in self._prefixes:
            if model.startswith(prefix):
                return candidate
        raise Refusal("model_unknown", f"there is no model {model[:100]!r}; GET /v1/models lists those you may use.")

    def plan(self, route: Route, model: str) -> tuple[Target, ...]:
        """The targets to try, in order, for the name that was asked.

        Refuses with `model_unknown` and the reason where every provider is switched off.
        """
        on = [target for target in route.targets if target.provider not in self._off]
        if not on:
            reasons = sorted({f"provider {t.provider} is off: {self._off[t.provider]}" for t in route.targets})
            raise Refusal("model_unknown", f"model {model} cannot be served: {'; '.join(reasons)}.")
        return tuple(target if target.model else Target(target.provider, model) for target in on)
