"""Signed tokens that are wrong in one thing, at a real listener: refused in one sentence, and nothing goes on.

All of them are signed now by the key of a configured issuer, unless the attack is to sign with another.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import Any, Final

import pytest

from tests.attacks.stage import AUDITOR, BARRED, Stage, compact
from tests.simulator.issuer import Issuer, b64, mac
from tests.simulator.jwks import JwksServer
from tests.simulator.provider import completion

HOUR: Final = 3600
LONGEST: Final = 12 * HOUR


def refuses(stage: Stage, *tokens: str) -> None:
    """A call with each of these tokens is 401, in the one sentence, and its upstream hears nothing."""
    model, said = stage.model(), set()
    for token in tokens:
        reply = stage.chat(model, token=token)
        assert (reply.status, reply.refusal) == (401, "identity_invalid")
        said.add(reply.json()["error"]["message"])
    assert len(said) == 1
    assert not stage.upstream.heard(model)


def headed(stage: Stage, **members: object) -> str:
    """A token that is right but for these members of its header."""
    issuer = stage.gateway.issuer
    return issuer.sign(issuer.header(**members), issuer.claims(jti=uuid.uuid4().hex))


def written(stage: Stage, header: str = "", claims: str = "") -> str:
    """A token of these very texts, each the good one unless told otherwise."""
    issuer = stage.gateway.issuer
    good = json.dumps(issuer.header()), json.dumps(issuer.claims())
    return issuer.sign_bytes((header or good[0]).encode(), (claims or good[1]).encode())


def test_the_good_token_is_let_in(stage: Stage) -> None:
    """What all the others are changed from is good: it is the one change that is refused."""
    for token in (stage.token(), headed(stage), written(stage), headed(stage, kid=...)):
        assert stage.chat(stage.model(), token=token).status == 200


def test_unsigned(stage: Stage) -> None:
    """I1, S01: `alg: none` in any spelling, with or without a signature, and a signature that was cut off: 401."""
    signed = [headed(stage, alg=alg) for alg in ("none", "None", "NONE", "", None)]
    cut = [f"{token.rpartition('.')[0]}." for token in (*signed, headed(stage))]
    refuses(stage, *signed, *cut, stage.token().rpartition(".")[0])


def test_a_public_key_is_no_secret(stage: Stage) -> None:
    """I2, S01: HS256 with the public key as PEM, in other line ends, as DER, as JWK text, or with nothing: 401."""
    issuer = stage.gateway.issuer
    signed = ".".join(b64(json.dumps(part).encode()) for part in (issuer.header(alg="HS256"), issuer.claims()))
    refuses(stage, *(f"{signed}.{mac(secret, signed)}" for secret in issuer.public_spellings()))


@pytest.mark.parametrize("alg", ["ES256", "ES384", "RS256", "PS256", "HS256", "EdDSA ", "eddsa", ["EdDSA"], None])
def test_an_algorithm_that_is_not_the_keys(stage: Stage, alg: object) -> None:
    """I3, S01: an `alg` that the key was not made for, listed (ES256) or not, is refused."""
    refuses(stage, headed(stage, alg=alg))


def test_a_token_brings_no_key(stage: Stage) -> None:
    """I4, S02: `jwk`, `jku`, `x5u`, `x5c` beside a thief's or the issuer's own signature: 401, and nobody is asked."""
    issuer, thief = stage.gateway.issuer, Issuer()
    with JwksServer() as server:
        server.publishes(thief.jwks())
        brought = {"jwk": thief.jwk(), "jku": server.jwks_url, "x5u": server.jwks_url, "x5c": ["MIIB"]}
        headers = [issuer.header(**{name: value}) for name, value in brought.items()]
        refuses(stage, *(one.sign(header, issuer.claims()) for header in headers for one in (thief, issuer)))
        assert server.seen() == b""


@pytest.mark.parametrize("crit", [["b64"], ["exp"], [], "b64", None, False, {"b64": False}])
def test_nothing_is_critical(stage: Stage, crit: object) -> None:
    """I5, S02: `crit` with any value is refused, since no extension is understood."""
    refuses(stage, headed(stage, crit=crit), headed(stage, crit=crit, b64=False))


def test_members_that_stand_twice(stage: Stage) -> None:
    """I6: a member twice in the header or the claims, the same or another, with an escape or deep inside: 401."""
    issuer = stage.gateway.issuer
    header, claims = (json.dumps(part)[:-1] for part in (issuer.header(), issuer.claims()))
    twice = [written(stage, header=f"{header},{json.dumps(k)}:{json.dumps(v)}}}") for k, v in issuer.header().items()]
    extras = (
        f'"sub":"{AUDITOR}"',
        rf'"s\u0075b":"{AUDITOR}"',
        f'"aud":"{issuer.audience}"',
        '"act":{"sub":"a","sub":"a"}',
        '"note":[{"y":1,"y":1}]',
    )
    twice += [written(stage, claims=f"{claims},{extra}}}") for extra in extras]
    refuses(stage, *twice)


OURS: Final = Issuer.audience


@pytest.mark.parametrize(
    "aud",
    [
        ...,
        "https://other.example",
        f"{OURS}/",
        OURS.upper(),
        f"{OURS}.evil",
        [OURS, "https://other.example"],
        ["https://other.example", OURS],
        [OURS, OURS],
        [],
        "",
        None,
        {OURS: True},
    ],
    ids=str,
)
def test_another_audience(stage: Stage, aud: object) -> None:
    """I7, S04: a token for somebody else, or for others too, is refused."""
    refuses(stage, stage.token(aud=aud))


@pytest.mark.parametrize(
    "exp", ["", '"{}"', "{}.0", "{}e0", "NaN", "Infinity", "true", "null", "[{}]", "-1", "{}000000", "0x{}"]
)
def test_an_end_that_is_no_number(stage: Stage, exp: str) -> None:
    """I8: without `exp`, or with text, a fraction, NaN or a truth value in its place, there is no end: 401."""
    claims = json.dumps(stage.gateway.issuer.claims(exp=...))[:-1]
    end = exp.format(int(time.time()) + HOUR)
    refuses(stage, written(stage, claims=f'{claims},"exp":{end}}}' if exp else f"{claims}}}"))


@pytest.mark.parametrize("name", ["iat", "nbf"])
@pytest.mark.parametrize("value", ["1", 1.5, True, None, -1, 10**30])
def test_a_beginning_that_is_no_number(stage: Stage, name: str, value: object) -> None:
    """I8: `iat` and `nbf` are whole numbers too, where they stand."""
    refuses(stage, stage.token(**{name: value}))  # type: ignore[arg-type]  # a claim, and no subject


@pytest.mark.parametrize(
    "times",
    [
        {"exp": LONGEST + 60},
        {"iat": ..., "exp": LONGEST + 60},
        {"iat": -LONGEST, "exp": 60},
        {"iat": ..., "nbf": 0, "exp": 365 * 24 * HOUR},
    ],
    ids=str,
)
def test_a_long_life(stage: Stage, times: dict[str, Any]) -> None:
    """I9: a token that lives longer than its issuer's may, by `iat` or by hiding it, is refused."""
    now = int(time.time())
    claims: dict[str, Any] = {name: value if value is ... else now + value for name, value in times.items()}
    refuses(stage, stage.token(**claims))


@pytest.mark.parametrize(
    "typ", [..., "txntoken+jwt", "wf-attestation+jwt", "dpop+jwt", "secevent+jwt", "ID", "", None, ["JWT"]], ids=str
)
def test_what_was_signed_for_another_use(stage: Stage, typ: object) -> None:
    """I10: an ID token, a transaction token, an attestation or a proof of the same key is no access token: 401."""
    refuses(stage, headed(stage, typ=typ))


def test_a_strangers_key(stage: Stage) -> None:
    """I11, S01: the same claims under a key that is not the issuer's, by its `kid`, by another and by none: 401."""
    thief = Issuer()
    refuses(stage, *(thief.sign(thief.header(kid=kid), thief.claims()) for kid in (thief.kid, "key-2", ...)))


@pytest.mark.parametrize("iss", ["{}/", "{} ", " {}", "{}\u200b", "{}:443", "", None, ..., ["{}"]], ids=str)
def test_almost_the_issuer(stage: Stage, iss: Any) -> None:  # noqa: ANN401 - a table
    """I12: `iss` with a slash at its end, a port, a space, or not there at all is another issuer's: 401."""
    own = stage.gateway.issuer.iss
    refuses(stage, stage.token(iss=iss.format(own) if isinstance(iss, str) else iss))


@pytest.mark.parametrize("change", [str.upper, str.capitalize, lambda iss: iss.replace("issuer", "Issuer")])
def test_the_issuer_in_other_letters(stage: Stage, change: Any) -> None:  # noqa: ANN401 - a table
    """I12: `iss` is compared character by character, case included."""
    refuses(stage, stage.token(iss=change(stage.gateway.issuer.iss)))


def test_an_admin_in_the_history(stage: Stage) -> None:
    """I18: who acted earlier decides nothing: neither lets a barred agent in nor keeps a good one out."""
    good, barred = stage.gateway.issuer.subject, BARRED
    model = stage.model(completion("ok"))
    deep = {"sub": barred, "act": {"sub": AUDITOR}}
    reply = stage.chat(model, token=stage.token(sub="user/anna", act={"sub": good, "act": deep}))
    assert reply.status == 200
    row = stage.row(reply)
    assert (row["agent"], row["on_behalf_of"], row["chain"]) == ("procurement", "user/anna", f"{barred} {AUDITOR}")
    for user in ("user/anna", good):
        reply = stage.chat(model, token=stage.token(sub=user, act={"sub": barred, "act": {"sub": good}}))
        assert (reply.status, reply.refusal) == (403, "policy_denied")
    assert len(stage.upstream.heard(model)) == 1
    refuses(stage, stage.token(act={"sub": good, "act": "admin"}), stage.token(act={}))


def test_nobody_acts_for_a_user_that_nobody_named(stage: Stage) -> None:
    """I19: without `act`, and with one that names the subject itself, a call is on record for no user."""
    himself: list[dict[str, Any]] = [{}, {"act": {"sub": stage.gateway.issuer.subject}}]
    for claims in himself:
        row = stage.row(stage.chat(stage.model(), token=stage.token(**claims)))
        assert (row["on_behalf_of"], row["chain"]) == ("", "")


THUMBPRINT: Final = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


@pytest.mark.parametrize(
    "cnf",
    [None, {}, {"jkt": THUMBPRINT[:-1]}, {"jkt": f"{THUMBPRINT}="}, {"jkt": THUMBPRINT, "x": 1}, {"kid": "key-1"}],
    ids=str,
)
def test_a_binding_that_is_not_understood(stage: Stage, cnf: object) -> None:
    """I16: what cannot be proven is no bearer token instead."""
    refuses(stage, stage.token(cnf=cnf))


RESTRICTIONS: Final[list[dict[str, Any]]] = [
    {"run": "a b"},
    {"inc": None},
    {"parent_run": ["r"]},
    {"scope": ["read"]},
    {"limits": []},
    {"limits": {"steps": -1}},
    {"limits": {"unknown": 1}},
    {"sub": "user/anna", "act": {"sub": Issuer.subject, "iss": "https://other.example"}},
]


@pytest.mark.parametrize("claims", RESTRICTIONS, ids=str)
def test_a_restriction_that_is_not_understood(stage: Stage, claims: dict[str, Any]) -> None:
    """I18, S06: what restricts a token is kept or the token is refused; an issuer speaks for its own actors alone."""
    refuses(stage, stage.gateway.token(**claims))


def test_a_long_token(stage: Stage) -> None:
    """Nobody buys time with a token of more than 7 KiB, signed or not."""
    assert stage.chat(stage.model(), token=stage.token(pad="x" * 4000)).status == 200
    refuses(stage, stage.token(pad="x" * 5200))


KEY_IDS: Final = [
    "../../../etc/passwd",
    "file:///etc/passwd",
    "http://169.254.169.254/latest/meta-data",
    "key-1/../key-1",
    "key-1\u0000",
    "KEY-1",
    "",
    "' OR 1=1--",
    1,
    None,
    ["key-1"],
]


def test_a_key_id_is_only_a_name(stage: Stage) -> None:
    """S02: `kid` is looked up among the issuer's keys: it is no path, no address and no query."""
    refuses(stage, *(headed(stage, kid=kid) for kid in KEY_IDS))


def test_one_token_has_one_spelling(stage: Stage) -> None:
    """S03: padding, stray bits, another alphabet, white space and more segments are refused."""
    token = stage.gateway.token(jti=...)
    head, body, tail = token.split(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    stray = tail[:-1] + alphabet[alphabet.index(tail[-1]) ^ 1]  # 64 bytes are 86 characters: 4 bits are unused
    spellings = [
        f"{token}=",
        f"{token}==",
        f"{head}.{body}.{stray}",
        f"{head}=.{body}.{tail}",
        f"{token}.",
        f".{token}",
    ]
    spellings += [f"{head}.{body}. {tail}", f"{head}.{body}.{tail[:40]}\t{tail[40:]}", f"{token}.{tail}", f"{token}%3D"]
    spellings += [json.dumps({"protected": head, "payload": body, "signature": tail})]
    assert stage.chat(stage.model(), token=token).status == 200
    refuses(stage, *spellings)


def test_tokens_that_begin_alike(stage: Stage) -> None:
    """S04: two tokens whose first characters are the same are two: nobody is taken for the other one."""
    tokens = {"procurement": stage.token(), "auditor": stage.token(AUDITOR)}
    assert len({token[:40] for token in tokens.values()}) == 1
    for name, token in [*tokens.items()] * 3:
        assert stage.row(stage.chat(stage.model(), token=token))["agent"] == name


def test_an_expired_token_and_one_of_tomorrow(stage: Stage) -> None:
    """S04: 401 beyond the skew; only whoever has a token that was good is told that it has expired."""
    now = int(time.time())
    body = compact({"model": stage.model(), "messages": []})
    old = stage.token(iat=now - HOUR, exp=now - 60)
    assert stage.gateway.call("POST", "/v1/chat/completions", body, token=old).refusal == "identity_expired"
    thief = Issuer().token(iat=now - HOUR, exp=now - 60)
    refuses(stage, thief, stage.token(nbf=now + 120), stage.token(iat=now + 120), stage.token(iat=now, exp=now))
