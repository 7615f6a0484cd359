"""What `passgate policy` works on: the policies of a configuration or of a folder, and what they may name.

No secret is needed: who writes policies has none.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gateway.build import known_names
from gateway.cli import WrongUse
from gateway.config import Config, ConfigMistakes, load
from gateway.core.principal import Agent
from gateway.core.sources import DiskSources, WithoutSecrets
from gateway.policy import Known, PolicySet
from gateway.policy import load as load_policies
from gateway.policy.settings import PoliciesSettings
from gateway.policy.testing import Caller, Operation, Placed, Surroundings, is_test, read_tests
from gateway.settings import Complaints

_DEFAULT: Final = "config.yaml"


@dataclass(frozen=True, slots=True)
class Workplace:
    """Policies with what is around them. `within` are the files and folders that somebody asked about; empty: all."""

    settings: PoliciesSettings
    config: Config | None
    within: tuple[Path, ...] = ()

    @classmethod
    def of(cls, given: argparse.Namespace, paths: Sequence[str] = ()) -> Workplace:
        """What the command line means; raises `WrongUse`.

        The policies are those of `--policies`, else of the one folder among `paths` that lies elsewhere, else of
        the configuration.
        """
        config = read_config(given.config)
        asked = tuple(map(Path, paths))
        for path in asked:
            if not path.exists():
                raise WrongUse(f"passgate: {path}: there is no such file or folder.")
        settings = config.settings.policies if config is not None else None
        folder = Path(given.policies) if given.policies else None
        if folder is None and len(asked) == 1 and asked[0].is_dir():
            own = settings is not None and _overlap(asked[0], settings.dir)
            folder, asked = (None, asked) if own else (asked[0], ())
        if folder is not None and not folder.is_dir():
            raise WrongUse(f"passgate: {folder} is no folder; name the folder of the policies.")
        if settings is None and folder is None:
            raise WrongUse(
                f"passgate: there is no {given.config}; name the folder of the policies, or another configuration."
            )
        settings = settings or PoliciesSettings()
        # Whoever writes policies looks at them before they are signed.
        settings = replace(settings, dir=folder or settings.dir, bundle=None)
        return cls(settings, config, asked)

    def load(self, sources: DiskSources, complaints: Complaints) -> PolicySet:
        """The policies; mistakes go to `complaints`."""
        known = known_names(self.config, sources) if self.config is not None else Known()
        return load_policies(self.settings, sources, known, complaints)

    def usable(self, sources: DiskSources) -> PolicySet:
        """The policies, where nothing is wrong with them; raises `WrongUse` with all that is."""
        complaints = Complaints()
        policies = self.load(sources, complaints)
        if complaints.found:
            raise WrongUse("\n".join(map(str, sorted(complaints.found))))
        return policies

    def asks_about(self, file: str) -> bool:
        """Whether somebody asked about this file."""
        path = Path(file).resolve()
        return not self.within or any(path.is_relative_to(one.resolve()) for one in self.within)

    def tests(self, sources: DiskSources, complaints: Complaints) -> list[Placed]:
        """The tests that somebody asked about, also those in files elsewhere; their mistakes go to `complaints`."""
        own = self.settings.dir.resolve()
        more = [path for path in self.within if is_test(path.name) and not path.resolve().is_relative_to(own)]
        found = read_tests(self.settings.dir, sources, self.surroundings, complaints, more)
        return [one for one in found if self.asks_about(one.place.file)]

    @property
    def surroundings(self) -> Surroundings:
        """What tests may name."""
        if self.config is None:
            return Surroundings()
        settings = self.config.settings
        callers = {
            one.id: Caller(
                Agent(one.id, one.owner, one.team, one.cost_center, one.category or "", tuple(one.tags.items())),
                one.issuer,
                one.subject.replace("*", "any"),
            )
            for one in settings.agents
        }
        operations = {
            f"{name}.{key}": Operation(operation.method, operation.repeat, tool.region)
            for name, tool in settings.tools.items()
            for key, operation in tool.operations.items()
        }
        return Surroundings(
            callers,
            operations,
            attesters=frozenset(one.name for one in settings.attesters),
            models=frozenset(settings.models),
            providers={name: one.region for name, one in settings.providers.items()},
        )


def _overlap(one: Path, other: Path) -> bool:
    """Whether one folder is the other, or in it."""
    one, other = one.resolve(), other.resolve()
    return one.is_relative_to(other) or other.is_relative_to(one)


def read_config(file: str) -> Config | None:
    """The configuration; `None` where the default one is not there. Raises `WrongUse`."""
    if file == _DEFAULT and not Path(file).exists():
        return None
    try:
        return load(Path(file), WithoutSecrets())
    except ConfigMistakes as mistakes:
        raise WrongUse(str(mistakes)) from None
