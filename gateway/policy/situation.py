"""What is so when a call is decided, and the facts of it that conditions may read.

1. `FACTS` is the one table of them: the types that conditions are checked against at load, and the page about them,
   come from it.
2. A fact is made when a condition reads it, and not before: what no rule reads costs nothing, whatever its size.
3. A fact that has no value is missing, not empty, where an empty one could be taken for an answer: what reads it
   errs, and an error never lets a call go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from gateway.core.attestation import Attestation, Scalar
from gateway.core.call import Call
from gateway.core.money import usd_text
from gateway.core.principal import Principal
from gateway.policy.cel import (
    BOOL,
    DECIMAL,
    DURATION,
    DYN,
    INT,
    STRING,
    TIMESTAMP,
    CelType,
    Decimal,
    Duration,
    Environment,
    Timestamp,
    list_of,
    map_of,
    object_of,
)

_MICRO: Final = 1_000_000


class RunView(NamedTuple):
    """The run of a call, as rules see it."""

    id: str
    source: str  # claim | url | header | client-header
    step: int  # the number of this call in it
    spend_nano_usd: int
    tokens: int
    owner: tuple[str, str] | None = None  # whose run it is, where it is not the caller's own


class Discounted(NamedTuple):
    """Something presented or stored as an attestation that does not count."""

    code: str  # why: a key of `requirements.REASONS`
    step: str  # what it says to attest; empty where even that is unknown
    detail: str
    subject: Mapping[str, Scalar] = MappingProxyType({})  # about what, where that is known


@dataclass(frozen=True, slots=True)
class Situation:
    """A call at the moment of its decision. Times are epoch seconds."""

    principal: Principal
    call: Call
    now: float
    run: RunView | None = None
    region: str = ""  # where the data would go; empty where nobody said so
    attested: tuple[Attestation, ...] = ()  # oldest first; of this run, and what did not pass in others
    discounted: tuple[Discounted, ...] = ()
    held_at: float | None = None  # since when the call has been held for an approval: ages count from then


class Fact(NamedTuple):
    """A fact that conditions may read."""

    path: str
    type: CelType
    says: str
    optional: bool = False  # missing where there is none


_ATTESTATION: Final = {
    "step": STRING, "outcome": STRING, "by": STRING, "subject": map_of(STRING, DYN), "age": DURATION, "at": TIMESTAMP,
}  # fmt: skip

FACTS: Final = (
    Fact("agent.id", STRING, "The agent's id in the registry."),
    Fact("agent.team", STRING, "Its team; empty where it has none."),
    Fact("agent.category", STRING, "`workflow`, `bounded` or `open`; empty where nobody said so."),
    Fact("agent.owner", STRING, "Who answers for it."),
    Fact("agent.tags", map_of(STRING, STRING), "Its tags; a tag that it does not have is missing."),
    Fact("principal.issuer", STRING, "The name, in the config, of the issuer of the agent's token."),
    Fact("principal.subject", STRING, "The agent's subject at that issuer."),
    Fact("principal.assurance", STRING, "How well the identity is proven: `key`, `bearer`, `bound` or `mtls`."),
    Fact("principal.on_behalf_of", STRING, "The user that the agent acts for; empty where it acts for itself."),
    Fact("principal.depth", INT, "How many agents delegated to it, one to the next; 0 for a token of its own issuer."),
    Fact("run.id", STRING, "The run's id.", optional=True),
    Fact("run.source", STRING, "Who named the run: `claim`, `url`, `header` or `client-header`.", optional=True),
    Fact("run.step", INT, "The number of this call in its run, from 1.", optional=True),
    Fact("run.spend_usd", DECIMAL, "What the run has cost before this call, in USD.", optional=True),
    Fact("run.tokens", INT, "How many tokens the run has used before this call.", optional=True),
    Fact("call.kind", STRING, "`llm`, `tool`, `mcp` or `own`."),
    Fact("call.model", STRING, "The model as the agent asks for it; empty for other calls."),
    Fact("call.tool", STRING, "`server.operation`; empty for other calls."),
    Fact("call.method", STRING, "The HTTP method."),
    Fact("call.repeat", STRING, "Whether it may be sent twice: `safe`, `with_key`, `after_check` or `never`."),
    Fact("call.dialect", STRING, "The shape of the API: `openai`, `anthropic`, `gemini`, `http`, `mcp` or `own`."),
    Fact("call.stream", BOOL, "Whether the answer is to be a stream."),
    Fact("call.hosted_tools", list_of(STRING), "Tools that the provider would run itself, such as `web_search`."),
    Fact("call.region", STRING, "Where the data would go, as the config says of the tool or provider; empty: unknown."),
    Fact("args", map_of(STRING, DYN), "A tool's arguments: path, query, JSON body together; for a model the request."),
    Fact("attestations", list_of(object_of("attestation", _ATTESTATION)), "What counts as attested in this run."),
    Fact("now", TIMESTAMP, "The moment of the decision, in UTC."),
)  # fmt: skip


def _environment() -> Environment:
    variables: dict[str, CelType] = {}
    members: dict[str, list[Fact]] = {}
    for fact in FACTS:
        name, dot, _ = fact.path.partition(".")
        if dot:
            members.setdefault(name, []).append(fact)
        else:
            variables[name] = fact.type
    for name, facts in members.items():
        own = {fact.path.partition(".")[2]: fact for fact in facts}
        types = {member: fact.type for member, fact in own.items()}
        variables[name] = object_of(name, types, [member for member, fact in own.items() if fact.optional])
    return Environment(variables)


ENVIRONMENT: Final = _environment()
"""What conditions may name."""


class View:
    """A situation as rules look at it: its facts, and its attestations by step. Times are epoch microseconds."""

    __slots__ = ("_names", "_redact", "_steps", "as_of", "facts", "now", "situation")

    def __init__(self, situation: Situation, redact: Iterable[str] = ()) -> None:
        """`redact`: the paths of facts whose values nobody is told."""
        self.situation = situation
        self._redact = [tuple(path.split(".")) for path in redact]
        self.now = round(situation.now * _MICRO)
        self.as_of = self.now if situation.held_at is None else round(situation.held_at * _MICRO)
        self.facts = Activation(self)
        self._steps: dict[str, list[Attestation]] | None = None
        self._names = (situation.principal.subject, situation.principal.agent.id)

    def of_step(self, step: str) -> list[Attestation]:
        """What is attested of a step, oldest first, whichever run and agent it is of."""
        if self._steps is None:
            self._steps = {}
            for attestation in self.situation.attested:
                self._steps.setdefault(attestation.step, []).append(attestation)
        return self._steps.get(step, [])

    def hides(self, paths: Iterable[tuple[str, ...]]) -> bool:
        """Whether one of these paths leads to, into or past a fact that nobody is told."""
        return any(path[: len(hidden)] == hidden[: len(path)] for path in paths for hidden in self._redact)

    def for_caller(self, attestation: Attestation) -> bool:
        """Whether it is for the agent that calls."""
        return attestation.agent in self._names

    def in_run(self, attestation: Attestation) -> bool:
        """Whether it is of the call's run. What its attester posted names no owner: there the agent tells."""
        run = self.situation.run
        if run is None or attestation.run != run.id:
            return False
        if attestation.owner is None:
            return self.for_caller(attestation)
        return attestation.owner == (run.owner or self.situation.principal.owner)


class Activation(dict[str, object]):
    """The facts by name, each made when it is first asked for."""

    __slots__ = ("_view",)

    def __init__(self, view: View) -> None:
        super().__init__()
        self._view = view

    def __missing__(self, name: str) -> object:
        made = self[name] = _MAKERS[name](self._view)
        return made


def _agent(view: View) -> object:
    agent = view.situation.principal.agent
    return {
        "id": agent.id, "team": agent.team, "category": agent.category, "owner": agent.owner, "tags": dict(agent.tags),
    }  # fmt: skip


def _principal(view: View) -> object:
    caller = view.situation.principal
    return {
        "issuer": caller.vouched_by,
        "subject": caller.subject,
        "assurance": caller.assurance,
        "on_behalf_of": caller.on_behalf_of,
        "depth": caller.depth,
    }


def _run(view: View) -> object:
    run = view.situation.run
    if run is None:
        return {}
    spend = Decimal(usd_text(run.spend_nano_usd))
    return {"id": run.id, "source": run.source, "step": run.step, "spend_usd": spend, "tokens": run.tokens}


def _call(view: View) -> object:
    call = view.situation.call
    return {
        "kind": call.kind,
        "model": call.model,
        "tool": call.tool,
        "method": call.method,
        "repeat": call.repeat,
        "dialect": call.dialect,
        "stream": call.stream,
        "hosted_tools": list(call.hosted_tools),
        "region": view.situation.region,
    }


def _args(view: View) -> object:
    return view.situation.call.args


def _attestations(view: View) -> object:
    return [
        {
            "step": one.step,
            "outcome": one.outcome,
            "by": one.by,
            "subject": one.subject,
            "age": Duration((view.as_of - one.at) * 1000),
            "at": Timestamp(one.at * 1000),
        }
        for one in view.situation.attested
        if view.in_run(one) and view.for_caller(one)
    ]


def _now(view: View) -> object:
    return Timestamp.at(view.situation.now)


_MAKERS: Final[Mapping[str, Callable[[View], object]]] = {
    "agent": _agent,
    "principal": _principal,
    "run": _run,
    "call": _call,
    "args": _args,
    "attestations": _attestations,
    "now": _now,
}


def facts_reference() -> str:
    """The facts as a table in Markdown."""
    lines = ["| fact | type | |", "|---|---|---|"]
    for fact in FACTS:
        says = fact.says + (" Missing outside a run." if fact.optional else "")
        lines.append(f"| `{fact.path}` | {_type_words(fact.type)} | {says} |")
    return "\n".join(lines) + "\n"


def _type_words(of: CelType) -> str:
    if of.name == "list" and of.parameters[0].members:
        members = ", ".join(f"{name} {_type_words(kind)}" for name, kind in of.parameters[0].members.items())
        return f"list of {{{members}}}"
    return str(of).removeprefix("google.protobuf.").lower() if of.name.startswith("google") else str(of)
