"""`passgate serve`: the supervisor in the foreground."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.cli import WrongUse, add_config

if TYPE_CHECKING:
    from gateway.process.supervisor import Supervisor

_WORKING_DAY: Final = 8 * 3600.0
_EXAMPLE: Final = """example:
  passgate serve --config config.yaml
  passgate serve --config config.example.yaml --welcome   what `make run` does
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "serve", help="start the gateway", epilog=_EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config(parser)
    parser.add_argument(
        "--welcome", action="store_true", help="print what to paste to make a first call with a development identity"
    )
    parser.set_defaults(run=serve)


def serve(given: argparse.Namespace) -> int:
    """Start, and serve until a signal says stop."""
    import uvloop

    from gateway.build import prepare
    from gateway.config import ConfigMistakes, load
    from gateway.core.sources import DiskSources
    from gateway.process.listening import StartError
    from gateway.process.reading import Read
    from gateway.process.supervisor import Supervisor
    from gateway.web.agents import ParserMissing, require_c_parser

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the supervisor listens: all files are still being read
    sources = DiskSources()
    try:
        require_c_parser()
        config = load(Path(given.config), sources)
        built = prepare(config, sources)
    except ParserMissing as error:
        raise WrongUse(f"passgate cannot start: {error}") from None
    except ConfigMistakes as mistakes:
        count = len(mistakes.complaints)
        end = f"{given.config}: {count} mistake{'s' * (count > 1)}; nothing was started."
        raise WrongUse(f"{mistakes}\n{end}") from None
    for warning in (*config.warnings, *built.warnings, *map(str, built.policy.errors)):
        print(f"warning: {warning}", file=sys.stderr)
    for reason in config.off.values():
        print(f"off: {reason}", file=sys.stderr)

    def ready(supervisor: Supervisor) -> None:
        print(_listeners(supervisor), flush=True)
        if given.welcome:
            print(_welcome(supervisor), flush=True)

    taken = Read(config, built.policy.image, built.policy.revision)

    async def run() -> int:
        return await Supervisor(taken, sources, built.prices).run(ready)

    try:
        return uvloop.run(run())
    except StartError as error:
        raise WrongUse(f"passgate cannot start: {error}") from None


def _listeners(supervisor: Supervisor) -> str:
    urls, workers = supervisor.urls, supervisor.pool.count
    operators = "with an operator's token"
    if not supervisor.config.settings.operators:
        operators = f"with the token in {supervisor.config.settings.state.admin_token}"
    return (
        "Passgate is ready.\n"
        f"  agents   {urls['agents']}   ({workers} worker{'s' * (workers > 1)})\n"
        f"  metrics  {urls['metrics']}/metrics\n"
        f"  admin    {urls['admin']}/admin/v1/status   ({operators})"
    )


def _welcome(supervisor: Supervisor) -> str:
    """What to paste next, with a development token that lives for a working day."""
    from gateway.identity.issue import IssueError
    from gateway.identity.mint import mint

    settings = supervisor.config.settings
    models = [name for name, model in settings.models.items() if not name.endswith("*")]
    if not settings.agents or not models:
        return ""
    agent, url = settings.agents[0], supervisor.urls["agents"]
    try:
        token = mint(settings.identity, settings.agents, agent.id, ttl=_WORKING_DAY, now=time.time()).token
    except (IssueError, OSError) as error:
        return f"No development token: {error}"
    body = json.dumps({"model": models[0], "messages": [{"role": "user", "content": "Hello, who are you?"}]})
    return f"""
Paste this for a first call as agent {agent.id} (the token is for development and lives 8 hours):

  curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' -H 'Authorization: Bearer {token}' -d '{body}'

Or point any OpenAI SDK here:

  export OPENAI_BASE_URL={url}/v1
  export OPENAI_API_KEY={token}

Then see who spent what, in another terminal:

  {_shell(supervisor.config.path)}
  passgate spend report
  curl -s {supervisor.urls["metrics"]}/metrics | grep passgate_spend

Ctrl-C stops the gateway; calls in flight finish first."""


def _shell(config: Path) -> str:
    """What lets a shell call `passgate`, with this configuration; under `make run` it is not on the PATH yet.

    The folder is put last on the PATH, so that `python` stays what it was.
    """
    settings = f"export PASSGATE_CONFIG={shlex.quote(str(config.absolute()))}"
    if shutil.which("passgate"):
        return settings
    program = Path(sys.argv[0] if sys.argv[0].endswith("passgate") else sys.executable)
    return f'{settings} PATH="$PATH":{shlex.quote(str(program.absolute().parent))}'
