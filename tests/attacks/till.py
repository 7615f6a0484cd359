"""A bank behind a whole gateway that pays only for orders that were checked; the bank keeps a book of its own.

Four ways to be paid, each behind rules of its own: `pay` wants a check with all that can be asked of one, `once` uses
the check up, `each` happens once for every order, and `large` needs a person beside. `late` and the tool `shut` are
ways of `once` and `each` that go wrong: the bank says nothing, or nobody is there.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from tests.attacks.stage import AUDITOR, Stage
from tests.simulator.attester import AGENT, Attester
from tests.simulator.gateway import Gateway, Reply
from tests.simulator.provider import ScriptedProvider
from tests.simulator.upstream import Do, Received, Script, answer

Order = dict[str, Any]

_BOUND: Final = "bind: {order_id: args.order_id, amount: args.amount, currency: args.currency}"

RULES: Final = f"""version: 1
policy: till
rules:
  - {{id: models, effect: allow, match: {{models: ["*"]}}}}
  - {{id: tools, effect: allow, match: {{tools: ["bank.*", "shut.*"]}}}}
  - id: pay
    effect: require
    match: {{tools: [bank.pay, bank.order]}}
    requires:
      - attestation: {{step: fraud-check, attested_by: [gateway, fraud-service, leaving-desk], max_age: 15m, {_BOUND}}}
  - id: once
    effect: require
    match: {{tools: [bank.once, bank.late, shut.once]}}
    requires: [{{attestation: {{step: fraud-check, consume: once, {_BOUND}}}}}]
  - id: each
    effect: require
    match: {{tools: [bank.each, bank.late-each, shut.each]}}
    requires: [{{attestation: {{step: fraud-check, consume: per_subject, {_BOUND}}}}}]
  - id: large
    effect: require
    match: {{tools: [bank.large]}}
    requires: [{{attestation: {{step: fraud-check, {_BOUND}}}}}]
    approve: {{approvers: [bootstrap], expires: 30m}}
observe:
  - step: fraud-check
    tool: bank.check
    outcome: 'result.verdict == "pass" ? "passed" : "failed"'
    subject: {{order_id: args.order_id, amount: args.amount, currency: args.currency}}
"""

MAY_ATTEST: Final = {
    "fraud-service": "fraud-check",
    "second-desk": "fraud-check",  # its word is not taken for `pay`
    "leaving-desk": "fraud-check",
    "mail-service": "mail-sent",
}
WORKERS: Final = 2
PATHS: Final = ("pay", "order", "once", "late", "each", "late-each", "large", "check")
_JSON: Final = ("Content-Type", "application/json")
PAID: Final = [answer(b'{"paid": true}', _JSON)]
_numbers: Final = itertools.count(1)


@dataclass
class Till(Stage):
    """The gateway, the bank as `upstream`, and the attesters by name."""

    attesters: Mapping[str, Attester] = field(default_factory=dict)
    _book: Counter[str] = field(default_factory=Counter)
    _read: int = 0  # requests that are in the book
    _log: dict[str, dict[str, Any]] = field(default_factory=dict)
    _heard: int = 0  # bytes of the decision log that are read

    @staticmethod
    def order(**changes: object) -> Order:
        """An order that nobody has spoken of yet."""
        return {"order_id": f"A{next(_numbers)}", "amount": 1000, "currency": "EUR", **changes}

    @staticmethod
    def run() -> str:
        """A run in which nothing has happened yet."""
        return f"run-{next(_numbers)}"

    def attests(self, order: Order, run: str, by: str = "fraud-service", **changes: Any) -> str:  # noqa: ANN401
        """A good attestation of an order in a run, with claims changed."""
        return self.attesters[by].attest(**{"subject": order, "run": run, **changes})

    def pay(
        self, order: Order, *attestations: str, run: str = "", by: str = "bank/pay", token: str | None = ""
    ) -> Reply:
        """Ask for a payment, with these attestations in the header."""
        carried = {"Workflow-Attestation": ", ".join(attestations)} if attestations else {}
        return self.gateway.call(
            "POST", f"/r/{run}/tools/{by}" if run else f"/tools/{by}", order, headers=carried, token=token
        )

    def posts(self, *attestations: object, token: str | None = None) -> Reply:
        """Hand attestations in: as their attester, or as an agent with a `token`."""
        return self.gateway.call("POST", "/gateway/v1/attestations", {"attestations": attestations}, token=token)

    def child(self) -> str:
        """The token of an agent to which `procurement` has handed on all that it may."""
        kind = "urn:ietf:params:oauth"
        form = {
            "grant_type": f"{kind}:grant-type:token-exchange",
            "subject_token_type": f"{kind}:token-type:access_token",
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        body = urlencode({**form, "subject_token": self.token()}).encode()
        return str(self.gateway.call("POST", "/oauth/token", body, headers=headers, token=None).json()["access_token"])

    def paid(self, order: Order) -> int:
        """How often the bank was asked to pay this order, by its own book."""
        new = self.upstream.everything(self._read)
        self._read += len(new)
        self._book.update(_order_of(one) for one in new if not one.line.startswith("POST /bank/check "))
        return self._book[order["order_id"]]

    def decisions(self) -> Mapping[str, dict[str, Any]]:
        """The records of the decision log by their ids."""
        for file in (self.gateway.folder / "var" / "audit").iterdir():  # one at most: a second one is far away
            with file.open("rb") as lines:
                lines.seek(self._heard)
                for line in lines:
                    self._heard += len(line)
                    record = json.loads(line)["record"]
                    self._log[record["id"]] = record
        return self._log

    def decision(self, reply: Reply) -> dict[str, Any]:
        """What the decision log has of an answer."""
        return self.decisions()[reply.headers["gateway-decision-id"]]

    def workers(self) -> Iterator[contextlib.AbstractContextManager[None]]:
        """For each worker, in `with`: it alone serves, and the others stand still."""
        pids = self.gateway.worker_pids()
        return (_stopped([other for other in pids if other != pid]) for pid in pids)


def why(reply: Reply) -> tuple[int, str, str]:
    """Status, code and reason of a refusal."""
    told = reply.json().get("gateway", {}) if reply.refusal else {}
    return reply.status, reply.refusal, told.get("reason", "")


def required(reason: str) -> tuple[int, str, str]:
    """How a payment is refused whose check does not count."""
    return 403, "attestation_required", reason


@contextlib.contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _order_of(received: Received) -> str:
    """Which order a request is about, as the bank reads it: by its body, else by its path."""
    with contextlib.suppress(ValueError):
        value = json.loads(received.body)
        if isinstance(value, dict) and "order_id" in value:
            return str(value["order_id"])
    return received.line.split(" ")[1].partition("?")[0].rpartition("/")[2]


def _operation(name: str) -> dict[str, Any]:
    timeouts = {"timeouts": {"first_byte": "300ms"}} if name.startswith("late") else {}
    return {"method": "POST", "path": f"/{name}", "repeat": "safe" if name == "check" else "never", **timeouts}


@contextlib.contextmanager
def open_till(folder: Path, **changes: object) -> Iterator[Till]:
    """Start it all; `changes` replace sections of the configuration."""
    attesters = {name: Attester(name) for name in MAY_ATTEST}
    for name, one in attesters.items():
        (folder / f"{name}.json").write_bytes(one.jwks())
    with socket.socket() as nobody, ScriptedProvider() as bank:
        nobody.bind(("127.0.0.1", 0))  # and never listens
        where = {"kind": "http", "allow_internal": True}
        operations = {name: _operation(name) for name in PATHS}
        operations["order"] |= {"path": "/orders/{order_id}", "query": ["currency"]}
        ways = {name: operations[name] for name in ("once", "each")}
        config: dict[str, Any] = {
            **bank.behind(),
            "workers": WORKERS,
            "tools": {
                "bank": where | {"base_url": f"{bank.url}/bank", "operations": operations},
                "shut": where | {"base_url": f"http://127.0.0.1:{nobody.getsockname()[1]}", "operations": ways},
            },
            "agents": [
                {"id": "procurement", "issuer": "dev", "subject": AGENT},
                {"id": "auditor", "issuer": "dev", "subject": AUDITOR},
            ],
            "attesters": [
                {"name": name, "keys": {"file": f"{name}.json"}, "may_attest": [step]}
                for name, step in MAY_ATTEST.items()
            ],
            **changes,
        }
        says: dict[str, Script] = dict.fromkeys(PATHS, PAID)
        says |= {"late": [Do.HANG], "late-each": [Do.HANG], "check": [answer(b'{"verdict": "pass"}', _JSON)]}
        for name, script in says.items():
            bank.says(f"/bank/{name}", script)
        with Gateway(folder, config, {"till.yaml": RULES}) as gateway:
            yield Till(gateway, bank, attesters=attesters)
