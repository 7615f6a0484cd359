"""An attester with a key of its own: it signs what it is told, well-formed or hostile, as JWS and as DSSE envelope.

It shares no code with the gateway, so that the two cannot agree on a mistake.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.simulator.issuer import Issuer, Members, changed

AGENT = "spiffe://acme.example/agent/procurement"
ORDER: Mapping[str, str | int | bool] = {"order_id": "A1", "amount": 100, "currency": "EUR"}
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
_RESULTS = {"passed": "PASSED", "failed": "FAILED", "warned": "WARNED"}
_numbers = itertools.count(1)


@dataclass
class Attester:
    """One attester with one key; `attest` makes a good attestation unless told otherwise.

    A claim, a header member or an envelope member that is changed to `...` is left out.
    """

    name: str = "fraud-service"
    audience: str = "https://gateway.example"
    alg: str = "EdDSA"
    kid: str = ""  # by default made of its name
    signer: Issuer = field(init=False)

    def __post_init__(self) -> None:
        """Make its key."""
        self.signer = Issuer(name=self.name, alg=self.alg, kid=self.kid or f"{self.name}-1")

    def jwks(self) -> bytes:
        """The file that the gateway reads."""
        return self.signer.jwks()

    def header(self, **changes: object) -> dict[str, object]:
        """A good header."""
        return self.signer.header(**{"typ": "wf-attestation+jwt", **changes})

    def claims(
        self,
        *,
        step: object = "fraud-check",
        outcome: object = "passed",
        subject: object = ORDER,
        agent: object = AGENT,
        run: object = "r1",
        now: float | None = None,
        **changes: object,
    ) -> dict[str, object]:
        """Good claims for five minutes, each time with another `jti`."""
        start = int(time.time() if now is None else now)
        good: dict[str, object] = {
            "iss": self.name,
            "aud": self.audience,
            "jti": f"att-{next(_numbers)}",
            "iat": start,
            "exp": start + 300,
            "sub": agent,
            "run": run,
            "step": step,
            "outcome": outcome,
            "subject": subject,
        }
        return changed(good, changes)

    def attest(self, **claims: Any) -> str:  # noqa: ANN401 - as `claims`
        """A signed attestation (compact JWS); takes what `claims` takes."""
        return self.sign(self.header(), self.claims(**claims))

    def sign(self, header: Members, claims: Members) -> str:
        """Sign these members."""
        return self.signer.sign(header, claims)

    def dsse(self, *, envelope: Members | None = None, statement: Members | None = None, **claims: Any) -> str:  # noqa: ANN401 - as `claims`
        """The same as an in-toto statement (`test-result/v0.1`) in a DSSE envelope; takes what `claims` takes."""
        return json.dumps(self.enveloped(self.statement(statement, **claims), **(envelope or {})))

    def statement(self, changes: Members | None = None, **claims: Any) -> dict[str, object]:  # noqa: ANN401 - as above
        """The in-toto statement: what it is about by its digest, the result, and the claims in the predicate."""
        said = self.claims(**claims)
        outcome = str(said.pop("outcome", "passed"))
        canonical = json.dumps(said.get("subject"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
        predicate = {
            "result": _RESULTS.get(outcome, outcome),
            "configuration": [{"name": "checks.yaml"}],
            "workflowAttestation": said,
        }
        return changed(
            {
                "_type": STATEMENT,
                "subject": [{"name": "subject", "digest": {"sha256": digest}}],
                "predicateType": TEST_RESULT,
                "predicate": predicate,
            },
            changes or {},
        )

    def enveloped(self, statement: Members, **changes: object) -> dict[str, object]:
        """The envelope around a statement."""
        payload = json.dumps(statement).encode()
        good: dict[str, object] = {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [self.signature(payload)],
        }
        return changed(good, changes)

    def signature(self, payload: bytes, payload_type: str = PAYLOAD_TYPE, **changes: object) -> dict[str, object]:
        """One of an envelope's signatures; an ECDSA one in DER, as in-toto's tools write it."""
        name = payload_type.encode()
        raw = self.signer.signature(b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload))
        if isinstance(self.signer.key, ec.EllipticCurvePrivateKey):
            half = len(raw) // 2
            raw = encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
        return changed({"keyid": self.signer.kid, "sig": base64.b64encode(raw).decode()}, changes)
