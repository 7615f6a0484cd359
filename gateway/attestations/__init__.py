"""Attestations: what others say that happened in a run, and whether their word counts.

`Attesters` knows who may attest what. It verifies (`verifier.py`, in numbered steps) what an agent presents or an
attester posts, in the two forms of `forms.py`; what was recorded before it judges again, since keys are taken out and
steps are no longer anybody's. A reload builds a whole new `Attesters`, so nothing outlives its keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from gateway.attestations.settings import AttesterSettings
from gateway.attestations.verifier import MAX_ATTESTATION, Attester, NotAttested, Result, Unverified, Verifier
from gateway.core.attestation import GATEWAY, Attestation
from gateway.core.call import Head
from gateway.core.clock import Clock
from gateway.core.errors import Refusal
from gateway.core.run import RunKey
from gateway.core.sources import Sources
from gateway.identity.issue import MINTABLE
from gateway.identity.keys import KeyMistakes, key_uses, read_jwks
from gateway.identity.settings import IdentitySettings, IssuerSettings
from gateway.settings.complaints import Complaint

__all__ = ["Attesters", "AttestersMistakes", "NotAttested"]

MAX_IN_HEADER: Final = 4
MAX_HEADER: Final = MAX_ATTESTATION
"""Characters of all that are presented with one call."""


class AttestersMistakes(Exception):
    """The attesters cannot be built from their settings; `complaints` lists every reason."""

    def __init__(self, complaints: Sequence[Complaint]) -> None:
        super().__init__("\n".join(str(complaint) for complaint in complaints))
        self.complaints = tuple(complaints)


class Attesters:
    """Whose attestations count, and for which steps."""

    def __init__(self, attesters: Iterable[Attester], *, audience: str, skew: float, clock: Clock) -> None:
        """`audience` is what attestations must be made for; clocks may disagree by `skew` seconds."""
        self._attesters = {one.name: one for one in attesters}
        self._verifier = Verifier(self._attesters, audience=audience, skew=skew, clock=clock)
        self.warnings: tuple[Complaint, ...] = ()

    @classmethod
    def build(
        cls,
        settings: Sequence[AttesterSettings],
        sources: Sources,
        identity: IdentitySettings,
        clock: Clock,
    ) -> Attesters:
        """Read all key files; raises `AttestersMistakes`. `warnings` has what may be meant so.

        A key that signs agents' tokens attests nothing, so that no agent vouches for itself (W9), and nobody has the
        key of another attester. Audience and skew are those of `identity`.
        """
        complaints: list[Complaint] = []
        owners = dict(_issuer_keys(identity.issuers, sources))
        attesters: list[Attester] = []
        for one in settings:
            try:
                keys = read_jwks(sources.read(one.keys.file))
            except OSError as error:
                remedy = f"name a JWK set, or make one for development: passgate keys new --file {one.keys.file}"
                problem = f"the keys of attester {one.name} cannot be read: {error.strerror or error}"
                complaints.append(Complaint(str(one.keys.file), 1, 1, "", problem, remedy))
                continue
            except KeyMistakes as error:
                complaints += (Complaint(str(one.keys.file), 1, 1, *mistake) for mistake in error.mistakes)
                continue
            for thumbprint in sorted(keys.thumbprints):
                owner = owners.setdefault(thumbprint, f"attester {one.name}")
                if owner != f"attester {one.name}":
                    problem = f"attester {one.name} has a key that is of {owner} too ({thumbprint})"
                    complaints.append(Complaint(str(one.keys.file), 1, 1, "", problem, "give each a key of its own"))
            attesters.append(Attester(one.name, keys, frozenset(one.may_attest), one.max_lifetime))
        if complaints:
            raise AttestersMistakes(complaints)
        built = cls(attesters, audience=identity.audience, skew=identity.skew, clock=clock)
        built.warnings = tuple(_unusable(settings, attesters))
        return built

    def read_header(self, head: Head) -> list[str]:
        """The attestations that a request carries, unverified (RFC 9110 §5.6.1); raises `Refusal` above a limit."""
        lines = head.headers.getall("workflow-attestation", [])
        if (length := sum(map(len, lines))) > MAX_HEADER:
            raise Refusal(
                "headers_too_large",
                f"the header Workflow-Attestation has {length} characters, and {MAX_HEADER} are the most: "
                "present them beforehand, with POST /gateway/v1/attestations",
                fields={"limit": MAX_HEADER},
            )
        texts = [text for line in lines for part in line.split(",") if (text := part.strip(" \t"))]
        if len(texts) > MAX_IN_HEADER:
            raise Refusal(
                "request_malformed",
                f"the header Workflow-Attestation has {len(texts)} attestations, and {MAX_IN_HEADER} are the most: "
                "present them beforehand, with POST /gateway/v1/attestations",
                fields={"limit": MAX_IN_HEADER},
            )
        return texts

    def examine(self, text: str, names: Sequence[str] | None, run: RunKey | None) -> Attestation | NotAttested:
        """What it attests, or why it does not count; see `Verifier.verify`."""
        try:
            return self._verifier.verify(text, names, run.id if run is not None else None)
        except NotAttested as verdict:
            return verdict

    def inspect(self, text: str, names: Sequence[str] | None, run: str | None) -> tuple[Unverified, list[Result]]:
        """Everything that is wrong with one, for who operates the gateway."""
        return self._verifier.inspect(text, names, run)

    def standing(self, attestations: Iterable[Attestation]) -> tuple[tuple[Attestation, ...], tuple[NotAttested, ...]]:
        """Of all that is recorded for a run: what still counts, by its time, and why the rest does not."""
        counting: list[Attestation] = []
        fallen: list[NotAttested] = []
        links: dict[tuple[str, str], int] = {}  # when that was attested which a `prev` can name, by run
        for one in sorted(attestations, key=lambda one: (one.at, bool(one.prev))):  # a second may have both
            verdict = self._withdrawn(one) or _broken_chain(one, links)
            if verdict is None:
                counting.append(one)
                links[one.run, one.digest] = one.at
            else:
                verdict.subject = one.subject
                fallen.append(verdict)
        return tuple(counting), tuple(fallen)

    def _withdrawn(self, one: Attestation) -> NotAttested | None:
        """Why its attester's word counts no more. What the gateway saw itself stays seen."""
        attester = self._attesters.get(one.by)
        if one.by == GATEWAY:
            return None
        if attester is None:
            why = f"{one.by}, who attested {one.id}, is no attester here any more"
        elif one.step not in attester.may_attest:
            why = f"{one.by} may not attest {one.step} any more"
        elif one.key not in attester.keys.thumbprints:
            why = f"the key of {one.by} that signed {one.id} was taken out"
        else:
            return None
        return NotAttested("revoked", why, one.step)


def _broken_chain(one: Attestation, links: Mapping[tuple[str, str], int]) -> NotAttested | None:
    """Why it does not count where it names an earlier one (W18): that takes away what would open, never what closes."""
    if not one.prev or one.outcome != "passed" or links.get((one.run, one.prev), one.at + 1) <= one.at:
        return None
    detail = f"the attestation that {one.id} of {one.by} builds on (prev) does not stand in this run; present it too"
    return NotAttested("chain", detail, one.step)


def _issuer_keys(issuers: Iterable[IssuerSettings], sources: Sources) -> Iterator[tuple[str, str]]:
    """The keys that sign agents' tokens, as far as they lie in files; whoever builds identity says what is wrong."""
    for issuer in issuers:
        if issuer.keys is not None and issuer.keys.file is not None:
            try:
                keys = read_jwks(sources.read(issuer.keys.file), key_uses(issuer.kinds))
            except (OSError, KeyMistakes):
                continue
            yield from ((thumbprint, f"issuer {issuer.name}") for thumbprint in keys.thumbprints)


def _unusable(settings: Iterable[AttesterSettings], attesters: Iterable[Attester]) -> Iterator[Complaint]:
    """An empty key file withdraws all that its attester said; so does one that has other keys, which nobody means."""
    for one, built in zip(settings, attesters, strict=True):
        if not built.keys.fits(frozenset(MINTABLE)):
            problem = f"no key in it can verify an attestation of {one.name}, so none of them counts"
            yield Complaint(str(one.keys.file), 1, 1, "", problem, f"put keys there for {' or '.join(MINTABLE)}")
