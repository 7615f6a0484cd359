"""Secrets stay out of what is written down: known values, and whatever stands under a name that is to be hidden."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Final

HIDDEN: Final = "[redacted]"
_HIDDEN_BYTES: Final = HIDDEN.encode()
_SHORTEST: Final = 6
"""Shorter values would blot out ordinary words; credentials are longer."""


class Redactor:
    """Replaces the configured secrets, and what texts say under `names` (`telemetry.redact`). Built at load."""

    def __init__(self, secrets: Iterable[str] = (), names: Iterable[str] = ()) -> None:
        """Longest first, so that a secret that contains another one goes whole."""
        known = {secret for secret in secrets if len(secret) >= _SHORTEST}
        self._secrets = sorted(known, key=len, reverse=True)
        written = {json.dumps(secret)[1:-1] for secret in known} | known
        self._written = sorted((form.encode() for form in written), key=len, reverse=True)
        self.names = frozenset(name.lower() for name in names)
        self._mentioned = tuple(name.encode() for name in self.names)
        # An escaped JSON member, or a header's line, within a text.
        either = b"|".join(map(re.escape, self._mentioned))
        self._mention = re.compile(rb'((?:%b)\\*"?\s*[:=]\s*\\*"?)[^"\\,}\r\n]+' % either, re.IGNORECASE)

    def __call__(self, text: str) -> str:
        """`text` without any known secret."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return text

    def without_secrets(self, line: bytes) -> bytes:
        """A finished line without any known secret, plain or as JSON writes it; the same object where it has none."""
        for secret in self._written:
            if secret in line:
                line = line.replace(secret, _HIDDEN_BYTES)
        return line

    def clean(self, line: bytes) -> bytes:
        """A finished line of a log without any known secret, and without hidden values."""
        line = self.without_secrets(line)
        if self._mentioned:
            lower = line.lower()
            if any(name in lower for name in self._mentioned):  # seldom: the pattern costs more than the whole line
                line = self._mention.sub(rb"\1" + _HIDDEN_BYTES, line)
        return line
