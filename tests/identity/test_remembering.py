"""Verified tokens are remembered for a moment, and never longer than they hold."""

from __future__ import annotations

from gateway.core.principal import Agent
from gateway.identity import REMEMBERED_SECONDS, Identity
from gateway.identity.delegation import Delegates, OwnIssuer
from gateway.identity.keys import read_jwks
from gateway.identity.proof import Proofs
from gateway.identity.registry import Entry, Registry
from gateway.identity.tokens import Issuer as KnownIssuer
from gateway.identity.tokens import Verifier
from tests.identity.door import PUBLIC_URL, Door, head, identify, issuer_settings
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer


def test_same_token_same_principal(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """A token that passed is not verified again for a minute; then it is."""
    token = issuer.token(clock.time)
    first = door.admits(token)
    clock.pass_(REMEMBERED_SECONDS - 0.001)
    assert door.admits(token) is first
    clock.pass_(0.001)
    assert door.admits(token) is not first
    assert door.admits(token) == first


def test_end_of_a_remembered_token(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """S04: a remembered token ends with its `exp` and the skew, to the second, and says that it expired."""
    token = issuer.token(clock.time, exp=int(clock.time) + 5)
    door.admits(token)
    clock.pass_(34.999)
    door.admits(token)
    clock.pass_(0.001)
    for _ in range(2):
        door.refuses(token, code="identity_expired")


def test_tokens_that_begin_alike(issuer: Issuer, clock: SetClock) -> None:
    """S04: tokens that are equal but for their last characters are different tokens, remembered or not."""
    door = Door(issuer, clock=clock)
    tokens = [issuer.token(clock.time, jti=f"t-{n}") for n in range(5)]
    assert len({token[:100] for token in tokens}) == 1
    for _ in range(2):
        assert [door.admits(token).token_id for token in tokens] == [f"t-{n}" for n in range(5)]
    for token in tokens:
        last = "A" if token[-3] != "A" else "B"
        door.refuses(f"{token[:-3]}{last}{token[-2:]}")
        door.refuses(f"{token}\n")
        door.refuses(f" {token[:-1]}")


def test_refusals_are_not_remembered(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """A token that is refused because it begins later is taken when its time has come."""
    token = issuer.token(clock.time, nbf=int(clock.time) + 40)
    door.refuses(token)
    clock.pass_(10)
    door.admits(token)


def test_new_keys(issuer: Issuer, clock: SetClock) -> None:
    """I22: a reload builds identity anew, so what was verified with a key that is gone is verified again."""
    token = issuer.token(clock.time)
    Door(issuer, clock=clock).admits(token)
    Door(Issuer(), clock=clock).refuses(token)


def test_memory_is_bounded(issuer: Issuer, clock: SetClock) -> None:
    """However many tokens come by, only the latest are remembered."""
    known = KnownIssuer.of(issuer_settings(issuer), read_jwks(issuer.jwks()))
    verifier = Verifier([known], audience=issuer.audience, public_url=None, skew=0, clock=clock)
    registry = Registry([Entry(Agent("a"), "dev", issuer.subject, {})])
    proofs = Proofs(public_url=PUBLIC_URL, scheme="https", secret=b"", clock=clock)
    nobody = Delegates(OwnIssuer.of(issuer.audience, None), [], {})
    identity = Identity(
        verifier,
        registry,
        proofs,
        delegates=nobody,
        proof_required=lambda _: False,
        skew=0,
        clock=clock,
        remembered=3,
    )
    heads = [head(("x-api-key", issuer.token(clock.time, jti=f"t-{n}"))) for n in range(4)]
    first, second, third, _ = (identify(identity, one) for one in heads)
    assert identify(identity, heads[1]) is second
    assert identify(identity, heads[2]) is third
    assert identify(identity, heads[0]) is not first
