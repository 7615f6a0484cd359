"""Sign an attestation, for development: what its attester would say in production, where its key lies with it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.attestations.forms import TYP
from gateway.attestations.settings import AttesterSettings
from gateway.core.attestation import Scalar
from gateway.core.ids import new_id
from gateway.identity.issue import IssueError, load_key, private_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What is attested."""

    agent: str  # whom it is for: the agent's id, or the subject of its tokens
    run: str
    step: str
    outcome: str = "passed"
    subject: Mapping[str, Scalar] = field(default_factory=dict)
    more: Mapping[str, str] = field(default_factory=dict)  # `evidence_hash`, `prev`


def sign(attester: AttesterSettings, audience: str, said: Said, *, ttl: float, now: float, key: Path | None) -> str:
    """A compact JWS that holds for `ttl` seconds from `now` (epoch seconds), by the private key in the file `key`.

    Without it by the one beside the attester's public keys. Whether it counts is for whoever verifies it. Raises
    `IssueError` where there is no key, and `OSError` where its file cannot be read.
    """
    secret_file = key or private_file(attester.keys.file)
    try:
        private = load_key(secret_file)
    except FileNotFoundError:
        raise IssueError(f"{secret_file} is missing: run `passgate keys new --file {attester.keys.file}`") from None
    start = int(now)
    claims = {
        "iss": attester.name,
        "aud": audience,
        "jti": new_id("att"),
        "iat": start,
        "exp": start + int(ttl),
        "sub": said.agent,
        "run": said.run,
        "step": said.step,
        "outcome": said.outcome,
        "subject": dict(said.subject),
        **said.more,
    }
    return private.sign({"typ": TYP}, claims)


def choose(attesters: Sequence[AttesterSettings], name: str | None) -> AttesterSettings:
    """The attester of this name, or the only one; raises `IssueError`."""
    if name is None and len(attesters) == 1:
        return attesters[0]
    found = next((one for one in attesters if one.name == name), None)
    if found is None:
        known = ", ".join(one.name for one in attesters) or "none is configured under `attesters:`"
        raise IssueError(f"choose an attester with --attester: {known}")
    return found
