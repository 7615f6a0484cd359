"""Observing: what the gateway may attest from an answer that it saw itself.

1. The outcome is one of the four words; whatever else the expression gives, an error included, is `error`.
2. A subject holds strings, integers and booleans as they stand in arguments and answer; a float is not one. A name
   without such a value is left out, and then the outcome is `error`.
3. Where the answer itself names something of the subject with another value, the outcome is `error`: the tool spoke
   of something else than was asked.

What it refuses to know: whether the answer is complete and was asked for in this very call. Its caller does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.attestation import OUTCOMES, Scalar
from gateway.policy.cel import CelError, Program

LONGEST: Final = 1024
"""Characters of a text in a subject."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One `observe` entry of a policy; `subject` pairs names with expressions over `args` and `result`."""

    step: str
    tool: str
    outcome: Program
    subject: tuple[tuple[str, Program], ...]

    def attest(self, args: Mapping[str, object], result: object) -> tuple[str, dict[str, Scalar]] | None:
        """The outcome (one of `OUTCOMES`) and the subject of a call and its answer, both as parsed JSON.

        `None` where a subject is to be named and no part of it can be read: then nothing is attested.
        """
        facts = {"args": args, "result": result}
        subject: dict[str, Scalar] = {}
        for name, program in self.subject:
            value = _evaluated(program, facts)
            if type(value) is int or type(value) is bool or (type(value) is str and len(value) <= LONGEST):
                subject[name] = value
        if self.subject and not subject:
            return None
        outcome = _evaluated(self.outcome, facts)
        if len(subject) < len(self.subject) or not isinstance(outcome, str) or outcome not in OUTCOMES:
            return "error", subject
        if isinstance(result, Mapping) and any(_differs(result, name, value) for name, value in subject.items()):
            return "error", subject
        return outcome, subject


def _evaluated(program: Program, facts: Mapping[str, object]) -> object:
    try:
        return program.evaluate(facts)
    except CelError:
        return None


def _differs(result: Mapping[str, object], name: str, value: Scalar) -> bool:
    """Whether an answer repeats a name of the subject with another value."""
    if name not in result:
        return False
    return type(result[name]) is not type(value) or result[name] != value
