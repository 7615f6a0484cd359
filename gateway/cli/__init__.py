"""The command `passgate`: one module a command, each with an `add` that registers it.

Exit codes (wire §10): 0 done, 1 found something, 2 wrong use. A mistake is a sentence on standard
error, never a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from gateway import __version__

COMMANDS: Final = ("serve", "check", "identity", "spend", "prices")
"""The modules, in the order in which `--help` lists their commands."""

WRONG_USE: Final = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the entry point of the distribution."""
    parser = argparse.ArgumentParser(
        prog="passgate",
        description="A reverse proxy between AI agents and what they use.",
        epilog="example: passgate serve --config config.yaml",
    )
    parser.add_argument("--version", action="version", version=f"passgate {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        import_module(f"gateway.cli.{name}").add(commands)
    given = parser.parse_args(argv)
    try:
        return int(given.run(given))
    except BrokenPipeError:
        # Whoever reads (head, less) has had enough; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
