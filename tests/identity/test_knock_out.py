"""The table of `make knock-out` fits the code: no defence is forgotten in it, and each can be taken out."""

from __future__ import annotations

import ast
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from scripts.knock_out import ROOT, Tree, edits, held_twice, knock_out, steps, text_of
from tests.identity.mutants import SEED
from tests.simulator.soak import SECONDS

ALSO = {"tokens.py": ("kinds.py", "spiffe.py"), "proof.py": ("keys.py",), "certificates.py": ()}
"""Where else conditions of a part's steps stand."""


def test_every_step_can_be_taken_out() -> None:
    """Each numbered step of tokens, proofs and certificates is in the table."""
    for name, numbers in steps().items():
        files = {f"gateway/identity/{file}" for file in (name, *ALSO[name])}
        assert len(numbers) >= 8
        assert numbers == set(range(1, len(numbers) + 1))
        assert numbers <= {edit.number for edit in edits() if edit.file in files}


def test_every_line_has_its_name() -> None:
    """No two defences are called alike, and what is held twice names two that are there."""
    names = Counter(edit.name for edit in edits())
    assert [name for name, count in names.items() if count > 1] == []
    for name, (others, why) in held_twice().items():
        assert {name, *others} <= names.keys()
        assert len(why) > 10


def test_what_is_left_is_python() -> None:
    """Every defence can be taken out of the present code."""
    for edit in edits():
        before = text_of(ROOT, edit.file)
        after = edit.apply(before)
        assert after != before, edit.name
        ast.parse(after)


@pytest.mark.soak
def test_none_is_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is taken out, some test turns red: one of them in the short form, a random selection in the long one."""
    tree, rng, until = Tree.copied(tmp_path), random.Random(SEED), time.monotonic() + SECONDS  # noqa: S311 - no secret
    quick = [edit for edit in edits(tree.root) if SECONDS or edit.file.endswith(("registry.py", "credential.py"))]
    tried = 0
    for edit in rng.sample(quick, len(quick)):
        row = knock_out(tree, edit, listener=False)
        assert row.part, f"PASSGATE_SEED={SEED}: nobody misses {row}"
        tried += 1
        if time.monotonic() >= until:
            break
    with capsys.disabled():
        print(f"\n{tried} defences taken out, each missed by a test, PASSGATE_SEED={SEED}")
