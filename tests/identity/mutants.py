"""Changes of a token: of its text, which nobody signs again, and of its members, which its own issuer signs.

All of them come out of one generator of random numbers, so that a seed names a whole run.
"""

from __future__ import annotations

import base64
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.simulator.issuer import Issuer, b64, mac
from tests.simulator.soak import SECONDS

SEED: Final = int(os.environ.get("PASSGATE_SEED", "0")) or time.time_ns() % 10**9
"""What all changes follow from; the same ones are made again with `PASSGATE_SEED`."""
_ODD: Final = "ABCYZabcyz0189-_.=+/ ~%,;:\"'\\{}[]\x00\x09\x7fäé\u200b"
_STANDARD: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_ED25519_ORDER: Final = 2**252 + 27742317777372353535851937790883648493

Text = Callable[[random.Random, "Source"], str]


class Cases:
    """The cases of one test: how many, with which numbers, and how they came out."""

    def __init__(self, what: str, *, short: int, long: int = 50_000) -> None:
        """So many in the short form; in the long one at least so many, and on until its time is over."""
        self.rng = random.Random(SEED)  # noqa: S311 - no secret
        self.counts: Counter[str] = Counter()
        self._what, self._least, self._began = what, long if SECONDS else short, time.monotonic()

    def __iter__(self) -> Iterator[int]:
        """Their numbers."""
        number = 0
        while number < self._least or time.monotonic() < self._began + SECONDS:
            yield number
            number += 1

    def __str__(self) -> str:
        told = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        took = time.monotonic() - self._began
        return f"\n{self._what}: {self.counts.total()} cases in {took:.1f} s, PASSGATE_SEED={SEED}: {told}"


class Source(NamedTuple):
    """A good token, another good one of the same signer, and who signs."""

    token: str
    other: str
    signer: Issuer
    thief: Issuer

    @property
    def parts(self) -> list[str]:
        """Its three segments."""
        return self.token.split(".")

    def opened(self) -> list[bytes]:
        """What its segments say."""
        return [_bytes(part) for part in self.parts]


def _bytes(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


# -- changes of the text


def _bit(rng: random.Random, of: Source) -> str:
    """One bit of one character is another one."""
    at = rng.randrange(len(of.token))
    return of.token[:at] + chr(ord(of.token[at]) ^ (1 << rng.randrange(8))) + of.token[at + 1 :]


def _inner_bit(rng: random.Random, of: Source) -> str:
    """One bit of what a segment says is another one."""
    opened = [bytearray(part) for part in of.opened()]
    part = rng.choice(opened)
    part[rng.randrange(len(part))] ^= 1 << rng.randrange(8)
    return ".".join(map(b64, map(bytes, opened)))


def _character(rng: random.Random, of: Source) -> str:
    """A character is replaced, put in, taken out, doubled, or changes places."""
    at, token = rng.randrange(len(of.token)), of.token
    one, rest = token[at], token[at + 1 :]
    return token[:at] + rng.choice(
        [
            rng.choice(_ODD) + rest,
            rng.choice(_ODD) + one + rest,
            rest,
            one + one + rest,
            rest[:1] + one + rest[1:],
            one.swapcase() + rest,
        ]
    )


def _pieces(rng: random.Random, of: Source) -> str:
    """Cut off, or put together of its own pieces."""
    cuts = sorted(rng.randrange(len(of.token) + 1) for _ in range(rng.randrange(1, 5)))
    if len(cuts) == 1:
        return rng.choice([of.token[: cuts[0]], of.token[cuts[0] :]])
    pieces = [of.token[one:two] for one, two in zip([0, *cuts], [*cuts, None], strict=True)]
    rng.shuffle(pieces)
    return "".join(pieces)


def _padding(rng: random.Random, of: Source) -> str:
    """Other spellings of the same bytes: padding, white space, stray bits, another alphabet, percent-encoding."""
    parts, at = of.parts, rng.randrange(3)
    part = parts[at]
    bits = {0: 0, 2: 4, 3: 2}[len(part) % 4]  # that the last character does not use
    stray = _STANDARD[_STANDARD.index(part[-1]) | rng.randrange(1 << bits)] if bits else "="
    parts[at] = rng.choice(
        [
            part + rng.choice(["=", "==", "===", "%3D", "\n", "\r\n", "\t", "\x00", " ", "A", "AAAA", "\u200b"]),
            rng.choice([" ", "\n", "\ufeff", "="]) + part,
            part[:-1] + stray,
            part.replace("-", "+").replace("_", "/"),
            base64.b32encode(_bytes(part)).decode(),
            _bytes(part).hex(),
            "".join(f"%{ord(letter):02X}" for letter in part),
            base64.encodebytes(_bytes(part)).decode(),
        ]
    )
    return ".".join(parts)


def _segments(rng: random.Random, of: Source) -> str:
    """More, fewer and other segments; other serialisations of a JWS."""
    head, body, tail = of.parts
    _, body2, tail2 = of.other.split(".")
    flat = {"protected": head, "payload": body, "signature": tail}
    return rng.choice(
        [
            f"{head}.{body}", head, f"{head}.{body}.", f"{head}..{tail}", f".{body}.{tail}", f"{of.token}.",
            f".{of.token}", f"{of.token}.{tail}", f"{head}.{body}..{tail}", f"{head}.{tail}.{body}",
            f"{body}.{head}.{tail}", f"{head}.{body2}.{tail}", f"{head}.{body}.{tail2}", f"{head}.{body2}.{tail2}x",
            f"{head}.{body}.{body2}.{tail}.{tail2}", f"{of.token},{of.other}", f"{of.token} {of.other}",
            f"{head}.{body}{body2}.{tail}", f"{head}.{body}.{tail}{tail2}", f"{head}.{body}.{tail[:-1]}",
            json.dumps(flat), json.dumps({"payload": body, "signatures": [flat]}), b64(of.token.encode()),
            of.token.upper(), of.token.lower(), of.token.swapcase(), of.token[::-1], f'"{of.token}"',
        ]
    )  # fmt: skip


def _retold(rng: random.Random, of: Source) -> str:
    """The same members in other bytes."""
    opened, at = of.opened(), rng.randrange(2)
    opened[at] = dumped(rng, json.loads(opened[at]))
    return ".".join(map(b64, opened))


def _edited(rng: random.Random, of: Source) -> str:
    """Other members, under the old signature."""
    opened, at = of.opened(), rng.randrange(2)
    members = json.loads(opened[at])
    edit(rng, members)
    opened[at] = twice(rng, members) if rng.random() < 0.3 else dumped(rng, members)
    return ".".join(map(b64, opened))


def _header_games(rng: random.Random, of: Source) -> str:
    """The header says how to believe the token: no algorithm, a shared secret, a key that comes along."""
    head, body, _ = of.opened()
    header, thief = json.loads(head), of.thief
    games: Mapping[str, object] = {
        "jwk": thief.jwk(), "jku": "https://evil.example/jwks.json", "x5u": "https://evil.example/cert",
        "x5c": ["MIIB"], "crit": ["b64"], "b64": False, "zip": "DEF", "kid": rng.choice(["../key", "", None, 1]),
        "alg": thief.alg, "cty": "JWT", "enc": "A128GCM", "typ": rng.choice(["JWT", "JOSE+JSON", "dpop+jwt"]),
    }  # fmt: skip
    alg = rng.choice(["none", "None", "", "HS256", "HS512", None, thief.alg, header["alg"], "dir", "RSA1_5"])
    for name in rng.sample(sorted(games), rng.randrange(4)):
        header[name] = games[name]
    header["alg"] = alg
    signed = f"{b64(json.dumps(header).encode())}.{b64(body)}"
    if alg in {"HS256", "HS512"}:
        return f"{signed}.{mac(rng.choice(list(of.signer.public_spellings())), signed)}"
    return f"{signed}.{rng.choice(['', of.parts[2], b64(thief.signature(signed.encode()))])}"


def _signature(rng: random.Random, of: Source) -> str:
    """Other signatures over the same bytes, of which none is this key's own."""
    head, body, tail = of.parts
    raw, signed = _bytes(tail), f"{head}.{body}"
    size = len(raw)
    forms = [
        b"", bytes(size), b"\xff" * size, raw[::-1], b"\0" + raw, raw + b"\0", raw[1:], raw[:-1], raw + raw,
        bytes(size - 1) + b"\1", rng.randbytes(size), of.thief.signature(signed.encode()),
        _bytes(of.other.split(".")[2]),
    ]  # fmt: skip
    key = of.signer.key
    if isinstance(key, ec.EllipticCurvePrivateKey):
        half, order = size // 2, key.curve.group_order
        r, s = raw[:half], raw[half:]
        zero, one, top = bytes(half), (1).to_bytes(half), order.to_bytes(half)
        forms += [
            s + r,
            zero + s,
            r + zero,
            one + one,
            top + s,
            r + top,
            top + top,
            r + b"\0" + s,
            b"\0" + r + b"\0" + s,
        ]
        forms += [encode_dss_signature(int.from_bytes(r), int.from_bytes(s))]
        if int.from_bytes(s) + order < 1 << (8 * half):
            forms.append(r + (int.from_bytes(s) + order).to_bytes(half))
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        s_more = int.from_bytes(raw[32:], "little") + _ED25519_ORDER
        forms += [raw[:32] + s_more.to_bytes(32, "little"), raw[:32] + bytes(32), bytes(32) + raw[32:]]
        forms += [b"\1" + bytes(63), raw[:31] + bytes([raw[31] ^ 0x80]) + raw[32:]]
    elif isinstance(key, rsa.RSAPrivateKey):
        n = key.public_key().public_numbers().n
        more = int.from_bytes(raw) + n
        forms += [more.to_bytes(size + 1), (n - int.from_bytes(raw)).to_bytes(size), (1).to_bytes(size)]
        forms += [more.to_bytes(size)] if more.bit_length() <= 8 * size else []
    return f"{signed}.{b64(rng.choice(forms))}"


TEXTS: Final[tuple[Text, ...]] = (
    _bit, _inner_bit, _character, _pieces, _padding, _segments, _retold, _edited, _header_games, _signature
)  # fmt: skip


def changed_text(rng: random.Random, of: Source) -> tuple[str, str]:
    """How it was changed, and what came out; that may be the very same text now and then."""
    how = rng.choice(TEXTS)
    return how.__name__.strip("_").replace("_", " "), how(rng, of)


# -- changes of members


def dumped(rng: random.Random, members: Mapping[str, Any]) -> bytes:
    """The same members in another order, with other white space or escapes."""
    names = list(members)
    if rng.random() < 0.5:
        rng.shuffle(names)
    separators = rng.choice([(",", ":"), (", ", ": "), (" ,\n", "\t:\r\n ")])
    plain = rng.random() < 0.5
    text = json.dumps({name: members[name] for name in names}, separators=separators, ensure_ascii=plain)
    return (rng.choice(["", " ", "\n"]) + text + rng.choice(["", " \r\n"])).encode("utf-8", "surrogatepass")


def twice(rng: random.Random, members: Mapping[str, Any]) -> bytes:
    """One member stands twice, the second time perhaps with an escape in its name, or deep inside."""
    text = json.dumps(members or {"x": 1})[:-1]
    name = rng.choice(sorted(members) or ["x"])
    value = json.dumps(rng.choice([members.get(name), value_for(rng, members.get(name))]))
    spelled = json.dumps(name)
    if name and rng.random() < 0.3:
        spelled = f'"\\u{ord(name[0]):04x}{name[1:]}"'
    deep = f',"note":{{"x":{{{spelled}:1,{json.dumps(name)}:2}}}}}}'
    return (text + rng.choice([f",{spelled}:{value}}}", deep])).encode()


UNKNOWN: Final = (
    "admin", "roles", "groups", "amr", "acr", "auth_time", "sid", "nonce", "email", "name", "https://acme.example/x",
    "SUB", "Exp", "act ", " sub", "sub\u200b", "azp ", "client", "may_act", "authorization_details", "x", "", "rctx",
    "tctx", "txn", "req_wl", "agent", "depth", "parents", "root", "tools", "models", "assurance", "vouched_by",
    "client_id", "azp", "kubernetes.io", "cty", "x5t", "x5t#S256", "b64", "zip", "ppt", "jti2", "crit", "alg", "kid",
)  # fmt: skip
"""Names that mean something somewhere, or look as if they did."""
KNOWN: Final = (
    "iss", "sub", "aud", "exp", "iat", "nbf", "jti", "act", "run", "inc", "parent_run", "scope", "limits", "cnf",
    "alg", "typ", "kid", "crit", "jwk", "jku", "x5u", "x5c",
)  # fmt: skip


def edit(rng: random.Random, members: dict[str, Any]) -> str:
    """Set, change or take out one member, at the top or deeper; gives its name at the top."""
    name = rng.choice([*members, *members, *members, rng.choice(KNOWN), rng.choice(UNKNOWN)])
    value = members.get(name)
    if isinstance(value, dict) and value and rng.random() < 0.6:
        inner = dict(value)
        edit(rng, inner)
        members[name] = inner
    elif name in members and rng.random() < 0.15:
        del members[name]
    else:
        members[name] = value_for(rng, value)
    return name


def value_for(rng: random.Random, value: object) -> object:
    """Another value in its place: of another type, almost the same, or of its own kind."""
    match rng.randrange(6):
        case 0:
            return rng.choice([None, True, False, 0, 1, -1, 0.5, 10**30, "", "x", [], {}, [[]], {"x": 1}, "\ud800"])
        case 1:
            return rng.choice([[value], [value, value], {"value": value}, {str(value): True}, str(value), [value, "x"]])
        case 2 | 3 if isinstance(value, bool) or not isinstance(value, int | str):
            return rng.choice(["admin", "spiffe://acme.example/agent/procurement", 7, ["a", "b"], {"sub": "admin"}])
        case 2 | 3 if isinstance(value, int):
            return value + rng.choice([1, -1, 29, 31, -31, 600, -3601, 86_400, 0.5, 2**31, 2**63, -2 * value, 0, 10**9])
        case 2 | 3 if isinstance(value, str):
            at = rng.randrange(len(value) + 1)
            letter = rng.choice([*_ODD, "\u2028", "\x85", "*", "a", "1"])
            return rng.choice(
                [
                    value[:at] + letter + value[at:],
                    value[:at] + value[at + 1 :],
                    value.upper(),
                    f"{value}/",
                    f" {value}",
                ]
            )
        case 4:
            return rng.choice(
                [
                    "r-2", "other", "read", "user/berta", "pay:all other", "admin", f"x{rng.randrange(99)}", "ü", "a b",
                    {"steps": 3}, {"steps": -1}, {"unknown": 1}, {"sub": "planner"}, ["pay.*"], ["x*", "y"], ["*"],
                    ["a*b"], {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}, nested(rng.randrange(12)),
                    "bearer", "mtls", "key", "x" * rng.choice([128, 129, 2048, 2049]), 1_800_003_600, 1_800_043_200,
                ]
            )  # fmt: skip
    return value


class Remade(NamedTuple):
    """Two parts to sign, what they say, and whether they are strict JSON at all."""

    head: bytes
    body: bytes
    header: dict[str, Any]
    claims: dict[str, Any]
    strict: bool
    names: frozenset[str]  # the members of the claims that were edited


def changed_members(rng: random.Random, header: Mapping[str, Any], claims: Mapping[str, Any]) -> Remade:
    """Edit one member or two of the header or the claims, and write them down in some way."""
    parts = [dict(header), dict(claims)]
    at = int(rng.random() < 0.8)
    names = {edit(rng, parts[at]) for _ in range(rng.choice([1, 1, 1, 2]))}
    written = [dumped(rng, part) for part in parts]
    spoilt = rng.random() < 0.08
    if spoilt:
        written[at] = rng.choice(
            [
                twice(rng, parts[at]),
                b"\xef\xbb\xbf" + written[at],
                written[at].decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass"),
                written[at] + b"\0",
                written[at].replace(b'"', b"'"),
                b"[" + written[at] + b"]",
                written[at].rstrip()[:-1] + b',"x":NaN}',
                written[at].rstrip()[:-1] + b',"x":1,}',
            ]
        )
    strict = not spoilt and not any(half_pair(part) for part in parts)
    return Remade(written[0], written[1], parts[0], parts[1], strict, frozenset(names if at else ()))


def half_pair(value: object) -> bool:
    """Whether half a surrogate pair stands somewhere in it, which no strict JSON can say."""
    if isinstance(value, dict):
        return any(half_pair(part) for item in value.items() for part in item)
    if isinstance(value, list):
        return any(map(half_pair, value))
    return isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value)


def nested(depth: int) -> object:
    """Objects in each other."""
    value: object = {"leaf": [1, "two", None]}
    for _ in range(depth):
        value = {"x": value}
    return value
