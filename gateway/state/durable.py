"""What the gateway asks of a durable engine, and the two ways in which one says no."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeAlias, TypeVar

T = TypeVar("T")

Work: TypeAlias = Callable[[sqlite3.Connection], T]
"""A unit of work: all of it is committed, or none. It neither begins nor commits, keeps no cursor
open beyond its return, and may run again when the caller hands it in again."""


class StoreError(Exception):
    """The store said no; its sentence is for operators."""


class StoreRefused(StoreError):
    """The store cannot be opened: its sentence names the file, what is wrong and what to do."""


class StoreUnavailable(StoreError):
    """Nothing of this unit of work was acknowledged; keep it and hand it in again later."""


class Durable(Protocol):
    """An engine that acknowledges only what a crash or a power cut cannot take back."""

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written now, `None` while all is well."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether writing works."""
        ...

    def submit(self, work: Work[T]) -> Future[T]:
        """Queue a unit of work; the future is done after the commit.

        It fails with what `work` raised (other units are not touched by that), or with
        `StoreUnavailable`. Cancelling whoever waits does not take the work back.
        """
        ...

    async def read(self, work: Work[T]) -> T:
        """Read what was committed, also while writing does not work; raises `StoreUnavailable`."""
        ...
