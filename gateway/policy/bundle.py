"""Signed policy bundles: `bundle.json` beside the policy files says which files make up the set, and who said so.

1. With a bundle the policy files are exactly those of its manifest, byte for byte: one more, one less, or one that
   differs is a mistake, and the set is not used.
2. The manifest counts only when a key of `policies.bundle.keys` signed it, and only from `min_revision` on.
3. A set of an earlier revision than the highest that was ever taken is refused where that is known: in the
   supervisor, which keeps it.

What it refuses to know: how signatures are verified. Whoever loads hands that in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, NamedTuple, TypeAlias

import msgspec

from gateway.core.sources import Sources
from gateway.policy.settings import BundleSettings
from gateway.settings.complaints import Complaints

PAYLOAD_TYPE: Final = "application/vnd.passgate.policy-bundle+json"
BUNDLE: Final = "bundle.json"

Unseal: TypeAlias = Callable[[bytes, bytes], bytes]
"""The manifest in an envelope, given a JWK set of those who may sign it; raises `ValueError`, the rest of a sentence
about the envelope, or `KeysUnusable` about the set."""

_Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class KeysUnusable(Exception):
    """The key set cannot be used: why, as the rest of a sentence."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a bundle says: the SHA-256 (hex) of each policy file, by its path below the folder."""

    revision: Annotated[int, msgspec.Meta(ge=1)]
    created: str  # RFC 3339
    files: dict[str, _Digest]


class _At(NamedTuple):
    """A place that is no node."""

    file: str
    line: int = 1
    column: int = 1


def unverified(_envelope: bytes, _keys: bytes) -> bytes:
    """For whoever cannot verify signatures: no bundle counts."""
    raise ValueError("cannot be verified here")


def manifest_of(files: Mapping[str, bytes], revision: int, created: str) -> bytes:
    """The manifest of files by their paths, as it is signed."""
    digests = {name: _digest(files[name]) for name in sorted(files)}
    return msgspec.json.encode(Manifest(revision, created, digests))


def read_manifest(payload: bytes) -> Manifest:
    """A manifest whose signature was verified; raises `ValueError`, the rest of a sentence about it."""
    try:
        return msgspec.json.decode(payload, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"holds a manifest that cannot be read: {error}") from None


def admit(
    bundle: BundleSettings,
    folder: Path,
    paths: Iterable[Path],
    sources: Sources,
    unseal: Unseal,
    complaints: Complaints,
) -> int:
    """Hold the policy files at `paths` against the bundle of their folder; returns its revision.

    What is wrong goes to `complaints`; then the revision means nothing.
    """
    place = _At(str(folder / BUNDLE))

    def complain(problem: str, remedy: str) -> int:
        complaints.add(place, "policies.bundle", problem, remedy)
        return 0

    sign = f"sign the policies: passgate policy sign {folder} --key FILE --revision N"
    try:
        keys = sources.read(bundle.keys)
    except OSError as error:
        return complain(f"{bundle.keys} cannot be read: {error.strerror or error}", "name a JWK set of who may sign")
    try:
        envelope = sources.read(folder / BUNDLE)
    except OSError as error:
        return complain(f"cannot be read: {error.strerror or error}", sign)
    try:
        manifest = read_manifest(unseal(envelope, keys))
    except KeysUnusable as error:
        return complain(f"{bundle.keys} {error}", "name a JWK set of who may sign")
    except ValueError as error:
        return complain(str(error), sign)
    if manifest.revision < bundle.min_revision:
        complain(
            f"has revision {manifest.revision}, where policies.bundle.min_revision is {bundle.min_revision}",
            "take a later bundle",
        )
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    for name, problem, remedy in differences(manifest, files, sources):
        complaints.add(_At(str(files[name])) if name in files else place, "", problem, remedy)
    return manifest.revision


def differences(manifest: Manifest, files: Mapping[str, Path], sources: Sources) -> Iterator[tuple[str, str, str]]:
    """Where the files are not those of the manifest: path below the folder, what is wrong, what to do."""
    remedy = "put the signed file back, or sign the policies as they are with a higher revision"
    for name in sorted(files.keys() | manifest.files.keys()):
        if name not in files:
            yield name, f"{name} is in the manifest and not in the folder", remedy
        elif name not in manifest.files:
            yield name, f"is not in the manifest of {BUNDLE}", remedy
        else:
            try:
                same = _digest(sources.read(files[name])) == manifest.files[name]
            except OSError:
                continue  # whoever reads the rules in it complains
            if not same:
                yield name, f"is not the file that was signed in {BUNDLE}", remedy


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
