"""What the demo tools do: pure answers, and the effects that they leave in a file.

`fraud.check` judges, `payments.order` reads; `payments.charge`, `payments.refund`, `mail.send` and `ledger.post`
act: each effect is one line of JSON, appended in a single write, so that a person can count what really happened.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FRAUD_LIMIT: Final = 1_000_000
"""Amounts above this, in minor units, fail the fraud check; so do order ids that start with `BAD`."""

_KEYS: Final = 10_000


class ToolError(Exception):
    """A call that a tool refuses, as problem+json (RFC 9457)."""

    def __init__(self, status: int, detail: str) -> None:
        """`detail` is a sentence for the caller."""
        super().__init__(detail)
        self.status = status
        self.body = {"title": "the demo tool refused the call", "status": status, "detail": detail}


@dataclass(frozen=True, slots=True)
class DemoOperation:
    """One operation of a demo tool: its address, its required arguments and their types."""

    tool: str
    method: str
    path: str
    required: Mapping[str, type]
    answer: Callable[[Mapping[str, Any]], dict[str, Any]]
    effect: bool = True


def _fraud(args: Mapping[str, Any]) -> dict[str, Any]:
    failed = args["order_id"].upper().startswith("BAD") or args["amount"] > FRAUD_LIMIT
    return {
        "verdict": "fail" if failed else "pass",
        "order_id": args["order_id"],
        "amount": args["amount"],
        "currency": args["currency"],
        "score": 97 if failed else 3,
        "check_id": "chk_" + _digest("fraud.check", args),
    }


def _charged(args: Mapping[str, Any]) -> dict[str, Any]:
    return {"status": "charged", **{name: args[name] for name in ("order_id", "amount", "currency")}}


def _refunded(args: Mapping[str, Any]) -> dict[str, Any]:
    return {"status": "refunded", "order_id": args["order_id"]}


def _sent(args: Mapping[str, Any]) -> dict[str, Any]:
    return {"status": "sent", "to": args["to"]}


def _posted(args: Mapping[str, Any]) -> dict[str, Any]:
    return {"status": "posted", "account": args["account"], "amount": args["amount"]}


_PAYMENT: Final = {"order_id": str, "amount": int, "currency": str}

OPERATIONS: Final = (
    DemoOperation("fraud.check", "POST", "/fraud/check", _PAYMENT, _fraud, effect=False),
    DemoOperation("payments.charge", "POST", "/payments/charge", _PAYMENT, _charged),
    DemoOperation("payments.refund", "POST", "/payments/orders/{order_id}/refund", {"order_id": str}, _refunded),
    DemoOperation("mail.send", "POST", "/mail/send", {"to": str, "subject": str}, _sent),
    DemoOperation("ledger.post", "POST", "/ledger/post", {"account": str, "amount": int}, _posted),
)
"""Every acting or judging operation; paths are below the demo's `/tools`."""


class Effects:
    """The file of effects, and what is known of those of this process."""

    def __init__(self, path: Path) -> None:
        """Open the file for appending, its folder made if need be; raises `OSError`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._by_key: OrderedDict[tuple[str, str], tuple[str, dict[str, Any]]] = OrderedDict()
        self._charged: dict[str, int] = {}
        self.count = 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def call(self, operation: DemoOperation, args: Mapping[str, Any], *, key: str, now: str) -> dict[str, Any]:
        """Answer a call; raises `ToolError`.

        A call with an `Idempotency-Key` seen before gets the first one's answer and has no further effect;
        the same key with other arguments is refused. `now` is written beside the effect.
        """
        _check(operation, args)
        if not operation.effect:
            return operation.answer(args)
        digest = _digest(operation.tool, args)
        known = self._by_key.get((operation.tool, key)) if key else None
        if known is not None:
            if known[0] != digest:
                raise ToolError(422, "this Idempotency-Key was used with other arguments")
            return known[1]
        self.count += 1
        answer = operation.answer(args) | {"receipt": f"rcpt_{digest[:8]}{self.count:06d}"}
        line = {
            "time": now,
            "tool": operation.tool,
            "receipt": answer["receipt"],
            "arguments": args,
            "key": key or None,
        }
        os.write(self._file, json.dumps(line, ensure_ascii=False).encode() + b"\n")
        if operation.tool == "payments.charge":
            self._charged[args["order_id"]] = self._charged.get(args["order_id"], 0) + args["amount"]
        if key:
            self._by_key[operation.tool, key] = digest, answer
            if len(self._by_key) > _KEYS:
                self._by_key.popitem(last=False)
        return answer

    def order(self, order_id: str) -> dict[str, Any]:
        """What was charged for an order since the demo started: the tool `payments.order`, a read."""
        if order_id not in self._charged:
            raise ToolError(404, f"nothing was charged for {order_id}")
        return {"order_id": order_id, "charged": self._charged[order_id]}


def _check(operation: DemoOperation, args: Mapping[str, Any]) -> None:
    for name, kind in operation.required.items():
        if type(args.get(name)) is not kind:
            raise ToolError(400, f"{operation.tool} needs {name}, {'a string' if kind is str else 'an integer'}")


def _digest(tool: str, args: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([tool, args], sort_keys=True).encode()).hexdigest()[:16]
