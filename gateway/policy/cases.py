"""The grammar of policy tests: a call as it may come one day, and what is to be decided of it.

Tests stand in the `tests:` of a policy file or in files of their own, `*_test.yaml`. What a test does not say has a
fixed value, so that a test says the same today and in a year.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Final, Literal

from gateway.core.money import nano_usd
from gateway.policy.forms import GrammarVersion
from gateway.settings.types import NON_EMPTY, Misfit, Name, Text, count, duration, shortened
from gateway.settings.yaml import ScalarNode

NOW: Final = 1_767_225_600.0
"""When a call comes that does not say when: 2026-01-01T00:00:00Z."""


class Moment:
    """A point in time."""

    example: Final = 'a time with its offset, such as "2026-11-20T10:00:00Z"'
    hole: Final = 0.0
    _FORM: Final = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)"

    def read(self, scalar: ScalarNode) -> float:
        """Epoch seconds."""
        try:
            if re.fullmatch(self._FORM, scalar.text, re.ASCII):
                return datetime.fromisoformat(scalar.text).timestamp()
        except (ValueError, OverflowError):
            pass
        raise Misfit(f"{shortened(scalar.text)} is not a time", f"write {self.example}")

    def schema(self) -> dict[str, object]:
        """A time string (RFC 3339)."""
        return {"type": "string", "format": "date-time"}


class Usd:
    """An amount of USD without its currency."""

    example: Final = 'an amount of USD, such as "1.50"'
    hole: Final = 0

    def read(self, scalar: ScalarNode) -> int:
        """Nano-USD; the text is what counts, not the nearest float."""
        try:
            return nano_usd(scalar.text)
        except ValueError as error:
            raise Misfit(str(error), f"write {self.example}") from None

    def schema(self) -> dict[str, object]:
        """A string or a number."""
        return {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^\d{1,12}(\.\d{1,9})?$"}]}


Age = Annotated[float, duration("0s")]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFixture:
    """An agent that the registry does not have."""

    id: Name
    """As rules name it."""
    team: Text = ""
    """Its team."""
    category: Literal["", "workflow", "bounded", "open"] = ""
    """Its category."""
    owner: Text = ""
    """Its owner."""
    tags: Mapping[Name, Text] = field(default_factory=dict)
    """Its tags."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipalFixture:
    """Who calls, as far as the agent's entry does not say it."""

    issuer: Text = ""
    """The name of the issuer of its token; without it the agent's own."""
    subject: Text = ""
    """Its subject there; without it the agent's own."""
    assurance: Literal["key", "bearer", "bound", "mtls"] = "bearer"
    """How well its identity is proven."""
    on_behalf_of: Text = ""
    """The user that it acts for."""
    depth: Annotated[int, count("0", "100")] = 0
    """How many agents delegated to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFixture:
    """The run that the call belongs to."""

    id: Text
    """Its name."""
    source: Literal["claim", "url", "header", "client-header"] = "claim"
    """Who said so."""
    step: Annotated[int, count()] = 1
    """The number of this call in it."""
    spend_usd: Annotated[int, Usd()] = 0
    """What it has cost so far."""
    tokens: Annotated[int, count()] = 0
    """How many tokens it has used so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationFixture:
    """What was attested before the call, validly signed or observed."""

    step: Text
    """What was done."""
    outcome: Literal["passed", "failed", "error", "skipped"] = "passed"
    """How it ended."""
    by: Text = "gateway"
    """Who attests it; `gateway` for what the gateway observed."""
    age: Age = 0.0
    """How long before the call."""
    lifetime: Age | None = None
    """How long after that it expires."""
    subject: Mapping[str, object] = field(default_factory=dict)
    """About what: strings, integers, booleans."""
    run: Text = ""
    """In which run; without it that of the call."""
    agent: Text = ""
    """For whom; without it the agent that calls."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """A subject is flat and exact."""
        for name, value in self.subject.items():
            if type(value) not in {str, int, bool}:
                problem = "is neither a string nor an integer nor a boolean, so that nothing can be attested about it"
                yield f"subject.{name}", problem, "write amounts in minor units, or as decimal text in quotes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A call, and all that is known when it is decided."""

    now: Annotated[float, Moment()] = NOW
    """When it comes."""
    agent: Name | AgentFixture
    """Who calls: an id of the registry, or an agent of the test's own."""
    principal: PrincipalFixture = field(default_factory=PrincipalFixture)
    """How it calls."""
    tool: Text = ""
    """The tool that is called, `server.operation`."""
    model: Text = ""
    """The model that is asked for."""
    kind: Literal["", "llm", "tool", "mcp", "own"] = ""
    """What is called; follows from `tool` or `model`, but for `mcp` and `own`."""
    dialect: Literal["", "openai", "anthropic", "gemini", "http", "mcp", "own"] = ""
    """The shape of the API; follows from `kind`, `openai` for models."""
    provider: Text = ""
    """Who would serve a model; without it rules that name providers grant nothing."""
    method: Literal["", "GET", "POST", "PUT", "PATCH", "DELETE"] = ""
    """The HTTP method; without it the operation's own, or POST."""
    repeat: Literal["", "safe", "with_key", "after_check", "never"] = ""
    """What repeating the call does; without it as the operation says."""
    stream: bool = False
    """Whether the answer is to be a stream."""
    hosted_tools: tuple[Text, ...] = ()
    """Tools that the provider would run itself."""
    region: Text = ""
    """Where the data would go; without it as the tool or the provider says."""
    args: Mapping[str, object] = field(default_factory=dict)
    """The arguments."""
    run: RunFixture | None = None
    """The run that it belongs to."""
    attestations: tuple[AttestationFixture, ...] = ()
    """What was attested before."""
    held: Age | None = None
    """How long ago the call was held for an approval that has come since; without it nobody approved it."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """A call is of one thing, and an attestation is of a run."""
        if self.tool and self.model:
            yield "tool", "no call has both a model and a tool", "remove one of them"
        elif not self.tool and not self.model and self.kind != "own":
            yield "", "nothing is called", "name a `tool` or a `model`, or write kind: own"
        elif self.tool and self.kind not in {"", "tool", "mcp"}:
            yield "kind", f"no call of kind {self.kind} has a tool", "remove it"
        elif self.model and self.kind not in {"", "llm"}:
            yield "kind", f"no call of kind {self.kind} has a model", "remove it"
        for number, one in enumerate(self.attestations):
            if self.run is None and not one.run:
                yield f"attestations.{number}", "the call has no run, so it is of none either", "add run: {id: r1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTest:
    """One test."""

    name: Text
    """What it shows."""
    given: Given
    """The call."""
    expect: Literal["allow", "deny", "hold"]
    """What is to be decided."""
    code: Text = ""
    """The refusal's code."""
    rule: Text = ""
    """A rule that is to decide it: POLICY/RULE, or RULE alone."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """A code is one that can be, of a call that is not allowed."""
        if self.code and self.expect == "allow":
            yield "code", "a call that is allowed has no code", "remove it"
        elif self.code and self.code not in _DENIALS:
            yield "code", f"no policy refuses with {shortened(self.code)}", f"write {' or '.join(_DENIALS)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTests:
    """A file of tests."""

    version: Annotated[int, GrammarVersion()]
    """The version of this grammar."""
    tests: Annotated[tuple[PolicyTest, ...], NON_EMPTY]
    """In any order."""


_DENIALS: Final = ("policy_denied", "attestation_required", "approval_required", "hosted_tool_refused")
