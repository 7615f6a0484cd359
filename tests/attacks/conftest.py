"""One gateway with everything that an attacker could be after: three agents, a provider with a key, tools with one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.attacks.desk import Desk, open_desk
from tests.attacks.stage import Stage, on_stage
from tests.attacks.till import Till, open_till


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with on_stage(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture(scope="session")
def till(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Till]:
    """A bank that pays only for orders that were checked."""
    with open_till(tmp_path_factory.mktemp("till")) as till:
        yield till


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """The same bank, where large payments need a person."""
    with open_desk(tmp_path_factory.mktemp("desk")) as desk:
        yield desk
