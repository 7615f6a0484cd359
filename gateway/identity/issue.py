"""Have a key of an issuer's, for development: make it, keep it, sign with it.

In production the agents' identity comes from an issuer that knows the workloads (an identity
provider, SPIFFE, the platform) and no private key lies beside the gateway.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.identity.algorithms import ALGORITHMS, CURVES
from gateway.identity.jose import base64url, from_base64url, from_json
from gateway.identity.keys import KeyMistakes, read_jwks, thumbprint
from gateway.identity.settings import IssuerSettings

MINTABLE: Final = ("EdDSA", "ES256")
"""The algorithms that `PrivateKey.new` makes keys for."""


class IssueError(Exception):
    """A key or a token cannot be made; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A key that signs tokens; its text form is a private JWK (RFC 7517), which holds for one algorithm."""

    kid: str
    alg: str
    key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def new(cls, alg: str) -> PrivateKey:
        """A fresh key for one of `MINTABLE`; its `kid` is its RFC 7638 thumbprint."""
        if alg not in MINTABLE:
            raise IssueError(f"no key can be made for {alg}: use one of {', '.join(MINTABLE)}")
        algorithm = ALGORITHMS[alg]
        key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey = (
            ed25519.Ed25519PrivateKey.generate()
            if algorithm.kty == "OKP"
            else ec.generate_private_key(CURVES[algorithm.crv]())
        )
        return cls(thumbprint(_public_members(alg, key)), alg, key)

    @classmethod
    def read(cls, data: bytes) -> PrivateKey:
        """Read what `private_jwk` wrote; raises `IssueError` and never shows what it read."""
        try:
            jwk = from_json(data)
            kid, alg, secret = str(jwk["kid"]), str(jwk["alg"]), from_base64url(str(jwk["d"]))
            key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey = (
                ed25519.Ed25519PrivateKey.from_private_bytes(secret)
                if ALGORITHMS[alg].kty == "OKP"
                else ec.derive_private_key(int.from_bytes(secret), CURVES[ALGORITHMS[alg].crv]())
            )
        except (ValueError, KeyError):
            raise IssueError("not a private key that `passgate keys new` wrote") from None
        return cls(kid, alg, key)

    @property
    def public_jwk(self) -> dict[str, str]:
        """What verifies its signatures."""
        return {**_public_members(self.alg, self.key), "kid": self.kid, "alg": self.alg, "use": "sig"}

    def private_jwk(self) -> bytes:
        """The secret itself, for the one file that keeps it."""
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            secret = self.key.private_bytes_raw()
        else:  # RFC 7518 §6.2.2.1: as long as the curve's order
            secret = self.key.private_numbers().private_value.to_bytes((self.key.curve.key_size + 7) // 8)
        return _lines({**self.public_jwk, "d": base64url(secret)})

    def sign(self, header: Mapping[str, object], claims: Mapping[str, object]) -> str:
        """A signed token (JWS compact); `alg` and `kid` are this key's."""
        parts = [{**header, "alg": self.alg, "kid": self.kid}, claims]
        signed = ".".join(base64url(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
        return f"{signed}.{base64url(ALGORITHMS[self.alg].sign(signed.encode(), self.key))}"


def private_file(jwks: Path) -> Path:
    """Where the private key to a public key file lies: beside it, `jwks.json` → `jwks.private.json`."""
    return jwks.with_name(f"{jwks.stem}.private.json")


def key_file(issuer: IssuerSettings) -> Path:
    """The file of an issuer's public keys, for development; raises `IssueError` where they come from elsewhere."""
    if issuer.keys is None or issuer.keys.file is None:
        raise IssueError(f"issuer {issuer.name} keeps its own keys and signs its own tokens: get one from it")
    return issuer.keys.file


def add_key(jwks: Path, alg: str, *, rotate: bool) -> PrivateKey:
    """Make a key: the public part joins the file `jwks`, the private one goes beside it, mode 0600.

    With `rotate` an existing private key is replaced; its public part stays, so that its tokens
    hold until they expire. Raises `IssueError`, or `OSError` where a file cannot be written.
    """
    secret_file = private_file(jwks)
    if secret_file.exists() and not rotate:
        raise IssueError(f"{secret_file} exists: add --rotate to replace it, which keeps its public key in {jwks}")
    try:
        published = jwks.read_bytes()
    except FileNotFoundError:
        published = b'{"keys": []}'
    try:
        read_jwks(published)
    except KeyMistakes as error:
        raise IssueError(f"{jwks} is not a JWK set to add a key to: {error}") from None
    entries = from_json(published)["keys"]
    if not isinstance(entries, list):
        raise IssueError(f"{jwks} is not a JWK set")
    key = PrivateKey.new(alg)
    jwks.parent.mkdir(parents=True, exist_ok=True)
    # The public part first: should this stop in between, no key is left that nobody accepts.
    write_whole(jwks, _lines({"keys": [*entries, key.public_jwk]}), 0o644)
    write_whole(secret_file, key.private_jwk(), 0o600)
    return key


def load_key(file: Path) -> PrivateKey:
    """The private key in a file that nobody else may read; raises `IssueError` or `OSError`."""
    data = read_secret(file, remedy="or make a new key with --rotate")
    try:
        return PrivateKey.read(data)
    except IssueError as error:
        raise IssueError(f"{file}: {error}") from None


def read_secret(file: Path, *, remedy: str) -> bytes:
    """What stands in a file that nobody else may read, 64 KiB of it at most.

    Raises `IssueError` where others may read it, with what can be done beside closing it, and `OSError`.
    """
    with file.open("rb") as opened:
        if os.fstat(opened.fileno()).st_mode & 0o077:
            raise IssueError(f"{file} can be read by others: run `chmod 600 {file}`, {remedy}")
        return opened.read(64 * 1024)


def _public_members(alg: str, key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> dict[str, str]:
    algorithm = ALGORITHMS[alg]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return {"kty": "OKP", "crv": algorithm.crv, "x": base64url(key.public_key().public_bytes_raw())}
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    half = len(point) // 2
    return {"kty": "EC", "crv": algorithm.crv, "x": base64url(point[:half]), "y": base64url(point[half:])}


def _lines(value: object) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def write_whole(file: Path, data: bytes, mode: int) -> None:
    """Write a whole file or nothing; until it is complete it can be read by nobody else."""
    descriptor, draft = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        Path(draft).replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(draft).unlink()
        raise
