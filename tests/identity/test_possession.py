"""A bound token counts only with its key, however it is presented; an unbound one never gains by a proof."""

from __future__ import annotations

import pytest

from gateway.core.errors import Refusal
from gateway.core.principal import Binding, Principal
from gateway.identity.proof import LEFT_OUT, NOT_BOUND, REQUIRED, SENTENCE
from gateway.identity.settings import AgentSettings
from tests.identity.door import PUBLIC_URL, Alone, Door, head, identify, issuer_settings
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer
from tests.simulator.prover import Prover

URL = f"{PUBLIC_URL}/v1/chat/completions"


class Client:
    """An agent with a key, before a door where its token is bound to that key."""

    def __init__(self, door: Door, issuer: Issuer, clock: SetClock) -> None:
        """Learn the nonce as a client does: from a refusal."""
        self.door, self.clock, self.authority = door, clock, Alone()
        self.prover = Prover()
        self.token = issuer.token(clock.time, cnf=self.prover.cnf)
        refusal = self.refused(("Authorization", f"DPoP {self.token}"), ("DPoP", self.proof()))
        assert refusal.fields == {"error": "use_dpop_nonce"}
        self.prover.nonce = dict(refusal.headers)["DPoP-Nonce"]

    def proof(self, token: str | None = None) -> str:
        """A fresh proof for the request that `head` makes."""
        return self.prover.proof("POST", URL, token or self.token, self.clock.time)

    def admitted(self, *headers: tuple[str, str]) -> Principal:
        """Who this is."""
        return identify(self.door.identity, head(("Host", "gateway.example"), *headers), authority=self.authority)

    def refused(self, *headers: tuple[str, str]) -> Refusal:
        """The refusal: always 401 `proof_invalid`, always with the nonce for the next try."""
        with pytest.raises(Refusal) as caught:
            self.admitted(*headers)
        refusal = caught.value
        assert (refusal.code, refusal.status) == ("proof_invalid", 401), refusal.detail
        assert dict(refusal.headers)["DPoP-Nonce"]
        return refusal


@pytest.fixture
def client(door: Door, issuer: Issuer, clock: SetClock) -> Client:
    return Client(door, issuer, clock)


def test_a_bound_token_with_its_proof(client: Client) -> None:
    """The token and its proof make a principal that says how sure it is, and by which key."""
    for _ in range(2):  # verified, then remembered
        principal = client.admitted(("Authorization", f"DPoP {client.token}"), ("DPoP", client.proof()))
        assert (principal.agent.id, principal.assurance) == ("procurement", "bound")
        assert principal.binding == Binding("jkt", client.prover.thumbprint)
        assert client.door.identity.next_nonce(principal) == client.prover.nonce


def test_a_remembered_token_is_proven_again(client: Client) -> None:
    """I15: that a token was proven a moment ago says nothing of who sends it now."""
    proof = client.proof()
    client.admitted(("Authorization", f"dpop {client.token}"), ("DPoP", proof))
    assert client.refused(("Authorization", f"DPoP {client.token}"), ("DPoP", proof)).sentence == SENTENCE
    assert client.refused(("Authorization", f"DPoP {client.token}")).sentence == SENTENCE


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "x-goog-api-key"])
def test_a_bound_token_as_a_bearer_token(client: Client, name: str) -> None:
    """I16: without the DPoP scheme a bound token is refused, with a good proof beside it too (RFC 9449 §7.2)."""
    presented = name, f"Bearer {client.token}" if name == "Authorization" else client.token
    for headers in ([presented], [presented, ("DPoP", client.proof())]):
        refusal = client.refused(*headers)
        assert (refusal.sentence, refusal.fields) == (LEFT_OUT, {"error": "invalid_token"})


def test_an_unbound_token_as_a_bound_one(client: Client, issuer: Issuer) -> None:
    """I16: the DPoP scheme does not make a token bound, whoever signs the proof."""
    token = issuer.token(client.clock.time)
    refusal = client.refused(("Authorization", f"DPoP {token}"), ("DPoP", client.proof(token)))
    assert (refusal.sentence, refusal.fields) == (NOT_BOUND, {"error": "invalid_token"})


def test_a_proof_beside_a_bearer_token(client: Client, issuer: Issuer) -> None:
    """I16: a proof beside an unbound bearer token is not looked at, and makes nothing surer."""
    token = issuer.token(client.clock.time)
    for proof in (client.proof(token), "nonsense"):
        principal = client.admitted(("Authorization", f"Bearer {token}"), ("DPoP", proof))
        assert (principal.assurance, principal.binding) == ("bearer", None)
        assert client.door.identity.next_nonce(principal) == ""


def test_a_token_of_a_certificate_as_one_of_a_key(client: Client, issuer: Issuer) -> None:
    """I16: a token that is bound to a client certificate cannot be proven by DPoP, with the same thumbprint either."""
    token = issuer.token(client.clock.time, cnf={"x5t#S256": client.prover.thumbprint})
    refusal = client.refused(("Authorization", f"DPoP {token}"), ("DPoP", client.proof(token)))
    assert refusal.sentence == NOT_BOUND


@pytest.mark.parametrize("where", ["issuer", "agent"])
def test_where_a_proof_is_required(issuer: Issuer, clock: SetClock, where: str) -> None:
    """An unbound token is refused with how to get a bound one; a bound one still needs its proof."""
    agent = AgentSettings(id="procurement", issuer=issuer.name, subject=issuer.subject, require_proof=where == "agent")
    settings = [issuer_settings(issuer, require_proof=where == "issuer")]
    client = Client(Door(issuer, clock=clock, agents=[agent], settings=settings), issuer, clock)
    token = issuer.token(clock.time)
    assert client.refused(("Authorization", f"Bearer {token}")).sentence == REQUIRED
    assert client.refused(("x-api-key", token)).sentence == REQUIRED
    assert client.refused(("Authorization", f"DPoP {token}"), ("DPoP", client.proof(token))).sentence == NOT_BOUND
    client.refused(("Authorization", f"Bearer {client.token}"))
    client.admitted(("Authorization", f"DPoP {client.token}"), ("DPoP", client.proof()))
