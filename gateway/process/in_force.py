"""The configuration in force, and how another one takes its place.

1. What is in force is one record of files, read once; all processes run on it, whatever the disk
   says meanwhile.
2. Another one takes its place in all workers or not at all, and one after the other.
3. A changed file of secrets, keys or certificates is taken over by itself, alone: no other change on disk comes
   with it. It is compared by content, so nothing that happens while it is read is missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

from gateway.build import redactor
from gateway.config import Config, ConfigMistakes
from gateway.core.clock import Clock
from gateway.core.errors import Refusal
from gateway.core.principal import StopKey
from gateway.core.sources import DiskSources
from gateway.core.stop import Stop
from gateway.identity.operators import OperatorTokens, Subject
from gateway.process.channel import ChannelError
from gateway.process.doors import not_renewed
from gateway.process.messages import (
    Prepare,
)
from gateway.process.reading import Read, ReadingError, read, read_again
from gateway.process.revisions import Revisions
from gateway.process.trust import Trust
from gateway.telemetry.logs import Log
from gateway.web.admin import Operators, ensure_admin_token

_LOOK_EVERY: Final = 2.0
"""Seconds between two looks at the files of secrets, keys and certificates."""
_FIXED: Final = ("listen", "workers", "state")

Change = Callable[[Config, Prepare], Awaitable[None]]
"""Has a configuration take the place of the one in force; raises where it cannot."""
Stopped = Callable[[Iterable[StopKey]], Stop | None]
"""Finds what is stopped among these."""


class InForce:
    """What holds now: `config`, its `operators`, its `log`, and why the files say something else (`problems`)."""

    operators: Operators

    def __init__(self, taken: Read, sources: DiskSources, clock: Clock) -> None:
        """Take a configuration that was read without mistakes, and the record of its files."""
        self._taken = taken
        self.generation = 0
        self.taken_at = clock.now()
        self.log = _log_of(taken.config)
        self.demo_url: str | None = None
        self.revisions = Revisions()
        self._sources = sources
        self._clock = clock
        self._refused: dict[str, list[str]] = {}
        self._not_taken: dict[str, bytes | None] = {}  # changed files that were refused
        self._taking = asyncio.Lock()

    @property
    def config(self) -> Config:
        """The configuration."""
        return self._taken.config

    @property
    def revision(self) -> int:
        """That of its policies; 0 for those that are not signed."""
        return self._taken.revision

    @property
    def problems(self) -> list[str]:
        """Why what the files say was not taken; empty while it is in force."""
        return [problem for problems in self._refused.values() for problem in problems]

    def admit_operators(self, trust: Trust, stopped: Stopped) -> None:
        """Read who may use the admin listener, or make the token; raises `OSError` or `ValueError`.

        Signed tokens count by the keys of `trust`, unless `stopped` finds their id or their issuer.
        """
        self._trust, self._stopped = trust, stopped
        self.operators = self._operators_of(self.config, self._sources)

    def offer(self) -> Prepare:
        """What is in force, for workers."""
        return self._offer(self._taken, self._sources)

    async def reload(self, change: Change) -> list[str]:
        """Read everything again and swap it in by `change`; returns the reasons where the old state was kept."""
        async with self._taking:
            problems, _ = await self._take(DiskSources(), change, None)
            self._refused = {"reload": problems}
        return problems

    async def watch(self, change: Change) -> None:
        """Take over files of secrets, keys and certificates as they change, for ever."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            await self.look(change)

    async def look(self, change: Change) -> None:
        """Take over files of secrets, keys and certificates that have changed; what was refused is not tried again."""
        async with self._taking:
            watched = [str(path) for path in self.config.watched]
            found = await asyncio.to_thread(_contents, watched)
            kept = self._sources.files
            if found == {name: kept.get(name) for name in watched}:
                self._not_taken = {}
                self._refused.pop("watched", None)
                return
            if found == self._not_taken:
                return
            fresh = DiskSources()
            fresh.dirs, fresh.variables = dict(self._sources.dirs), dict(self._sources.variables)
            fresh.files = {name: data for name, data in kept.items() if name not in found}
            fresh.files |= {name: data for name, data in found.items() if data is not None}
            self._refused["watched"], again = await self._take(fresh, change, self._taken)
            self._not_taken = {} if again else found

    async def _take(self, sources: DiskSources, change: Change, same: Read | None) -> tuple[list[str], bool]:
        """Swap in what `sources` say, with the policies of `same`, or what they are by now.

        Gives the reasons where the old state was kept, and whether to try again.
        """
        problems, again = await self._try_to_take(sources, change, same)
        if problems:
            self.log.error("reload_refused", problems=problems)
        else:
            self.log.info("reloaded", generation=self.generation)
        self.log.flush()
        return problems, again

    async def _try_to_take(self, sources: DiskSources, change: Change, same: Read | None) -> tuple[list[str], bool]:
        path = self.config.path
        try:
            taken = await (read(path, sources) if same is None else read_again(path, sources, same))
            config = taken.config
            listen = config.settings.listen
            problems = self._unchangeable(config) or not_renewed(listen, self._sources, sources, self._clock.now())
            problems = problems or self.revisions.problems(taken.revision)
            if problems:
                return problems, False
            operators = self._operators_of(config, sources)
            await change(config, self._offer(taken, sources))
        except ConfigMistakes as mistakes:
            return [str(complaint) for complaint in mistakes.complaints], False
        except ReadingError as error:
            return [str(error)], True
        except ChannelError as error:
            return [f"the workers could not take it: {error}"], True
        except Exception as error:  # noqa: BLE001 - whatever it is, the old state serves on and this is said
            return [f"{type(error).__name__}: {error}"], False
        self._taken, self.operators, self._sources = taken, operators, sources
        self.taken_at = self._clock.now()
        self.log.flush()
        self.log = _log_of(config)
        await self.revisions.take(taken.revision)
        return [], False

    def _unchangeable(self, config: Config) -> list[str]:
        fixed = [
            f"{name}: a change needs a restart of the gateway"
            for name in _FIXED
            if getattr(config.settings, name) != getattr(self.config.settings, name)
        ]
        if config.settings.telemetry.audit != self.config.settings.telemetry.audit:
            fixed.append("telemetry.audit: a change needs a restart of the gateway")
        if config.uses_demo and self.demo_url is None:
            fixed.append("builtin:demo: starting the built-in demo needs a restart of the gateway")
        return fixed

    def _operators_of(self, config: Config, sources: DiskSources) -> Operators:
        """The configured operators; without any, the token beside the state. Raises `OSError` or `ValueError`."""
        settings = config.settings
        bootstrap = None if settings.operators else ensure_admin_token(settings.state.admin_token)
        signed = [Subject(one.issuer, one.subject) for one in settings.operators if one.issuer]
        if not signed:
            return Operators(settings.operators, bootstrap)
        trust = self._trust
        tokens = OperatorTokens(
            signed,
            settings.identity,
            settings.agents,
            sources,
            self._clock,
            keys=lambda: trust.keys_for(settings.identity),
            fetch=trust.fetch,
            stopped=self._stopped,
        )

        async def verify(token: str) -> Subject:
            try:
                return await tokens.verify(token)
            except Refusal as refusal:
                self.log.warning("operator_refused", code=refusal.code, detail=refusal.detail)
                raise

        return Operators(settings.operators, bootstrap, verify)

    def _offer(self, taken: Read, sources: DiskSources) -> Prepare:
        self.generation += 1
        record = sources.files, sources.dirs, sources.variables
        return Prepare(self.generation, str(taken.config.path), *record, taken.policies, self.demo_url)


def _log_of(config: Config) -> Log:
    log = config.settings.log
    return Log("supervisor", level=log.level, text=log.format == "text", redact=redactor(config))


def _contents(names: list[str]) -> dict[str, bytes | None]:
    """What stands in files now; `None` for one that cannot be read."""
    sources, found = DiskSources(), dict[str, bytes | None]()
    for name in names:
        try:
            found[name] = sources.read(Path(name))
        except OSError:
            found[name] = None
    return found
