"""Identity: who asks, and on whose behalf. No call gets further without a verified, registered agent.

`Identity.identify` is the door: from a request's head to a `Principal`, or a refusal. The credential
is found by `credential.py`, verified by `tokens.py` with the keys that `keys.py` read (a client certificate
by `certificates.py`), and matched to an agent by `registry.py`. A reload builds a whole new `Identity`, so
nothing outlives its keys.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from gateway.core.call import Address, Head
from gateway.core.clock import Clock
from gateway.core.principal import Agent, Principal
from gateway.core.sources import Sources
from gateway.identity import api_keys, certificates, principals
from gateway.identity.authority import Authority
from gateway.identity.certificates import Svids
from gateway.identity.credential import Presented, credential, missing
from gateway.identity.delegation import GATEWAY, Delegates, OwnIssuer, check_reach, may_reach, not_to_be_handed_on
from gateway.identity.inspect import ADDRESS, AGENT, PROOF, Inspection, inspect
from gateway.identity.keys import KeyMistake, KeyMistakes, KeySet, PublicKey, key_uses, read_jwks
from gateway.identity.kinds import KINDS
from gateway.identity.proof import Proofs
from gateway.identity.registry import Entry, Registry
from gateway.identity.renewal import Renewal
from gateway.identity.settings import AgentSettings, IdentitySettings, IssuerSettings
from gateway.identity.tokens import Issuer, KeyUnknown, Verifier, invalid
from gateway.settings.complaints import Complaint

__all__ = ["Authority", "Identity", "IdentityMistakes", "check_reach", "may_reach"]

REMEMBERED: Final = 10_000
"""How many verified tokens are remembered at most."""
REMEMBERED_SECONDS: Final = 60.0
"""For how long at most; a reload forgets all of them at once."""


class IdentityMistakes(Exception):
    """Identity cannot be built from its settings; `complaints` lists every reason."""

    def __init__(self, complaints: Sequence[Complaint]) -> None:
        super().__init__("\n".join(str(complaint) for complaint in complaints))
        self.complaints = tuple(complaints)


class _Known(NamedTuple):
    """A credential that was verified a moment ago."""

    principal: Principal
    mcp_server: str | None
    until: float  # epoch seconds
    proof_required: bool
    key: PublicKey | None = None  # that verified it, where it was signed by an issuer
    may_act: bool = False  # its issuer says who alone may act for its subject (RFC 8693 §4.4)


class Identity:
    """The registered agents and the issuers that vouch for them."""

    def __init__(
        self,
        verifier: Verifier,
        registry: Registry,
        proofs: Proofs,
        *,
        svids: Svids | None = None,
        delegates: Delegates,
        proof_required: Callable[[Principal], bool],
        skew: float,
        clock: Clock,
        remembered: int = REMEMBERED,
    ) -> None:
        """`svids` takes X.509-SVIDs, where they count; `proof_required` says of whom a bound token is wanted.

        `delegates` reads what the gateway itself has signed.
        """
        self.own = delegates.own
        self._delegates = delegates
        self._verifier = verifier
        self._registry = registry
        self._proofs = proofs
        self._svids = svids
        self._proof_required = proof_required
        self._skew = skew
        self._clock = clock
        self._remembered = remembered
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self.warnings: tuple[Complaint, ...] = ()
        self._adopted: dict[str, bytes | None] = {}
        self._renewal = Renewal(clock)

    @classmethod
    def build(
        cls,
        settings: IdentitySettings,
        agents: Sequence[AgentSettings],
        sources: Sources,
        clock: Clock,
        public_url: str | None,
        *,
        scheme: str = "http",
        keys: Mapping[str, bytes | None] = MappingProxyType({}),
        secret: bytes = b"",
    ) -> Identity:
        """Read all key files and register all agents; raises `IdentityMistakes`. `warnings` has what may be meant so.

        `public_url` is how agents reach this gateway, where tokens for one MCP server and proofs name it; `scheme`
        is that of its own listener. `keys` are the fetched keys by issuer name, as `adopt` takes them, with the
        gateway's own under `gateway`; `secret` is new with every start of the gateway.
        """
        issuers: list[Issuer] = []
        complaints: list[Complaint] = []
        warnings: list[Complaint] = []
        for one in settings.issuers:
            try:
                found = issuer_keys(one, sources)
            except IdentityMistakes as mistakes:
                complaints += mistakes.complaints
                continue
            issuers.append(Issuer.of(one, found))
            warnings += _unusable(one, issuers[-1])
        if complaints:
            raise IdentityMistakes(complaints)
        names = {one.iss: one.name for one in issuers}
        own = OwnIssuer.of(settings.audience, public_url)
        issuers.append(own.issuer())
        verifier = Verifier(issuers, audience=settings.audience, public_url=public_url, skew=settings.skew, clock=clock)
        entries = [registered(agent) for agent in agents]
        bound_issuers = {one.name for one in settings.issuers if one.require_proof}
        bound_agents = {agent.id for agent in agents if agent.require_proof}

        def proof_required(principal: Principal) -> bool:
            return settings.require_proof or principal.vouched_by in bound_issuers or principal.agent.id in bound_agents

        identity = cls(
            verifier,
            Registry(entries),
            Proofs(public_url=public_url, scheme=scheme, secret=secret, clock=clock),
            svids=Svids.of(settings, clock),
            delegates=Delegates(own, entries, names),
            proof_required=proof_required,
            skew=settings.skew,
            clock=clock,
        )
        identity.warnings = tuple(warnings)
        with contextlib.suppress(KeyMistakes):  # then they were another kind of issuer's, and its own are on their way
            identity.adopt(keys)
        return identity

    def adopt(self, keys: Mapping[str, bytes | None]) -> None:
        """Take over fetched keys (a JWK set by issuer name); `None`: there are none that may still be used.

        Remembered tokens of these issuers whose key is gone or another one now are forgotten, all others stay.
        A set that cannot be read leaves its issuer's keys as they are; all of these are in `KeyMistakes` at the end.
        """
        mistakes: list[KeyMistake] = []
        for name, data in keys.items():
            issuer = self._verifier.issuers.get(name)
            if issuer is None or not issuer.fetched or (name in self._adopted and self._adopted[name] == data):
                continue
            try:
                issuer.keys = read_jwks(data, issuer.uses) if data is not None else None
            except KeyMistakes as error:
                mistakes += [one._replace(path=f"{name}: {one.path}") for one in error.mistakes]
                continue
            self._adopted[name] = data
            self._forget(issuer)
        if mistakes:
            raise KeyMistakes(mistakes)

    @property
    def takes_certificates(self) -> bool:
        """Whether a client certificate alone says who asks."""
        return self._svids is not None

    @property
    def own_jwks(self) -> bytes:
        """The keys that the gateway's own tokens are verified with, for everybody."""
        return self._adopted.get(GATEWAY) or b'{"keys":[]}'

    def _forget(self, issuer: Issuer) -> None:
        """Forget the tokens that a key of this issuer verified which it has no longer."""
        void = [
            digest
            for digest, known in self._known.items()
            if known.key is not None
            and known.principal.issuer == issuer.name
            and (issuer.keys is None or known.key not in issuer.keys)
        ]
        for digest in void:
            del self._known[digest]

    async def identify(
        self, head: Head, address: Address, authority: Authority, presented: Presented | None = None
    ) -> Principal:
        """Who sent this request; raises `Refusal` (`identity_*`, `proof_invalid`, `agent_unknown`, `agent_ambiguous`).

        Whether a token has expired is judged here, when the head has arrived. A credential that passed
        is remembered by the SHA-256 of all of it, for a minute at most and never past its end; one that
        failed is not. A proof is never remembered. `presented` stands for what the head carries, where
        the credential came otherwise.
        """
        if presented is None:
            presented = credential(head, address)
        known = await self._find(presented.token, head, address, authority)
        if known.proof_required or known.principal.binding is not None or presented.dpop:
            await self._prove(head, presented, known, authority)
        return known.principal

    async def identify_parent(
        self, head: Head, address: Address, authority: Authority, token: str
    ) -> tuple[Principal, str | None]:
        """Who hands on its `token` at the token endpoint, and the key of the DPoP proof on the request, if any.

        A bound token needs its key here as everywhere. A proof is about the request and not about the token
        in its body (RFC 9449 §5); where that one is not bound to a key, the proof shows whose the new one
        shall be. Raises `Refusal` as `identify` does.
        """
        known = await self._find(token, head, address, authority)
        if known.may_act:
            raise not_to_be_handed_on()
        binding = known.principal.binding
        thumbprint = binding.thumbprint if binding is not None and binding.method == "jkt" else None
        if thumbprint is None:
            if known.proof_required or binding is not None:
                await self._prove(head, Presented(token), known, authority)
            if "dpop" not in head.headers:
                return known.principal, None
        return known.principal, await self._proofs.prove(head, token, thumbprint, authority, ath=False)

    async def _find(self, token: str, head: Head, address: Address, authority: Authority) -> _Known:
        """Who has this credential, whether it is proven or not."""
        digest = _digest(token, head.certificate)
        known = self._known.get(digest)
        if known is None or self._clock.now() >= known.until:
            try:
                known = self._recognise(token, head.certificate) or self._verify(token)
            except KeyUnknown as unknown:
                if not (unknown.issuer.fetched and await self._renewal.ask(unknown.issuer.name, authority)):
                    raise
                known = self._verify(token)
            self._known[digest] = known
            self._known.move_to_end(digest)
            if len(self._known) > self._remembered:
                self._known.popitem(last=False)
        _check_address(known, address)
        return known

    def inspect(self, token: str, address: Address | None = None) -> Inspection:
        """Everything that is wrong with a token and whose it would be, for who operates the gateway."""
        inspection = inspect(self._verifier, token)
        known = None
        if inspection.accepted:
            known = inspection.judge(AGENT, "agent", lambda: self._verify(token))
        elif inspection.passed(5, 6, 14) and inspection.token.kind is not KINDS["gateway"]:
            of = inspection.token
            inspection.agent = inspection.judge(
                AGENT, "agent", lambda: self._registry.find(of.issuer.name, of.actors[0], of.claims)
            )
        if known is not None:
            inspection.principal, inspection.agent = known.principal, known.principal.agent
            if address is not None:
                inspection.judge(ADDRESS, "address", lambda: _check_address(known, address))
            inspection.judge(PROOF, "proof", lambda: self._check_bound(known))
        return inspection

    def next_nonce(self, principal: Principal) -> str:
        """The nonce for the next proof of who has just sent one (RFC 9449 §8.2); empty for everybody else."""
        binding = principal.binding
        return self._proofs.nonce() if binding is not None and binding.method == "jkt" else ""

    async def _prove(self, head: Head, presented: Presented, known: _Known, authority: Authority) -> None:
        """A bound token counts only with its key: a proof, or the client certificate."""
        binding = known.principal.binding
        if presented.dpop:
            if binding is None or binding.method != "jkt":
                raise self._proofs.not_bound()
            await self._proofs.prove(head, presented.token, binding.thumbprint, authority)
        elif binding is None:
            raise self._proofs.required()
        elif binding.method == "x5t#S256":
            certificates.prove(head.certificate, binding.thumbprint, now=self._clock.now(), skew=self._skew)
        else:
            raise self._proofs.left_out()

    def _check_bound(self, known: _Known) -> None:
        if known.proof_required and known.principal.binding is None:
            raise self._proofs.required()

    def _recognise(self, token: str, certificate: bytes | None) -> _Known | None:
        """Who comes without a signed token: with an API key, or with nothing but a client certificate.

        A certificate speaks for itself only where an issuer gives out X.509-SVIDs. Where none does, it is
        a matter of the transport, and a request with nothing else carries no credential.
        """
        if token.startswith(api_keys.PREFIX):
            digest = api_keys.key_digest(token)
            holder = self._registry.holder(digest)
            if holder is None:
                raise invalid("the API key is no registered agent's")
            principal = principals.of_api_key(digest, holder)
        elif not token:
            if self._svids is None or certificate is None:
                raise missing()
            svid = self._svids.verify(certificate)
            agent = self._registry.find(self._svids.issuer, svid.subject, {})
            principal = principals.of_svid(svid, self._svids, agent)
        else:
            return None
        until = min(principal.expires + self._skew, self._clock.now() + REMEMBERED_SECONDS)
        return _Known(principal, None, until, self._proof_required(principal))

    def _verify(self, token: str) -> _Known:
        valid = self._verifier.verify(token)
        if valid.issuer.name == GATEWAY:
            principal = self._delegates.principal(valid)
        else:
            principal = principals.of_token(valid, self._registry.find(valid.issuer.name, valid.subject, valid.claims))
        until = min(valid.expires + self._skew, self._clock.now() + REMEMBERED_SECONDS)
        return _Known(
            principal, valid.mcp_server, until, self._proof_required(principal), valid.key, "may_act" in valid.claims
        )


def _check_address(known: _Known, address: Address) -> None:
    """A token for one MCP server opens that one and nothing else."""
    if known.mcp_server is not None and not (
        address.dialect == "mcp" and address.variables.get("server") == known.mcp_server
    ):
        raise invalid("the token's audience is one MCP server, and this address is not that server's")


def issuer_keys(issuer: IssuerSettings, sources: Sources) -> KeySet | None:
    """The keys in the issuer's file; `None` where they are fetched. Raises `IdentityMistakes`."""
    if issuer.keys is None:
        return KeySet([])
    file = issuer.keys.file
    if file is None:
        return None
    try:
        return read_jwks(sources.read(file), key_uses(issuer.kinds))
    except OSError as error:
        remedy = f"name a JWK set, or make one for development: passgate keys new --issuer {issuer.name}"
        problem = f"the keys of issuer {issuer.name} cannot be read: {error.strerror or error}"
        raise IdentityMistakes([Complaint(str(file), 1, 1, "", problem, remedy)]) from None
    except KeyMistakes as error:
        raise IdentityMistakes([Complaint(str(file), 1, 1, *mistake) for mistake in error.mistakes]) from None


def _unusable(settings: IssuerSettings, issuer: Issuer) -> Iterator[Complaint]:
    """An empty key file revokes all tokens of its issuer; so does one that has other keys, which nobody means."""
    file = settings.keys.file if settings.keys is not None else None
    if file is not None and issuer.keys is not None and not issuer.keys.fits(issuer.algs):
        problem = f"no key in it can verify a token of issuer {issuer.name}, so all of them are refused"
        remedy = f"put keys there for {', '.join(sorted(issuer.algs))} with `use: {min(issuer.uses)}`"
        yield Complaint(str(file), 1, 1, "", problem, remedy)


def registered(agent: AgentSettings) -> Entry:
    """An agent as the registry takes it."""
    registered = Agent(
        id=agent.id,
        owner=agent.owner,
        team=agent.team,
        cost_center=agent.cost_center,
        category=agent.category or "",
        tags=tuple(sorted(agent.tags.items())),
    )
    return Entry(registered, agent.issuer, agent.subject, agent.claims, agent.key_sha256)


def _digest(token: str, certificate: bytes | None) -> bytes:
    """Under what a credential is remembered; no header can carry the NUL that tells a certificate from a token."""
    if not token and certificate is not None:
        return hashlib.sha256(b"x5c\0" + certificate).digest()
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
