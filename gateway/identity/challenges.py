"""What a 401 tells the client to bring: the one place that writes `WWW-Authenticate`.

Both schemes are offered every time, each in a header of its own: `Bearer` (RFC 6750 §3) with the
address of this gateway's metadata (RFC 9728 §5.1), and `DPoP` (RFC 9449 §7.1) with the algorithms.
What is wrong with a credential is said for both. What is wrong with a proof is said for `DPoP`, which
then comes first: some clients look for `use_dpop_nonce` in the first challenge alone.
"""

from __future__ import annotations

from typing import Final

from gateway.core.errors import Refusal
from gateway.identity.algorithms import ALGORITHMS

METADATA: Final = "/.well-known/oauth-protected-resource"

_BEARER: Final = 'Bearer realm="passgate"'
_ALGS: Final = f'algs="{" ".join(ALGORITHMS)}"'
_OF_TOKENS: Final = {  # without an entry nothing was wrong yet, and there is no error (RFC 6750 §3.1)
    "identity_invalid": ("invalid_token", "The credential is not valid here"),
    "identity_expired": ("invalid_token", "The credential expired"),
    "identity_conflict": ("invalid_request", "More than one credential"),
    "proof_invalid": ("invalid_token", "The token and the proof of possession do not go together"),
}
_OF_PROOFS: Final = {  # by the public field `error` of a `proof_invalid`
    "invalid_dpop_proof": "The proof of possession does not hold for this request",
    "use_dpop_nonce": "The proof of possession needs the nonce in DPoP-Nonce",
}


def challenges(refusal: Refusal, origin: str) -> list[tuple[str, str]]:
    """The challenges of a 401; `origin` is how the client reached this gateway (`https://gateway.example`)."""
    metadata = f'resource_metadata="{origin}{METADATA}"'
    error = str(refusal.fields.get("error", ""))
    if refusal.code == "proof_invalid" and error in _OF_PROOFS:
        found = [f"DPoP {_parameters(error, _OF_PROOFS[error])}{_ALGS}", f"{_BEARER}, {metadata}"]
    else:
        said = _parameters(*_OF_TOKENS.get(refusal.code, ("", "")))
        found = [f"{_BEARER}, {said}{metadata}", f"DPoP {said}{_ALGS}"]
    return [("WWW-Authenticate", challenge) for challenge in found]


def _parameters(error: str, description: str) -> str:
    return f'error="{error}", error_description="{description}", ' if error else ""
