"""What holds for all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.attacks.catalogue import read

if TYPE_CHECKING:
    import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end how much of the catalogue of attacks is covered."""
    terminalreporter.write_line(read().summary())
