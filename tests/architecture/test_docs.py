"""The pages around the code: links that lead somewhere, examples that load, tables that are current."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.config import ConfigMistakes, Settings, load
from gateway.core.sources import DiskSources, KeptSources
from gateway.policy import Known
from gateway.policy import load as load_policies
from gateway.policy.settings import PoliciesSettings
from gateway.settings.complaints import Complaints
from scripts import policy_reference
from scripts.configuration_reference import PAGE, page
from tests.architecture.tree import ROOT, tracked

DOCS = ROOT / "docs"


def pages() -> list[Path]:
    return [path for path in tracked(new=True) if path.suffix == ".md"]


def examples(path: Path, language: str = "yaml") -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)


def anchors(path: Path) -> set[str]:
    """What `#…` may name in a page: its headings, as they are rendered."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_link_leads_somewhere() -> None:
    """A relative link of any page names a file or folder that is there, and a heading that it has."""
    dead = []
    for path in pages():
        for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / path).read_text()):
            name, _, anchor = link.partition("#")
            target = ROOT / path.parent / name if name else ROOT / path
            if not link.startswith("https://") and (not target.exists() or (anchor and anchor not in anchors(target))):
                dead.append(f"{path}: {link}")
    assert dead == []


def test_the_configuration_page_has_every_key() -> None:
    """Its tables are those of the settings, and no section is left out."""
    text = PAGE.read_text()
    assert page(text) == text, "run: make schema"
    named = {name for names in re.findall(r"<!-- keys: (.+) -->", text) for name in names.split(", ")}
    assert named == {field.name for field in fields(Settings)}
    assert [name for name in named if f"\n| `{name}" not in text] == []


def test_the_examples_of_the_configuration_page_are_one_configuration() -> None:
    """Put together they load without a mistake; what they read from elsewhere is there."""
    text = "\n".join(examples(PAGE))
    keys = {"groq.key": b"key", "approvals.key": b"c2VjcmV0" * 4}
    files = {"config.yaml": text.encode(), "schemas/payment.json": b"{}", **keys}
    try:
        config = load(Path("config.yaml"), KeptSources(files, {}, {"OPENAI_API_KEY": "a", "PAYMENTS_TOKEN": "b"}))
    except ConfigMistakes as mistakes:
        pytest.fail(str(mistakes))
    assert set(config.settings.providers) == {"openai", "groq", "house"}


def test_the_example_of_the_tools_page_is_a_configuration() -> None:
    """Its tool has the two operations, and its arguments are a schema."""
    tool, policy = examples(DOCS / "tools.md")
    (schema,) = examples(DOCS / "tools.md", "json")
    identity = "identity: {audience: a, issuers: [{name: i, iss: i, keys: {file: k}}]}\n"
    files = {"config.yaml": (identity + tool).encode(), "orders.key": b"key", "note.schema.json": schema.encode()}
    settings = load(Path("config.yaml"), KeptSources(files, {}, {})).settings
    assert set(settings.tools["orders"].operations) == {"read", "note"}
    assert complaints_about(policy) == []


def test_the_recipes_of_the_identity_page_are_configurations() -> None:
    """Each loads by itself; one that shows only agents wants their issuers, and nothing else."""
    recipes = examples(DOCS / "identity.md")
    assert len(recipes) == 6
    for recipe in recipes:
        named = dict.fromkeys(re.findall(r"\{id: .* issuer: (\w+)", recipe))
        issuers = "".join(f"    - {{name: {one}, iss: 'https://{one}.example', keys: {{file: k}}}}\n" for one in named)
        whole = recipe if "identity:" in recipe else f"identity:\n  audience: a\n  issuers:\n{issuers}{recipe}"
        try:
            config = load(Path("config.yaml"), KeptSources({"config.yaml": whole.encode()}, {}, {}))
        except ConfigMistakes as mistakes:
            pytest.fail(f"{recipe}\n{mistakes}")
        assert config.settings.identity.issuers


@pytest.mark.parametrize(
    ("name", "least"), [("identity", 14), ("policies", 23), ("attestations", 3), ("audit", 2), ("operations", 5)]
)
def test_the_commands_of_a_page_are_commands(name: str, least: int) -> None:
    """Every `passgate …` of it is understood as it is written: none asks for more than the missing configuration."""
    lines = "\n".join(examples(DOCS / f"{name}.md", "sh")).replace("\\\n", " ")
    inner = re.findall(r"\$\((passgate [^()|]+)", lines)
    outer = re.findall(r"(?:^|&& )(passgate [^#\n&<|]+)", re.sub(r"\$\([^()]*\)", "X", lines), re.MULTILINE)
    assert len(inner) + len(outer) >= least
    for command in (*inner, *outer):
        _, *words = shlex.split(command)
        try:
            main(words)
        except SystemExit:  # of argparse
            pytest.fail(f"this is not understood: {command}")


def test_the_examples_of_the_policies_page_load() -> None:
    """Those of the grammar are rules, those of the way through files (another test walks it), the rest is config."""
    rules = [text for text in examples(DOCS / "policies.md") if text.startswith("rules:")]
    files = [text for text in examples(DOCS / "policies.md") if text.startswith("# mine/")]
    others = set(examples(DOCS / "policies.md")) - {*rules, *files}
    assert (len(rules), len(files), len(others)) == (4, 6, 2)
    assert [complaints_about(f"version: 1\npolicy: p\n{text}") for text in rules] == [[]] * len(rules)
    for text in others | set(examples(DOCS / "attestations.md")):
        assert configured(text) == [], text


def test_the_tables_about_policies_are_current() -> None:
    """The grammar, the reasons and the facts are those of the code, and each has its table."""
    text = policy_reference.PAGE.read_text()
    assert policy_reference.page(text) == text, "run: make schema"
    assert policy_reference.FACTS.read_text() == policy_reference.facts(), "run: make schema"
    assert re.findall(r"<!-- table: (\w+) -->", text) == [*policy_reference.PARTS, "reasons"]


def test_the_policy_of_the_readme_loads() -> None:
    """What stands on the first page can be copied."""
    (policy,) = examples(ROOT / "README.md")
    assert complaints_about(policy) == []


IDENTITY = "identity: {{audience: '{}', issuers: [{{name: corp, iss: i, keys: {{file: k}}}}]}}\n"


def configured(part: str) -> list[str]:
    """What loading a part of a configuration complains of."""
    files = {"config.yaml": (IDENTITY.format("a") + part).encode(), "approvals.key": b"c2VjcmV0" * 8}
    try:
        load(Path("config.yaml"), KeptSources(files, {}, {}))
    except ConfigMistakes as mistakes:
        return [str(mistakes)]
    return []


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path) -> Iterator[None]:
    """Relative paths of examples start in an empty folder."""
    with contextlib.chdir(tmp_path):
        yield


def complaints_about(policy: str) -> list[str]:
    """What loading a policy file complains of, as `passgate check` prints it."""
    folder, found = Path("mine"), Complaints()
    folder.mkdir(exist_ok=True)
    (folder / "support.yaml").write_text(policy)
    load_policies(PoliciesSettings(dir=folder), DiskSources(), Known(), found)
    return [str(complaint) for complaint in found.found]
