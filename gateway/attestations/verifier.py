"""Verify an attestation in numbered steps: first what it is, then who signed it, last whether it counts here and now.

 1  at most 7 KiB                                            nobody buys our time with a long one (W22)
 2  three canonical base64url segments, or an envelope whose `payloadType` is in-toto's    (W16)
 3  strict JSON objects                                      two readers see the same members (W5)
 4  no `crit` `jku` `jwk` `x5…` in its header                it never brings its own key or rules (W16)
 5  `typ` is that of attestations, or the statement is a test result                        (W16)
 6  `iss` is a configured attester, character by character    (W9; what the gateway saw itself has no text)
 7  `alg` is EdDSA or ES256                                  (W16)
 8  the key is that attester's and made for this `alg`        (W8, W9, W16, W24)
 9  the signature holds; another's beside it does not help    (W17, S09)
10  one audience, and it is this gateway                     (W19)
11  `iat` `exp` (and `nbf`) are whole seconds, in order, and not of the future              (W10)
12  the lifetime is within the attester's                    (W10)
13  `jti` `sub` `run` `evidence_hash` `prev` are names       what identifies is understood or refused
14  `step` is a step's name, `outcome` one of four words     (W7)
15  `subject` is a small flat object of exact values          (W2, W3, W4)
16  its attester may attest this step                        (W8)
17  it is for the agent that presents it                     (W20)
18  it is of the run that it is presented in                 (W1)
19  it has not expired                                       last, so that "expired" means "all else was right" (W10)

`verify` stops at the first step that refuses, `inspect` takes all of them: one list of checks, two ways through it.
Why one is refused may be said to whoever sent it: it opens nothing by itself, and an agent has to know what to mend.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeGuard

from gateway.attestations.forms import Form, form_of
from gateway.core.attestation import OUTCOMES, Attestation, Scalar, subject_text
from gateway.core.clock import Clock, rfc3339
from gateway.core.ids import RUN_ID
from gateway.identity.keys import KeySet, PublicKey
from gateway.identity.kinds import MAX_TIME, Flaw, read_name, shown

MAX_ATTESTATION: Final = 7 * 1024
MAX_MEMBERS: Final = 32
MAX_SUBJECT: Final = 2 * 1024
"""Bytes of a subject in its canonical spelling."""
STEP_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What a step may be called; use `fullmatch`."""

_SIGNATURE: Final = 9
_MICRO: Final = 1_000_000
_MAX_NAME: Final = 256
_EXACT: Final = 1 << 53  # beyond it two readers of JSON may see two numbers (RFC 8259 §6)
_SHA256: Final = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")  # 32 bytes in canonical base64url


class NotAttested(Exception):
    """Why an attestation does not count: a code for programs, what is so, and the step that it names (or nothing).

    `signed` says that it is known to be its attester's all the same; `subject` is what it is about, where it counted.
    """

    def __init__(self, code: str, detail: str, step: str = "", *, signed: bool = True) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.step = step
        self.signed = signed
        self.subject: Mapping[str, Scalar] = {}


@dataclass(frozen=True, slots=True)
class Attester:
    """Somebody whose word counts, and for what."""

    name: str
    keys: KeySet
    may_attest: frozenset[str]
    max_lifetime: float  # seconds


@dataclass(slots=True, eq=False)
class Unverified:
    """An attestation on its way through the steps; whoever sent it may have made all of it up.

    `names` are what the agent that presents it may be called and `run` is where; `None`: there is none to compare with.
    """

    text: str = field(repr=False)
    now: float  # epoch seconds: one moment for all steps
    names: Sequence[str] | None
    run: str | None
    form: Form = field(init=False, repr=False)
    claims: Mapping[str, object] = field(init=False)
    attester: Attester = field(init=False)
    key: PublicKey = field(init=False)
    iat: int = field(init=False)
    exp: int = field(init=False)
    subject: dict[str, Scalar] = field(init=False)


class Step(NamedTuple):
    """One check; a step may have several of them."""

    number: int
    what: str  # what it looks at
    check: Callable[[Unverified], None]  # raises `Flaw`
    code: str = "malformed"  # what it is called where it refuses
    needs: tuple[int, ...] = ()  # the steps without whose finds it cannot judge


class Result(NamedTuple):
    """What `Verifier.inspect` says of one check."""

    step: Step
    problem: str = ""
    waits_for: tuple[int, ...] = ()  # the failed steps without which it cannot judge


class Verifier:
    """The steps, with what they compare against."""

    def __init__(self, attesters: Mapping[str, Attester], *, audience: str, skew: float, clock: Clock) -> None:
        self._attesters = attesters
        self._audience = audience
        self._skew = skew
        self._clock = clock
        self.steps: Final = (
            Step(1, "length", self._length),
            Step(2, "form", self._open),
            Step(3, "JSON", self._parse, needs=(2,)),
            Step(4, "header", lambda one: one.form.check_header(), needs=(3,)),
            Step(5, "type", lambda one: one.form.check_type(), needs=(3,)),
            Step(6, "iss", self._attester, "unknown_attester", (3,)),
            Step(7, "alg", lambda one: one.form.check_algorithm(), "signature", (3,)),
            Step(8, "kid", lambda one: one.form.choose_key(one.attester.keys), "signature", (6, 7)),
            Step(_SIGNATURE, "signature", self._signature, "signature", (8,)),
            Step(10, "aud", self._one_audience, "audience", (3,)),
            Step(11, "times", self._times, needs=(3,)),
            Step(11, "begun", self._begun, "not_yet", (11,)),
            Step(12, "lifetime", self._lifetime, "lifetime", (6, 11)),
            Step(13, "names", self._names, needs=(3,)),
            Step(14, "outcome", self._outcome, needs=(3,)),
            Step(15, "subject", self._subject, needs=(3,)),
            Step(16, "step", self._may_attest, "step_not_allowed", (6, 14)),
            Step(17, "sub", self._for_agent, "other_agent", (13,)),
            Step(18, "run", self._of_run, "other_run", (13,)),
            Step(19, "expiry", self._expiry, "expired", (11,)),
        )

    def verify(self, text: str, names: Sequence[str] | None, run: str | None) -> Attestation:
        """All steps in order; raises `NotAttested`, and nothing else whatever the text is.

        `names` are what the agent that presents it may be called, `None` where its attester posts it itself; `run`
        is the run that it must be of, `None` where it says itself which one it means.
        """
        one = Unverified(text, self._clock.now(), names, run)
        for step in self.steps:
            try:
                step.check(one)
            except Flaw as flaw:
                raise NotAttested(step.code, str(flaw), _step_of(one), signed=step.number > _SIGNATURE) from None
        claims = one.claims
        return Attestation(
            by=one.attester.name,
            id=str(claims["jti"]),
            step=str(claims["step"]),
            outcome=str(claims["outcome"]),
            subject=one.subject,
            agent=str(claims["sub"]),
            run=str(claims["run"]),
            # A second has room for both: one that did not pass counts from its end, one that passed from its beginning.
            at=one.iat * _MICRO + (0 if claims["outcome"] == "passed" else _MICRO - 1),
            expires=one.exp * _MICRO,
            source="presented" if names is not None else "posted",
            key=one.key.thumbprint,
            evidence_hash=str(claims.get("evidence_hash", "")),
            prev=str(claims.get("prev", "")),
            digest=one.form.digest,
        )

    def inspect(self, text: str, names: Sequence[str] | None, run: str | None) -> tuple[Unverified, list[Result]]:
        """What every single check says, for whoever wants to know all that is wrong; nothing counts by it."""
        one = Unverified(text, self._clock.now(), names, run)
        results: list[Result] = []
        failed: set[int] = set()
        for step in self.steps:
            problem, waits_for = "", tuple(number for number in step.needs if number in failed)
            if not waits_for:
                try:
                    step.check(one)
                except Flaw as flaw:
                    problem = str(flaw)
            if problem or waits_for:
                failed.add(step.number)
            results.append(Result(step, problem, waits_for))
        return one, results

    def _length(self, one: Unverified) -> None:
        if len(one.text) > MAX_ATTESTATION:  # 1
            raise Flaw(f"it is longer than {MAX_ATTESTATION} characters")

    def _open(self, one: Unverified) -> None:
        one.form = form_of(one.text)
        one.form.open()

    def _parse(self, one: Unverified) -> None:
        one.claims = one.form.parse()

    def _attester(self, one: Unverified) -> None:
        iss = one.claims.get("iss")
        attester = self._attesters.get(iss) if isinstance(iss, str) else None
        if attester is None:  # 6
            raise Flaw(f"iss {shown(iss)} is no attester that is configured here")
        one.attester = attester

    def _signature(self, one: Unverified) -> None:
        one.key = one.form.signer()

    def _one_audience(self, one: Unverified) -> None:
        aud = one.claims.get("aud")
        if isinstance(aud, list) and len(aud) == 1:
            aud = aud[0]
        if aud != self._audience:  # 10
            raise Flaw(f"aud {shown(aud)} is not this gateway alone, which is {self._audience}")

    def _times(self, one: Unverified) -> None:
        iat, exp = one.claims.get("iat"), one.claims.get("exp")
        if not _is_time(iat) or not _is_time(exp) or not _is_time(one.claims.get("nbf", 0)):  # 11
            raise Flaw("iat or exp is missing, or one of iat, exp and nbf is not a whole number of seconds")
        if iat >= exp:  # 11
            raise Flaw("it ends before it begins (iat, exp)")
        one.iat, one.exp = iat, exp

    def _begun(self, one: Unverified) -> None:
        nbf = one.claims.get("nbf", 0)
        begins = max(one.iat, nbf) if _is_time(nbf) else one.iat
        if begins > one.now + self._skew:  # 11
            raise Flaw(f"it is not valid before {rfc3339(begins)}; compare the clocks")

    def _lifetime(self, one: Unverified) -> None:
        if one.exp - one.iat > one.attester.max_lifetime:  # 12
            longest = f"{one.attester.max_lifetime:g} s (max_lifetime)"
            raise Flaw(f"it lives for {one.exp - one.iat} s, and those of {one.attester.name} for {longest} at most")

    def _names(self, one: Unverified) -> None:
        claims = one.claims
        read_name(claims, "sub")
        for name in ("jti", *(name for name in ("evidence_hash", "prev") if name in claims)):
            if len(read_name(claims, name)) > _MAX_NAME:  # 13
                raise Flaw(f"{name} is longer than {_MAX_NAME} characters")
        run, prev = claims.get("run"), claims.get("prev")
        if not isinstance(run, str) or not RUN_ID.fullmatch(run):  # 13
            raise Flaw("run is not an id of 1 to 128 letters, digits and ._~:@+=-")
        if prev is not None and not _SHA256.fullmatch(str(prev)):  # 13
            raise Flaw("prev is not the SHA-256 of an attestation in base64url")

    def _outcome(self, one: Unverified) -> None:
        step, outcome = one.claims.get("step"), one.claims.get("outcome")
        if not isinstance(step, str) or not STEP_NAME.fullmatch(step):  # 14
            raise Flaw("step is not a name of 1 to 128 letters, digits, dots, dashes and underscores")
        if not isinstance(outcome, str) or outcome not in OUTCOMES:  # 14
            raise Flaw(f"outcome {shown(outcome)} is none of {', '.join(OUTCOMES)}")

    def _subject(self, one: Unverified) -> None:
        subject = one.claims.get("subject")
        if not isinstance(subject, dict) or len(subject) > MAX_MEMBERS:  # 15
            raise Flaw(f"subject is not an object of at most {MAX_MEMBERS} members")
        for name, value in subject.items():
            if not _is_exact(value):  # 15
                raise Flaw(
                    f"subject.{shown(name)} is {shown(value)}: only strings, booleans and integers within ±2^53 are "
                    "the same for every reader; write an amount in minor units, or as a string"
                )
        if len(subject_text(subject).encode()) > MAX_SUBJECT:  # 15
            raise Flaw(f"subject is larger than {MAX_SUBJECT} bytes")
        one.subject = subject

    def _may_attest(self, one: Unverified) -> None:
        step = one.claims["step"]
        if step not in one.attester.may_attest:  # 16
            allowed = ", ".join(sorted(one.attester.may_attest))
            raise Flaw(f"{one.attester.name} may not attest the step {step}, only {allowed} (may_attest)")

    def _for_agent(self, one: Unverified) -> None:
        if one.names is not None and one.claims["sub"] not in one.names:  # 17
            raise Flaw(f"it is for agent {shown(one.claims['sub'])}, and this is {' or '.join(one.names)}")

    def _of_run(self, one: Unverified) -> None:
        if one.run is not None and one.claims["run"] != one.run:  # 18
            raise Flaw(f"it is of run {one.claims['run']}, and this is {one.run}")

    def _expiry(self, one: Unverified) -> None:
        if one.now >= one.exp + self._skew:  # 19
            raise Flaw(f"it expired at {rfc3339(one.exp)}")


def _is_time(value: object) -> TypeGuard[int]:
    """Whether it is epoch seconds; a bool is an int to isinstance."""
    return type(value) is int and 0 <= value <= MAX_TIME


def _is_exact(value: object) -> bool:
    """Whether every reader of JSON sees the same value."""
    return isinstance(value, str | bool) or (type(value) is int and -_EXACT <= value <= _EXACT)


def _step_of(one: Unverified) -> str:
    """The step that it names, as far as that could be read."""
    step = getattr(one, "claims", {}).get("step")
    return step if isinstance(step, str) and STEP_NAME.fullmatch(step) else ""
