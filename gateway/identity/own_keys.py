"""The gateway's own keys: those that it signs delegated tokens with, kept in one file.

1. One key signs. The file and its folder can be read by nobody else, or the gateway does not start.
2. A key that has been replaced signs nothing again: its private part is forgotten at once. Its public
   part stays published until the last token that it can have signed is over.
3. The file is written before a key is used, whole or not at all, so that a restart finds every key
   that still counts.

Only the supervisor has them; workers know the public parts.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gateway.identity.delegation import ALG, LONGEST
from gateway.identity.issue import IssueError, PrivateKey, read_secret, write_whole
from gateway.identity.jose import from_json
from gateway.identity.keys import KeyMistakes, read_jwks
from gateway.identity.kinds import AT_JWT

ROTATE_EVERY: Final = 30 * 24 * 3600
"""Seconds after which another key takes over."""
KEPT: Final = LONGEST + 10 * 60
"""Seconds for which a replaced key stays published: the longest token, and the most that clocks may disagree."""

_REMEDY: Final = "or stop the gateway and move it away: a new key is made at the next start, and all tokens of it end"


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The key that signs, since when, and the public JWKs of those before it with the time until which they count."""

    file: Path
    key: PrivateKey
    since: int  # epoch seconds
    retired: tuple[tuple[dict[str, object], int], ...] = ()

    @classmethod
    def open(cls, folder: Path, now: float) -> OwnKeys:
        """Read `tokens.json` in `folder`, or make both.

        Raises `IssueError` for what others can read and for what is no such file, and `OSError`.
        """
        file = folder / "tokens.json"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            raise IssueError(f"{folder} can be read by others: run `chmod 700 {folder}`, or name another (state.keys)")
        try:
            data = read_secret(file, remedy=_REMEDY)
        except FileNotFoundError:
            return _written(cls(file, PrivateKey.new(ALG), int(now)))
        return cls._read(file, data)

    @classmethod
    def _read(cls, file: Path, data: bytes) -> OwnKeys:
        try:
            whole = from_json(data)
            signing, retired = whole["signing"], whole["retired"]
            if not isinstance(signing, dict) or not isinstance(retired, list):
                raise ValueError("has no such members")  # noqa: TRY004, TRY301 - one class for all that is wrong
            since = _seconds(signing.pop("since"))
            key = PrivateKey.read(json.dumps(signing).encode())
            kept = tuple((dict(one["key"]), _seconds(one["until"])) for one in retired)
            if len(read_jwks(_jwks(key, kept))) != 1 + len(kept):
                raise ValueError("has a key that verifies nothing")  # noqa: TRY301 - as above
        except (ValueError, KeyError, TypeError, IssueError, KeyMistakes):
            raise IssueError(f"{file} does not hold the gateway's keys: put it back as it was, {_REMEDY}") from None
        if key.alg != ALG:
            raise IssueError(f"{file} holds an {key.alg} key, where {ALG} is needed: put it back as it was, {_REMEDY}")
        return cls(file, key, since, kept)

    @property
    def jwks(self) -> bytes:
        """The JWK set that verifies all of its tokens that still count (RFC 7517)."""
        return _jwks(self.key, self.retired)

    def sign(self, claims: dict[str, object]) -> str:
        """A signed access token (RFC 9068)."""
        return self.key.sign({"typ": AT_JWT}, claims)

    def tended(self, now: float) -> OwnKeys:
        """The keys as they should be by now: the same where nothing is due, else written down before they come back.

        Raises `OSError`.
        """
        if now >= self.since + ROTATE_EVERY:
            return self.rotated(now)
        kept = self._kept(now)
        return self if kept == self.retired else _written(replace(self, retired=kept))

    def rotated(self, now: float) -> OwnKeys:
        """With a new key that signs; written down before it comes back. Raises `OSError`."""
        before: dict[str, object] = dict(self.key.public_jwk)
        retired = (*self._kept(now), (before, int(now) + KEPT))
        return _written(replace(self, key=PrivateKey.new(ALG), since=int(now), retired=retired))

    def _kept(self, now: float) -> tuple[tuple[dict[str, object], int], ...]:
        return tuple(one for one in self.retired if now < one[1])


def _written(keys: OwnKeys) -> OwnKeys:
    """The same keys, once they are in their file."""
    signing = {**from_json(keys.key.private_jwk()), "since": keys.since}
    retired = [{"key": jwk, "until": until} for jwk, until in keys.retired]
    data = json.dumps({"signing": signing, "retired": retired}, indent=2).encode() + b"\n"
    write_whole(keys.file, data, 0o600)
    folder = os.open(keys.file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # a key whose tokens are out there must outlive a power cut
    finally:
        os.close(folder)
    return keys


def _jwks(key: PrivateKey, retired: tuple[tuple[dict[str, object], int], ...]) -> bytes:
    return json.dumps({"keys": [key.public_jwk, *(jwk for jwk, _ in retired)]}, separators=(",", ":")).encode()


def _seconds(value: object) -> int:
    if type(value) is not int or value < 0:  # a bool is an int to isinstance
        raise ValueError("is not a whole number of seconds")
    return value
