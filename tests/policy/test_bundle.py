"""Signed policies: exactly the files that somebody signed who may, and no revision that is too low."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.build import unseal_bundle
from gateway.core.sources import DiskSources, KeptSources
from gateway.identity.dsse import seal
from gateway.identity.issue import PrivateKey
from gateway.policy import Known, load
from gateway.policy.bundle import BUNDLE, PAYLOAD_TYPE, manifest_of, read_manifest
from gateway.policy.settings import BundleSettings, PoliciesSettings
from gateway.settings.complaints import Complaints

GOOD = "version: 1\npolicy: {name}\nrules:\n  - {{id: {name}-r, effect: allow, match: {{tools: [{name}.do]}}}}\n"
KEY, OTHER = PrivateKey.new("EdDSA"), PrivateKey.new("ES256")
SIGNED = ("a.yaml", "deep/b.yml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two policy files, a file of tests, and their bundle as revision 7."""
    policies = tmp_path / "policies"
    (policies / "deep").mkdir(parents=True)
    for number, name in enumerate(SIGNED):
        (policies / name).write_text(GOOD.format(name=f"p{number}"))
    (policies / "a_test.yaml").write_text("tests are not policies")
    signs(policies, KEY)
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [KEY.public_jwk]}))
    return policies


def signs(folder: Path, key: PrivateKey, revision: int = 7, **files: bytes) -> None:
    """Write a bundle of the files as they are, with some as they are not."""
    found = {name: (folder / name).read_bytes() for name in SIGNED if (folder / name).exists()} | files
    manifest = manifest_of(found, revision, "2026-11-20T10:00:00Z")
    (folder / BUNDLE).write_bytes(seal(manifest, PAYLOAD_TYPE, key))


def complaints(folder: Path, least: int = 1) -> list[str]:
    """What is wrong, without the folder's name."""
    said = Complaints()
    bundle = BundleSettings(keys=folder.parent / "keys.json", min_revision=least)
    load(PoliciesSettings(dir=folder, bundle=bundle), DiskSources(), Known(), said, unseal_bundle)
    return [str(one).replace(f"{folder.parent}/", "") for one in said.found]


def test_what_was_signed_is_taken(folder: Path) -> None:
    """The set knows its revision; workers, which load from the record of the files, find the same."""
    said, sources = Complaints(), DiskSources()
    settings = PoliciesSettings(dir=folder, bundle=BundleSettings(keys=folder.parent / "keys.json"))
    policies = load(settings, sources, Known(), said, unseal_bundle)
    assert (said.found, policies.revision, policies.size) == ([], 7, 2)
    kept = KeptSources(sources.files, sources.dirs, sources.variables)
    again = load(settings, kept, Known(), said, unseal_bundle)
    assert (said.found, again.revision, again.hash) == ([], 7, policies.hash)


def test_without_a_bundle_there_is_no_revision(folder: Path) -> None:
    """Where the configuration asks for no signature, a bundle that lies there means nothing."""
    said = Complaints()
    (folder / BUNDLE).write_text("nonsense")
    assert load(PoliciesSettings(dir=folder), DiskSources(), Known(), said).revision == 0
    assert said.found == []


def edit(folder: Path) -> None:
    (folder / "a.yaml").write_text(GOOD.format(name="p0") + "# one byte more\n")


def add(folder: Path) -> None:
    (folder / "c.yaml").write_text(GOOD.format(name="p9"))


def remove(folder: Path) -> None:
    (folder / "deep/b.yml").unlink()


def forge(folder: Path) -> None:
    signs(folder, OTHER)


def lose(folder: Path) -> None:
    (folder / BUNDLE).unlink()


def break_off(folder: Path) -> None:
    (folder / BUNDLE).write_bytes((folder / BUNDLE).read_bytes()[:-30])


def retype(folder: Path) -> None:
    sealed = seal(manifest_of({}, 7, "now"), "application/vnd.in-toto+json", KEY)
    (folder / BUNDLE).write_bytes(sealed)


def misname(folder: Path) -> None:
    sealed = seal(b'{"revision": 7, "created": "now", "files": {"a.yaml": "abc"}}', PAYLOAD_TYPE, KEY)
    (folder / BUNDLE).write_bytes(sealed)


def lock_out(folder: Path) -> None:
    (folder.parent / "keys.json").write_text('{"keys": []}')


def no_keys(folder: Path) -> None:
    (folder.parent / "keys.json").unlink()


def odd_keys(folder: Path) -> None:
    (folder.parent / "keys.json").write_text("[]")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edit, "policies/a.yaml:1: is not the file that was signed in bundle.json; put the signed file back"),
        (add, "policies/c.yaml:1: is not in the manifest of bundle.json"),
        (remove, "policies/bundle.json:1: deep/b.yml is in the manifest and not in the folder"),
        (forge, "policies/bundle.json:1: policies.bundle: is not signed by a key that counts; sign the policies"),
        (lose, "policies/bundle.json:1: policies.bundle: cannot be read: No such file"),
        (break_off, "policies/bundle.json:1: policies.bundle: is not strict JSON"),
        (retype, "policies/bundle.json:1: policies.bundle: is not of the type application/vnd.passgate"),
        (misname, "policies/bundle.json:1: policies.bundle: holds a manifest that cannot be read"),
        (lock_out, "policies/bundle.json:1: policies.bundle: is not signed by a key that counts"),
        (no_keys, "policies/bundle.json:1: policies.bundle: keys.json cannot be read: No such file"),
        (odd_keys, "policies/bundle.json:1: policies.bundle: keys.json cannot be used: "),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_anything_else_is_refused(folder: Path, change: Callable[[Path], None], said: str) -> None:
    """P9: one byte, one file more or less, another signer, no signature: none of it is taken, and why is said."""
    change(folder)
    assert [line[: len(said)] for line in complaints(folder)] == [said]


def test_a_revision_may_be_too_low(folder: Path) -> None:
    """P9: `min_revision` is the least that is taken."""
    assert complaints(folder, least=7) == []
    (problem,) = complaints(folder, least=8)
    assert "has revision 7, where policies.bundle.min_revision is 8" in problem


def test_a_file_that_is_signed_and_unreadable_is_a_mistake_once(folder: Path) -> None:
    """A link that leads nowhere is in the folder, cannot be read, and is told of where it is read."""
    (folder / "a.yaml").unlink()
    (folder / "a.yaml").symlink_to(folder / "gone")
    assert complaints(folder) == ["policies/a.yaml:1: cannot be read: No such file or directory; check the file"]


def test_nobody_verifies_by_accident(folder: Path) -> None:
    """Whoever loads without a verifier takes no bundle, rather than any."""
    said = Complaints()
    bundle = BundleSettings(keys=folder.parent / "keys.json")
    load(PoliciesSettings(dir=folder, bundle=bundle), DiskSources(), Known(), said)
    assert "cannot be verified here" in str(said.found[0])


@pytest.mark.parametrize(
    "odd", [b"{}", b"[]", b"\xff", b'{"revision": 0, "created": "", "files": {}}', b'{"revision": 1.5}']
)
def test_an_odd_manifest_is_refused(odd: bytes) -> None:
    """A manifest says exactly what a manifest says."""
    with pytest.raises(ValueError, match="holds a manifest that cannot be read"):
        read_manifest(odd)
