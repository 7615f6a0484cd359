"""From a configuration to the parts that run: the only file that names them all.

`build_world` makes what a call needs, `prepare` does the same for `passgate check` and throws it away.
Mistakes that only building can find (keys, policies, prices, schemas) come out as `ConfigMistakes`,
with file and line like all others.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from types import MappingProxyType
from typing import Final

import msgspec

from gateway.attestations import Attesters, AttestersMistakes
from gateway.config import Config, ConfigMistakes
from gateway.core.clock import Clock, SystemClock
from gateway.core.sources import Sources
from gateway.dialects import JsonLimits
from gateway.identity import Identity, IdentityMistakes, api_keys
from gateway.identity.discovery import protected_resource
from gateway.identity.dsse import unseal
from gateway.identity.keys import KeyMistakes, read_jwks
from gateway.metering.prices import SHIPPED, PriceBook, discount_billionths
from gateway.outbound import Outbound
from gateway.policy import Known, PolicySet, from_image
from gateway.policy import load as load_policies
from gateway.policy.bundle import PAYLOAD_TYPE, KeysUnusable
from gateway.policy.lint import Arguments, Registered
from gateway.providers import Providers
from gateway.routing import Pricing, Router
from gateway.settings import Complaint, Complaints, Secret
from gateway.telemetry.redact import Redactor
from gateway.tools import Tools
from gateway.tools.declared import declared_arguments
from gateway.web.tls import ServerTls
from gateway.world import World

_NO_DEMO: Final = "http://127.0.0.1:9"


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The parts that need no event loop, and the warnings that building found."""

    identity: Identity
    attesters: Attesters
    policy: PolicySet
    prices: PriceBook
    clock: Clock
    warnings: tuple[str, ...]


def prepare(
    config: Config,
    sources: Sources,
    clock: Clock | None = None,
    *,
    keys: Mapping[str, bytes | None] = MappingProxyType({}),
    secret: bytes = b"",
    policies: bytes | None = None,
) -> Built:
    """Build what can be wrong; raises `ConfigMistakes` with everything that is.

    `keys` and `secret` are for what serves, see `Identity.build`; `policies` is the image of rules that were read.
    """
    settings, clock = config.settings, clock or SystemClock()
    complaints = Complaints()
    identity: Identity | None = None
    attesters: Attesters | None = None
    prices: PriceBook | None = None
    try:
        identity = Identity.build(
            settings.identity,
            settings.agents,
            sources,
            clock,
            settings.listen.agents.public_url,
            scheme=_scheme(config),
            keys=keys,
            secret=secret,
        )
    except IdentityMistakes as mistakes:
        complaints.found += mistakes.complaints
    try:
        attesters = Attesters.build(settings.attesters, sources, settings.identity, clock)
    except AttestersMistakes as mistakes:
        complaints.found += mistakes.complaints
    if policies is None:
        policy = load_policies(settings.policies, sources, known_names(config, sources), complaints, unseal_bundle)
    else:
        policy = from_image(policies)
    try:
        prices = PriceBook.load(SHIPPED.read_bytes(), settings.prices)
    except ValueError as error:
        complaints.found.append(config.complaint(("prices",), str(error), "correct the prices"))
    complaints.found += (*_tls_mistakes(config, sources), *_webhook_mistakes(config))
    if complaints.found or identity is None or attesters is None or prices is None:
        raise ConfigMistakes(complaints.found)
    warnings = tuple(map(str, (*identity.warnings, *attesters.warnings, *policy.warnings)))
    return Built(identity=identity, attesters=attesters, policy=policy, prices=prices, clock=clock, warnings=warnings)


def unseal_bundle(envelope: bytes, jwks: bytes) -> bytes:
    """The manifest of a signed policy bundle; see `policy.bundle.Unseal`."""
    try:
        keys = read_jwks(jwks)
    except KeyMistakes as mistakes:
        raise KeysUnusable(f"cannot be used: {mistakes}") from None
    return unseal(envelope, PAYLOAD_TYPE, keys)


def known_names(config: Config, sources: Sources) -> Known:
    """The names that policies may use, and what is known of those who have them."""
    settings = config.settings
    voters = [one for one in settings.operators if {"approver", "operator"}.intersection(one.roles)]
    approvers = (*(one.id for one in voters), *(f"group:{group}" for one in voters for group in one.groups))
    # The operations of a tool that is switched off are not known, so that no rule can be called wrong for them.
    declared = None if config.unset("tools") else declared_arguments(settings.tools, sources)
    return Known(
        agents=frozenset(agent.id for agent in settings.agents),
        teams=frozenset(agent.team for agent in settings.agents),
        issuers=frozenset((api_keys.ISSUER, *(issuer.name for issuer in settings.identity.issuers))),
        models=frozenset(settings.models),
        tools=None if declared is None else frozenset(declared),
        providers=frozenset(settings.providers) | frozenset(config.unset("providers")),
        approvers=frozenset(approvers if settings.operators else ("bootstrap",)),
        attesters={one.name: frozenset(one.may_attest) for one in settings.attesters},
        arguments=None if declared is None else {name: Arguments(*one) for name, one in declared.items()},
        registry={one.id: Registered(one.team, one.category or "", frozenset(one.tags)) for one in settings.agents},
    )


def _tls_mistakes(config: Config, sources: Sources) -> Iterator[Complaint]:
    """Certificates that no listener could use; what only reads the settings need not be able to read them."""
    listen, ca_file = config.settings.listen, config.settings.outbound.ca_file
    try:
        ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        problem = f"{ca_file} cannot be used: {error.strerror or error}"
        yield config.complaint(("outbound", "ca_file"), problem, "name a file of certificate authorities, PEM")
    for name, door in listen.doors.items():
        if door.tls is None:
            continue
        try:
            alone = ServerTls.read(replace(door.tls, client_ca=None), sources)
            alone.context()
            alone.life  # noqa: B018 - raises for a certificate that nobody could tell the end of
        except (OSError, ValueError) as error:
            problem = f"{door.tls.cert} and {door.tls.key} cannot be used: {_reason(error)}"
            yield config.complaint(("listen", name, "tls"), problem, "name a certificate chain and its key, both PEM")
            continue
        try:
            ServerTls.read(door.tls, sources).context()
        except OSError as error:
            problem = f"{door.tls.client_ca} cannot be used: {_reason(error)}"
            remedy = "name the certificates of the authorities that sign client certificates, PEM"
            yield config.complaint(("listen", name, "tls", "client_ca"), problem, remedy)


def _webhook_mistakes(config: Config) -> Iterator[Complaint]:
    """Secrets that nothing can be signed with."""
    webhooks = config.settings.webhooks
    for name, webhook in (("approvals", webhooks.approvals), ("audit", webhooks.audit)):
        try:
            _ = webhook and webhook.key
        except ValueError as error:
            yield config.complaint(("webhooks", name, "secret"), str(error), "make one: openssl rand -base64 32")


def _reason(error: Exception) -> str:
    """Why a file cannot be used, with its name where it is one of several."""
    reason = getattr(error, "strerror", None) or str(error)
    name = getattr(error, "filename", None)
    return f"{reason}: {name}" if name else reason


def _scheme(config: Config) -> str:
    """How the agents' listener itself is spoken to."""
    return "https" if config.settings.listen.agents.tls else "http"


def build_world(config: Config, built: Built, sources: Sources, demo_url: str | None) -> World:
    """Everything for one worker, of what `prepare` has built; call it inside the event loop."""
    settings = config.settings
    off = config.unset("providers")
    demo = demo_url or _NO_DEMO
    limits, door = settings.limits, settings.listen.agents
    return World(
        identity=built.identity,
        attesters=built.attesters,
        policy=built.policy,
        router=Router(settings.models, off),
        providers=Providers.build(settings.providers, timeouts=settings.timeouts, demo_url=demo, off=off),
        tools=Tools.build(
            settings.tools, sources, timeouts=settings.timeouts, demo_url=demo, off=config.unset("tools")
        ),
        pricing=_pricing(config, built.prices),
        outbound=Outbound(proxy=settings.outbound.proxy, ca_file=settings.outbound.ca_file),
        runs=settings.runs,
        json_limits=JsonLimits(limits.json_depth, limits.json_keys, limits.json_elements),
        concurrency=limits.concurrency,
        access_log=settings.log.access,
        resource=built.identity.own.iss,
        documents=_documents(config, built.identity.own.iss),
        public_url=door.public_url,
        scheme=_scheme(config),
        clock=built.clock,
        redact=redactor(config),
    )


def _documents(config: Config, resource: str) -> dict[str, bytes]:
    """What anybody may read, by the operation of its address."""
    settings, tls = config.settings, config.settings.listen.agents.tls
    mutual_tls = tls is not None and tls.client_ca is not None
    document = protected_resource(settings.identity, resource, mutual_tls=mutual_tls)
    return {"protected_resource": msgspec.json.encode(document)}


def _pricing(config: Config, book: PriceBook) -> Pricing:
    terms = {
        name: (book.name_of(name, one.price_book, one.base_url), discount_billionths(one.discount))
        for name, one in config.settings.providers.items()
    }
    return Pricing(book, terms)


def redactor(config: Config) -> Redactor:
    """Replaces in logs every secret of the configuration, and what stands under a name of `telemetry.redact`."""
    secrets = (text for secret in _secrets(config.settings) for text in (secret, secret.rpartition(" ")[2]))
    return Redactor(secrets, config.settings.telemetry.redact)


def _secrets(value: object) -> Iterator[str]:
    """Every secret below a part of the settings."""
    if isinstance(value, Secret):
        yield value.reveal()
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            yield from _secrets(getattr(value, one.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _secrets(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from _secrets(item)
