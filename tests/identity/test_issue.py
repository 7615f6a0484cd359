"""Keys and tokens for development: what is minted is accepted, and secrets stay where they belong."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.core.clock import SystemClock
from gateway.core.principal import Principal
from gateway.core.sources import DiskSources
from gateway.identity import Identity
from gateway.identity.issue import IssueError, PrivateKey, add_key, key_file, load_key, private_file
from gateway.identity.keys import read_jwks
from gateway.identity.mint import Minted, mint
from gateway.identity.settings import AgentSettings, IdentitySettings, IssuerSettings, KeySettings
from tests.identity import door

CLOCK = SystemClock()
AGENTS = [
    AgentSettings(id="buyer", issuer="dev", subject="agent/buyer"),
    AgentSettings(id="helpers", issuer="dev", subject="helper/*"),
    AgentSettings(id="client", issuer="dev", claims={"azp": "client-1"}),
    AgentSettings(id="stray", issuer="elsewhere", subject="x"),
]


@pytest.fixture
def settings(tmp_path: Path) -> IdentitySettings:
    issuer = IssuerSettings(name="dev", iss="https://dev.example", keys=KeySettings(file=tmp_path / "var/jwks.json"))
    return IdentitySettings(audience="https://gateway.example", issuers=(issuer,))


def keys_file(settings: IdentitySettings) -> Path:
    return key_file(settings.issuers[0])


def minted(settings: IdentitySettings, agent: str, **claims: Any) -> Minted:  # noqa: ANN401 - `mint`'s own arguments
    return mint(settings, AGENTS, agent, **{"ttl": 60.0, "now": CLOCK.now(), **claims})


def identify(settings: IdentitySettings, token: str, agents: Sequence[AgentSettings] = AGENTS) -> Principal:
    """What a gateway that starts now makes of the token."""
    identity = Identity.build(settings, agents, DiskSources(), CLOCK, None)
    return door.identify(identity, door.head(("Authorization", f"Bearer {token}")))


@pytest.mark.parametrize("alg", ["EdDSA", "ES256"])
def test_round_trip(alg: str, settings: IdentitySettings) -> None:
    """A key that was made here mints tokens that the gateway takes for that agent, with all that was asked for."""
    key = add_key(keys_file(settings), alg, rotate=False)
    one = minted(settings, "buyer", run="r-1", incarnation="i-1", parent_run="r-0")
    principal = identify(settings, one.token)
    assert (principal.agent.id, principal.subject, principal.key_id) == ("buyer", one.subject, key.kid)
    assert (principal.run, principal.incarnation, principal.parent_run) == ("r-1", "i-1", "r-0")
    assert principal.expires == one.expires
    assert principal.token_id.startswith("tok_")
    assert identify(settings, minted(settings, "buyer").token).token_id != principal.token_id


def test_on_behalf_of(settings: IdentitySettings) -> None:
    """A token on behalf of a user names the user as subject and the agent as actor (RFC 8693)."""
    add_key(keys_file(settings), "EdDSA", rotate=False)
    principal = identify(settings, minted(settings, "buyer", on_behalf_of="user/anna").token)
    assert (principal.agent.id, principal.subject, principal.on_behalf_of) == ("buyer", "agent/buyer", "user/anna")


def test_agents_without_one_subject(settings: IdentitySettings) -> None:
    """An agent with a wildcard needs a subject that fits; one known by claims gets the claims."""
    add_key(keys_file(settings), "EdDSA", rotate=False)
    assert identify(settings, minted(settings, "helpers", subject="helper/7").token).subject == "helper/7"
    for subject in (None, "helper/7/8", "other/7", "helper/"):
        with pytest.raises(IssueError, match="--subject"):
            minted(settings, "helpers", subject=subject)
    with pytest.raises(IssueError, match="and no other"):
        minted(settings, "buyer", subject="agent/seller")
    assert identify(settings, minted(settings, "client").token).agent.id == "client"


@pytest.mark.parametrize(
    ("agent", "claims", "said"),
    [
        ("nobody", {}, "buyer, helpers, client"),
        ("stray", {}, "not configured"),
        ("buyer", {"ttl": 43201.0}, "max_lifetime"),
        ("buyer", {"ttl": 0.5}, "1 s to"),
        ("buyer", {"run": "a/b"}, "run 'a/b'"),
        ("buyer", {"incarnation": ""}, "inc ''"),
        ("buyer", {"parent_run": "x" * 129}, "parent_run"),
    ],
)
def test_what_would_not_be_accepted(agent: str, claims: dict[str, Any], said: str, settings: IdentitySettings) -> None:
    """What the gateway would refuse is not minted, and the sentence says what to change."""
    add_key(keys_file(settings), "EdDSA", rotate=False)
    with pytest.raises(IssueError, match=said):
        minted(settings, agent, **claims)


def test_files(settings: IdentitySettings) -> None:
    """The private key lies beside the public ones, for its owner alone, and nothing else is left behind."""
    file = keys_file(settings)
    key = add_key(file, "EdDSA", rotate=False)
    secret = private_file(file)
    assert secret == file.with_name("jwks.private.json")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert sorted(path.name for path in file.parent.iterdir()) == ["jwks.json", "jwks.private.json"]
    d = json.loads(secret.read_bytes())["d"]
    assert d not in file.read_text()
    assert d not in repr(key)
    assert "PrivateKey object" not in repr(key)


def test_a_key_is_not_overwritten(settings: IdentitySettings) -> None:
    """A second key needs `--rotate`; the first one's tokens hold on, since its public part stays."""
    file = keys_file(settings)
    first = add_key(file, "EdDSA", rotate=False)
    token = minted(settings, "buyer").token
    before = private_file(file).read_bytes()
    with pytest.raises(IssueError, match="--rotate"):
        add_key(file, "EdDSA", rotate=False)
    assert private_file(file).read_bytes() == before
    second = add_key(file, "ES256", rotate=True)
    assert identify(settings, token).key_id == first.kid
    assert identify(settings, minted(settings, "buyer").token).key_id == second.kid
    assert len(read_jwks(file.read_bytes())) == 2


def test_a_broken_set_is_not_touched(settings: IdentitySettings) -> None:
    """A key is never added to a file that could not be read, so that nothing in it is lost."""
    file = keys_file(settings)
    file.parent.mkdir()
    for broken in (b"not json", b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'):
        file.write_bytes(broken)
        with pytest.raises(IssueError, match=r"jwks\.json"):
            add_key(file, "EdDSA", rotate=False)
        assert file.read_bytes() == broken
        assert not private_file(file).exists()


def test_keys_that_cannot_sign_here(settings: IdentitySettings) -> None:
    """A missing, readable, foreign or broken private key is refused with the remedy, and its content never shown."""
    file, secret = keys_file(settings), private_file(keys_file(settings))
    with pytest.raises(IssueError, match="passgate keys new --issuer dev"):
        minted(settings, "buyer")
    add_key(file, "EdDSA", rotate=False)
    secret.chmod(0o640)
    with pytest.raises(IssueError, match="chmod 600"):
        minted(settings, "buyer")
    secret.chmod(0o600)
    file.write_bytes(b'{"keys": []}')
    with pytest.raises(IssueError, match="does not hold the public key"):
        minted(settings, "buyer")
    file.unlink()
    with pytest.raises(IssueError, match="does not hold the public key"):
        minted(settings, "buyer")
    es256 = replace(settings, issuers=(replace(settings.issuers[0], algs=("ES256",)),))
    with pytest.raises(IssueError, match="add EdDSA to `algs`"):
        minted(es256, "buyer")
    content = secret.read_text()
    for broken in (
        content[:-9],
        "{}",
        "[]",
        "",
        content.replace("EdDSA", "RS256"),
        content.replace('"d": "', '"d": "AA'),
    ):
        secret.write_text(broken)
        with pytest.raises(IssueError, match="not a private key") as caught:
            load_key(secret)
        assert json.loads(content)["d"] not in str(caught.value)


def test_only_asymmetric_keys() -> None:
    """Keys are made for the two algorithms that are offered and for no other."""
    for alg in ("HS256", "none", "RS256", ""):
        with pytest.raises(IssueError, match="EdDSA, ES256"):
            PrivateKey.new(alg)


def test_type_of_the_token(settings: IdentitySettings) -> None:
    """I10: the token says that it is an access token, or what the issuer's tokens are otherwise."""
    add_key(keys_file(settings), "EdDSA", rotate=False)
    only_jwt = replace(settings, issuers=(replace(settings.issuers[0], typ=("JWT",)),))
    assert identify(only_jwt, minted(only_jwt, "buyer").token).agent.id == "buyer"
