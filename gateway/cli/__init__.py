"""The command `passgate`: one module a command, each with an `add` that registers it.

Exit codes: 0 done, 1 found something, 2 wrong use. A mistake is a sentence on standard
error, never a traceback: a command raises it as `WrongUse`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway import __version__

if TYPE_CHECKING:
    from gateway.config import Settings

COMMANDS: Final = (
    "serve",
    "check",
    "demo",
    "identity",
    "agents",
    "policy",
    "attest",
    "approvals",
    "spend",
    "prices",
    "audit",
)
"""The modules, in the order in which `--help` lists their commands."""

NOT_BUILT: Final = {
    "route": "the answer header gateway-provider and the ledger name who served a call",
    "runs": "GET /gateway/v1/runs/RUN shows an agent its own run, `passgate spend report --by run` what each cost",
    "cache": "answers are not cached yet",
    "budgets": "`runs.limits` bounds a run, `passgate spend report` shows who spent what",
    "state": "stop the gateway and copy the file of `state.durable`",
    "show": "GET /gateway/v1/calls/REQUEST-ID shows an agent its own call, and the log has a line with that id",
    "tail": "the log on standard error has a line for each call",
    "spend reconcile": "`passgate spend export` gives what was metered, to compare by other means",
    "spend waste": "`passgate spend report --by outcome` tells failed calls from complete ones",
}
"""Commands that are to come, with what serves meanwhile."""

DONE: Final = 0
WRONG_USE: Final = 2


class WrongUse(Exception):
    """What the user has to correct, as it is printed; the exit code is `WRONG_USE`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the entry point of the distribution."""
    words = sys.argv[1:] if argv is None else list(argv)
    for name in (" ".join(words[:1]), " ".join(words[:2])):
        if name in NOT_BUILT:
            print(f"passgate {name} is not built yet; {NOT_BUILT[name]}.", file=sys.stderr)
            return WRONG_USE
    parser = argparse.ArgumentParser(
        prog="passgate",
        description="A reverse proxy between AI agents and what they use.",
        epilog=f"example: passgate serve --config config.yaml\n\nnot built yet: {', '.join(NOT_BUILT)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=f"passgate {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name in COMMANDS:
        import_module(f"gateway.cli.{name}").add(commands)
    parser.set_defaults(run=None)
    given = parser.parse_args(words)
    if given.run is None:
        parser.print_help(sys.stderr)
        return WRONG_USE
    try:
        return int(given.run(given))
    except WrongUse as mistake:
        print(mistake, file=sys.stderr)
        return WRONG_USE
    except BrokenPipeError:
        # Whoever reads (head, less) has had enough; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return 130


def add_config(parser: argparse.ArgumentParser) -> None:
    """Let a command take `--config`."""
    default = os.environ.get("PASSGATE_CONFIG") or "config.yaml"
    parser.add_argument("--config", default=default, metavar="FILE", help="default: config.yaml, or PASSGATE_CONFIG")


def load_settings(file: str) -> Settings:
    """A configuration without its secrets; raises `WrongUse` with all its mistakes."""
    from gateway.config import ConfigMistakes, load
    from gateway.core.sources import WithoutSecrets

    try:
        return load(Path(file), WithoutSecrets()).settings
    except ConfigMistakes as mistakes:
        raise WrongUse(str(mistakes)) from None
