"""From policy files to a `PolicySet`: which files, what they say, and what is wrong with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from gateway.core.sources import Sources
from gateway.policy.bundle import Unseal, admit, unverified
from gateway.policy.compiling import Compiler
from gateway.policy.decide import PolicySet
from gateway.policy.files import PolicyFile
from gateway.policy.image import image_of
from gateway.policy.lint import Known, Linted, PlacedPolicy, lint
from gateway.policy.settings import PoliciesSettings
from gateway.settings.binder import Binder, Steps
from gateway.settings.complaints import Complaints, Place
from gateway.settings.yaml import Node, ScalarNode, documents

__all__ = ["Known", "is_policy", "load", "policy_files"]

_SUFFIXES: Final = (".yaml", ".yml")
_NOT_POLICIES: Final = ("_test.yaml", ".lock.yaml")


class _At(NamedTuple):
    """A place that is no node: a file or folder that cannot be read."""

    file: str
    line: int = 1
    column: int = 1


def load(
    settings: PoliciesSettings, sources: Sources, known: Known, complaints: Complaints, unseal: Unseal = unverified
) -> PolicySet:
    """Read all policy files below `settings.dir`; `unseal` opens their bundle, where `settings` ask for one.

    Loaded are `*.yaml` and `*.yml`, but not what starts with a dot, `*_test.yaml` and `*.lock.yaml`.
    Mistakes go to `complaints`: whoever finds some there must not use the set. `PolicySet.warnings` and
    `PolicySet.errors` are what `lint` says of rules that can be used.
    """
    reading = _Reading(settings.mode, complaints)
    digests: list[bytes] = []
    paths, revision = list(_listed(settings.dir, sources, complaints)), 0
    if settings.bundle is not None:
        revision = admit(settings.bundle, settings.dir, paths, sources, unseal, complaints)
    for path in paths:
        try:
            data = sources.read(path)
        except OSError as error:
            complaints.add(_At(str(path)), "", f"cannot be read: {error.strerror or error}", "check the file")
            continue
        digests.append(hashlib.sha256(data).digest())
        for node in documents(data, str(path), complaints):
            reading.take(node)
    linted = Linted()
    if not complaints.total:
        linted = lint(reading.policies, known)
    if settings.mode == "shadow":
        problem, remedy = "what no rule allows passes", "set it to enforce once shadow rules count what you expect"
        linted.warnings.add(_At(str(settings.dir)), "policies.mode", f"is shadow: {problem}", remedy)
    if not any(rule.effect == "allow" and rule.enforced for one in reading.policies for rule in one.rules):
        said = "so every call is refused" if settings.mode == "enforce" else "so nothing but the mode lets calls pass"
        linted.warnings.add(_At(str(settings.dir)), "", f"no rule allows anything, {said}", "add rules")
    policy_hash = hashlib.sha256(b"".join(sorted(digests))).hexdigest()
    return PolicySet(
        (rule for one in reading.policies for rule in one.rules),
        policy_hash,
        mode=settings.mode,
        observations=(seen for one in reading.policies for seen in one.observations),
        warnings=tuple(linted.warnings.found),
        errors=tuple(linted.errors.found),
        revision=revision,
        image=b"" if complaints.total else reading.image(policy_hash, revision),
    )


def policy_files(folder: Path, sources: Sources) -> Iterator[Path]:
    """The policy files below a folder; raises `OSError` where there is none."""
    yield from sources.listdir(folder, is_policy)


def is_policy(name: str) -> bool:
    """Whether a file of this name holds policies."""
    return name.endswith(_SUFFIXES) and not name.endswith(_NOT_POLICIES)


def _listed(folder: Path, sources: Sources, complaints: Complaints) -> Iterator[Path]:
    try:
        yield from policy_files(folder, sources)
    except OSError as error:
        complaints.add(_At(str(folder)), "policies.dir", str(error), "make the folder, or name another")


class _Reading:
    """The policies that were read; each and each of their rules has a name of its own."""

    def __init__(self, mode: str, complaints: Complaints) -> None:
        self.policies: list[PlacedPolicy] = []
        self._mode = mode
        self._complaints = complaints
        self._compiler = Compiler()
        self._names: dict[tuple[str, str], Place] = {}

    def take(self, node: Node) -> None:
        """Read one document; an empty one, as a file of comments has, says nothing."""
        if isinstance(node, ScalarNode) and node.kind == "null":
            return
        binder = Binder(self._complaints)
        policy = binder.bind(node, PolicyFile)
        self._name(binder, ("policy",), "policy", policy.policy)
        for number, entry in enumerate(policy.rules):
            self._name(binder, ("rules", number, "id"), "rule", entry.id)
        compiler, mode = self._compiler, policy.mode or self._mode
        rules = tuple(
            compiler.rule(policy.policy, entry, mode, binder.complain, ("rules", number))
            for number, entry in enumerate(policy.rules)
        )
        observations = tuple(
            compiler.observation(entry, binder.complain, ("observe", number))
            for number, entry in enumerate(policy.observe)
        )
        self.policies.append(PlacedPolicy(policy, rules, observations, binder))

    def image(self, policy_hash: str, revision: int) -> bytes:
        """See `image_of`."""
        return image_of((one.entry for one in self.policies), self._compiler, policy_hash, self._mode, revision)

    def _name(self, binder: Binder, path: Steps, kind: str, name: str) -> None:
        """Note a name, or complain."""
        place = binder.place(path)
        first = self._names.setdefault((kind, name), place)
        if first is not place and name:
            problem = f"a {kind} called {name} stands already in {first.file}:{first.line}"
            binder.complain(path, problem, "give one of them another name")
