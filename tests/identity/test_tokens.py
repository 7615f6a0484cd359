"""What a token must be, one attack after the other."""

from __future__ import annotations

import base64
import json
import socket
from contextlib import closing, suppress
from typing import Any

import pytest

from gateway.core.errors import Refusal
from gateway.identity.challenges import challenges
from gateway.identity.settings import AgentSettings
from gateway.identity.tokens import MAX_TOKEN
from tests.identity.door import PUBLIC_URL, Door, issuer_settings, mcp
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer, b64, mac


def good(issuer: Issuer, clock: SetClock, **changes: object) -> str:
    """A token that is right but for these claims."""
    return issuer.token(clock.time, **changes)


@pytest.mark.parametrize("alg", ["EdDSA", "ES256", "RS256"])
def test_a_good_token_names_its_agent(alg: str, clock: SetClock) -> None:
    """Whoever holds a token that an issuer signed for this gateway is the agent that it names."""
    issuer = Issuer(alg=alg)
    principal = Door(issuer, clock=clock).admits(good(issuer, clock, run="r-1", inc="i-1", scope="pay read"))
    assert (principal.agent.id, principal.agent.team) == ("procurement", "finance")
    assert (principal.issuer, principal.iss, principal.subject) == ("dev", issuer.iss, issuer.subject)
    assert principal.owner == (issuer.iss, issuer.subject)
    assert (principal.assurance, principal.key_id, principal.token_id) == ("bearer", "key-1", "t-1")
    assert principal.expires == clock.time + 3600
    assert (principal.run, principal.incarnation, principal.parent_run) == ("r-1", "i-1", None)
    assert (principal.on_behalf_of, principal.chain) == ("", ())
    assert principal.scope == frozenset({"pay", "read"})


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", None, ["EdDSA"], 0])
@pytest.mark.parametrize("signature", ["", None])
def test_unsigned(alg: object, signature: str | None, door: Door, issuer: Issuer, clock: SetClock) -> None:
    """I1, S01: `alg: none` in any spelling is refused, with and without a signature."""
    head, body, tail = issuer.sign(issuer.header(alg=alg), issuer.claims(clock.time)).split(".")
    door.refuses(f"{head}.{body}.{tail if signature is None else signature}")


@pytest.mark.parametrize("alg", ["EdDSA", "ES256", "RS256"])
def test_empty_signature(alg: str, clock: SetClock) -> None:
    """I1: a token whose signature was cut off is refused, whatever the key."""
    issuer = Issuer(alg=alg)
    head, body, _ = good(issuer, clock).split(".")
    Door(issuer, clock=clock).refuses(f"{head}.{body}.")


@pytest.mark.parametrize("listed", [False, True])
def test_public_key_as_shared_secret(listed: bool, clock: SetClock) -> None:  # noqa: FBT001 - a table of two
    """I2, S01: HS256 over any spelling of the public key is refused, even by a list that names HS256."""
    issuer = Issuer(alg="ES256")
    algs = ("ES256", "HS256") if listed else ("ES256",)
    door = Door(issuer, clock=clock, settings=[issuer_settings(issuer, algs=algs)])
    signed = ".".join(b64(json.dumps(p).encode()) for p in (issuer.header(alg="HS256"), issuer.claims(clock.time)))
    for secret in issuer.public_spellings():
        door.refuses(f"{signed}.{mac(secret, signed)}")


@pytest.mark.parametrize(
    ("own", "claimed"),
    [("EdDSA", "ES256"), ("ES256", "EdDSA"), ("ES256", "ES384"), ("RS256", "PS256"), ("RS256", "ES256")],
)
def test_algorithm_of_another_key(own: str, claimed: str, clock: SetClock) -> None:
    """I3, S01: an `alg` that the issuer may use, but that is not this key's, is refused."""
    issuer = Issuer(alg=own)
    door = Door(issuer, clock=clock, settings=[issuer_settings(issuer, algs=(own, claimed))])
    door.admits(good(issuer, clock))
    refusal = door.refuses(issuer.sign(issuer.header(alg=claimed), issuer.claims(clock.time)))
    assert "no key" in str(refusal.detail)


def test_algorithm_outside_the_issuers_list(clock: SetClock) -> None:
    """I3: a key in the issuer's file cannot be used with an `alg` that the operator did not list."""
    issuer = Issuer(alg="ES256")
    door = Door(issuer, clock=clock, settings=[issuer_settings(issuer, algs=("EdDSA",))])
    door.refuses(good(issuer, clock))


def test_token_brings_its_own_key(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """I4, S02: `jwk`, `jku`, `x5u`, `x5c` are refused, also beside a good signature, and nobody is asked for a key."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/jwks.json"
        for signer in (Issuer(), issuer):
            for member, value in {"jwk": signer.jwk(), "jku": url, "x5u": url, "x5c": ["MIIB"]}.items():
                refusal = door.refuses(signer.sign(issuer.header(**{member: value}), issuer.claims(clock.time)))
                assert member in str(refusal.detail)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("crit", [["b64"], ["exp"], [], "b64", None, False])
def test_critical_extension(crit: object, door: Door, issuer: Issuer, clock: SetClock) -> None:
    """I5, S02: `crit` is refused whatever it holds, since no extension is understood."""
    door.refuses(issuer.sign(issuer.header(crit=crit, b64=True), issuer.claims(clock.time)))


def test_duplicate_members(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """I6: a member that stands twice, also deep inside or spelled with an escape, is refused."""
    header, claims = json.dumps(issuer.header()), json.dumps(issuer.claims(clock.time))
    door.admits(issuer.sign_bytes(header.encode(), claims.encode()))
    for name, value in issuer.header().items():
        door.refuses(issuer.sign_bytes(f'{header[:-1]},"{name}":"{value}"}}'.encode(), claims.encode()))
    for extra in ('"sub":"admin"', r'"s\u0075b":"admin"', '"act":{"sub":"a","sub":"a"}', '"x":[{"y":1,"y":1}]'):
        door.refuses(issuer.sign_bytes(header.encode(), f"{claims[:-1]},{extra}}}".encode()))


@pytest.mark.parametrize(
    "aud",
    [
        ...,
        "https://other.example",
        "https://gateway.example/",
        "https://GATEWAY.example",
        "https://gateway.example.evil",
        ["https://gateway.example", "https://other.example"],
        ["https://gateway.example", "https://gateway.example"],
        [["https://gateway.example"]],
        [],
        "",
        None,
        1,
        {"https://gateway.example": True},
    ],
)
def test_other_audience(aud: object, door: Door, issuer: Issuer, clock: SetClock) -> None:
    """I7, S04: a token for anybody else, or for others too, is refused."""
    door.refuses(good(issuer, clock, aud=aud))


def test_audience_as_a_list_of_one(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """`aud` may be written as a list, as long as one name stands in it (RFC 7519 §4.1.3)."""
    door.admits(good(issuer, clock, aud=["https://gateway.example"]))


def test_audience_of_one_mcp_server(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """I7: a token for one MCP server opens that one and nothing else, also once it is remembered."""
    token = good(issuer, clock, aud=f"{PUBLIC_URL}/mcp/github")
    for _ in range(2):
        door.admits(token, mcp("github"))
        door.refuses(token, mcp("files"))
        door.refuses(token, mcp(""))
        door.refuses(token)
    for aud in (f"{PUBLIC_URL}/mcp/", f"{PUBLIC_URL}/mcp", f"{PUBLIC_URL}/mcp/github/", f"{PUBLIC_URL}/MCP/github"):
        door.refuses(good(issuer, clock, aud=aud), mcp("github"))


@pytest.mark.parametrize(
    "exp",
    [
        *("", '"1800003600"', "1800003600.0", "1.8000036e9", "NaN", "Infinity", "-Infinity", "true", "null"),
        *("[1800003600]", "-1", "1800003600" + "0" * 20, "9" * 5000, "0x6B49D200"),
    ],
)
def test_end_that_is_not_a_number(exp: str, door: Door, issuer: Issuer, clock: SetClock) -> None:
    """I8: without a whole number in `exp` there is no end, so the token is refused."""
    claims = json.dumps(issuer.claims(clock.time, exp=...))[:-1] + (f',"exp":{exp}}}' if exp else "}")
    door.refuses(issuer.sign_bytes(json.dumps(issuer.header()).encode(), claims.encode()))


@pytest.mark.parametrize("name", ["iat", "nbf"])
@pytest.mark.parametrize("value", ["1", 1.5, True, None, -1, 10**30])
def test_beginning_that_is_not_a_number(name: str, value: object, door: Door, issuer: Issuer, clock: SetClock) -> None:
    """I8: `iat` and `nbf` are whole numbers too, where they stand."""
    door.refuses(good(issuer, clock, **{name: value}))


HOUR, LONGEST, SKEW = 3600, 12 * 3600, 30


@pytest.mark.parametrize(
    ("lives", "times"),
    [
        (True, {"iat": 0, "exp": LONGEST}),
        (False, {"iat": 0, "exp": LONGEST + 1}),
        (True, {"iat": ..., "exp": LONGEST}),
        (False, {"iat": ..., "exp": LONGEST + SKEW + 1}),
        (False, {"iat": -LONGEST, "exp": 1}),
        (False, {"iat": ..., "nbf": LONGEST, "exp": LONGEST + HOUR}),
        (False, {"iat": ..., "exp": 10 * 365 * 24 * HOUR}),
    ],
)
def test_long_life(*, lives: bool, times: dict[str, Any], door: Door, issuer: Issuer, clock: SetClock) -> None:
    """I9: a token that lives longer than its issuer's tokens may is refused, also where it hides its beginning."""
    token = good(issuer, clock, **absolute(clock, times))
    if lives:
        door.admits(token)
    else:
        door.refuses(token)


@pytest.mark.parametrize(
    ("code", "times"),
    [
        (None, {"iat": SKEW}),
        ("identity_invalid", {"iat": SKEW + 1}),
        (None, {"nbf": SKEW}),
        ("identity_invalid", {"nbf": SKEW + 1}),
        (None, {"iat": -HOUR, "exp": 1 - SKEW}),
        ("identity_expired", {"iat": -HOUR, "exp": -SKEW}),
        ("identity_invalid", {"iat": HOUR, "exp": HOUR}),
        ("identity_invalid", {"iat": 10, "exp": 10}),
        ("identity_invalid", {"nbf": 20, "exp": 10}),
    ],
)
def test_clocks_that_disagree(
    code: str | None, times: dict[str, Any], door: Door, issuer: Issuer, clock: SetClock
) -> None:
    """S04: `exp`, `nbf` and `iat` are forgiven the configured skew and not a second more."""
    token = good(issuer, clock, **absolute(clock, times))
    if code:
        door.refuses(token, code=code)
    else:
        door.admits(token)


def absolute(clock: SetClock, times: dict[str, Any]) -> dict[str, Any]:
    """Seconds from now as epoch seconds."""
    return {name: value if value is ... else int(clock.time) + value for name, value in times.items()}


def test_expired_is_said_only_to_whom_it_was_given(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """S04: whoever forges an expired token, or one for somebody else, learns nothing but that it is invalid."""
    old = absolute(clock, {"iat": -HOUR, "exp": -HOUR + 60})
    refusal = door.refuses(good(issuer, clock, **old), code="identity_expired")
    assert "expired" in refusal.sentence
    assert challenges(refusal, PUBLIC_URL)[0][1].startswith('Bearer realm="passgate", error="invalid_token"')
    door.refuses(good(Issuer(), clock, **old))
    door.refuses(good(issuer, clock, aud="https://other.example", **old))


@pytest.mark.parametrize(
    "typ",
    [..., "wf-attestation+jwt", "txntoken+jwt", "dpop+jwt", "ID", "", "jwt at+jwt", "application/", None, ["JWT"]],
)
def test_other_kind_of_token(typ: object, door: Door, issuer: Issuer, clock: SetClock) -> None:
    """I10: what the same issuer signs for another use (ID token, transaction token, attestation) is no access token."""
    door.refuses(issuer.sign(issuer.header(typ=typ), issuer.claims(clock.time)))


@pytest.mark.parametrize("typ", ["at+jwt", "application/at+jwt", "AT+JWT", "JWT", "jwt"])
def test_spelling_of_typ(typ: str, door: Door, issuer: Issuer, clock: SetClock) -> None:
    """`typ` is a media type: case does not count and `application/` may be left out (RFC 7515 §4.1.9)."""
    door.admits(issuer.sign(issuer.header(typ=typ), issuer.claims(clock.time)))


def test_issuer_speaks_for_another(issuer: Issuer, clock: SetClock) -> None:
    """I11: a key of issuer A never verifies a token that names issuer B, not even under B's key id."""
    other = Issuer(name="other", iss="https://other.example")
    door = Door(issuer, other, clock=clock)
    for kid in ("key-1", "key-2", ...):
        door.refuses(other.sign(other.header(kid=kid), issuer.claims(clock.time)))


@pytest.mark.parametrize(
    "iss",
    [
        *("https://issuer.example/", "https://Issuer.example", "HTTPS://issuer.example", " https://issuer.example"),
        *("http://issuer.example", "https://issuer.example:443", "https://issuer.example\u200b", "", None, ..., ["x"]),
    ],
)
def test_almost_the_issuer(iss: object, door: Door, issuer: Issuer, clock: SetClock) -> None:
    """I12, S04: `iss` is compared character by character."""
    door.refuses(good(issuer, clock, iss=iss))


@pytest.mark.parametrize("method", ["jkt", "x5t#S256"])
def test_bound_token_without_proof(method: str, door: Door, issuer: Issuer, clock: SetClock) -> None:
    """I16: a token that is bound to a key is never taken from a bearer."""
    cnf = {method: "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}
    door.refuses(good(issuer, clock, cnf=cnf), code="proof_invalid")


@pytest.mark.parametrize(
    "kid",
    [
        *("../../../etc/passwd", "file:///etc/passwd", "/dev/null", "key-1/../key-1", "key-1\u0000", "KEY-1", ""),
        *("' OR 1=1--", "https://evil.example/jwks.json", 1, None, ["key-1"]),
    ],
)
def test_key_id_is_only_a_name(kid: object, door: Door, issuer: Issuer, clock: SetClock) -> None:
    """S02: `kid` is looked up among the issuer's keys and is nothing else: no path, no address, no query."""
    door.refuses(issuer.sign(issuer.header(kid=kid), issuer.claims(clock.time)))


def test_no_key_id(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """Without a `kid` the issuer's only fitting key is meant."""
    door.admits(issuer.sign(issuer.header(kid=...), issuer.claims(clock.time)))


def test_second_spelling_of_a_token(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """S03: padding, stray bits, other alphabets, spaces and more segments are refused: one token, one spelling."""
    token = good(issuer, clock)
    head, body, tail = token.split(".")
    door.admits(token)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    stray = alphabet[alphabet.index(tail[-1]) ^ 1]  # 64 bytes are 86 characters: the last 4 bits are unused
    assert base64.urlsafe_b64decode(tail + "==") == base64.urlsafe_b64decode(tail[:-1] + stray + "==")
    spellings = [f"{token}=", f"{token}==", f"{head}.{body}.{tail[:-1]}{stray}", f"{token}\n", f"{token}.", f".{token}"]
    spellings += [
        f"{token}.{tail}",
        f"{head}.{body}.{tail[:40]} {tail[40:]}",
        f"{head}.{body}.!{tail}",
        f"{head}=.{body}.{tail}",
    ]
    spellings += [f"{head}.{body}", head, ".", "..", "...", f"{head}..{tail}", f".{body}.{tail}"]
    for spelling in spellings:
        door.refuses(spelling)


def test_second_signature_of_a_token(clock: SetClock) -> None:
    """S03: the mirrored ECDSA signature (r, n - s) verifies too; the token keeps its id, so it stays revoked."""
    issuer = Issuer(alg="ES256")
    door = Door(issuer, clock=clock)
    token = good(issuer, clock, jti=...)
    mirrored = issuer.mirrored(token)
    assert mirrored != token
    assert door.admits(mirrored) == door.admits(token)
    for padding in (b"\0", bytes(32)):
        door.refuses(issuer.mirrored(token, padding))


def test_size(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """A token of more than 7 KiB is refused before it is looked at; one that is just below is read."""
    base = len(good(issuer, clock, pad=""))
    sizes = {
        len(token): token
        for n in range(MAX_TOKEN)
        if abs(base + n * 4 // 3 - MAX_TOKEN) < 8
        for token in [good(issuer, clock, pad="x" * n)]
    }
    assert min(sizes) < MAX_TOKEN < max(sizes)
    for size, token in sizes.items():
        if size <= MAX_TOKEN:
            door.admits(token)
        else:
            assert "longer" in str(door.refuses(token).detail)


@pytest.mark.parametrize(
    "part",
    [
        *(b"", b"[]", b"1", b'"x"', b"null", b"{", b"{}x", b"\xef\xbb\xbf{}", b"{'a':1}", b'{"a":1,}', b"\xff{}"),
        *(b'{"a":"\xff"}', b'{"a":NaN}', b'{"a":"\\ud800"}', b'{"a":["\\uDFFF"]}', b'{"\\ud800":1}', b'{"a":"\n"}'),
        *(b"[" * 5000, b'{"a":' * 1000, b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}", b'{"a":' + b"9" * 5000 + b"}"),
    ],
)
def test_what_is_not_strict_json(part: bytes, door: Door, issuer: Issuer, clock: SetClock) -> None:
    """I6: what JSON readers disagree on is refused, in the header as in the claims, and breaks nothing."""
    claims = door.refuses(issuer.sign_bytes(json.dumps(issuer.header()).encode(), part))
    header = door.refuses(issuer.sign_bytes(part, json.dumps(issuer.claims(clock.time)).encode()))
    assert "claims cannot be read" in str(claims.detail)
    assert "header cannot be read" in str(header.detail)


@pytest.mark.parametrize("name", ["aud", "act", "scope", "limits", "run", "jti", "cnf", "nbf", "note"])
def test_deep_nesting(name: str, door: Door, issuer: Issuer, clock: SetClock) -> None:
    """S06: a value nested almost too deeply to read is refused or ignored, and never breaks what describes it."""
    claims = json.dumps(issuer.claims(clock.time, **{name: ...}))[:-1]
    for depth in range(600, 1000, 20):
        value = '{"act":' * depth + "1" + "}" * depth if name == "act" else "[" * depth + "]" * depth
        token = issuer.sign_bytes(json.dumps(issuer.header()).encode(), f'{claims},"{name}":{value}}}'.encode())
        with suppress(Refusal):
            door.admits(token)
            assert name == "note"


def test_lone_surrogates_beside_good_claims(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """S06: half a surrogate pair cannot be written down, so it gets no further; a whole pair does."""
    claims = json.dumps(issuer.claims(clock.time))[:-1]
    header = json.dumps(issuer.header()).encode()
    door.admits(issuer.sign_bytes(header, (claims + r',"note":"\ud83d\ude00"}').encode()))
    door.refuses(issuer.sign_bytes(header, (claims + r',"note":"\ud83d"}').encode()))


@pytest.mark.parametrize(
    "sub", [..., "", None, 1, ["a"], "a\nb", "a\u0000", "a\u007f", "a\u0085", "a\u2028b", "x" * 2049, "x" * 3000]
)
def test_subject_that_is_no_name(sub: object, door: Door, issuer: Issuer, clock: SetClock) -> None:
    """S06: a subject is printable text of bounded length: it goes into logs, labels and the ledger."""
    door.refuses(good(issuer, clock, sub=sub))
    door.refuses(good(issuer, clock, act={"sub": sub} if sub is not ... else {}))


@pytest.mark.parametrize("jti", ["", None, 1, "a\nb", "x" * 3000])
def test_token_id_that_is_no_name(jti: object, door: Door, issuer: Issuer, clock: SetClock) -> None:
    """S06: a `jti` is printable text, where it stands; without one the signed bytes' SHA-256 is the id."""
    door.refuses(good(issuer, clock, jti=jti))
    one, two = (door.admits(good(issuer, clock, jti=..., n=n)).token_id for n in (1, 2))
    assert len(one) == 64
    assert one != two


def test_acting_for_somebody(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """I18: the outermost `act` is the agent, `sub` the user; deeper ones are history and decide nothing (RFC 8693)."""
    history = {"sub": "planner", "act": {"sub": "admin", "iss": "https://other.example"}}
    principal = door.admits(good(issuer, clock, sub="user/anna", act={"sub": issuer.subject, "act": history}))
    assert (principal.agent.id, principal.subject) == ("procurement", issuer.subject)
    assert (principal.on_behalf_of, principal.chain) == ("user/anna", ("planner", "admin"))


def test_nobody_acts_for_himself(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """I19: an `act` that names the subject itself makes no user out of the agent."""
    principal = door.admits(good(issuer, clock, act={"sub": issuer.subject, "act": {"sub": "planner"}}))
    assert (principal.subject, principal.on_behalf_of, principal.chain) == (issuer.subject, "", ("planner",))


@pytest.mark.parametrize(
    "act",
    [None, "procurement", [], {}, {"sub": "x", "act": None}, {"sub": "x", "act": {"sub": ""}}, {"act": {"sub": "x"}}],
)
def test_actor_that_is_none(act: object, door: Door, issuer: Issuer, clock: SetClock) -> None:
    """I18: an `act` that cannot be understood to its end is refused, not skipped."""
    door.refuses(good(issuer, clock, act=act))


def test_actor_of_another_issuer(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """I11: an issuer speaks for its own subjects only, so an actor with another `iss` is refused."""
    door.refuses(good(issuer, clock, sub="u", act={"sub": issuer.subject, "iss": "https://other.example"}))
    door.admits(good(issuer, clock, sub="u", act={"sub": issuer.subject, "iss": issuer.iss}))


@pytest.mark.parametrize("name", ["run", "inc", "parent_run"])
@pytest.mark.parametrize("value", ["", "-r", "a/b", "a b", "r\n", "ü", "x" * 129, 1, None, ["r"]])
def test_run_that_is_no_id(name: str, value: object, door: Door, issuer: Issuer, clock: SetClock) -> None:
    """A run, an incarnation and a parent in the claims follow the grammar of the header and the URL."""
    door.refuses(good(issuer, clock, **{name: value}))


def test_limits_and_scope(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """What an issuer restricts reaches the principal; what cannot be kept is refused, never dropped."""
    principal = door.admits(good(issuer, clock, limits={"tokens": 10, "steps": 3}, scope=""))
    assert principal.limits == (("steps", 3), ("tokens", 10))
    assert principal.scope == frozenset()
    assert door.admits(good(issuer, clock)).scope is None
    refused: list[Any] = [[], None, {"step": 1}, {"steps": -1}, {"steps": True}, {"steps": 1.0}, {"steps": None}]
    for limits in refused:
        door.refuses(good(issuer, clock, limits=limits))
    for scope in (None, ["a"], 1, "a\nb"):
        door.refuses(good(issuer, clock, scope=scope))


@pytest.mark.parametrize(
    "bearer", ["' OR pg_sleep(5)--", "x", "\udcff\udcfe", "ü.ü.ü", "a.b.c", "%00", "é" * 9000, "null"]
)
def test_bearer_that_is_no_token(bearer: str, door: Door) -> None:
    """S06: whatever stands where a token should is refused like any other and reaches no store."""
    door.refuses(bearer)


def test_the_public_learns_nothing(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """S01: two different faults read the same outside and differ in the log, which never holds the token."""
    tokens = good(issuer, clock, aud="x"), good(Issuer(), clock)
    one, two = (door.refuses(token) for token in tokens)
    assert (one.sentence, one.fields, one.headers) == (two.sentence, two.fields, two.headers)
    assert one.detail != two.detail
    for token, refusal in zip(tokens, (one, two), strict=True):
        assert not any(part in str(refusal.detail) for part in token.split("."))
    assert challenges(one, PUBLIC_URL)[0][1].startswith('Bearer realm="passgate", error="invalid_token"')


def test_unregistered_subject(door: Door, issuer: Issuer, clock: SetClock) -> None:
    """A valid token of nobody is refused in words that tell an operator what to register."""
    refusal = door.refuses(good(issuer, clock, sub="spiffe://acme.example/agent/x"), code="agent_unknown")
    assert "spiffe://acme.example/agent/x" in refusal.sentence
    assert "dev" in refusal.sentence
    assert refusal.status == 403


def test_nobody_is_known(issuer: Issuer, clock: SetClock) -> None:
    """A file without keys refuses everybody."""
    door = Door(issuer, clock=clock, agents=[AgentSettings(id="a", issuer="dev", subject=issuer.subject)])
    door.admits(good(issuer, clock))
    empty = EmptyIssuer(key=issuer.key)
    Door(empty, clock=clock).refuses(good(issuer, clock))


class EmptyIssuer(Issuer):
    """An issuer that withdrew all of its keys."""

    def jwks(self) -> bytes:
        """Nothing."""
        return b'{"keys": []}'
