"""The credential that the gateway adds to a request to an upstream, and the watch that it does not come back."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Final
from urllib.parse import quote

from gateway.core.errors import Refusal, Repeat
from gateway.core.headers import FRAMING, is_header_value

_SHORTEST: Final = 8
_PREFIX: Final = 6


class Injected:
    """One header with a secret value; no repr shows it.

    An upstream that echoes it must not hand it to an agent, so answers are searched for it in the
    forms in which an echo writes it: as sent, without its scheme, escaped for JSON or for a URL, and for
    `Basic` the password. A form under 8 bytes is not searched for: it would be found in innocent text.
    """

    __slots__ = ("_forms", "_longest", "_masked", "_value", "name")

    def __init__(self, name: str, value: str) -> None:
        """Take the header's name (lower case) and its whole value, such as `Bearer KEY`.

        Raises `ValueError`, without the value, for what cannot be sent as a header.
        """
        if name in FRAMING or not is_header_value(value):
            raise ValueError(
                f"the credential in {name} cannot be sent: one line of text in a header of its own is needed"
            )
        self.name = name
        self._value = value
        secret = _without_scheme(value)
        plain = {value, secret, _password(value)}
        escaped = {json.dumps(text)[1:-1] for text in plain}
        escaped |= {text.replace("/", "\\/") for text in escaped} | {quote(text, safe="") for text in plain}
        forms = sorted((form.encode() for form in plain | escaped), key=len)
        # A form that contains a shorter one is found with it.
        self._forms = tuple(
            form
            for place, form in enumerate(forms)
            if len(form) >= _SHORTEST and not any(other in form for other in forms[:place] if len(other) >= _SHORTEST)
        )
        self._longest = max(map(len, self._forms), default=0)
        # Providers quote a key with its middle masked: its first characters give such a quote away.
        self._masked = re.compile(re.escape(secret[:_PREFIX]) + r"\S*") if len(secret) >= _SHORTEST else None

    def header(self) -> tuple[str, str]:
        """The header itself; for the one place that sends it."""
        return self.name, self._value

    def leaks(self, data: bytes) -> bool:
        """Whether data that an upstream sent contains the credential."""
        return _holds(data, self._forms)

    def watch(self) -> Watch:
        """A search over the parts of one answer."""
        return Watch(self._forms, self._longest)

    def redact(self, text: str) -> str:
        """A text for the log: the credential and what begins like it are replaced."""
        for form in self._forms:
            text = text.replace(form.decode(), "[credential]")
        return self._masked.sub("[credential]", text) if self._masked else text

    def __repr__(self) -> str:
        return f"Injected({self.name}: ***)"


class Watch:
    """Searches an answer that comes in parts, also across their borders."""

    __slots__ = ("_forms", "_keep", "_tail")

    def __init__(self, forms: tuple[bytes, ...], longest: int) -> None:
        """Take the forms to search for and the length of the longest."""
        self._forms = forms
        self._keep = longest - 1
        self._tail = b""

    def leaks(self, part: bytes) -> bool:
        """Whether this part completes the credential; ask before the part is passed on."""
        if not self._forms:
            return False
        data = self._tail + part
        self._tail = data[-self._keep :]
        return _holds(data, self._forms)


def _holds(data: bytes, forms: tuple[bytes, ...]) -> bool:
    for form in forms:  # noqa: SIM110 -- asked for each frame of a stream: a generator costs more than the search
        if form in data:
            return True
    return False


def leaked(upstream: str) -> Refusal:
    """The end of an answer that contained the credential; to be raised with an alarm."""
    return Refusal(
        "upstream_failed",
        f"the answer of {upstream} contained the gateway's own credential and was withheld; tell the operator",
        detail=f"{upstream} echoed the injected credential: rotate it",
        repeat=Repeat.USELESS,
    )


def _without_scheme(value: str) -> str:
    scheme, space, rest = value.partition(" ")
    return rest.strip() if space and scheme.isalpha() and rest.strip() else value


def _password(value: str) -> str:
    """What a `Basic` credential (RFC 7617) protects, else the value itself."""
    if not value.lower().startswith("basic "):
        return value
    try:
        return base64.b64decode(_without_scheme(value), validate=True).decode().partition(":")[2] or value
    except (binascii.Error, UnicodeDecodeError):
        return value
