"""Kinds of token over the whole way: SVIDs, service accounts, access tokens and transactions at one real listener."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from tests.simulator.gateway import Gateway
from tests.simulator.issuer import Issuer

WORKLOAD: Final = "spiffe://acme.example/agent/procurement"
ACCOUNT: Final = "system:serviceaccount:pay:buyer"
HOSTILE_IDS: Final = [
    "spiffe://acme.example/agent/../agent/procurement",
    "spiffe://acme.example/agent/%2e%2e/agent/procurement",
    "spiffe://ACME.example/agent/procurement",
    "spiffe://acme.example:443/agent/procurement",
    "spiffe://acme.example/agent/procurement/",
    "spiffe://acme.example.evil/agent/procurement",
    "spiffe://acme.example/agent//procurement",
    "spiffe://acme.example",
]

MESH, CLUSTER, OAUTH, TRANSACTIONS = (
    Issuer(name=name, iss=f"https://{name}.example", kind=kind, alg="ES256", subject=subject)
    for name, kind, subject in (
        ("mesh", "jwt-svid", WORKLOAD),
        ("cluster", "k8s", ACCOUNT),
        ("oauth", "at+jwt", "client:procurement"),
        ("transactions", "txn-token", WORKLOAD),
    )
)
ISSUERS: Final = {issuer.name: issuer for issuer in (MESH, CLUSTER, OAUTH, TRANSACTIONS)}


def written(issuer: Issuer) -> dict[str, Any]:
    """The issuer in the configuration; the mesh is known by its trust domain alone."""
    of: dict[str, Any] = {"name": issuer.name, "kinds": [issuer.kind], "keys": {"file": f"{issuer.name}.json"}}
    return {**of, "trust_domain": "acme.example"} if issuer is MESH else {**of, "iss": issuer.iss}


def account(namespace: str, name: str) -> dict[str, object]:
    """What a cluster says of a service account."""
    return {"namespace": namespace, "serviceaccount": {"name": name}}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("kinds")
    for issuer in ISSUERS.values():
        (folder / f"{issuer.name}.json").write_bytes(issuer.jwks())
    # A wildcard: what is refused is refused for its spelling, and not because nobody registered it.
    agents = [{"id": one.name, "issuer": one.name, "subject": one.subject} for one in ISSUERS.values()]
    agents += [{"id": "any", "issuer": "mesh", "subject": "spiffe://acme.example/*"}]
    identity = {"audience": MESH.audience, "issuers": [written(issuer) for issuer in ISSUERS.values()]}
    with Gateway(folder, config={"identity": identity, "agents": agents}) as running:
        yield running


def status(gateway: Gateway, token: str) -> tuple[int, str]:
    """What one model list of this token's bearer gets."""
    reply = gateway.call("GET", "/v1/models", token=token)
    return reply.status, reply.refusal if reply.status != 200 else ""


@pytest.mark.parametrize("name", ISSUERS)
def test_each_kind_is_let_in(gateway: Gateway, name: str) -> None:
    """A good token of each kind is its agent's."""
    assert status(gateway, ISSUERS[name].token()) == (200, "")


@pytest.mark.parametrize("iss", [..., "https://spire.example"])
@pytest.mark.parametrize("sub", HOSTILE_IDS)
def test_hostile_spiffe_ids(gateway: Gateway, sub: str, iss: object) -> None:
    """I13: dot segments, escapes, capitals, a port, a slash at the end, a trust domain that only begins alike: 401."""
    assert status(gateway, MESH.token(sub=sub, iss=iss)) == (401, "identity_invalid")


TYPES: Final[Mapping[str, list[object]]] = {
    "mesh": ["at+jwt", "txntoken+jwt", "wf-attestation+jwt", "dpop+jwt", ""],
    "cluster": ["at+jwt", "JOSE", "txntoken+jwt", "wf-attestation+jwt", "dpop+jwt", ""],
    "oauth": [..., "JWT", "txntoken+jwt", "wf-attestation+jwt", "dpop+jwt", ""],
    "transactions": [..., "JWT", "at+jwt", "wf-attestation+jwt", "dpop+jwt", ""],
}


@pytest.mark.parametrize(("name", "typ"), [(name, typ) for name, types in TYPES.items() for typ in types])
def test_a_token_of_another_use(gateway: Gateway, name: str, typ: object) -> None:
    """I10: an ID token, a transaction token, an attestation, a proof of this issuer is not of its kind: 401."""
    issuer = ISSUERS[name]
    token = issuer.sign(issuer.header(typ=typ), issuer.claims())
    assert status(gateway, token) == (401, "identity_invalid")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mesh", {"act": {"sub": WORKLOAD}}),
        ("mesh", {"aud": [MESH.audience, "https://other.example"]}),
        ("cluster", {"kubernetes.io": ...}),
        ("cluster", {"kubernetes.io": {"namespace": "pay", "serviceaccount": {"name": "other"}}}),
        ("cluster", {"sub": "system:serviceaccount:PAY:x", "kubernetes.io": account("PAY", "x")}),
        ("cluster", {"sub": "system:serviceaccount:pay:x:y", "kubernetes.io": account("pay", "x:y")}),
        ("oauth", {"client_id": ...}),
        ("oauth", {"jti": ...}),
        ("transactions", {"req_wl": ...}),
        ("transactions", {"txn": ...}),
        ("transactions", {"run": "another"}),
        ("transactions", {"tctx": "facts"}),
        ("transactions", {"tctx": json.loads('{"x":' * 9 + "1" + "}" * 9)}),
        ("transactions", {"cnf": {"kid": "key-1"}}),
    ],
)
def test_a_token_that_is_not_of_its_kind(gateway: Gateway, name: str, changes: dict[str, Any]) -> None:
    """I10: a well-signed token without what its kind demands, or with what it cannot have, is refused: 401."""
    assert status(gateway, ISSUERS[name].token(**changes)) == (401, "identity_invalid")


@pytest.mark.parametrize("member", ["cty", "x5t", "b64", "zip", "x"])
def test_a_member_that_no_svid_has(gateway: Gateway, member: str) -> None:
    """A JWT-SVID's header has `alg`, `kid` and `typ` and nothing else (JWT-SVID §2)."""
    assert status(gateway, MESH.sign(MESH.header(**{member: "x"}), MESH.claims())) == (401, "identity_invalid")


@pytest.mark.parametrize("signer", ISSUERS)
@pytest.mark.parametrize("claimed", ISSUERS)
def test_an_issuer_speaks_for_itself_alone(gateway: Gateway, signer: str, claimed: str) -> None:
    """I11: no issuer's key verifies the token of another one."""
    if signer != claimed:
        body = json.dumps(ISSUERS[claimed].claims()).encode()
        token = ISSUERS[signer].sign_bytes(json.dumps(ISSUERS[claimed].header()).encode(), body)
        assert status(gateway, token) == (401, "identity_invalid")


@pytest.mark.parametrize("alg", ["EdDSA", "RS256", "ES384", "PS256", "HS256", "none"])
def test_another_algorithm(gateway: Gateway, alg: str) -> None:
    """I3: an `alg` that is not the key's is refused, whether the issuer may use it or not."""
    token = MESH.sign(MESH.header(alg=alg), MESH.claims())
    assert status(gateway, token) == (401, "identity_invalid")


def test_a_transaction_names_its_run(gateway: Gateway) -> None:
    """The call of a transaction token belongs to the run `txn` and to the user that it names."""
    token = TRANSACTIONS.token(txn="txn-51")
    reply = gateway.call("POST", "/v1/chat/completions", {"model": "sim-a", "messages": []}, token=token)
    (row,) = gateway.wait_for_rows(1, "request_id = ?", reply.headers["gateway-request-id"])
    assert (row["agent"], row["run"], row["on_behalf_of"]) == ("transactions", "txn-51", "user/anna")


@pytest.mark.parametrize("jti", ["t-revoked", ...])
def test_a_revoked_token_under_another_signature(gateway: Gateway, jti: object) -> None:
    """S03: the mirrored ECDSA signature (r, n - s) of a stopped token holds too, and it is the stopped token."""
    token = MESH.token(jti=jti)
    mirrored = MESH.mirrored(token)
    assert status(gateway, mirrored) == status(gateway, token) == (200, "")
    signed = token.rpartition(".")[0]
    name = jti if isinstance(jti, str) else hashlib.sha256(signed.encode()).hexdigest()
    gateway.admin("POST", f"/admin/v1/tokens/{name}/stop")
    assert status(gateway, mirrored) == status(gateway, token) == (403, "agent_stopped")
    for spelling in (f"{mirrored}=", f"{signed}.", mirrored[:-1], MESH.mirrored(token, b"\0")):
        assert status(gateway, spelling) == (401, "identity_invalid")
