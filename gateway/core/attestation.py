"""An attestation: a statement that in this run a step had this outcome about this subject."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

from msgspec import Struct

OUTCOMES: Final = ("passed", "failed", "error", "skipped")
GATEWAY: Final = "gateway"
"""Who attests what the gateway saw itself."""

Scalar: TypeAlias = str | int | bool
"""What a subject's members may be: two values are the same when type and value are. Amounts are integers in minor
units or decimal strings; a float never is one."""


class Attestation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attestation that was verified, or observed. Times are epoch microseconds."""

    by: str  # the attester's name in the config; `gateway` for what was observed
    id: str  # its jti: unique for its attester
    step: str
    outcome: str  # one of OUTCOMES
    subject: dict[str, Scalar]
    agent: str  # whom it is for, as its `sub` says: the subject of the agent's tokens, or the agent's id
    run: str  # the run's id
    at: int  # iat
    expires: int = 0  # exp; 0: by its age alone
    source: str = "presented"  # observed | presented (by an agent) | posted (by its attester)
    owner: tuple[str, str] | None = None  # whose run it is (`Principal.owner`); `None` where its attester posted it
    key: str = ""  # the RFC 7638 thumbprint of the key that signed it; empty for an observed one
    request_id: str = ""  # the call in which it was observed or presented
    evidence_hash: str = ""
    prev: str = ""  # the `digest` of an earlier one of this run, without which it does not count
    digest: str = ""  # the SHA-256 of what was signed, base64url; empty for an observed one


class Use(NamedTuple):
    """Something that can be used up, once: an attestation (`scope` is `once`), or a subject under a rule."""

    scope: str  # `once`, else POLICY/RULE
    key: str  # BY/ID of the attestation, else the subject as `subject_text` writes it


def subject_text(subject: Mapping[str, Scalar]) -> str:
    """A subject in the one spelling that it has (RFC 8785): two are equal when their texts are."""
    return json.dumps(subject, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
