"""The policies that are there to be copied: nothing is wrong with them, and their own tests notice what is missing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import pytest

from gateway.cli import main
from gateway.cli.policy_sources import Workplace
from gateway.core.sources import DiskSources, KeptSources
from gateway.policy import Known, PolicySet, load
from gateway.policy.cel.parser import parse
from gateway.policy.cel.syntax import Logic, Node, parts
from gateway.policy.settings import PoliciesSettings
from gateway.policy.testing import Placed, read_tests, run_test
from gateway.settings import Complaints, document, plain

ROOT = Path(__file__).parents[2]
CONFIGS = {"demo": ROOT / "config.example.yaml", "examples": ROOT / "docs" / "examples" / "config.yaml"}
UNSEEN = {"id", "effect", "message", "obligations", "step", "outcome", "consume", "per", "approvers", "expires"}
"""Keys of which a policy's tests cannot notice that they are missing, or without which it is none."""

Rule: TypeAlias = dict[str, Any]  # as it is written


class Copyable(NamedTuple):
    """The policies of one configuration: as they are written, by file, and their tests."""

    place: Workplace
    files: dict[str, dict[str, Any]]
    tests: list[Placed]

    def policies(self, file: str = "", number: int = 0, changed: Rule | None = None) -> PolicySet | None:
        """All rules, one of them changed, or left out; `None` where that is a mistake."""
        texts: dict[str, bytes] = {}
        for name, policy in self.files.items():
            rules = list(policy["rules"])
            if name == file:
                rules[number : number + 1] = [changed] if changed is not None else []
            if rules:
                texts[name] = json.dumps({"version": 1, "policy": policy["policy"], "rules": rules}).encode()
        found = Complaints()
        sources = KeptSources(texts, {".": [(name, name) for name in texts]}, {})
        loaded = load(PoliciesSettings(dir=Path()), sources, Known(), found)
        return None if found.found else loaded

    def notices(self, policies: PolicySet, file: str) -> bool:
        """Whether a test of this file fails by these policies."""
        own = (test for test in self.tests if Path(test.place.file).name == file)
        return any(run_test(test, policies, self.place.surroundings).differences for test in own)


@cache
def copyable(name: str) -> Copyable:
    """What stands below the policies of a configuration."""
    sources, complaints = DiskSources(), Complaints()
    place = Workplace.of(argparse.Namespace(config=str(CONFIGS[name]), policies=None))
    files = {}
    for path in place.settings.dir.iterdir():
        written = document(path.read_bytes(), str(path), complaints)
        assert written is not None
        files[path.name] = cast("dict[str, Any]", plain(written))
    tests = list(read_tests(place.settings.dir, sources, place.surroundings, complaints))
    assert complaints.found == []
    return Copyable(place, files, tests)


@pytest.mark.parametrize("name", CONFIGS)
def test_there_is_nothing_to_complain_about(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No mistake, no warning, all tests pass, and they have seen every rule and both sides of every condition."""
    said = ""
    for words in (["lint", "--strict"], ["test"], ["coverage", "--min", "100%"]):
        code, said = main(["policy", *words, "--config", str(CONFIGS[name])]), capsys.readouterr().out
        assert code == 0, said
    assert name == "demo" or said.strip() in (ROOT / "docs" / "policies.md").read_text()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_part_of_a_rule_is_missed_when_it_is_taken_out(name: str) -> None:
    """Each rule, condition, operand, requirement and name that narrows is taken out once: its file's tests fail."""
    these, unnoticed, taken = copyable(name), [], 0
    for file, policy in these.files.items():
        for number, rule in enumerate(policy["rules"]):
            for what, less in without(rule):
                policies = these.policies(file, number, less)
                if policies is not None:
                    taken += 1
                    if not these.notices(policies, file):
                        unnoticed.append(f"{file}: {rule['id']} without {what}")
    assert unnoticed == []
    assert taken >= {"demo": 30, "examples": 58}[name]


def test_the_caps_of_open_agents_are_part_of_the_decision() -> None:
    """What the tests of a policy cannot see: obligations."""
    caps = {}
    for name in CONFIGS:
        these = copyable(name)
        policies = these.policies()
        assert policies is not None
        outcomes = [run_test(test, policies, these.place.surroundings) for test in these.tests]
        caps[name] = {one.decided.decision.obligations.output_tokens for one in outcomes}
    assert caps == {"demo": {None, 500}, "examples": {None, 2000}}


# -- one part less


def without(rule: Rule) -> Iterator[tuple[str, Rule | None]]:
    """A rule without one of its parts each time, first without itself; nothing of one that only obliges."""
    if rule["effect"] == "require" and not rule.keys() & {"requires", "when", "approve"}:
        return
    yield "itself", None
    for path in _paths(rule):
        changed = _seen(rule)
        *above, last = path
        part = _at(changed, above)
        if last == "when":
            for operand, text in _operands(part["when"]):
                once_more = deepcopy(changed)
                _at(once_more, above)["when"] = text
                yield f"{'.'.join(map(str, path))}: {operand}", once_more
        del part[last]
        yield ".".join(map(str, path)), changed


def _paths(part: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:  # noqa: ANN401 -- any JSON
    """Where the parts are that can be taken out."""
    items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, below in items:
        if key not in UNSEEN and below != ["any"]:
            yield (*path, key)
            yield from _paths(below, (*path, key))


def _at(part: Any, path: Sequence[str | int]) -> Any:  # noqa: ANN401 -- any JSON
    for key in path:
        part = part[key]
    return part


def _seen(part: Any) -> Any:  # noqa: ANN401 -- any JSON
    """A copy without what is used up, which no test of a policy sees, and which would go with the names of `bind`."""
    if isinstance(part, dict):
        return {key: _seen(below) for key, below in part.items() if key not in ("consume", "per")}
    return [_seen(below) for below in part] if isinstance(part, list) else part


def _operands(text: str) -> Iterator[tuple[str, str]]:
    """An expression without one operand of each of its `&&` and `||`."""
    for node in _below(parse(text)):
        if isinstance(node, Logic):
            for operand in node.operands:
                neutral = "true" if node.sign == "&&" else "false"
                yield text[operand.start : operand.end], f"{text[: operand.start]}{neutral}{text[operand.end :]}"


def _below(node: Node) -> Iterator[Node]:
    yield node
    for part in parts(node):
        yield from _below(part)
