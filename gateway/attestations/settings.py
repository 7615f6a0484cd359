"""What can be set about attestations: who may attest what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gateway.core.attestation import GATEWAY
from gateway.settings.types import NON_EMPTY, Name, StepName, duration


@dataclass(frozen=True, slots=True, kw_only=True)
class AttesterKeys:
    """Where an attester's public keys are."""

    file: Path
    """A JWK set (RFC 7517); a change of it is taken over by itself, and what a removed key signed counts no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttesterSettings:
    """Somebody whose attestations count."""

    name: Name
    """The `iss` of its attestations; rules name it in `attested_by`."""
    keys: AttesterKeys
    """Where its public keys are."""
    may_attest: Annotated[tuple[StepName, ...], NON_EMPTY]
    """The steps that it may attest; for any other its word does not count."""
    max_lifetime: Annotated[float, duration("1s", "30d")] = 3600.0
    """How long its attestations may be valid at most, from `iat` to `exp`."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """`gateway` is who attests what the gateway saw itself."""
        if self.name == GATEWAY:
            yield "name", "the name gateway is reserved for what the gateway observes itself", "choose another"
