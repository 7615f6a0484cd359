"""The revision of the policies: what was taken once is the least that is taken again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import pytest

from gateway.process.revisions import Revisions
from gateway.state import Store, StoreUnavailable, Work

T = TypeVar("T")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A store with nothing in it."""
    opened = await Store.open(tmp_path / "passgate.db")
    yield opened
    await opened.close()


async def opened(store: Store) -> Revisions:
    """What a gateway knows that starts on this store."""
    found = Revisions()
    await found.open(store)
    return found


async def test_no_way_back(store: Store) -> None:
    """P9: a lower revision than one that was taken is refused, also by the next start; 10 is higher than 9."""
    revisions = await opened(store)
    assert revisions.problems(1) == []
    for revision in (9, 10):
        assert revisions.problems(revision) == []
        await revisions.take(revision)
    for known in (revisions, await opened(store)):
        assert known.problems(10) == []
        (problem,) = known.problems(9)
        assert "revision 9" in problem
        assert "has taken 10 before" in problem
        assert "--revision 11" in problem


async def test_a_lower_one_does_not_lower_it(store: Store) -> None:
    """P9: whoever takes policies without a revision, or the same again, leaves the highest as it is."""
    revisions = await opened(store)
    for revision in (7, 0, 3):
        await revisions.take(revision)
    assert (await opened(store)).problems(6)


async def test_policies_without_a_bundle_have_no_revision(store: Store) -> None:
    """Whether policies have to be signed says the configuration, so that nothing is held against unsigned ones here."""
    revisions = await opened(store)
    await revisions.take(7)
    assert revisions.problems(0) == []


class Failing:
    """A store that takes no writes while it is told not to."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.trouble: str | None = "the disk is full"

    @property
    def healthy(self) -> bool:
        """See `Durable`."""
        return self.trouble is None

    def submit(self, work: Work[T]) -> Future[T]:
        """See `Durable`."""
        if self.trouble is None:
            return self._store.submit(work)
        failed: Future[T] = Future()
        failed.set_exception(StoreUnavailable(self.trouble))
        return failed

    async def read(self, work: Work[T]) -> T:
        """See `Durable`."""
        return await self._store.read(work)


async def test_a_store_that_fails_is_asked_again(store: Store) -> None:
    """P9: while the store takes no writes the highest is kept in mind, and written down as soon as it does."""
    failing, revisions = Failing(store), Revisions()
    await revisions.open(failing)
    await revisions.take(7)
    assert revisions.problems(6)
    assert not (await opened(store)).problems(6)
    failing.trouble = None
    await revisions.tend()
    assert (await opened(store)).problems(6)
