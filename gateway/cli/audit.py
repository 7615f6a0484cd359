"""`passgate audit`: whether the decision log is what was written. Reads it beside a gateway that may run."""

from __future__ import annotations

import argparse
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import to_builtins

from gateway.cli import DONE, WrongUse, add_config, load_settings
from gateway.core.clock import rfc3339

if TYPE_CHECKING:
    from gateway.audit.verify import Verdict
    from gateway.identity.issue import PrivateKey
    from gateway.identity.keys import KeySet
    from gateway.state.checkpoints import Checkpoint

FOUND: Final = 1

_VERIFY_EXAMPLE: Final = """\
Elsewhere, with nothing but a copy of the log, the public key (passgate audit key) and what the webhook was told:
  passgate audit verify --folder copy/audit --jwks audit.jwks.json --checkpoints told.txt

example: passgate audit verify --config config.yaml"""
_KEY_EXAMPLE: Final = "example: passgate audit key > audit.jwks.json"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `audit` and what is below it."""
    audit = commands.add_parser("audit", help="whether the decision log was changed", epilog=_VERIFY_EXAMPLE)
    audit.formatter_class = argparse.RawDescriptionHelpFormatter
    below = audit.add_subparsers(title="commands", metavar="COMMAND", required=True)

    verify = below.add_parser(
        "verify",
        help="check every line and every checkpoint; exit code 1 where something was changed",
        epilog=_VERIFY_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument("--folder", type=Path, metavar="DIR", help="the log's folder (default: the config's)")
    verify.add_argument("--jwks", type=Path, metavar="FILE", help="the public key (default: beside the gateway's own)")
    verify.add_argument(
        "--checkpoints",
        type=Path,
        metavar="FILE",
        help="signed checkpoints, one a line, such as the webhook was told (default: those of the store)",
    )
    verify.add_argument("--format", choices=("text", "json"), default="text")
    add_config(verify)
    verify.set_defaults(run=_verify)

    key = below.add_parser("key", help="print the public key that checkpoints are verified with", epilog=_KEY_EXAMPLE)
    add_config(key)
    key.set_defaults(run=_key)


def _verify(given: argparse.Namespace) -> int:
    from gateway.audit.verify import verify

    try:
        keys = _keys(given)
        folder = given.folder or load_settings(given.config).audit_dir
        with _checkpoints(given, keys) as checkpoints:
            verdict = verify(folder, checkpoints, keys)
    except OSError as error:
        raise WrongUse(f"passgate: {error.filename}: {error.strerror}.") from None
    except sqlite3.Error as error:
        raise WrongUse(f"passgate: the checkpoints cannot be read: {error}.") from None
    if given.format == "json":
        print(_as_json(verdict))
    else:
        print(*_as_text(verdict, folder), sep="\n")
    return FOUND if verdict.findings else DONE


def _key(given: argparse.Namespace) -> int:
    print(json.dumps({"keys": [_own_key(given).public_jwk]}, indent=2))
    return DONE


def _keys(given: argparse.Namespace) -> KeySet:
    from gateway.audit.checkpoint import public_keys
    from gateway.identity.keys import KeyMistakes, read_jwks

    if given.jwks is None:
        return public_keys(_own_key(given))
    try:
        return read_jwks(given.jwks.read_bytes())
    except KeyMistakes as mistakes:
        raise WrongUse(f"passgate: {given.jwks}: {str(mistakes).removeprefix(': ')}.") from None


def _own_key(given: argparse.Namespace) -> PrivateKey:
    from gateway.audit.checkpoint import key_file, read_key
    from gateway.identity.issue import IssueError

    file = key_file(load_settings(given.config).state.keys_dir)
    try:
        return read_key(file)
    except FileNotFoundError:
        raise WrongUse(
            f"passgate: {file} does not exist: the gateway makes it at its first start; "
            "for the log of another one give its public key (--jwks)."
        ) from None
    except (IssueError, OSError) as error:
        raise WrongUse(f"passgate: {error}.") from None


@contextmanager
def _checkpoints(given: argparse.Namespace, keys: KeySet) -> Iterator[Iterable[Checkpoint]]:
    """The checkpoints in the order of their lines, as they are now; raises `WrongUse`."""
    from gateway.audit.checkpoint import read
    from gateway.state import StoreRefused, read_only
    from gateway.state.checkpoints import all_checkpoints

    if given.checkpoints is None:
        try:
            with closing(read_only(load_settings(given.config).state.durable)) as conn:
                yield all_checkpoints(conn)
        except StoreRefused as mistake:
            raise WrongUse(f"passgate: {str(mistake).rstrip('.')}.") from None
        return
    told = []
    for number, text in enumerate(given.checkpoints.read_text().split("\n"), 1):
        try:
            told += [read(text.strip(), keys)] if text.strip() else []
        except ValueError as error:
            raise WrongUse(f"passgate: {given.checkpoints}:{number}: it {error}.") from None
    yield sorted(told)


def _as_json(verdict: Verdict) -> str:
    last = verdict.last_checkpoint
    told = {"seq": last.seq, "time": rfc3339(last.time), "hash": last.hash} if last is not None else None
    whole = {"ok": not verdict.findings, "first_bad_line": verdict.first_bad_line}
    return json.dumps(whole | to_builtins(verdict) | {"last_checkpoint": told}, indent=2)


def _as_text(verdict: Verdict, folder: Path) -> Iterator[str]:
    count = f"{_counted(verdict.lines, 'line')} in {_counted(verdict.files, 'file')} of {folder}"
    for finding in verdict.findings:
        yield f"{finding.where}: {finding.problem}"
    if verdict.more:
        yield f"… and {_counted(verdict.more, 'more finding')}"
    if verdict.findings:
        yield f"{count}; the first bad one: {verdict.first_bad_line or 'none, but see above'}"
        return
    if not verdict.lines and not verdict.checkpoints:
        yield f"{folder} has no lines yet: nothing was decided."
        return
    yield f"{count}: every one as it was written ({verdict.first} to {verdict.last})."
    if verdict.torn:
        yield (
            f"{verdict.torn} has no end: the gateway was killed there, or it is written this moment. "
            "Nothing was let through on it."
        )
    last = verdict.last_checkpoint
    if last is None:
        yield "No checkpoint was signed yet: whether lines are missing at the end cannot be known."
    else:
        after = f"{_counted(verdict.last - last.seq, 'line')} came after that"
        yield f"Signed up to line {last.seq} at {rfc3339(last.time)}; {after}."


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
