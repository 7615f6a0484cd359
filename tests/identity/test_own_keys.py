"""The gateway's own keys: nobody else can read them, and a key that was replaced still counts for its tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.identity.issue import IssueError, PrivateKey
from gateway.identity.keys import read_jwks
from gateway.identity.own_keys import KEPT, ROTATE_EVERY, OwnKeys

NOW = 1_800_000_000.0


@pytest.fixture
def keys(tmp_path: Path) -> OwnKeys:
    return OwnKeys.open(tmp_path / "keys", NOW)


def published(keys: OwnKeys) -> list[str]:
    """The ids of the keys in the JWK set."""
    return [jwk["kid"] for jwk in json.loads(keys.jwks)["keys"]]


def test_first_start(tmp_path: Path, keys: OwnKeys) -> None:
    """The first start makes a key that nobody else can read, for ES256 and nothing else."""
    folder, file = tmp_path / "keys", tmp_path / "keys" / "tokens.json"
    assert (folder.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    assert [path.name for path in folder.iterdir()] == ["tokens.json"]
    assert keys.key.alg == "ES256"
    public = read_jwks(keys.jwks).find(keys.key.kid, "ES256")
    assert public is not None
    assert public.thumbprint == keys.key.kid


def test_a_restart_keeps_them(tmp_path: Path, keys: OwnKeys) -> None:
    """What was signed before a restart still counts after it, whichever key signed."""
    later = keys.rotated(NOW + 5)
    again = OwnKeys.open(tmp_path / "keys", NOW + 10)
    assert again.jwks == later.jwks
    assert (again.key.kid, again.since, again.retired) == (later.key.kid, later.since, later.retired)


def test_public_is_public(keys: OwnKeys) -> None:
    """The set that everybody may read has no private member, and neither has a repr."""
    rotated = keys.rotated(NOW)
    for jwk in json.loads(rotated.jwks)["keys"]:
        assert jwk.keys() == {"kty", "crv", "x", "y", "kid", "alg", "use"}
    secrets = [json.loads(key.key.private_jwk())["d"] for key in (keys, rotated)]
    assert not any(secret in repr(rotated) for secret in secrets)
    assert secrets[0] not in rotated.file.read_text()  # what is replaced signs nothing again
    assert secrets[1] in rotated.file.read_text()


def test_rotation(keys: OwnKeys) -> None:
    """A new key takes over; the old one stays published until its longest token has ended, then goes."""
    first, changed = keys.key.kid, NOW + 100
    rotated = keys.rotated(changed)
    assert rotated.key.kid != first
    assert published(rotated) == [rotated.key.kid, first]
    assert rotated.tended(changed + KEPT - 1) is rotated
    tended = rotated.tended(changed + KEPT)
    assert published(tended) == [rotated.key.kid]
    assert published(OwnKeys.open(tended.file.parent, NOW)) == [rotated.key.kid]


def test_a_key_is_replaced_after_thirty_days(keys: OwnKeys) -> None:
    """Nothing is due a second before; then another key signs, and the old one is still published."""
    assert keys.tended(NOW + ROTATE_EVERY - 1) is keys
    tended = keys.tended(NOW + ROTATE_EVERY)
    assert tended.key.kid != keys.key.kid
    assert published(tended) == [tended.key.kid, keys.key.kid]
    assert tended.since == NOW + ROTATE_EVERY


@pytest.mark.parametrize(("name", "mode"), [("tokens.json", 0o640), ("tokens.json", 0o604), (".", 0o750), (".", 0o701)])
def test_what_others_can_read_is_refused(keys: OwnKeys, name: str, mode: int) -> None:
    """The gateway does not start on keys that others may have read, and says how to close them."""
    folder = keys.file.parent
    (folder / name).chmod(mode)
    with pytest.raises(IssueError, match=f"can be read by others: run `chmod {'700' if name == '.' else '600'}"):
        OwnKeys.open(folder, NOW)


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: whole.pop("signing"),
        lambda whole: whole.pop("retired"),
        lambda whole: whole["signing"].pop("d"),
        lambda whole: whole["signing"].pop("since"),
        lambda whole: whole["signing"].update(since="yesterday"),
        lambda whole: whole["signing"].update(d="AAAA" * 20),
        lambda whole: whole.update(retired=[{"key": {"kty": "EC"}, "until": 1}]),
        lambda whole: whole.update(retired=[{"key": whole["signing"], "until": 1}]),
        lambda whole: whole.update(retired=[{"until": 1}]),
        lambda whole: whole.update(retired=[1]),
        lambda whole: whole.update(retired={}),
        lambda whole: whole.update(signing=json.loads(PrivateKey.new("EdDSA").private_jwk()) | {"since": 1}),
    ],
)
def test_a_damaged_file_is_refused(keys: OwnKeys, change: object) -> None:
    """Half a file is not guessed at, and not replaced either: its tokens would end. Nothing of it is shown."""
    whole = json.loads(keys.file.read_text())
    secret = whole["signing"]["d"]
    assert callable(change)
    change(whole)
    data = json.dumps(whole)
    keys.file.write_text(data)
    with pytest.raises(IssueError) as caught:
        OwnKeys.open(keys.file.parent, NOW)
    assert str(keys.file) in str(caught.value)
    assert secret not in str(caught.value)
    assert keys.file.read_text() == data


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[]", b'{"signing": 1, "signing": 1}'])
def test_no_json(keys: OwnKeys, data: bytes) -> None:
    """A file that is no JSON object is refused with its name."""
    keys.file.write_bytes(data)
    with pytest.raises(IssueError, match=str(keys.file)):
        OwnKeys.open(keys.file.parent, NOW)


def test_a_rotation_that_cannot_be_kept_does_not_happen(keys: OwnKeys) -> None:
    """The file comes first: where its folder is gone there is no new key."""
    keys.file.unlink()
    keys.file.parent.rmdir()
    with pytest.raises(FileNotFoundError):
        keys.rotated(NOW)
    with pytest.raises(FileNotFoundError):
        keys.tended(NOW + ROTATE_EVERY)
