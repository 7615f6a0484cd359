"""The bank of the till behind rules that ask people: who they are, what they decide, and what agents are told.

Of its ways to be paid `large`, `late` and `order` need a person, `pay` a check beside, and `each` one that it uses up;
`once` uses the same check up and asks nobody. `shut/each` needs a person as well, and nobody is there. So do models
whose name begins with `scripted-held-`.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import sqlite3
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from tests.attacks.stage import AUDITOR
from tests.attacks.till import Order, Till, open_till, why
from tests.simulator.attester import AGENT
from tests.simulator.gateway import Reply, eventually
from tests.simulator.upstream import Script
from tests.simulator.webhook import Receiver

USER: Final = "user/anna"
CHIEF: Final = "user/chief"
CLERK: Final = "user/clerk"
COUNSEL: Final = "user/counsel"
OPERATORS: Final[Mapping[str, Mapping[str, Any]]] = {
    "root": {"roles": ["operator"]},
    "desk": {"roles": ["approver"], "groups": ["finance"]},
    "lawyer": {"roles": ["approver"], "groups": ["legal"]},
    "reader": {"roles": ["viewer"], "groups": ["finance"]},
    "boss": {"roles": ["operator"], "groups": ["finance"]},  # the owner of `procurement`
    "procurement": {"roles": ["approver"], "groups": ["finance"]},  # is called what the agent is called
    "clerk": {"roles": ["approver"], "groups": ["finance"], "issuer": "dev", "subject": CLERK},
    "counsel": {"roles": ["approver"], "groups": ["legal"], "issuer": "dev", "subject": COUNSEL},
    "chief": {"roles": ["operator"], "groups": ["finance"], "issuer": "dev", "subject": CHIEF},  # owns `auditor`
    "anna": {"roles": ["approver"], "groups": ["finance"], "issuer": "dev", "subject": USER},
}
RULES: Final = """version: 1
policy: desk
rules:
  - {id: models, effect: allow, match: {models: ["*"]}}
  - {id: tools, effect: allow, match: {tools: ["bank.*", "shut.*"]}}
  - {id: large, effect: require, match: {tools: [bank.large, bank.order, bank.late, shut.each]}, approve: FINANCE}
  - {id: thinking, effect: require, match: {models: ["scripted-held-*"]}, approve: FINANCE}
  - id: pay
    effect: require
    match: {tools: [bank.pay]}
    requires: [{attestation: {step: fraud-check, max_age: 15m, bind: ORDER}}]
    approve: FINANCE
  - id: each
    effect: require
    match: {tools: [bank.each]}
    requires: [{attestation: {step: fraud-check, consume: once, bind: ORDER}}]
    approve: FINANCE
  - id: once
    effect: require
    match: {tools: [bank.once]}
    requires: [{attestation: {step: fraud-check, consume: once, bind: ORDER}}]
""".replace("FINANCE", '{approvers: ["group:finance"], expires: 30m}').replace(
    "ORDER", "{order_id: args.order_id, amount: args.amount, currency: args.currency}"
)
_SECOND: Final = 1_000_000


def secret(name: str) -> str:
    """The token of an operator who has one of his own."""
    return f"{name}-token-" + "x" * 40


def approval_of(reply: Reply) -> dict[str, Any]:
    """What a refusal says of the approval that a call waits for, or does not get."""
    told = reply.json()
    told = told.get("error", told)
    return dict(told["gateway"]["approval"])


@dataclass
class Desk(Till):
    """The till, the operators, and the receiver of their webhook."""

    receiver: Receiver = field(default_factory=Receiver)

    def ask(
        self, body: object, *attestations: str, by: str = "large", run: str = "r1", token: str = "", prefer: str = ""
    ) -> Reply:
        """Ask for a payment."""
        headers = {"Prefer": prefer} if prefer else {}
        if attestations:
            headers["Workflow-Attestation"] = ", ".join(attestations)
        tool = by if by.startswith("shut/") else f"bank/{by}"
        path = f"/r/{run}/tools/{tool}" if run else f"/tools/{tool}"
        return self.gateway.call("POST", path, body, headers=headers, token=token)

    def held(self, body: object, *attestations: str, **options: str) -> str:
        """The id of the approval that a payment waits for."""
        reply = self.ask(body, *attestations, **options)
        assert why(reply)[:2] == (403, "approval_required"), reply.body
        return str(approval_of(reply)["id"])

    def approved(self, body: object, *attestations: str, **options: str) -> str:
        """The same, once it is approved."""
        name = self.held(body, *attestations, **options)
        self.decide(name)
        return name

    @contextlib.contextmanager
    def waiting(self, body: object, *attestations: str, **options: str) -> Iterator[tuple[str, Future[Reply]]]:
        """A call that holds its connection open until somebody decides: its approval, and the answer to come."""
        run = options.setdefault("run", self.run())
        with ThreadPoolExecutor(1) as pool:
            reply = pool.submit(self.ask, body, *attestations, prefer="wait=20", **options)
            eventually(lambda: self.pending(run), "nobody waits")
            (name,) = self.pending(run)
            yield name, reply

    def pending(self, run: str) -> list[str]:
        """The approvals that calls of a run wait for."""
        listed = self.admin("GET", "?status=pending")[1]["approvals"]
        return [one["id"] for one in listed if one["run"] == run]

    def order_of(self, *scripts: Script) -> tuple[Order, str]:
        """An order to which the bank answers in a way of its own, and the address where it is asked for."""
        order = self.order()
        way = f"orders/{order['order_id']}"
        self.upstream.says(f"/bank/{way}", *scripts)
        return order, way

    # -- what operators do

    def admin(
        self, method: str, path: str, who: str = "desk", body: object = None, headers: Mapping[str, str] = {}
    ) -> tuple[int, dict[str, Any]]:
        """Ask the admin API as an operator, with a signed token, or (empty) as nobody."""
        sent = {"Content-Type": "application/json", **headers}
        if who:
            sent["Authorization"] = f"Bearer {who if who.count('.') == 2 else secret(who)}"
        connection = http.client.HTTPConnection(urlsplit(self.gateway.admin_url).netloc, timeout=30)
        with contextlib.closing(connection):
            data = None if method in ("GET", "HEAD") else body if isinstance(body, bytes) else json.dumps(body or {})
            connection.request(method, f"/admin/v1/approvals{path}", data, sent)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else {}

    def decide(self, name: str, verdict: str = "approve", who: str = "desk") -> dict[str, Any]:
        """An operator says yes or no."""
        status, told = self.admin("POST", f"/{name}/{verdict}", who, {"reason": "looked at it"})
        assert status == 200, told
        return told

    def shown(self, name: str) -> dict[str, Any]:
        """What operators see of an approval."""
        status, told = self.admin("GET", f"/{name}", "reader")
        assert status == 200, told
        return told

    def status(self, name: str) -> str:
        """How an approval stands."""
        return str(self.shown(name)["status"])

    def signed(self, subject: str) -> str:
        """The token of an operator whom the issuer vouches for."""
        return self.token(subject)

    def rule(self, rules: str) -> None:
        """These rules are in force from now on."""
        (self.gateway.folder / "rules" / "desk.yaml").write_text(rules)
        assert self.gateway.reload() == []

    @contextlib.contextmanager
    def ruled(self, rules: str) -> Iterator[None]:
        """Other rules are in force."""
        try:
            self.rule(rules)
            yield
        finally:
            self.rule(RULES)

    def age(self, name: str, minutes: float) -> None:
        """So much time goes by for one approval."""
        passed = round(minutes * 60 * _SECOND)
        file = self.gateway.folder / "var" / "passgate.db"
        with contextlib.closing(sqlite3.connect(file, timeout=10)) as conn, conn:
            (ask,) = conn.execute("SELECT ask FROM approvals WHERE id = ?", (name,)).fetchone()
            asked = msgspec.msgpack.decode(ask)
            asked["expires"] -= passed / _SECOND
            times = "created = created - ?1, expires = expires - ?1, changed = changed - ?1"
            query = f"UPDATE approvals SET {times}, ask = ?2 WHERE id = ?3"  # noqa: S608 -- constants
            conn.execute(query, (passed, msgspec.msgpack.encode(asked), name))


@contextlib.contextmanager
def open_desk(folder: Path) -> Iterator[Desk]:
    """Start it all."""
    (folder / "rules").mkdir()
    (folder / "rules" / "desk.yaml").write_text(RULES)
    operators = [
        {"id": name, **({} if "issuer" in one else {"token_sha256": hashlib.sha256(secret(name).encode()).hexdigest()})}
        | dict(one)
        for name, one in OPERATORS.items()
    ]
    agents = [
        {"id": "procurement", "issuer": "dev", "subject": AGENT, "owner": "boss"},
        {"id": "auditor", "issuer": "dev", "subject": AUDITOR, "owner": CHIEF},
    ]
    with Receiver() as receiver:
        webhooks = {"approvals": receiver.config}
        changes = {"policies": {"dir": "rules"}, "operators": operators, "agents": agents, "webhooks": webhooks}
        with open_till(folder, **changes) as till:
            (folder / "var" / "admin.token").write_text(secret("root"))  # where tests and commands look for one
            (folder / "var" / "admin.token").chmod(0o600)
            yield Desk(till.gateway, till.upstream, attesters=till.attesters, receiver=receiver)
