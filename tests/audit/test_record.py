"""What is written down of a decision: enough to know who and why, no secret, one line of printable ASCII."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from multidict import CIMultiDict

from gateway.audit import DecisionRecord, call_digest, decision_record
from gateway.audit.record import note, read_record
from gateway.core.attestation import Attestation
from gateway.core.call import Call, Head
from gateway.core.decision import Decision, Obligations, Reason, RuleHit
from gateway.core.principal import Agent, Principal
from gateway.core.run import RunKey, RunRef
from gateway.telemetry.redact import Redactor
from gateway.telemetry.trail import Trail

SECRET = "sk-live-0123456789"
CALL = Call("tool", "http", "tool", "POST", b'{"amount":100}', tool="payments.charge", region="eu")
PRINCIPAL = Principal(
    Agent("procurement", team="finance", category="bounded"),
    "dev",
    "https://issuer.example",
    "spiffe://acme.example/agent/procurement",
    "bound",
    "k1",
    "jti-1",
    2e9,
    on_behalf_of="user/anna",
    chain=("agent/parent",),
)
DECISION = Decision("allow", "f" * 64, (RuleHit("pay", "may-pay", "allow", "enforce"),))
CHECKED = Attestation(
    by="gateway",
    id="att_1",
    step="fraud-check",
    outcome="passed",
    subject={"order_id": "A1", "amount": 100},
    agent="procurement",
    run="r1",
    at=1_800_000_000_000_000,
)


def trail(principal: Principal = PRINCIPAL, call: Call = CALL) -> Trail:
    """A call that was identified and read, in a run."""
    opened = Trail(Head(call.method, "/tools/payments/charge", "", CIMultiDict(), "127.0.0.1"))
    opened.principal, opened.call = principal, call
    opened.run = RunRef(RunKey("https://issuer.example", principal.subject, "r1"), None, "url")
    opened.step = 3
    return opened


def written(about: Trail, decision: Decision = DECISION, redact: Redactor | None = None) -> bytes:
    return decision_record(
        about,
        decision,
        decision_id="dec_" + about.request_id.removeprefix("req_"),
        at=1_800_000_000.5,
        mode="enforce",
        digest="sha256:" + "0" * 64,
        providers=("payments",),
        approval="",
        redact=redact or Redactor([SECRET], ["authorization"]),
        latency=0.00125,
    )


def record_of(about: Trail, decision: Decision = DECISION, redact: Redactor | None = None) -> DecisionRecord:
    read = read_record(written(about, decision, redact))
    assert read is not None
    return read


def test_an_allowed_call() -> None:
    """Who asked for what on whose authority, what the rules said, and of which policies; what is empty is left out."""
    about = trail()
    told = json.loads(written(about))
    assert told == {
        "time": "2027-01-15T08:00:00.500000Z",
        "id": about.request_id.replace("req_", "dec_"),
        "request_id": about.request_id,
        "agent": "procurement",
        "issuer": "dev",
        "subject": "spiffe://acme.example/agent/procurement",
        "assurance": "bound",
        "token_id": "jti-1",
        "on_behalf_of": "user/anna",
        "chain": ["agent/parent"],
        "team": "finance",
        "category": "bounded",
        "run": "r1",
        "step": 3,
        "kind": "tool",
        "operation": "tool",
        "method": "POST",
        "dialect": "http",
        "tool": "payments.charge",
        "region": "eu",
        "providers": ["payments"],
        "call_digest": "sha256:" + "0" * 64,
        "effect": "allow",
        "rules": [{"policy": "pay", "rule": "may-pay", "effect": "allow", "mode": "enforce"}],
        "policy_hash": "f" * 64,
        "mode": "enforce",
        "latency_us": 1250,
    }


def test_a_refused_call() -> None:
    """The code, each clause that failed and the rules that took part, shadow ones too; no value of the call."""
    decision = replace(
        DECISION,
        effect="deny",
        code="attestation_required",
        reasons=(Reason("pay/checked", "requires[0]", "none", "no fraud-check of A1", "fraud-check", {"order": "A1"}),),
        shadow=(RuleHit("pay", "tried-out", "deny", "shadow"),),
        would="hold",
    )
    told = json.loads(written(trail(), decision))
    assert (told["effect"], told["code"], told["would"]) == ("deny", "attestation_required", "hold")
    assert told["reasons"] == [{"rule": "pay/checked", "clause": "requires[0]", "code": "none", "step": "fraud-check"}]
    assert [(hit["rule"], hit["mode"]) for hit in told["rules"]] == [("may-pay", "enforce"), ("tried-out", "shadow")]
    assert "A1" not in json.dumps(told)


def test_what_it_rests_on_and_what_was_read() -> None:
    """Attestations with what they say, and the scalars that conditions read; never a list or an object."""
    read: dict[str, object] = {
        "args.amount": 100, "args.currency": "EUR", "args.rate": 1.5, "args.urgent": True, "args.note": None,
        "args.items": [1, 2], "args.order": {"id": 1},
        "args.most": float("inf"),
    }  # fmt: skip
    record = record_of(trail(), replace(DECISION, rests_on=(CHECKED,), read=read))
    assert record.read == {name: read[name] for name in list(read)[:5]}
    (rested,) = record.attestations
    assert (rested.id, rested.by, rested.step, rested.outcome) == ("att_1", "gateway", "fraud-check", "passed")
    assert (rested.subject, rested.at) == ({"order_id": "A1", "amount": 100}, "2027-01-15T08:00:00.000000Z")


# -- what is not to be seen


def test_no_secret_is_written() -> None:
    """A configured secret is nowhere, in whichever name an agent has put it, and the record can still be read."""
    principal = replace(PRINCIPAL, subject=f"agent/{SECRET}", token_id=SECRET)
    decision = replace(DECISION, read={"args.text": f"it is {SECRET}, you know"}, rests_on=(CHECKED,))
    line = written(trail(principal, replace(CALL, region=SECRET)), decision)
    assert SECRET.encode() not in line
    record = read_record(line)
    assert record is not None
    assert record.read["args.text"] == "it is [redacted], you know"
    assert (record.subject, record.token_id, record.latency_us) == ("agent/[redacted]", "[redacted]", 1250)


@pytest.mark.parametrize("secret", ["pässword", 'quo"ted\\secret', "123456789"])
def test_secrets_of_every_spelling(secret: str) -> None:
    """Also where JSON writes the secret otherwise than it is; a number stays one, so that the line stays JSON."""
    decision = replace(DECISION, read={"args.text": f"<{secret}>", "args.amount": 123456789})
    record = record_of(trail(), decision, Redactor([secret]))
    assert record.read == {"args.text": "<[redacted]>", "args.amount": 123456789}


def test_hidden_names() -> None:
    """Values under a name of `telemetry.redact`, or under a redacted fact, are hidden: in facts and in subjects."""
    decision = replace(
        DECISION,
        obligations=Obligations(redact=frozenset({"args.card"})),
        read={"args.card": "4111", "args.card.name": "A", "args.Authorization": 5, "args.cards": 2},
        rests_on=(replace(CHECKED, subject={"card": "4111", "order_id": "A1"}),),
    )
    record = record_of(trail(), decision)
    hidden = "[redacted]"
    assert record.read == {"args.card": hidden, "args.card.name": hidden, "args.Authorization": hidden, "args.cards": 2}
    assert record.attestations[0].subject == {"card": hidden, "order_id": "A1"}


# -- one line, of bounded length


@pytest.mark.parametrize(
    "name",
    [
        'a"},"hash":"x"}\n{"seq":2', "\x1b[31mred", "\x9b31m", "\x7f", "\u2028\u2029\x85", "\u202ekcab", "ünï",
        "\ud800", "\U0001f600",
    ],
    ids=ascii,
)  # fmt: skip
def test_names_cannot_break_out(name: str) -> None:
    """P14: quotes, line ends, control characters, surrogates and what turns text round are escaped JSON."""
    principal = replace(PRINCIPAL, subject=name, chain=(name,))
    call = replace(CALL, kind="llm", model=name, hosted_tools=(name,))
    line = written(trail(principal, call), replace(DECISION, read={"args.x": name}))
    assert re.fullmatch(rb"[\x20-\x7e]+", line)
    told = json.loads(line)
    assert {told["subject"], *told["chain"], told["model"], *told["hosted_tools"], told["read"]["args.x"]} == {name}
    assert set(told) == set(json.loads(written(trail(replace(PRINCIPAL, chain=("x",)), call)))) | {"read"}


@given(
    st.text(st.characters(exclude_categories=()), max_size=30),
    st.dictionaries(
        st.text(max_size=8),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=30),
    ),
)
def test_any_text_and_any_value(text: str, read: Mapping[str, Any]) -> None:
    """P14: whatever the names and values, one line comes out that reads as what went in."""
    line = written(trail(replace(PRINCIPAL, subject=text)), replace(DECISION, read=read), Redactor())
    assert re.fullmatch(rb"[\x20-\x7e]+", line)
    told = json.loads(line)
    assert told["subject"] == text
    assert told.get("read", {}) == read


def test_long_names_are_cut() -> None:
    """A name of 2 KiB in a token, or arguments without end, do not make the log grow by as much."""
    long = "x" * 5000
    principal = replace(PRINCIPAL, subject=long, token_id=long, on_behalf_of=long, chain=(long,) * 200)
    read: dict[str, object] = {f"args.f{number}": long for number in range(200)}
    call = replace(CALL, model=long, hosted_tools=(long,) * 200)
    reasons = (Reason("p/r", "when", "error", long),) * 200
    decision = replace(DECISION, effect="deny", read=read, reasons=reasons, rests_on=(CHECKED,) * 200)
    record = record_of(trail(principal, call), decision)
    assert {len(name) for name in (record.subject, record.token_id, record.on_behalf_of, record.model)} == {500}
    lists = (record.chain, record.hosted_tools, record.read, record.reasons, record.attestations)
    assert {len(entries) for entries in lists} == {50}
    assert {len(str(value)) for value in record.read.values()} == {501}
    assert str(record.read["args.f0"]).endswith("…")


def test_nothing_is_written_of_a_stranger() -> None:
    """A decision needs somebody who is known, and a call."""
    stranger = trail()
    stranger.principal = None
    with pytest.raises(ValueError, match="not identified"):
        written(stranger)


# -- the digest


async def test_the_digest_is_of_the_call() -> None:
    """Whoever has the call can show that it is this one: method, raw path, query and body, each in its place."""
    head = Head("POST", "/tools/a%20b", "x=1", CIMultiDict(), "127.0.0.1")
    assert await call_digest(head, b"body") == "sha256:" + hashlib.sha256(b"POST\n/tools/a%20b\nx=1\nbody").hexdigest()
    large = b"z" * 1_000_000
    assert (
        await call_digest(head, large) == "sha256:" + hashlib.sha256(b"POST\n/tools/a%20b\nx=1\n" + large).hexdigest()
    )
    others = [
        Head("PUT", "/tools/a%20b", "x=1", CIMultiDict(), ""),
        Head("POST", "/tools/a", "x=1", CIMultiDict(), ""),
        Head("POST", "/tools/a%20b", "", CIMultiDict(), ""),
        Head("POST", "/tools/a%20bx=1", "", CIMultiDict(), ""),
        Head("POST", "/tools/\ud800", "", CIMultiDict(), ""),
    ]
    assert len({await call_digest(other, b"body") for other in (head, *others)}) == 6
    assert await call_digest(head, b"body") != await call_digest(head, b"body ")


def test_a_note_is_no_decision() -> None:
    """What the log says of itself is told apart from decisions by its first member."""
    assert read_record(note("torn", 1_800_000_000, "7 bytes\n\x1b")) is None
    assert json.loads(note("torn", 1_800_000_000, "é\n")) == {
        "note": "torn", "time": "2027-01-15T08:00:00.000000Z", "detail": "é\n",
    }  # fmt: skip
    with pytest.raises(ValueError, match="Object missing required field"):
        read_record(b"{}")
