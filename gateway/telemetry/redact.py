"""Secrets stay out of what is written down: known values are replaced wherever text leaves for a log."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

HIDDEN: Final = "[redacted]"
_HIDDEN_BYTES: Final = HIDDEN.encode()
_SHORTEST: Final = 6
"""Shorter values would blot out ordinary words; credentials are longer."""


class Redactor:
    """Replaces the configured secrets in any text. Built at load from every secret of the config."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Longest first, so that a secret that contains another one goes whole."""
        known = {secret for secret in secrets if len(secret) >= _SHORTEST}
        self._secrets = sorted(known, key=len, reverse=True)
        written = {json.dumps(secret)[1:-1] for secret in known} | known
        self._written = sorted((form.encode() for form in written), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """`text` without any known secret."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return text

    def clean(self, line: bytes) -> bytes:
        """A finished line of a log without any known secret, plain or as JSON writes it."""
        for secret in self._written:
            if secret in line:
                line = line.replace(secret, _HIDDEN_BYTES)
        return line
