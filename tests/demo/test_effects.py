"""What the demo tools do."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.demo.effects import OPERATIONS, DemoOperation, Effects, ToolError

PAYMENT = {"order_id": "A1", "amount": 100, "currency": "EUR"}


def operation(tool: str) -> DemoOperation:
    return next(one for one in OPERATIONS if one.tool == tool)


@pytest.fixture
def effects(tmp_path: Path) -> Iterator[Effects]:
    with contextlib.closing(Effects(tmp_path / "demo" / "effects.ndjson")) as opened:
        yield opened


def lines(tmp_path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (tmp_path / "demo" / "effects.ndjson").read_text().splitlines()]


@pytest.mark.parametrize(
    ("change", "verdict"), [({}, "pass"), ({"order_id": "BAD7"}, "fail"), ({"amount": 1_000_001}, "fail")]
)
def test_fraud_check_judges(effects: Effects, change: dict[str, object], verdict: str) -> None:
    """The verdict depends on the order and the amount, repeats what it judged, and has no effect."""
    answer = effects.call(operation("fraud.check"), PAYMENT | change, key="", now="")
    assert answer["verdict"] == verdict
    assert {name: answer[name] for name in PAYMENT} == PAYMENT | change
    assert effects.count == 0


def test_each_effect_is_one_line(effects: Effects, tmp_path: Path) -> None:
    """A person can count in the file what really happened, and each answer names its line by receipt."""
    receipts = [effects.call(operation("payments.charge"), PAYMENT, key="", now="t")["receipt"] for _ in range(2)]
    effects.call(operation("mail.send"), {"to": "a@b.example", "subject": "ü"}, key="", now="t")
    effects.call(operation("ledger.post"), {"account": "x", "amount": 1}, key="", now="t")
    written = lines(tmp_path)
    assert [line["tool"] for line in written] == ["payments.charge", "payments.charge", "mail.send", "ledger.post"]
    assert [line["receipt"] for line in written[:2]] == receipts
    assert written[0]["arguments"] == PAYMENT
    assert effects.order("A1") == {"order_id": "A1", "charged": 200}


def test_idempotency_key_is_honoured(effects: Effects, tmp_path: Path) -> None:
    """A repeated key gets the first answer and no second effect; with other arguments it is refused."""
    first, second = (effects.call(operation("payments.charge"), PAYMENT, key="k", now="t") for _ in range(2))
    assert first == second
    with pytest.raises(ToolError):
        effects.call(operation("payments.charge"), PAYMENT | {"amount": 1}, key="k", now="t")
    assert len(lines(tmp_path)) == 1


def test_file_grows_over_restarts(effects: Effects, tmp_path: Path) -> None:
    """A restarted demo appends to what happened before."""
    effects.call(operation("mail.send"), {"to": "a", "subject": "b"}, key="", now="t")
    with contextlib.closing(Effects(tmp_path / "demo" / "effects.ndjson")) as again:
        again.call(operation("mail.send"), {"to": "a", "subject": "b"}, key="", now="t")
    assert len(lines(tmp_path)) == 2


@pytest.mark.parametrize(
    "args", [{}, PAYMENT | {"amount": "100"}, PAYMENT | {"amount": True}, PAYMENT | {"order_id": 1}]
)
def test_wrong_arguments_are_refused(effects: Effects, args: dict[str, object]) -> None:
    """A call that lacks an argument or has one of another type is refused and does nothing."""
    with pytest.raises(ToolError) as caught:
        effects.call(operation("payments.charge"), args, key="", now="")
    assert (caught.value.status, effects.count) == (400, 0)
