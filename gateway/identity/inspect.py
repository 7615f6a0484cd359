"""Why would this token be refused? Every reason, not only the first, for the operator who holds the token.

The steps are those of `tokens.py`; after them come what the door asks of a token that is valid:

17  it is one registered agent's
18  it may be used at this address      a token for one MCP server opens that one alone
19  it is bound to a key, where only such tokens count

What is found here is not for whoever sent a token: the door tells those one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeVar

from gateway.core.errors import Refusal
from gateway.core.principal import Agent, Principal
from gateway.identity.tokens import Result, UnverifiedToken, Verifier

Outcome = Literal["ok", "refused", "not judged"]
_T = TypeVar("_T")

AGENT: Final = 17
ADDRESS: Final = 18
PROOF: Final = 19

REMEDIES: Final[Mapping[int, str]] = {
    1: "have the issuer put less into it: no proxy on the way lets a longer header through either",
    2: "copy the token once more: all of it, without quotes, spaces, line breaks or `=` at the end",
    3: "it was changed on its way, or its issuer writes JSON that readers disagree on: get a new one",
    4: "have the issuer leave this out: keys come from the gateway's configuration and never from a token",
    5: "get the token from one of {issuers}, or add its issuer under `identity.issuers` with exactly this `iss`",
    6: "get an access token from the issuer, not an ID token; or see which `kinds` (for jwt also `typ`) it is "
    "configured with: {kinds}",
    7: "have the issuer sign with one of {algs}, or add the algorithm to its `algs`",
    8: "see whether the issuer's key set has the key, with a `use` and an `alg` that fit; for a key file: "
    "passgate keys jwks --issuer {issuer}",
    9: "the token was changed after it was signed, or another key than the published one signed it: get a new one",
    10: "have the issuer write `exp`, `iat` and `nbf` as whole epoch seconds; where one lies ahead, compare the clocks "
    "(`identity.skew` is {skew:g} s)",
    11: "ask for a token that lives at most {max_lifetime:g} s, or raise `max_lifetime` of the issuer",
    12: "ask the issuer for a token with `aud` {audience} and nothing beside it",
    13: "ask for a token that is bound to one key: `cnf` with `jkt` (DPoP) or with `x5t#S256` (mutual TLS)",
    14: "have the issuer correct this claim",
    15: "have the issuer add or correct it, or configure the kind of token that the issuer really gives out",
    16: "get a new one from its issuer",
    AGENT: "name the agent under `agents:` with this issuer and subject, in one entry",
    ADDRESS: "ask for a token for the whole gateway, or use this one at its own server",
    PROOF: "get a token with `cnf`, and send it with its proof; `require_proof` asks for that",
}
"""What to do where a step refuses."""


class Finding(NamedTuple):
    """What one check says."""

    step: int
    what: str
    outcome: Outcome
    found: str = ""
    remedy: str = ""


@dataclass(slots=True)
class Inspection:
    """A token with all that is wrong with it, and whose it would be. Nobody gets in by it."""

    token: UnverifiedToken
    findings: list[Finding]
    keys_of: str = ""  # the issuer whose keys would be needed to say more; empty: nothing is missing
    agent: Agent | None = None
    principal: Principal | None = None  # who it is, where nothing is wrong
    words: dict[str, object] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        """Whether a check refuses."""
        return any(finding.outcome == "refused" for finding in self.findings)

    @property
    def accepted(self) -> bool:
        """Whether every check so far let it through."""
        return all(finding.outcome == "ok" for finding in self.findings)

    def passed(self, *steps: int) -> bool:
        """Whether none of these steps has anything against it."""
        return all(finding.outcome == "ok" for finding in self.findings if finding.step in steps)

    def judge(self, step: int, what: str, check: Callable[[], _T]) -> _T | None:
        """Add a check; gives what it finds, `None` where it refuses."""
        try:
            found = check()
        except Refusal as refusal:
            problem = refusal.detail or refusal.sentence
            self.findings.append(Finding(step, what, "refused", problem, REMEDIES[step].format_map(self.words)))
            return None
        self.findings.append(Finding(step, what, "ok"))
        return found


def inspect(verifier: Verifier, text: str) -> Inspection:
    """Run every step of the verifier over a token."""
    token, results = verifier.examine(text)
    issuer = getattr(token, "issuer", None)  # not there where no step found it
    words: dict[str, object] = {
        "issuers": ", ".join(one.iss for one in verifier.issuers.values()),
        "audience": verifier.audience,
        "skew": verifier.skew,
    }
    if issuer is not None:
        words["issuer"], words["max_lifetime"] = issuer.name, issuer.max_lifetime
        words["algs"] = ", ".join(sorted(issuer.algs)) or "none"
        words["kinds"] = ", ".join(sorted({kind.name for kind in issuer.kinds.values()})) or "no kind of token"
    keyless = issuer is not None and issuer.keys is None
    findings = [_finding(result, words, keyless=keyless) for result in results]
    missing = keyless and any(finding.step == _KEY and finding.outcome == "not judged" for finding in findings)
    return Inspection(token, findings, issuer.name if issuer is not None and missing else "", words=words)


_KEY: Final = 8


def _finding(result: Result, words: Mapping[str, object], *, keyless: bool) -> Finding:
    step = result.step
    if result.waits_for:
        return Finding(step.number, step.what, "not judged", f"needs what step {result.waits_for[0]} looks for")
    if not result.problem:
        return Finding(step.number, step.what, "ok")
    if keyless and step.number == _KEY:
        remedy = f"save the issuer's key set and name the file: --keys {words['issuer']}=FILE"
        return Finding(
            step.number, step.what, "not judged", "the issuer's keys are fetched by a running gateway", remedy
        )
    return Finding(step.number, step.what, "refused", result.problem, REMEDIES[step.number].format_map(words))
