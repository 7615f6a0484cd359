"""What can be set about the state on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gateway.settings.types import SqliteFile, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSettings:
    """Where state lives; the folder of `durable` also holds recovery files and the admin token."""

    durable: Annotated[Path, SqliteFile()] = Path("var/passgate.db")
    """What must not be lost: `sqlite:PATH`."""
    volatile: Text | None = None
    """What may be lost. Nothing is kept there yet."""
    keys: Path | None = None
    """The folder of the gateway's own keys; without it `keys` beside the durable store."""

    @property
    def admin_token(self) -> Path:
        """Where the token of an admin listener without operators is."""
        return self.durable.parent / "admin.token"

    @property
    def keys_dir(self) -> Path:
        """Where the gateway's own keys are, one file for each purpose."""
        return self.keys or self.durable.parent / "keys"
