"""`passgate policy`: the tools of whoever writes the rules. None of them needs a gateway that runs, or a secret.

Exit codes: 0 all is well, 1 something was found, 2 it could not be looked for.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from gateway.cli import add_config
from gateway.cli.policy_report import FORMATS

_RAW: Final[dict[str, Any]] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
_PATHS: Final = """
PATH is a folder of policies, or files and folders of those that the configuration names, to hear of these alone; a
file of tests may lie anywhere.
Without a configuration nothing is known of tools, agents and models, and their names are not checked."""

_POLICY: Final = """example:
  passgate policy lint
  passgate policy test --format github          in a workflow of GitHub: beside the lines of the files
  passgate policy explain dec_0199d1c2…         why was this call refused?
  passgate policy replay var/audit              which calls of the past would be decided otherwise now?"""
_LINT: Final = f"""Exit code 0: nothing is wrong; 1: a mistake, or with --strict a warning.
{_PATHS}

example:
  passgate policy lint --strict
  passgate policy lint --policies drafts"""
_TEST: Final = f"""Tests stand in the `tests:` of policy files and in *_test.yaml. All policies together decide each.
{_PATHS}

  version: 1
  tests:
    - name: support never pays
      given: {{agent: support, tool: payments.charge, args: {{amount: 100, currency: EUR}}}}
      expect: deny
      rule: support-never-pays

example:
  passgate policy test
  passgate policy test policies/payments.yaml --format github"""
_COVERAGE: Final = f"""Shows which rules and conditions no test has ever seen true, and which none has seen false.
{_PATHS}

example:
  passgate policy coverage --min 80%"""
_EXPLAIN: Final = """\
A decision is found in the decision log that the configuration names, by the id that the refusal, the ledger and the
log carry. A call in a file is written as the `given` of a test, in YAML or JSON. No value of a redacted name is shown.

example:
  passgate policy explain dec_0199d1c2-7b1e-7c33-a4f1-2b1c3d4e5f60
  passgate policy explain call.yaml"""
_REPLAY: Final = """\
Decides every call of a decision log anew, by the policies as they are now. Exit code 1: some come out otherwise. What
the log does not hold cannot be told, and is named.

example:
  passgate policy replay var/audit
  passgate policy replay var/audit/audit-000004.ndjson --policies drafts"""
_DIFF: Final = """\
Says which rules differ in what they mean, whatever the order and the layout of the files, and with --log which calls
of the past come out otherwise. Exit code 1: something differs.

example:
  passgate policy diff policies drafts --log var/audit"""
_SIGN: Final = """\
Writes DIR/bundle.json, which says which files with which contents are the policies. A gateway whose configuration has
`policies.bundle` takes them so signed and no others, and never one of a lower revision than it had.

example:
  passgate keys new --file sign.json            once: sign.private.json signs, sign.json verifies
  passgate policy sign policies --key sign.private.json --revision 7"""
_VERIFY: Final = """Exit code 0: these files are what was signed; 1: they are not.

example:
  passgate policy verify policies --keys sign.json"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `policy` and what is below it."""
    policy = commands.add_parser(
        "policy", help="check, test, explain, compare and sign policies", epilog=_POLICY, **_RAW
    )
    below = policy.add_subparsers(title="commands", metavar="COMMAND", required=True)

    lint = _command(below, "lint", "what is wrong with the policies, and what probably is", _LINT)
    lint.add_argument("--strict", action="store_true", help="warnings count as mistakes")
    _add_paths(lint)
    _runs(lint, "policy_lint", "lint")

    test = _command(below, "test", "run the tests of the policies", _TEST)
    _add_paths(test)
    _runs(test, "policy_tests", "test")

    coverage = _command(below, "coverage", "which rules and conditions the tests have seen", _COVERAGE)
    coverage.add_argument("--min", default="0%", metavar="80%", help="exit code 1 below this share (0%%)")
    _add_paths(coverage)
    _runs(coverage, "policy_coverage", "coverage")

    explain = _command(below, "explain", "why a call was decided as it was, clause by clause", _EXPLAIN)
    explain.add_argument("what", metavar="DECISION-ID|FILE", help="dec_…, or a file with a call")
    _add_policies(explain, ("text", "json"))
    _runs(explain, "policy_explain", "explain")

    replay = _command(below, "replay", "decide the calls of a decision log anew", _REPLAY)
    replay.add_argument("log", type=Path, metavar="LOG", help="the folder of a decision log, or a file of it")
    _add_policies(replay, FORMATS)
    _runs(replay, "policy_replay", "replay")

    diff = _command(below, "diff", "what differs between two folders of policies", _DIFF)
    diff.add_argument("old", type=Path, metavar="OLD")
    diff.add_argument("new", type=Path, metavar="NEW")
    diff.add_argument("--log", type=Path, metavar="LOG", help="a decision log, to decide its calls by both")
    diff.add_argument("--format", choices=FORMATS, default="text")
    add_config(diff)
    _runs(diff, "policy_replay", "diff")

    sign = _command(below, "sign", "sign the policies of a folder", _SIGN)
    sign.add_argument("folder", type=Path, metavar="DIR")
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="the private key")
    sign.add_argument("--revision", type=_revision, required=True, metavar="N", help="higher than the one before")
    _runs(sign, "policy_bundle", "sign")

    verify = _command(below, "verify", "are these the policies that were signed?", _VERIFY)
    verify.add_argument("folder", type=Path, metavar="DIR")
    verify.add_argument("--keys", type=Path, required=True, metavar="FILE", help="the public keys of who may sign")
    verify.add_argument("--min-revision", type=_revision, default=1, metavar="N", help="the least that counts (1)")
    _runs(verify, "policy_bundle", "verify")


def _command(
    below: argparse._SubParsersAction[argparse.ArgumentParser], name: str, purpose: str, epilog: str
) -> argparse.ArgumentParser:
    return below.add_parser(name, help=purpose, description=purpose, epilog=epilog, **_RAW)


def _add_paths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", metavar="PATH", help="policies, or what of them to look at")
    _add_policies(parser, FORMATS)


def _add_policies(parser: argparse.ArgumentParser, formats: tuple[str, ...]) -> None:
    parser.add_argument("--policies", metavar="DIR", help="these, and not those that the configuration names")
    parser.add_argument("--format", choices=formats, default="text")
    add_config(parser)


def _runs(parser: argparse.ArgumentParser, module: str, function: str) -> None:
    """What a command needs is imported when it runs, so that `--help` stays quick."""

    def run(given: argparse.Namespace) -> int:
        return int(getattr(import_module(f"gateway.cli.{module}"), function)(given))

    parser.set_defaults(run=run)


def _revision(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) < 2**53:
        raise argparse.ArgumentTypeError("write a whole number from 1 on")
    return int(text)
