"""`passgate token inspect`: why would this token be refused? Never prints the signature, without which it is worthless.

Reads the configuration and its key files and never asks a running gateway: what an operator stopped, only that knows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.cli import DONE, WrongUse, load_settings

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.core.call import Address
    from gateway.identity import Identity
    from gateway.identity.inspect import Inspection

REFUSED: Final = 1
MAX_INPUT: Final = 64 * 1024  # characters
EPILOG: Final = """Exit code 0: it would be accepted; 1: refused; 2: wrong use, or keys are missing to tell.

A token on the command line can be read by everybody on this machine while the command runs, and stays in the shell's
history: prefer standard input.

example:
  passgate token inspect < token.txt
  passgate token inspect @token.txt --at 2026-11-20T10:00:00Z --address /v1/chat/completions
  passgate token inspect @token.txt --keys corp=saved-jwks.json      where the issuer's keys are fetched
  passgate token inspect @token.txt --keys gateway=jwks.json         a sub-agent's: from /.well-known/jwks.json
"""


def options(parser: argparse.ArgumentParser) -> None:
    """What the command takes, but for `--config`."""
    parser.add_argument("token", nargs="?", default="-", metavar="TOKEN", help="the token, @FILE, or - for stdin (-)")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--address", metavar="PATH", help="where it would be used, such as /v1/chat/completions")
    parser.add_argument("--at", type=_moment, metavar="TIME", help="when, in RFC 3339 or epoch seconds (now)")
    parser.add_argument(
        "--keys",
        action="append",
        default=[],
        metavar="[ISSUER=]FILE",
        help="a saved JWK set or SPIFFE bundle of an issuer whose keys are fetched",
    )


def token_inspect(given: argparse.Namespace) -> int:
    """Print all reasons, or who it would be."""
    settings = load_settings(given.config)
    text = _token(given.token)
    identity = _identity(settings, given)
    inspection = identity.inspect(text, _address(given.address) if given.address else None)
    if given.format == "json":
        print(json.dumps(report(inspection), indent=2))
    else:
        for line in lines(inspection):
            print(line)
    if inspection.refused:
        return REFUSED
    if inspection.keys_of:
        raise WrongUse(
            f"passgate: the keys of issuer {inspection.keys_of} are fetched: save its key set, "
            f"and name the file with --keys {inspection.keys_of}=FILE"
        )
    return DONE


def report(inspection: Inspection) -> dict[str, object]:
    """All of it for a program."""
    header, claims = (getattr(inspection.token, part, None) for part in ("header", "claims"))
    return {
        "accepted": inspection.accepted,
        "header": None if header is None else dict(header),
        "claims": None if claims is None else dict(claims),
        "caller": dict(caller(inspection)),
        "steps": [finding._asdict() for finding in inspection.findings],
    }


def lines(inspection: Inspection) -> Iterator[str]:
    """The same for a reader; what the token says is escaped, so that it cannot speak to the terminal."""
    for part in ("header", "claims"):
        if (members := getattr(inspection.token, part, None)) is not None:
            yield f"{part:<13} {json.dumps(dict(members))}"
    for name, value in caller(inspection):
        yield f"{name:<13} {value if isinstance(value, str) and value.isascii() else json.dumps(value)}"
    yield ""
    for finding in inspection.findings:
        yield f"{finding.step:>3} {finding.what:<9} {finding.outcome:<10} {finding.found}".rstrip()
        if finding.remedy:
            yield f"{'':<25}-> {finding.remedy}"
    yield ""
    reasons = sum(finding.outcome == "refused" for finding in inspection.findings)
    if reasons:
        yield f"refused: {reasons} reason{'s' if reasons > 1 else ''}"
    elif inspection.accepted:
        yield "accepted, unless an operator stopped it: passgate agents list"
    else:
        yield "nothing speaks against it so far"


def caller(inspection: Inspection) -> Iterator[tuple[str, object]]:
    """Who the token would be, as far as it could be read; that it says so makes none of it true."""
    token = inspection.token
    subject, on_behalf_of, chain = getattr(token, "actors", ("", "", ()))
    run, incarnation, parent = getattr(token, "runs", (None, None, None))
    issuer, kind, key = (getattr(token, name, None) for name in ("issuer", "kind", "key"))
    binding = getattr(token, "binding", None)
    principal = inspection.principal
    known: Mapping[str, object] = {
        "agent": inspection.agent.id if inspection.agent is not None else None,
        "issuer": issuer.name if issuer is not None else None,
        "kind": kind.name if kind is not None else None,
        "key": key.id if key is not None else None,
        "subject": principal.subject if principal is not None else subject,
        "on_behalf_of": principal.on_behalf_of if principal is not None else on_behalf_of,
        "chain": list(principal.chain if principal is not None else chain),
        "run": run,
        "incarnation": incarnation,
        "parent_run": parent,
        "token_id": getattr(token, "token_id", None),
        "assurance": principal.assurance if principal is not None else None,
        "binding": f"{binding.method} {binding.thumbprint}: counts only with a proof" if binding is not None else None,
        "mcp_server": getattr(token, "mcp_server", None),
    }
    yield from ((name, value) for name, value in known.items() if value not in (None, "", []))


def _token(given: str) -> str:
    """What is to be looked at; raises `WrongUse` where it is no token."""
    from gateway.identity.api_keys import PREFIX

    text = given_text(given, "token")
    if text.startswith(PREFIX):
        raise WrongUse("passgate: this is an API key, not a token: whether it counts says `key_sha256` of `agents:`")
    return text


def given_text(given: str, what: str) -> str:
    """What is given as itself, as @FILE, or with `-` on standard input, without the white space around it."""
    if given == "-":
        if sys.stdin.isatty():
            print(f"paste the {what}, then press Ctrl-D:", file=sys.stderr)
        text = sys.stdin.read(MAX_INPUT)
    elif given.startswith("@"):
        try:
            with Path(given[1:]).open(encoding="utf-8", errors="surrogateescape") as file:
                text = file.read(MAX_INPUT)
        except (OSError, ValueError) as error:
            raise WrongUse(f"passgate: {given[1:]}: {getattr(error, 'strerror', None) or error}") from None
    else:
        text = given[:MAX_INPUT]
    text = text.strip()
    if not text:
        raise WrongUse(f"passgate: there is no {what}: name @FILE, or give it on standard input")
    return text


def _identity(settings: Settings, given: argparse.Namespace) -> Identity:
    """What a gateway with this configuration would know at that time."""
    from gateway.core.sources import DiskSources
    from gateway.identity import Identity, IdentityMistakes
    from gateway.identity.keys import KeyMistakes

    clock = _At(given.at) if given.at is not None else _At(time.time())
    public_url = settings.listen.agents.public_url
    try:
        identity = Identity.build(settings.identity, settings.agents, DiskSources(), clock, public_url)
        identity.adopt(_saved_keys(settings, given.keys))
    except (IdentityMistakes, KeyMistakes) as mistakes:
        raise WrongUse(str(mistakes)) from None
    return identity


def _saved_keys(settings: Settings, given: list[str]) -> dict[str, bytes]:
    from gateway.identity.delegation import GATEWAY

    fetched = [one.name for one in settings.identity.issuers if one.fetched]
    saved: dict[str, bytes] = {}
    for one in given:
        issuer, equals, name = one.partition("=")
        if not equals or issuer not in (*fetched, GATEWAY):
            if len(fetched) != 1:
                which = f"of {', '.join(fetched)}" if fetched else "but there is none: no issuer's keys are fetched"
                raise WrongUse(f"passgate: --keys ISSUER=FILE names an issuer {which}")
            issuer, name = fetched[0], one
        try:
            saved[issuer] = Path(name).read_bytes()
        except (OSError, ValueError) as error:
            raise WrongUse(f"passgate: {name}: {getattr(error, 'strerror', None) or error}") from None
    return saved


def _address(path: str) -> Address:
    from gateway.core.errors import Refusal
    from gateway.dialects.addresses import resolve

    try:
        return resolve("POST", path)
    except Refusal as refusal:
        raise WrongUse(f"passgate: --address: {refusal.sentence}") from None


class _At:
    """A clock that stands still."""

    def __init__(self, moment: float) -> None:
        self.now: Callable[[], float] = lambda: moment
        self.monotonic = self.now


def _moment(text: str) -> float:
    try:
        return float(text) if text.isdecimal() else datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError("write 2026-11-20T10:00:00Z or epoch seconds") from None
