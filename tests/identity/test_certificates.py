"""X.509-SVIDs, and tokens that are bound to a client certificate: what a certificate says, whoever signed it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from msgspec.structs import replace

from gateway.core.errors import Refusal
from gateway.core.principal import Binding, Principal, StopKey
from gateway.core.sources import KeptSources
from gateway.identity import Identity
from gateway.identity.settings import AgentSettings, IdentitySettings, IssuerSettings
from gateway.identity.tokens import SENTENCE
from tests.identity.door import PUBLIC_URL, head, identify, issuer_settings
from tests.simulator.authority import BUYER, SERVER, Authority, Certified, Lives
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer, new_private_key

AUTHORITY = Authority()
MESH = IssuerSettings(name="mesh", kinds=("x509-svid",), trust_domain="acme.example")
AGENTS = (
    AgentSettings(id="buyer", issuer="mesh", subject=BUYER, team="finance"),
    AgentSettings(id="crowd", issuer="mesh", subject="spiffe://acme.example/crowd/*"),
    AgentSettings(id="procurement", issuer="dev", subject=Issuer.subject),
)


class Mesh:
    """An identity part that takes X.509-SVIDs, tokens of `dev`, or both, at a time that the test sets."""

    def __init__(
        self,
        clock: SetClock,
        issuer: Issuer,
        *,
        svids: IssuerSettings | None = MESH,
        agents: Sequence[AgentSettings] = AGENTS,
        require_proof: bool = False,
    ) -> None:
        self.clock = clock
        dev = issuer_settings(issuer)
        settings = IdentitySettings(
            audience=issuer.audience, issuers=(dev, svids) if svids else (dev,), require_proof=require_proof
        )
        keys = KeptSources({str(Path("keys", "dev.json")): issuer.jwks()}, {}, {})
        self.identity = Identity.build(settings, agents, keys, clock, PUBLIC_URL)

    def lives(self, begins: float = -60.0, ends: float = 3600.0) -> Lives:
        """A validity period around the present time of the test."""
        return Lives(begins, ends, self.clock.now())

    def admits(self, shown: Certified | bytes | None, *headers: tuple[str, str]) -> Principal:
        """Who comes with this certificate and these headers."""
        der = shown.der if isinstance(shown, Certified) else shown
        return identify(self.identity, replace(head(*headers), certificate=der))

    def refuses(self, shown: Certified | bytes | None, *headers: tuple[str, str], code: str) -> Refusal:
        """The refusal of it."""
        with pytest.raises(Refusal) as caught:
            self.admits(shown, *headers)
        assert caught.value.code == code, caught.value.detail
        assert caught.value.status in {401, 403}
        return caught.value


@pytest.fixture
def mesh(clock: SetClock, issuer: Issuer) -> Mesh:
    return Mesh(clock, issuer)


def bearer(token: str) -> tuple[str, str]:
    """The header that carries a token."""
    return "Authorization", f"Bearer {token}"


def test_a_workload_is_its_agent(mesh: Mesh) -> None:
    """A request with nothing but an X.509-SVID is the agent of that SPIFFE ID, known as well as can be."""
    svid = AUTHORITY.svid(lives=mesh.lives())
    principal = mesh.admits(svid)
    assert (principal.agent.id, principal.issuer, principal.vouched_by) == ("buyer", "mesh", "mesh")
    assert principal.owner == ("spiffe://acme.example", BUYER)
    assert (principal.assurance, principal.token_id) == ("mtls", svid.thumbprint)
    assert principal.binding == Binding("x5t#S256", svid.thumbprint)
    assert principal.expires == mesh.clock.now() + 3600
    assert principal.stops == {
        StopKey("agent", "buyer"), StopKey("issuer", "mesh"), StopKey("token", svid.thumbprint),
    }  # fmt: skip


def test_a_renewed_certificate_keeps_the_key_and_not_the_thumbprint(mesh: Mesh) -> None:
    """Records tell a renewal (the same key) from a new key, and either from the very same certificate."""
    first = AUTHORITY.svid(lives=mesh.lives())
    renewed, rekeyed = AUTHORITY.svid(lives=mesh.lives(), key=first.key), AUTHORITY.svid(lives=mesh.lives())
    one, two, three = (mesh.admits(svid) for svid in (first, renewed, rekeyed))
    assert one.key_id == two.key_id != three.key_id
    assert len({one.token_id, two.token_id, three.token_id}) == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: rsa.generate_private_key(65537, 2048),
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate,
    ],
)
def test_keys_of_todays_strength(make: Callable[[], ec.EllipticCurvePrivateKey], mesh: Mesh) -> None:
    """RSA from 2048 bits, the three NIST curves and Ed25519 are taken."""
    assert mesh.admits(AUTHORITY.svid(lives=mesh.lives(), key=make())).agent.id == "buyer"


def test_other_names_and_missing_extensions_do_no_harm(mesh: Mesh) -> None:
    """DNS names beside the one URI, no extended key usage and no basic constraints are as SPIFFE allows them."""
    names = [x509.UniformResourceIdentifier(BUYER), x509.DNSName("buyer.acme.example")]
    assert mesh.admits(AUTHORITY.svid(names=names, lives=mesh.lives())).agent.id == "buyer"
    assert mesh.admits(AUTHORITY.svid(lives=mesh.lives(), purposes=None, ca=None)).agent.id == "buyer"


OTHER = "spiffe://acme.example/agent/other"
DNS = [x509.DNSName("buyer.acme.example")]
MALFORMED = b"\x30\x03\x86\x01"  # says that it is longer than it is


@pytest.mark.parametrize(
    ("make", "detail"),
    [
        (lambda lives: AUTHORITY.svid(BUYER, OTHER, lives=lives), "has 2 URIs"),
        (lambda lives: AUTHORITY.svid(BUYER, BUYER, lives=lives), "has 2 URIs"),
        (lambda lives: AUTHORITY.svid(BUYER, "https://acme.example/buyer", lives=lives), "has 2 URIs"),
        (lambda lives: AUTHORITY.svid(names=DNS, lives=lives), "has 0 URIs"),
        (lambda lives: AUTHORITY.svid(raw_names=MALFORMED, lives=lives), "cannot be read"),
        (lambda lives: AUTHORITY.svid(lives=lives, ca=True), "is an authority's"),
        (lambda lives: AUTHORITY.svid(lives=lives, ca=True, signs=True), "is an authority's"),
        (lambda lives: AUTHORITY.svid(lives=lives, signs=True), "is an authority's"),
        (lambda lives: AUTHORITY.svid(lives=lives, ca=None, revokes=True), "is an authority's"),
        (lambda lives: AUTHORITY.svid(lives=lives, purposes=(SERVER,)), "is not for clients"),
        (lambda lives: AUTHORITY.svid(lives=lives, key=new_private_key("RS256", 1024)), "has a key that is not RSA"),
        (lambda lives: AUTHORITY.svid(lives=lives, key=ec.generate_private_key(ec.SECP256K1())), "has a key that is"),
        (lambda lives: AUTHORITY.svid(lives=lives, key=ec.generate_private_key(ec.SECP224R1())), "has a key that is"),
        (lambda lives: AUTHORITY.svid(lives=lives, key=ed448.Ed448PrivateKey.generate()), "has a key that is not"),
        (lambda lives: AUTHORITY.svid(lives=Lives(31.0, 3600.0, lives.now)), "is not valid yet"),
        (lambda _: b"", "cannot be read"),
        (lambda _: b"\x30\x82\xff\xff", "cannot be read"),
        (lambda lives: AUTHORITY.svid(lives=lives).der[:-1], "cannot be read"),
        (lambda lives: AUTHORITY.svid(lives=lives).der + b"\0", "cannot be read"),
    ],
)
def test_what_is_no_svid(make: Callable[[Lives], Certified | bytes], detail: str, mesh: Mesh) -> None:
    """I14: two URIs, an authority's certificate and the like are nobody; the log alone says why."""
    refusal = mesh.refuses(make(mesh.lives()), code="identity_invalid")
    assert (refusal.sentence, refusal.fields) == (SENTENCE, {})
    assert detail in (refusal.detail or "")


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://acme.example",
        "spiffe://acme.example/",
        "spiffe://acme.example/agent/buyer/",
        "spiffe://acme.example/agent//buyer",
        "spiffe://acme.example/agent/../agent/buyer",
        "spiffe://acme.example/agent/./buyer",
        "spiffe://acme.example/agent/%62uyer",
        "spiffe://acme.example/agent/buyer?x=1",
        "spiffe://acme.example/agent/buyer#x",
        "spiffe://acme.example:443/agent/buyer",
        "spiffe://user@acme.example/agent/buyer",
        "spiffe://ACME.example/agent/buyer",
        "SPIFFE://acme.example/agent/buyer",
        "https://acme.example/agent/buyer",
        "urn:acme:agent:buyer",
        "",
        "spiffe://acme.example.evil/agent/buyer",
        "spiffe://evil.acme.example/agent/buyer",
        "spiffe://acme.exampl/agent/buyer",
        "spiffe://other.example/agent/buyer",
        "spiffe://acme.example/agent/" + "x" * 2048,
    ],
)
def test_other_spellings_and_trust_domains(uri: str, mesh: Mesh) -> None:
    """I13, I14: a SPIFFE ID has one spelling, and one that only begins like ours is of another trust domain."""
    svid = AUTHORITY.svid(names=[x509.UniformResourceIdentifier(uri)], lives=mesh.lives())
    assert mesh.refuses(svid, code="identity_invalid").sentence == SENTENCE


def test_a_certificate_ends_on_an_open_connection(mesh: Mesh) -> None:
    """A connection may outlive its certificate, which stops to count at its end and no minute later."""
    svid = AUTHORITY.svid(lives=mesh.lives(ends=50.0))
    assert mesh.admits(svid).agent.id == "buyer"
    mesh.clock.pass_(50 + 29)  # `identity.skew` is 30 s
    assert mesh.admits(svid).agent.id == "buyer"
    mesh.clock.pass_(1)
    refusal = mesh.refuses(svid, code="identity_expired")
    assert "certificate" in refusal.sentence
    assert refusal.fields == {"expired_at": "2027-01-15T08:00:50.000000Z"}


def test_clocks_may_disagree_by_skew(mesh: Mesh) -> None:
    """A certificate that begins within the next half minute counts already."""
    assert mesh.admits(AUTHORITY.svid(lives=mesh.lives(begins=30.0))).agent.id == "buyer"


def test_who_is_registered(mesh: Mesh) -> None:
    """A workload that no agent is registered for is refused by its name; a wildcard stands for one segment."""
    crowd = AUTHORITY.svid("spiffe://acme.example/crowd/one", lives=mesh.lives())
    assert mesh.admits(crowd).agent.id == "crowd"
    for stranger in ("spiffe://acme.example/crowd", "spiffe://acme.example/crowd/one/two", OTHER):
        refusal = mesh.refuses(AUTHORITY.svid(stranger, lives=mesh.lives()), code="agent_unknown")
        assert refusal.fields == {"issuer": "mesh", "subject": stranger}


def test_a_token_comes_before_the_certificate(mesh: Mesh, issuer: Issuer) -> None:
    """Where both are there the token says who calls; one that is not valid does not fall back to the certificate."""
    svid = AUTHORITY.svid(lives=mesh.lives())
    principal = mesh.admits(svid, bearer(issuer.token(mesh.clock.now())))
    assert (principal.agent.id, principal.assurance, principal.binding) == ("procurement", "bearer", None)
    mesh.refuses(svid, bearer("nonsense"), code="identity_invalid")
    mesh.refuses(svid, ("x-api-key", "pgk_nonsense"), code="identity_invalid")
    mesh.refuses(svid, ("Authorization", "Basic eDp5"), code="identity_invalid")


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer "])
def test_an_empty_credential_is_none(value: str, mesh: Mesh) -> None:
    """SDKs that insist on a key can be given an empty one: the certificate speaks."""
    assert mesh.admits(AUTHORITY.svid(lives=mesh.lives()), ("Authorization", value)).agent.id == "buyer"


def test_a_certificate_has_no_proof_of_its_own(mesh: Mesh) -> None:
    """The DPoP scheme with nothing behind it is no credential that a certificate could complete."""
    mesh.refuses(AUTHORITY.svid(lives=mesh.lives()), ("Authorization", "DPoP "), code="proof_invalid")


def test_without_svids_a_certificate_says_nothing(clock: SetClock, issuer: Issuer) -> None:
    """Where no issuer gives out X.509-SVIDs, a certificate alone is as good as no credential at all."""
    mesh = Mesh(clock, issuer, svids=None, agents=AGENTS[2:])
    svid = AUTHORITY.svid(lives=mesh.lives())
    alone, nothing = mesh.refuses(svid, code="identity_missing"), mesh.refuses(None, code="identity_missing")
    assert alone.sentence == nothing.sentence
    assert mesh.admits(svid, bearer(issuer.token(clock.now()))).agent.id == "procurement"


def test_one_remembered_certificate_is_not_another(mesh: Mesh) -> None:
    """What is remembered of one certificate is never said of another one."""
    one, other = (AUTHORITY.svid(uri, lives=mesh.lives()) for uri in (BUYER, "spiffe://acme.example/crowd/a"))
    for _ in range(2):
        assert [mesh.admits(svid).agent.id for svid in (one, other)] == ["buyer", "crowd"]


# -- tokens that are bound to a certificate (RFC 8705)


def bound(mesh: Mesh, issuer: Issuer, to: Certified) -> tuple[str, str]:
    """The header with a token that is bound to this certificate."""
    return bearer(issuer.token(mesh.clock.now(), cnf={"x5t#S256": to.thumbprint}))


def test_a_bound_token_counts_over_its_certificate_alone(mesh: Mesh, issuer: Issuer) -> None:
    """I16: a stolen token is worth nothing without the key of the certificate that it is bound to."""
    own, thiefs = (AUTHORITY.svid(lives=mesh.lives()) for _ in range(2))
    token = bound(mesh, issuer, own)
    principal = mesh.admits(own, token)
    assert (principal.agent.id, principal.assurance) == ("procurement", "mtls")
    assert principal.binding == Binding("x5t#S256", own.thumbprint)
    for shown in (thiefs, None, b"", own.der[:-1]):
        refusal = mesh.refuses(shown, token, code="proof_invalid")
        assert own.thumbprint not in refusal.sentence
    assert mesh.admits(own, token).agent.id == "procurement"  # refusing the thief forgets nobody


def test_a_bound_token_is_not_for_dpop(mesh: Mesh, issuer: Issuer) -> None:
    """I16: a token of a certificate is refused under the scheme of another proof, even over its certificate."""
    own = AUTHORITY.svid(lives=mesh.lives())
    _, value = bound(mesh, issuer, own)
    mesh.refuses(own, ("Authorization", value.replace("Bearer", "DPoP")), code="proof_invalid")


def test_the_certificate_of_a_bound_token_ends_too(mesh: Mesh, issuer: Issuer) -> None:
    """A bound token is refused once its certificate has ended, though the token itself would hold for longer."""
    own = AUTHORITY.svid(lives=mesh.lives(ends=50.0))
    token = bound(mesh, issuer, own)
    assert mesh.admits(own, token).agent.id == "procurement"
    mesh.clock.pass_(80)
    mesh.refuses(own, token, code="proof_invalid")


@pytest.mark.parametrize("where", ["globally", "issuer", "agent"])
def test_where_proof_is_required(where: str, clock: SetClock, issuer: Issuer) -> None:
    """An unbound token is refused where a proof is required, with the way out; what is bound passes."""
    agent = AgentSettings(id="procurement", issuer="dev", subject=issuer.subject, require_proof=where == "agent")
    mesh = Mesh(clock, issuer, agents=(agent, AGENTS[0]), require_proof=where == "globally")
    if where == "issuer":
        dev = issuer_settings(issuer, require_proof=True)
        keys = KeptSources({str(Path("keys", "dev.json")): issuer.jwks()}, {}, {})
        settings = IdentitySettings(audience=issuer.audience, issuers=(dev, MESH))
        mesh.identity = Identity.build(settings, (agent, AGENTS[0]), keys, clock, PUBLIC_URL)
    own = AUTHORITY.svid(lives=mesh.lives())
    refusal = mesh.refuses(own, bearer(issuer.token(clock.now())), code="proof_invalid")
    assert "8705" in refusal.sentence
    assert "9449" in refusal.sentence
    assert mesh.admits(own, bound(mesh, issuer, own)).agent.id == "procurement"
    assert mesh.admits(own).agent.id == "buyer"  # a certificate is its own proof
