"""A real store in a folder of its own, and its poster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.ledger import Poster
from gateway.state import Store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """An open store; closed at the end."""
    opened = await Store.open(tmp_path / "passgate.db")
    yield opened
    await opened.close()


@pytest.fixture
def poster(store: Store) -> Poster:
    """The poster of `store`."""
    return Poster(store)
