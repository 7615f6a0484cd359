"""One configuration, built: everything that a call needs of it, and how stage 2 reads a request with it.

A reload builds a new world beside the present one; calls that have begun keep theirs, and the old one
closes its connections when the last of them is done.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from gateway.attestations import Attesters
from gateway.core.call import Address, Call, Exchange, Head
from gateway.core.clock import Clock
from gateway.core.decision import Decision
from gateway.core.principal import Agent, Principal
from gateway.dialects import DIALECTS, JsonLimits, json_body
from gateway.dialects.addresses import missing
from gateway.identity import Identity, may_reach
from gateway.identity.discovery import authorization_server
from gateway.outbound import Outbound
from gateway.policy import Facts, PolicySet
from gateway.providers import Providers
from gateway.routing import Errand, LlmErrand, Pricing, Router, ToolErrand
from gateway.runs.settings import RunsSettings
from gateway.telemetry.redact import Redactor
from gateway.telemetry.trail import Trail
from gateway.tools import Tools, tool_read

_LARGE_BODY: Final = 256 * 1024
_SAME_REFUSAL: Final = 60.0
_REMEMBERED: Final = 10_000
_IDLE_CHECK: Final = 0.5


@dataclass(slots=True, kw_only=True)
class World:
    """The parts of one configuration; shared by all calls that began under it."""

    identity: Identity
    attesters: Attesters
    policy: PolicySet
    router: Router
    providers: Providers
    tools: Tools
    pricing: Pricing
    outbound: Outbound
    runs: RunsSettings
    json_limits: JsonLimits
    concurrency: int
    access_log: bool
    resource: str  # this gateway as an OAuth protected resource (RFC 9728)
    documents: Mapping[str, bytes]  # what anybody may read, by operation
    public_url: str | None  # how agents reach it, where the configuration says so
    scheme: str  # http | https: how its own listener is spoken to
    clock: Clock
    redact: Redactor
    calls: int = 0  # under way
    _refused: dict[tuple[object, ...], tuple[str, float]] = field(default_factory=dict)

    async def read(self, exchange: Exchange, address: Address) -> tuple[Call, Errand | None]:
        """2: what is asked. An own address has no errand; an unknown one is refused here, after identification."""
        head, operation = exchange.head, address.operation
        dialect = DIALECTS.get(operation)
        if dialect is not None:
            body = await self._body(exchange)
            call = dialect.read(body, self.json_limits, checked=len(body) > _LARGE_BODY)
            route = self.router.route(call.model)
            targets = self.router.plan(route, call.model)
            return call, LlmErrand(call, head, route, targets, dialect, self.providers, self.pricing)
        if operation == "tool":
            match = self.tools.find(address.variables["tool"], head.method, address.variables["path"])
            call = tool_read(match, head, await self._body(exchange), self.json_limits)
            return call, ToolErrand(call, head, match)
        if not operation:
            raise missing(address, self.origin(head))
        return Call("own", address.dialect, operation, head.method), None

    def origin(self, head: Head) -> str:
        """How the caller reaches the gateway: its public URL, else the `Host` that the door has let in."""
        return self.public_url or f"{self.scheme}://{head.headers.get('host')}"

    async def _body(self, exchange: Exchange) -> bytes:
        """The body; the structure of a large one is counted in windows, between which others run."""
        body = await exchange.body()
        if len(body) > _LARGE_BODY:
            for _ in json_body.windows(body, self.json_limits):
                await asyncio.sleep(0)
        return body

    def run_required(self, agent: Agent, call: Call) -> bool:
        """Whether `runs.required` wants this call to name a run."""
        required = self.runs.required
        if isinstance(required, str):
            return required == "always" or (required == "tools" and call.kind == "tool")
        return agent.category in required

    def decision_id(self, trail: Trail, decision: Decision, facts: Facts, call: Call, approval: str = "") -> str:
        """The decision of this request; a refusal of the same call that repeats within a minute keeps its first id.

        A call that is held, and not carried out, is refused as well; `approval` is the one that it is held for.
        """
        if decision.effect != "allow":
            known = self._refused.get(_same_refusal(trail, decision, facts, call, approval))
            if known is not None and known[1] > self.clock.monotonic():
                return known[0]
        return "dec_" + trail.request_id.removeprefix("req_")

    def remember_refusal(self, trail: Trail, decision: Decision, facts: Facts, call: Call, approval: str = "") -> None:
        """The decision is in the log: who repeats a call that it refused is told of it, for a minute from the first."""
        if decision.effect != "allow" and trail.decision_id[4:] == trail.request_id[4:]:
            if len(self._refused) >= _REMEMBERED:
                self._refused.clear()
            until = self.clock.monotonic() + _SAME_REFUSAL
            self._refused[_same_refusal(trail, decision, facts, call, approval)] = trail.decision_id, until

    def models_for(self, principal: Principal, address: Address) -> Mapping[str, object]:
        """The models that this agent may use, as OpenAI lists them; or one of them, `model_unknown` for any other."""
        if address.operation == "models":
            names = [name for name in self.router.models if self._may_use(principal, name)]
            return {"object": "list", "data": [_model(name) for name in names]}
        wanted = address.variables["id"]
        route = self.router.route(wanted)
        if self._may_use(principal, wanted):
            self.router.plan(route, wanted)  # refuses, with the reason, what is switched off
            return _model(wanted)
        raise self.router.unknown(wanted)

    def _may_use(self, principal: Principal, model: str) -> bool:
        if not may_reach(principal, model):
            return False
        facts = Facts.of(principal, Call("llm", "openai", "chat", "POST", model=model))
        if not self.policy.per_target:
            return self.policy.decide(facts).allowed
        targets = self.router.plan(self.router.route(model), model)
        return any(self.policy.decide(facts, target.provider).allowed for target in targets)

    def public(self, head: Head, address: Address) -> tuple[int, list[tuple[str, str]], bytes]:
        """What anonymous callers may read."""
        if address.operation == "prefix":
            return 204, [], b""
        headers = [("content-type", "application/json"), ("cache-control", "public, max-age=60")]
        if address.operation == "jwks":
            return 200, headers, self.identity.own_jwks
        if address.operation == "authorization_server":
            return 200, headers, msgspec.json.encode(authorization_server(self.resource, self.origin(head)))
        return 200, headers, self.documents[address.operation]

    def describe(self, error: BaseException) -> str:
        """Our own mistake, for the log: its place and words without secrets."""
        return self.redact("".join(traceback.format_exception(error, limit=-6)))

    async def close_when_idle(self) -> None:
        """Close the connections, and let the rules go, once no call is left that began here."""
        while self.calls:  # noqa: ASYNC110 - an event would cost every call, this costs a reload
            await asyncio.sleep(_IDLE_CHECK)
        await self.outbound.close()
        for _ in self.policy.let_go():
            await asyncio.sleep(0)


def _same_refusal(trail: Trail, decision: Decision, facts: Facts, call: Call, approval: str) -> tuple[object, ...]:
    """What two refusals have in common that are told as one."""
    head, run = trail.head, trail.run.key if trail.run is not None else None
    caller = trail.principal
    who = (caller.owner, caller.on_behalf_of, caller.chain) if caller is not None else None
    reasons = tuple((reason.rule, reason.clause, reason.code) for reason in decision.reasons)
    asked = hash((who, run, facts, head.method, head.path, head.query, call.body))
    return asked, decision.policy_hash, decision.effect, decision.code, reasons, approval


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "passgate"}
