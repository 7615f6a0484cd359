"""The guarded payment of the contract, for whoever tests around it: rules, tools and an operator who may approve."""

from __future__ import annotations

import hashlib
from typing import Any

OPERATOR = "an-operator-token-of-forty-three-characters-or-so"
"""The token of the operator `treasury-desk`, who is in the group finance."""

PAYMENTS = """version: 1
policy: procurement-payments
rules:
  - {id: models, effect: allow, match: {models: ["*"]}}
  - id: procurement-may-pay
    effect: allow
    match: {agents: [procurement], tools: [payments.charge, fraud.check]}
  - id: fraud-check-before-payment
    effect: require
    match: {tools: [payments.charge]}
    requires:
      - attestation: {step: fraud-check, outcome: passed, max_age: 15m, consume: per_subject,
                      bind: {order_id: args.order_id, amount: args.amount, currency: args.currency}}
    when: 'args.currency == "EUR" && args.amount <= 1000000'
    approve: {when: 'args.amount > 250000', approvers: ["group:finance"], expires: 30m}
    message: Run fraud.check for this order first, then retry.
observe:
  - step: fraud-check
    tool: fraud.check
    outcome: 'result.verdict == "pass" ? "passed" : "failed"'
    subject: {order_id: args.order_id, amount: args.amount, currency: args.currency}
"""

CONFIG: dict[str, Any] = {
    "tools": {
        "fraud": {
            "kind": "http",
            "base_url": "builtin:demo",
            "operations": {"check": {"method": "POST", "path": "/check", "repeat": "safe"}},
        },
        "payments": {
            "kind": "http",
            "base_url": "builtin:demo",
            "operations": {"charge": {"method": "POST", "path": "/charge", "repeat": "never"}},
        },
    },
    "operators": [
        {
            "id": "treasury-desk",
            "token_sha256": hashlib.sha256(OPERATOR.encode()).hexdigest(),
            "roles": ["operator"],
            "groups": ["finance"],
        }
    ],
}
