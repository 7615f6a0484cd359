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
    """A model name of the config: its targets that are switched on, and the output cap that holds on them."""

    name: str  # as configured: `gpt-4o-mini` or `sim-*`
    targets: tuple[Target, ...]  # of a name with a star, one without a model passes the name that was asked
    cap: OutputCap | None
    off: str = ""  # why it has no targets
    hosted_tools: frozenset[str] = frozenset()  # what its provider may run itself


class Router:
    """The routes of one configuration. `off` tells which providers are switched off, and why."""

    def __init__(self, models: Mapping[str, ModelSettings], off: Mapping[str, str]) -> None:
        """Resolve nothing yet: names with a star are matched when asked for."""
        self._exact: dict[str, Route] = {}
        prefixes: list[tuple[str, Route]] = []
        for name, settings in models.items():
            star = name.endswith("*")
            passed = "" if star else name
            on = tuple(Target(t.provider, t.model or passed) for t in settings.targets if t.provider not in off)
            reasons = {off[t.provider] for t in settings.targets if t.provider in off}
            limits = settings.output_tokens
            cap = OutputCap(limits.default, limits.max) if limits else None
            hosted = frozenset(tool for tool, word in settings.hosted_tools.items() if word == "allow")
            route = Route(name, on, cap, "; ".join(sorted(reasons)), hosted)
            if star:
                prefixes.append((name[:-1], route))
            else:
                self._exact[name] = route
        self._prefixes = sorted(prefixes, key=lambda entry: -len(entry[0]))  # the longest prefix wins

    @property
    def models(self) -> tuple[str, ...]:
        """The names that can be listed: those without a star and with a provider that is on."""
        return tuple(name for name, route in self._exact.items() if route.targets)

    def route(self, model: str) -> Route:
        """The route behind a model name; exact beats the longest prefix. Refuses an unknown one, `model_unknown`."""
        route = self._exact.get(model)
        if route is not None:
            return route
        for prefix, candidate in self._prefixes:
            if model.startswith(prefix):
                return candidate
        raise self.unknown(model)

    @staticmethod
    def unknown(model: str) -> Refusal:
        """What an agent is told of a model that is not there, and of one that it may not see."""
        return Refusal("model_unknown", f"there is no model {model[:100]!r}; GET /v1/models lists those you may use")

    def plan(self, route: Route, model: str) -> tuple[Target, ...]:
        """The targets to try, in order, for the name that was asked.

        Refuses with `model_unknown` and the reason where every provider is switched off.
        """
        if not route.targets:
            raise Refusal("model_unknown", f"model {model} cannot be served: {route.off}")
        if not route.name.endswith("*"):
            return route.targets
        return tuple(target if target.model else Target(target.provider, model) for target in route.targets)
