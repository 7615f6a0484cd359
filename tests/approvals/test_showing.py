"""How an approval is shown: inert to operators, sparing to agents, without arguments to webhooks."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.approvals.showing import brief, event, happened, inert, to_owner, whole
from gateway.approvals.voting import vote
from gateway.core.approval import MOVES
from gateway.core.clock import rfc3339
from tests.approvals.held import DESK, NOW, PRINCIPAL, pending
from tests.approvals.test_binding import OBJECT

FOOLS = {
    "markup": "<script>alert(1)</script>&amp;",
    "override": "100\u202e001",
    "isolate": "\u2066a\u2069",
    "zero width": "pay\u200bpal",
    "escape": "\x1b[2J\x07",
    "newline": "a\nb\r\u2028",
    "combining": "a\u0336b",
    "right to left": "A\u05d0 1",
    "filler": "\u3164\u2800",
    "tag": "\U000e0041",
    "private": "\ue000",
    "no-break space": "a\u00a0b",
}


@pytest.mark.parametrize("text", FOOLS.values(), ids=FOOLS)
def test_nothing_that_could_fool_an_approver_is_shown_as_it_is(text: str) -> None:
    """H9: markup, bidi controls, invisible and overlapping characters come out as escapes, readable back as JSON."""
    shown = inert(json.dumps({"note": text}, ensure_ascii=False))
    assert json.loads(shown) == {"note": text}
    assert not {char for char in text if not char.isascii() or not char.isprintable() or char in "<>&"} & set(shown)


@pytest.mark.parametrize("text", ["Müller & Söhne".replace("&", "+"), "請求書 12", "счёт", "€ 12,50", "emoji 🧾"])
def test_what_is_plain_is_readable(text: str) -> None:
    """Letters and signs of other languages that do nothing but show stay what they are."""
    assert inert(text) == text


@given(OBJECT)
def test_arguments_keep_their_value(args: dict[str, object]) -> None:
    """H9: what approvers are shown reads back as exactly the arguments that are bound, and every character is inert."""
    text = whole(pending(args=args), NOW)["args"]
    assert isinstance(text, str)
    assert json.dumps(json.loads(text), sort_keys=True) == json.dumps(args, sort_keys=True)
    assert text.isprintable()
    assert not set(text) & set("<>&")


@given(st.text())
def test_an_inert_text_stays_what_it_is(text: str) -> None:
    """Shown a second time, as the command line does with what the gateway said, nothing changes."""
    assert inert(inert(text)) == inert(text)


def test_operators_see_all_of_it() -> None:
    """H9: who asks for whom, what, where, with which digest, and who has to decide until when."""
    shown = whole(pending(principal=replace(PRINCIPAL, on_behalf_of="user/\u202eanna")), NOW)
    assert shown["on_behalf_of"] == "user/\\u202eanna"
    assert shown["args"] == '{"amount":100,"order_id":"A1"}'
    assert shown["args_sha256"] == hashlib.sha256(b'{"amount":100,"order_id":"A1"}').hexdigest()
    assert shown["waits_for"] == [["group:finance"]]
    assert shown["expires_at"] == rfc3339(NOW + 1800)
    assert "args" not in brief(pending(), NOW)


def test_arguments_that_were_too_long_are_not_shown_as_empty() -> None:
    """Where they were not kept, `args` is null, never an empty object."""
    assert whole(replace(pending(), ask=replace(pending().ask, args=b"")), NOW)["args"] is None


@pytest.mark.parametrize("status", MOVES)
def test_the_agent_is_told_how_it_stands_and_what_to_do(status: str) -> None:
    """I24: status, reason and next action for every status; nothing of who may decide, and no digest."""
    told = to_owner(replace(pending(), status=status), NOW)
    assert told["status"] == status
    assert told["next_action"] in {"retry", "request", "none"}
    assert not {"approvers", "args", "args_sha256", "votes", "owner"} & told.keys()
    assert told["reason"] == ("approval_required" if status == "pending" else f"approval_{status}")


def test_the_agent_is_told_that_time_is_up_before_it_is_written_down() -> None:
    """H6: an approval whose time is up is expired, whatever the store says yet, and the next call asks anew."""
    told = to_owner(replace(pending(), status="approved"), NOW + 1800)
    assert (told["status"], told["reason"], told["next_action"]) == ("expired", "approval_expired", "request")
    assert to_owner(replace(pending(), previous="approval_expired"), NOW)["reason"] == "approval_expired"


def test_the_agent_is_told_who_decided_and_why() -> None:
    """The words of the last who decided reach the agent, as the operator was told."""
    told = to_owner(vote(pending(), DESK, "deny", "paid already", NOW), NOW)
    assert (told["by"], told["message"]) == (["desk"], "paid already")


def test_a_webhook_gets_no_arguments() -> None:
    """Events name who, what and until when, and the arguments by their digest alone."""
    secret = pending(args={"card": "4111-canary"})
    assert "canary" not in json.dumps(event(secret, "pending"))
    denied = vote(secret, DESK, "deny", "", NOW + 9)
    assert event(denied, "denied")["summary"] == "agent procurement asks to call tool payments.charge: denied by desk"
    assert event(denied, "denied")["decided_by"] == ["desk"]
    assert (happened(secret, "pending"), happened(denied, "denied")) == (NOW, NOW + 9)
    assert happened(secret, "expired") == NOW + 1800
