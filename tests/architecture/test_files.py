"""The files around the code: what they must not name, and what they must agree on."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path

import pytest

import gateway
from benchmarks.systems import BASELINE, BASELINE_SHA256
from gateway.cli import main
from tests.architecture.tree import ROOT, tracked

# A class in each name keeps this file from naming it.
REGISTRIES = r"pyp[i]\.org|pythonhoste[d]\.org|npmj[s]\.(org|com)|crate[s]\.io|golan[g]\.org|mave[n]\.org|debia[n]\.org"
EVERY_SYSTEM_HAS = {
    "bin",
    "dev",
    "etc",
    "home",
    "media",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "tmp",
    "usr",
    "var",
}


def test_no_file_names_a_registry_or_a_machine() -> None:
    """The repository works with any package mirror and from any folder, so no file names one."""
    own = ROOT.parts[1]
    machine = re.escape(str(ROOT)) if own in EVERY_SYSTEM_HAS else rf"(?<![\w.-])/{re.escape(own)}/"
    pattern = re.compile(f"{REGISTRIES}|{machine}".encode())
    found = [
        f"{path}: {match[0].decode()}"
        for path in tracked(new=True)
        for match in [pattern.search((ROOT / path).read_bytes())]
        if match
    ]
    assert found == []


def test_no_tracked_file_runs_by_itself() -> None:
    """S20: there is no `.pth`, `sitecustomize` or `setup.py` that would run code when something is installed."""
    names = {"sitecustomize.py", "usercustomize.py", "setup.py"}
    assert [path for path in tracked(new=True) if path.suffix == ".pth" or path.name in names] == []


def test_versions_agree() -> None:
    """The oldest Python is the same wherever it is named, and the changelog knows the version or what is unreleased."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == ">=3.11"
    assert project["tool"]["ruff"]["target-version"] == "py311"
    assert project["tool"]["mypy"]["python_version"] == "3.11"
    assert "sys.version_info < (3, 11)" in (ROOT / "Makefile").read_text()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog or f"## [{gateway.__version__}]" in changelog


def test_the_image_is_not_root_and_is_watched() -> None:
    """The image runs as a numeric user that is not root, keeps state in a volume, and has a health check."""
    steps = (ROOT / "Dockerfile").read_text().split("\nFROM ")[-1].replace("\\\n", " ").splitlines()
    said = {word: rest for word, _, rest in (line.partition(" ") for line in steps)}
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", said["USER"])
    assert said["VOLUME"] == "/var/lib/passgate"
    assert "/healthz" in said["HEALTHCHECK"]
    assert "9464" in said["HEALTHCHECK"]
    assert (said["ENTRYPOINT"], said["CMD"]) == ('["passgate"]', '["serve"]')


def test_the_image_gets_what_it_copies() -> None:
    """Everything that the Dockerfile copies is let through by .dockerignore, and nothing else is."""
    copied = {
        name
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    }
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_in


def test_every_make_target_is_explained() -> None:
    """`make help` lists every target that can be asked for."""
    text = (ROOT / "Makefile").read_text()
    (asked,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert re.findall(r"^([a-z-]+):.*## \S", text, re.MULTILINE) == asked.split()


def test_the_bare_proxy_is_the_one_that_was_measured() -> None:
    """The proxy that the gateway is compared with is pinned: making it slower cannot pass unseen."""
    assert hashlib.sha256(Path(BASELINE).read_bytes()).hexdigest() == BASELINE_SHA256


@pytest.mark.parametrize("kind", ["config", "policy"])
def test_the_schemas_for_editors_are_current(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What docs/schema holds is what `passgate schema` prints; `make schema` writes it anew."""
    assert main(["schema", kind]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((ROOT / "docs" / "schema" / f"{kind}.json").read_text())
