"""Each kind of token by its own rules: what it must be, and whose it then is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.identity.kinds import KINDS, MAX_DEPTH, kinds_by_type
from gateway.identity.settings import AgentSettings, IssuerSettings, KeySettings
from tests.identity.door import Door, issuer_settings
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer

ACCOUNT = "system:serviceaccount:pay:buyer"
WORKLOAD = "spiffe://acme.example/agent/procurement"
EVIL = "spiffe://acme.example.evil/agent/procurement"
THUMBPRINT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


def make(kind: str, **members: Any) -> Issuer:  # noqa: ANN401 - fields of any type
    """An issuer of this kind alone; its algorithm is one that every kind takes."""
    return Issuer(**{"kind": kind, "alg": "ES256", "subject": ACCOUNT if kind == "k8s" else WORKLOAD, **members})


@pytest.fixture(scope="module")
def svids() -> Issuer:
    return make("jwt-svid")


@pytest.fixture(scope="module")
def transactions() -> Issuer:
    return make("txn-token")


@pytest.fixture(scope="module")
def cluster() -> Issuer:
    return make("k8s")


@pytest.fixture(scope="module")
def oauth() -> Issuer:
    return make("at+jwt")


@pytest.mark.parametrize("alg", ["ES256", "RS256"])
@pytest.mark.parametrize("kind", ["jwt", "at+jwt", "jwt-svid", "k8s", "txn-token"])
def test_a_good_token_of_each_kind(kind: str, alg: str, clock: SetClock) -> None:
    """Whatever kind of token an issuer gives out, its bearer is the agent that the token names."""
    issuer = make(kind, alg=alg)
    principal = Door(issuer, clock=clock).admits(issuer.token(clock.time))
    assert (principal.agent.id, principal.subject, principal.assurance) == ("procurement", issuer.subject, "bearer")
    assert principal.binding is None


KIND_NAMES = ["jwt", "at+jwt", "jwt-svid", "k8s", "txn-token"]


@pytest.mark.parametrize("configured", KIND_NAMES)
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_kind_where_another_is_configured(kind: str, configured: str, clock: SetClock) -> None:
    """I10: a token counts only as one of the kinds that its issuer gives out, though the same key signed it."""
    if kind == configured or (kind, configured) == ("jwt-svid", "jwt"):
        return  # an SVID is a JWT of `typ` JWT: an issuer of `jwt` that lists this type gives out such tokens
    signer = make(kind)
    trusted = make(configured, key=signer.key)
    settings = [issuer_settings(trusted, typ=("JWT",))]
    subjects = [AgentSettings(id=f"a{n}", issuer="dev", subject=sub) for n, sub in enumerate((WORKLOAD, ACCOUNT))]
    door = Door(trusted, clock=clock, settings=settings, agents=subjects)
    header = trusted.header(**({"typ": "JWT"} if configured == "jwt" else {}))
    door.admits(trusted.sign(header, trusted.claims(clock.time)))
    for iss in (trusted.iss, ...):
        door.refuses(signer.token(clock.time, iss=iss))


OTHERS = ["wf-attestation+jwt", "dpop+jwt", "wit+jwt", "wpt+jwt", "secevent+jwt", "logout+jwt", "ID", "jwt+at", "*", ""]


@pytest.mark.parametrize("typ", [*OTHERS, None, 1, ["JWT"], "application/", "at+jwt ", "a t+jwt"])
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_what_is_signed_for_another_use(kind: str, typ: object, clock: SetClock) -> None:
    """I10: whatever else the same issuer signs with the same key (attestations, proofs, events) is no token here."""
    issuer = make(kind)
    door = Door(issuer, clock=clock)
    refusal = door.refuses(issuer.sign(issuer.header(typ=typ), issuer.claims(clock.time)))
    assert "typ" in str(refusal.detail)


@pytest.mark.parametrize("kind", ["at+jwt", "txn-token"])
def test_a_kind_with_a_type_of_its_own_needs_it(kind: str, clock: SetClock) -> None:
    """I10: RFC 9068 access tokens and transaction tokens say what they are: `JWT`, or nothing, is not enough."""
    issuer = make(kind)
    door = Door(issuer, clock=clock)
    for typ in (..., "JWT"):
        door.refuses(issuer.sign(issuer.header(typ=typ), issuer.claims(clock.time)))
    name = str(issuer.header()["typ"])
    for typ in (name.upper(), f"application/{name}"):
        door.admits(issuer.sign(issuer.header(typ=typ), issuer.claims(clock.time)))


@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize("missing", ["sub", "aud", "exp"])
def test_what_every_kind_needs(kind: str, missing: str, clock: SetClock) -> None:
    """I7, I8: there is no kind without a subject, an audience and an end."""
    issuer = make(kind)
    Door(issuer, clock=clock).refuses(issuer.token(clock.time, **{missing: ...}))


@pytest.mark.parametrize("name", ["iss", "client_id", "iat", "jti"])
@pytest.mark.parametrize("value", [..., None, ""])
def test_access_token_of_rfc_9068(name: str, value: object, oauth: Issuer, clock: SetClock) -> None:
    """An `at+jwt` without what RFC 9068 §2.2 requires is refused, with the names of all that is missing in the log."""
    door = Door(oauth, clock=clock)
    refusal = door.refuses(oauth.token(clock.time, **{name: value}))
    assert name in str(refusal.detail)
    refusal = door.refuses(oauth.token(clock.time, client_id=..., iat=..., jti=...))
    assert "client_id, iat, jti" in str(refusal.detail)


def test_access_tokens_beside_others(clock: SetClock) -> None:
    """One issuer may give out more than one kind; each token is held to the rules of its own `typ`."""
    issuer = make("jwt")
    door = Door(issuer, clock=clock, settings=[issuer_settings(issuer, kinds=("jwt", "at+jwt", "txn-token"))])
    door.admits(issuer.sign(issuer.header(typ="JWT"), issuer.claims(clock.time)))
    door.refuses(issuer.sign(issuer.header(typ="at+jwt"), issuer.claims(clock.time)))
    door.admits(issuer.sign(issuer.header(typ="at+jwt"), issuer.claims(clock.time, client_id="c")))
    door.refuses(issuer.sign(issuer.header(typ="txntoken+jwt"), issuer.claims(clock.time)))


# JWT-SVID

HOSTILE_IDS = [
    "spiffe://acme.example/agent/../agent/procurement",
    "spiffe://acme.example/agent/%2e%2e/procurement",
    "spiffe://acme.example/agent/%70rocurement",
    "spiffe://ACME.example/agent/procurement",
    "SPIFFE://acme.example/agent/procurement",
    "spiffe://acme.example:8080/agent/procurement",
    "spiffe://user@acme.example/agent/procurement",
    "spiffe://acme.example/agent/procurement/",
    "spiffe://acme.example//agent/procurement",
    "spiffe://acme.example/agent/procurement?x",
    "spiffe://acme.example/agent/procurement#x",
    "spiffe://acme.example.evil/agent/procurement",
    "spiffe://acme.example-evil/agent/procurement",
    "spiffe://evil.acme.example/agent/procurement",
    "spiffe://acme.exampl/agent/procurement",
    "spiffe://acme.example",
    "spiffe://acme.example/",
    "acme.example/agent/procurement",
    "agent/procurement",
    "spiffe://acme.example/agent/" + "x" * 2048,
]


@pytest.mark.parametrize("iss", [..., "https://issuer.example"])
@pytest.mark.parametrize("sub", HOSTILE_IDS)
def test_hostile_spiffe_ids(sub: str, iss: object, svids: Issuer, clock: SetClock) -> None:
    """I13: an SVID's subject is exactly a workload's SPIFFE ID in the trust domain whose keys signed it.

    Each of these names is registered, so that the grammar alone keeps them out.
    """
    agents = [AgentSettings(id="victim", issuer="dev", subject=sub), AgentSettings(id="a", issuer="dev", subject="x/*")]
    Door(svids, clock=clock, agents=agents).refuses(svids.token(clock.time, sub=sub, iss=iss))


def test_trust_domain_of_another_issuer(svids: Issuer, clock: SetClock) -> None:
    """I11, I13: the keys of one trust domain sign for no workload of another, with and without an `iss`."""
    other = make("jwt-svid", name="other", iss="https://other.example")
    both = [issuer_settings(svids), issuer_settings(other, trust_domain="acme.example.evil")]
    agents = [AgentSettings(id=one, issuer=one, subject=WORKLOAD) for one in ("dev", "other")]
    agents += [AgentSettings(id="evil", issuer=one, subject=EVIL) for one in ("dev", "other")]
    door = Door(svids, other, clock=clock, settings=both, agents=agents)
    for iss in (..., svids.iss, other.iss):
        door.refuses(other.token(clock.time, iss=iss))
        door.refuses(svids.token(clock.time, iss=iss, sub=EVIL))
    assert door.admits(svids.token(clock.time)).agent.id == "dev"
    assert door.admits(other.token(clock.time, sub=EVIL)).issuer == "other"


@pytest.mark.parametrize("member", ["cty", "x5t", "x5t#S256", "b64", "nonce", "x", "zip", "Kid"])
def test_header_of_an_svid(member: str, svids: Issuer, oauth: Issuer, clock: SetClock) -> None:
    """A JWT-SVID's header has `alg`, `kid` and `typ` and nothing else (JWT-SVID §2); other kinds' may have more."""
    for issuer, takes in ((svids, False), (oauth, True)):
        door = Door(issuer, clock=clock)
        token = issuer.sign(issuer.header(**{member: "x"}), issuer.claims(clock.time))
        if takes:
            door.admits(token)
        else:
            door.refuses(token)


@pytest.mark.parametrize("typ", [..., "JWT", "JOSE"])
def test_types_of_an_svid(typ: object, svids: Issuer, clock: SetClock) -> None:
    """JWT-SVID §2.3: `typ` is `JWT` or `JOSE`, or not there; without a `kid` the only fitting key is meant."""
    door = Door(svids, clock=clock)
    for kid in ("key-1", ...):
        door.admits(svids.sign(svids.header(typ=typ, kid=kid), svids.claims(clock.time)))


def test_no_eddsa_in_svids(clock: SetClock) -> None:
    """JWT-SVID §2.1 lists the algorithms, and EdDSA is none of them, though the operator listed it."""
    issuer = make("jwt-svid", alg="EdDSA")
    refusal = Door(issuer, clock=clock).refuses(issuer.token(clock.time))
    assert "EdDSA" in str(refusal.detail)


@pytest.mark.parametrize("use", ["sig", "x509-svid", None, "enc"])
def test_keys_of_another_use_sign_no_svid(use: str | None, clock: SetClock) -> None:
    """A bundle's keys for another use, and those that name none, verify no JWT-SVID (SPIFFE bundles §4.2.2)."""

    class Bundle(Issuer):
        def jwks(self) -> bytes:
            key = {name: value for name, value in self.jwk().items() if name != "use"}
            return json.dumps({"keys": [key if use is None else key | {"use": use}]}).encode()

    issuer = Bundle(kind="jwt-svid", alg="ES256")
    refusal = Door(issuer, clock=clock).refuses(issuer.token(clock.time))
    assert "no key" in str(refusal.detail)


@pytest.mark.parametrize(
    ("iss", "takes"), [(..., True), ("https://issuer.example", True), ("https://x.example", False)]
)
def test_issuer_of_an_svid(iss: object, takes: bool, svids: Issuer, clock: SetClock) -> None:  # noqa: FBT001 - a table
    """I12: an SVID may go without `iss`; where it has one, it is the one that is configured."""
    door = Door(svids, clock=clock)
    if takes:
        assert door.admits(svids.token(clock.time, iss=iss)).iss == svids.iss
    else:
        door.refuses(svids.token(clock.time, iss=iss))


def test_svid_issuer_without_iss(svids: Issuer, clock: SetClock) -> None:
    """A trust domain that is configured without `iss` is known by its SPIFFE ID, whatever `iss` its server writes."""
    door = Door(svids, clock=clock, settings=[issuer_settings(svids, iss="")])
    for iss in (..., "https://spire.example", "spiffe://acme.example"):
        principal = door.admits(svids.token(clock.time, iss=iss))
        assert principal.owner == ("spiffe://acme.example", WORKLOAD)
    for wrong in (None, 1, ["https://spire.example"]):
        door.refuses(svids.token(clock.time, iss=wrong))


@pytest.mark.parametrize("sub", [WORKLOAD, "spiffe:///agent/procurement", "spiffe://"])
@pytest.mark.parametrize("domain", [None, "acme.example"])
def test_trust_domain_never_stands_for_another_kind(sub: str, domain: str | None, clock: SetClock) -> None:
    """I12: only SVIDs may go without `iss`; a subject that is a SPIFFE ID gets no other token in."""
    issuer = make("jwt", subject=sub)
    kinds = ("jwt", "x509-svid") if domain else ("jwt",)
    door = Door(issuer, clock=clock, settings=[issuer_settings(issuer, kinds=kinds, trust_domain=domain)])
    door.admits(issuer.token(clock.time))
    refusal = door.refuses(issuer.token(clock.time, iss=...))
    assert "no configured issuer's" in str(refusal.detail)


def test_a_fetched_bundle(svids: Issuer, clock: SetClock) -> None:
    """The keys of a trust domain are those for JWT-SVIDs, wherever the bundle comes from."""
    fetched = issuer_settings(svids, keys=KeySettings(url="https://spire.example/bundle"))
    door = Door(svids, clock=clock, settings=[fetched])
    door.identity.adopt({svids.name: svids.jwks()})
    door.admits(svids.token(clock.time))
    door.identity.adopt({svids.name: svids.jwks().replace(b"jwt-svid", b"sig")})
    door.refuses(svids.token(clock.time))


@pytest.mark.parametrize("kind", ["jwt-svid", "k8s", "txn-token"])
def test_actors_where_they_have_no_meaning(kind: str, clock: SetClock) -> None:
    """I18: these kinds name one who acts, so one that names a second in `act` is refused, and never guessed about."""
    issuer = make(kind)
    refusal = Door(issuer, clock=clock).refuses(issuer.token(clock.time, act={"sub": WORKLOAD}))
    assert "act" in str(refusal.detail)


# Kubernetes


@pytest.mark.parametrize(
    ("sub", "there"),
    [
        (ACCOUNT, ...),
        (ACCOUNT, None),
        (ACCOUNT, "pay"),
        (ACCOUNT, {}),
        (ACCOUNT, {"namespace": "pay"}),
        (ACCOUNT, {"namespace": "pay", "serviceaccount": "buyer"}),
        (ACCOUNT, {"namespace": "pay", "serviceaccount": {}}),
        (ACCOUNT, {"namespace": "pay", "serviceaccount": {"name": ["buyer"]}}),
        (ACCOUNT, {"namespace": "other", "serviceaccount": {"name": "buyer"}}),
        (ACCOUNT, {"namespace": "pay", "serviceaccount": {"name": "other"}}),
        ("system:serviceaccount:pay:buyer:x", {"namespace": "pay", "serviceaccount": {"name": "buyer:x"}}),
        ("system:serviceaccount:pay:x:buyer", {"namespace": "pay:x", "serviceaccount": {"name": "buyer"}}),
        ("system:serviceaccount:PAY:buyer", {"namespace": "PAY", "serviceaccount": {"name": "buyer"}}),
        ("system:serviceaccount::buyer", {"namespace": "", "serviceaccount": {"name": "buyer"}}),
        ("system:node:buyer", {"namespace": "pay", "serviceaccount": {"name": "buyer"}}),
        ("user", {"namespace": "pay", "serviceaccount": {"name": "buyer"}}),
    ],
)
def test_service_accounts(sub: str, there: object, cluster: Issuer, clock: SetClock) -> None:
    """I10: only what a cluster says twice alike, in `sub` and in `kubernetes.io`, is a service account."""
    agents = [AgentSettings(id="a", issuer="dev", subject=sub)]
    door = Door(cluster, clock=clock, agents=agents)
    refusal = door.refuses(cluster.token(clock.time, sub=sub, **{"kubernetes.io": there}))
    assert "service account" in str(refusal.detail) or "kubernetes.io" in str(refusal.detail)


def test_service_account_token_with_a_type(cluster: Issuer, clock: SetClock) -> None:
    """Clusters write no `typ`; one that writes `JWT` is understood, and nothing else."""
    door = Door(cluster, clock=clock)
    door.admits(cluster.sign(cluster.header(typ="JWT"), cluster.claims(clock.time, aud=[cluster.audience])))
    door.refuses(cluster.sign(cluster.header(typ="at+jwt"), cluster.claims(clock.time)))


# Transaction tokens


def test_transaction_token(transactions: Issuer, clock: SetClock) -> None:
    """The requesting workload is the agent, the subject whom it acts for, `txn` the run and `tctx` the facts."""
    principal = Door(transactions, clock=clock).admits(transactions.token(clock.time))
    assert (principal.subject, principal.on_behalf_of) == (WORKLOAD, "user/anna")
    assert principal.run == "97053963-771d-49cc-a4e3-20aad399c312"
    assert principal.scope == frozenset({"trade.stocks"})
    assert principal.context["quantity"] == 100
    customer: Any = principal.context["customer"]
    assert (customer["geo"], customer["tags"]) == ("US", ("vip",))
    with pytest.raises(TypeError):
        principal.context["quantity"] = 1  # type: ignore[index]
    with pytest.raises(TypeError):
        customer["geo"] = "DE"


def test_transaction_of_a_workload_itself(transactions: Issuer, clock: SetClock) -> None:
    """I19: a workload that is its own subject acts for nobody: no user is made out of it."""
    principal = Door(transactions, clock=clock).admits(transactions.token(clock.time, sub=WORKLOAD, tctx=...))
    assert (principal.subject, principal.on_behalf_of, dict(principal.context)) == (WORKLOAD, "", {})


@pytest.mark.parametrize("name", ["iat", "txn", "sub", "scope", "req_wl"])
@pytest.mark.parametrize("value", [..., None, "", 0.5, ["x"]])
def test_what_a_transaction_token_needs(name: str, value: object, transactions: Issuer, clock: SetClock) -> None:
    """I10: a transaction token without one of the claims that its draft requires is refused."""
    refusal = Door(transactions, clock=clock).refuses(transactions.token(clock.time, **{name: value}))
    assert name in str(refusal.detail)


@pytest.mark.parametrize("txn", ["a b", "-x", "x" * 129, "a/b", "x\n"])
def test_transaction_that_is_no_run(txn: str, transactions: Issuer, clock: SetClock) -> None:
    """A `txn` follows the grammar of runs, since it names one."""
    Door(transactions, clock=clock).refuses(transactions.token(clock.time, txn=txn))


def test_transaction_and_run_disagree(transactions: Issuer, clock: SetClock) -> None:
    """One token names one run: a claim `run` beside `txn` says the same or the token is refused."""
    door = Door(transactions, clock=clock)
    assert door.admits(transactions.token(clock.time, txn="t-1", run="t-1")).run == "t-1"
    refusal = door.refuses(transactions.token(clock.time, txn="t-1", run="t-2"))
    assert "different runs" in str(refusal.detail)


def nested(depth: int) -> object:
    """Objects in each other."""
    value: object = 1
    for _ in range(depth):
        value = {"x": value}
    return value


@pytest.mark.parametrize("context", [None, [], "x", 1, nested(MAX_DEPTH + 1), {"x": [nested(MAX_DEPTH - 1)]}])
def test_context_that_cannot_be_kept(context: object, transactions: Issuer, clock: SetClock) -> None:
    """A `tctx` that is no object, or nested too deeply, is refused; the deepest that is kept is kept whole."""
    door = Door(transactions, clock=clock)
    refusal = door.refuses(transactions.token(clock.time, tctx=context))
    assert "tctx" in str(refusal.detail) or "context" in str(refusal.detail)
    assert door.admits(transactions.token(clock.time, tctx=nested(MAX_DEPTH))).context


def test_context_of_another_kind(oauth: Issuer, clock: SetClock) -> None:
    """Only a transaction token has a transaction's facts: what others call `tctx` or `txn` means nothing."""
    claims: dict[str, Any] = {"tctx": {"x": 1}, "txn": "t-1", "req_wl": "x", "": {"x": 1}}
    principal = Door(oauth, clock=clock).admits(oauth.token(clock.time, **claims))
    assert (dict(principal.context), principal.run, principal.subject) == ({}, None, WORKLOAD)


# Tables and settings


def test_the_kind_follows_from_the_type() -> None:
    """A kind with a `typ` of its own comes before `jwt`, which takes the list of its issuer, in any order."""
    for kinds in (("jwt", "at+jwt"), ("at+jwt", "jwt")):
        assert kinds_by_type(kinds, ("at+jwt", "JWT")) == {"at+jwt": KINDS["at+jwt"], "jwt": KINDS["jwt"]}
    assert kinds_by_type(("x509-svid",), ("at+jwt", "JWT")) == {}
    assert kinds_by_type(("k8s",), ("at+jwt",)) == {None: KINDS["k8s"], "jwt": KINDS["k8s"]}


@pytest.mark.parametrize(
    ("kinds", "typ", "said"),
    [
        (("jwt-svid", "at+jwt"), ("JWT",), "sign JWT-SVIDs and no other tokens"),
        (("jwt-svid", "x509-svid"), ("JWT",), ""),
        (("jwt",), ("JWT", "application/txntoken+jwt"), "rules of its own"),
        (("jwt", "k8s"), ("JWT",), "cannot be told apart"),
        (("jwt", "at+jwt", "txn-token"), ("JWT",), ""),
    ],
)
def test_kinds_that_exclude_each_other(kinds: Any, typ: Any, said: str) -> None:  # noqa: ANN401 - a table
    """Kinds that could be taken for each other at one issuer are a mistake in the configuration."""
    domain = "acme.example" if "jwt-svid" in kinds else None
    keys = KeySettings(url="https://issuer.example/jwks")
    issuer = IssuerSettings(name="a", iss="https://a.example", kinds=kinds, typ=typ, trust_domain=domain, keys=keys)
    problems = [problem for _, problem, _ in issuer.mistakes()]
    assert [said in problem for problem in problems] == ([True] if said else [])


# Bound tokens


@pytest.mark.parametrize(("method", "assurance"), [("jkt", "bound"), ("x5t#S256", "mtls")])
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_bound_tokens(kind: str, method: str, assurance: str, clock: SetClock) -> None:
    """A token that names one key is bound to it, whatever its kind, and no bearer has anything of it."""
    issuer = make(kind)
    door = Door(issuer, clock=clock)
    token = issuer.token(clock.time, cnf={method: THUMBPRINT})
    door.refuses(token, code="proof_invalid")
    principal = door.identity.inspect(token).principal
    assert principal is not None
    assert (principal.binding, principal.assurance) == ((method, THUMBPRINT), assurance)


@pytest.mark.parametrize(
    "cnf",
    [
        *(
            None,
            "x",
            [],
            {},
            {"jkt": None},
            {"jkt": 1},
            {"jkt": ""},
            {"jkt": THUMBPRINT + "="},
            {"jkt": THUMBPRINT[:-1]},
        ),
        *({"jkt": THUMBPRINT + "A"}, {"jkt": THUMBPRINT[:-1] + "J"}, {"jkt": THUMBPRINT.replace("-", "+")}),
        *({"JKT": THUMBPRINT}, {"x5t": THUMBPRINT}, {"kid": "key-1"}, {"jku": "https://evil.example"}, {"jwe": "x"}),
        {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": THUMBPRINT}},
        {"jkt": THUMBPRINT, "x5t#S256": THUMBPRINT},
        {"jkt": THUMBPRINT, "jwk": {}},
        {"jkt": THUMBPRINT, "x": 1},
        [{"jkt": THUMBPRINT}],
    ],
)
def test_confirmation_that_cannot_be_proven(cnf: object, issuer: Issuer, clock: SetClock, door: Door) -> None:
    """I16: a binding that is not understood to its end is refused: it is never a bearer token instead."""
    refusal = door.refuses(issuer.token(clock.time, cnf=cnf))
    assert "cnf" in str(refusal.detail)
