"""Whatever is done to a DPoP proof, it is what its key signed for this request or refused, and counts once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from multidict import CIMultiDict

from gateway.core.call import Head
from gateway.core.errors import Refusal
from gateway.identity.proof import Proofs
from tests.identity.door import Alone
from tests.identity.mutants import SEED, Cases, Source, changed_members, changed_text
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer
from tests.simulator.prover import Prover

ORIGIN, PATH = "https://gateway.example", "/r/job-7/v1/chat/completions"
TOKEN = "a.b.c"
Members = dict[str, Any]


class Desk:
    """One gateway's proofs, and a client with the key that `TOKEN` is bound to."""

    def __init__(self, alg: str, runner: asyncio.Runner) -> None:
        self.clock, self.runner = SetClock(), runner
        self.proofs = Proofs(public_url=ORIGIN, scheme="http", secret=bytes(32), clock=self.clock)
        self.prover = Prover(alg, nonce=self.proofs.nonce())
        self.signer = Issuer(alg=alg, key=self.prover.key)
        self.header = self.prover.header()
        self.claims = self.prover.claims("POST", ORIGIN + PATH, TOKEN, self.clock.time)
        other = self.prover.proof("POST", ORIGIN + PATH, TOKEN, self.clock.time)
        self.source = Source(self.prover.sign(self.header, self.claims), other, self.signer, Issuer(alg=alg))

    def takes(self, proof: str, authority: Alone) -> bool:
        """Whether a request with this proof passes; anything but a pass or a refusal fails the test."""
        headers: Any = CIMultiDict([("Host", "gateway.example"), ("DPoP", proof)])
        head = Head("POST", PATH, "", headers, "127.0.0.1")
        proving = self.proofs.prove(head, TOKEN, self.prover.thumbprint, authority)
        try:
            return self.runner.run(proving) == self.prover.thumbprint
        except Refusal:
            return False

    def holds(self, header: Members, claims: Members) -> bool:
        """Whether a proof of these members, signed by the client, is one for this request: what RFC 9449 §4.3 asks."""
        jwk, own = header.get("jwk"), self.header["jwk"]
        assert isinstance(own, dict)
        key = isinstance(jwk, dict) and all(jwk.get(name) == value for name, value in own.items())
        iat, jti, htu = claims.get("iat"), claims.get("jti"), claims.get("htu")
        return (
            not header.keys() & {"crit", "jku", "x5u", "x5c"}
            and header.get("typ") == "dpop+jwt"
            and header.get("alg") == self.prover.alg
            and key
            and self._usable(jwk)
            and claims.get("htm") == "POST"
            and isinstance(htu, str)
            and self._same_url(htu)
            and claims.get("ath") == self.claims["ath"]
            and type(iat) is int
            and abs(iat - self.clock.time) <= 30
            and isinstance(jti, str)
            and 1 <= len(jti) <= 256
            and claims.get("nonce") == self.prover.nonce
        )

    def _usable(self, jwk: Any) -> bool:  # noqa: ANN401 - JSON
        """RFC 7517 §4.2, §4.3, §4.4: what a key says of its use is kept; it is public and nothing but public."""
        operations, kid = jwk.get("key_ops", ["verify"]), jwk.get("kid", "1")
        return (
            not jwk.keys() & {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}
            and jwk.get("use", "sig") == "sig"
            and isinstance(operations, list)
            and "verify" in operations
            and jwk.get("alg", self.prover.alg) == self.prover.alg
            and isinstance(kid, str)
            and 1 <= len(kid) <= 256
        )

    def _same_url(self, htu: str) -> bool:
        """RFC 9449 §4.3: without query and fragment, case of scheme and host, and the default port."""
        scheme, _, rest = htu.partition("#")[0].partition("?")[0].partition("://")
        host, slash, path = rest.partition("/")
        named = scheme.lower() == "https" and host.lower() in {"gateway.example", "gateway.example:443"}
        return named and htu.isascii() and slash + path == PATH


@pytest.fixture(scope="module")
def desks() -> Iterator[list[Desk]]:
    with asyncio.Runner() as runner:
        yield [Desk(alg, runner) for alg in ("ES256", "EdDSA", "RS256")]


@pytest.mark.soak
def test_no_change_of_the_text_passes(desks: list[Desk], capsys: pytest.CaptureFixture[str]) -> None:
    """I15: a proof that was changed in any way is refused; only its own text is the proof."""
    cases = Cases("changes of a proof's text", short=900, long=10_000)
    for number in cases:
        desk = desks[number % len(desks)]
        how, text = changed_text(cases.rng, desk.source)
        same = text == desk.source.token
        assert desk.takes(text, Alone()) == same, f"seed {SEED}, case {number}: {desk.prover.alg}, {how}: {text!r}"
        cases.counts["the same text" if same else how] += 1
    with capsys.disabled():
        print(cases)
    assert cases.counts["the same text"] < cases.counts.total() / 10


@pytest.mark.soak
def test_what_its_key_signs_is_for_this_request(desks: list[Desk], capsys: pytest.CaptureFixture[str]) -> None:
    """I15: a proof whose client changed its members is refused, or the change means nothing; either counts once."""
    cases = Cases("members of a proof that its key signed", short=900, long=10_000)
    for number in cases:
        desk = desks[number % len(desks)]
        made = changed_members(cases.rng, desk.header, desk.claims)
        proof = desk.signer.sign_bytes(made.head, made.body)
        expected = made.strict and len(proof) <= 4096 and desk.holds(made.header, made.claims)
        authority = Alone()
        taken = desk.takes(proof, authority)
        assert taken == expected, f"seed {SEED}, case {number}: {desk.prover.alg}: {made.head!r} {made.body!r}"
        assert not taken or not desk.takes(proof, authority)
        cases.counts["pass" if taken else "refused"] += 1
    with capsys.disabled():
        print(cases)
    assert min(cases.counts["pass"], cases.counts["refused"]) > cases.counts.total() / 20


def test_the_other_signature_of_a_proof(desks: list[Desk]) -> None:
    """I15: a proof whose ECDSA signature was mirrored, (r, n - s), is the same proof, and is used up with it."""
    desk, authority = desks[0], Alone()
    mirrored = desk.signer.mirrored(desk.source.token)
    assert mirrored != desk.source.token
    assert desk.takes(mirrored, authority)
    assert not desk.takes(desk.source.token, authority)
    assert not desk.takes(mirrored, authority)


@pytest.mark.parametrize(
    ("scheme", "host", "after", "same"),
    [
        ("HTTPS", "Gateway.Example", "", True),
        ("https", "gateway.example:443", "?a=b#c", True),
        ("https", "gateway.example", "#https://evil.example/", True),
        ("https", "gateway.example:8443", "", False),
        ("https", "gateway.example", "/", False),
        ("https", "gateway.example%00", "", False),
    ],
)
def test_the_model_of_urls_is_the_gateways(desks: list[Desk], scheme: str, host: str, after: str, same: bool) -> None:  # noqa: FBT001 - a table
    """I15: spellings of `htu` that random changes seldom meet."""
    desk = desks[0]
    claims = {**desk.claims, "htu": f"{scheme}://{host}{PATH}{after}"}
    assert desk.holds(desk.header, claims) == same
    assert (
        desk.takes(desk.prover.sign_bytes(*(json.dumps(part).encode() for part in (desk.header, claims))), Alone())
        == same
    )
