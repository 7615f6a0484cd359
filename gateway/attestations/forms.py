"""The two forms that an attestation comes in, and how each says the same: who attests what, and by which signature.

A compact JWS (RFC 7515) says it in its claims. An in-toto statement (v1, `test-result/v0.1`) in a DSSE envelope says
the outcome as `predicate.result` and the rest as members of `predicate.workflowAttestation`, which are named as the
claims are; none of them has another place. What it is about stands in it twice: as `subject` there, and as in-toto
wants it, by digest: one of the statement's subjects has the SHA-256 of that subject in its canonical JSON (RFC 8785).
A result of `WARNED` is no pass: whoever lets warnings pass says `PASSED`.

What is wrong is raised as `Flaw`. Lines that refuse end with the number of their step in `verifier.py`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final, Protocol

from gateway.core.attestation import subject_text
from gateway.identity.algorithms import ALGORITHMS
from gateway.identity.dsse import Envelope, read_envelope, signer
from gateway.identity.issue import MINTABLE
from gateway.identity.jose import base64url, from_base64url, from_json
from gateway.identity.keys import KeySet, PublicKey
from gateway.identity.kinds import Flaw, media_type, shown

TYP: Final = "wf-attestation+jwt"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://in-toto.io/attestation/test-result/v0.1"
CLAIMS: Final = "workflowAttestation"
RESULTS: Final = {"PASSED": "passed", "WARNED": "failed", "FAILED": "failed"}

_FOREIGN: Final = re.compile(r"crit|jku|jwk|x5.*", re.DOTALL)


class Form(Protocol):
    """An attestation as it was written; each method is a step and may use what the ones before it have found."""

    members: Mapping[str, object]  # what is signed: of a JWS the claims, of an envelope the statement

    def open(self) -> None:
        """2: its parts."""
        ...

    def parse(self) -> Mapping[str, object]:
        """3: its claims."""
        ...

    def check_header(self) -> None:
        """4: nothing that would have it verified by rules or keys of its own."""
        ...

    def check_type(self) -> None:
        """5: an attestation, and nothing else that is signed."""
        ...

    def check_algorithm(self) -> None:
        """7: one that may be used."""
        ...

    def choose_key(self, keys: KeySet) -> None:
        """8: the key of its attester that must have signed it."""
        ...

    def signer(self) -> PublicKey:
        """9: the key that has signed it."""
        ...

    @property
    def digest(self) -> str:
        """Its name for later ones (`prev`): SHA-256, base64url."""
        ...


class CompactJws:
    """`header.claims.signature`, each in base64url."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._segments: tuple[bytes, bytes, bytes]
        self._key: PublicKey
        self.header: Mapping[str, object]
        self.members: Mapping[str, object]

    def open(self) -> None:
        """See `Form`."""
        try:
            head, body, tail = map(from_base64url, self._text.split("."))
        except ValueError:
            raise Flaw("it is not three canonical base64url segments, nor a DSSE envelope") from None  # 2
        self._segments = head, body, tail

    def parse(self) -> Mapping[str, object]:
        """See `Form`."""
        self.header, self.members = (_json(data, name) for data, name in zip(self._segments, _PARTS, strict=False))
        return self.members

    def check_header(self) -> None:
        """See `Form`."""
        for name in self.header:
            if _FOREIGN.fullmatch(name):
                raise Flaw(f"its header has {shown(name)}")  # 4

    def check_type(self) -> None:
        """See `Form`."""
        typ = self.header.get("typ")
        if not isinstance(typ, str) or media_type(typ) != TYP:
            raise Flaw(f"typ {shown(typ)} is not {TYP}")  # 5

    def check_algorithm(self) -> None:
        """See `Form`."""
        alg = self.header.get("alg")
        if not isinstance(alg, str) or alg not in MINTABLE:
            raise Flaw(f"alg {shown(alg)} is none of {', '.join(MINTABLE)}")  # 7

    def choose_key(self, keys: KeySet) -> None:
        """See `Form`."""
        kid, alg = self.header.get("kid"), str(self.header["alg"])
        key = keys.find(kid, alg) if kid is None or isinstance(kid, str) else None
        if key is None:
            raise Flaw(f"its attester has no key for kid {shown(kid)} and alg {alg}, or no longer")  # 8
        self._key = key

    def signer(self) -> PublicKey:
        """See `Form`."""
        signed = self._text[: self._text.rindex(".")].encode()
        if not ALGORITHMS[str(self.header["alg"])].verifies(signed, self._key.key, self._segments[2]):
            raise Flaw(f"the signature is not that of its attester's key {self._key.id}")  # 9
        return self._key

    @property
    def digest(self) -> str:
        """See `Form`: of the whole text."""
        return _sha256(self._text.encode())


_PARTS: Final = ("header", "claims")


class Statement:
    """An in-toto statement in a DSSE envelope, as JSON text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._envelope: Envelope
        self._keys: KeySet
        self.members: Mapping[str, object]

    def open(self) -> None:
        """See `Form`: an envelope of another type is none, whatever its payload says."""
        try:
            self._envelope = read_envelope(self._text.encode("utf-8", "surrogatepass"), PAYLOAD_TYPE)
        except ValueError as error:
            raise Flaw(f"the envelope {error}") from None  # 2

    def parse(self) -> Mapping[str, object]:
        """See `Form`: the outcome has one place, and it is not among the claims."""
        self.members = _json(self._envelope.payload, "statement")
        predicate = _object(self.members.get("predicate"))
        claims, result = _object(predicate.get(CLAIMS)), predicate.get("result")
        if not claims:
            raise Flaw(f"predicate.{CLAIMS} is not an object with the claims of an attestation")  # 3
        if not isinstance(result, str) or result not in RESULTS:
            raise Flaw(f"predicate.result {shown(result)} is none of {', '.join(RESULTS)}")  # 3
        outcome = RESULTS[result]
        if claims.get("outcome", outcome) != outcome:
            raise Flaw(f"predicate.{CLAIMS}.outcome says something else than predicate.result")  # 3
        return {**claims, "outcome": outcome}

    def check_header(self) -> None:
        """See `Form`: an envelope has no header."""

    def check_type(self) -> None:
        """See `Form`."""
        for name, wanted in (("_type", STATEMENT), ("predicateType", PREDICATE)):
            if self.members.get(name) != wanted:
                raise Flaw(f"{name} {shown(self.members.get(name))} is not {wanted}")  # 5
        subject = _object(_object(_object(self.members["predicate"]).get(CLAIMS)).get("subject"))
        digest = hashlib.sha256(subject_text(subject).encode()).hexdigest()  # type: ignore[arg-type]  # judged in step 15
        subjects = self.members.get("subject")
        named = [_object(_object(one).get("digest")) for one in subjects] if isinstance(subjects, list) else []
        if all(one.get("sha256") != digest for one in named):
            raise Flaw(f"no subject of the statement has the sha256 {digest} of predicate.{CLAIMS}.subject")  # 5

    def check_algorithm(self) -> None:
        """See `Form`: the key says it."""

    def choose_key(self, keys: KeySet) -> None:
        """See `Form`: several may have signed it, and only who verifies tells."""
        self._keys = keys

    def signer(self) -> PublicKey:
        """See `Form`: whoever else has signed it too makes no difference."""
        key = signer(self._envelope, self._keys)
        if key is None:
            raise Flaw("none of the envelope's signatures is that of its attester's key")  # 9
        return key

    @property
    def digest(self) -> str:
        """See `Form`: of the statement, since envelopes around it can be spelled in many ways."""
        return _sha256(self._envelope.payload)


def form_of(text: str) -> Form:
    """How it is written."""
    return Statement(text) if text.lstrip(" \t\r\n").startswith("{") else CompactJws(text)


def _sha256(data: bytes) -> str:
    return base64url(hashlib.sha256(data).digest())


def _json(data: bytes, what: str) -> Mapping[str, object]:
    try:
        return from_json(data)
    except ValueError as error:
        raise Flaw(f"its {what} cannot be read: it {error}") from None  # 3


def _object(value: object) -> Mapping[str, object]:
    """What should be an object; nothing where it is none."""
    return value if isinstance(value, dict) else {}
