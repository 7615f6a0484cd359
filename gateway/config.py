"""The configuration: the settings of all parts, read from one file, with all its mistakes at once.

`load` reads, binds and cross-checks. What a part can only see by building (keys, policies, prices) is
checked by `build`, which everything that serves or checks calls next.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from gateway import providers, tools
from gateway.approvals.settings import WebhooksSettings
from gateway.attestations.settings import AttesterSettings
from gateway.core.sources import Sources
from gateway.identity.settings import SPIFFE_KINDS, AgentSettings, IdentitySettings
from gateway.identity.spiffe import spiffe_id
from gateway.metering.settings import PricedModel, PriceSettings
from gateway.outbound.destination import is_localhost, literal
from gateway.outbound.settings import OutboundSettings, TimeoutSettings
from gateway.policy.settings import PoliciesSettings
from gateway.providers.settings import ProviderSettings
from gateway.routing.settings import ModelPattern, ModelSettings
from gateway.runs.settings import RunsSettings
from gateway.settings import Binder, Complaint, Complaints, document, path_text, schema
from gateway.settings.binder import Steps
from gateway.settings.types import (
    BUILTIN_DEMO,
    FROM_DIRECTORY,
    Name,
    Network,
    NetworkRange,
    count,
    duration,
)
from gateway.state.settings import StateSettings
from gateway.telemetry.settings import LogSettings, TelemetrySettings
from gateway.tools.settings import ToolName, ToolSettings
from gateway.web.settings import LimitsSettings, ListenSettings, OperatorSettings, operator_mistakes


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The configuration of Passgate. Relative paths are relative to the file."""

    NOT_BUILT: ClassVar[Mapping[str, str]] = {
        "budgets": "budgets are not built yet",
        "cache": "the cache is not built yet",
    }

    listen: ListenSettings = field(default_factory=ListenSettings)
    """The listeners for agents, for metrics and for operators."""
    trusted_proxies: tuple[Annotated[Network, NetworkRange()], ...] = ()
    """Whose `X-Forwarded-*` headers count."""
    workers: Literal["auto"] | Annotated[int, count("1", "1024")] = 1
    """How many processes serve agents; `auto` is one for each core."""
    state: StateSettings = field(default_factory=StateSettings)
    """Where state is kept."""
    operators: tuple[OperatorSettings, ...] = ()
    """Who may use the admin listener; without any, a token is written beside the state at first start."""
    identity: IdentitySettings
    """Whose tokens count."""
    agents: Annotated[tuple[AgentSettings, ...], FROM_DIRECTORY] = ()
    """The registry of agents."""
    providers: Mapping[Name, ProviderSettings] = field(default_factory=dict)
    """LLM upstreams by name."""
    models: Mapping[ModelPattern, ModelSettings] = field(default_factory=dict)
    """What agents ask for; a `*` at the end matches what begins alike, the exact or longest name wins."""
    tools: Mapping[ToolName, ToolSettings] = field(default_factory=dict)
    """HTTP tools by name."""
    attesters: tuple[AttesterSettings, ...] = ()
    """Whose attestations count, beside what the gateway observes itself."""
    policies: PoliciesSettings = field(default_factory=PoliciesSettings)
    """The policy files."""
    prices: Mapping[PricedModel, tuple[PriceSettings, ...]] = field(default_factory=dict)
    """Additions to the shipped price book and overrides of it, by PROVIDER/MODEL."""
    runs: RunsSettings = field(default_factory=RunsSettings)
    """Runs and their limits."""
    webhooks: WebhooksSettings = field(default_factory=WebhooksSettings)
    """Whom the gateway tells of what happens."""
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
    """What observers get to see."""
    log: LogSettings = field(default_factory=LogSettings)
    """How the gateway logs."""
    timeouts: TimeoutSettings = field(default_factory=TimeoutSettings)
    """Deadlines of upstream attempts."""
    drain: Annotated[float, duration("0s", "1d")] = 120.0
    """How long calls in flight may go on after SIGTERM."""
    limits: LimitsSettings = field(default_factory=LimitsSettings)
    """What requests may cost the gateway."""
    outbound: OutboundSettings = field(default_factory=OutboundSettings)
    """How connections leave this machine."""

    @property
    def audit_dir(self) -> Path:
        """The folder of the decision log."""
        return self.telemetry.audit or self.state.durable.parent / "audit"

    @property
    def worker_count(self) -> int:
        """How many workers there are: `auto` is the number of cores that this process may use."""
        return len(os.sched_getaffinity(0)) if self.workers == "auto" else self.workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration without mistakes."""

    settings: Settings
    path: Path
    off: Mapping[str, str]
    """What an unset variable switched off, by path: `{"tools.mail": "tool mail is off: MAIL_KEY unset"}`."""
    warnings: tuple[str, ...]
    """What stands but probably means something else, each with file and line."""
    watched: tuple[Path, ...]
    """Files of secrets, keys and certificates: a change of them is taken over without a reload."""
    binder: Binder = field(compare=False, repr=False)
    """Where each setting stands: further checks complain through `complaint`."""

    @property
    def uses_demo(self) -> bool:
        """Whether anything is served by `builtin:demo`."""
        providers, tools = self.settings.providers.values(), self.settings.tools.values()
        return BUILTIN_DEMO in {*(one.base_url for one in providers), *(one.base_url for one in tools)}

    def unset(self, section: str) -> dict[str, str]:
        """The entries of a section that are off, by name: `{"mail": "tool mail is off: MAIL_KEY unset"}`."""
        prefix = f"{section}."
        return {path.removeprefix(prefix): why for path, why in self.off.items() if path.startswith(prefix)}

    def complaint(self, path: Steps, problem: str, remedy: str) -> Complaint:
        """A mistake about a setting that only building could find, at its place."""
        place = self.binder.place(path)
        return Complaint(place.file, place.line, place.column, path_text(path), problem, remedy)


class ConfigMistakes(Exception):
    """The configuration cannot be used; `complaints` lists every reason, in the order of the files."""

    def __init__(self, complaints: list[Complaint]) -> None:
        """Take them as they were found."""
        self.complaints = sorted(complaints)
        super().__init__("\n".join(map(str, self.complaints)))


def load(path: Path, sources: Sources) -> Config:
    """Read a configuration; raises `ConfigMistakes` with all mistakes of the file and of what it names.

    Read through `DiskSources` and again through a record of it, the result is equal.
    """
    complaints = Complaints()
    try:
        data = sources.read(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = f"the configuration cannot be read: {reason}"
        raise ConfigMistakes([Complaint(str(path), 1, 1, "", problem, "name a file with --config FILE")]) from None
    root = document(data, str(path), complaints)
    binder = Binder(complaints, sources)
    if root is None:
        raise ConfigMistakes(complaints.found)
    settings = binder.bind(root, Settings)
    said = {complaint.path for complaint in complaints.found}
    for where, problem, remedy in _mistakes(settings, frozenset(binder.off), sources):
        if path_text(where) not in said:  # what is wrong already is not judged again
            binder.complain(where, problem, remedy)
    if complaints.total:
        raise ConfigMistakes(complaints.found)
    warnings = Complaints()
    for where, problem, remedy in _warnings(settings, binder.off):
        place = binder.place(where)
        warnings.add(place, path_text(where), problem, remedy)
    key_files = (issuer.keys.file for issuer in settings.identity.issuers if issuer.keys and issuer.keys.file)
    ends = (door.tls for door in settings.listen.doors.values() if door.tls is not None)
    tls_files = (file for tls in ends for file in (tls.cert, tls.key, tls.client_ca) if file is not None)
    attesters = (attester.keys.file for attester in settings.attesters)
    watched = (*binder.secret_files, *key_files, *attesters, *tls_files)
    return Config(
        settings=settings,
        path=path,
        off=binder.off,
        warnings=tuple(str(warning) for warning in sorted(warnings.found)),
        watched=tuple(dict.fromkeys(watched)),
        binder=binder,
    )


def config_schema() -> dict[str, object]:
    """The JSON Schema of the configuration file."""
    return schema(Settings, "The configuration of Passgate")


_Said = Iterator[tuple[Steps, str, str]]
"""Where, what is wrong, and what to do about it."""


def _mistakes(settings: Settings, off: frozenset[str], sources: Sources) -> _Said:
    """What no part can see alone."""
    yield from _listener_mistakes(settings)
    yield from _identity_mistakes(settings)
    yield from _model_mistakes(settings, off)
    for name, upstream in _upstreams(settings):
        try:
            literal(urlsplit(upstream).hostname or "demo")
        except ValueError as error:
            yield (*name, "base_url"), str(error), "write the address in its usual form"
    for where, problem, remedy in tools.mistakes(settings.tools, sources):
        yield ("tools", *where.split(".")), problem, remedy
    for where, problem, remedy in providers.mistakes(settings.providers):
        provider, _, key = where.rpartition(".")  # a provider's name may have dots
        yield ("providers", provider, key), problem, remedy
    if settings.limits.body > settings.limits.buffered:
        yield (
            ("limits", "body"),
            "is more than `buffered`, so that no body fits",
            "lower it, or raise `limits.buffered`",
        )


def _listener_mistakes(settings: Settings) -> _Said:
    for (first, one), (second, other) in combinations(settings.listen.doors.items(), 2):
        if one.bind == other.bind and one.bind.port:
            yield ("listen", second, "bind"), f"listen.{first} binds {one.bind} already", "choose another port"
    admin = settings.listen.admin
    if not admin.bind.loopback:
        lacking = [("operators", bool(settings.operators)), ("listen.admin.tls", admin.tls is not None)]
        names = " and ".join(name for name, there in lacking if not there)
        if names:
            problem = f"the admin listener is reachable from outside without {names}"
            yield ("listen", "admin", "bind"), problem, f"set {names}, or bind 127.0.0.1"
    for field_name in ("id", "token_sha256"):
        values = [getattr(operator, field_name) for operator in settings.operators]
        yield from _repeated(values, ("operators",), field_name, "operator")
    for place, problem, remedy in operator_mistakes(settings.operators, settings.identity, settings.agents):
        yield ("operators", *place), problem, remedy


def _identity_mistakes(settings: Settings) -> _Said:
    issuers = settings.identity.issuers
    yield from _repeated([issuer.name for issuer in issuers], ("identity", "issuers"), "name", "issuer")
    yield from _repeated([issuer.identifier for issuer in issuers], ("identity", "issuers"), "iss", "issuer")
    domains = [issuer.trust_domain or "" for issuer in issuers]
    yield from _repeated(domains, ("identity", "issuers"), "trust_domain", "issuer")
    yield from _repeated([agent.id for agent in settings.agents], ("agents",), "id", "agent")
    yield from _repeated([one.name for one in settings.attesters], ("attesters",), "name", "attester")
    yield from _certificate_mistakes(settings)
    yield from _workload_mistakes(settings)
    own = settings.listen.agents.public_url or settings.identity.audience
    for index, issuer in enumerate(issuers):
        if issuer.identifier == own:
            problem = "the gateway signs its own tokens under this name"
            remedy = "name the issuer as it is, or set listen.agents.public_url"
            yield ("identity", "issuers", index, "iss"), problem, remedy
    names, ids = {issuer.name for issuer in issuers}, {agent.id for agent in settings.agents}
    seen: dict[object, str] = {}
    holders: dict[str, str] = {}
    for index, agent in enumerate(settings.agents):
        if agent.issuer and agent.issuer not in names:
            known = ", ".join(sorted(names)) or "none"
            yield ("agents", index, "issuer"), f"there is no issuer {agent.issuer}", f"identity.issuers has {known}"
        if agent.subject in ids - {agent.id}:
            problem = f"agent {agent.subject} is called that too, and attestations name agents by subject or id"
            yield ("agents", index, "subject"), problem, "give that agent another id"
        tokens = (agent.issuer, agent.subject, frozenset(agent.claims.items()))
        first = seen.setdefault(tokens, agent.id)
        if first != agent.id and (agent.subject or agent.claims):
            problem = f"agent {first} has the same issuer, subject and claims"
            yield ("agents", index), problem, "remove one of them: a token that matches two agents is refused"
        for number, digest in enumerate(agent.key_sha256):
            holder = holders.setdefault(digest, agent.id)
            if holder != agent.id:
                problem = f"agent {holder} has this API key too"
                yield ("agents", index, "key_sha256", number), problem, "make another one with `passgate keys api`"


def _workload_mistakes(settings: Settings) -> _Said:
    """Who gives out SVIDs alone names workloads of its trust domain, and nobody else; JWT-SVID §2.1 has no EdDSA."""
    for index, issuer in enumerate(settings.identity.issuers):
        if "jwt-svid" in issuer.kinds and set(issuer.algs) == {"EdDSA"}:
            remedy = "name what the trust domain signs with, such as ES256 or RS256"
            yield ("identity", "issuers", index, "algs"), "no JWT-SVID is signed with EdDSA", remedy
    domains = {one.name: one.trust_domain for one in settings.identity.issuers if SPIFFE_KINDS.issuperset(one.kinds)}
    for index, agent in enumerate(settings.agents):
        domain = domains.get(agent.issuer)
        if domain is None or not agent.subject:
            continue
        try:
            workload = spiffe_id(agent.subject.removesuffix("*") + "any" * agent.subject.endswith("*"))
        except ValueError as error:
            problem = f"is no SPIFFE ID: it {error}"
        else:
            if workload.trust_domain == domain and workload.path:
                continue
            problem = f"names no workload that issuer {agent.issuer} speaks for"
        yield ("agents", index, "subject"), problem, f"write a workload of its trust domain: spiffe://{domain}/..."


def _certificate_mistakes(settings: Settings) -> _Said:
    """The authorities of client certificates vouch for all of them alike: they can speak for one issuer only."""
    tls, kinds = settings.listen.agents.tls, [issuer.kinds for issuer in settings.identity.issuers]
    takers = [index for index, some in enumerate(kinds) if "x509-svid" in some]
    for index in takers[1:]:
        problem = f"issuer {settings.identity.issuers[takers[0]].name} has x509-svid already"
        remedy = "keep it at one of them: listen.agents.tls.client_ca cannot tell whose certificates it vouches for"
        yield ("identity", "issuers", index, "kinds"), problem, remedy
    if takers and (tls is None or tls.client_ca is None):
        problem = "x509-svid counts nothing while no client is asked for its certificate"
        remedy = "name the authorities that sign them in listen.agents.tls.client_ca"
        yield ("identity", "issuers", takers[0], "kinds"), problem, remedy


def _repeated(values: list[str], path: Steps, key: str, noun: str) -> _Said:
    """Entries of a list whose names must differ and do not; a hole is no name."""
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value and value in seen:
            yield (*path, index, key), f"another {noun} has this {key}", f"give each {noun} its own"
        seen.add(value)


def _model_mistakes(settings: Settings, off: frozenset[str]) -> _Said:
    for name, model in settings.models.items():
        demo = []
        for index, target in enumerate(model.targets):
            provider = settings.providers.get(target.provider)
            if provider is None and f"providers.{target.provider}" not in off and target.provider:
                known = ", ".join(sorted(settings.providers)) or "none"
                where: Steps = ("models", name, "targets", index, "provider")
                yield where, f"there is no provider {target.provider}", f"providers has {known}"
            demo.append(provider is not None and provider.base_url == BUILTIN_DEMO)
        if any(demo) and not all(demo):
            problem = f"mixes {BUILTIN_DEMO} with real providers, so that made-up answers would pass for real ones"
            yield ("models", name, "targets"), problem, "make two models of it"
    for name, prices in settings.prices.items():
        days = [str(price.from_ or "ever") for price in prices]
        yield from _repeated(days, ("prices", name), "from", "price")


def _upstreams(settings: Settings) -> Iterator[tuple[Steps, str]]:
    for section, entries in (("providers", settings.providers), ("tools", settings.tools)):
        for name, entry in entries.items():
            if entry.base_url and entry.base_url != BUILTIN_DEMO:
                yield (section, name), entry.base_url


def _warnings(settings: Settings, off: Mapping[str, str]) -> _Said:
    """What stands but probably means something else."""
    yield from _demo_warnings(settings)
    yield from _agent_warnings(settings)
    yield from _listener_warnings(settings)
    yield from _idle_warnings(settings)
    if settings.policies.mode == "shadow":
        problem = "what rules refuse passes and is only counted, but for those that say mode: enforce"
        yield ("policies", "mode"), problem, "set it to enforce once the counts are as they should be"
    for section, entries in (("providers", settings.providers), ("tools", settings.tools)):
        for name, entry in entries.items():
            secret = entry.api_key if isinstance(entry, ProviderSettings) else entry.auth
            host = urlsplit(entry.base_url).hostname or ""
            if secret is not None and entry.base_url.startswith("http://") and not is_localhost(host):
                yield (section, name, "base_url"), "its credential travels unencrypted", "use https"
    providers = {*settings.providers, *(path.removeprefix("providers.") for path in off)}
    books = {provider.price_book for provider in settings.providers.values()}
    for key in settings.prices:
        provider = key.partition("/")[0]
        if provider not in providers and provider not in books:
            yield ("prices", key), f"there is no provider {provider}", "these prices apply to nothing"


def _idle_warnings(settings: Settings) -> _Said:
    """What may stand, and changes nothing in this version."""
    if settings.state.volatile is not None:
        yield ("state", "volatile"), "nothing is kept there yet", "it may stand for later"
    for name, provider_settings in settings.providers.items():
        if provider_settings.billing is not None:
            yield ("providers", name, "billing"), "no export shows it yet", "it may stand for later"


def _demo_warnings(settings: Settings) -> _Said:
    demo = [name for name, provider in settings.providers.items() if provider.base_url == BUILTIN_DEMO]
    if len(demo) < len(settings.providers):
        for name in demo:
            problem = f"{BUILTIN_DEMO} stands beside real providers"
            yield ("providers", name), problem, "remove it where answers must be real"


def _agent_warnings(settings: Settings) -> _Said:
    if not settings.agents:
        yield ("agents",), "no agent is registered", "every call will be refused"
    wide = {(a.issuer, a.subject): a.id for a in settings.agents if a.subject.endswith("*")}
    for index, agent in enumerate(settings.agents):
        last = max(agent.subject.rfind("/"), agent.subject.rfind(":")) + 1
        other = wide.get((agent.issuer, f"{agent.subject[:last]}*"))
        if other not in {None, agent.id}:
            problem = f"its tokens may match agent {other} too, and are refused then"
            yield ("agents", index), problem, "tell them apart by subject or claims"
        if agent.key_sha256:
            problem = "has API keys, which are for development: whoever has one is the agent until it is taken out"
            if settings.identity.require_proof:
                problem = "has API keys, which identity.require_proof refuses"
            remedy = "give it tokens of an issuer; min_assurance: bearer in a policy's rules keeps keys out of them"
            yield ("agents", index, "key_sha256"), problem, remedy


def _listener_warnings(settings: Settings) -> _Said:
    door = settings.listen.agents
    if not door.bind.loopback and door.tls is None and not settings.trusted_proxies:
        problem = "agents' tokens reach this listener unencrypted"
        yield ("listen", "agents"), problem, "set `tls`, or `trusted_proxies` where a proxy ends it"
    for name, one in (("agents", door), ("admin", settings.listen.admin)):
        if one.bind.host in {"0.0.0.0", "::"} and not one.hosts:  # noqa: S104 -- compared, not bound
            problem = "only requests whose Host is localhost are answered"
            yield ("listen", name), problem, "name the hosts that clients use in `hosts`"
