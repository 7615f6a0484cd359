"""The bank of the till behind rules that ask people: who they are, what they decide, and what an agent is told.

Of its ways to be paid `large` needs a person, and `order` does too; `pay` a check beside, and `each` uses that check
up. `once` uses the same check up and asks nobody; `late` needs a person and the bank says nothing in time. A model
whose name begins with `scripted-held-` needs one as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from tests.attacks.stage import AUDITOR
from tests.attacks.till import Order, Till, open_till
from tests.simulator.attester import AGENT
from tests.simulator.gateway import Reply
from tests.simulator.webhook import Receiver

USER: Final = "user/anna"
CHIEF: Final = "user/chief"
CLERK: Final = "user/clerk"
RULES: Final = """version: 1
policy: desk
rules:
  - {id: models, effect: allow, match: {models: ["*"]}}
  - {id: tools, effect: allow, match: {tools: ["bank.*", "shut.*"]}}
  - id: large
    effect: require
    match: {tools: [bank.large, bank.order, bank.late]}
    approve: &FINANCE
  - id: thinking
    effect: require
    match: {models: ["scripted-held-*"]}
    approve: &FINANCE
  - id: pay
    effect: require
    match: {tools: [bank.pay]}
    requires: [{attestation: {step: fraud-check, max_age: 15m, &BOUND}}]
    approve: &FINANCE
  - id: each
    effect: require
    match: {tools: [bank.each]}
    requires: [{attestation: {step: fraud-check, consume: once, &BOUND}}]
    approve: &FINANCE
  - id: once
    effect: require
    match: {tools: [bank.once]}
    requires: [{attestation: {step: fraud-check, consume: once, &BOUND}}]
""".replace("&FINANCE", '{approvers: ["group:finance"], expires: 30m}').replace(
    "&BOUND", "bind: {order_id: args.order_id, amount: args.amount, currency: args.currency}"
)
ROOT: Final = "root"
"""The operator of whom nothing is asked: it starts, stops and reloads."""
_OPERATORS: Final[Mapping[str, Mapping[str, Any]]] = {
    ROOT: {"roles": ["operator"]},
    "desk": {"roles": ["approver"], "groups": ["finance"]},
    "lawyer": {"roles": ["approver"], "groups": ["legal"]},
    "reader": {"roles": ["viewer"], "groups": ["finance"]},
    "boss": {"roles": ["operator"], "groups": ["finance"]},  # the owner of `procurement`
    "procurement": {"roles": ["approver"], "groups": ["finance"]},  # is called as the agent is
    "clerk": {"roles": ["approver"], "groups": ["finance"], "issuer": "dev", "subject": CLERK},
    "counsel": {"roles": ["approver"], "groups": ["legal"], "issuer": "dev", "subject": "user/counsel"},
    "chief": {"roles": ["operator"], "groups": ["finance"], "issuer": "dev", "subject": CHIEF},  # owns `auditor`
    "anna": {"roles": ["approver"], "groups": ["finance"], "issuer": "dev", "subject": USER},
}


def secret(name: str) -> str:
    """The token of an operator who has one of his own."""
    return f"{name}-token-" + "x" * 40
