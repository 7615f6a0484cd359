"""Signed tokens of operators: verified like an agent's, matched to nobody else, and never an agent's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from gateway.core.errors import Refusal
from gateway.core.principal import StopKey
from gateway.core.sources import KeptSources
from gateway.core.stop import Stop
from gateway.identity.operators import SENTENCE, OperatorTokens, Subject
from gateway.identity.settings import AgentSettings, IdentitySettings, IssuerSettings, KeySettings
from tests.identity.door import PUBLIC_URL, issuer_settings
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer

DESK = "user/desk"
AGENT = "spiffe://acme.example/agent/procurement"
THUMBPRINT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


class Stage:
    """`OperatorTokens` for `user/desk` of the first issuer, with all that a test may turn."""

    def __init__(self, *issuers: Issuer, agents: Iterable[AgentSettings] = (), **changes: Any) -> None:  # noqa: ANN401 - settings of any type
        """`changes` are made to the settings of every issuer."""
        self.clock = SetClock()
        self.keys: dict[str, bytes | None] = {}
        self.next_keys: dict[str, bytes | None] = {}
        self.fetched: list[str] = []
        self.stopped: dict[StopKey, Stop] = {}
        settings: list[IssuerSettings] = [issuer_settings(issuer, **changes) for issuer in issuers]
        self.tokens = OperatorTokens(
            [Subject(issuers[0].name, DESK)],
            IdentitySettings(audience=PUBLIC_URL, issuers=tuple(settings)),
            [AgentSettings(id="procurement", issuer=issuers[0].name, subject=AGENT), *agents],
            KeptSources({f"keys/{issuer.name}.json": issuer.jwks() for issuer in issuers}, {}, {}),
            self.clock,
            keys=lambda: self.keys,
            fetch=self._fetch,
            stopped=lambda keys: next((self.stopped[key] for key in keys if key in self.stopped), None),
        )

    async def _fetch(self, issuer: str) -> None:
        self.fetched.append(issuer)
        self.keys = self.next_keys

    def admits(self, token: str) -> Subject:
        """Whose token this is."""
        return asyncio.run(self.tokens.verify(token))

    def refuses(self, token: str, why: str, code: str = "identity_invalid") -> Refusal:
        """The refusal of this token: the log hears why, the public one sentence."""
        with pytest.raises(Refusal) as caught:
            self.admits(token)
        refusal = caught.value
        assert (refusal.code, why in (refusal.detail or "")) == (code, True), refusal.detail
        if code == "identity_invalid":
            assert (refusal.status, refusal.sentence, refusal.fields) == (401, SENTENCE, {})
        return refusal


def desk(issuer: Issuer, stage: Stage, **changes: object) -> str:
    """The token of the operator, with claims changed."""
    return issuer.token(stage.clock.now(), **{"sub": DESK, **changes})


def test_an_operator_is_known_by_issuer_and_subject(issuer: Issuer) -> None:
    """A good token says whose it is; its subject is compared as a whole and character by character."""
    stage = Stage(issuer)
    assert stage.admits(desk(issuer, stage)) == ("dev", DESK)
    for sub in ("user/Desk", "user/desk/", "user/des", " user/desk", "user/desk2", "user/*", "desk"):
        stage.refuses(desk(issuer, stage, sub=sub), "no operator has the subject")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"aud": "https://other.example"}, "is not this gateway alone"),
        ({"aud": f"{PUBLIC_URL}/mcp/files"}, "is not this gateway alone"),
        ({"aud": [PUBLIC_URL, "https://other.example"]}, "is not this gateway alone"),
        ({"exp": 4102444800}, "max_lifetime"),
        ({"exp": ...}, "exp is missing"),
        ({"iat": 4102444800, "exp": 4102448400}, "not valid yet"),
        ({"iss": PUBLIC_URL}, "no configured issuer's"),
        ({"cnf": {"jkt": THUMBPRINT}}, "bound to a key"),
        ({"cnf": {"x5t#S256": THUMBPRINT}}, "bound to a key"),
        ({"cnf": {}}, "cnf is not one of"),
        ({"act": {"sub": DESK}}, "acts for somebody else"),
        ({"sub": "user/anna", "act": {"sub": DESK}}, "acts for somebody else"),
        ({"act": {"sub": AGENT}}, "acts for somebody else"),
        ({"sub": AGENT}, "that of agent procurement"),
    ],
)
def test_what_is_no_operators_token(changes: dict[str, object], why: str, issuer: Issuer) -> None:
    """I7, I8, I9, I15, I19: what an agent's token is refused for, and what a person never has, is refused here."""
    stage = Stage(issuer)
    stage.refuses(desk(issuer, stage, **changes), why)


def test_a_forged_one(issuer: Issuer) -> None:
    """I1: a token that somebody else signed under the issuer's name and key id is refused, and so is none at all."""
    stage, forger = Stage(issuer), Issuer()
    stage.refuses(desk(forger, stage), "the signature is not that of key key-1")
    none = issuer.sign({"alg": "none", "typ": "JWT"}, issuer.claims(stage.clock.now(), sub=DESK))
    stage.refuses(none, "alg 'none' is not accepted")
    stage.refuses("an operator's own token, misspelt", "not three canonical base64url segments")


def test_expired_means_that_all_else_was_right(issuer: Issuer) -> None:
    """I8: whoever did not have it signed is not told that a token has expired."""
    stage = Stage(issuer)
    old, forged = desk(issuer, stage), desk(Issuer(), stage)
    stage.clock.pass_(3600 + 31)
    refusal = stage.refuses(old, "the token expired at", code="identity_expired")
    assert "agent" not in refusal.sentence
    assert refusal.fields.keys() == {"expired_at"}
    stage.refuses(forged, "the signature is not that of key")


def test_another_issuer_has_another_desk(issuer: Issuer, rsa_issuer: Issuer) -> None:
    """I12: the same subject at an issuer that no operator is of is nobody, and its signature is not even looked at."""
    stage = Stage(issuer, rsa_issuer)
    stage.refuses(desk(rsa_issuer, stage), "no configured issuer's")


def test_who_is_an_agent_by_its_claims_is_no_operator(issuer: Issuer) -> None:
    """I19: a person's token that was made for an agent's application stays that agent's."""
    app = AgentSettings(id="assistant", issuer="dev", claims={"azp": "assistant-app"})
    stage = Stage(issuer, agents=[app])
    stage.refuses(desk(issuer, stage, azp="assistant-app"), "that of agent assistant")
    assert stage.admits(desk(issuer, stage, azp="console")).name == DESK


def test_a_transaction_token_is_no_operators(clock: SetClock) -> None:
    """I10: it speaks of one transaction, whoever began it."""
    txn = Issuer(kind="txn-token")
    stage = Stage(txn)
    for claims in ({"req_wl": DESK}, {"sub": DESK, "req_wl": DESK}, {"sub": DESK}):
        stage.refuses(txn.token(clock.now(), **claims), "acts for somebody else")


@pytest.mark.parametrize("key", [StopKey("issuer", "dev"), StopKey("token", "t-1")])
def test_who_is_stopped(key: StopKey, issuer: Issuer) -> None:
    """A stopped issuer or token opens nothing here either, until it is started again."""
    stage = Stage(issuer)
    stage.stopped[key] = Stop(key, 0.0, "night-shift", "stolen")
    stage.refuses(desk(issuer, stage), f"{key.kind} {key.id} was stopped by operator night-shift")
    stage.stopped.clear()
    assert stage.admits(desk(issuer, stage)).name == DESK


def test_fetched_keys(issuer: Issuer) -> None:
    """I11: keys are those of the moment; an unknown one is fetched once, and those that are withdrawn count no more."""
    stage = Stage(issuer, keys=KeySettings(url="https://issuer.example/jwks.json"))
    other = Issuer(kid="key-2")
    stage.refuses(desk(issuer, stage), "no key for kid 'key-1'", code="identity_source_unavailable")
    stage.next_keys = {"dev": issuer.jwks()}
    assert stage.admits(desk(issuer, stage)).name == DESK
    assert stage.fetched == ["dev", "dev"]
    assert stage.admits(desk(issuer, stage)).name == DESK
    assert stage.fetched == ["dev", "dev"]
    stage.refuses(desk(other, stage), "no key for kid 'key-2'")
    stage.next_keys = {"dev": other.jwks()}
    assert stage.admits(desk(other, stage)).name == DESK
    stage.refuses(desk(issuer, stage), "no key for kid 'key-1'")
    stage.keys = stage.next_keys = {}
    stage.refuses(desk(other, stage), "no key for kid 'key-2'", code="identity_source_unavailable")


def test_keys_of_a_file_are_not_fetched(issuer: Issuer) -> None:
    """A made-up key id of an issuer with a file makes no work for anybody."""
    stage = Stage(issuer)
    stage.refuses(desk(Issuer(kid="made-up"), stage), "no key for kid 'made-up'")
    assert stage.fetched == []
