"""Real `Attesters` over simulated ones, with one word for each thing that a test asks of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.attestations import Attesters, NotAttested
from gateway.attestations.settings import AttesterKeys, AttesterSettings
from gateway.core.attestation import Attestation
from gateway.core.run import RunKey
from gateway.core.sources import KeptSources
from gateway.identity.settings import IdentitySettings, IssuerSettings, KeySettings
from tests.simulator.attester import AGENT, Attester
from tests.simulator.clock import SetClock
from tests.simulator.issuer import Issuer

STEPS: Mapping[str, tuple[str, ...]] = {"fraud-service": ("fraud-check", "limit-check"), "auditor": ("audit",)}
NAMES = (AGENT, "procurement")
RUN = RunKey("https://issuer.example", AGENT, "r1")


def key_file(name: str) -> Path:
    """Where somebody's keys lie."""
    return Path("keys", f"{name}.json")


def attester_settings(attester: Attester, max_lifetime: float = 3600.0) -> AttesterSettings:
    """What an operator writes about this attester."""
    steps = STEPS.get(attester.name, ("fraud-check",))
    keys = AttesterKeys(file=key_file(attester.name))
    return AttesterSettings(name=attester.name, keys=keys, may_attest=steps, max_lifetime=max_lifetime)


def identity_settings(*issuers: Issuer) -> IdentitySettings:
    """Whose tokens count beside."""
    written = [IssuerSettings(name=one.name, iss=one.iss, keys=KeySettings(file=key_file(one.name))) for one in issuers]
    return IdentitySettings(audience="https://gateway.example", issuers=tuple(written))


class Board:
    """The attesters, and a clock; `files` are other key files than theirs."""

    def __init__(
        self,
        *attesters: Attester,
        clock: SetClock,
        settings: Sequence[AttesterSettings] | None = None,
        files: Mapping[str, bytes] | None = None,
        issuers: Sequence[Issuer] = (),
    ) -> None:
        self.clock = clock
        known = {str(key_file(one.name)): one.jwks() for one in (*(one.signer for one in attesters), *issuers)}
        self.attesters = Attesters.build(
            settings if settings is not None else [attester_settings(one) for one in attesters],
            KeptSources({**known, **(files or {})}, {}, {}),
            identity_settings(*issuers),
            clock,
        )

    def counts(self, text: str, names: Sequence[str] | None = NAMES, run: RunKey | None = RUN) -> Attestation:
        """What it attests."""
        verdict = self.attesters.examine(text, names, run)
        assert isinstance(verdict, Attestation), verdict
        return verdict

    def refuses(
        self, text: str, code: str, names: Sequence[str] | None = NAMES, run: RunKey | None = RUN
    ) -> NotAttested:
        """Why it does not count."""
        verdict = self.attesters.examine(text, names, run)
        assert isinstance(verdict, NotAttested), verdict
        assert (verdict.code, bool(verdict.detail)) == (code, True), verdict
        return verdict
