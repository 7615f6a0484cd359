"""The documents of a folder of policies with their places, for tools that speak of single rules and tests.

Whoever loads the policies complains about them; what has mistakes is passed over here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gateway.core.sources import Sources
from gateway.policy.files import PolicyFile
from gateway.policy.loading import is_policy
from gateway.settings.binder import Binder
from gateway.settings.complaints import Complaints, Place
from gateway.settings.yaml import ScalarNode, documents


def read_policies(folder: Path, sources: Sources) -> Iterator[tuple[PolicyFile, Binder]]:
    """Each policy, and a binder that knows where its parts stand. Raises `OSError` for no folder."""
    for path in sources.listdir(folder, is_policy):
        complaints = Complaints()
        try:
            found = documents(sources.read(path), str(path), complaints)
        except OSError:
            continue
        for node in found:
            binder = Binder(complaints)
            if isinstance(node, ScalarNode):
                continue
            policy = binder.bind(node, PolicyFile)
            if not complaints.total:
                yield policy, binder


def rule_places(folder: Path, sources: Sources) -> dict[str, Place]:
    """Where each rule stands, by POLICY/RULE."""
    return {
        f"{policy.policy}/{rule.id}": binder.place(("rules", number))
        for policy, binder in read_policies(folder, sources)
        for number, rule in enumerate(policy.rules)
    }
