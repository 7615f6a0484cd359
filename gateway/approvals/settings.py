"""What can be set about webhooks: whom the gateway tells of what happens."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final
from urllib.parse import urlsplit

from gateway.outbound.destination import is_localhost, is_loopback
from gateway.settings.types import Secret, Url

_SHORTEST: Final = 24  # bytes of a secret, as the Standard Webhooks specification asks for
_LONGEST: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """One address that is told by signed POST requests (Standard Webhooks)."""

    url: Annotated[str, Url()]
    """Where they are sent."""
    secret: Secret
    """What they are signed with (HMAC-SHA256): 24 to 64 bytes in base64, also with `whsec_` in front."""
    allow_internal: bool = False
    """Whether it may have a private or loopback address."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """What is told stays between the two."""
        address = urlsplit(self.url)
        host = address.hostname or ""
        if address.scheme == "http" and not (self.allow_internal or is_loopback(host) or is_localhost(host)):
            yield "url", "what is sent without TLS can be read on its way", "write https://"

    @property
    def key(self) -> bytes:
        """The key that the secret stands for; raises `ValueError`, with the rest of a sentence about it, for none."""
        try:
            key = base64.b64decode(self.secret.reveal().removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("is not base64") from None
        if not _SHORTEST <= len(key) <= _LONGEST:
            raise ValueError(f"is {len(key)} bytes long where {_SHORTEST} to {_LONGEST} are asked for")
        return key


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhooksSettings:
    """Whom the gateway tells."""

    NOT_BUILT: ClassVar[Mapping[str, str]] = {"alerts": "alerts of budgets are not built yet"}

    approvals: WebhookSettings | None = None
    """Told of each call that waits for an approval, and of how it was decided."""
    audit: WebhookSettings | None = None
    """Told of each checkpoint of the decision log."""
