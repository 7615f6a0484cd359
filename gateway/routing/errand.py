"""What it takes to carry one call to its targets and back: the same few questions for a model and for a tool.

The pipeline knows the order of things; an errand knows what to send where, what an answer means and
what it costs. `LlmErrand` asks the provider and the dialect, `ToolErrand` the tool's operation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from msgspec import Struct

from gateway.core.call import Call, Head, Target
from gateway.core.credential import Injected
from gateway.core.decision import Obligations
from gateway.core.fault import Fault
from gateway.core.usage import NOTHING, Usage
from gateway.dialects import Dialect, OutputCap, StreamReader
from gateway.metering.estimate import estimate
from gateway.metering.prices import PriceBook, net_cost
from gateway.metering.usage import UsageError, normalise
from gateway.outbound import Timeouts, Upstream
from gateway.providers import Provider, Providers
from gateway.routing.router import Route
from gateway.tools import Match, tool_answer_headers, tool_judge, tool_request

_MAX_LLM_ANSWER: Final = 64 * 1024 * 1024


class Dispatch(Struct, frozen=True):
    """One attempt, ready to be sent."""

    upstream: Upstream
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    timeouts: Timeouts
    max_answer: int  # bytes
    credential: Injected | None
    drain: bool  # read on when the agent hangs up, also outside a run
    notes: list[tuple[str, str]]  # answer headers that tell what was changed
    reader: StreamReader | None = None  # for an answer that may come as a stream


class Charge(Struct, frozen=True):
    """What an answer came to: amounts in nano-USD, `cost` after the provider's discount.

    An empty `price_version` says that no price is known. `alarm` says why the provider's usage could
    not be believed, `unknown_fields` what of it was not understood.
    """

    usage: Usage = NOTHING
    served_model: str = ""
    price_version: str = ""
    cost: int = 0
    list_cost: int = 0
    unknown_fields: tuple[str, ...] = ()
    alarm: str = ""


FREE: Final = Charge(price_version="free")
"""An attempt that the upstream itself refused: it costs nothing."""


@dataclass(frozen=True, slots=True)
class Pricing:
    """The price book, and for each provider its name in the book and its discount in billionths."""

    book: PriceBook
    terms: Mapping[str, tuple[str, int]]

    def charge(self, provider: str, models: tuple[str, ...], usage: Usage, at: float) -> tuple[str, int, int]:
        """(price version, net cost, list cost) by the first of `models` that has a price; ("", 0, 0) if none has."""
        name, discount = self.terms[provider]
        for model in models:
            rate = self.book.rate(provider, name, model, at) if model else None
            if rate is not None:
                listed = rate.cost(usage)
                return rate.version, net_cost(listed, discount), listed
        return "", 0, 0


class Errand(Protocol):
    """A call with all that is known of how to carry it."""

    targets: tuple[Target, ...]
    label: str  # the route's or the tool's name as configured, for metrics
    effect: bool  # it may have effects, so it is never sent twice
    refused_tools: tuple[str, ...]  # hosted tools that it asks for and its route does not let the provider run

    def region(self, target: Target) -> str:
        """Where a target keeps or processes data, as the config says."""
        ...

    def oblige(self, obligations: Obligations) -> None:
        """Keep from now on what policy demands of the call."""
        ...

    def dispatch(self, target: Target, traceparent: str) -> Dispatch:
        """What to send to a target."""
        ...

    def judge(self, target: Target, status: int, retry_after: str | None, body: bytes) -> Fault | None:
        """What an answer's status means; `None` passes as it came."""
        ...

    def answer_headers(self, target: Target, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """The answer's headers that the agent gets."""
        ...

    def read_usage(self, body: bytes) -> tuple[object, str, bool]:
        """The raw usage (`None` without), the served model, and whether it reports an error: of a whole 2xx answer."""
        ...

    def charge(self, target: Target, usage: object, served_model: str, answered: int, at: float) -> Charge:
        """What a 2xx answer of `answered` bytes costs; without usage it is estimated and says so."""
        ...


class LlmErrand:
    """A call to a model."""

    effect = False

    def __init__(
        self,
        call: Call,
        head: Head,
        route: Route,
        targets: tuple[Target, ...],
        dialect: Dialect,
        providers: Providers,
        pricing: Pricing,
    ) -> None:
        """`targets` are those of the route that are switched on, in order."""
        self.targets = targets
        self.label = route.name
        self.refused_tools = tuple(name for name in call.hosted_tools if name not in route.hosted_tools)
        self._call = call
        self._head = head
        self._cap = route.cap
        self._dialect = dialect
        self._providers = providers
        self._pricing = pricing

    def region(self, target: Target) -> str:
        """See `Errand`."""
        return self._provider(target).region

    def oblige(self, obligations: Obligations) -> None:
        """See `Errand`: the output cap is the route's or the rules', whichever is lower."""
        most = obligations.output_tokens
        if most is not None:
            self._cap = self._cap.lowered(most) if self._cap is not None else OutputCap(most, most)

    def dispatch(self, target: Target, traceparent: str) -> Dispatch:
        """See `Errand`."""
        provider, call = self._provider(target), self._call
        prepared = self._dialect.prepare(call, target.model, self._cap)
        notes = [("gateway-model", target.model)]
        if prepared.cap_note:
            notes.append(("gateway-output-cap", prepared.cap_note))
        return Dispatch(
            provider.upstream,
            call.method,
            provider.path(call.dialect, call.operation, self._head.query),
            provider.request_headers(
                self._head, call.dialect, content_type="application/json", traceparent=traceparent
            ),
            prepared.body,
            provider.upstream.timeouts,
            _MAX_LLM_ANSWER,
            provider.credentials.get(call.dialect),
            provider.on_disconnect == "drain",
            notes,
            self._dialect.stream(prepared.drop_usage_frame) if call.stream else None,
        )

    def judge(self, target: Target, status: int, retry_after: str | None, body: bytes) -> Fault | None:
        """See `Errand`."""
        return self._provider(target).judge(status, retry_after, body, self._call.dialect)

    def answer_headers(self, target: Target, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """See `Errand`."""
        return self._provider(target).answer_headers(headers, self._call.dialect)

    def read_usage(self, body: bytes) -> tuple[object, str, bool]:
        """See `Errand`."""
        tally = self._dialect.answer(body)
        return tally.usage, tally.served_model, tally.failed

    def charge(self, target: Target, usage: object, served_model: str, answered: int, at: float) -> Charge:
        """See `Errand`."""
        alarm = ""
        counted: Usage | None = None
        unknown: tuple[str, ...] = ()
        try:
            counted, unknown = normalise(usage)
        except UsageError as error:
            alarm = str(error)
        if counted is None:
            counted = estimate(len(self._call.body), answered)
        version, cost, listed = self._pricing.charge(target.provider, (target.model, served_model), counted, at)
        return Charge(counted, served_model, version, cost, listed, unknown, alarm)

    def _provider(self, target: Target) -> Provider:
        return self._providers.get(target.provider)


class ToolErrand:
    """A call to an operation of a tool; it has one target, and no other can stand in."""

    refused_tools: tuple[str, ...] = ()

    def __init__(self, call: Call, head: Head, match: Match) -> None:
        """`match` is what the tools found for the address."""
        self.targets: tuple[Target, ...] = (Target(match.operation.upstream.name),)
        self.label = call.tool
        self.effect = call.repeat != "safe"
        self._call = call
        self._head = head
        self._match = match

    def region(self, target: Target) -> str:  # noqa: ARG002 - there is only one
        """See `Errand`."""
        return self._match.operation.region

    def oblige(self, obligations: Obligations) -> None:
        """See `Errand`: what rules can demand concerns models alone."""

    def dispatch(self, target: Target, traceparent: str) -> Dispatch:  # noqa: ARG002 - there is only one
        """See `Errand`."""
        operation = self._match.operation
        outgoing = tool_request(self._match, self._call, self._head, traceparent=traceparent)
        return Dispatch(
            operation.upstream,
            outgoing.method,
            outgoing.path,
            outgoing.headers,
            outgoing.body,
            operation.timeouts,
            operation.max_answer,
            operation.credential,
            drain=True,  # an effect under way is never cut off
            notes=[],
        )

    def judge(self, target: Target, status: int, retry_after: str | None, body: bytes) -> Fault | None:  # noqa: ARG002
        """See `Errand`."""
        return tool_judge(self._match.operation, status, retry_after, body)

    def answer_headers(self, target: Target, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:  # noqa: ARG002
        """See `Errand`."""
        return tool_answer_headers(headers)

    def read_usage(self, body: bytes) -> tuple[object, str, bool]:  # noqa: ARG002 - tools use no tokens
        """See `Errand`."""
        return None, "", False

    def charge(self, target: Target, usage: object, served_model: str, answered: int, at: float) -> Charge:  # noqa: ARG002
        """See `Errand`: an operation costs what the configuration says, nothing where it says nothing."""
        cost = self._match.operation.cost
        return Charge(price_version="config", cost=cost, list_cost=cost) if cost else FREE
