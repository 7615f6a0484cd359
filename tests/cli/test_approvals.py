"""`passgate approvals` as it is run beside a gateway that serves."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from io import StringIO
from itertools import count

import pytest

from gateway.cli import main
from tests.simulator.gateway import Gateway
from tests.simulator.guard import CONFIG, OPERATOR

POLICY = """version: 1
policy: shop
rules:
  - {id: may-pay, effect: allow, match: {tools: ["payments.*"]}}
  - id: everything
    effect: require
    match: {tools: [payments.charge]}
    approve: {approvers: ["group:finance", boss], expires: 30m}
"""
READER = "a-viewers-token-of-forty-three-characters-or-so"
OPERATORS = [
    *CONFIG["operators"],
    {"id": "reader", "token_sha256": hashlib.sha256(READER.encode()).hexdigest(), "roles": ["viewer"]},
]
_orders = count(1)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {"tools": CONFIG["tools"], "operators": OPERATORS}
    with Gateway(tmp_path_factory.mktemp("gateway"), config, {"shop.yaml": POLICY}) as running:
        yield running


@pytest.fixture(autouse=True)
def _operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell is that of the operator."""
    monkeypatch.setenv("PASSGATE_ADMIN_TOKEN", OPERATOR)


def passgate(gateway: Gateway, *words: str, served: bool = True) -> tuple[int, str, str]:
    """`passgate approvals …`: exit code, standard output and standard error."""
    where = ("--admin", gateway.admin_url) if served else ()
    out, err = StringIO(), StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["approvals", *words, *where, "--config", str(gateway.folder / "config.yaml")])
    return code, out.getvalue(), err.getvalue()


def held(gateway: Gateway, **members: object) -> tuple[str, dict[str, object]]:
    """The approval that a new call waits for, and its arguments."""
    body = {"order_id": f"A{next(_orders)}", "amount": 5, "currency": "EUR", **members}
    reply = gateway.call("POST", "/tools/payments/charge", body)
    assert reply.refusal == "approval_required"
    return reply.json()["gateway"]["approval"]["id"], body


def test_what_waits_is_listed_shown_and_decided(gateway: Gateway) -> None:
    """The list says who waits for whom and how long; after the decision it is empty, and the call goes through."""
    assert passgate(gateway, "list") == (0, "No call waits for approval.\n", "")
    name, body = held(gateway)
    code, out, _ = passgate(gateway, "list")
    head, line = out.splitlines()
    assert code == 0
    assert head.split() == ["id", "status", "age", "ends", "in", "agent", "operation", "waits", "for"]
    assert line.split()[:2] == [name, "pending"]
    assert line.split()[3:] == ["29m", "procurement", "tool", "payments.charge", "boss", "or", "group:finance"]
    code, out, _ = passgate(gateway, "show", name)
    assert code == 0
    assert "rules           shop/everything" in out
    assert json.loads(out.partition("\narguments\n")[2]) == body
    code, out, _ = passgate(gateway, "approve", name, "--reason", "checked")
    assert code == 0
    assert out.startswith(f"approval {name} is approved; the agent's next identical call until 20")
    assert gateway.call("POST", "/tools/payments/charge", body).status == 200
    assert passgate(gateway, "approve", name)[1].startswith(f"you had said so already: approval {name} is consumed")
    assert passgate(gateway, "list") == (0, "No call waits for approval.\n", "")
    code, out, _ = passgate(gateway, "show", name)
    assert " treasury-desk said approve: checked" in out
    assert name in passgate(gateway, "list", "--status", "consumed")[1]
    assert passgate(gateway, "list", "--status", "cancelled") == (0, "There is none.\n", "")


def test_programs_get_json(gateway: Gateway) -> None:
    """Every command answers a program with what the gateway said."""
    name, _ = held(gateway)
    code, out, _ = passgate(gateway, "list", "--format", "json", "--status", "all")
    assert (code, name in [one["id"] for one in json.loads(out)["approvals"]]) == (0, True)
    assert json.loads(passgate(gateway, "show", name, "--format", "json")[1])["may_decide"] == ["treasury-desk"]
    code, out, _ = passgate(gateway, "deny", name, "--reason", "twice", "--format", "json")
    denied = json.loads(out)
    assert (code, denied["status"], denied["changed"], denied["votes"][0]["reason"]) == (0, "denied", True, "twice")


def test_nothing_that_an_agent_wrote_controls_the_terminal(gateway: Gateway) -> None:
    """H9: escapes, newlines and bidi controls in arguments are printed as what they are."""
    name, body = held(gateway, note="\x1b[2J\x07 \u202e001\nAPPROVED <b>")
    for words in (["show", name], ["show", name, "--format", "json"], ["list"]):
        out = passgate(gateway, *words)[1]
        assert all(char.isascii() and (char.isprintable() or char == "\n") for char in out)
    assert json.loads(passgate(gateway, "show", name)[1].partition("\narguments\n")[2]) == body
    assert passgate(gateway, "deny", name)[1].startswith(
        f"approval {name} is denied; identical calls are refused until 20"
    )


def test_who_may_not_decide_is_told_why(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """H3: a mistake is a sentence and exit code 2: no role, no such approval, one that is over, nobody who serves."""
    name, _ = held(gateway)
    monkeypatch.setenv("PASSGATE_ADMIN_TOKEN", READER)
    code, _, err = passgate(gateway, "approve", name)
    assert (code, err) == (2, "passgate: scope_exceeded: this needs the role approver; ask an operator who has it.\n")
    assert passgate(gateway, "show", name)[0] == 0
    monkeypatch.setenv("PASSGATE_ADMIN_TOKEN", OPERATOR)
    code, _, err = passgate(gateway, "deny", "apr_unknown")
    assert (code, "there is no such approval" in err) == (2, True)
    assert passgate(gateway, "deny", name)[0] == 0
    code, _, err = passgate(gateway, "approve", name)
    assert (code, "nothing is left to decide: this approval is denied, decided by treasury-desk" in err) == (2, True)
    code, _, err = passgate(gateway, "list", served=False)
    assert (code, "approvals are decided where it serves" in err) == (2, True)
    with pytest.raises(SystemExit) as ended:
        passgate(gateway, "list", "--status", "open")
    assert ended.value.code == 2
