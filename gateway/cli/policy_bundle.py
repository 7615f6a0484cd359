"""`passgate policy sign` and `verify`: who said that these are the policies, and which revision of them."""

from __future__ import annotations

import argparse
import base64
import json
import time
from pathlib import Path
from typing import Final

from gateway.build import unseal_bundle
from gateway.cli import DONE, WrongUse
from gateway.cli.policy_report import counted
from gateway.core.clock import rfc3339
from gateway.core.sources import DiskSources
from gateway.identity.dsse import seal
from gateway.identity.issue import IssueError, load_key, write_whole
from gateway.policy import Known, load
from gateway.policy.bundle import BUNDLE, PAYLOAD_TYPE, admit, manifest_of, read_manifest
from gateway.policy.loading import policy_files
from gateway.policy.settings import BundleSettings, PoliciesSettings
from gateway.settings import Complaints

REFUSED: Final = 1


def sign(given: argparse.Namespace) -> int:
    """Write the bundle of a folder; policies with mistakes are not signed."""
    folder, sources, mistakes = given.folder, DiskSources(), Complaints()
    load(PoliciesSettings(dir=folder), sources, Known(), mistakes)
    if mistakes.found:
        raise WrongUse("\n".join((*map(str, sorted(mistakes.found)), "passgate: nothing was signed.")))
    files = {path.relative_to(folder).as_posix(): sources.read(path) for path in policy_files(folder, sources)}
    if not files:
        raise WrongUse(f"passgate: {folder} has no policy files; name the folder of the policies.")
    before = _revision(folder)
    if before >= given.revision:
        raise WrongUse(
            f"passgate: {folder / BUNDLE} has revision {before}, and no gateway takes a lower one than it had: "
            f"sign with --revision {before + 1} or higher."
        )
    try:
        key = load_key(given.key)
        envelope = seal(manifest_of(files, given.revision, rfc3339(time.time())), PAYLOAD_TYPE, key)
        write_whole(folder / BUNDLE, envelope, 0o644)
    except IssueError as error:
        raise WrongUse(f"passgate: {error}.") from None
    except OSError as error:
        raise WrongUse(f"passgate: {error.filename}: {error.strerror}.") from None
    print(f"{folder / BUNDLE}: revision {given.revision}, {counted(len(files), 'file')}, signed by key {key.kid}")
    return DONE


def verify(given: argparse.Namespace) -> int:
    """Say whether the files are those that were signed; 1 where they are not."""
    folder, sources, mistakes = given.folder, DiskSources(), Complaints()
    if not folder.is_dir():
        raise WrongUse(f"passgate: {folder} is no folder; name the folder of the policies.")
    if not given.keys.is_file():
        raise WrongUse(f"passgate: {given.keys} is no file; name the public keys of who may sign.")
    paths = list(policy_files(folder, sources))
    wanted = BundleSettings(keys=given.keys, min_revision=given.min_revision)
    revision = admit(wanted, folder, paths, sources, unseal_bundle, mistakes)
    for mistake in sorted(mistakes.found):
        print(mistake)
    if mistakes.found:
        return REFUSED
    print(f"{folder / BUNDLE}: revision {revision}, {counted(len(paths), 'file')} as signed")
    return DONE


def _revision(folder: Path) -> int:
    """The revision that the folder's bundle claims, 0 without one; nobody relies on it."""
    try:
        payload = base64.b64decode(json.loads((folder / BUNDLE).read_bytes())["payload"])
        return read_manifest(payload).revision
    except (OSError, ValueError, KeyError, TypeError):
        return 0
