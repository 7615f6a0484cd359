"""What is written down of a decision: who asked for what, on whose authority, what the rules said, and why.

1. A record holds what a rule read, never the whole arguments, and never what is to be hidden: no known secret, and no
   value under a name of `telemetry.redact` or under a fact that an obligation redacts.
2. It is one line of printable ASCII, whatever an agent has put into its names: it can neither end a line, nor forge
   one, nor steer a terminal.
3. It has a bound: names are cut after 500 characters, lists after 50 entries.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
from msgspec import Struct, to_builtins

from gateway.core.attestation import Attestation, Scalar
from gateway.core.clock import rfc3339
from gateway.core.decision import Decision, RuleHit
from gateway.telemetry.redact import HIDDEN, Redactor
from gateway.telemetry.trail import Trail

if TYPE_CHECKING:
    from gateway.core.call import Head

_LONGEST: Final = 500
_MOST: Final = 50
_LARGE: Final = 256 * 1024
"""Bytes of a body that is hashed in a thread."""
_MICRO: Final = 1_000_000

Value: TypeAlias = Scalar | float | None


class FailedClause(Struct, frozen=True, omit_defaults=True):
    """Why a clause of a rule did not hold, as `core.decision.Reason` says, without values."""

    rule: str
    clause: str
    code: str
    step: str = ""


class Rested(Struct, frozen=True):
    """An attestation that the decision rests on."""

    id: str
    by: str
    step: str
    outcome: str
    subject: dict[str, Scalar]
    at: str  # RFC 3339


class DecisionRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decision. What is empty is left out of the line."""

    time: str  # RFC 3339: when it was decided
    id: str  # dec_…
    request_id: str
    agent: str
    issuer: str
    subject: str
    assurance: str
    token_id: str
    on_behalf_of: str = ""
    chain: tuple[str, ...] = ()
    vouched_by: str = ""  # the issuer that a delegation began with, where that is another
    team: str = ""
    category: str = ""
    run: str = ""
    step: int = 0
    kind: str  # llm | tool | mcp | own
    operation: str
    method: str
    dialect: str
    tool: str = ""
    model: str = ""
    hosted_tools: tuple[str, ...] = ()
    region: str = ""
    providers: tuple[str, ...] = ()  # those that it may go to
    call_digest: str
    effect: str  # allow | deny | hold
    code: str = ""  # of the refusal, where it is denied
    rules: tuple[RuleHit, ...] = ()  # those that took part; shadow ones say so
    reasons: tuple[FailedClause, ...] = ()
    attestations: tuple[Rested, ...] = ()
    approval: str = ""
    policy_hash: str
    mode: str  # enforce | shadow: what holds for rules that say nothing of it
    would: str = ""  # what it would have been were every rule enforced; empty where that is the same
    read: dict[str, Value] = {}  # the scalar facts that conditions and bindings read
    latency_us: int  # from the first look at the rules until here


class Note(Struct, frozen=True):
    """A line that is no decision: what became of the log itself."""

    note: str  # damaged | torn | unwritable
    time: str
    detail: str


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(DecisionRecord).decode


async def call_digest(head: Head, body: bytes) -> str:
    """The SHA-256 of a call: method, raw path and query with a line feed after each (none has one), then the body."""
    asked = f"{head.method}\n{head.path}\n{head.query}\n".encode("utf-8", "surrogatepass")
    if len(body) > _LARGE:
        return await asyncio.to_thread(_digest, asked, body)
    return _digest(asked, body)


def decision_record(
    trail: Trail,
    decision: Decision,
    *,
    decision_id: str,
    at: float,
    mode: str,
    digest: str,
    providers: tuple[str, ...],
    approval: str,
    redact: Redactor,
    latency: float,
) -> bytes:
    """The record of a decision about the identified and read call of `trail`, as the log keeps it.

    `at` is when it was decided (epoch seconds), `latency` how long that took (seconds), `digest` is `call_digest`'s.
    """
    principal, call = trail.principal, trail.call
    if principal is None or call is None:
        raise ValueError("nothing is decided about a call that is not identified and read")
    agent = principal.agent
    hidden = _hidden(decision, redact) if decision.read or decision.rests_on else frozenset()
    record = DecisionRecord(
        time=rfc3339(at),
        id=decision_id,
        request_id=trail.request_id,
        agent=agent.id,
        issuer=principal.issuer,
        subject=principal.subject[:_LONGEST],
        assurance=principal.assurance,
        token_id=principal.token_id[:_LONGEST],
        on_behalf_of=principal.on_behalf_of[:_LONGEST],
        chain=_names(principal.chain) if principal.chain else (),
        team=agent.team,
        category=agent.category,
        run=trail.run.key.id if trail.run is not None else "",
        step=trail.step,
        kind=call.kind,
        operation=call.operation,
        method=call.method,
        dialect=call.dialect,
        tool=call.tool,
        model=call.model[:_LONGEST],
        hosted_tools=_names(call.hosted_tools) if call.hosted_tools else (),
        region=call.region,
        providers=providers[:_MOST],
        call_digest=digest,
        effect=decision.effect,
        code=decision.code if decision.effect == "deny" else "",
        rules=(decision.hits + decision.shadow)[:_MOST],
        reasons=_reasons(decision) if decision.reasons else (),
        attestations=tuple(_rested(one, hidden) for one in decision.rests_on[:_MOST]) if decision.rests_on else (),
        approval=approval,
        policy_hash=decision.policy_hash,
        mode=mode,
        would=decision.would,
        read=_values(decision.read, hidden) if decision.read else {},
        latency_us=round(latency * _MICRO),
    )
    return _written(record, redact)


def note(kind: str, at: float, detail: str) -> bytes:
    """The record of something that became of the log itself."""
    return _printable(Note(kind, rfc3339(at), detail))


def read_record(record: bytes) -> DecisionRecord | None:
    """A record as it stands in a line; `None` for a note. Raises `ValueError` for what is neither."""
    return None if record.startswith(b'{"note":') else _decode(record)


def _digest(asked: bytes, body: bytes) -> str:
    digest = hashlib.sha256(asked)
    digest.update(body)
    return f"sha256:{digest.hexdigest()}"


def _names(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name[:_LONGEST] for name in names[:_MOST])


def _reasons(decision: Decision) -> tuple[FailedClause, ...]:
    return tuple(FailedClause(one.rule, one.clause, one.code, one.step) for one in decision.reasons[:_MOST])


def _rested(one: Attestation, hidden: frozenset[str]) -> Rested:
    subject = {name: value for name, value in _values(one.subject, hidden).items() if isinstance(value, str | int)}
    return Rested(one.id[:_LONGEST], one.by, one.step, one.outcome, subject, rfc3339(one.at / _MICRO))


def _hidden(decision: Decision, redact: Redactor) -> frozenset[str]:
    """Names whose values are not written: of `args.card` the last part, so that `{card: args.card}` is hidden too."""
    return redact.names | {name.rpartition(".")[2].lower() for name in decision.obligations.redact}


def _values(facts: Mapping[str, object], hidden: frozenset[str]) -> dict[str, Value]:
    """The scalars of some facts, `[redacted]` where any part of their name is hidden."""
    values: dict[str, Value] = {}
    for name, value in islice(facts.items(), _MOST):
        if not hidden.isdisjoint(name.lower().split(".")):
            values[name[:_LONGEST]] = HIDDEN
        elif isinstance(value, str):
            values[name[:_LONGEST]] = value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…"
        elif value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            values[name[:_LONGEST]] = value
    return values


def _written(record: DecisionRecord, redact: Redactor) -> bytes:
    """The record as a line has it; what is odd about its texts is seldom, and dear to put right."""
    try:
        line = _encode(record)
    except (UnicodeEncodeError, OverflowError):  # half a surrogate pair, a number beyond 64 bits
        line = b""
    if line and line.isascii() and b"\x7f" not in line and redact.without_secrets(line) is line:
        return line
    return _printable(_cleaned(to_builtins(record), redact))


def _printable(value: object) -> bytes:
    """JSON in which everything but printable ASCII is escaped."""
    written = json.dumps(to_builtins(value), separators=(",", ":"))
    return written.encode("ascii").replace(b"\x7f", b"\\u007f")


def _cleaned(value: object, redact: Redactor) -> object:
    """The same without known secrets in any text."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: _cleaned(one, redact) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(one, redact) for one in value]
    return value
