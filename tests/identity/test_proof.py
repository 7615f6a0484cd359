"""Proofs of possession: each step of `proof.py` by proofs that are right but for one thing."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.core.call import Head
from gateway.core.errors import Refusal
from gateway.identity.algorithms import ALGORITHMS
from gateway.identity.jose import from_base64url, from_json
from gateway.identity.keys import read_jwk
from gateway.identity.proof import MAX_PROOF, NEEDS_NONCE, NONCE_SECONDS, SENTENCE, WINDOW, Proofs
from tests.identity.door import Alone
from tests.simulator.clock import SetClock
from tests.simulator.issuer import b64, new_private_key
from tests.simulator.prover import Prover

URL = "https://gateway.example/v1/chat/completions"
TOKEN = "a.b.c"
SECRET = bytes(32)


class Checkpoint:
    """One gateway's proofs, and a client that holds the key of the token `TOKEN`."""

    def __init__(self, clock: SetClock, public_url: str | None = "https://gateway.example", **changes: Any) -> None:  # noqa: ANN401
        """`changes` go to `Proofs`."""
        self.clock = clock
        self.proofs = Proofs(
            **{"public_url": public_url, "scheme": "http", "secret": SECRET, "clock": clock, **changes}
        )
        self.prover = Prover(nonce=self.proofs.nonce())
        self.authority = Alone()

    async def asks(
        self,
        *proofs: str,
        url: str = URL,
        method: str = "POST",
        host: str = "gateway.example",
        token: str = TOKEN,
        thumbprint: str | None = "",
        ath: bool = True,
    ) -> str:
        """Send a request with these proofs; it is for the prover's key unless told otherwise."""
        headers: Any = CIMultiDict([("Host", host), *(("DPoP", proof) for proof in proofs)])
        path, _, query = url.removeprefix("https://gateway.example").partition("?")
        bound = self.prover.thumbprint if thumbprint == "" else thumbprint
        request = Head(method, path, query, headers, "127.0.0.1")
        return await self.proofs.prove(request, token, bound, self.authority, ath=ath)

    async def refuses(self, *proofs: str, error: str = "invalid_dpop_proof", **request: Any) -> str:  # noqa: ANN401
        """Have the request refused, in the one public sentence; gives the cause that is for the log."""
        with pytest.raises(Refusal) as caught:
            await self.asks(*proofs, **request)
        refusal = caught.value
        assert (refusal.code, refusal.status, refusal.fields) == ("proof_invalid", 401, {"error": error}), (
            refusal.detail
        )
        assert refusal.sentence == (NEEDS_NONCE if error == "use_dpop_nonce" else SENTENCE)
        assert refusal.headers == (("DPoP-Nonce", self.proofs.nonce()),)
        assert refusal.detail
        return refusal.detail

    def proof(self, **changes: object) -> str:
        """A good proof of this moment, with claims changed."""
        return self.prover.proof("POST", URL, TOKEN, self.clock.time, **changes)

    def headed(self, **changes: object) -> str:
        """A good proof with members of its header changed."""
        return self.prover.sign(self.prover.header(**changes), self.claims())

    def claims(self, **changes: object) -> dict[str, object]:
        """Good claims."""
        return self.prover.claims("POST", URL, TOKEN, self.clock.time, **changes)


@pytest.fixture
def checkpoint(clock: SetClock) -> Checkpoint:
    return Checkpoint(clock)


@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "RS256"])
async def test_a_good_proof(clock: SetClock, alg: str) -> None:
    """Whoever has the key passes, with any of the algorithms, and is told by its thumbprint."""
    checkpoint = Checkpoint(clock)
    checkpoint.prover = Prover(alg, nonce=checkpoint.proofs.nonce())
    assert await checkpoint.asks(checkpoint.proof()) == checkpoint.prover.thumbprint
    assert await checkpoint.asks(checkpoint.proof(), thumbprint=None) == checkpoint.prover.thumbprint


async def test_members_that_mean_nothing(checkpoint: Checkpoint) -> None:
    """What the RFC does not name is not looked at, `kid` included: the key is `jwk` alone."""
    header = checkpoint.prover.header(kid="../../etc/passwd", x5t="x", jwk=checkpoint.prover.jwk() | {"kid": "1"})
    await checkpoint.asks(checkpoint.prover.sign(header, checkpoint.claims(sub="somebody", aud="elsewhere", exp=1)))


async def test_one_header(checkpoint: Checkpoint) -> None:
    """I15, step 1: without a proof, with two, or with two in one header it is refused."""
    one, two = checkpoint.proof(), checkpoint.proof()
    assert "0 DPoP headers" in await checkpoint.refuses()
    assert "2 DPoP headers" in await checkpoint.refuses(one, two)
    assert "2 DPoP headers" in await checkpoint.refuses(one, one)
    await checkpoint.refuses(f"{one},{two}")
    await checkpoint.refuses(f"{one}, {two}")
    await checkpoint.refuses("")


async def test_length(checkpoint: Checkpoint) -> None:
    """Step 2: a good proof of 4 KiB passes, a longer one is not read."""
    room = MAX_PROOF - len(checkpoint.proof(pad=""))
    fits = checkpoint.proof(pad="x" * (room * 3 // 4 - 2))
    assert MAX_PROOF - 4 <= len(fits) <= MAX_PROOF
    await checkpoint.asks(fits)
    assert "longer" in await checkpoint.refuses(checkpoint.proof(pad="x" * (room * 3 // 4 + 2)))


async def test_shape(checkpoint: Checkpoint) -> None:
    """Step 3: what is not three canonical segments of strict JSON is not a proof, though its signature holds."""
    sign, header, claims = checkpoint.prover.sign_bytes, checkpoint.prover.header(), checkpoint.claims()
    plain, members = json.dumps(header).encode(), json.dumps(claims).encode()
    twice = members[:-1] + b', "htm": "POST"}'
    for proof in (
        sign(plain, twice),
        sign(plain[:-1] + b', "typ": "dpop+jwt"}', members),
        sign(plain, members + b"\x00"),
        sign(plain, b"[" + members + b"]"),
        sign(plain, b"\xff\xfe" + members),
        sign(b"", members),
        "a.b",
        "..",
        f"{checkpoint.proof()}.",
        f"{checkpoint.proof()}=",
        f" {checkpoint.proof()}",
        checkpoint.proof() + "ü",
    ):
        assert "canonical" in await checkpoint.refuses(proof)
    first, second, third = checkpoint.proof().split(".")
    loose = third[:-1] + chr(ord(third[-1]) + 1)  # 64 bytes leave four stray bits in the last character
    assert base64.urlsafe_b64decode(loose + "==") == base64.urlsafe_b64decode(third + "==")
    assert "canonical" in await checkpoint.refuses(f"{first}.{second}.{loose}")


@pytest.mark.parametrize("typ", [..., "JWT", "at+jwt", "DPOP+JWT", "application/dpop+jwt", "dpop+jwt ", None, 1])
async def test_typ(checkpoint: Checkpoint, typ: object) -> None:
    """Step 4: nothing that the key signed for another purpose is a proof."""
    assert "typ" in await checkpoint.refuses(checkpoint.headed(typ=typ))


@pytest.mark.parametrize("name", ["crit", "jku", "x5u", "x5c"])
async def test_foreign_keys_and_rules(checkpoint: Checkpoint, name: str) -> None:
    """Step 5: the sender brings no rules, and no key but `jwk`."""
    value: object = "https://thief.example/jwks.json" if name in {"jku", "x5u"} else ["b64"]
    assert name in await checkpoint.refuses(checkpoint.headed(**{name: value}))


@pytest.mark.parametrize("alg", [..., "none", "None", "HS256", "ES256K", "es256", "RSA1_5", None, ["ES256"]])
async def test_alg(checkpoint: Checkpoint, alg: object) -> None:
    """Step 6: only an asymmetric algorithm that is accepted here; `none` with an empty signature too is refused."""
    assert "alg" in await checkpoint.refuses(checkpoint.headed(alg=alg))
    header, claims, _ = checkpoint.headed(alg="none").split(".")
    assert "alg" in await checkpoint.refuses(f"{header}.{claims}.")


async def test_private_jwk(clock: SetClock) -> None:
    """Step 7: a proof that gives its private key away is refused, whichever key it is."""
    for alg in ("ES256", "EdDSA", "RS256"):
        checkpoint = Checkpoint(clock)
        checkpoint.prover = Prover(alg, nonce=checkpoint.proofs.nonce())
        jwk = checkpoint.prover.private_jwk()
        detail = await checkpoint.refuses(checkpoint.headed(jwk=jwk))
        assert "private members (d)" in detail
        assert jwk["d"] not in detail


async def test_symmetric_jwk(checkpoint: Checkpoint) -> None:
    """Step 7: a secret in the header proves nothing; neither does its name alone."""
    for alg in ("HS256", "ES256"):
        await checkpoint.refuses(checkpoint.headed(alg=alg, jwk={"kty": "oct", "k": b64(b"secret")}), thumbprint=None)
        await checkpoint.refuses(checkpoint.headed(alg=alg, jwk={"kty": "oct"}), thumbprint=None)


async def test_jwk_that_does_not_fit(checkpoint: Checkpoint) -> None:
    """Step 7: `jwk` is a whole key of the kind and curve that `alg` names."""
    jwk = checkpoint.prover.jwk()
    other = Prover("EdDSA").jwk()
    wrong: list[tuple[str, object]] = [
        ("ES256", ...),
        ("ES256", None),
        ("ES256", "key"),
        ("ES256", [jwk]),
        ("ES256", {}),
        ("ES256", other),
        ("ES256", jwk | {"crv": "P-384"}),
        ("ES256", jwk | {"crv": "secp256k1"}),
        ("ES256", jwk | {"kty": "OKP"}),
        ("ES256", jwk | {"alg": "ES384"}),
        ("ES256", jwk | {"use": "enc"}),
        ("ES256", jwk | {"key_ops": ["sign"]}),
        ("ES256", jwk | {"x": jwk["y"]}),
        ("ES256", jwk | {"x": jwk["x"] + "="}),
        ("ES256", {name: value for name, value in jwk.items() if name != "y"}),
        ("ES384", jwk),
        ("EdDSA", jwk),
        ("RS256", jwk),
    ]
    for alg, key in wrong:
        assert "jwk" in await checkpoint.refuses(checkpoint.headed(alg=alg, jwk=key), thumbprint=None)


async def test_rsa_sizes(checkpoint: Checkpoint) -> None:
    """Step 7: an RSA key that is weak, or made to be slow, is refused before anything is computed with it."""
    weak = Prover("RS256", key=new_private_key("RS256", bits=1024))
    weak.nonce = checkpoint.prover.nonce
    proof = weak.proof("POST", URL, TOKEN, checkpoint.clock.time)
    assert "1024 bits" in await checkpoint.refuses(proof, thumbprint=None)
    jwk = Prover("RS256").jwk()
    slow = checkpoint.headed(alg="RS256", jwk=jwk | {"e": jwk["n"][:300]})
    assert "exponent" in await checkpoint.refuses(slow, thumbprint=None)
    huge = checkpoint.headed(alg="RS256", jwk=jwk | {"n": b64(b"\xff" * 1025)})
    assert "8200 bits" in await checkpoint.refuses(huge, thumbprint=None)


async def test_another_key(checkpoint: Checkpoint) -> None:
    """I15, step 8: a stolen token is worthless with the thief's own key, or with the name of the owner's."""
    thief = Prover(nonce=checkpoint.prover.nonce)
    proof = thief.proof("POST", URL, TOKEN, checkpoint.clock.time)
    assert "another key" in await checkpoint.refuses(proof)
    kid = thief.header(kid=checkpoint.prover.thumbprint)
    assert "another key" in await checkpoint.refuses(thief.sign(kid, checkpoint.claims()))
    assert "another key" in await checkpoint.refuses(checkpoint.proof(), thumbprint="ü")


@pytest.mark.parametrize("htm", [..., "GET", "post", "POST ", "", None, ["POST"]])
async def test_method(checkpoint: Checkpoint, htm: object) -> None:
    """I15, step 9: a proof for another method is not one for this request."""
    assert "htm" in await checkpoint.refuses(checkpoint.proof(htm=htm))


@pytest.mark.parametrize(
    "htu",
    [
        ...,
        None,
        "",
        "/v1/chat/completions",
        "//gateway.example/v1/chat/completions",
        "https://gateway.example",
        "https://gateway.example/",
        "https://gateway.example/v1/chat/completions/",
        "https://gateway.example/v1//chat/completions",
        "https://gateway.example/v1/./chat/completions",
        "https://gateway.example/v1/Chat/completions",
        "https://gateway.example/v1/ch%61t/completions",
        "https://gateway.example/v1/models",
        "https://gateway.example/r/job-7/v1/chat/completions",
        "http://gateway.example/v1/chat/completions",
        "https://gateway.example:80/v1/chat/completions",
        "https://gateway.example:8443/v1/chat/completions",
        "https://gateway.example.thief.example/v1/chat/completions",
        "https://thief.example/v1/chat/completions",
        "https://user@gateway.example/v1/chat/completions",
        "https://gateway.example@thief.example/v1/chat/completions",
        "https://gateway.example\\@thief.example/v1/chat/completions",
        " https://gateway.example/v1/chat/completions",
        "https://gateway.example/v1/chat/completions ",
        "https://gateway.example\n/v1/chat/completions",
        ["https://gateway.example/v1/chat/completions"],
    ],
)
async def test_url(checkpoint: Checkpoint, htu: object) -> None:
    """I15, step 9: a proof for another URL is not one for this request, however alike they look."""
    assert "htu" in await checkpoint.refuses(checkpoint.proof(htu=htu))


@pytest.mark.parametrize(
    "htu",
    [
        "HTTPS://Gateway.EXAMPLE/v1/chat/completions",
        "https://gateway.example:443/v1/chat/completions",
        "https://gateway.example/v1/chat/completions?model=x",
        "https://gateway.example/v1/chat/completions#top",
    ],
)
async def test_url_written_otherwise(checkpoint: Checkpoint, htu: str) -> None:
    """RFC 9449 §4.3: case of scheme and host, the default port, query and fragment make no difference."""
    await checkpoint.asks(checkpoint.proof(htu=htu))
    await checkpoint.asks(checkpoint.proof(htu=htu), url=f"{URL}?alt=sse")


async def test_run_prefix(checkpoint: Checkpoint) -> None:
    """I15: the run in front of the path belongs to `htu`; a proof for one run is none for another."""
    url = "https://gateway.example/r/job-7/i/2/v1/chat/completions"
    await checkpoint.asks(checkpoint.proof(htu=url), url=url)
    assert "htu" in await checkpoint.refuses(checkpoint.proof(htu=url), url=url.replace("job-7", "job-8"))
    assert "htu" in await checkpoint.refuses(checkpoint.proof(), url=url)


async def test_percent_encoding(checkpoint: Checkpoint) -> None:
    """I15: the raw path is compared byte by byte, so `%c3%a9` and `%C3%A9` are two paths, as everywhere here."""
    lower, upper = "https://gateway.example/tools/t/caf%c3%a9", "https://gateway.example/tools/t/caf%C3%A9"
    await checkpoint.asks(checkpoint.proof(htu=lower), url=lower)
    assert "htu" in await checkpoint.refuses(checkpoint.proof(htu=upper), url=lower)


async def test_public_url(clock: SetClock) -> None:
    """`htu` starts with `public_url` as it is written, a path of its own included, whatever `Host` says."""
    behind = Checkpoint(clock, "https://Corp.example/ai")
    await behind.asks(behind.proof(htu="https://corp.example/ai/v1/chat/completions"), host="10.0.0.7:8080")
    for htu in ("https://corp.example/v1/chat/completions", "http://10.0.0.7:8080/v1/chat/completions", URL):
        assert "htu" in await behind.refuses(behind.proof(htu=htu), host="10.0.0.7:8080")


async def test_without_public_url(clock: SetClock) -> None:
    """Without `public_url` it is the listener's scheme and the `Host` that was asked, without its default port."""
    bare = Checkpoint(clock, None)
    for host in ("127.0.0.1:8080", "LocalHost", "localhost:80", "[::1]:8080"):
        await bare.asks(bare.proof(htu=f"http://{host}/v1/chat/completions"), host=host)
    await bare.asks(bare.proof(htu="http://localhost:80/v1/chat/completions"), host="localhost")
    assert "htu" in await bare.refuses(bare.proof(htu="https://localhost/v1/chat/completions"), host="localhost")
    assert "htu" in await bare.refuses(bare.proof(htu="http://localhost:443/v1/chat/completions"), host="localhost")
    secure = Checkpoint(clock, None, scheme="https")
    await secure.asks(secure.proof(htu="https://localhost:443/v1/chat/completions"), host="localhost")


@pytest.mark.parametrize("ath", [..., "", None, b64(bytes(32)), 7])
async def test_token_hash(checkpoint: Checkpoint, ath: object) -> None:
    """I15, step 10: a proof belongs to one token; at a token endpoint it may name none, but not another."""
    assert "ath" in await checkpoint.refuses(checkpoint.proof(ath=ath))
    if ath is ...:
        await checkpoint.asks(checkpoint.proof(ath=ath), ath=False)
    else:
        assert "ath" in await checkpoint.refuses(checkpoint.proof(ath=ath), ath=False)


async def test_another_token(checkpoint: Checkpoint) -> None:
    """I15: a proof that was made for one token of a key does not carry another token of the same key."""
    assert "ath" in await checkpoint.refuses(checkpoint.proof(), token="another.token.altogether")


async def test_time(checkpoint: Checkpoint) -> None:
    """I15, step 11: a proof holds for half a minute about its `iat`; later it is old, earlier it was made ahead."""
    now = int(checkpoint.clock.time)
    good: tuple[object, ...] = (now - WINDOW, now, now + WINDOW)
    for iat in good:
        await checkpoint.asks(checkpoint.proof(iat=iat))
    wrong: tuple[object, ...] = (now - WINDOW - 1, now + WINDOW + 1, 0, -now, 10**300, float(now), str(now), True, None)
    for iat in (*wrong, ...):
        assert "iat" in await checkpoint.refuses(checkpoint.proof(iat=iat))
    old = checkpoint.proof()
    checkpoint.clock.pass_(WINDOW + 0.001)
    assert "iat" in await checkpoint.refuses(old)


@pytest.mark.parametrize("jti", [..., "", None, 7, "x" * 257, ["x"]])
async def test_id(checkpoint: Checkpoint, jti: object) -> None:
    """Step 12: a proof has a name by which it is told apart."""
    assert "jti" in await checkpoint.refuses(checkpoint.proof(jti=jti))


async def test_nonce(checkpoint: Checkpoint) -> None:
    """Step 13: a proof without our nonce is asked for again, with the nonce that it needs."""
    wrong: tuple[object, ...] = (
        ...,
        None,
        "",
        "nonce",
        7,
        [checkpoint.proofs.nonce()],
        checkpoint.proofs.nonce() + "A",
    )
    for nonce in wrong:
        await checkpoint.refuses(checkpoint.proof(nonce=nonce), error="use_dpop_nonce")
    await checkpoint.asks(checkpoint.proof(nonce=checkpoint.proofs.nonce()))


async def test_nonces_end(checkpoint: Checkpoint, clock: SetClock) -> None:
    """A nonce holds in the period that follows its own, and no longer; the next is not known before its time."""
    first = checkpoint.proofs.nonce()
    clock.pass_(NONCE_SECONDS)
    second = checkpoint.proofs.nonce()
    assert first != second
    await checkpoint.asks(checkpoint.proof(nonce=first))
    await checkpoint.asks(checkpoint.proof(nonce=second))
    clock.pass_(NONCE_SECONDS)
    await checkpoint.refuses(checkpoint.proof(nonce=first), error="use_dpop_nonce")
    await checkpoint.asks(checkpoint.proof(nonce=second))
    clock.pass_(-2 * NONCE_SECONDS)
    await checkpoint.refuses(checkpoint.proof(nonce=second), error="use_dpop_nonce")


async def test_nonces_of_two_starts(clock: SetClock) -> None:
    """Workers of one start compute the same nonces; another start knows none of them, and no secret makes none."""
    one, twin, later = Checkpoint(clock), Checkpoint(clock), Checkpoint(clock, secret=b"\x01" * 32)
    assert one.proofs.nonce() == twin.proofs.nonce()
    proof = one.proof()
    await twin.asks(proof, thumbprint=one.prover.thumbprint)
    await later.refuses(proof, thumbprint=one.prover.thumbprint, error="use_dpop_nonce")
    assert Checkpoint(clock, secret=b"").proofs.nonce() != Checkpoint(clock, secret=b"").proofs.nonce()


async def test_signature(checkpoint: Checkpoint) -> None:
    """Step 14: whoever copies all that is public, and cannot sign, is refused."""
    thief = Prover()
    header, claims = checkpoint.prover.header(), checkpoint.claims()
    assert "signature" in await checkpoint.refuses(thief.sign(header, claims))
    first, second, third = checkpoint.proof().split(".")
    assert "signature" in await checkpoint.refuses(f"{first}.{second}.")
    assert "signature" in await checkpoint.refuses(f"{first}.{second}.{b64(bytes(64))}")
    fresh = checkpoint.proof().split(".")[1]
    assert "signature" in await checkpoint.refuses(f"{first}.{fresh}.{third}")


async def test_replay(checkpoint: Checkpoint) -> None:
    """I15, step 15: a proof counts once, also in another spelling of its signature; a new `jti` makes a new one."""
    proof = checkpoint.proof(jti="one")
    await checkpoint.asks(proof)
    assert "before" in await checkpoint.refuses(proof)
    assert "before" in await checkpoint.refuses(checkpoint.proof(jti="one"))  # ECDSA never signs twice alike
    await checkpoint.asks(checkpoint.proof(jti="two"))


async def test_the_same_id_of_another_key(checkpoint: Checkpoint) -> None:
    """Nobody uses up another client's `jti`."""
    await checkpoint.asks(checkpoint.proof(jti="one"))
    other = Prover(nonce=checkpoint.prover.nonce)
    proof = other.proof("POST", URL, TOKEN, checkpoint.clock.time, jti="one")
    await checkpoint.asks(proof, thumbprint=other.thumbprint)


async def test_refused_proofs_are_not_remembered(checkpoint: Checkpoint) -> None:
    """Only a proof that passed everything else is remembered, so that inventing them fills no memory."""
    proof = checkpoint.proof()
    await checkpoint.refuses(proof, method="GET")
    await checkpoint.refuses(proof, thumbprint=Prover().thumbprint)
    await checkpoint.asks(proof)


@given(st.data())
def test_no_change_of_a_proof_passes(data: st.DataObject) -> None:
    """I15: whichever character of a good proof is another one, is gone or stands there twice, it is refused."""
    clock = SetClock()
    checkpoint = Checkpoint(clock)
    proof = checkpoint.proof()
    at = data.draw(st.integers(0, len(proof) - 1))
    put = data.draw(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=", max_size=2))
    assume(put != proof[at])
    changed = proof[:at] + put + proof[at + 1 :]
    with pytest.raises(Refusal):
        asyncio.run(checkpoint.asks(changed))
    assert asyncio.run(checkpoint.asks(proof))


# -- RFC 9449: its own examples -------------------------------------------------------------------------

RFC_HEADER = (
    "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJo"
    "RjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19"
)
RFC_TOKEN_REQUEST = (
    f"{RFC_HEADER}.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3"
    "Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37x"
    "RZT3Lg"
)
RFC_RESOURCE_REQUEST = (
    f"{RFC_HEADER}.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy"
    "9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbV"
    "FFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
)
RFC_ACCESS_TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
RFC_THUMBPRINT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


@pytest.mark.parametrize("proof", [RFC_TOKEN_REQUEST, RFC_RESOURCE_REQUEST])
def test_the_examples_signatures(proof: str) -> None:
    """RFC 9449 §4.1, §6.1, §7.1: the examples' key has the thumbprint that is printed, and has signed them."""
    first, second, third = proof.split(".")
    key = read_jwk(from_json(from_base64url(first))["jwk"], "ES256")
    assert key.thumbprint == RFC_THUMBPRINT
    assert ALGORITHMS["ES256"].verifies(f"{first}.{second}".encode(), key.key, from_base64url(third))


async def test_the_examples_but_for_the_nonce() -> None:
    """RFC 9449 §7.1: at its time and place the example lacks nothing but our nonce, which it could not know."""
    clock = SetClock(time=1562262618.0)
    checkpoint = Checkpoint(clock, "https://resource.example.org")
    request: dict[str, Any] = {"url": "/protectedresource", "method": "GET", "thumbprint": RFC_THUMBPRINT}
    await checkpoint.refuses(RFC_RESOURCE_REQUEST, token=RFC_ACCESS_TOKEN, error="use_dpop_nonce", **request)
    assert "ath" in await checkpoint.refuses(RFC_RESOURCE_REQUEST, token=RFC_ACCESS_TOKEN + "x", **request)
    server = Checkpoint(clock, "https://server.example.com")
    request = {"url": "/token", "method": "POST", "thumbprint": None, "ath": False}
    await server.refuses(RFC_TOKEN_REQUEST, error="use_dpop_nonce", **request)
    clock.pass_(WINDOW)
    assert "iat" in await server.refuses(RFC_TOKEN_REQUEST, **request)
