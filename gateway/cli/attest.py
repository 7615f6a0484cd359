"""`passgate attest`: look into attestations; sign them, for development, without a real attester.

Both read the configuration and its key files and never ask a running gateway: what was recorded, used up or taken
back since, only that knows.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.cli import DONE, WrongUse, add_config, load_settings
from gateway.cli.identity import seconds
from gateway.cli.token_inspect import given_text

if TYPE_CHECKING:
    from gateway.attestations import Attesters
    from gateway.attestations.verifier import Result, Unverified
    from gateway.config import Settings
    from gateway.core.attestation import Scalar

REFUSED: Final = 1
_ATTEST: Final = """An attestation says that in a run a step had an outcome about a subject. Policies ask for them
with `requires`; agents present them in the header Workflow-Attestation, or beforehand with POST
/gateway/v1/attestations, where attesters post their own too.

example:
  passgate attest sign --agent procurement --run r1 --step fraud-check --subject order_id=A1 --subject amount:=100
  passgate attest verify < attestation.txt
"""
_SIGN: Final = """For development. In production the attester keeps its private key and signs what it has checked.

Prints a compact JWS and nothing else. A subject's member is NAME=TEXT, or NAME:=JSON for integers and booleans:
amounts are integers in minor units, or text.

example:
  passgate keys new --file keys/fraud.jwks.json          a key for an attester that has none yet
  passgate attest sign --attester fraud-service --agent procurement --run r1 --step fraud-check \\
      --subject order_id=A1 --subject amount:=100 --subject currency=EUR --ttl 15m
"""
_VERIFY: Final = """Prints what every check says. Exit code 0: it counts; 1: refused; 2: wrong use.

example:
  passgate attest verify < attestation.txt                  a compact JWS, or a DSSE envelope
  passgate attest verify @attestation.json --agent procurement --run r1
"""
_REMEDIES: Final[Mapping[int, str]] = {
    1: "put less into it: what it is about, not what it was concluded from (evidence_hash names that)",
    2: "send the compact JWS as it was signed, or the DSSE envelope with payloadType application/vnd.in-toto+json",
    3: "have the attester write strict JSON; docs/attestations.md has an example of each form",
    4: "leave it out: keys come from the gateway's configuration and never from an attestation",
    5: "sign with `typ` wf-attestation+jwt, or as an in-toto statement v1 with the predicate test-result/v0.1",
    6: "name the attester in `iss` as `attesters:` does, or add it there with its keys",
    7: "sign with EdDSA (Ed25519) or ES256",
    8: "see whether the attester's key file has the key under this `kid`",
    9: "it was changed after it was signed, or signed with another key than its attester's: get a new one",
    10: "make it for the gateway's `identity.audience`, and for nobody beside it",
    11: "write `iat` and `exp` as whole epoch seconds; where one lies ahead, compare the clocks (`identity.skew`)",
    12: "let it hold for a shorter time, or raise `max_lifetime` of its attester",
    13: "have the attester correct this claim",
    14: "name the step as `may_attest` does, and write passed, failed, error or skipped",
    15: "write strings, booleans and integers, at most 32 of them, and nothing nested",
    16: "add the step to `may_attest`, if this attester is to be believed about it",
    17: "present it as the agent that it is for: `sub` is its id, or the subject of its tokens",
    18: "present it in the run that it is of",
    19: "get a new one from its attester",
}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the commands."""
    attest = _command(commands, "attest", "look into attestations; sign them, for development", _ATTEST)
    parts = attest.add_subparsers(title="commands", metavar="COMMAND", required=True)
    sign = _command(parts, "sign", "print an attestation, signed with an attester's key", _SIGN)
    sign.add_argument("--attester", metavar="NAME", help="who attests; may be left out where there is one attester")
    sign.add_argument("--agent", required=True, metavar="ID", help="whom it is for: an agent's id or subject")
    sign.add_argument("--run", required=True, metavar="ID", dest="run_id", help="the run that it is of")
    sign.add_argument("--step", required=True, metavar="NAME", help="what was checked")
    sign.add_argument("--outcome", choices=("passed", "failed", "error", "skipped"), default="passed")
    sign.add_argument("--subject", action="append", default=[], type=_member, metavar="NAME=VALUE", help="about what")
    sign.add_argument("--ttl", type=seconds, default="15m", metavar="15m", help="how long it holds (15m)")
    sign.add_argument("--audience", metavar="AUD", help="another gateway than the configured one")
    sign.add_argument("--evidence-hash", metavar="HASH", help="what it was concluded from")
    sign.add_argument("--prev", metavar="SHA256", help="the earlier attestation that this one builds on")
    sign.add_argument("--key", type=Path, metavar="FILE", help="the private key, where it lies elsewhere")
    add_config(sign)
    sign.set_defaults(run=attest_sign)
    verify = _command(parts, "verify", "would an attestation count, and why not? all reasons", _VERIFY)
    verify.add_argument("text", nargs="?", default="-", metavar="TEXT", help="it, @FILE, or - for standard input (-)")
    verify.add_argument("--agent", metavar="ID", help="the agent that would present it")
    verify.add_argument("--run", metavar="ID", dest="run_id", help="the run that it would be presented in")
    verify.add_argument("--format", choices=("text", "json"), default="text")
    add_config(verify)
    verify.set_defaults(run=attest_verify)


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, purpose: str, epilog: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=purpose, description=purpose, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def attest_sign(given: argparse.Namespace) -> int:
    """Print an attestation that this configuration would count, and nothing else."""
    from gateway.attestations import NotAttested
    from gateway.attestations.sign import Said, choose, sign
    from gateway.identity.issue import IssueError

    settings = load_settings(given.config)
    more = {"evidence_hash": given.evidence_hash, "prev": given.prev}
    said = Said(
        agent=given.agent,
        run=given.run_id,
        step=given.step,
        outcome=given.outcome,
        subject=dict(given.subject),
        more={name: value for name, value in more.items() if value is not None},
    )
    audience = given.audience or settings.identity.audience
    try:
        attester = choose(settings.attesters, given.attester)
        text = sign(attester, audience, said, ttl=given.ttl, now=time.time(), key=given.key)
    except IssueError as error:
        raise WrongUse(f"passgate: {error}") from None
    except OSError as error:
        raise WrongUse(f"passgate: {error.filename}: {error.strerror}") from None
    verdict = _attesters(settings, audience).examine(text, None, None)
    if isinstance(verdict, NotAttested):
        raise WrongUse(f"passgate: the gateway would not count it: {verdict.detail}")
    print(text)
    return DONE


def attest_verify(given: argparse.Namespace) -> int:
    """Print what every check says."""
    settings = load_settings(given.config)
    text = given_text(given.text, "attestation")
    names = None
    if given.agent is not None:
        names = (given.agent, *(one.subject for one in settings.agents if one.id == given.agent and one.subject))
    read, results = _attesters(settings, settings.identity.audience).inspect(text, names, given.run_id)
    refused = any(result.problem or result.waits_for for result in results)
    if given.format == "json":
        print(json.dumps(_report(read, results, refused=refused), indent=2))
    else:
        for line in _lines(read, results, refused=refused):
            print(line)
    return REFUSED if refused else DONE


def _report(read: Unverified, results: list[Result], *, refused: bool) -> dict[str, object]:
    """All of it for a program."""
    claims = getattr(read, "claims", None)
    return {
        "counts": not refused,
        "claims": None if claims is None else dict(claims),
        "steps": [
            {
                "step": result.step.number,
                "what": result.step.what,
                "outcome": _outcome(result),
                "code": result.step.code if result.problem else "",
                "found": result.problem,
                "remedy": _REMEDIES[result.step.number] if result.problem else "",
            }
            for result in results
        ],
    }


def _lines(read: Unverified, results: list[Result], *, refused: bool) -> Iterator[str]:
    """The same for a reader; what it says is escaped, so that it cannot speak to the terminal."""
    if (claims := getattr(read, "claims", None)) is not None:
        yield f"{'claims':<13} {json.dumps(dict(claims))}"
    if (key := getattr(read, "key", None)) is not None:
        yield f"{'key':<13} {json.dumps(key.id)} of {read.attester.name}"
        yield f"{'digest':<13} {read.form.digest}"
    yield ""
    for result in results:
        found = result.problem or (f"needs what step {result.waits_for[0]} looks for" if result.waits_for else "")
        yield f"{result.step.number:>3} {result.step.what:<9} {_outcome(result):<10} {found}".rstrip()
        if result.problem:
            yield f"{'':<25}-> {_REMEDIES[result.step.number]}"
    yield ""
    reasons = sum(bool(result.problem) for result in results)
    if not refused:
        yield "it counts, unless something newer says otherwise or it is used up"
    else:
        yield f"refused: {reasons} reason{'s' if reasons > 1 else ''}"


def _outcome(result: Result) -> str:
    return "refused" if result.problem else "not judged" if result.waits_for else "ok"


def _attesters(settings: Settings, audience: str) -> Attesters:
    """What a gateway with this configuration would know now."""
    from dataclasses import replace

    from gateway.attestations import Attesters, AttestersMistakes
    from gateway.core.clock import SystemClock
    from gateway.core.sources import DiskSources

    identity = replace(settings.identity, audience=audience)
    try:
        return Attesters.build(settings.attesters, DiskSources(), identity, SystemClock())
    except AttestersMistakes as mistakes:
        raise WrongUse(str(mistakes)) from None


def _member(text: str) -> tuple[str, Scalar]:
    """`NAME=TEXT` or `NAME:=JSON`."""
    name, equals, value = text.partition("=")
    if not equals or not name.rstrip(":"):
        raise argparse.ArgumentTypeError("write NAME=TEXT, or NAME:=JSON for integers and booleans")
    if not name.endswith(":"):
        return name, value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        raise argparse.ArgumentTypeError(f"{value!r} is not JSON; write NAME=TEXT for text") from None
    if not isinstance(found, str | bool) and type(found) is not int:
        raise argparse.ArgumentTypeError("a subject has strings, integers and booleans; write an amount in minor units")
    return name[:-1], found
