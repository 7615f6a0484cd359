"""API keys for development: whose they are, how little they prove, and where they are kept out."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from gateway.core.call import Call
from gateway.core.errors import Refusal
from gateway.core.principal import StopKey
from gateway.core.sources import KeptSources
from gateway.identity import Identity, api_keys
from gateway.identity.settings import AgentSettings, IdentitySettings
from gateway.identity.tokens import SENTENCE
from gateway.policy import Facts, Known, load
from gateway.policy.settings import PoliciesSettings
from gateway.settings import Complaints
from tests.identity.door import PUBLIC_URL, head, identify, issuer_settings
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer

KEY, SECOND = "pgk_" + "a" * 43, "pgk_" + "b" * 43


def digest(key: str) -> str:
    """What the configuration holds of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def identity(clock: SetClock, issuer: Issuer) -> Identity:
    return build(clock, issuer)


def build(clock: SetClock, issuer: Issuer, *, require_proof: bool = False) -> Identity:
    """An agent with two keys and nothing else, and one with tokens."""
    agents = [
        AgentSettings(id="scratch", key_sha256=(digest(KEY), digest(SECOND)), team="research"),
        AgentSettings(id="procurement", issuer="dev", subject=issuer.subject),
    ]
    settings = IdentitySettings(
        audience=issuer.audience, issuers=(issuer_settings(issuer),), require_proof=require_proof
    )
    sources = KeptSources({str(Path("keys", "dev.json")): issuer.jwks()}, {}, {})
    return Identity.build(settings, agents, sources, clock, PUBLIC_URL)


@pytest.mark.parametrize("header", ["Authorization", "x-api-key", "x-goog-api-key"])
def test_whoever_has_the_key_is_the_agent(header: str, identity: Identity) -> None:
    """A key is taken wherever SDKs put theirs, and what is recorded of it is not the key."""
    value = f"Bearer {KEY}" if header == "Authorization" else KEY
    principal = identify(identity, head((header, value)))
    assert (principal.agent.id, principal.agent.team) == ("scratch", "research")
    assert (principal.issuer, principal.owner) == ("api-key", ("urn:passgate:api-key", "scratch"))
    assert (principal.assurance, principal.key_id, principal.token_id) == ("key", digest(KEY)[:16], digest(KEY))
    assert (principal.run, principal.on_behalf_of, principal.binding) == (None, "", None)
    assert principal.stops == {
        StopKey("agent", "scratch"), StopKey("issuer", "api-key"), StopKey("token", digest(KEY)),
    }  # fmt: skip
    assert KEY not in repr(principal)


def test_an_agent_may_have_several_keys(identity: Identity) -> None:
    """Two keys of one agent are one caller, told apart by their key ids: so a key can be replaced in peace."""
    one, other = (identify(identity, head(("x-api-key", key))) for key in (KEY, SECOND))
    assert one.owner == other.owner
    assert one.key_id != other.key_id


def test_a_key_does_not_end(identity: Identity, clock: SetClock) -> None:
    """It holds for as long as the configuration lists it, remembered or not."""
    for _ in range(3):
        assert identify(identity, head(("x-api-key", KEY))).agent.id == "scratch"
        clock.pass_(10 * 365 * 86400)


@pytest.mark.parametrize(
    "key",
    ["pgk_", "pgk_" + "c" * 43, KEY[:-1], KEY + "a", KEY.upper(), f"PGK_{KEY[4:]}", digest(KEY), f"pgk_{digest(KEY)}"],
)
def test_any_other_key_is_nobody(key: str, identity: Identity) -> None:
    """A key that nobody has is refused as any credential that is not valid; the stored digest is no key."""
    with pytest.raises(Refusal) as caught:
        identify(identity, head(("Authorization", f"Bearer {key}")))
    assert (caught.value.code, caught.value.sentence) == ("identity_invalid", SENTENCE)
    assert key not in (caught.value.detail or "")


def test_a_key_is_no_proof(clock: SetClock, issuer: Issuer) -> None:
    """Where a bound token is required, and under the DPoP scheme, a key is refused."""
    for identity, value in (
        (build(clock, issuer, require_proof=True), f"Bearer {KEY}"),
        (build(clock, issuer), f"DPoP {KEY}"),
    ):
        with pytest.raises(Refusal) as caught:
            identify(identity, head(("Authorization", value)))
        assert (caught.value.code, caught.value.status) == ("proof_invalid", 401)


def test_policies_can_keep_keys_out(identity: Identity, issuer: Issuer, clock: SetClock) -> None:
    """`min_assurance: bearer` lets a token of the same rule through and a key not; `issuers` can name keys."""
    rules = """version: 1
policy: p
rules:
  - {id: models, effect: allow, match: {models: [m], min_assurance: bearer}}
  - {id: tools, effect: allow, match: {tools: [t.x], issuers: [api-key]}}
"""
    complaints = Complaints()
    folder = Path("policies")
    sources = KeptSources(
        {"policies/p.yaml": rules.encode()}, {"policies": [("policies/p.yaml", "policies/p.yaml")]}, {}
    )
    policy = load(PoliciesSettings(dir=folder), sources, Known(), complaints)
    assert not complaints.found
    keyed = identify(identity, head(("x-api-key", KEY)))
    signed = identify(identity, head(("x-api-key", issuer.token(clock.now()))))
    asked = {"m": Call("llm", "openai", "chat", "POST", model="m"), "t": Call("tool", "http", "x", "POST", tool="t.x")}
    decided = {
        (who.agent.id, name): policy.decide(Facts.of(who, call)).allowed
        for who in (keyed, signed)
        for name, call in asked.items()
    }
    assert decided == {
        ("scratch", "m"): False, ("scratch", "t"): True, ("procurement", "m"): True, ("procurement", "t"): False,
    }  # fmt: skip


def test_a_new_key() -> None:
    """Keys have 256 random bits after a prefix that scanners can find, and are what the registry looks up."""
    keys = {api_keys.new_key() for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        assert key.startswith("pgk_")
        assert len(key) == 4 + 43
        assert api_keys.key_digest(key) == digest(key)
