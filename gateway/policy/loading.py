"""From policy files to a `PolicySet`: which files, what they say, and what is wrong with them."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from gateway.core.decision import RuleHit
from gateway.core.principal import ASSURANCE
from gateway.core.sources import Sources
from gateway.policy.decide import PolicySet
from gateway.policy.files import MatchEntry, PolicyFile, RuleEntry
from gateway.policy.rules import Entries, Facts, Rule
from gateway.policy.settings import PoliciesSettings
from gateway.settings.binder import Binder, path_text
from gateway.settings.complaints import Complaints, Place
from gateway.settings.yaml import MappingNode, Node, ScalarNode, documents

_SUFFIXES: Final = (".yaml", ".yml")
_NOT_POLICIES: Final = ("_test.yaml", ".lock.yaml")


@dataclass(frozen=True, slots=True)
class Known:
    """The names that the configuration has, for warnings about names that nothing has; `None` is not checked.

    Models may end in `*`, as routes do.
    """

    agents: frozenset[str] | None = None
    teams: frozenset[str] | None = None
    issuers: frozenset[str] | None = None
    models: frozenset[str] | None = None
    tools: frozenset[str] | None = None
    providers: frozenset[str] | None = None


class _At(NamedTuple):
    """A place that is no node: a file or folder that cannot be read."""

    file: str
    line: int = 1
    column: int = 1


def load(settings: PoliciesSettings, sources: Sources, known: Known, complaints: Complaints) -> PolicySet:
    """Read all policy files below `settings.dir`.

    Loaded are `*.yaml` and `*.yml`, but not what starts with a dot, `*_test.yaml` and `*.lock.yaml`.
    Mistakes go to `complaints`: whoever finds some there must not use the set. `PolicySet.warnings`
    are about rules that stand but probably mean something else.
    """
    rules: list[Rule] = []
    digests: list[bytes] = []
    names = _Names()
    warnings = Complaints()
    for path in _files(settings.dir, sources, complaints):
        try:
            data = sources.read(path)
        except OSError as error:
            complaints.add(_At(str(path)), "", f"cannot be read: {error.strerror or error}", "check the file")
            continue
        digests.append(hashlib.sha256(data).digest())
        for node in documents(data, str(path), complaints):
            binder = Binder(complaints)
            policy = _policy(node, binder, names)
            if policy is not None:
                rules += (compiled(policy.policy, rule) for rule in policy.rules)
                _lint(policy, binder, known, warnings)
    if all(rule.denies for rule in rules):
        warnings.add(_At(str(settings.dir)), "", "no rule allows anything, so every call is refused", "add rules")
    digest = hashlib.sha256(b"".join(sorted(digests))).hexdigest()
    return PolicySet(rules, digest, tuple(warnings.found))


def _files(folder: Path, sources: Sources, complaints: Complaints) -> Iterator[Path]:
    """The policy files of a folder."""
    try:
        yield from sources.listdir(folder, _is_policy)
    except OSError as error:
        complaints.add(_At(str(folder)), "policies.dir", str(error), "make the folder, or name another")


def _is_policy(name: str) -> bool:
    return name.endswith(_SUFFIXES) and not name.endswith(_NOT_POLICIES)


class _Names:
    """The names that stand already, with where: each policy and each rule has one of its own."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], Place] = {}

    def add(self, binder: Binder, path: tuple[str | int, ...], kind: str, name: str) -> None:
        """Note a name, or complain."""
        place = binder.place(path)
        first = self._places.setdefault((kind, name), place)
        if first is not place and name:
            problem = f"a {kind} called {name} stands already in {first.file}:{first.line}"
            binder.complain(path, problem, "give one of them another name")


def _policy(node: Node, binder: Binder, names: _Names) -> PolicyFile | None:
    """One document; nothing for an empty one, as a file of comments has."""
    if isinstance(node, ScalarNode) and node.kind == "null":
        return None
    policy = binder.bind(node, PolicyFile)
    _refuse_later_keys(node, PolicyFile, binder)
    names.add(binder, ("policy",), "policy", policy.policy)
    for number, rule in enumerate(policy.rules):
        place = binder.place(("rules", number))
        _refuse_later_keys(place, RuleEntry, binder)
        _refuse_later_keys(binder.place(("rules", number, "match")), MatchEntry, binder)
        names.add(binder, ("rules", number, "id"), "rule", rule.id)
    return policy


def _refuse_later_keys(node: object, cls: type[PolicyFile | RuleEntry | MatchEntry], binder: Binder) -> None:
    """Refuse what is not built also where it is null or false: `when: false` would mean *never*."""
    for key, sentence in cls.NOT_BUILT.items():
        if isinstance(node, MappingNode) and key in node.entries:
            place, value = node.entries[key]
            if isinstance(value, ScalarNode) and value.kind in ("null", "bool") and value.text != "true":
                binder.complaints.add(place, key, sentence, "remove the key")


def compiled(policy: str, rule: RuleEntry) -> Rule:
    """A rule of a file, ready to match."""
    match = rule.match
    clauses = {
        "kind": Entries(match.kinds_matched()),
        "assurance": Entries(frozenset(ASSURANCE[ASSURANCE.index(match.min_assurance) :])),
    }
    for fact, texts in (
        ("agent", match.agents),
        ("team", match.teams),
        ("category", match.categories),
        ("issuer", match.issuers),
        ("model", match.models),
        ("tool", match.tools),
        ("dialect", match.dialects),
    ):
        entries = Entries.of(texts) if texts else None
        if entries is not None:
            clauses[fact] = entries
    return Rule(
        RuleHit(policy, rule.id, rule.effect, rule.mode),
        rule.message,
        tuple((Facts._fields.index(fact), entries) for fact, entries in clauses.items()),
        Entries.of(match.providers) if match.providers else None,
    )


def _lint(policy: PolicyFile, binder: Binder, known: Known, warnings: Complaints) -> None:
    """Warn of names that nothing has, and of deny rules that surprise."""

    def warn(path: tuple[str | int, ...], problem: str, remedy: str) -> None:
        warnings.add(binder.place(path), path_text(path), problem, remedy)

    for number, rule in enumerate(policy.rules):
        match, path = rule.match, ("rules", number, "match")
        for key in ("agents", "teams", "issuers", "models", "tools", "providers"):
            names: frozenset[str] | None = getattr(known, key)
            for position, entry in enumerate(getattr(match, key)):
                if names is not None and entry not in names and entry != "any" and not _meets(entry, names):
                    near = difflib.get_close_matches(entry, sorted(names), 1)
                    remedy = f"did you mean {near[0]}?" if near else f"the configuration has {_some(names)}"
                    warn((*path, key, position), f"nothing in the configuration's {key} is called {entry}", remedy)
        if rule.effect == "deny" and match.min_assurance != ASSURANCE[0]:
            problem = "this denies those who prove their identity best"
            warn((*path, "min_assurance"), problem, "ask for it in the allow rules instead")
        if rule.effect == "deny" and match == MatchEntry():
            warn(path, "this denies every call", "name what it denies, unless that is meant")


def _meets(entry: str, names: frozenset[str]) -> bool:
    """Whether some value fits the entry and one of the names, where one of both ends in `*`."""
    start = entry[:-1] if entry.endswith("*") else None
    return any(
        (start is not None and name.startswith(start)) or (name.endswith("*") and entry.startswith(name[:-1]))
        for name in names
    )


def _some(names: frozenset[str]) -> str:
    shown = sorted(names)[:5]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "") if shown else "none"
