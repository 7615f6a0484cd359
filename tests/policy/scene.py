"""What tests of decisions share: policies from a few lines, a caller, a call, attestations, and the moment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.core.attestation import Attestation, Scalar
from gateway.core.call import Call
from gateway.core.decision import Decision
from gateway.core.principal import Agent, Principal
from gateway.policy import Facts, Known, PolicySet, RunView, Situation, load
from gateway.policy.settings import PoliciesSettings
from gateway.settings.complaints import Complaints

NOW = 1_800_000_000.0
MICRO = 1_000_000
AGENT = Agent("procurement", "payments@acme.example", "finance", "CC-1", "bounded", (("env", "prod"),))
CALLER = Principal(AGENT, "dev", "https://issuer.example", "spiffe://acme/procurement", "bearer", "k", "t", NOW + 60)
RUN = RunView("r1", "url", 3, 1_500_000_000, 4000)
ORDER: dict[str, Scalar] = {"order_id": "A1", "amount": 100, "currency": "EUR"}


class OneFile:
    """Sources that hold one policy file in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, path: Path) -> bytes:  # noqa: ARG002 -- there is but one
        """The file."""
        return self._data

    def listdir(self, path: Path, wanted: object) -> list[Path]:  # noqa: ARG002 -- it is wanted
        """The one file."""
        return [path / "p.yaml"]

    def environment(self, name: str) -> str | None:  # noqa: ARG002 -- nothing is set
        """Nothing."""
        return None


def document(rules: str, more: str = "") -> str:
    """A policy `p` with these rules, each a flow mapping on a line of its own."""
    lines = "".join(f"  - {line.strip()}\n" for line in rules.strip().splitlines())
    return f"version: 1\npolicy: p\n{more}rules:\n{lines}"


def policies(rules: str, more: str = "", *, mode: str = "enforce", known: Known | None = None) -> PolicySet:
    """The set of `document`, which must load without a mistake."""
    return read(document(rules, more), mode=mode, known=known)


def read(text: str, *, mode: str = "enforce", known: Known | None = None) -> PolicySet:
    """The set of one file, which must load without a mistake."""
    complaints = Complaints()
    settings = PoliciesSettings(dir=Path("policies"), mode="shadow" if mode == "shadow" else "enforce")
    loaded = load(settings, OneFile(text.encode()), known or Known(), complaints)
    assert complaints.found == []
    return loaded


def call(args: Mapping[str, object] | None = None, **changes: Any) -> Call:  # noqa: ANN401 -- fields of a call
    """A tool call, payments.charge of order A1, but for what is given; with a `model` an LLM call."""
    given: dict[str, Any] = {"kind": "tool", "dialect": "http", "operation": "charge", "method": "POST"}
    given |= {"tool": "payments.charge", "repeat": "never"}
    if "model" in changes:
        given |= {"kind": "llm", "dialect": "openai", "operation": "chat", "tool": "", "repeat": "safe"}
    return Call(args=ORDER if args is None else args, **(given | changes))


def attested(step: str = "check", /, outcome: str = "passed", **changes: Any) -> Attestation:  # noqa: ANN401 -- as above
    """An observed attestation about order A1, a minute old, but for what is given; `age` is in seconds."""
    age = changes.pop("age", 60.0)
    given: dict[str, Any] = {
        "by": "gateway",
        "id": f"{step}-{outcome}-{age}",
        "subject": dict(ORDER),
        "agent": CALLER.subject,
        "run": RUN.id,
        "at": round((NOW - age) * MICRO),
        "source": "observed",
        "owner": CALLER.owner,
    }
    return Attestation(step=step, outcome=outcome, **(given | changes))


def moment(made: Call | None = None, *attestations: Attestation, **changes: Any) -> Situation:  # noqa: ANN401 -- fields
    """A call in run r1 with what is attested before it, oldest first as it is stored."""
    given: dict[str, Any] = {"principal": CALLER, "call": made or call(), "now": NOW, "run": RUN}
    given["attested"] = attestations
    return Situation(**(given | changes))


def decided(loaded: PolicySet, situation: Situation, provider: str | None = None) -> Decision:
    """The decision, as the pipeline asks for it."""
    matching = loaded.find(Facts.of(situation.principal, situation.call), provider)
    return matching.settled or matching.decide(situation)
