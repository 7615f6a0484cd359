"""What the log has of a call: one line, which says who called and on whose authority."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.core.call import Address, Head
from gateway.core.decision import Decision, Reason, RuleHit
from gateway.core.errors import Refusal
from gateway.core.principal import Agent, Principal
from gateway.ledger import Bill, ledger_row
from gateway.telemetry.logs import Log
from gateway.telemetry.metrics import Counts
from gateway.telemetry.redact import Redactor
from gateway.telemetry.trail import Trail

AUTHORITY = ("agent", "issuer", "subject", "on_behalf_of", "chain", "assurance", "key_id")
NAMES = st.text(max_size=40)  # more than a verified name may hold: control characters and line separators too


def trail(principal: Principal | None = None) -> Trail:
    """A call of this principal."""
    headers: Any = CIMultiDict()
    opened = Trail(Head("POST", "/tools/payments/charge", "", headers, "127.0.0.1"))
    opened.address = Address("http", "tool", "/tools/payments/charge")
    opened.principal = principal
    return opened


def caller(**changes: Any) -> Principal:  # noqa: ANN401 - fields of any type
    """Somebody whose authority has every part."""
    return Principal(
        **{
            "agent": Agent("procurement", team="finance"),
            "issuer": "gateway",
            "iss": "https://gateway.example",
            "subject": "spiffe://acme.example/agent/procurement/payer",
            "assurance": "bound",
            "key_id": "key-1",
            "token_id": "tok_1",
            "expires": 1e12,
            "on_behalf_of": "user/alice",
            "chain": ("spiffe://acme.example/agent/procurement", "spiffe://acme.example/agent/planner"),
            **changes,
        }
    )


def written(closed: Trail, *, hidden: tuple[str, ...] = (), text: bool = False) -> bytes:
    """What closing the trail puts into the log."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as file:
        try:
            log = Log("worker-1", fd=writing, text=text, redact=Redactor(names=hidden))
            closed.close(Counts(), log, access=True)
            log.flush()
        finally:
            os.close(writing)
        return file.read()


def line(closed: Trail) -> dict[str, Any]:
    """The one line of the log, read."""
    (only,) = written(closed).splitlines()
    record: dict[str, Any] = json.loads(only)
    return record


@pytest.mark.parametrize("refused", [False, True])
def test_log_and_ledger_say_the_same_of_who_called_and_on_whose_authority(*, refused: bool) -> None:
    """Every part of the authority stands in the log's line and in the ledger's row, of a refused call as well."""
    call = trail(caller())
    if refused:
        call.refusal, call.status = Refusal("policy_denied", "no"), 403
    said = line(call)
    row = ledger_row(call, Bill(outcome="refused" if refused else "complete", status=call.status))
    assert {name: said[name] for name in AUTHORITY} == {name: getattr(row, name) for name in AUTHORITY}
    assert said["chain"] == "spiffe://acme.example/agent/procurement spiffe://acme.example/agent/planner"
    assert said["token_id"] == "tok_1"
    assert said.get("code", "") == ("policy_denied" if refused else "")


def test_whoever_is_not_identified_is_nobody_in_the_log() -> None:
    """A refusal at identification names no one, whatever the token claimed to be; the detail has the cause."""
    call = trail()
    call.refusal = Refusal("identity_invalid", "no", detail="the signature is not that of key key-1 of issuer dev")
    said = line(call)
    assert not {*AUTHORITY, "token_id"} & said.keys()
    assert said["detail"] == "the signature is not that of key key-1 of issuer dev"


@pytest.mark.parametrize("name", ["subject", "on_behalf_of", "token_id", "chain"])
def test_a_long_name_is_cut_in_the_log_and_whole_on_the_ledger(name: str) -> None:
    """P14: no token makes a line so long that whoever collects logs cuts it in two."""
    longest = "n" * 2048
    call = trail(caller(**{name: (longest, longest) if name == "chain" else longest}))
    assert line(call)[name] == "n" * 500 + "…"
    if name != "token_id":
        assert len(getattr(ledger_row(call, Bill("complete", 200)), name)) >= 2048
    assert len(written(trail(caller(subject='"' * 2048, on_behalf_of="€" * 2048, token_id="\\" * 2048)))) < 8192


@given(NAMES, NAMES, NAMES, st.lists(NAMES, max_size=3))
def test_no_name_ends_or_forges_a_line(subject: str, user: str, token_id: str, chain: list[str]) -> None:
    """P14: whatever a token's names hold, there is one line with our members, in the text form as well."""
    principal = caller(subject=subject, on_behalf_of=user, token_id=token_id, chain=tuple(chain), key_id=user)
    said = line(trail(principal))
    assert said["event"] == "call"
    assert said["agent"] == "procurement"
    assert [said.get(name, "") for name in ("subject", "on_behalf_of", "token_id", "chain", "key_id")] == [
        subject, user, token_id, " ".join(chain), user,
    ]  # fmt: skip
    assert written(trail(principal), text=True).count(b"\n") == 1


def test_parts_of_the_authority_can_be_hidden() -> None:
    """`telemetry.redact`: an operator who may not log users' names hides the member."""
    said = json.loads(written(trail(caller()), hidden=("on_behalf_of",)))
    assert said["on_behalf_of"] == "[redacted]"
    assert said["subject"] == "spiffe://acme.example/agent/procurement/payer"


def test_a_require_rule_that_does_not_hold_is_counted_as_a_denial() -> None:
    """Which rule refuses can be counted: one that held and one that did not are told apart, shadow rules as well."""
    held, failed = RuleHit("p", "held", "require", "enforce"), RuleHit("p", "failed", "require", "enforce")
    watched, opened = RuleHit("p", "watched", "deny", "shadow"), RuleHit("p", "opened", "allow", "shadow")
    reason = Reason("p/failed", "requires[0]", "none", "not attested")
    closed = trail(caller())
    closed.decision = Decision("deny", "0" * 64, (held, failed), reasons=(reason,), shadow=(watched, opened))
    counts = Counts()
    closed.close(counts, Log("worker-1", level="error"), access=False)
    counted = {labels for name, labels, _ in counts.take() if name == "policy_decisions"}
    assert counted == {
        ("p", "held", "require", "enforce"),
        ("p", "failed", "deny", "enforce"),
        ("p", "watched", "would_deny", "shadow"),
        ("p", "opened", "would_allow", "shadow"),
    }
