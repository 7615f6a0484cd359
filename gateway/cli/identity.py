"""`passgate keys`, `passgate token`, `passgate exec`: identity for development, without a real issuer.

They write and read the files that the configuration names and never ask a running gateway. In
production the agents' own issuer holds the private key and hands out the tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.cli import DONE, WrongUse, add_config, load_settings, token_inspect
from gateway.cli.admin_client import NothingServes, add_admin, admin

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.identity.mint import Minted
    from gateway.identity.settings import IssuerSettings

NOT_EXECUTABLE: Final = 126  # as shells, env(1) and nohup(1) say it
NOT_FOUND: Final = 127

_PRODUCTION = "For development. In production name your own issuer's public keys in the configuration and let it"
_KEYS = f"""{_PRODUCTION}
keep the private one.

example:
  passgate keys new                     a key for the only issuer; its public part joins the issuer's file
  passgate keys new --rotate            a new one; tokens of the old one hold until they expire
  passgate keys new --file sign.json    a key that signs policies: sign.private.json and sign.json
  passgate keys jwks --issuer dev       the public keys
  passgate keys api --agent scratch     an API key for where a signed token is too much trouble
"""
_API_KEY = """For development. Whoever has the key is the agent, until it is taken out of the configuration.

Prints the key once, and on standard error the line that lets the gateway know it by its SHA-256. Nothing is kept.

example:
  export OPENAI_API_KEY=$(passgate keys api --agent scratch)
"""
_ROTATE = """The key that a running gateway signs tokens of delegated agents with. It takes a new one every 30 days by
itself; tokens of the old one hold until they expire.

example:
  passgate keys rotate                  after somebody may have read the folder of `state.keys`
"""
_TOKEN = f"""{_PRODUCTION}
give out the tokens (client credentials, token exchange, workload identity).

example:
  export OPENAI_API_KEY=$(passgate token mint --agent procurement --ttl 1h)
  passgate token mint --agent procurement --on-behalf-of user/anna --run order-17 --inc 1
  export PASSGATE_ADMIN_TOKEN=$(passgate token mint --operator treasury-desk)
  passgate token inspect < token.txt
"""
_EXEC = f"""{_PRODUCTION}
put the token into the agent's environment.

Sets OPENAI_BASE_URL, OPENAI_API_BASE and OPENAI_API_KEY, PASSGATE_URL and PASSGATE_TOKEN for all that speaks
HTTP itself, and PASSGATE_RUN and PASSGATE_INCARNATION, which the token carries too. Variables of SDKs whose
dialect the gateway does not speak yet stay as they are.

example:
  passgate exec --agent procurement --run order-17 -- python agent.py
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the commands."""
    keys = _command(commands, "keys", "make and show an issuer's keys, for development", _KEYS)
    parts = keys.add_subparsers(title="commands", metavar="COMMAND", required=True)
    new = _command(parts, "new", "make a key: private beside the issuer's key file (0600), public into it", _KEYS)
    whose = new.add_mutually_exclusive_group()
    whose.add_argument("--issuer", metavar="NAME", help="whose key; may be left out where there is one issuer")
    whose.add_argument("--file", type=Path, metavar="FILE", help="no issuer's: the public part joins this key file")
    new.add_argument("--alg", choices=("EdDSA", "ES256"), default="EdDSA", help="the signature algorithm (EdDSA)")
    existing = new.add_mutually_exclusive_group()
    existing.add_argument("--rotate", action="store_true", help="replace an existing private key")
    existing.add_argument("--if-missing", action="store_true", help="do nothing where there is a private key")
    _runs(new, keys_new)
    jwks = _command(parts, "jwks", "print the public keys that the gateway reads", _KEYS)
    jwks.add_argument("--issuer", metavar="NAME", help="whose keys; may be left out where there is one issuer")
    _runs(jwks, keys_jwks)
    rotate = _command(parts, "rotate", "have the running gateway sign its own tokens with a new key", _ROTATE)
    add_admin(rotate)
    _runs(rotate, keys_rotate)
    api = _command(parts, "api", "make an API key for an agent; nothing is kept of it", _API_KEY)
    api.add_argument("--agent", required=True, metavar="ID", help="the agent, as `agents:` names it")
    api.set_defaults(run=keys_api)

    token = _command(commands, "token", "look into tokens; mint them, for development", _TOKEN)
    parts = token.add_subparsers(title="commands", metavar="COMMAND", required=True)
    mint = _command(parts, "mint", "print a token for a registered agent, or for an operator", _TOKEN)
    whose = mint.add_mutually_exclusive_group(required=True)
    whose.add_argument("--agent", metavar="ID", help="the agent, as `agents:` names it")
    whose.add_argument("--operator", metavar="ID", help="the operator, as `operators:` names it, with an issuer")
    _claims(mint, ttl="1h")
    mint.add_argument("--inc", metavar="ID", help="the incarnation: which process life of the run")
    _runs(mint, token_mint)
    look = _command(parts, "inspect", "why would a token be refused? all reasons", token_inspect.EPILOG)
    token_inspect.options(look)
    _runs(look, token_inspect.token_inspect)

    execute = _command(commands, "exec", "run a command as an agent, for development", _EXEC)
    execute.add_argument("--agent", required=True, metavar="ID", help="the agent, as `agents:` names it")
    _claims(execute, ttl="8h")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="what to run")
    _runs(execute, execute_as)


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, purpose: str, epilog: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=purpose, description=purpose, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _claims(parser: argparse.ArgumentParser, *, ttl: str) -> None:
    parser.add_argument("--subject", metavar="SUB", help="its subject, where the registered one ends in *")
    parser.add_argument("--ttl", type=seconds, default=ttl, metavar="15m", help=f"how long the token holds ({ttl})")
    parser.add_argument("--run", metavar="ID", help="the run that the calls belong to", dest="run_id")
    parser.add_argument("--parent-run", metavar="ID", help="the run that started this one")
    parser.add_argument("--on-behalf-of", metavar="SUB", help="the user that the agent acts for")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the private key, where it lies elsewhere")


def _runs(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int]) -> None:
    """Give a parser its command; what stops that command is one sentence, not a traceback."""

    def run(given: argparse.Namespace) -> int:
        from gateway.identity.issue import IssueError

        try:
            return command(given)
        except IssueError as error:
            raise WrongUse(f"passgate: {error}") from None
        except OSError as error:
            raise WrongUse(f"passgate: {error.filename}: {error.strerror}") from None

    add_config(parser)
    parser.set_defaults(run=run)


def keys_new(given: argparse.Namespace) -> int:
    """Make a key; says on standard output what it wrote."""
    from gateway.identity.issue import IssueError, add_key, key_file, private_file

    issuer = None if given.file else _issuer(load_settings(given.config), given.issuer)
    public_file = given.file if issuer is None else key_file(issuer)
    secret_file = private_file(public_file)
    if given.if_missing and secret_file.exists():
        print(f"{secret_file} is there already.")
        return DONE
    if issuer is not None and given.alg not in issuer.algs:
        raise IssueError(f"add {given.alg} to `algs` of issuer {issuer.name} first")
    key = add_key(public_file, given.alg, rotate=given.rotate)
    print(f"private key  {secret_file}  (keep it secret)")
    print(f"public key   {public_file}  kid {key.kid}")
    return DONE


def keys_jwks(given: argparse.Namespace) -> int:
    """Print the issuer's public keys as the gateway reads them, after the same checks."""
    from gateway.identity.issue import IssueError, key_file
    from gateway.identity.jose import from_json
    from gateway.identity.keys import KeyMistakes, read_jwks

    file = key_file(_issuer(load_settings(given.config), given.issuer))
    data = file.read_bytes()
    try:
        read_jwks(data)
    except KeyMistakes as error:  # printing it could publish a private key
        raise IssueError(f"{file}: {error}") from None
    print(json.dumps(from_json(data), indent=2))
    return DONE


def keys_rotate(given: argparse.Namespace) -> int:
    """Have the gateway that serves take a new key of its own; says which."""
    settings = load_settings(given.config)
    try:
        kid = admin(settings, given).post("/admin/v1/keys/rotate", {})["key_id"]
    except NothingServes:
        raise WrongUse(
            "passgate: no gateway serves with this configuration; start it and ask again, or name it with --admin URL."
        ) from None
    print(f"The gateway signs its own tokens with a new key: kid {kid}")
    return DONE


def keys_api(given: argparse.Namespace) -> int:
    """Print a fresh API key and nothing else, so that `$(…)` takes it; the line to paste goes to standard error."""
    from gateway.identity.api_keys import key_digest, new_key

    key = new_key()
    print(key)
    print(
        f"Put this under `agents:`, into the entry of {given.agent} (the list may have several):\n\n"
        f'    key_sha256: ["{key_digest(key)}"]\n\n'
        "The key is shown this once. It is for development: `min_assurance: bearer` in a rule keeps it out.",
        file=sys.stderr,
    )
    return DONE


def token_mint(given: argparse.Namespace) -> int:
    """Print a token and nothing else, so that `$(…)` takes it."""
    settings = load_settings(given.config)
    minted = _mint_for_operator(settings, given) if given.operator else _mint(settings, given, given.inc)
    print(minted.token)
    return DONE


def execute_as(given: argparse.Namespace) -> int:
    """Become the command, with a token and a fresh incarnation in its environment; returns only on failure."""
    from gateway.core.clock import rfc3339
    from gateway.core.ids import new_id
    from gateway.identity.issue import IssueError

    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command:
        raise IssueError("name a command after --, such as: passgate exec --agent A -- python agent.py")
    settings, incarnation = load_settings(given.config), new_id("inc")
    minted = _mint(settings, given, incarnation)
    variables = environment(base_url(settings), minted.token, run=given.run_id, incarnation=incarnation)
    print(
        f"passgate: {command[0]} runs as agent {given.agent} ({minted.subject}), "
        f"run {given.run_id or 'none'}, incarnation {incarnation}, until {rfc3339(minted.expires)}",
        file=sys.stderr,
        flush=True,
    )
    try:
        os.execvpe(command[0], command, {**os.environ, **variables})  # noqa: S606 - the user's own command, no shell
    except FileNotFoundError:
        print(f"passgate: {command[0]}: command not found", file=sys.stderr)
        return NOT_FOUND
    except OSError as error:
        print(f"passgate: {command[0]}: {error.strerror}", file=sys.stderr)
        return NOT_EXECUTABLE


def environment(base: str, token: str, *, run: str | None, incarnation: str) -> Mapping[str, str]:
    """What an agent needs to go through the gateway at `base`; the token itself carries run and incarnation.

    Only SDKs whose dialect is built are pointed here: the others would get nothing but 404.
    """
    variables = {
        "OPENAI_BASE_URL": f"{base}/v1",
        "OPENAI_API_BASE": f"{base}/v1",  # the older name, which some frameworks still read
        "OPENAI_API_KEY": token,
        "PASSGATE_URL": base,
        "PASSGATE_TOKEN": token,
        "PASSGATE_INCARNATION": incarnation,
    }
    return variables if run is None else {**variables, "PASSGATE_RUN": run}


def base_url(settings: Settings) -> str:
    """Where agents on this machine reach the gateway: its public URL, else its own address."""
    from gateway.identity.issue import IssueError

    door = settings.listen.agents
    if door.public_url:
        return door.public_url
    if door.bind.port == 0:
        raise IssueError("listen.agents binds port 0, so its address is not known: set its public_url")
    return f"{'https' if door.tls else 'http'}://{door.bind.reachable}"


def _mint(settings: Settings, given: argparse.Namespace, incarnation: str | None) -> Minted:
    from gateway.identity.mint import mint

    return mint(
        settings.identity,
        settings.agents,
        given.agent,
        ttl=given.ttl,
        now=time.time(),
        subject=given.subject,
        on_behalf_of=given.on_behalf_of,
        run=given.run_id,
        incarnation=incarnation,
        parent_run=given.parent_run,
        key_file=given.key,
    )


def _mint_for_operator(settings: Settings, given: argparse.Namespace) -> Minted:
    from gateway.identity.issue import IssueError
    from gateway.identity.mint import mint_for

    if given.subject or given.on_behalf_of or given.run_id or given.inc or given.parent_run:
        raise IssueError("an operator's token says who it is and nothing else: --operator goes with --ttl and --key")
    operators = {one.id: one for one in settings.operators}
    if given.operator not in operators:
        known = ", ".join(operators) or "none"
        raise IssueError(f"there is no operator {given.operator!r}: add it under `operators:`, or use one of {known}")
    operator = operators[given.operator]
    if not operator.issuer:
        raise IssueError(f"operator {operator.id} has a token of its own (token_sha256), and none of an issuer")
    return mint_for(
        settings.identity, operator.issuer, operator.subject, ttl=given.ttl, now=time.time(), key_file=given.key
    )


def _issuer(settings: Settings, name: str | None) -> IssuerSettings:
    from gateway.identity.issue import IssueError

    issuers = {issuer.name: issuer for issuer in settings.identity.issuers}
    if name is None and len(issuers) == 1:
        return next(iter(issuers.values()))
    if name in issuers:
        return issuers[name]
    raise IssueError(f"choose an issuer with --issuer: {', '.join(issuers)}")


def seconds(text: str) -> float:
    """A duration of the command line: `15m`."""
    from gateway.settings import ScalarNode
    from gateway.settings.types import Misfit, duration

    try:
        return float(duration("1s", "3650d").read(ScalarNode("--ttl", 1, 1, text, "text")))
    except Misfit as misfit:
        raise argparse.ArgumentTypeError(f"{misfit.problem}: {misfit.remedy}") from None
