"""Checkpoints: signed by a key of their own, which nobody else can read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.audit.chain import Link
from gateway.audit.checkpoint import TYPE, check, key_file, own_key, public_keys, read, read_key, sign
from gateway.identity.issue import IssueError, PrivateKey
from gateway.identity.jose import from_base64url

LINK = Link(7, b"ab" * 32)


def test_the_first_start_makes_a_key(tmp_path: Path) -> None:
    """It lies in a folder and a file that nobody else can read, and a restart finds it again."""
    file = key_file(tmp_path / "keys")
    key = own_key(file)
    assert (file.parent.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    assert own_key(file).kid == read_key(file).kid == key.kid
    assert key.alg == "EdDSA"


def test_looking_makes_no_key(tmp_path: Path) -> None:
    """Who only verifies is told that there is none."""
    with pytest.raises(FileNotFoundError):
        read_key(tmp_path / "audit.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """The gateway does not sign with what others may have read, and says how to close it."""
    file = key_file(tmp_path)
    own_key(file)
    file.chmod(mode)
    with pytest.raises(IssueError, match="can be read by others: run `chmod 600"):
        own_key(file)


@pytest.mark.parametrize("data", [b"", b"{}", b"garbage", PrivateKey.new("ES256").private_jwk()])
def test_a_file_that_is_no_such_key_is_refused(tmp_path: Path, data: bytes) -> None:
    """A damaged file is not replaced in silence, and what stands in it is not shown."""
    file = key_file(tmp_path)
    file.write_bytes(data)
    file.chmod(0o600)
    with pytest.raises(IssueError, match="put it back as it was") as refused:
        own_key(file)
    assert file.read_bytes() == data
    if data.startswith(b"{\n"):
        assert json.loads(data)["d"] not in str(refused.value)


def test_what_was_signed_is_read() -> None:
    """A JWS of a type of its own, which says up to which line, with which hash, and when."""
    key = PrivateKey.new("EdDSA")
    checkpoint = sign(key, LINK, 1_800_000_000.9)
    head, claims, _ = checkpoint.signed.split(".")
    assert json.loads(from_base64url(head)) == {"typ": TYPE, "alg": "EdDSA", "kid": key.kid}
    assert json.loads(from_base64url(claims)) == {"seq": 7, "hash": "ab" * 32, "iat": 1_800_000_000}
    assert read(checkpoint.signed, public_keys(key)) == checkpoint
    check(checkpoint, public_keys(key))


@pytest.mark.parametrize(
    "claims", [{}, {"seq": 7}, {"seq": "7", "hash": "ab", "iat": 1}, {"seq": 7, "hash": 1, "iat": 1}]
)
def test_what_has_other_claims_is_none(claims: dict[str, object]) -> None:
    """The right key under something else that was never a checkpoint."""
    key = PrivateKey.new("EdDSA")
    with pytest.raises(ValueError, match="is no checkpoint"):
        read(key.sign({"typ": TYPE}, claims), public_keys(key))
