"""Checkpoints: the gateway's signed word for how far the decision log has come and what it is up to there.

The key is one of its own, in `audit.json` beside the gateway's other keys; nothing else is signed with it. A
checkpoint is a compact JWS (RFC 7515) of the type `passgate-checkpoint+jwt` with `seq`, `hash` and `iat`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from gateway.audit.chain import Link
from gateway.identity.algorithms import ALGORITHMS
from gateway.identity.issue import IssueError, PrivateKey, read_secret, write_whole
from gateway.identity.jose import from_base64url, from_json
from gateway.identity.keys import KeySet, read_jwks
from gateway.state.checkpoints import Checkpoint

TYPE: Final = "passgate-checkpoint+jwt"
_ALG: Final = "EdDSA"
_REMEDY: Final = "or stop the gateway and move it away: what it signed can then be checked with its public key alone"


def key_file(folder: Path) -> Path:
    """Where the key is kept, in the folder of the gateway's own keys."""
    return folder / "audit.json"


def own_key(file: Path) -> PrivateKey:
    """The key that signs checkpoints, made where there is none; raises as `read_key` does."""
    try:
        return read_key(file)
    except FileNotFoundError:
        return _made(file)


def read_key(file: Path) -> PrivateKey:
    """The key in its file; raises `IssueError` where others can read it or where it is none, and `OSError`."""
    data = read_secret(file, remedy=_REMEDY)
    try:
        key = PrivateKey.read(data)
    except IssueError:
        raise IssueError(
            f"{file} does not hold the key of the decision log: put it back as it was, {_REMEDY}"
        ) from None
    if key.alg != _ALG:
        raise IssueError(f"{file} holds an {key.alg} key, where {_ALG} is needed: put it back as it was, {_REMEDY}")
    return key


def public_keys(key: PrivateKey) -> KeySet:
    """What verifies what it signs."""
    return read_jwks(json.dumps({"keys": [key.public_jwk]}).encode())


def sign(key: PrivateKey, link: Link, now: float) -> Checkpoint:
    """The checkpoint of a log that ends in `link` now (epoch seconds)."""
    digest, whole = link.hash.decode(), int(now)
    return Checkpoint(link.seq, whole, digest, key.sign({"typ": TYPE}, {"seq": link.seq, "hash": digest, "iat": whole}))


def check(checkpoint: Checkpoint, keys: KeySet) -> None:
    """Whether a row says what the gateway's key has signed; raises `ValueError`, see `read`."""
    if read(checkpoint.signed, keys) != checkpoint:
        raise ValueError("says otherwise than what was signed: it was edited")


def read(text: str, keys: KeySet) -> Checkpoint:
    """A signed checkpoint, verified; raises `ValueError` with what is wrong, the rest of a sentence about it."""
    try:
        head, claims, signature = text.split(".")
        header, said = from_json(from_base64url(head)), from_json(from_base64url(claims))
        kid, alg = header.get("kid"), header.get("alg")
        seq, digest, time = said["seq"], said["hash"], said["iat"]
        proof = from_base64url(signature)
    except (ValueError, KeyError):
        raise ValueError("is no checkpoint") from None
    if header.get("typ") != TYPE or alg != _ALG:
        raise ValueError("is no checkpoint")
    key = keys.find(kid if isinstance(kid, str) else None, alg)
    if key is None:
        raise ValueError("is signed by another key")
    if not ALGORITHMS[alg].verifies(f"{head}.{claims}".encode(), key.key, proof):
        raise ValueError("is not signed by the key that it names: it is forged")
    if type(seq) is not int or type(time) is not int or not isinstance(digest, str):
        raise ValueError("is no checkpoint")
    return Checkpoint(seq, time, digest, text)


def _made(file: Path) -> PrivateKey:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = PrivateKey.new(_ALG)
    write_whole(file, key.private_jwk(), 0o600)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # a key whose checkpoints are out there must outlive a power cut
    finally:
        os.close(folder)
    return key
