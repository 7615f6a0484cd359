"""The locks: complete, current, by hash, without addresses, and without versions known to be vulnerable."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.architecture.tree import LOCKS, ROOT

MOST_DIRECT = 12
PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+) \\((?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+)", re.MULTILINE)
VULNERABLE = Path(__file__).with_name("vulnerable.txt")


def pins(text: str) -> dict[str, str]:
    """Every package that a lock pins with at least one hash, with its version."""
    return {canonicalize_name(name): version for name, version, _ in PIN.findall(text)}


def vulnerable(text: str) -> list[str]:
    """What a lock pins that vulnerable.txt names, with the advisory."""
    pinned, found = pins(text), []
    for line in VULNERABLE.read_text().splitlines():
        if line and not line.startswith("#"):
            name, versions, advisory = line.split()
            version = pinned.get(canonicalize_name(name))
            if version is not None and SpecifierSet(versions.replace("any", "")).contains(version, prereleases=True):
                found.append(f"{name} {version}: {advisory}")
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_names_versions_and_hashes(lock: str) -> None:
    """S20: every entry of a lock has a hash, and no line of it is an option or an address."""
    text = (ROOT / lock).read_text()
    rest = [line for line in PIN.sub("", text).splitlines() if line and not line.lstrip().startswith("#")]
    assert pins(text)
    assert rest == []
    assert "://" not in text


@pytest.mark.parametrize("lock", LOCKS)
def test_no_pin_is_known_to_be_vulnerable(lock: str) -> None:
    """S20: no lock pins a version that vulnerable.txt names."""
    assert vulnerable((ROOT / lock).read_text()) == []


def test_a_vulnerable_pin_is_found() -> None:
    """S20: putting an old PyJWT or any diskcache into a lock turns the suite red."""
    entry = "{}=={} \\\n    --hash=sha256:" + "0" * 64 + "\n"
    assert len(vulnerable(entry.format("pyjwt", "2.10.1") + entry.format("diskcache", "5.6.3"))) == 2
    assert vulnerable(entry.format("pyjwt", "2.15.1")) == []


def test_locks_are_current() -> None:
    """Each direct requirement is in its lock in a version that it allows; `make lock` brings them up to date."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    development = (ROOT / "requirements-dev.in").read_text().splitlines()
    asked = {
        "requirements.txt": project["project"]["dependencies"],
        "requirements-build.txt": project["build-system"]["requires"],
        "requirements-dev.txt": [line for line in development if line and not line.startswith(("#", "-"))],
    }
    for lock, requirements in asked.items():
        pinned = pins((ROOT / lock).read_text())
        for requirement in map(Requirement, requirements):
            version = pinned.get(canonicalize_name(requirement.name))
            assert version is not None, f"{requirement} is not in {lock}: run make lock"
            assert requirement.specifier.contains(version), f"{lock} pins {version}, {requirement} is asked for"


def test_locks_agree_and_dependencies_stay_few() -> None:
    """No package has two versions, and at most twelve are asked for directly at run time."""
    versions: dict[str, str] = {}
    for lock in LOCKS:
        for name, version in pins((ROOT / lock).read_text()).items():
            assert versions.setdefault(name, version) == version, f"{name} has two versions"
    assert len(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]) <= MOST_DIRECT


@pytest.mark.parametrize("file", ["Makefile", "Dockerfile"])
def test_locks_are_installed_by_hash_only(file: str) -> None:
    """S20: every command that installs a lock checks hashes, and every other one never asks an index."""
    text = (ROOT / file).read_text().replace("$(LOCKS:%=-r %)", "-r requirements.txt").replace("\\\n", " ")
    installs = [
        part
        for line in text.splitlines()
        for part in line.split("&&")
        if re.search(r"\$\(INSTALL\)|bin/pip install", part)
    ]
    assert len(installs) >= 3
    for command in installs:
        assert ("--require-hashes" in command) if "-r " in command else ("--no-index" in command), command


def test_a_wrong_hash_is_refused(tmp_path: Path, wheel: Path) -> None:
    """S20: what does not have the hash of the lock is not installed."""
    lock = tmp_path / "lock.txt"
    version = wheel.name.split("-")[1]
    lock.write_text(f"passgate=={version} --hash=sha256:{'0' * 64}\n")
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--require-hashes"]
    command += ["--find-links", str(wheel.parent), "--target", str(tmp_path / "out"), "-r", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
