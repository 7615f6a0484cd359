"""`passgate check` and `passgate schema`: what is wrong with the files, and what may stand in them."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli import DONE, WRONG_USE, add_config

if TYPE_CHECKING:
    from gateway.settings import Complaint


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register both commands."""
    check = commands.add_parser(
        "check",
        help="validate the configuration and the policies without starting",
        description="Validate the configuration and all that it names; every mistake has file, line and remedy.",
        epilog="example: passgate check --config config.yaml",
    )
    add_config(check)
    check.add_argument("--format", choices=("text", "json"), default="text")
    check.set_defaults(run=run_check)
    schema = commands.add_parser(
        "schema",
        help="print the JSON Schema of a file, for editors",
        description="Print the JSON Schema (2020-12) of the configuration or of a policy file.",
        epilog="example: passgate schema config > config.schema.json",
    )
    schema.add_argument("file", choices=("config", "policy"))
    schema.set_defaults(run=run_schema)


def run_check(given: argparse.Namespace) -> int:
    """Print all mistakes and warnings; 0 where there is no mistake, else 2."""
    from gateway.build import prepare
    from gateway.config import ConfigMistakes, load
    from gateway.core.sources import DiskSources

    mistakes: list[Complaint] = []
    warnings: list[str] = []
    off: list[str] = []
    sources = DiskSources()
    try:
        config = load(Path(given.config), sources)
        warnings += config.warnings
        off += config.off.values()
        built = prepare(config, sources)
        warnings += built.warnings
        mistakes += built.policy.errors
    except ConfigMistakes as error:
        mistakes = error.complaints
    if given.format == "json":
        found = {"mistakes": [asdict(mistake) for mistake in mistakes], "warnings": warnings, "off": off}
        print(json.dumps({"file": given.config, **found}, indent=2))
    else:
        for line in (*mistakes, *(f"warning: {one}" for one in warnings), *(f"off: {one}" for one in off)):
            print(line, file=sys.stderr)
        good = "can be used" if not mistakes else "cannot be used"
        print(f"{given.config} {good}: {_counted(len(mistakes), 'mistake')}, {_counted(len(warnings), 'warning')}")
    return WRONG_USE if mistakes else DONE


def run_schema(given: argparse.Namespace) -> int:
    """Print a schema."""
    if given.file == "config":
        from gateway.config import config_schema

        found = config_schema()
    else:
        from gateway.policy.files import PolicyFile
        from gateway.settings import schema

        found = schema(PolicyFile, "A policy file of Passgate")
    print(json.dumps(found, indent=2, ensure_ascii=False))
    return DONE


def _counted(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
