"""A rule set as bytes, from which another process makes the same set without reading a file again.

Reading ten thousand rules and checking their expressions takes seconds, and the tree of a YAML file is freed at one
go: nothing that a process which carries calls can afford. So they are read elsewhere, and what comes here was checked:
rules are made of it piece by piece, and an expression is compiled when a call asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Never

import msgspec
from msgspec import Struct

from gateway.policy.compiling import Compiler, Paths
from gateway.policy.decide import PolicySet
from gateway.policy.files import ObserveEntry, PolicyFile, RuleEntry
from gateway.policy.observations import Observation
from gateway.policy.rules import Rule
from gateway.settings.binder import Steps

_PIECE: Final = 200
"""Rules that are decoded at once: that holds everything up for a millisecond."""


class _Piece(Struct, array_like=True, frozen=True):
    """Some rules and observations of one policy, and its mode."""

    policy: str
    mode: str
    rules: tuple[RuleEntry, ...] = ()
    observe: tuple[ObserveEntry, ...] = ()


class _Image(Struct, array_like=True, frozen=True):
    """The whole set; `reads` has what each expression reads."""

    hash: str
    mode: str
    revision: int
    pieces: tuple[bytes, ...]
    reads: dict[str, Paths]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Image).decode
_decode_piece: Final = msgspec.msgpack.Decoder(_Piece).decode


def image_of(policies: Iterable[PolicyFile], compiler: Compiler, policy_hash: str, mode: str, revision: int) -> bytes:
    """The image of a set without mistakes; `compiler` has compiled it."""
    pieces = [_encode(piece) for one in policies for piece in _pieces(one, one.mode or mode)]
    return _encode(_Image(policy_hash, mode, revision, tuple(pieces), compiler.reads))


def from_image(image: bytes) -> PolicySet:
    """The set again; its warnings are told where it was read."""
    whole = _decode(image)
    compiler = Compiler(whole.reads)
    rules: list[Rule] = []
    observations: list[Observation] = []
    for data in whole.pieces:
        piece = _decode_piece(data)
        rules += (compiler.rule(piece.policy, entry, piece.mode, _never) for entry in piece.rules)
        observations += (compiler.observation(entry, _never) for entry in piece.observe)
    return PolicySet(
        rules, whole.hash, mode=whole.mode, observations=observations, revision=whole.revision, image=image
    )


def _pieces(policy: PolicyFile, mode: str) -> Iterator[_Piece]:
    for start in range(0, len(policy.rules), _PIECE):
        yield _Piece(policy.policy, mode, policy.rules[start : start + _PIECE])
    if policy.observe:
        yield _Piece(policy.policy, mode, observe=policy.observe)


def _never(path: Steps, problem: str, remedy: str) -> Never:
    raise ValueError(f"an image has a mistake at {path}: {problem}; {remedy}")
