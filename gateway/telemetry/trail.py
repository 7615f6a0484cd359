"""The trail of one call: everything that happened to it, noted in one place while it happens.

When the call is over the trail is told once: to the metrics, to the access log. The ledger rows
are made of it too (`ledger/`), so that what is counted, logged and billed is one story.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from gateway.core.clock import rfc3339
from gateway.core.ids import new_id
from gateway.telemetry.logs import AccessLine

if TYPE_CHECKING:
    from gateway.core.call import Address, Call, Head
    from gateway.core.decision import Decision
    from gateway.core.errors import Refusal
    from gateway.core.principal import Principal
    from gateway.core.run import RunRef
    from gateway.telemetry.logs import Log
    from gateway.telemetry.metrics import Counts


_KINDS: Final = {
    "openai": "llm", "anthropic": "llm", "gemini": "llm", "http": "tool", "mcp": "mcp", "own": "own", "oauth": "own",
}  # fmt: skip


_LONGEST_PATH: Final = 1000
_LONGEST_NAME: Final = 500  # tokens may hold names of 2 KiB, and whoever collects logs cuts long lines in two


class Trail:
    """What is known of a call so far. Stages write to it; nothing decides on it."""

    __slots__ = (
        "address", "attempts", "began", "call", "decision", "decision_id", "first_byte", "head", "outcome",
        "principal", "provider", "recorded", "refusal", "request_id", "run", "status", "step", "target", "time",
        "upstream",
    )  # fmt: skip

    def __init__(self, head: Head) -> None:
        """Open at the moment the head was read."""
        self.request_id = new_id("req")
        self.time = time.time_ns() // 1000
        self.began = time.perf_counter()
        self.head = head
        self.address: Address | None = None
        self.principal: Principal | None = None
        self.run: RunRef | None = None
        self.step = 0
        self.call: Call | None = None
        self.decision: Decision | None = None
        self.decision_id = ""
        self.provider = ""
        self.target = ""  # the model or tool that was asked for, once it is known to exist
        self.attempts = 0
        self.recorded = -1  # the last attempt that has its ledger row; 0 stands for a refusal before any
        self.upstream = 0.0  # seconds spent waiting for upstreams
        self.first_byte: float | None = None  # seconds until the first byte of a stream left
        self.refusal: Refusal | None = None
        self.status = 0
        self.outcome = ""

    @property
    def kind(self) -> str:
        """`llm`, `tool` or `own`: the call's, or, where it was refused unread, its address's; empty for strangers'."""
        if self.call is not None:
            return self.call.kind
        return _KINDS.get(self.address.dialect, "") if self.address is not None else ""

    @property
    def elapsed(self) -> float:
        """Seconds since the head was read."""
        return time.perf_counter() - self.began

    def close(self, counts: Counts, log: Log, *, access: bool) -> None:
        """The call is over: count it and write its access line."""
        elapsed = self.elapsed
        principal = self.principal
        agent = principal.agent if principal is not None else None
        agent_id = agent.id if agent else ""
        outcome = self.outcome or ("complete" if self.refusal is None else "failed" if self.attempts else "refused")
        counts.add(
            "requests",
            (agent_id, agent.team if agent else "", self.kind, self.target, self.provider, outcome, str(self.status)),
        )
        counts.observe("overhead_seconds", max(0.0, elapsed - self.upstream))
        if self.upstream:
            counts.observe("upstream_seconds", self.upstream, (self.provider,))
        if self.first_byte is not None:
            counts.observe("first_byte_seconds", self.first_byte, (self.provider,))
        refusal = self.refusal
        if refusal is not None:
            counts.add("refusals", (agent_id, refusal.code))
            if self.decision_id and self.decision_id[4:] != self.request_id[4:]:  # it is an earlier call's
                counts.add("refusal_repeats")
        if self.decision is not None:
            _count_rules(self.decision, counts)
        if self.run is not None and self.step:
            counts.add("steps", (outcome,))
        if access:
            head = self.head
            line = AccessLine(
                rfc3339(self.time / 1_000_000),
                "info",
                log.process,
                "call",
                self.request_id,
                head.method,
                head.path[:_LONGEST_PATH],
                self.status,
                outcome,
                agent=agent_id,
                run=self.run.key.id if self.run is not None else "",
                step=self.step,
                target=self.target,
                provider=self.provider,
                attempts=self.attempts,
                decision_id=self.decision_id,
                code=refusal.code if refusal is not None else "",
                detail=refusal.detail if refusal is not None else None,
                peer=head.peer,
                ms=round(elapsed * 1000, 3),
                upstream_ms=round(self.upstream * 1000, 3),
            )
            if principal is not None:
                _say_who(line, principal)
            log.access(line)


def _count_rules(decision: Decision, counts: Counts) -> None:
    """The rules that took part: a require rule that does not hold denies.

    What shadow rules, or no rule in shadow mode, would have done is counted apart.
    """
    failed = {reason.rule for reason in decision.reasons} if decision.effect == "deny" else ()
    for hit in decision.hits:
        effect = "deny" if hit.effect == "require" and hit.name in failed else hit.effect
        counts.add("policy_decisions", (hit.policy, hit.rule, effect, hit.mode))
    for hit in decision.shadow:
        effect = "would_allow" if hit.effect == "allow" else "would_deny"
        counts.add("policy_decisions", (hit.policy, hit.rule, effect, hit.mode))
    if decision.would == "deny" and all(hit.effect == "allow" for hit in decision.shadow):
        counts.add("policy_decisions", ("", "", "would_deny", "shadow"))  # no rule allows it


def _say_who(line: AccessLine, principal: Principal) -> None:
    """On whose authority: as the ledger has it, but for names that would make the line too long."""
    line.issuer = principal.issuer
    line.subject = _short(principal.subject)
    line.on_behalf_of = _short(principal.on_behalf_of)
    if principal.chain:
        line.chain = _short(" ".join(principal.chain))
    line.assurance = principal.assurance
    line.key_id = principal.key_id
    line.token_id = _short(principal.token_id)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
